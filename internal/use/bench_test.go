package use_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/internal/use"
)

// BenchmarkUse records calls with and without a follower, in turns, and prints
// what a call costs more with one: the quickest round of each counts, as the
// machine has other work. Then how long the follower takes for an event.
func BenchmarkUse(b *testing.B) {
	const rounds, calls, writers, aim = 6, 8000, 16, 5
	w := open(b, storagetest.SQLite(b))
	w.put("base", basePolicy)
	w.grant(policy.Grant{Name: "pays", Agent: "payer", Connection: "ledger", Tools: []string{"pay_invoice"}})
	record := func() float64 {
		began := time.Now()
		var group errgroup.Group
		for range writers {
			group.Go(func() error {
				for i := range calls / writers {
					_, err := w.log.Intent(ctx, audit.Event{Actor: audit.System, Agent: "payer", Stage: "production", Connection: "ledger", Tool: "pay_invoice", Call: "call_x",
						Decision: &audit.Decision{Effect: "allow", Grants: []string{"pays"}}}, audit.Payload{Name: "arguments", Body: fmt.Appendf(nil, `{"invoice_id":"i","amount_cents":%d,"currency":"EUR"}`, i)})
					if err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			b.Fatal(err)
		}
		return time.Since(began).Seconds() * 1e6 / calls
	}
	for b.Loop() {
		alone, followed := math.Inf(1), math.Inf(1)
		for range rounds {
			alone = min(alone, record())
			s := w.follower(use.Options{})
			if _, _, err := s.Uses(ctx, use.Query{}); err != nil { // it has caught up
				b.Fatal(err)
			}
			if err := s.Start(ctx); err != nil {
				b.Fatal(err)
			}
			followed = min(followed, record())
			if err := s.Stop(ctx); err != nil {
				b.Fatal(err)
			}
		}
		began := time.Now()
		s := w.follower(use.Options{})
		for behind := int64(1); behind > 0; {
			_, watched, err := s.Uses(ctx, use.Query{})
			if err != nil {
				b.Fatal(err)
			}
			behind = watched.Behind
		}
		b.ReportMetric(alone, "µs/call")
		b.ReportMetric(followed, "µs/call-followed")
		b.ReportMetric(max(0, followed-alone), "µs/call-more")
		b.ReportMetric(100*max(0, followed-alone)/aim, "%of-the-aim")
		b.ReportMetric(time.Since(began).Seconds()*1e6/(2*rounds*calls), "µs/event-read")
	}
}
