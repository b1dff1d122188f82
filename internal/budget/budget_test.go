package budget_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/budget"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

var (
	ctx   = context.Background()
	quiet = slog.New(slog.DiscardHandler)
	root  = audit.Person("usr_root", "root")
)

type clean struct{}

func (clean) Redact(b []byte) []byte { return b }

// replica is the room on a database that others may use too.
type replica struct {
	*budget.Service
	watch    *storage.Watcher
	log      *audit.Log
	findings *findings.Service
	db       *storage.DB
}

// logs holds the one log of each database file: SQLite has one process, in
// which replicas of this room share it.
var logs sync.Map

func join(t testing.TB, db *storage.DB, o budget.Options) *replica {
	t.Helper()
	var log *audit.Log
	if known, ok := logs.Load(db); ok && db.Dialect() == storage.SQLite {
		log = known.(*audit.Log)
	} else {
		var err error
		if log, err = audit.Open(ctx, db, audit.Options{Redactor: clean{}, Keeper: audittest.Keeper("k")}); err != nil {
			t.Fatal(err)
		}
		logs.Store(db, log)
		t.Cleanup(func() { logs.Delete(db); log.Close(ctx) })
	}
	r := &replica{watch: storage.NewWatcher(db, quiet), log: log, db: db, findings: findings.New(db, log, nil)}
	o.Findings = r.findings
	var err error
	if r.Service, err = budget.New(db, log, r.watch, o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(ctx) })
	if err := r.watch.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.watch.Stop)
	return r
}

func (r *replica) set(t testing.TB, b budget.Budget) budget.Budget {
	t.Helper()
	b, err := r.Put(ctx, root, "test", b)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (r *replica) poll(t testing.TB) {
	t.Helper()
	if err := r.watch.Poll(ctx); err != nil {
		t.Fatal(err)
	}
}

// used waits until the latest window of a budget is as it should be.
func (r *replica) used(t testing.TB, name string, spent, reserved int64) {
	t.Helper()
	var got string
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		u, err := r.Used(ctx, name, 10)
		if err != nil {
			t.Fatal(err)
		}
		got = fmt.Sprint(u.Windows)
		if len(u.Windows) > 0 && u.Windows[0].Spent == spent && u.Windows[0].Reserved == reserved {
			return
		}
	}
	t.Fatalf("%s: want %d spent and %d reserved, have %s", name, spent, reserved, got)
}

func call() *budget.Call {
	return &budget.Call{ID: id.New(id.Call), Run: "run_1", Chain: []budget.Member{{Agent: "bot", Team: "ops"}}, Connection: "ledger", Tool: "pay", Effect: true}
}

func ask(model string, input, output int64) *budget.Call {
	c := call()
	c.Connection, c.Tool, c.Effect = "openai", "chat.completions", false
	c.Model = func() budget.Use { return budget.Use{Model: model, Input: input, Output: output} }
	return c
}

func succeeded(u *audit.Usage) audit.Outcome { return audit.Outcome{Status: audit.Succeeded, Usage: u} }

// 200 calls at once on three replicas against a budget for 50: exactly 50 pass,
// and of what they hold nothing is left when they have ended.
func TestConcurrentCallsDoNotOvershoot(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		replicas := []*replica{join(t, db, budget.Options{}), join(t, db, budget.Options{}), join(t, db, budget.Options{})}
		replicas[0].set(t, budget.Budget{Name: "fifty", Meter: budget.Calls, Agent: "bot", Period: budget.Total, Hard: 50})
		replicas[0].set(t, budget.Budget{Name: "wide", Meter: budget.Effects, Team: "ops", Period: budget.Month, Hard: 1000})
		for _, r := range replicas {
			r.poll(t)
		}
		var passed, refused atomic.Int64
		var held sync.Map
		var all sync.WaitGroup
		for i := range 200 {
			all.Go(func() {
				res, err := replicas[i%3].Reserve(ctx, call())
				switch {
				case err == nil:
					passed.Add(1)
					held.Store(i, res)
				case errors.Is(err, budget.ErrExceeded):
					refused.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		all.Wait()
		if passed.Load() != 50 || refused.Load() != 150 {
			t.Fatalf("%d passed, %d refused", passed.Load(), refused.Load())
		}
		replicas[1].used(t, "fifty", 0, 50)
		replicas[1].used(t, "wide", 0, 50) // what was refused by one budget holds nothing of another
		held.Range(func(_, v any) bool {
			v.(*budget.Reservation).Settle(succeeded(nil), true)
			v.(*budget.Reservation).Settle(succeeded(nil), true) // no effect
			return true
		})
		replicas[2].used(t, "fifty", 50, 0)
		replicas[2].used(t, "wide", 50, 0)
	})
}

// What a call used counts, not what it might have used; what is not known counts
// as reserved; and no number from outside breaks the sum.
func TestSettling(t *testing.T) {
	usage := func(in, out int64) *audit.Usage { return &audit.Usage{Model: "m", Input: in, Output: out} }
	cases := map[string]struct {
		outcome audit.Outcome
		sent    bool
		spent   int64
	}{
		"said":              {succeeded(usage(10, 20)), true, 30},
		"more than asked":   {succeeded(usage(900, 900)), true, 1800},
		"not said":          {succeeded(nil), true, 300},
		"cut off":           {audit.Outcome{Status: audit.Cancelled, Usage: usage(10, 1)}, true, 300},
		"broken":            {audit.Outcome{Status: audit.Broken}, true, 300},
		"unknown":           {audit.Outcome{Status: audit.Unknown}, true, 300},
		"refused upstream":  {audit.Outcome{Status: audit.Failed, Code: 500}, true, 0},
		"never sent":        {audit.Outcome{Status: audit.Broken}, false, 0},
		"negative":          {succeeded(usage(-5, 20)), true, 300},
		"more than numbers": {succeeded(usage(math.MaxInt64, math.MaxInt64)), true, 1_000_000_000_000},
	}
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		r := join(t, db, budget.Options{})
		for name, c := range cases {
			r.set(t, budget.Budget{Name: "b", Meter: budget.Tokens, Period: budget.Day, Hard: budget.MostLimit})
			res, err := r.Reserve(ctx, ask("m", 100, 200))
			if err != nil {
				t.Fatal(err)
			}
			r.used(t, "b", 0, 300)
			res.Settle(c.outcome, c.sent)
			t.Log(name)
			r.used(t, "b", c.spent, 0)
			if err := r.Delete(ctx, root, "next", "b"); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A model without a price counts at the dearest that is known, and that is shown.
func TestPriceMissing(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		r := join(t, db, budget.Options{})
		known := r.Prices().Cost("gpt-4o-2024-08-06", 1_000_000, 0, 1_000_000)
		if known.Amount != 12_500_000 || strings.HasPrefix(known.Priced, "dearest") || known.Currency != "USD" {
			t.Error(known)
		}
		if c := r.Prices().Cost("gpt-4o", 1000, 400, 0); c.Amount != 2000 { // 600 at 2.5 and 400 at 1.25
			t.Error(c)
		}
		if first := r.Prices().Cost("gpt-4o-2024-05-13", 1_000_000, 0, 1_000_000); first.Amount != 20_000_000 { // it costs more than its namesakes
			t.Error(first)
		}
		unknown := r.Prices().Cost("gpt-4o-ultra", 1_000_000, 0, 1_000_000)
		if unknown.Amount != 750_000_000 || !strings.HasPrefix(unknown.Priced, "dearest ") {
			t.Error(unknown)
		}
		r.set(t, budget.Budget{Name: "b", Meter: budget.Money, Period: budget.Total, Hard: 1_000_000})
		if _, err := r.Reserve(ctx, ask("gpt-4o-ultra", 10_000, 1)); !errors.Is(err, budget.ErrExceeded) { // 1.50 at the dearest
			t.Error(err)
		}
		p, err := r.SetPrice(ctx, root, "contract", budget.Price{Model: "gpt-4o-ultra", Input: 1, Cached: 1, Output: 2, MaxOutput: 100})
		if err != nil || p.By != "root" {
			t.Fatal(p, err)
		}
		res, err := r.Reserve(ctx, ask("gpt-4o-ultra", 10_000, 0))
		if err != nil {
			t.Fatal(err)
		}
		r.used(t, "b", 0, 10_200)
		res.Settle(succeeded(&audit.Usage{Model: "gpt-4o-ultra-latest", Input: 500, Output: 50}), true)
		r.used(t, "b", 600, 0)
		if err := r.RemovePrice(ctx, root, "gone", "gpt-4o-ultra"); err != nil {
			t.Fatal(err)
		}
		if c := r.Prices().Cost("gpt-4o-ultra", 1, 0, 0); c.Amount != 150 {
			t.Error(c)
		}
		for _, bad := range []budget.Price{{}, {Model: "m", Input: -1}, {Model: "m", Output: math.NaN()}, {Model: "m", Input: 1e9}, {Model: "a b"}, {Model: "m", MaxOutput: -1}} {
			if _, err := r.SetPrice(ctx, root, "x", bad); !errors.Is(err, budget.ErrPrice) {
				t.Error(bad, err)
			}
		}
	})
}

// Periods begin anew by one clock, in the budget's zone; a call that is settled
// later counts where it was reserved.
func TestPeriodsBeginAnew(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		var now atomic.Pointer[time.Time]
		at := func(s string) {
			v, err := time.Parse(time.RFC3339, s)
			if err != nil {
				t.Fatal(err)
			}
			now.Store(&v)
		}
		at("2027-03-28T21:59:59Z")
		r := join(t, db, budget.Options{Now: func() time.Time { return *now.Load() }})
		r.set(t, budget.Budget{Name: "berlin", Meter: budget.Calls, Tool: "ledger/pay", Period: budget.Day, Zone: "Europe/Berlin", Hard: 1})
		r.set(t, budget.Budget{Name: "utc", Meter: budget.Calls, Tool: "ledger/*", Period: budget.Month, Hard: 3})
		first, err := r.Reserve(ctx, call())
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.Reserve(ctx, call())
		x, ok := errors.AsType[*budget.Exceeded](err)
		if !ok || x.Budget != "berlin" || x.Retry != time.Second || !strings.Contains(err.Error(), "begins anew at 2027-03-28T22:00:00Z") {
			t.Fatal(err)
		}
		at("2027-03-28T22:00:00Z") // midnight in Berlin, by its summer time
		second, err := r.Reserve(ctx, call())
		if err != nil {
			t.Fatal(err)
		}
		first.Settle(succeeded(nil), true)
		second.Settle(succeeded(nil), true)
		r.used(t, "utc", 2, 0)
		u, err := r.Used(ctx, "berlin", 10)
		if err != nil || len(u.Windows) != 2 || u.Windows[0].Spent != 1 || u.Windows[1].Spent != 1 {
			t.Error(u, err)
		}
		at("2027-03-29T22:00:00Z")
		if _, err := r.Reserve(ctx, call()); err != nil {
			t.Fatal(err)
		}
		at("2027-03-30T22:00:00Z")
		if _, err = r.Reserve(ctx, call()); err == nil || !strings.Contains(err.Error(), "utc") {
			t.Fatal(err)
		}
		at("2027-04-01T00:00:00Z")
		if _, err = r.Reserve(ctx, call()); err != nil {
			t.Fatal(err)
		}
	})
}

// Replicas whose own clocks disagree share the periods of the database.
func TestClocksThatDisagree(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		here, there := join(t, db, budget.Options{}), join(t, db, budget.Options{})
		here.set(t, budget.Budget{Name: "b", Meter: budget.Calls, Period: budget.Month, Hard: 2})
		there.poll(t)
		// The identifier of a call carries the clock of its replica; nothing else does.
		early, late := call(), call()
		early.ID, late.ID = id.At(id.Call, time.Now().AddDate(0, -3, 0)), id.At(id.Call, time.Now().AddDate(0, 3, 0))
		if _, err := here.Reserve(ctx, early); err != nil {
			t.Fatal(err)
		}
		if _, err := there.Reserve(ctx, late); err != nil {
			t.Fatal(err)
		}
		if _, err := here.Reserve(ctx, call()); !errors.Is(err, budget.ErrExceeded) {
			t.Fatal(err)
		}
		if u, err := there.Used(ctx, "b", 10); err != nil || len(u.Windows) != 1 || u.Windows[0].Reserved != 2 {
			t.Error(u, err)
		}
	})
}

// Of a process that died nothing stays reserved: what has an outcome is settled
// by it, unknown counts as used, what never left is given back, and what is
// under way stays. Two who find the same settle it once.
func TestReservationsOfTheDead(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		o := budget.Options{Valid: time.Nanosecond, Look: time.Nanosecond, Sweep: time.Hour}
		r, other := join(t, db, o), join(t, db, o)
		r.set(t, budget.Budget{Name: "b", Meter: budget.Tokens, Period: budget.Total, Hard: 10_000})
		calls := map[string]*budget.Call{}
		reserved := map[string]*budget.Reservation{}
		for _, name := range []string{"ended", "unknown", "never", "going"} {
			calls[name] = ask("m", 100, 100)
			var err error
			if reserved[name], err = r.Reserve(ctx, calls[name]); err != nil {
				t.Fatal(err)
			}
		}
		r.used(t, "b", 0, 800)
		if !reserved["never"].Late() {
			t.Error("a call whose reservation may be taken for that of a dead process may still go out")
		}
		for _, name := range []string{"ended", "unknown", "going"} {
			receipt, err := r.log.Intent(ctx, audit.Event{Call: calls[name].ID, Actor: audit.System})
			if err != nil {
				t.Fatal(err)
			}
			switch name {
			case "ended":
				r.log.Outcome(receipt, audit.Event{Actor: audit.System, Outcome: &audit.Outcome{Status: audit.Succeeded, Usage: &audit.Usage{Model: "m", Input: 7, Output: 3}}})
			case "unknown":
				r.log.Outcome(receipt, audit.Event{Actor: audit.System, Outcome: &audit.Outcome{Status: audit.Unknown}})
			}
		}
		for deadline := time.Now().Add(30 * time.Second); ; {
			recs, err := r.log.List(ctx, audit.Query{Types: []audit.Type{audit.CallOutcome}, Limit: 10})
			if err != nil || time.Now().After(deadline) {
				t.Fatal(len(recs), err)
			}
			if len(recs) == 2 {
				break
			}
		}
		var both sync.WaitGroup
		for _, x := range []*replica{r, other} {
			both.Go(func() {
				for range 3 {
					if err := x.Sweep(ctx); err != nil {
						t.Error(err)
					}
				}
			})
		}
		both.Wait()
		other.used(t, "b", 210, 200)
		// The call that was taken for one that never left goes on after all: it counts.
		reserved["never"].Settle(succeeded(&audit.Usage{Input: 5}), true)
		reserved["ended"].Settle(succeeded(&audit.Usage{Input: 5000}), true) // second: no effect
		other.used(t, "b", 215, 200)
		reserved["going"].Release()
		other.used(t, "b", 215, 0)
	})
}

// A soft limit lets calls pass and tells people once; a hard one tells them that
// calls are refused.
func TestPeopleAreTold(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		r, other := join(t, db, budget.Options{}), join(t, db, budget.Options{})
		r.set(t, budget.Budget{Name: "b", Meter: budget.Calls, Each: budget.EachAgent, Period: budget.Total, Soft: 2, Hard: 3})
		other.poll(t)
		for i := range 5 {
			res, err := []*replica{r, other}[i%2].Reserve(ctx, call())
			if (err == nil) != (i < 3) {
				t.Fatal(i, err)
			}
			res.Settle(succeeded(nil), true)
		}
		r.used(t, "b", 3, 0)
		for _, x := range []*replica{r, other} {
			if err := x.Close(ctx); err != nil {
				t.Fatal(err)
			}
		}
		for _, kind := range []audit.Type{"budget.warned", "budget.exhausted"} {
			recs, err := r.log.List(ctx, audit.Query{Types: []audit.Type{kind}, Limit: 10})
			if err != nil || len(recs) != 1 || recs[0].Event.Object != "budget/b" || recs[0].Event.Agent != "bot" {
				t.Error(kind, len(recs), err)
			}
		}
		found, err := r.findings.List(ctx, findings.Query{Object: "budget/b"})
		rules := []string{}
		for _, f := range found {
			rules = append(rules, f.Rule)
		}
		slices.Sort(rules)
		if err != nil || !slices.Equal(rules, []string{"budget.exhausted", "budget.soft"}) {
			t.Error(rules, err)
		}
	})
}

// A limit that changes keeps what was used; another count begins at nothing.
func TestChanging(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		r := join(t, db, budget.Options{})
		b := r.set(t, budget.Budget{Name: "b", Meter: budget.Calls, Period: budget.Total, Hard: 5})
		res, err := r.Reserve(ctx, call())
		if err != nil {
			t.Fatal(err)
		}
		if again := r.set(t, b); !again.Updated.Equal(b.Updated) {
			t.Error("the same again changed something")
		}
		b.Hard = 1
		r.set(t, b)
		if _, err := r.Reserve(ctx, call()); !errors.Is(err, budget.ErrExceeded) {
			t.Error(err)
		}
		b.Period = budget.Month
		r.set(t, b)
		other, err := r.Reserve(ctx, call())
		if err != nil {
			t.Error(err)
		}
		res.Settle(succeeded(nil), true) // of what is not there any more
		r.used(t, "b", 0, 1)
		if err := r.Delete(ctx, root, "enough", "b"); err != nil {
			t.Fatal(err)
		}
		other.Settle(succeeded(nil), true)
		if res, err := r.Reserve(ctx, call()); res != nil || err != nil {
			t.Error(res, err)
		}
		if err := r.Delete(ctx, root, "enough", "b"); !errors.Is(err, budget.ErrNotFound) {
			t.Error(err)
		}
	})
}

// A replica that cannot see budgets, or not write them, refuses.
func TestFailsClosed(t *testing.T) {
	db := storagetest.Open(t, storagetest.SQLite(t))
	r := join(t, db, budget.Options{})
	r.set(t, budget.Budget{Name: "b", Meter: budget.Calls, Period: budget.Total, Soft: 5})
	rename := func(from, to string) {
		t.Helper()
		if err := db.Tx(ctx, func(tx *storage.Tx) error {
			_, err := tx.Exec(ctx, `ALTER TABLE `+from+` RENAME TO `+to)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	rename("budget_windows", "elsewhere")
	if _, err := r.Reserve(ctx, call()); !errors.Is(err, budget.ErrUnavailable) {
		t.Error(err)
	}
	rename("elsewhere", "budget_windows")
	if _, err := r.Reserve(ctx, call()); err != nil {
		t.Error(err)
	}
	r.watch.Stop()
	for deadline := time.Now().Add(30 * time.Second); r.watch.Fresh(); {
		if time.Now().After(deadline) {
			t.Fatal("the view stays fresh")
		}
		time.Sleep(5 * time.Millisecond)
	}
	if _, err := r.Reserve(ctx, call()); !r.Any() || !errors.Is(err, budget.ErrUnavailable) {
		t.Error(err)
	}
}

func TestWhatABudgetIsFor(t *testing.T) {
	db := storagetest.Open(t, storagetest.SQLite(t))
	for name, c := range map[string]struct {
		b    budget.Budget
		uses bool
	}{
		"agent":       {budget.Budget{Agent: "bot"}, true},
		"other":       {budget.Budget{Agent: "bot2"}, false},
		"behalf":      {budget.Budget{Agent: "boss"}, true},
		"team":        {budget.Budget{Team: "ops"}, true},
		"tool":        {budget.Budget{Tool: "ledger/pay"}, true},
		"connection":  {budget.Budget{Tool: "ledger/*"}, true},
		"other-tool":  {budget.Budget{Tool: "ledger/pa"}, false},
		"all":         {budget.Budget{}, true},
		"agent-tool":  {budget.Budget{Agent: "bot", Tool: "ledger/pay"}, true},
		"agent-other": {budget.Budget{Agent: "bot", Tool: "ledger/x"}, false},
		"team-agent":  {budget.Budget{Agent: "boss", Team: "ops"}, false}, // the boss is in another team
		"effects":     {budget.Budget{Meter: budget.Effects}, true},
		"tokens":      {budget.Budget{Meter: budget.Tokens}, false}, // it is no model
	} {
		r := join(t, db, budget.Options{})
		c.b.Name, c.b.Period, c.b.Hard = name, budget.Total, 10
		if c.b.Meter == "" {
			c.b.Meter = budget.Calls
		}
		r.set(t, c.b)
		x := call()
		x.Chain = append(x.Chain, budget.Member{Agent: "boss", Team: "board"})
		res, err := r.Reserve(ctx, x)
		if (res != nil) != c.uses || err != nil {
			t.Errorf("%s: %v %v", name, res, err)
		}
		if err := r.Delete(ctx, root, "next", name); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBadBudgets(t *testing.T) {
	good := budget.Budget{Name: "b", Meter: budget.Calls, Period: budget.Day, Hard: 1}
	if _, err := good.Normalize(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*budget.Budget){
		"no name":     func(b *budget.Budget) { b.Name = "" },
		"a path":      func(b *budget.Budget) { b.Name = "../x" },
		"meter":       func(b *budget.Budget) { b.Meter = "calls " },
		"period":      func(b *budget.Budget) { b.Period = "week" },
		"zone":        func(b *budget.Budget) { b.Zone = "Local" },
		"zone path":   func(b *budget.Budget) { b.Zone = "../../etc/passwd" },
		"negative":    func(b *budget.Budget) { b.Hard = -1 },
		"nothing":     func(b *budget.Budget) { b.Hard = 0 },
		"too much":    func(b *budget.Budget) { b.Hard = math.MaxInt64 },
		"soft over":   func(b *budget.Budget) { b.Soft = 2 },
		"negative so": func(b *budget.Budget) { b.Soft = -1 },
		"each":        func(b *budget.Budget) { b.Each = "team" },
		"tool":        func(b *budget.Budget) { b.Tool = "ledger" },
	} {
		b := good
		change(&b)
		if _, err := b.Normalize(); !errors.Is(err, budget.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for text, want := range map[string]int64{"": 0, "20": 20_000_000, "0.000001": 1, "1.5": 1_500_000, "1000000000": budget.MostLimit} {
		if n, err := budget.ParseAmount(budget.Money, text); n != want || err != nil {
			t.Error(text, n, err)
		}
	}
	for _, text := range []string{"-1", "1e3", "0x10", "1.", ".5x", "1.0000001", "1000000000.1", "99999999999999999999", "1 "} {
		if n, err := budget.ParseAmount(budget.Money, text); err == nil {
			t.Error(text, n)
		}
	}
	if n, err := budget.ParseAmount(budget.Calls, "1.5"); err == nil {
		t.Error(n)
	}
}
