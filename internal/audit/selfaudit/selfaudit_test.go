package selfaudit_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/audit/seal"
	"github.com/countersign/countersign/internal/audit/search"
	"github.com/countersign/countersign/internal/audit/selfaudit"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// ledger is a whole ledger with something in it.
type ledger struct {
	db    *storage.DB
	log   *audit.Log
	tree  *seal.Service
	index *search.Service
	s     *selfaudit.Service
	found []selfaudit.Problem // told to a person
}

func build(t *testing.T, db *storage.DB) *ledger {
	t.Helper()
	ctx := context.Background()
	g := &ledger{db: db}
	var err error
	if g.log, err = audit.Open(ctx, db, audit.Options{Redactor: inspection.New(), Keeper: audittest.Keeper("k")}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.log.Close(ctx) })
	sealer, err := seal.NewSealer(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	if g.tree, err = seal.New(ctx, db, g.log, seal.Options{Origin: "example.com/log", Sealer: sealer}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.tree.Stop(ctx) })
	if g.index, err = search.New(db, g.log, search.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := g.index.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.index.Stop(ctx) })
	g.s = selfaudit.New(db, g.log, g.tree, g.index, selfaudit.Options{Alert: func(_ context.Context, _ *audit.Tx, p selfaudit.Problem) error {
		g.found = append(g.found, p)
		return nil
	}})
	return g
}

// fill records calls, some of them about people who are erased later.
func (g *ledger) fill(t *testing.T, n int) {
	t.Helper()
	ctx := context.Background()
	for i := range n {
		ev := audit.Event{Agent: "a", Run: "run_1", Call: fmt.Sprintf("call_%d_%d", n, i), Connection: "ledger", Tool: "pay", Objects: []string{fmt.Sprintf("invoice/%d", i)}}
		r, err := g.log.Intent(ctx, ev, audit.Payload{Name: "arguments", Body: fmt.Appendf(nil, `{"invoice":"%d","note":"Überweisung für Müller"}`, i), Subject: fmt.Sprint("person ", i%3)})
		if err != nil {
			t.Fatal(err)
		}
		g.log.Outcome(r, audit.Event{Outcome: &audit.Outcome{Status: audit.Succeeded}}, audit.Payload{Name: "result", Body: []byte("paid")})
	}
	if _, err := g.log.Erase(ctx, audit.System, "asked", audit.Erasure{Subject: "person 1"}); err != nil {
		t.Fatal(err)
	}
	g.settled(t)
}

// settled waits until all outcomes are written, indexed and sealed.
func (g *ledger) settled(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		var open int
		if err := g.db.QueryRow(ctx, `SELECT count(*) FROM events AS i WHERE type = 'call.intent' AND NOT EXISTS (SELECT 1 FROM events AS o WHERE o.call = i.call AND o.type = 'call.outcome')`).Scan(&open); err != nil {
			t.Fatal(err)
		}
		behind, err := g.index.Behind(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if open == 0 && behind == 0 {
			break
		}
	}
	for {
		n, err := g.tree.Step(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if st, err := g.tree.Status(ctx); err != nil {
			t.Fatal(err)
		} else if n == 0 && st.Behind == 0 {
			return
		}
	}
}

// whole walks the whole ledger in slices of budget.
func (g *ledger) whole(t *testing.T, budget int64) (checked map[string]int64, problems []selfaudit.Problem) {
	t.Helper()
	checked = map[string]int64{}
	for at, n := (selfaudit.Position{}), 0; ; n++ {
		r, err := g.s.Slice(context.Background(), at, budget)
		if err != nil {
			t.Fatal(err)
		}
		checked[r.Part] += r.Checked
		problems = append(problems, r.Problems...)
		if at = r.Next; r.Done {
			return checked, problems
		}
		if n > 10000 {
			t.Fatal("it does not end")
		}
	}
}

func (g *ledger) exec(t *testing.T, q string, args ...any) {
	t.Helper()
	if err := g.db.Tx(context.Background(), func(tx *storage.Tx) error {
		res, err := tx.Exec(context.Background(), q, args...)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); n == 0 {
			return fmt.Errorf("%s changed nothing, %v", q, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestASoundLedgerIsSound(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		g := build(t, db)
		if checked, problems := g.whole(t, 100); len(problems) > 0 || checked[selfaudit.Log] == 0 {
			t.Errorf("an empty log: %v, %v", checked, problems)
		}
		g.fill(t, 60)
		total, err := g.s.Total(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, budget := range []int64{3, 300, 1 << 30} {
			if budget == 3 && db.Dialect() == storage.Postgres {
				continue // slow, and shows nothing else
			}
			checked, problems := g.whole(t, budget)
			if len(problems) > 0 {
				t.Errorf("budget %d: %v", budget, problems)
			}
			for _, part := range selfaudit.Parts {
				if checked[part] != total/4 {
					t.Errorf("budget %d: %d of %d records in part %s", budget, checked[part], total/4, part)
				}
			}
		}
		for _, at := range []selfaudit.Position{{Part: "x"}, {Part: "log", Lane: -1}, {Part: "tree", At: -5}} {
			if _, err := g.s.Slice(t.Context(), at, 10); err == nil {
				t.Errorf("%+v is a position", at)
			}
		}
		for _, at := range []selfaudit.Position{{Part: "log", Lane: 99}, {Part: "tree", At: 1 << 40}, {Part: "index", At: 1 << 40}, {Part: "calls", Lane: 1 << 40}} {
			if _, err := g.s.Slice(t.Context(), at, 10); err != nil {
				t.Errorf("%+v: %v", at, err)
			}
		}
	})
}

func TestWhatWasChangedIsFoundAndLocated(t *testing.T) {
	victim := `(SELECT id FROM events WHERE type = 'call.intent' AND call = 'call_12_9')`
	for _, c := range []struct{ name, part, change, where, message string }{
		{"a record", selfaudit.Log, `UPDATE events SET record = '{}' WHERE id = ` + victim, "event evt_", "the chain does not match"},
		{"a record, against the tree", selfaudit.Tree, `UPDATE events SET record = '{}' WHERE id = ` + victim, "record ", "it is not what was sealed"},
		{"a payload", selfaudit.Log, `UPDATE payloads SET body = $1 WHERE (lane, sn) IN (SELECT lane, sn FROM events WHERE id = ` + victim + `)`, "event evt_", "was changed"},
		{"a payload that is gone", selfaudit.Log, `DELETE FROM payloads WHERE (lane, sn) IN (SELECT lane, sn FROM events WHERE id = ` + victim + `)`, "event evt_", "0 payloads stand beside the record"},
		{"a tile", selfaudit.Tree, `UPDATE tiles SET bytes = $1 WHERE level = 0`, "", ""},
		{"a checkpoint", selfaudit.Tree, `UPDATE checkpoints SET note = note || 'x'`, "checkpoint of", ""},
		{"a column of the index", selfaudit.Index, `UPDATE search_events SET agent = 'nobody' WHERE id = ` + victim, "event evt_", "differs in the search index: agent"},
		{"a row of the index", selfaudit.Index, `DELETE FROM search_events WHERE id = ` + victim, "event evt_", "is not in the search index"},
		{"a row too many", selfaudit.Index, `UPDATE search_events SET place = place + 65536000 WHERE id = ` + victim, "event evt_", "is not in the search index"},
		{"an outcome", selfaudit.Calls, `UPDATE events SET type = 'call.settled' WHERE type = 'call.outcome' AND call = 'call_12_9'`, "event evt_", "call call_12_9 was let out and has no outcome"},
		{"two outcomes", selfaudit.Calls, `UPDATE events SET call = 'call_12_9' WHERE type = 'call.outcome' AND call = 'call_12_8'`, "event evt_", "has 2 outcomes"},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			look := func(t *testing.T, db *storage.DB) {
				g := build(t, db)
				g.fill(t, 12)
				var args []any
				if strings.Contains(c.change, "$1") {
					args = append(args, bytes.Repeat([]byte{1}, 8000))
				}
				g.exec(t, c.change, args...)
				_, problems := g.whole(t, 13)
				for _, p := range problems {
					if p.Part == c.part && strings.Contains(p.Where, c.where) && strings.Contains(p.Message, c.message) {
						return
					}
				}
				t.Errorf("not found: %v", problems)
			}
			if c.name == "a row too many" || c.name == "an outcome" { // what engines do in their own ways
				storagetest.Each(t, look)
			} else {
				look(t, storagetest.Open(t, storagetest.SQLite(t)))
			}
		})
	}
}

func TestWordsThatAreMissingAreFound(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		g := build(t, db)
		g.fill(t, 12)
		q := `UPDATE search_text SET words = 'none' WHERE rowid IN (SELECT doc FROM search_events WHERE call = 'call_12_3')`
		if db.Dialect() == storage.Postgres {
			q = `UPDATE search_events SET blind = '' WHERE call = 'call_12_3'`
		}
		g.exec(t, q)
		if _, problems := g.whole(t, 100); len(problems) != 2 || !strings.Contains(problems[0].Message, "not in the search index") {
			t.Errorf("%v", problems)
		}
	})
}

// The background goes on where it stopped, wraps around, and tells.
func TestTheBackgroundGoesRound(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := t.Context()
		g := build(t, db)
		g.fill(t, 300)
		rounds := func() int64 {
			st, err := g.s.Status(ctx)
			if err != nil {
				t.Fatal(err)
			}
			return st.Rounds
		}
		look := func(until int64) {
			for n := 0; rounds() < until; n++ {
				if _, err := g.s.Look(ctx); err != nil {
					t.Fatal(err)
				}
				if n > 100 {
					t.Fatal("it does not get round")
				}
			}
		}
		if _, err := g.s.Look(ctx); err != nil {
			t.Fatal(err)
		}
		if st, err := g.s.Status(ctx); err != nil || st.Part == "" || st.Rounds != 0 || st.Ran.IsZero() {
			t.Errorf("%+v, %v", st, err)
		}
		// Another replica waits for the lease, and then goes on.
		other := selfaudit.New(db, g.log, g.tree, g.index, selfaudit.Options{Alert: func(context.Context, *audit.Tx, selfaudit.Problem) error { return nil }})
		before, err := g.s.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := other.Look(ctx); err != nil {
			t.Fatal(err)
		}
		if after, err := g.s.Status(ctx); err != nil || after.Position != before.Position {
			t.Errorf("two look at a time: %+v, %+v, %v", before, after, err)
		}
		look(1)
		if len(g.found) > 0 {
			t.Fatalf("found %v", g.found)
		}
		g.exec(t, `UPDATE search_events SET agent = 'nobody' WHERE call = 'call_300_7' AND type = 'call.intent'`)
		look(2)
		look(3)
		if len(g.found) < 1 || g.found[0].Part != selfaudit.Index || !strings.Contains(g.found[0].Message, "agent") {
			t.Errorf("found %v", g.found)
		}
		recs, err := g.log.List(ctx, audit.Query{Types: []audit.Type{selfaudit.Mismatched}})
		if err != nil || len(recs) != len(g.found) || !strings.Contains(string(recs[0].Event.Detail), "event evt_") {
			t.Errorf("%d events of %d, %v", len(recs), len(g.found), err)
		}
	})
}
