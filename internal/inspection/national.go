package inspection

import (
	"bytes"
	"strings"
)

// Numbers that states and banks give to persons. What has a check digit must
// carry the right one; what has one only, and nothing else that tells it from
// any number, must be written in its usual groups or stand behind its name.

// personal appends what n is, other than a card.
func (n *number) personal(found []Finding) []Finding {
	if f, ok := n.iban(); ok {
		return append(found, f)
	}
	if f, ok := n.phone(); ok {
		return append(found, f)
	}
	for _, k := range nationals {
		if n.n != k.digits {
			continue
		}
		start, end := n.start, n.end
		if k.letter {
			if end == len(n.b) || !isLetter(n.b[end]) {
				continue
			}
			end++
		}
		if (start > 0 && isWord(n.b[start-1])) || (end < len(n.b) && isWord(n.b[end])) {
			continue
		}
		if k.form != "" && !formed(n.b[n.start:n.end], k.form) && (n.cuts > 0 || k.strict) {
			continue
		}
		if k.names != nil && !n.named(k.names) {
			continue
		}
		if k.check(n.digits[:n.n], n.b[n.end:end]) {
			return append(found, Finding{Kind: Personal, Rule: k.rule, Start: start, End: end})
		}
	}
	return found
}

// national is a kind of number.
type national struct {
	rule   string
	digits int
	letter bool   // one follows
	form   string // as it is written in groups
	strict bool   // and never without them
	names  []string
	check  func(d, letter []byte) bool
}

var nationals = []national{
	{rule: "ssn", digits: 9, form: "ddd-dd-dddd", strict: true, check: ssn},
	{rule: "cpf", digits: 11, form: "ddd.ddd.ddd-dd", strict: true, check: cpf},
	{rule: "nir", digits: 15, form: "d dd dd dd ddd ddd dd", check: nir},
	{rule: "dni", digits: 8, letter: true, check: dni},
	{rule: "personnummer", digits: 10, form: "dddddd-dddd", strict: true, check: personnummer},
	{rule: "personnummer", digits: 12, form: "dddddddd-dddd", strict: true, check: func(d, _ []byte) bool { return personnummer(d[2:], nil) }},
	{rule: "nhs-number", digits: 10, form: "ddd ddd dddd", strict: true, check: nhs},
	{rule: "nhs-number", digits: 10, names: []string{"nhs"}, check: nhs},
	{rule: "aadhaar", digits: 12, form: "dddd dddd dddd", strict: true, check: aadhaar},
	{rule: "steuer-id", digits: 11, form: "dd ddd ddd ddd", check: steuerID},
	{rule: "pesel", digits: 11, check: pesel},
	{rule: "bsn", digits: 9, names: []string{"bsn", "burgerservice", "sofinummer"}, check: bsn},
	{rule: "sin", digits: 9, names: []string{"sin ", "sin:", "social insurance", "\"sin\""}, check: func(d, _ []byte) bool { return checks(d) }},
}

// formed reports whether b has the form of f, where d is a digit.
func formed(b []byte, f string) bool {
	if len(b) != len(f) {
		return false
	}
	for i := range b {
		if f[i] == 'd' != isDigit(b[i]) || (f[i] != 'd' && f[i] != b[i]) {
			return false
		}
	}
	return true
}

// named reports whether one of names stands shortly before the number.
func (n *number) named(names []string) bool {
	const reach = 40
	before := n.b[max(0, n.start-reach):n.start]
	for _, name := range names {
		if containsFold(before, name) {
			return true
		}
	}
	return false
}

// containsFold reports whether b contains name, which is in lower case, in any case.
func containsFold(b []byte, name string) bool {
	for i := 0; i+len(name) <= len(b); i++ {
		if c := b[i] | 0x20; c == name[0]|0x20 && strings.EqualFold(string(b[i:i+len(name)]), name) {
			return true
		}
	}
	return false
}

// iban finds an account number (ISO 13616) whose two check digits begin the number.
func (n *number) iban() (Finding, bool) {
	const shortest, longest = 15, 34
	start := n.start - 2
	if start < 0 || !isUpper(n.b[start]) || !isUpper(n.b[start+1]) || (start > 0 && isWord(n.b[start-1])) {
		return Finding{}, false
	}
	var code [longest]byte
	size := 0
	for i := start; i < len(n.b) && size < longest; i++ {
		c := n.b[i]
		if c == ' ' && i+1 < len(n.b) && (isUpper(n.b[i+1]) || isDigit(n.b[i+1])) {
			continue
		}
		if !isUpper(c) && !isDigit(c) {
			break
		}
		code[size] = c
		size++
		end := i + 1
		if size >= shortest && (end == len(n.b) || !isWord(n.b[end])) && size == ibanLength(code[:2]) {
			return Finding{Kind: Personal, Rule: "iban", Start: start, End: end}, mod97(code[:size])
		}
	}
	return Finding{}, false
}

// ibanLength returns how long the account numbers of a country are, 0 if it has none.
func ibanLength(country []byte) int {
	const table = "AD24AE23AL28AT20AZ28BA20BE16BG22BH22BR29BY28CH21CR22CY28CZ24DE22DK18DO28EE20EG29ES24FI18FO18FR27GB22GE22GI23GL18GR27GT28HR21HU28IE22IL23IQ23IS26IT27JO30KW30KZ20LB28LC32LI21LT20LU20LV21LY25MC27MD24ME22MK19MR27MT31MU30NL18NO15PK24PL28PS29PT25QA29RO24RS22SA24SC31SE24SI19SK24SM27ST25SV28TL23TN24TR26UA29VA22VG24XK20"
	for i := 0; i+4 <= len(table); i += 4 {
		if table[i] == country[0] && table[i+1] == country[1] {
			return int(table[i+2]-'0')*10 + int(table[i+3]-'0')
		}
	}
	return 0
}

// mod97 checks an account number (ISO 7064, MOD 97-10).
func mod97(code []byte) bool {
	rest := 0
	for i := range code {
		c := code[(i+4)%len(code)]
		if isDigit(c) {
			rest = (rest*10 + int(c-'0')) % 97
		} else {
			rest = (rest*100 + int(c-'A') + 10) % 97
		}
	}
	return rest == 1
}

// phone finds a telephone number in international form (ITU-T E.164).
func (n *number) phone() (Finding, bool) {
	plus := n.start - 1
	if plus < 0 || n.b[plus] != '+' || (plus > 0 && isWord(n.b[plus-1])) || n.n < 8 || n.n > 15 || n.digits[0] == 0 || n.end < len(n.b) && isWord(n.b[n.end]) {
		return Finding{}, false
	}
	return Finding{Kind: Personal, Rule: "phone", Start: plus, End: n.end}, true
}

// ssn checks a number of the United States: it has no check digit, but areas
// and groups that are never given out.
func ssn(d, _ []byte) bool {
	area := value(d[:3])
	return area != 0 && area != 666 && area < 900 && value(d[3:5]) != 0 && value(d[5:]) != 0 && area != 123
}

func value(d []byte) (v int) {
	for _, c := range d {
		v = v*10 + int(c)
	}
	return v
}

// cpf checks a number of Brazil: two check digits.
func cpf(d, _ []byte) bool {
	for n := 9; n <= 10; n++ {
		sum := 0
		for i := range n {
			sum += int(d[i]) * (n + 1 - i)
		}
		if sum*10%11%10 != int(d[n]) {
			return false
		}
	}
	return !same(d)
}

func same(d []byte) bool { return bytes.Count(d, d[:1]) == len(d) }

// nir checks a number of France: 97 less the rest by 97.
func nir(d, _ []byte) bool {
	month := value(d[3:5])
	return (d[0] == 1 || d[0] == 2) && month >= 1 && (month <= 12 || month >= 20) && 97-value(d[:13])%97 == value(d[13:])
}

// dni checks the letter of a number of Spain.
func dni(d, letter []byte) bool {
	return letter[0]&^0x20 == "TRWAGMYFPDXBNJZSQVHLCKE"[value(d)%23] && !same(d)
}

// date reports whether a year, month and day of two digits each can be one.
func date(month, day int) bool { return month >= 1 && month <= 12 && day >= 1 && day <= 31 }

// personnummer checks a number of Sweden: a date, and Luhn's digit.
func personnummer(d, _ []byte) bool {
	day := value(d[4:6])
	return date(value(d[2:4]), day-day/61*60) && checks(d)
}

// nhs checks a number of England: eleven less the weighted sum by eleven.
func nhs(d, _ []byte) bool {
	sum := 0
	for i, c := range d[:9] {
		sum += int(c) * (10 - i)
	}
	return (11-sum%11)%11 == int(d[9]) && !same(d)
}

// steuerID checks a tax number of Germany (ISO 7064, MOD 11,10): of the first ten
// digits one stands twice or three times, and one or two not at all.
func steuerID(d, _ []byte) bool {
	var counts [10]int
	for _, c := range d[:10] {
		counts[c]++
	}
	missing, most := 0, 0
	for _, n := range counts {
		if n == 0 {
			missing++
		}
		most = max(most, n)
	}
	if d[0] == 0 || most > 3 || most < 2 || missing != most-1 {
		return false
	}
	product := 10
	for _, c := range d[:10] {
		sum := (int(c) + product) % 10
		if sum == 0 {
			sum = 10
		}
		product = sum * 2 % 11
	}
	return (11-product)%10 == int(d[10])
}

// pesel checks a number of Poland: a date with its century in the month, and a
// weighted check digit.
func pesel(d, _ []byte) bool {
	if month := value(d[2:4]) % 20; !date(month, value(d[4:6])) {
		return false
	}
	sum := 0
	for i, w := range []int{1, 3, 7, 9, 1, 3, 7, 9, 1, 3} {
		sum += int(d[i]) * w
	}
	return (10-sum%10)%10 == int(d[10])
}

// bsn checks a number of the Netherlands: the proof by eleven.
func bsn(d, _ []byte) bool {
	sum := -int(d[8])
	for i, c := range d[:8] {
		sum += int(c) * (9 - i)
	}
	return sum%11 == 0 && !same(d)
}

// aadhaar checks a number of India (Verhoeff).
func aadhaar(d, _ []byte) bool {
	if d[0] < 2 {
		return false
	}
	c := byte(0)
	for i := range d {
		c = dihedral(c, permuted(i%8, d[len(d)-1-i]))
	}
	return c == 0
}

// dihedral multiplies in the group of the pentagon's symmetries.
func dihedral(a, b byte) byte {
	switch {
	case a < 5 && b < 5:
		return (a + b) % 5
	case a < 5:
		return 5 + (a+b)%5
	case b < 5:
		return 5 + (a-b)%5
	}
	return (a + 10 - b) % 5
}

// permuted applies Verhoeff's permutation times times.
func permuted(times int, c byte) byte {
	for range times {
		c = "\x01\x05\x07\x06\x02\x08\x03\x00\x09\x04"[c]
	}
	return c
}

// codiceFiscale finds a code of Italy around its first two digits: six letters,
// two digits, a letter, two digits, a letter, three digits, and a letter that checks.
func (n *number) codiceFiscale() (Finding, bool) {
	const form, size = "AAAAAAddAddAdddA", 16
	start := n.start - 6
	if n.n != 2 || start < 0 || start+size > len(n.b) || start > 0 && isWord(n.b[start-1]) || start+size < len(n.b) && isWord(n.b[start+size]) {
		return Finding{}, false
	}
	code, sum := n.b[start:start+size], 0
	for i, c := range code {
		if form[i] == 'A' && !isUpper(c) || form[i] == 'd' && !isDigit(c) {
			return Finding{}, false
		}
		v := int(c - '0')
		if isUpper(c) {
			v = int(c - 'A')
		}
		if i == size-1 {
			return Finding{Kind: Personal, Rule: "codice-fiscale", Start: start, End: start + size}, sum%26 == v
		}
		if i%2 == 0 {
			v = oddValues[v]
		}
		sum += v
	}
	return Finding{}, false
}

var oddValues = [26]int{1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23}

// scanAddresses appends mail addresses: RFC 5321 as people write it.
func scanAddresses(b []byte, found []Finding) []Finding {
	for at := 0; ; at++ {
		i := bytes.IndexByte(b[at:], '@')
		if i < 0 {
			return found
		}
		at += i
		start, end := at, run(b, at+1, hostChars, 255)
		for start > 0 && at-start < 64 && localChars[b[start-1]] {
			start--
		}
		for end > at && (b[end-1] == '.' || b[end-1] == '-') {
			end--
		}
		for start < at && (b[start] == '.' || b[start] == '-') {
			start++
		}
		dot := bytes.LastIndexByte(b[at:end], '.')
		if start == at || dot < 2 || end-at-dot < 3 || count(b[at+dot+1:end], isLetter) != end-at-dot-1 {
			continue
		}
		found = append(found, Finding{Kind: Personal, Rule: "email", Start: start, End: end})
		at = end - 1
	}
}

var hostChars, localChars = classOf("azAZ09--.."), classOf("azAZ09__--..++%%")
