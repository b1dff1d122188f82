package inspection

import (
	"bytes"
	"encoding/base64"
	"math"
)

// awsSecret finds the 40 characters of a secret access key close to the access
// key that begins at i.
func awsSecret(b []byte, i int) (int, int, bool) {
	const reach, length = 200, 40
	if end := run(b, i+4, upper, 17); end-i-4 != 16 || (i > 0 && alnum[b[i-1]]) {
		return 0, 0, false
	}
	from, to := max(0, i-reach), min(len(b), i+20+reach)
	for at := from; at < to; {
		if !base64Any[b[at]] {
			at++
			continue
		}
		end := run(b, at, base64Any, 2*reach)
		if at > from || from == 0 { // else its beginning is out of sight
			body := bytes.TrimLeft(b[at:end], "=")
			if len(body) == length && randomLooking(body) && entropy(body) >= 4 {
				return end - length, end, true
			}
		}
		at = end
	}
	return 0, 0, false
}

// twilio finds an API key SID: SK and 32 hexadecimal digits.
func twilio(b []byte, i int) (int, int, bool) {
	if i > 0 && alnum[b[i-1]] {
		return 0, 0, false
	}
	end := run(b, i+2, hexLower, 33)
	return i, end, end-i == 34 && (end == len(b) || !alnum[b[end]])
}

// jwt finds a compact JWS or JWE (RFC 7515, RFC 7516): base64url parts with
// dots, the first of which begins with `{"`.
func jwt(b []byte, i int) (int, int, bool) {
	const longest = 16 << 10
	if i > 0 && word[b[i-1]] {
		return 0, 0, false
	}
	end := run(b, i, dotted, longest)
	walked := end
	for end > i && b[end-1] == '.' {
		end-- // the end of a sentence
	}
	first := bytes.IndexByte(b[i:end], '.')
	if first < 12 {
		return 0, walked, false
	}
	payload := run(b, i+first+1, word, longest)
	return i, end, payload-(i+first+1) >= 8
}

// privateKey finds a PEM block (RFC 7468) of any private key, whole, or what
// there is of one that was cut off.
func privateKey(b []byte, i int) (int, int, bool) {
	const dashes, longest = "-----", 64 << 10
	at := i + len("-----BEGIN")
	label := b[at:min(len(b), at+64)]
	n := bytes.Index(label, []byte(dashes))
	if n < 0 || !bytes.Contains(label[:n], []byte("PRIVATE KEY")) {
		return 0, 0, false
	}
	at += n + len(dashes)
	body := at
	for stop := min(len(b), at+longest); at < stop && pemBody[b[at]]; at++ {
		if b[at] == '-' && bytes.HasPrefix(b[at:], []byte(dashes)) {
			break
		}
	}
	if bytes.HasPrefix(b[at:], []byte("-----END")) {
		tail := b[at+8 : min(len(b), at+8+64)]
		if n := bytes.Index(tail, []byte(dashes)); n >= 0 && !bytes.ContainsAny(tail[:n], "\"\\\n") {
			return i, at + 8 + n + len(dashes), true
		}
	}
	if at-body < 32 {
		return 0, 0, false // stopped at once, or close by
	}
	return i, at, true
}

// pemBody are base64, white space, headers, and the letters of an escaped
// line break, so that the raw form of a JSON string is covered too.
var pemBody = classOf("azAZ09++//==--::,,\\\\  \t\t\n\n\r\r")

// urlPassword finds the password in scheme://user:password@host.
func urlPassword(b []byte, i int) (int, int, bool) {
	const longest = 512
	begin := i + len("://")
	end := run(b, begin, userinfo, longest)
	at := bytes.LastIndexByte(b[begin:end], '@')
	if at < 0 {
		return 0, 0, false
	}
	colon := bytes.IndexByte(b[begin:begin+at], ':')
	if colon < 0 || colon+1 == at {
		return 0, 0, false
	}
	return begin + colon + 1, begin + at, true
}

// userinfo are all bytes but those that end the authority (RFC 3986 section
// 3.2) or stand around URLs in text and JSON.
var userinfo = func() *class {
	var c class
	for i := 0x21; i < 0x100; i++ {
		c[i] = i != 0x7f && !bytes.ContainsRune([]byte(`/?#"'<>\,;`+"`"), rune(i))
	}
	return &c
}()

// bearerValue finds the token after "Bearer ".
func bearerValue(b []byte, i int) (int, int, bool) {
	begin, ok := schemeValue(b, i, len("bearer"))
	if !ok {
		return 0, 0, false
	}
	end := run(b, begin, bearer, 16<<10)
	body := b[begin:end]
	return begin, end, len(body) >= 16 && (count(body, isDigit) > 0 || entropy(body) >= 4.2)
}

// basicValue finds the credentials after "Basic " (RFC 7617).
func basicValue(b []byte, i int) (int, int, bool) {
	begin, ok := schemeValue(b, i, len("basic"))
	if !ok {
		return 0, 0, false
	}
	end := run(b, begin, basicBody, 4<<10)
	body := bytes.TrimRight(b[begin:end], "=")
	if len(body) < 6 {
		return 0, 0, false
	}
	plain, err := base64.RawStdEncoding.DecodeString(string(body))
	return begin, end, err == nil && bytes.IndexByte(plain, ':') >= 0 && printable(plain)
}

// schemeValue returns where the value after an authentication scheme begins.
func schemeValue(b []byte, i, n int) (int, bool) {
	if i > 0 && alnum[b[i-1]] {
		return 0, false
	}
	at := i + n
	if at >= len(b) || b[at] != ' ' && b[at] != '+' {
		return 0, false
	}
	for at < len(b) && (b[at] == ' ' || b[at] == '+') && at < i+n+8 {
		at++
	}
	return at, true
}

func printable(b []byte) bool {
	for _, c := range b {
		if c < 0x20 || c == 0x7f {
			return false
		}
	}
	return true
}

func isDigit(c byte) bool  { return '0' <= c && c <= '9' }
func isLower(c byte) bool  { return 'a' <= c && c <= 'z' }
func isUpper(c byte) bool  { return 'A' <= c && c <= 'Z' }
func isLetter(c byte) bool { return isLower(c) || isUpper(c) }

func count(b []byte, is func(byte) bool) (n int) {
	for _, c := range b {
		if is(c) {
			n++
		}
	}
	return n
}

func distinct(b []byte) (n int) {
	var seen class
	for _, c := range b {
		if !seen[c] {
			seen[c] = true
			n++
		}
	}
	return n
}

// entropy returns the Shannon entropy of b's bytes in bits per byte.
func entropy(b []byte) float64 {
	var counts [256]int
	for _, c := range b {
		counts[c]++
	}
	var h float64
	for _, n := range counts {
		if n > 0 {
			p := float64(n) / float64(len(b))
			h -= p * math.Log2(p)
		}
	}
	return h
}

// randomLooking tells keys from words: letters and digits mixed, few repeats.
func randomLooking(b []byte) bool {
	return count(b, isDigit) >= 2 && count(b, isLetter) >= 4 && distinct(b) >= 10 && !nameLike(b)
}
