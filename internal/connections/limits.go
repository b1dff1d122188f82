package connections

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/storage"
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

// Rate allows Calls at once, and then one each Per/Calls.
type Rate struct {
	Calls int64
	Per   time.Duration
}

// Limits are what a person limits of a tool. The zero Limits limit nothing.
type Limits struct {
	Calls, Agent Rate
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

func parseRate(s string) (r Rate, err error) {
	calls, per, ok := strings.Cut(s, "/")
	if ok {
		r.Calls, err = strconv.ParseInt(calls, 10, 64)
	}
	if ok && err == nil {
		r.Per, err = time.ParseDuration(per)
	}
	if !ok || err != nil || r.Calls < 1 || r.Calls > maxRate || r.Per < time.Second || r.Per > maxPeriod {
		return Rate{}, fmt.Errorf("%q is not a rate such as 60/1m: 1 to %d calls in 1s to 24h", clip(s), maxRate)
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
	l := t.Limits()
	if l.Calls == (Rate{}) && l.Agent == (Rate{}) {
		return 0, nil
	}
	if s.noted.allow("\x00rates", s.now()) {
		if err := s.sweepRates(ctx); err != nil {
			s.logger.Warn("rates that limit nothing any more could not be removed", "error", err)
		}
	}
	key, now := t.Connection+"/"+t.Name, s.now()
	err = s.db.Tx(ctx, func(tx *storage.Tx) error {
		retry = 0
		for _, of := range []struct {
			key string
			Rate
		}{{key + " by " + agent, l.Agent}, {key, l.Calls}} { // in one order, so that replicas do not lock each other out
			if of.Calls == 0 {
				continue
			}
			wait, err := take(ctx, tx, of.key, of.Rate, now)
			if err != nil {
				return err
			}
			retry = max(retry, wait)
		}
		if retry > 0 && !sure {
			return errUsedUp
		}
		return nil
	})
	if err == errUsedUp { //nolint:errorlint // it is ours, and comes as it went
		return retry, nil
	}
	if err != nil {
		return 0, storage.ErrUnavailable.With(err)
	}
	return retry, nil
}

// errUsedUp takes back what a refused call counted.
var errUsedUp = fmt.Errorf("a rate is used up")

// take counts one call: full is when the allowance would be whole again if
// nothing came. A call moves it by one share, and must not move it further than a
// period ahead, unless it is made in any case.
func take(ctx context.Context, tx *storage.Tx, key string, r Rate, now time.Time) (wait time.Duration, err error) {
	share, at := max(1, r.Per.Microseconds()/r.Calls), storage.Micros(now)
	var full int64
	err = tx.QueryRow(ctx, `INSERT INTO tool_rates (id, whole) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE
		SET whole = CASE WHEN tool_rates.whole < $3 THEN $2 ELSE tool_rates.whole + $4 END RETURNING whole`, key, at+share, at, share).Scan(&full)
	if over := full - at - r.Per.Microseconds(); err == nil && over > 0 {
		return time.Duration(over) * time.Microsecond, nil
	}
	return 0, err
}

// sweepRates removes what limits nothing any more.
func (s *Service) sweepRates(ctx context.Context) error {
	return s.db.Tx(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM tool_rates WHERE whole < $1`, storage.Micros(s.now()))
		return err
	})
}
