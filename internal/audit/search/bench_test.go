package search_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/audit/search"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// BenchmarkIndex measures how fast the index catches up with a log that it has
// not seen, 1 KiB of payload per event.
func BenchmarkIndex(b *testing.B) {
	for _, engine := range []struct {
		name string
		dsn  func(testing.TB) string
	}{{"sqlite", storagetest.SQLite}, {"postgres", storagetest.Postgres}} {
		b.Run(engine.name, func(b *testing.B) {
			ctx := context.Background()
			db := storagetest.Open(b, engine.dsn(b))
			l, err := audit.Open(ctx, db, audit.Options{Redactor: noSecrets{}, Keeper: audittest.Keeper("k")})
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close(ctx)
			body := []byte(fmt.Sprintf("%01024d", 7))
			for i := range body {
				if i%6 == 5 {
					body[i] = ' '
				}
			}
			var wg sync.WaitGroup
			for w := range 32 {
				wg.Go(func() {
					for i := w; i < b.N; i += 32 {
						if _, err := l.Append(ctx, audit.Event{Type: audit.CallDenied, Agent: "a"}, audit.Payload{Name: "arguments", Body: body}); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
			s, err := search.New(db, l, search.Options{})
			if err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			if err := s.Start(ctx); err != nil {
				b.Fatal(err)
			}
			defer s.Stop(ctx)
			for n := int64(1); n > 0; {
				time.Sleep(time.Millisecond)
				if n, err = s.Behind(ctx); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
