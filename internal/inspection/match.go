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
	return begin + colon + 1, begin + at, !variable(b[begin+colon+1 : begin+at])
}

// variable reports whether v is the name of a variable that a program fills in.
func variable(v []byte) bool {
	return len(v) > 2 && (v[0] == '$' || v[0] == '{') && run(v, 1, variableName, len(v)) == len(v)
}

var variableName = classOf("AZ__{{}}")

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

// after returns the match function of a secret that follows a literal of n
// bytes: at least least bytes of chars.
func after(n int, chars *class, least int) func(b []byte, i int) (int, int, bool) {
	return func(b []byte, i int) (int, int, bool) {
		end := run(b, i+n, chars, 512)
		return i + n, end, end-i-n >= least && varied(b[i+n:end])
	}
}

// telegram finds a bot's token around the colon at i: 5 to 16 digits before it,
// 35 characters that begin with A after it.
func telegram(b []byte, i int) (int, int, bool) {
	start := i
	for start > 0 && i-start < 17 && isDigit(b[start-1]) {
		start--
	}
	end := run(b, i+1, word, 40)
	return start, end, i-start >= 5 && i-start <= 16 && end-i-1 == 35 && (start == 0 || !word[b[start-1]])
}

// telegramNear finds a bot's token shortly after the name.
func telegramNear(b []byte, i int) (int, int, bool) {
	const reach = 80
	stop := min(len(b), i+reach)
	for at := i + len("telegram"); at < stop; at++ {
		if b[at] != ':' || at+1 >= len(b) || b[at+1] != 'A' {
			continue
		}
		if start, end, ok := telegram(b, at); ok {
			return start, end, true
		}
	}
	return 0, stop, false
}

// scanAzure appends client secrets of Entra ID: three characters, a digit, Q~
// and 31 to 34 characters.
func scanAzure(b []byte, found []Finding) []Finding {
	for at := 0; ; at++ {
		i := bytes.IndexByte(b[at:], '~')
		if i < 0 {
			return found
		}
		if at += i; at < 5 || b[at-1] != 'Q' || !isDigit(b[at-2]) {
			continue
		}
		start, end := at-5, run(b, at+1, azureBody, 40)
		if n := end - at - 1; n < 31 || n > 34 || run(b, start, azureBody, 3) != start+3 || (start > 0 && alnum[b[start-1]]) {
			continue
		}
		found = append(found, Finding{Kind: Secrets, Rule: "azure-secret", Start: start, End: end})
	}
}

var azureBody = classOf("azAZ09__~~..--")

// onePassword finds a secret key of 1Password: A3 and groups of capitals and digits.
func onePassword(b []byte, i int) (int, int, bool) {
	end := run(b, i, classUpperDash, 48)
	v := b[i:end]
	return i, end, (len(v) == 39 || len(v) == 40) && count(v, func(c byte) bool { return c == '-' }) >= 5 && (i == 0 || !alnum[b[i-1]])
}

var classUpperDash = classOf("AZ09--")

// mailchimp finds 32 hexadecimal digits before the -us at i and its number.
func mailchimp(b []byte, i int) (int, int, bool) {
	const digits = 32
	start, end := i-digits, run(b, i+3, digit, 3)
	if start < 0 || end == i+3 || end > i+5 || (start > 0 && alnum[b[start-1]]) {
		return 0, 0, false
	}
	return start, end, run(b, start, hexLower, digits) == i && varied(b[start:i])
}

var digit = classOf("09")

// curlUser finds the password in curl's option -u or --user.
func curlUser(b []byte, i int) (int, int, bool) {
	const reach = 600
	line := b[i:min(len(b), i+reach)]
	for at := 4; ; {
		n := bytes.IndexByte(line[at:], '-')
		if n < 0 {
			return 0, i + len(line), false
		}
		at += n
		rest := line[at:]
		switch {
		case line[at-1] != ' ' && line[at-1] != '\t':
		case bytes.HasPrefix(rest, []byte("-u")) && len(rest) > 3 && !isLetter(rest[2]):
			if start, end, ok := userValue(line, at+2); ok {
				return i + start, i + end, true
			}
		case bytes.HasPrefix(rest, []byte("--user")) && len(rest) > 8 && (rest[6] == ' ' || rest[6] == '='):
			if start, end, ok := userValue(line, at+6); ok {
				return i + start, i + end, true
			}
		}
		at++
	}
}

// userValue finds the password in the user:password that begins at i.
func userValue(b []byte, i int) (int, int, bool) {
	for i < len(b) && (b[i] == ' ' || b[i] == '=' || b[i] == '"' || b[i] == '\'' || b[i] == '\\') {
		i++
	}
	end := run(b, i, bareOrColon, 256)
	colon := bytes.IndexByte(b[i:end], ':')
	if colon < 0 || bytes.HasPrefix(b[i+colon:end], []byte("://")) {
		return 0, 0, false
	}
	user, v := b[i:i+colon], b[i+colon+1:end]
	if len(v) < 4 && len(user) < 8 || len(v) > 0 && placeholder(v) || len(user) > 0 && placeholder(user) {
		return 0, 0, false
	}
	if len(v) < 4 {
		return i, end, count(user, isDigit) > 0
	}
	return i + colon + 1, end, distinct(v) >= 4
}

var bareOrColon = func() *class {
	c := *bareChars
	c[':'], c['='], c['&'] = true, true, true
	return &c
}()

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
