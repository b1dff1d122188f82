package search

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

// The names that search_minutes counts by. What decisions took is counted by
// took and the number of its bucket.
const (
	allowed = "allowed"
	denied  = "denied"
	refused = "refused"
	held    = "held"
	failed  = "failed"
	took    = "took:"
)

// A bucket of times is a quarter of an octave wide: what is read from one is at
// most 9 % off. The last one begins above an hour.
const (
	perOctave  = 4
	lastBucket = 128
)

func bucketOf(micros int64) int {
	if micros <= 1 {
		return 0
	}
	return min(lastBucket, int(perOctave*math.Log2(float64(micros))))
}

// bucketTime returns the middle of a bucket, in microseconds.
func bucketTime(bucket int) int64 {
	return int64(math.Round(math.Exp2((float64(bucket) + 0.5) / perOctave)))
}

// counted returns what an event counts as, empty for nothing.
func counted(ev *audit.Event) string {
	switch ev.Type {
	case audit.CallIntent:
		return allowed
	case audit.CallDenied:
		return denied
	case audit.CallRefused:
		return refused
	case audit.CallHeld:
		return held
	case audit.CallOutcome:
		if o := ev.Outcome; o != nil && (o.Status == audit.Failed || o.Status == audit.Broken) {
			return failed
		}
	}
	return ""
}

type minuteName struct {
	minute int64
	name   string
}

type runLabel struct{ run, label string }

// tally is what some records add to the counts.
type tally struct {
	minutes map[minuteName]int64
	runs    map[string]*runCount
	labels  map[runLabel]bool
}

// runCount is what some records add to a run.
type runCount struct {
	agent, owner, stage          string
	first, last                  int64
	calls, refused, held, failed int64
	ended                        int64
}

func tallyOf(recs []audit.Record) tally {
	t := tally{map[minuteName]int64{}, map[string]*runCount{}, map[runLabel]bool{}}
	for i := range recs {
		ev := &recs[i].Event
		what := counted(ev)
		if what != "" {
			minute := storage.Micros(ev.Time) / time.Minute.Microseconds()
			t.minutes[minuteName{minute, what}]++
			if d := ev.Decision; d != nil && what != failed && d.Micros > 0 {
				t.minutes[minuteName{minute, took + strconv.Itoa(bucketOf(d.Micros))}]++
			}
		}
		if ev.Run != "" {
			t.run(ev, what)
		}
	}
	return t
}

// run adds an event to its run.
func (t tally) run(ev *audit.Event, what string) {
	at := storage.Micros(ev.Time)
	r := t.runs[ev.Run]
	if r == nil {
		r = &runCount{first: at, last: at}
		t.runs[ev.Run] = r
	}
	r.agent, r.owner, r.stage = cmp.Or(r.agent, ev.Agent), cmp.Or(r.owner, ev.Owner), cmp.Or(r.stage, ev.Stage)
	r.first, r.last = min(r.first, at), max(r.last, at)
	switch what {
	case denied, refused:
		r.refused++
	case held:
		r.held++
	case failed:
		r.failed++
	}
	if what != "" && what != failed {
		r.calls++
	}
	if ev.Type == "run.ended" {
		r.ended = 1
	}
	for _, l := range ev.Labels {
		t.labels[runLabel{ev.Run, l}] = true
	}
}

// Rows are written in the order of their keys: two writers wait for each other
// in one direction only.

const (
	addMinutes = `INSERT INTO search_minutes (minute, name, n) VALUES %s ON CONFLICT (minute, name) DO UPDATE SET n = search_minutes.n + excluded.n`
	addLabels  = `INSERT INTO search_run_labels (run, label) VALUES %s ON CONFLICT (run, label) DO NOTHING`
	addRuns    = `INSERT INTO search_runs (run, agent, owner, stage, first_at, last_at, calls, refused, held, failed, ended) VALUES %s ON CONFLICT (run) DO UPDATE SET
		agent = CASE WHEN search_runs.agent = '' THEN excluded.agent ELSE search_runs.agent END,
		owner = CASE WHEN search_runs.owner = '' THEN excluded.owner ELSE search_runs.owner END,
		stage = CASE WHEN search_runs.stage = '' THEN excluded.stage ELSE search_runs.stage END,
		first_at = CASE WHEN excluded.first_at < search_runs.first_at THEN excluded.first_at ELSE search_runs.first_at END,
		last_at = CASE WHEN excluded.last_at > search_runs.last_at THEN excluded.last_at ELSE search_runs.last_at END,
		calls = search_runs.calls + excluded.calls, refused = search_runs.refused + excluded.refused, held = search_runs.held + excluded.held, failed = search_runs.failed + excluded.failed,
		ended = CASE WHEN excluded.ended > search_runs.ended THEN excluded.ended ELSE search_runs.ended END`
)

// count adds records to the counts, in the transaction that indexes them.
func (s store) count(ctx context.Context, tx *storage.Tx, recs []audit.Record) error {
	t := tallyOf(recs)
	var minutes, runs, labels [][]any
	for _, k := range slices.SortedFunc(maps.Keys(t.minutes), func(a, b minuteName) int {
		return cmp.Or(cmp.Compare(a.minute, b.minute), cmp.Compare(a.name, b.name))
	}) {
		minutes = append(minutes, []any{k.minute, k.name, t.minutes[k]})
	}
	for _, id := range slices.Sorted(maps.Keys(t.runs)) {
		r := t.runs[id]
		runs = append(runs, []any{id, r.agent, r.owner, r.stage, r.first, r.last, r.calls, r.refused, r.held, r.failed, r.ended})
	}
	for _, k := range slices.SortedFunc(maps.Keys(t.labels), func(a, b runLabel) int {
		return cmp.Or(cmp.Compare(a.run, b.run), cmp.Compare(a.label, b.label))
	}) {
		labels = append(labels, []any{k.run, k.label})
	}
	for _, w := range []struct {
		sql  string
		rows [][]any
	}{{addMinutes, minutes}, {addRuns, runs}, {addLabels, labels}} {
		if err := s.add(ctx, tx, w.sql, w.rows); err != nil {
			return err
		}
	}
	return nil
}

// mostValues is how many values one statement takes, far below what any engine does.
const mostValues = 1000

// add runs a statement for rows of values.
func (s store) add(ctx context.Context, tx *storage.Tx, statement string, rows [][]any) error {
	for len(rows) > 0 {
		n := min(len(rows), mostValues/len(rows[0]))
		var values strings.Builder
		var args []any
		for i, row := range rows[:n] {
			values.WriteString(strings.Repeat(", ", min(i, 1)) + "(")
			for k := range row {
				values.WriteString(strings.Repeat(", ", min(k, 1)))
				if s.db.Dialect() == storage.SQLite {
					values.WriteByte('?') // numbered ones are names to SQLite, and looked up one by one
				} else {
					values.WriteString("$" + strconv.Itoa(len(args)+k+1))
				}
			}
			values.WriteByte(')')
			args = append(args, row...)
		}
		if _, err := tx.Exec(ctx, fmt.Sprintf(statement, values.String()), args...); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}
