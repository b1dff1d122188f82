package inspection

import (
	"bytes"
	"unicode/utf16"
	"unicode/utf8"
)

// replace puts plain in place of what stands in b[from:to], in the piece p.
func (v *view) replace(b []byte, p piece, from, to int, plain ...byte) {
	v.upto(b, p, from)
	v.anchors = append(v.anchors, anchor{len(v.text), from}, anchor{len(v.text) + len(plain), to})
	v.text = append(v.text, plain...)
	v.copied = to
}

// upto copies what stands before i. What is far from it and from the last
// escape is left out, unless all escapes so far are breaks of lines: then the
// view stands for the whole.
func (v *view) upto(b []byte, p piece, i int) {
	if !v.open || i-v.copied > 2*v.around && !v.lines {
		v.leave(b, p, i)
	}
	v.text = append(v.text, b[v.copied:i]...)
}

// leave begins a new piece before i, if something is to be left out.
func (v *view) leave(b []byte, p piece, i int) {
	begin := p.start
	if !v.lines {
		begin = backToSpace(b, p.start, i-v.around)
	}
	if v.open {
		end := onToSpace(b, v.copied+v.around, p.end)
		if begin <= end {
			return
		}
		v.close(b, end, false)
	}
	v.begin(begin, p.first && begin == p.start)
}

// begin opens a piece that begins at i of the source.
func (v *view) begin(i int, first bool) {
	v.anchors = append(v.anchors, anchor{len(v.text), v.copied})
	if len(v.text) > 0 {
		v.text = append(v.text, '\n') // a place of its own, that is in no piece
	}
	v.anchors = append(v.anchors, anchor{len(v.text), i})
	v.pieces = append(v.pieces, piece{start: len(v.text), first: first})
	v.open, v.copied = true, i
}

// close copies the source up to end and ends the piece there.
func (v *view) close(b []byte, end int, last bool) {
	v.text = append(v.text, b[v.copied:end]...)
	p := &v.pieces[len(v.pieces)-1]
	p.end, p.last = len(v.text), last
	v.open, v.copied = false, end
}

// finish ends the last piece, if p of the source had anything to decode.
func (v *view) finish(b []byte, p piece) {
	if !v.open {
		return
	}
	end := p.end
	if !v.lines {
		end = onToSpace(b, v.copied+v.around, p.end)
	}
	v.close(b, end, p.last && end == p.end)
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\t' || c == '\r' }

// backToSpace returns where the word around i begins, from at least.
func backToSpace(b []byte, from, i int) int {
	for stop := max(from, i-longestWord); i > stop; i-- {
		if isSpace(b[i-1]) {
			return i
		}
	}
	return max(from, i)
}

// onToSpace returns where the word around i ends, to at most.
func onToSpace(b []byte, i, to int) int {
	for stop := min(to, i+longestWord); i < stop; i++ {
		if isSpace(b[i]) {
			return i
		}
	}
	return min(to, i)
}

// unescape decodes the escapes of JSON strings (RFC 8259 section 7) wherever
// they stand; what is no escape stays as it is.
func (v *view) unescape(b []byte, p piece) {
	for at := p.start; ; {
		i := bytes.IndexByte(b[at:p.end], '\\')
		if i < 0 {
			break
		}
		at += i
		var plain [utf8.UTFMax]byte
		text, n := appendEscape(plain[:0], b[at:p.end])
		v.lines = v.lines && n == 2 && (b[at+1] == 'n' || b[at+1] == 't' || b[at+1] == 'r')
		if n > 1 {
			v.replace(b, p, at, at+n, text...)
		}
		at += n
	}
	v.finish(b, p)
}

// appendEscape decodes the escape that b begins with and returns its length,
// 1 if it is none and the backslash stands for itself.
func appendEscape(text, b []byte) ([]byte, int) {
	if len(b) < 2 {
		return append(text, '\\'), 1
	}
	switch b[1] {
	case '"', '\\', '/':
		return append(text, b[1]), 2
	case 'b':
		return append(text, '\b'), 2
	case 'f':
		return append(text, '\f'), 2
	case 'n':
		return append(text, '\n'), 2
	case 'r':
		return append(text, '\r'), 2
	case 't':
		return append(text, '\t'), 2
	case 'u':
		if r := hex4(b[2:]); r >= 0 {
			if utf16.IsSurrogate(r) && len(b) >= 12 && b[6] == '\\' && b[7] == 'u' {
				if pair := utf16.DecodeRune(r, hex4(b[8:])); pair != utf8.RuneError {
					return utf8.AppendRune(text, pair), 12
				}
			}
			return utf8.AppendRune(text, r), 6
		}
	}
	return append(text, '\\'), 1
}

func hex4(b []byte) rune {
	if len(b) < 4 {
		return -1
	}
	var r rune
	for _, c := range b[:4] {
		d := hexDigit(c)
		if d < 0 {
			return -1
		}
		r = r<<4 | rune(d)
	}
	return r
}

func hexDigit(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// unpercent decodes percent-encoding (RFC 3986 section 2.1) wherever it stands.
func (v *view) unpercent(b []byte, p piece) {
	v.lines = false
	for at := p.start; ; {
		i := bytes.IndexByte(b[at:p.end], '%')
		if i < 0 {
			break
		}
		at += i
		if p.end-at < 3 || hexDigit(b[at+1]) < 0 || hexDigit(b[at+2]) < 0 {
			at++
			continue
		}
		v.replace(b, p, at, at+3, byte(hexDigit(b[at+1])<<4|hexDigit(b[at+2])))
		at += 3
	}
	v.finish(b, p)
}
