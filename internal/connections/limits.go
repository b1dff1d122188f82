package connections

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/rates"
)

// What can be limited of a tool.
const (
	LimitCalls      = "calls"       // calls of all agents together: "60/1m"
	LimitAgentCalls = "agent_calls" // calls of each agent: "10/1m"
	LimitResult     = "result"      // bytes of an answer: "65536", "64KiB", "1MiB"
)

const (
	maxRate   = 1_000_000
	maxPeriod = 24 * time.Hour
	maxResult = 1 << 30
)

// Limits are what a person limits of a tool. The zero Limits limit nothing.
type Limits struct {
	Calls, Agent rates.Rate
	Result       int64 // bytes
}

// parseLimits reads limits as people write them. A wrong one is named.
func parseLimits(said map[string]string) (l Limits, field, wrong string) {
	for _, name := range slices.Sorted(maps.Keys(said)) {
		var err error
		switch name {
		case LimitCalls:
			l.Calls, err = parseRate(said[name])
		case LimitAgentCalls:
			l.Agent, err = parseRate(said[name])
		case LimitResult:
			l.Result, err = parseSize(said[name])
		default:
			err = fmt.Errorf("is not a limit: one of %s, %s, %s", LimitAgentCalls, LimitCalls, LimitResult)
		}
		if err != nil {
			return Limits{}, name, err.Error()
		}
	}
	return l, "", ""
}

func limitsWrong(said map[string]string) (field, wrong string) {
	_, field, wrong = parseLimits(said)
	return field, wrong
}

func parseRate(s string) (r rates.Rate, err error) {
	calls, per, ok := strings.Cut(s, "/")
	if ok {
		r.Calls, err = strconv.ParseInt(calls, 10, 64)
	}
	if ok && err == nil {
		r.Per, err = time.ParseDuration(per)
	}
	if !ok || err != nil || r.Calls < 1 || r.Calls > maxRate || r.Per < time.Second || r.Per > maxPeriod {
		return rates.Rate{}, fmt.Errorf("%q is not a rate such as 60/1m: 1 to %d calls in 1s to 24h", clip(s), maxRate)
	}
	return r, nil
}

func parseSize(s string) (int64, error) {
	number, unit := s, int64(1)
	for suffix, u := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20} {
		if n, ok := strings.CutSuffix(s, suffix); ok {
			number, unit = n, u
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 1 || n > maxResult/unit {
		return 0, fmt.Errorf("%q is not a size such as 65536, 64KiB or 1MiB, of 1GiB at most", clip(s))
	}
	return n * unit, nil
}

// Limits returns what is limited of the tool.
func (t Tool) Limits() Limits {
	l, _, _ := parseLimits(t.References.Limits) // checked when it was declared
	return l
}

// Take counts a call of an agent against the rates of a tool, on all replicas
// together. It returns how long to wait if one of them is used up: then the
// call counts for none, unless it is made in any case (sure).
func (s *Service) Take(ctx context.Context, t Tool, agent string, sure bool) (retry time.Duration, err error) {
	l, key := t.Limits(), t.Connection+"/"+t.Name
	if l.Calls == (rates.Rate{}) && l.Agent == (rates.Rate{}) {
		return 0, nil
	}
	return s.rates.Take(ctx, sure, rates.Use{Key: key + " by " + agent, Rate: l.Agent}, rates.Use{Key: key, Rate: l.Calls})
}
