package inspection

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"math/bits"
	"slices"
	"unicode/utf8"
)

// nextWide returns where the next byte that is not ASCII stands from i on, or
// len(b).
func nextWide(b []byte, i int) int {
	const high = 0x8080808080808080
	for ; i+32 <= len(b); i += 32 {
		w := b[i : i+32 : i+32]
		if (binary.LittleEndian.Uint64(w)|binary.LittleEndian.Uint64(w[8:])|binary.LittleEndian.Uint64(w[16:])|binary.LittleEndian.Uint64(w[24:]))&high != 0 {
			break
		}
	}
	for ; i+8 <= len(b); i += 8 {
		if m := binary.LittleEndian.Uint64(b[i:]) & high; m != 0 {
			return i + bits.TrailingZeros64(m)/8
		}
	}
	for i < len(b) && b[i] < 0x80 {
		i++
	}
	return i
}

// unmask gives characters that look like ASCII, or that nobody sees, back
// their meaning: full-width and mathematical letters, the tag block, Cyrillic and
// Greek letters beside Latin ones. Zero-width characters go.
func (v *view) unmask(b []byte, p piece) {
	v.lines = false
	b = b[:p.end]
	for at := nextWide(b, p.start); at < len(b); at = nextWide(b, at) {
		r, n := utf8.DecodeRune(b[at:])
		switch plain, masked := plainOf(r, b, at, n); {
		case masked && plain != 0:
			v.replace(b, p, at, at+n, plain)
		case masked:
			v.replace(b, p, at, at+n)
		}
		at += n
	}
	v.finish(b, p)
}

// plainOf returns the ASCII character that r, n bytes at i of b, stands for; 0 for none at all.
func plainOf(r rune, b []byte, i, n int) (plain byte, masked bool) {
	switch {
	case r == utf8.RuneError:
		return 0, false
	case r >= 0xff01 && r <= 0xff5e: // full-width
		return byte(r - 0xff01 + '!'), true
	case r >= 0xe0020 && r <= 0xe007e: // tags
		return byte(r - 0xe0000), true
	case r >= 0x1d400 && r <= 0x1d6a3: // mathematical letters, in alphabets of 52
		if k := (r - 0x1d400) % 52; k < 26 {
			return byte('A' + k), true
		} else {
			return byte('a' + k - 26), true
		}
	case r >= 0x1d7ce && r <= 0x1d7ff: // mathematical digits
		return byte('0' + (r-0x1d7ce)%10), true
	case invisible(b[i:]) > 0:
		return 0, true
	}
	if r < 0x370 || r > 0x56f {
		return 0, false
	}
	c, alike := lookAlikes[r]
	beside := i > 0 && alnum[b[i-1]] || i+n < len(b) && alnum[b[i+n]]
	return c, alike && beside
}

// lookAlikes are Cyrillic and Greek letters that cannot be told from Latin ones
// (Unicode Technical Standard 39, the confusables in common fonts).
var lookAlikes = map[rune]byte{
	'а': 'a', 'е': 'e', 'о': 'o', 'р': 'p', 'с': 'c', 'х': 'x', 'у': 'y', 'і': 'i', 'ј': 'j', 'ѕ': 's', 'һ': 'h', 'ԁ': 'd', 'ԛ': 'q', 'ԝ': 'w', 'ӏ': 'l',
	'А': 'A', 'В': 'B', 'Е': 'E', 'К': 'K', 'М': 'M', 'Н': 'H', 'О': 'O', 'Р': 'P', 'С': 'C', 'Т': 'T', 'Х': 'X', 'У': 'Y', 'І': 'I', 'Ј': 'J', 'Ѕ': 'S',
	'ο': 'o', 'ν': 'v', 'α': 'a', 'ι': 'i', 'Α': 'A', 'Β': 'B', 'Ε': 'E', 'Η': 'H', 'Ι': 'I', 'Κ': 'K', 'Μ': 'M', 'Ν': 'N', 'Ο': 'O', 'Ρ': 'P', 'Τ': 'T', 'Χ': 'X', 'Υ': 'Y', 'Ζ': 'Z',
}

// The shortest run of base64 or hexadecimal digits that is decoded, and how much
// of its beginning must be text.
const minEncoded, sampled = 24, 18

// unpack decodes what is encoded as base64 or hexadecimal, if that is text.
// Encoded bytes that are no text are not looked at: the known secrets are found
// in them without. The view has the decoded texts alone.
func (v *view) unpack(b []byte, p piece) {
	v.lines = false
	b = b[:p.end]
	const word, step = 8, minEncoded - 8 // every run that is long enough holds one of these words whole
	for at := p.start; at+word <= len(b); at += step {
		if below(binary.LittleEndian.Uint64(b[at:]), '+') || !encoded(b[at:at+word]) {
			continue
		}
		start := at
		for start > p.start && at-start < step && base64Any[b[start-1]] && b[start-1] != '=' {
			start--
		}
		end, lines := encodedEnd(b, start, at)
		if end-start >= minEncoded {
			v.decode(b, start, end, lines)
		}
		at = max(at, end)
	}
	v.pieces = append(v.pieces[:0], piece{0, len(v.text), true, true})
}

// below reports whether a byte of x is less than c, which is ASCII.
func below(x, c uint64) bool {
	const each = 0x0101010101010101
	return (x-c*each)&^x&(0x80*each) != 0
}

func encoded(word []byte) bool {
	for _, c := range word {
		if !base64Any[c] || c == '=' {
			return false
		}
	}
	return true
}

// encodedEnd returns where the run that begins at from and goes on at i ends,
// with the lines that it is broken into.
func encodedEnd(b []byte, from, i int) (end int, lines bool) {
	const shortest = 60 // of the lines of an encoded block (RFC 2045, RFC 7468)
	for {
		for i < len(b) && base64Any[b[i]] && b[i] != '=' {
			i++
		}
		next := i
		if next < len(b) && b[next] == '\r' {
			next++
		}
		if i-from < shortest || next+1 >= len(b) || b[next] != '\n' || !base64Any[b[next+1]] {
			return i, lines
		}
		i, from, lines = next+1, next+1, true
	}
}

// decode appends the text that is encoded in b[start:end].
func (v *view) decode(b []byte, start, end int, lines bool) {
	code := b[start:end]
	if lines {
		code = slices.DeleteFunc(slices.Clone(code), func(c byte) bool { return c == '\n' || c == '\r' })
	}
	begin := len(v.text)
	text := slices.Grow(v.text, len(code)+1)
	if hexRun(code) && appendHex(&text, code) || appendBase64(&text, code) {
		v.anchors = append(v.anchors, anchor{begin, start}, anchor{len(text), end})
		text = append(text, '\n')
	}
	v.text = text
}

func hexRun(code []byte) bool {
	for _, c := range code[:minEncoded] {
		if hexDigit(c) < 0 {
			return false
		}
	}
	return true
}

func appendHex(text *[]byte, code []byte) bool {
	code = code[:len(code)&^1]
	for i, c := range code {
		if hexDigit(c) < 0 {
			code = code[:i&^1]
			break
		}
	}
	var first [sampled]byte
	n := min(len(code)/2, sampled)
	if _, err := hex.Decode(first[:n], code[:2*n]); err != nil || !textual(first[:n]) {
		return false
	}
	out, err := hex.AppendDecode(*text, code)
	if err != nil {
		return false
	}
	*text = out
	return true
}

func appendBase64(text *[]byte, code []byte) bool {
	if len(code)&3 == 1 {
		code = code[:len(code)-1] // no whole byte
	}
	for _, enc := range encodings {
		var first [sampled]byte
		if n, err := enc.Decode(first[:], code[:minEncoded]); err != nil || !textual(first[:n]) {
			continue
		}
		if out, err := enc.AppendDecode(*text, code); err == nil {
			*text = out
			return true
		}
	}
	return false
}

var encodings = []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding}

// textual reports whether b looks like text: printable ASCII for the most part.
func textual(b []byte) bool {
	n := 0
	for _, c := range b {
		if c >= 0x20 && c < 0x7f || c == '\n' || c == '\t' || c == '\r' {
			n++
		}
	}
	return n*10 >= len(b)*9
}
