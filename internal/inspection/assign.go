package inspection

import "bytes"

// Values assigned to telling names: password=…, "api_key": "…", --token …,
// <secret>…</secret>.

// strength says how much a name alone proves.
type strength int

const (
	weak   strength = iota // "token", "secret": often a name or a count; the value must look random
	strong                 // "password", "api_key": a value that is more than a plain word is enough
)

// assigned returns the match function for a name of n bytes.
func assigned(n int, s strength) func(b []byte, i int) (int, int, bool) {
	return func(b []byte, i int) (int, int, bool) {
		begin, ok := valueAfter(b, i, i+n)
		if !ok || begin >= len(b) {
			return 0, 0, false
		}
		if q := b[begin]; q == '"' || q == '\'' || q == '`' {
			begin++
			end := quotedEnd(b, begin, q)
			return begin, end, looksSecret(b[begin:end], s, true)
		}
		end := bareEnd(b, begin)
		if end < len(b) && (b[end] == '(' || b[end] == '[' && markLen(b[end:]) == 0) {
			return 0, 0, false // a call or an index in code
		}
		return begin, end, looksSecret(b[begin:end], s, false)
	}
}

// valueAfter returns where the value of a name that ends at i begins.
func valueAfter(b []byte, start, i int) (int, bool) {
	const spaces = 8
	skip := func() {
		for stop := min(len(b), i+spaces); i < stop && (b[i] == ' ' || b[i] == '\t'); i++ {
		}
	}
	if i < len(b) && (b[i] == '"' || b[i] == '\'' || b[i] == '`') {
		i++
	} else if i < len(b) && b[i] == ' ' && start >= 2 && option(b[:start]) {
		skip()
		return i, true
	}
	skip()
	if i >= len(b) {
		return 0, false
	}
	switch b[i] {
	case ':', '=':
		for stop := min(len(b), i+3); i < stop && (b[i] == ':' || b[i] == '=' || b[i] == '>'); i++ {
		}
	case '>':
		i++
	default:
		return 0, false
	}
	skip()
	return i, true
}

// option reports whether b ends in the beginning of a command-line option.
func option(b []byte) bool {
	i := len(b)
	for i > 0 && len(b)-i < 32 && (alnum[b[i-1]] || b[i-1] == '-' || b[i-1] == '_') {
		i--
	}
	return bytes.HasPrefix(b[i:], []byte("--"))
}

const longestValue = 1024

// quotedEnd returns where the quoted value that begins at i ends: before its
// closing quote, a line break, or after longestValue bytes.
func quotedEnd(b []byte, i int, quote byte) int {
	stop := min(len(b), i+longestValue)
	for i < stop && b[i] != quote && b[i] != '\n' {
		if b[i] == '\\' && i+1 < stop {
			i++
		}
		i++
	}
	return i
}

// bareEnd returns where the unquoted value that begins at i ends.
func bareEnd(b []byte, i int) int {
	stop := min(len(b), i+longestValue)
	for i < stop {
		if bareChars[b[i]] {
			i++
		} else if n := markLen(b[i:]); n > 0 {
			i += n // what was hidden before does not end a value
		} else {
			break
		}
	}
	for i < stop && b[i] == '=' { // base64 padding
		i++
	}
	return i
}

var bareChars = func() *class {
	var c class
	for i := 0x21; i < 0x100; i++ {
		c[i] = i != 0x7f && !bytes.ContainsRune([]byte(`"'<>()[]{},;:=\&|`+"`"), rune(i))
	}
	return &c
}()

// looksSecret reports whether v, the value of a telling name, is worth hiding.
// What Redact wrote does not count.
func looksSecret(v []byte, s strength, quoted bool) bool {
	v = withoutMarkers(v)
	if len(v) < 8 || distinct(v) < 5 || placeholder(v) || identifier(v) {
		return false
	}
	digits, letters := count(v, isDigit), count(v, isLetter)
	if s == strong && quoted {
		mixed := count(v, isLower) > 0 && count(v, isUpper) > 0
		symbols := len(v) - digits - letters - count(v, isJoint)
		return bytes.IndexByte(v, ' ') < 0 && (digits > 0 || mixed || symbols > 0)
	}
	if bytes.IndexByte(v, ' ') >= 0 || digits == 0 || letters == 0 {
		return false
	}
	if s == strong {
		return entropy(v) >= 2.5
	}
	return len(v) >= 16 && entropy(v) >= 3 && !nameLike(v)
}

func withoutMarkers(v []byte) []byte {
	marks := markers(v)
	if len(marks) == 0 {
		return v
	}
	var out []byte
	at := 0
	for _, m := range marks {
		out = append(out, v[at:m.Start]...)
		at = m.End
	}
	return append(out, v[at:]...)
}

// placeholder reports whether v stands for a value that is elsewhere.
func placeholder(v []byte) bool {
	switch v[0] {
	case '$', '{', '<', '%':
		return true
	}
	for _, p := range []string{"secret://", "env:", "file:", "http://", "https://", "process.env", "os.environ", "os.Getenv"} {
		if bytes.HasPrefix(v, []byte(p)) {
			return true
		}
	}
	return false
}

// identifier reports whether v has the form of our own identifiers
// ("key_06h0aqqx65vv9fj9brqbwvdcbc"): they name credentials and are none.
func identifier(v []byte) bool {
	const body = 26
	at := len(v) - body - 1
	return at >= 2 && at <= 5 && v[at] == '_' && count(v[:at], isLower) == at && run(v, at+1, idBody, body) == len(v)
}

func isJoint(c byte) bool {
	return c == '-' || c == '_' || c == '.' || c == '/' || c == ':' || c == ' '
}

// nameLike reports whether b is words and numbers with separators between
// them, as names of things are: "openai-key-2026", "ledger.db.2".
func nameLike(b []byte) bool {
	var digit, letter, joints bool
	for _, c := range b {
		switch {
		case isJoint(c):
			digit, letter, joints = false, false, true
		case isDigit(c):
			digit = true
		case isLetter(c):
			letter = true
		default:
			return false
		}
		if digit && letter {
			return false
		}
	}
	return joints
}
