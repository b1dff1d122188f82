package inspection

// cardRule is the Rule of findings of payment card numbers.
const cardRule = "card"

// RedactPersonal replaces payment card numbers (ISO/IEC 7812: an issuer's
// prefix, 13 to 19 digits, a check digit), which PCI DSS forbids to keep
// readable, under the promises of Redact. Secrets are not looked for.
func (s *Scanner) RedactPersonal(b []byte) []byte { return s.redact(b, scanCards) }

// The shortest and longest card number, in digits.
const minCard, maxCard = 13, 19

// scanCards appends where card numbers stand in b literally: digits, in groups
// that single spaces or hyphens part, with no letter or digit next to them.
func scanCards(b []byte, _ *knownTable, found []Finding) []Finding {
	for i := 0; i < len(b); i++ {
		if !isDigit(b[i]) {
			continue
		}
		start := i
		var digits [maxCard]byte
		n, end := 0, i
		for j := i; j < len(b); j++ {
			if isDigit(b[j]) {
				if n < maxCard {
					digits[n] = b[j] - '0'
				}
				n, end = n+1, j+1
				continue
			}
			if (b[j] != ' ' && b[j] != '-') || j+1 == len(b) || !isDigit(b[j+1]) {
				break
			}
		}
		i = end
		if n < minCard || n > maxCard || (start > 0 && isWord(b[start-1])) || (end < len(b) && isWord(b[end])) {
			continue
		}
		if issued(digits[:n]) && checks(digits[:n]) {
			found = append(found, Finding{Kind: "personal", Rule: cardRule, Start: start, End: end})
		}
	}
	return found
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
