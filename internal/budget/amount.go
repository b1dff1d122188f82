package budget

import (
	"math/big"
	"strconv"
	"strings"
)

// Says returns an amount with its unit and the period: "50 calls per day".
func (b *Budget) Says(n int64) string {
	if b.Period == Total {
		return Amount(b.Meter, n) + " in total"
	}
	return Amount(b.Meter, n) + " per " + b.Period
}

// Amount returns so much of what a meter counts, for people.
func Amount(meter string, n int64) string {
	if meter == Money {
		return Plain(meter, n) + " " + currency
	}
	return Plain(meter, n) + " " + meter
}

// Plain returns the same without a unit: what ParseAmount reads.
func Plain(meter string, n int64) string {
	if meter != Money {
		return strconv.FormatInt(n, 10)
	}
	text := big.NewRat(n, 1_000_000).FloatString(6)
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
}

// ParseAmount reads a limit: a whole number, or, of money, one with up to six
// decimals. Empty is 0.
func ParseAmount(meter, text string) (int64, error) {
	whole, fraction, point := strings.Cut(text, ".")
	if text == "" {
		return 0, nil
	}
	if meter != Money && point || len(fraction) > 6 || point && fraction == "" {
		return 0, ErrInvalid.Say("%.40q is no amount of %s", text, meter)
	}
	if meter == Money {
		whole += fraction + strings.Repeat("0", 6-len(fraction))
	}
	n, err := strconv.ParseUint(whole, 10, 63)
	if err != nil || n > MostLimit {
		return 0, ErrInvalid.Say("%.40q is no amount of %s", text, meter)
	}
	return int64(n), nil
}
