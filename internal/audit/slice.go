package audit

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/storage"
)

// Slice is what a look at a part of the log found.
type Slice struct {
	Checked  int64
	Next     Place     // where the next slice begins
	Done     bool      // there is no next one: the log's end was reached
	Problems []Problem // the first of each lane
}

// VerifySlice verifies what Verify verifies, for about budget records after a
// place. The zero Place is the log's beginning. What is before the place is
// believed: whoever goes on from slice to slice has verified it.
func (l *Log) VerifySlice(ctx context.Context, after Place, budget int64) (Slice, error) {
	var rep Report
	why := newErasureReasons(l)
	s, err := l.slices(ctx, after, budget, func(lane, from, to int64) ([]Problem, error) {
		p, err := l.verifyLane(ctx, lane, from, to, &rep, why, nil)
		if p == nil {
			return nil, err
		}
		return []Problem{*p}, err
	})
	if err == nil && s.Done {
		rep.Problems = s.Problems
		if rep.Head, err = l.Head(ctx); err == nil {
			err = l.strays(ctx, &rep)
		}
		s.Problems = rep.Problems
	}
	return s, err
}

// slices calls look for the spans (from, to] of lanes that hold about budget
// records after a place.
func (l *Log) slices(ctx context.Context, after Place, budget int64, look func(lane, from, to int64) ([]Problem, error)) (Slice, error) {
	head, err := l.Head(ctx)
	if err != nil {
		return Slice{}, err
	}
	s := Slice{Next: after}
	for _, lane := range slices.Sorted(maps.Keys(head)) {
		if lane < after.Lane {
			continue
		}
		from := int64(0)
		if lane == after.Lane {
			from = min(max(0, after.SN), head[lane])
		}
		if from == head[lane] {
			continue
		}
		if s.Checked >= budget {
			return s, nil
		}
		to := min(head[lane], from+budget-s.Checked)
		found, err := look(lane, from, to)
		if err != nil {
			return s, err
		}
		s.Problems = append(s.Problems, found...)
		s.Checked += to - from
		s.Next = Place{lane, to}
		if to < head[lane] {
			return s, nil
		}
	}
	s.Next, s.Done = Place{}, true
	return s, nil
}

// settleWithin is how long after its holder is gone a lane may have calls
// without an outcome: somebody takes it over and records them.
const settleWithin = 10 * time.Minute

// UnfinishedSlice looks for calls that were let out and have no outcome though
// nobody works on them any more, and for calls with two, among the intents of
// about budget records after a place. InFlight counts those somebody works on.
func (l *Log) UnfinishedSlice(ctx context.Context, after Place, budget int64) (s Slice, inFlight int64, err error) {
	s, err = l.slices(ctx, after, budget, func(lane, from, to int64) ([]Problem, error) {
		clean, held, err := l.laneState(ctx, lane) // first: what ends meanwhile is no problem
		if err != nil {
			return nil, err
		}
		open, err := l.openCalls(ctx, lane, from, to)
		if err != nil {
			return nil, err
		}
		var found []Problem
		for _, c := range open {
			switch {
			case c.outcomes > 1:
				found = append(found, Problem{lane, c.sn, c.id, fmt.Sprintf("call %s has %d outcomes, one is right", c.call, c.outcomes)})
			case c.sn <= clean:
				found = append(found, Problem{lane, c.sn, c.id, fmt.Sprintf("call %s was let out and has no outcome, though its lane says that it has", c.call)})
			case !held && l.o.Now().Sub(storage.Time(c.at)) > settleWithin:
				found = append(found, Problem{lane, c.sn, c.id, fmt.Sprintf("call %s was let out at %s and has no outcome; nobody works on it any more", c.call, storage.Time(c.at).Format(time.RFC3339))})
			default:
				inFlight++
			}
		}
		return found, nil
	})
	return s, inFlight, err
}

type openCall struct {
	sn, at, outcomes int64
	id, call         string
}

// maxOpen bounds how many calls of one slice are reported.
const maxOpen = 1000

// openCalls returns the intents of a lane in (from, to] that have not exactly
// one outcome.
func (l *Log) openCalls(ctx context.Context, lane, from, to int64) ([]openCall, error) {
	rows, err := l.db.Query(ctx, `SELECT sn, at, id, call, n FROM (
		SELECT i.sn, i.at, i.id, i.call, (SELECT count(*) FROM events AS o WHERE o.call <> '' AND o.call = i.call AND o.type = $1) AS n
		FROM events AS i WHERE i.lane = $2 AND i.sn > $3 AND i.sn <= $4 AND i.type = $5) AS c WHERE n <> 1 ORDER BY sn LIMIT $6`,
		string(CallOutcome), lane, from, to, string(CallIntent), maxOpen)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	var out []openCall
	for rows.Next() {
		var c openCall
		if err := rows.Scan(&c.sn, &c.at, &c.id, &c.call, &c.outcomes); err != nil {
			return nil, storage.ErrUnavailable.With(err)
		}
		out = append(out, c)
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return out, nil
}

// laneState returns up to where a lane says that all calls have outcomes, and
// whether somebody holds it.
func (l *Log) laneState(ctx context.Context, lane int64) (clean int64, held bool, err error) {
	alive := `until > ` + job.Clock(l.db.Dialect())
	if l.lite != nil {
		alive = `holder <> ''` // there is one process, this one
	}
	if err := l.db.QueryRow(ctx, `SELECT clean_sn, holder <> '' AND `+alive+` FROM lanes WHERE lane = $1`, lane).Scan(&clean, &held); err != nil {
		return 0, false, storage.ErrUnavailable.With(err)
	}
	return clean, held, nil
}

// Span returns the records of a lane in (from, to] with their payloads, as far
// as they are there.
func (l *Log) Span(ctx context.Context, lane, from, to int64) ([]Record, error) {
	return l.span(ctx, lane, from, to, true)
}
