package inspection

import "bytes"

// Values assigned to telling names: password=…, "api_key": "…", --token …,
// <secret>…</secret>.

// strength says how much a name alone proves.
type strength int

const (
	faint  strength = iota // "_key": of anything; the value must look like nothing else
	weak                   // "token", "secret": often a name or a count; the value must look random
	strong                 // "password", "api_key": a value that is more than a plain word is enough
	loose                  // a name that only secrets have
)

// assigned returns the match function for a name of n bytes.
func assigned(n int, s strength) func(b []byte, i int) (int, int, bool) {
	return func(b []byte, i int) (int, int, bool) {
		if prose(b, i, i+n) {
			return 0, 0, false
		}
		begin, ok := valueAfter(b, i, i+n)
		if !ok || begin >= len(b) || s == faint && public(b[:i]) {
			return 0, 0, false
		}
		if q := b[begin]; q == '"' || q == '\'' || q == '`' {
			end := quotedEnd(b, begin+1, q)
			if begin++; b[begin-2] == '\\' { // a string in a string ends with the next escape
				if n := bytes.IndexByte(b[begin:end], '\\'); n >= 0 {
					end = begin + n
				}
			}
			return begin, end, looksSecret(b[begin:end], s, true)
		}
		end := bareEnd(b, begin)
		if s == loose && end < len(b) && b[end] == ':' {
			end = bareEnd(b, end+1)
			return begin, end, true
		}
		if end < len(b) && (b[end] == '(' || b[end] == '[' && markLen(b[end:]) == 0) {
			return 0, 0, false // a call or an index in code
		}
		return begin, end, looksSecret(b[begin:end], s, false)
	}
}

// prose reports whether the name at start is a word of a sentence: what valueAfter
// would find too, at a price.
func prose(b []byte, start, end int) bool {
	return start > 0 && b[start-1] == ' ' && end+1 < len(b) && b[end] == ' ' && isLetter(b[end+1]) && b[end+1]|0x20 != 's'
}

// public reports whether the name that b ends in is of a key that opens nothing.
func public(b []byte) bool {
	b = b[max(0, len(b)-16):]
	for _, w := range []string{"public", "primary", "foreign", "cache", "idempotency", "partition", "sort", "unique", "composite", "natural", "row", "object", "s3", "file", "storage", "dedup", "routing", "group"} {
		if len(b) >= len(w) && bytes.EqualFold(b[len(b)-len(w):], []byte(w)) {
			return true
		}
	}
	return false
}

// valueAfter returns where the value of a name that ends at i begins. Prose
// ends here at once: after the name there must be the rest of a name, a quote,
// or the sign of an assignment.
func valueAfter(b []byte, start, i int) (int, bool) {
	const rest, spaces = 24, 16
	if i < len(b) && word[b[i]] {
		i = run(b, i, word, rest)
	}
	if i < len(b) && b[i] == ' ' && start >= 2 && option(b[:start]) {
		return skipSpaces(b, i, spaces), true
	}
	quoted := false
	for n := 0; i < len(b) && n < 4 && (b[i] == '"' || b[i] == '\'' || b[i] == '`' || b[i] == '\\' || b[i] == ']'); n++ {
		i, quoted = i+1, true
	}
	i = skipSpaces(b, i, spaces)
	if i = typeName(b, i); i >= len(b) {
		return 0, false
	}
	switch b[i] {
	case ':', '=', '?', '.', '|', '-', '+':
		at := run(b, i, operator, 5)
		if c := b[at-1]; c != '=' && c != ':' && c != '>' {
			return 0, false
		}
		i = at
	case ',':
		if !quoted {
			return 0, false
		}
		i++
	case '>':
		i = skipSpaces(b, i+1, 2*spaces)
		return escapedQuote(b, skipName(b, i)), true
	default:
		return 0, false
	}
	return escapedQuote(b, skipName(b, skipSpaces(b, i, spaces))), true
}

var operator = classOf("::==??..||++-->>")

// skipName skips a scheme before a token ("Bearer", "Token") and the name of a
// cookie that ends in _session.
func skipName(b []byte, i int) int {
	for _, w := range []string{"Bearer ", "bearer ", "Token ", "token ", "aivenv1 ", "_gitlab_session="} {
		if bytes.HasPrefix(b[i:], []byte(w)) {
			return i + len(w)
		}
	}
	return i
}

// escapedQuote skips the backslashes before a quote: JSON in a string.
func escapedQuote(b []byte, i int) int {
	at := i
	for at < len(b) && at-i < 4 && b[at] == '\\' {
		at++
	}
	if at < len(b) && (b[at] == '"' || b[at] == '\'') {
		return at
	}
	return i
}

func skipSpaces(b []byte, i, most int) int {
	for stop := min(len(b), i+most); i < stop && (b[i] == ' ' || b[i] == '\t' || b[i] == '\n' || b[i] == '\r'); i++ {
	}
	return i
}

// typeName skips the type in a declaration: var token string = "…".
func typeName(b []byte, i int) int {
	if i >= len(b) || b[i] != 's' && b[i] != 'S' && b[i] != ':' {
		return i
	}
	for _, w := range []string{"string =", "String =", "str =", ": string =", ": str ="} {
		if bytes.HasPrefix(b[i:], []byte(w)) {
			return i + len(w) - 1
		}
	}
	return i
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
	switch {
	case s == strong && quoted:
		mixed := count(v, isLower) > 0 && count(v, isUpper) > 0
		symbols := len(v) - digits - letters - count(v, isJoint)
		return bytes.IndexByte(v, ' ') < 0 && (digits > 0 || mixed || symbols > 0)
	case bytes.IndexByte(v, ' ') >= 0 || digits == 0 || letters == 0:
		return false
	case s == strong:
		return entropy(v) >= 2.5
	case s == faint:
		return len(v) >= 24 && digits >= 3 && entropy(v) >= 3.3 && !nameLike(v) && !uuid(v)
	}
	return len(v) >= 16 && entropy(v) >= 3 && !nameLike(v)
}

// uuid reports whether v has the form of RFC 9562.
func uuid(v []byte) bool {
	return len(v) == 36 && v[8] == '-' && v[13] == '-' && v[18] == '-' && v[23] == '-'
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
	if run(v, 0, classOf("xxXX**..--__##"), len(v)) == len(v) || bytes.Contains(v, []byte("xxxxxxx")) || bytes.Contains(v, []byte("XXXXXXX")) || bytes.Contains(v, []byte("EXAMPLE")) {
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
