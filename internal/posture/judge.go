package posture

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// verdict is what a check says of one object.
type verdict struct {
	object string
	bad    string   // what is wrong; empty: nothing
	gap    string   // why it could not be looked at; empty: it was
	events []string // that show it
}

// question is a check before it was asked.
type question struct {
	name, asks, unit string
	none             string // why there is no data when there is nothing to look at
	apart            string // if set, nothing to look at means that it does not apply, for this reason
	plant            string // the violation that it is given
}

// judge looks at every row, and at a canary which it must find wrong.
func judge[T any](p *pass, q question, rows []T, canary T, look func(T) verdict) Check {
	if p.blind[q.name] { // a test's: the check sees nothing wrong any more
		seeing := look
		look = func(row T) verdict { v := seeing(row); v.bad = ""; return v }
	}
	c := Check{Name: q.name, Asks: q.asks, Unit: q.unit, Population: int64(len(rows)), Violations: []Violation{}, Unreachable: []Gap{}, Canary: Canary{What: q.plant}}
	c.Canary.Caught = look(canary).bad != ""
	gaps := 0
	sum := sha256.New()
	for _, row := range rows {
		v := look(row)
		fmt.Fprintf(sum, "%q %q %q %q\n", v.object, v.bad, v.gap, v.events)
		switch {
		case v.gap != "":
			gaps++
			if len(c.Unreachable) < mostShown {
				c.Unreachable = append(c.Unreachable, Gap{v.object, v.gap})
			}
			continue
		case v.bad != "":
			c.Violated++
			if len(c.Violations) < mostShown {
				c.Violations = append(c.Violations, Violation{v.object, v.bad, v.events})
			}
		}
		c.Evaluated++
	}
	c.Looked = hex.EncodeToString(sum.Sum(nil))
	switch {
	case len(rows) == 0 && q.apart != "":
		c.Result, c.Reason = NotApplicable, q.apart
	case len(rows) == 0:
		c.Result, c.Reason = NoData, q.none
	case !c.Canary.Caught: // what it says of others is worth nothing either
		c.Result, c.Reason = NoData, "it did not catch the violation that it was given ("+q.plant+"), so it proves nothing"
	case c.Violated > 0:
		c.Result = Fail
	case gaps > 0:
		c.Result, c.Reason = NoData, fmt.Sprintf("%d of %d %s could not be looked at: %s", gaps, len(rows), q.unit, c.Unreachable[0].Why)
	default:
		c.Result = Pass
	}
	return c
}

// answer is judge, unless the rows could not be had.
func answer[T any](p *pass, q question, rows []T, err error, canary T, look func(T) verdict) Check {
	if err != nil {
		return failed(q, err)
	}
	return judge(p, q, rows, canary, look)
}

// unasked is a check for which there is nothing that could answer it.
func unasked(q question, why string) Check {
	return Check{Name: q.name, Asks: q.asks, Unit: q.unit, Result: NoData, Reason: why, Violations: []Violation{}, Unreachable: []Gap{}, Canary: Canary{What: q.plant}}
}

// failed is a check that could not be made.
func failed(q question, err error) Check {
	why, _, _ := strings.Cut(err.Error(), "\n")
	return unasked(q, "it could not be made: "+cut(why, 300))
}

func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}
