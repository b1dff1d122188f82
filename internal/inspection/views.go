package inspection

import (
	"bytes"
	"slices"
	"sort"
	"sync"
	"unicode/utf16"
	"unicode/utf8"
)

// Limits of decoding. Each view costs one more pass over the input.
const (
	maxViews = 6 // decoded texts that are looked at, of all kinds together
	maxDepth = 3 // decodings on top of each other: JSON in JSON in JSON
)

// views are reused: decoding a long prompt would otherwise keep the collector busy.
var views = sync.Pool{New: func() any { return new(view) }}

// release gives v back, unless it grew so large that it is better dropped.
func (v *view) release() {
	if cap(v.text) <= 4<<20 {
		clear(v.text) // it may hold what must not stay in memory
		v.text, v.anchors, v.parent = v.text[:0], v.anchors[:0], nil
		views.Put(v)
	}
}

// view is a decoded form of the input. Between two anchors positions run in
// step; an anchor stands before and after every decoded escape.
type view struct {
	text    []byte
	anchors []anchor
	parent  *view // nil: decoded from the input itself
	depth   int
	lines   bool // all that was decoded are breaks of lines, and tabs
}

type anchor struct{ decoded, source int }

// source maps a position of the view to the input: for a position inside what
// one escape gave, its start, or its end when end is set.
func (v *view) source(pos int, end bool) int {
	for ; v != nil; v = v.parent {
		pos = v.above(pos, end)
	}
	return pos
}

func (v *view) above(pos int, end bool) int {
	i := sort.Search(len(v.anchors), func(i int) bool { return v.anchors[i].decoded > pos }) - 1
	if i < 0 {
		return pos
	}
	a := v.anchors[i]
	opens := i%2 == 0 // anchors come in pairs: where an escape begins, where it ends
	if !opens || a.decoded == pos {
		// Of an end, what stands before pos counts: an escape that begins here is outside.
		return a.source + pos - a.decoded
	}
	if end {
		return v.anchors[i+1].source
	}
	return a.source
}

// scanAll returns what stands in b, and behind escapes, encodings and disguise.
// What a text says whose line breaks are escaped is said by its decoded form:
// in the text itself only known values are looked for.
func scanAll(b []byte, table *knownTable, kinds Kinds) []Finding {
	queue := decodings(b, nil)
	found := scanLiteral(b, table, kinds, queue, nil)
	for n := 0; n < len(queue) && n < maxViews; n++ {
		v := queue[n]
		var inner []*view
		if v.depth < maxDepth && len(queue) < maxViews {
			inner = decodings(v.text, v)
		}
		from := len(found)
		found = scanLiteral(v.text, table, kinds, inner[:min(len(inner), max(0, maxViews-len(queue)))], found)
		for i := from; i < len(found); i++ {
			found[i].Start, found[i].End = v.source(found[i].Start, false), v.source(found[i].End, true)
		}
		queue = append(queue, inner...)
	}
	for _, v := range queue {
		v.release()
	}
	return found
}

// scanLiteral appends what stands in b, the decoded forms of which are looked at besides.
func scanLiteral(b []byte, table *knownTable, kinds Kinds, decoded []*view, found []Finding) []Finding {
	if len(decoded) > 0 && decoded[0].lines {
		if kinds&Secrets != 0 {
			found = scanKnown(b, table, found)
		}
		return found
	}
	return scanView(b, table, kinds, found)
}

// decoders are the ways to decode, each of which leaves no anchor if there was
// nothing for it.
var decoders = []func(*view, []byte){(*view).unescape, (*view).unpercent, (*view).unmask, (*view).unpack}

func decodings(b []byte, parent *view) []*view {
	depth := 1
	if parent != nil {
		depth = parent.depth + 1
	}
	var out []*view
	for _, decode := range decoders {
		v := views.Get().(*view)
		v.parent, v.depth, v.lines = parent, depth, false
		if decode(v, b); len(v.anchors) > 0 {
			out = append(out, v)
		} else {
			v.release()
		}
	}
	return out
}

// unescape decodes the escapes of JSON strings (RFC 8259 section 7) wherever
// they stand in b; what is no escape stays as it is.
func (v *view) unescape(b []byte) {
	text, at := v.text, 0
	v.lines = true
	for {
		i := bytes.IndexByte(b[at:], '\\')
		if i < 0 {
			break
		}
		text = append(slices.Grow(text, len(b)-at), b[at:at+i]...)
		at += i
		begin := len(text)
		var n int
		if text, n = appendEscape(text, b[at:]); n > 1 {
			v.lines = v.lines && n == 2 && (b[at+1] == 'n' || b[at+1] == 't' || b[at+1] == 'r')
			v.anchors = append(v.anchors, anchor{begin, at}, anchor{len(text), at + n})
		} else {
			v.lines = false
		}
		at += n
	}
	if len(v.anchors) > 0 {
		text = append(text, b[at:]...)
	}
	v.text = text
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

// unpercent decodes percent-encoding (RFC 3986 section 2.1) wherever it stands in b.
func (v *view) unpercent(b []byte) {
	text, at, from := v.text, 0, 0
	for {
		i := bytes.IndexByte(b[at:], '%')
		if i < 0 {
			break
		}
		at += i
		if len(b)-at < 3 || hexDigit(b[at+1]) < 0 || hexDigit(b[at+2]) < 0 {
			at++
			continue
		}
		text = append(slices.Grow(text, len(b)-from), b[from:at]...)
		v.anchors = append(v.anchors, anchor{len(text), at}, anchor{len(text) + 1, at + 3})
		text = append(text, byte(hexDigit(b[at+1])<<4|hexDigit(b[at+2])))
		at += 3
		from = at
	}
	if len(v.anchors) > 0 {
		text = append(text, b[from:]...)
	}
	v.text = text
}
