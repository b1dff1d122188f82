package inspection

import "encoding/binary"

// cardRule is the Rule of findings of payment card numbers.
const cardRule = "card"

// RedactPersonal replaces payment card numbers (ISO/IEC 7812: an issuer's
// prefix, 13 to 19 digits, a check digit), which PCI DSS forbids to keep
// readable, under the promises of Redact. Nothing else is looked for.
func (s *Scanner) RedactPersonal(b []byte) []byte { return s.Replace(b, cards, nil) }

// The shortest and longest card number, in digits.
const minCard, maxCard = 13, 19

// number is a run of digits as people write them: in groups that single spaces,
// hyphens, dots or slashes part.
type number struct {
	b          []byte
	start, end int
	digits     [maxDigits]byte
	n          int // digits, also those beyond maxDigits
	cuts       int // separators
}

const maxDigits = 24

// scanNumbers appends what numbers in b are: cards, accounts, national numbers,
// telephones. What is here has two digits side by side.
func scanNumbers(b []byte, kinds Kinds, found []Finding) []Finding {
	var n number
	for i := nextPair(b, 0); i < len(b); i = nextPair(b, n.end) {
		n = readNumber(b, i)
		if n.n >= 7 || n.n >= 2 && i >= 2 && isUpper(b[i-1]) && isUpper(b[i-2]) {
			if kinds&Personal != 0 {
				found = n.personal(found)
			}
			if n.card() {
				found = append(found, Finding{Kind: Personal, Rule: cardRule, Start: n.start, End: n.end})
			}
		}
		if n.n == 2 && kinds&Personal != 0 && n.end < len(b) && isUpper(b[n.end]) {
			if f, ok := n.codiceFiscale(); ok {
				found = append(found, f)
			}
		}
	}
	return found
}

// nextPair returns where the next two digits side by side begin from i on, or len(b).
func nextPair(b []byte, i int) int {
	for ; i+9 <= len(b); i += 8 {
		d := between(binary.LittleEndian.Uint64(b[i:]), '0', '9')
		if d&(d>>8) != 0 || d>>63 != 0 && isDigit(b[i+8]) {
			break
		}
	}
	for ; i+1 < len(b); i++ {
		if isDigit(b[i]) && isDigit(b[i+1]) {
			return i
		}
	}
	return len(b)
}

// readNumber reads the number whose first digits stand at i: from a first group of
// one digit ("1 23 45...") on, too.
func readNumber(b []byte, i int) number {
	for i >= 2 && (b[i-1] == ' ' || b[i-1] == '-' || b[i-1] == '.') && isDigit(b[i-2]) && (i < 3 || !isDigit(b[i-3])) {
		i -= 2
	}
	for i > 0 && isDigit(b[i-1]) {
		i--
	}
	n := number{b: b, start: i, end: i}
	for j := i; j < len(b); j++ {
		if isDigit(b[j]) {
			if n.n < maxDigits {
				n.digits[n.n] = b[j] - '0'
			}
			n.n, n.end = n.n+1, j+1
			continue
		}
		if (b[j] != ' ' && b[j] != '-' && b[j] != '.' && b[j] != '/') || j+1 == len(b) || !isDigit(b[j+1]) {
			break
		}
		n.cuts++
	}
	return n
}

// alone reports whether no letter or digit stands next to the number.
func (n *number) alone() bool {
	return (n.start == 0 || !isWord(n.b[n.start-1])) && (n.end == len(n.b) || !isWord(n.b[n.end]))
}

// card reports whether the number is one of a payment card.
func (n *number) card() bool {
	if n.n < minCard || n.n > maxCard || !n.alone() {
		return false
	}
	for _, c := range n.b[n.start:n.end] {
		if c == '.' || c == '/' {
			return false
		}
	}
	return issued(n.digits[:n.n]) && checks(n.digits[:n.n])
}

func isWord(c byte) bool {
	return isDigit(c) || ('a' <= c|0x20 && c|0x20 <= 'z') || c == '_' || c >= 0x80
}

// issued reports whether an issuer gives out numbers that begin like this and
// are so long.
func issued(d []byte) bool {
	p := 0
	for _, c := range d[:4] {
		p = 10*p + int(c)
	}
	switch n := len(d); {
	case d[0] == 4: // Visa
		return n == 13 || n == 16 || n == 19
	case p/100 >= 51 && p/100 <= 55, p >= 2221 && p <= 2720: // Mastercard
		return n == 16
	case p/100 == 34, p/100 == 37: // American Express
		return n == 15
	case p/10 >= 300 && p/10 <= 305, p/100 == 36, p/100 == 38, p/100 == 39: // Diners Club
		return n >= 14
	case p == 6011, p/10 >= 644 && p/10 <= 649, p/100 == 65, p/100 == 62, p/100 == 35: // Discover, UnionPay, JCB
		return n >= 16
	case p/100 == 50, p/100 >= 56 && p/100 <= 58, p/100 == 63, p/100 == 67: // Maestro
		return true
	}
	return false
}

// checks reports whether the last digit is the check digit of those before it
// (Luhn, ISO/IEC 7812-1 annex B).
func checks(d []byte) bool {
	sum := 0
	for i, c := range d {
		v := int(c)
		if (len(d)-i)%2 == 0 {
			if v *= 2; v > 9 {
				v -= 9
			}
		}
		sum += v
	}
	return sum%10 == 0
}
