package words

import (
	"math/big"
	"regexp"
	"strings"
	"time"
)

// minor are the currencies whose minor unit is not a hundredth (ISO 4217).
var minor = map[string]int{
	"BIF": 0, "CLP": 0, "DJF": 0, "GNF": 0, "ISK": 0, "JPY": 0, "KMF": 0, "KRW": 0, "PYG": 0, "RWF": 0, "UGX": 0, "UYI": 0, "VND": 0, "VUV": 0, "XAF": 0, "XOF": 0, "XPF": 0,
	"BHD": 3, "IQD": 3, "JOD": 3, "KWD": 3, "LYD": 3, "OMR": 3, "TND": 3, "CLF": 4, "UYW": 4,
}

// money shows whole minor units as an amount: 1240000 EUR is 12,400.00 EUR.
// What is no whole number is shown as it is, and said to be none.
func money(units, currency string) string {
	n, ok := new(big.Int).SetString(units, 10)
	if !ok || strings.HasPrefix(units, "+") {
		return strings.TrimSpace(units + " (not a whole number of minor units) " + currency)
	}
	sign := ""
	if n.Sign() < 0 {
		sign = "-"
	}
	places, known := minor[currency]
	if !known {
		places = 2
	}
	digits := new(big.Int).Abs(n).String()
	for len(digits) <= places {
		digits = "0" + digits
	}
	whole, rest := digits[:len(digits)-places], digits[len(digits)-places:]
	if rest != "" {
		rest = "." + rest
	}
	return strings.TrimSpace(sign + grouped(whole) + rest + " " + currency)
}

var decimal = regexp.MustCompile(`^(-?)([0-9]+)(\.[0-9]+)?$`)

// amount shows a decimal number of major units with its thousands apart, and
// its digits as they are.
func amount(v, currency string) string {
	m := decimal.FindStringSubmatch(v)
	if m == nil {
		return strings.TrimSpace("“" + v + "” (not a plain number) " + currency)
	}
	rest := m[3]
	if places, known := minor[currency]; code.MatchString(currency) && (!known || places > 1) && len(rest) < 3 {
		rest += ".00"[len(rest):] // 12.5 EUR is 12.50 EUR
	}
	return strings.TrimSpace(m[1] + grouped(m[2]) + rest + " " + currency)
}

func count(v string) string {
	if digits, ok := strings.CutPrefix(v, "-"); ok && digits != "" {
		return "-" + grouped(digits)
	}
	return grouped(v)
}

// grouped puts commas between the thousands of a string of digits; anything
// else is returned as it is.
func grouped(digits string) string {
	if strings.Trim(digits, "0123456789") != "" {
		return digits
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// date shows an RFC 3339 time or date as people write it: 27 November 2026.
func date(v string) string {
	if t, err := time.Parse(time.DateOnly, v); err == nil {
		return t.Format("2 January 2006")
	}
	if t, err := time.Parse(time.RFC3339, v); err == nil {
		return t.Format("2 January 2006, 15:04 MST")
	}
	return "“" + strings.NewReplacer("“", "'", "”", "'").Replace(v) + "” (not a date)"
}
