package posture_test

import (
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/posture"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// A trend covers the period without a gap, and what a requirement was over it is
// what all its predicates were together.
func TestTrendsCoverThePeriod(t *testing.T) {
	w := build(t)
	w.business()
	w.ahead = -50 * time.Hour
	if e := w.evaluate("E4"); e.Result != posture.Pass {
		t.Fatalf("%+v", e)
	}
	w.ahead = 0
	w.doors = "open"
	for _, id := range []string{"E4", "E7"} {
		w.evaluate(id)
	}
	trends, err := w.Trends(ctx, "", 10)
	w.must(err)
	var results []posture.Result
	for _, tr := range trends {
		at := tr.Segments[0].From
		for _, x := range tr.Segments {
			if !x.From.Equal(at) || !x.To.After(x.From) {
				t.Errorf("%s: %v to %v after %v", tr.Predicate, x.From, x.To, at)
			}
			if at = x.To; tr.Predicate == "E4" {
				results = append(results, x.Result)
				if (x.Evidence == "") != (x.Result == posture.NoData) {
					t.Errorf("%+v", x)
				}
			}
		}
		if at.Sub(tr.Segments[0].From) != 240*time.Hour {
			t.Errorf("%s covers %v", tr.Predicate, at.Sub(tr.Segments[0].From))
		}
	}
	if len(trends) != 12 || !slices.Equal(results, []posture.Result{posture.NoData, posture.Pass, posture.NoData, posture.Pass}) {
		t.Errorf("%d trends, E4 was %v", len(trends), results)
	}
	if _, err := w.Trends(ctx, "E99", 10); !errors.Is(err, posture.ErrUnknown) {
		t.Error(err)
	}
	c, err := w.Catalog(ctx, "soc2", 10)
	w.must(err)
	for _, q := range c.Requirements {
		if len(q.Evidence) > 0 && q.Shares[posture.NoData] < 80 || len(q.Evidence) == 0 && q.Shares != nil {
			t.Errorf("%s: %v", q.ID, q.Shares)
		}
	}
}

func TestPredicatesThatMustAllHold(t *testing.T) {
	from := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	at := func(h int) time.Time { return from.Add(time.Duration(h) * time.Hour) }
	a := []posture.Stretch{{Result: posture.Pass, From: at(0), Until: at(100)}}
	b := []posture.Stretch{{Result: posture.NotApplicable, From: at(0), Until: at(40)}, {Result: posture.Fail, From: at(40), Until: at(60)}}
	got := posture.SharesTogether(from, at(100), a, b)
	if got[posture.Pass] != 40 || got[posture.Fail] != 20 || got[posture.NoData] != 40 {
		t.Errorf("%v", got)
	}
}

// A run that nobody waits for tells how far it is; another one waits for it.
func TestARunTellsHowFarItIs(t *testing.T) {
	w := build(t)
	w.business()
	if p, err := w.Progress(ctx); err != nil || p.Running || p.Run != "" {
		t.Errorf("before any: %+v, %v", p, err)
	}
	w.slow = make(chan struct{})
	p, err := w.Begin(ctx, audit.Person("usr_1", "olga"), "before the audit", "E7", "E2")
	if err != nil || !p.Running || p.By != "olga" || !slices.Equal(p.Asked, []string{"E2", "E7"}) {
		t.Errorf("%+v, %v", p, err)
	}
	w.soon(func() bool {
		p, err := w.Progress(ctx)
		w.must(err)
		return p.Running && slices.Equal(p.Done, []string{"E2"}) && w.waiting.Load()
	})
	if _, err := w.Begin(ctx, audit.System, "", "E4"); !errors.Is(err, posture.ErrBusy) {
		t.Errorf("a second run: %v", err)
	}
	w.ahead = time.Hour // it did not move for an hour: its server ended
	if p, err := w.Progress(ctx); err != nil || p.Running || !strings.Contains(p.Problem, "given up") {
		t.Errorf("%+v, %v", p, err)
	}
	w.mu.Lock()
	w.ahead = 0
	w.mu.Unlock()
	close(w.slow)
	w.soon(func() bool { p, err := w.Progress(ctx); w.must(err); return !p.Running })
	d, err := w.Detail(ctx, "E7")
	if err != nil || d.Result != posture.Pass {
		t.Errorf("%s (%s), %v", d.Result, d.Reason, err)
	}
	w.must(w.Stop(ctx))
	w.slow, w.waiting = nil, atomic.Bool{}
	if _, err := w.Begin(ctx, audit.System, "", "E2"); err != nil {
		t.Error(err)
	}
	w.soon(func() bool {
		p, err := w.Progress(ctx)
		w.must(err)
		return !p.Running && p.Problem != ""
	})
}

// Results are kept for as long as they are to be, the newest for ever; a drill
// leaves nothing in the lifecycle.
func TestOldResultsAreDeleted(t *testing.T) {
	storagetest.EachDSN(t, oldResultsAreDeleted)
}

func oldResultsAreDeleted(t *testing.T, dsn string) {
	w := buildOn(t, dsn)
	w.business()
	w.ahead = -401 * 24 * time.Hour
	old := []string{w.evaluate("E2").ID, w.evaluate("E4").ID}
	w.ahead = 0
	now := w.evaluate("E2")
	w.evaluate("E8")
	w.must(w.Due(ctx))
	if _, err := w.Evidence(ctx, old[0]); !errors.Is(err, posture.ErrNotFound) {
		t.Errorf("a result of 401 days: %v", err)
	}
	for _, id := range []string{old[1], now.ID} { // E4's was its newest until Due
		if _, err := w.Evidence(ctx, id); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
	recs, err := w.log.List(ctx, audit.Query{Types: []audit.Type{posture.Expired}})
	if err != nil || len(recs) != 1 || !strings.Contains(string(recs[0].Raw), `"results":1`) {
		t.Errorf("%+v, %v", recs, err)
	}
	left, err := w.lifecycle.Decommissions(ctx)
	if err != nil || len(left) != 0 {
		t.Errorf("%+v, %v", left, err)
	}
	var runs int
	w.must(w.db.QueryRow(ctx, `SELECT COUNT(*) FROM posture_runs WHERE started < $1`, storage.Micros(time.Now().Add(-400*24*time.Hour))).Scan(&runs))
	if runs != 1 {
		t.Errorf("%d old runs", runs)
	}
}
