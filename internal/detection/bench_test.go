package detection_test

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/detection"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// BenchmarkCall does what a call waits for (detection's posture, its intent in the
// log) without detection at work and with it, every rule enforcing, in turns: by many
// at once, of whom the quickest round counts, and one call after the other with a pause
// in which detection catches up, of which the median counts. The machine has other
// work, and the follower's share of it is in the first figure, not in the second.
func BenchmarkCall(b *testing.B) {
	const rounds, calls, writers, single = 4, 2000, 16, 150
	w := open(b)
	if _, err := w.SetMode(ctx, person, "a bench", "", detection.Enforce); err != nil {
		b.Fatal(err)
	}
	one := func() error {
		if _, err := w.Posture(ctx, "payer"); err != nil {
			return err
		}
		_, err := w.log.Intent(ctx, audit.Event{Actor: audit.Actor{Kind: audit.KindAgent, Name: "payer"}, Agent: "payer", Stage: "production", Credential: "key_1", Connection: "openai", Tool: "chat.completions", Call: id.New(id.Call), Remote: "10.0.0.1",
			Client: "OpenAI/Python 2.1", Decision: &audit.Decision{Effect: "allow"}, Detail: []byte(`{"model":"gpt-5"}`)}, audit.Payload{Name: "arguments", Body: []byte(`{"model":"gpt-5"}`)})
		return err
	}
	crowd := func() float64 {
		began := time.Now()
		var group errgroup.Group
		for range writers {
			group.Go(func() error {
				for range calls / writers {
					if err := one(); err != nil {
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
	alone := func() float64 {
		took := make([]float64, single)
		for i := range took {
			began := time.Now()
			if err := one(); err != nil {
				b.Fatal(err)
			}
			took[i] = time.Since(began).Seconds() * 1e6
			time.Sleep(time.Millisecond)
		}
		slices.Sort(took)
		return took[single/2]
	}
	for b.Loop() {
		many, few := [2]float64{math.Inf(1), math.Inf(1)}, [2]float64{math.Inf(1), math.Inf(1)}
		measure := func(i int) { many[i], few[i] = min(many[i], crowd()), min(few[i], alone()) }
		for range rounds {
			measure(0)
			w.settle()
			if err := w.Start(ctx); err != nil {
				b.Fatal(err)
			}
			measure(1)
			if err := w.Stop(ctx); err != nil {
				b.Fatal(err)
			}
		}
		fmt.Printf("a call beside others: %.1f µs without detection, %.1f µs with it; a call alone: %.0f µs without, %.0f µs with it\n", many[0], many[1], few[0], few[1])
		b.ReportMetric(many[0], "µs/call")
		b.ReportMetric(many[1], "µs/call-detected")
		b.ReportMetric(few[0], "µs/call-alone")
		b.ReportMetric(few[1], "µs/call-alone-detected")
		b.ReportMetric(few[1]/few[0], "x-alone")
	}
}

// open opens the room where the engine makes no difference.
func open(t testing.TB) *world {
	t.Helper()
	db := storagetest.Open(t, storagetest.SQLite(t))
	log, err := audit.Open(ctx, db, logOptions())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close(ctx) })
	return replica(t, db, log)
}
