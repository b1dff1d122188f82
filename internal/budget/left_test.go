package budget_test

import (
	"errors"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/budget"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// What is left counts what was used and what calls under way hold, of the budget
// of which the least is left, and changes nothing.
func TestWhatIsLeft(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		r := join(t, storagetest.Open(t, dsn), budget.Options{})
		left := func(want budget.Left) {
			t.Helper()
			if got, err := r.Left(ctx, call()); err != nil || got != want {
				t.Errorf("%+v %v, want %+v", got, err, want)
			}
		}
		left(budget.Left{Percent: 100})
		r.set(t, budget.Budget{Name: "soft", Meter: budget.Calls, Agent: "bot", Period: budget.Day, Soft: 2})
		left(budget.Left{Percent: 100})
		r.set(t, budget.Budget{Name: "wide", Meter: budget.Calls, Team: "ops", Period: budget.Day, Hard: budget.MostLimit})
		r.set(t, budget.Budget{Name: "hard", Meter: budget.Effects, Agent: "bot", Period: budget.Total, Hard: 3})
		r.set(t, budget.Budget{Name: "others", Meter: budget.Calls, Agent: "other", Period: budget.Day, Hard: 1})
		left(budget.Left{Percent: 100, Limited: true})
		first, err := r.Reserve(ctx, call())
		if err != nil {
			t.Fatal(err)
		}
		left(budget.Left{Percent: 66, Limited: true})
		left(budget.Left{Percent: 66, Limited: true})
		second, err := r.Reserve(ctx, call())
		if err != nil {
			t.Fatal(err)
		}
		first.Settle(audit.Outcome{Status: audit.Succeeded}, true)
		second.Settle(audit.Outcome{Status: audit.Succeeded}, true)
		r.used(t, "hard", 2, 0)
		left(budget.Left{Percent: 33, Limited: true, Soft: true})
		third, err := r.Reserve(ctx, call())
		if err != nil {
			t.Fatal(err)
		}
		left(budget.Left{Percent: 0, Limited: true, Soft: true})
		third.Release()
		r.used(t, "hard", 2, 0)

		r.watch.Stop() // nothing is known any more
		for deadline := time.Now().Add(30 * time.Second); r.watch.Fresh(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the view stays fresh")
			}
		}
		if _, err := r.Left(ctx, call()); !errors.Is(err, budget.ErrUnavailable) {
			t.Errorf("%v", err)
		}
	})
}

// A call that has room in some of its budgets and not in all reserves nothing, also
// where it is alone.
func TestAllOfItOrNothing(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		r := join(t, storagetest.Open(t, dsn), budget.Options{})
		for _, b := range []budget.Budget{
			{Name: "a", Meter: budget.Calls, Agent: "bot", Period: budget.Hour, Hard: 100}, {Name: "b", Meter: budget.Effects, Agent: "bot", Period: budget.Total, Hard: 2},
			{Name: "c", Meter: budget.Calls, Team: "ops", Period: budget.Month, Zone: "Europe/Berlin", Soft: 50},
		} {
			r.set(t, b)
		}
		var held []*budget.Reservation
		for range 2 {
			res, err := r.Reserve(ctx, call())
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, res)
		}
		for range 3 { // the first one alone, on PostgreSQL; then as several are
			if _, err := r.Reserve(ctx, call()); !errors.Is(err, budget.ErrExceeded) {
				t.Error(err)
			}
		}
		read := call()
		read.Effect = false
		res, err := r.Reserve(ctx, read)
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]int64{"a": 3, "b": 2, "c": 3} {
			r.used(t, name, 0, want)
		}
		for _, res := range append(held, res) {
			res.Settle(audit.Outcome{Status: audit.Succeeded}, true)
		}
		for name, want := range map[string]int64{"a": 3, "b": 2, "c": 3} {
			r.used(t, name, want, 0)
		}
	})
}
