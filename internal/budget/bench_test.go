package budget_test

import (
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/budget"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// BenchmarkReserve measures what a budget adds to a call: the time until its
// intent is durable, without a budget for its agent (none: budgets are found in
// memory) and with one (one reserves, in a transaction that concurrent calls
// share), as a ratio within one run.
func BenchmarkReserve(b *testing.B) {
	for name, open := range map[string]func(testing.TB) string{"sqlite": storagetest.SQLite, "postgres": storagetest.Postgres} {
		b.Run(name, func(b *testing.B) { benchReserve(b, storagetest.Open(b, open(b))) })
	}
}

func benchReserve(b *testing.B, db *storage.DB) {
	r := join(b, db, budget.Options{})
	r.set(b, budget.Budget{Name: "b", Meter: budget.Calls, Agent: "bot", Period: budget.Day, Hard: budget.MostLimit})
	free := call()
	free.Chain[0].Agent = "free"
	r.o(b, free, 1) // warm
	for _, clients := range []int{1, 32} {
		without, with := r.o(b, free, clients), r.o(b, call(), clients)
		b.Logf("%d clients: an intent takes %v without a budget and %v with one: %.2f times", clients, without, with, float64(with)/float64(without))
		b.ReportMetric(float64(with)/float64(without), map[int]string{1: "times/1-client", 32: "times/32-clients"}[clients])
	}
}

// o returns how long one of many calls at once takes until it may go out.
func (r *replica) o(b *testing.B, like *budget.Call, clients int) time.Duration {
	b.Helper()
	const each = 100
	began := time.Now()
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			for range each {
				c := *like
				c.ID = call().ID
				res, err := r.Reserve(ctx, &c)
				if err != nil {
					b.Error(err)
					return
				}
				receipt, err := r.log.Intent(ctx, audit.Event{Call: c.ID, Actor: audit.System})
				if err != nil {
					b.Error(err)
					return
				}
				o := audit.Outcome{Status: audit.Succeeded}
				r.log.Outcome(receipt, audit.Event{Actor: audit.System, Outcome: &o})
				res.Settle(o, true)
			}
		})
	}
	all.Wait()
	return time.Since(began) / each
}
