package search_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/search"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// fillCounts makes events of five runs in an hour: of each run two calls and
// their outcomes, some denied, held or failed.
func (f *fixture) fillCounts(t *testing.T) {
	t.Helper()
	for i := range 5 {
		of := audit.Event{Agent: fmt.Sprintf("agent-%d", i%2), Owner: "olga", Stage: "production", Run: fmt.Sprintf("run_%d", i)}
		started := of
		started.Type = "run.started"
		f.add(t, fmt.Sprintf("start %d", i), 10*i, started)
		for k := range 2 + i {
			ev := of
			ev.Type, ev.Call = audit.CallIntent, fmt.Sprintf("call_%d_%d", i, k)
			ev.Decision = &audit.Decision{Effect: "allow", Micros: int64(100 * (k + 1))}
			if i == 3 && k == 1 {
				ev.Labels = []string{"untrusted", "pii"}
			}
			switch {
			case k == 0 && i > 2:
				ev.Type = audit.CallDenied
			case k == 1 && i == 4:
				ev.Type = audit.CallHeld
			case k == 2 && i == 4:
				ev.Type = audit.CallRefused
			}
			if ev.Type != audit.CallIntent {
				f.add(t, ev.Call, 10*i+k, ev)
				continue
			}
			ev.Time = start.Add(time.Duration(10*i+k) * time.Minute)
			receipt, err := f.log.Intent(context.Background(), ev)
			if err != nil {
				t.Fatal(err)
			}
			ev.Type, ev.Decision, ev.Outcome = audit.CallOutcome, nil, &audit.Outcome{Status: audit.Succeeded}
			if k == 3 {
				ev.Outcome.Status = audit.Failed
			}
			f.log.Outcome(receipt, ev)
		}
	}
	ended := audit.Event{Type: "run.ended", Run: "run_0", Actor: audit.Person("usr_1", "ada")}
	f.add(t, "end", 55, ended)
	for until := time.Now().Add(30 * time.Second); f.rate(t).Total.Failed < 3 && time.Now().Before(until); {
		time.Sleep(10 * time.Millisecond) // outcomes are recorded behind the calls
	}
	f.caughtUp(t)
	f.add(t, "another", 40, audit.Event{Type: audit.CallDenied, Agent: "agent-0"}) // in a minute that was counted before
	f.caughtUp(t)
}

func (f *fixture) rate(t *testing.T) search.Rate {
	t.Helper()
	r, err := f.s.Rate(context.Background(), 60)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (f *fixture) runs(t *testing.T, q search.RunQuery) []search.Run {
	t.Helper()
	var all []search.Run
	for {
		page, next, err := f.s.Runs(context.Background(), q)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) > q.Limit && q.Limit > 0 {
			t.Fatalf("%d runs on a page of %d", len(page), q.Limit)
		}
		all = append(all, page...)
		if q.After = next; next == "" {
			return all
		}
	}
}

func (f *fixture) runIDs(t *testing.T, q search.RunQuery) string {
	t.Helper()
	var ids []string
	for _, r := range f.runs(t, q) {
		ids = append(ids, strings.TrimPrefix(r.ID, "run_"))
	}
	return strings.Join(ids, " ")
}

// Counts are what the log holds, minute by minute and run by run, also after
// the index was built again and after an upgrade from before there were counts.
func TestCounts(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		db := storagetest.Open(t, dsn)
		f := setup(t, db)
		f.fillCounts(t)
		f.checkCounts(t, true)
		if err := f.s.Rebuild(context.Background(), audit.System, "test"); err != nil {
			t.Fatal(err)
		}
		f.caughtUp(t)
		f.checkCounts(t, true)

		if err := f.s.Stop(context.Background()); err != nil {
			t.Fatal(err)
		}
		err := db.Tx(context.Background(), func(tx *storage.Tx) error {
			for _, q := range []string{`DROP TABLE search_run_labels`, `DROP TABLE search_runs`, `DROP TABLE search_minutes`, `DELETE FROM goose_db_version WHERE version_id = 300`} {
				if _, err := tx.Exec(context.Background(), q); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.log.Close(context.Background()), db.Close()); err != nil {
			t.Fatal(err)
		}
		f = setup(t, storagetest.Open(t, dsn))
		f.caughtUp(t)
		f.checkCounts(t, false)
	})
}

func (f *fixture) checkCounts(t *testing.T, timed bool) {
	t.Helper()
	r := f.rate(t)
	if got := r.Total; len(r.Minutes) != 61 || got.Allowed != 16 || got.Denied != 3 || got.Held != 1 || got.Refused != 1 || got.Failed != 3 || r.Behind != 0 {
		t.Errorf("%+v", r)
	}
	m := r.Minutes[40] // run_4's first: denied, and another
	if !m.At.Equal(start.Add(40*time.Minute)) || m.Denied != 2 || m.Allowed != 0 || r.Minutes[10].Allowed != 1 || r.Minutes[9] != (search.Minute{At: start.Add(9 * time.Minute)}) {
		t.Errorf("%+v %+v %+v", m, r.Minutes[10], r.Minutes[9])
	}
	if near := func(got, want int64) bool { return got*100 > want*90 && got*100 < want*110 }; timed && (!near(m.Added, 100) || !near(r.Minutes[42].Added, 300)) {
		t.Errorf("%d %d: what deciding takes is off", m.Added, r.Minutes[42].Added)
	}
	all := f.runs(t, search.RunQuery{})
	if len(all) != 5 || all[0].ID != "run_0" { // ended last
		t.Fatalf("%+v", all)
	}
	if got := all[0]; got.Calls != 2 || !got.Ended || got.Agent != "agent-0" || got.Owner != "olga" || got.Stage != "production" || !got.First.Equal(start) || !got.Last.Equal(start.Add(55*time.Minute)) {
		t.Errorf("%+v", got)
	}
	if got := all[1]; got.ID != "run_4" || got.Calls != 6 || got.Refused != 2 || got.Held != 1 || got.Failed != 1 || got.Ended {
		t.Errorf("%+v", got)
	}
	if got := all[2]; got.ID != "run_3" || !slices.Equal(got.Labels, []string{"pii", "untrusted"}) {
		t.Errorf("%+v", got)
	}
	for _, x := range []struct {
		q    search.RunQuery
		want string
	}{
		{search.RunQuery{Limit: 2}, "0 4 3 2 1"},
		{search.RunQuery{Limit: 2, Rising: true}, "1 2 3 4 0"},
		{search.RunQuery{Limit: 1, Sort: "first"}, "4 3 2 1 0"},
		{search.RunQuery{Limit: 2, Sort: "calls"}, "4 3 2 1 0"},
		{search.RunQuery{Limit: 2, Sort: "calls", Rising: true}, "0 1 2 3 4"},
		{search.RunQuery{Agent: "agent-1"}, "3 1"},
		{search.RunQuery{With: "refused"}, "4 3"},
		{search.RunQuery{With: "held", Limit: 1}, "4"},
		{search.RunQuery{With: "failed", Limit: 1}, "4 3 2"},
		{search.RunQuery{Label: "pii"}, "3"},
		{search.RunQuery{Text: "UNTRUST agent-1"}, "3"},
		{search.RunQuery{Text: "run_2"}, "2"},
		{search.RunQuery{Text: "%"}, ""},
	} {
		if got := f.runIDs(t, x.q); got != x.want {
			t.Errorf("%+v: %s, not %s", x.q, got, x.want)
		}
	}
}

func TestRunsRefused(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		f := setup(t, db)
		for _, q := range []search.RunQuery{{Sort: "agent"}, {With: "love"}, {After: "!"}, {After: "MQ"}, {After: "eC9y"}} {
			if _, _, err := f.s.Runs(context.Background(), q); fault.KindOf(err) != fault.Invalid {
				t.Errorf("%+v: %v", q, err)
			}
		}
		if _, _, err := f.s.Runs(context.Background(), search.RunQuery{After: "x"}); !errors.Is(err, search.ErrRunCursor) {
			t.Error(err)
		}
		if got := f.runs(t, search.RunQuery{Text: "\x00", Agent: "\x00"[:0]}); len(got) != 0 {
			t.Errorf("%+v", got)
		}
	})
}

// What people and programs ask for.
func TestCountsAPI(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		f := setup(t, db)
		f.fillCounts(t)
		do := serve(t, f)
		var r search.Rate
		if code, body := do("GET", "viewer /api/v1/log/rate?minutes=10", &r); code != 200 || len(r.Minutes) != 11 {
			t.Errorf("%d %s", code, body)
		}
		var p search.RunPage
		if code, body := do("GET", "viewer /api/v1/log/runs?limit=2&sort=calls", &p); code != 200 || len(p.Runs) != 2 || p.Next == "" {
			t.Errorf("%d %s", code, body)
		}
		for _, path := range []string{"/rate?minutes=-1", "/rate?minutes=1441", "/runs?sort=agent", "/runs?cursor=x", "/runs?with=x"} {
			if code, body := do("GET", "viewer /api/v1/log"+path, nil); code != 422 && code != 400 {
				t.Errorf("%s: %d %s", path, code, body)
			}
		}
	})
}
