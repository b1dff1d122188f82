package seal_test

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// fill writes n chained records of about 512 bytes into a lane, much faster
// than recording them.
func fill(b *testing.B, db *storage.DB, lane int64, n int) {
	b.Helper()
	ctx := b.Context()
	var chain audit.Hash
	for from := 0; from < n; {
		to := min(n, from+20_000)
		err := db.Tx(ctx, func(tx *storage.Tx) error {
			at := chain
			for i := from + 1; i <= to; i++ {
				record := fmt.Appendf(nil, `{"id":"evt_%d_%d","schema":1,"pad":"%0460d"}`, lane, i, i)
				at = audit.ChainHash(at, lane, int64(i), audit.LeafHash(record))
				if _, err := tx.Exec(ctx, `INSERT INTO events (lane, sn, id, type, call, run, agent, at, chain, record) VALUES ($1, $2, $3, 'test.done', '', '', '', 0, $4, $5)`,
					lane, i, fmt.Sprintf("evt_%d_%d", lane, i), at[:], record); err != nil {
					return err
				}
			}
			chain, from = at, to
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	err := db.Tx(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO lanes (lane, holder, epoch, until, sn, chain, clean_sn) VALUES ($1, '', 0, 9000000000000000000, $2, $3, $2)`, lane, n, chain[:])
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
}

// BenchmarkSeal seals 200,000 records from four lanes, from the first read to
// the last checkpoint's commit.
func BenchmarkSeal(b *testing.B) {
	const lanes, each = 4, 50_000
	for name, dsn := range map[string]func(testing.TB) string{"sqlite": storagetest.SQLite, "postgres": storagetest.Postgres} {
		b.Run(name, func(b *testing.B) {
			var peak uint64
			for b.Loop() {
				b.StopTimer()
				db := storagetest.Open(b, dsn(b))
				l := openLog(b, db)
				s := open(b, db, l, options(b))
				for lane := range int64(lanes) {
					fill(b, db, 100+lane, each)
				}
				runtime.GC()
				var m runtime.MemStats
				b.StartTimer()
				for n := 1; n > 0; {
					var err error
					if n, err = s.Step(b.Context()); err != nil {
						b.Fatal(err)
					}
					b.StopTimer()
					runtime.ReadMemStats(&m)
					peak = max(peak, m.HeapInuse)
					b.StartTimer()
				}
			}
			b.ReportMetric(float64(b.N)*lanes*each/b.Elapsed().Seconds(), "events/s")
			b.ReportMetric(float64(peak)/(1<<20), "MiB-heap")
		})
	}
}

// BenchmarkAppend shows what sealing costs whoever records: the same appends
// without and with it, a checkpoint a second.
func BenchmarkAppend(b *testing.B) {
	for name, dsn := range map[string]func(testing.TB) string{"sqlite": storagetest.SQLite, "postgres": storagetest.Postgres} {
		for _, sealing := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/sealing=%v", name, sealing), func(b *testing.B) {
				db := storagetest.Open(b, dsn(b))
				l := openLog(b, db)
				o := options(b)
				o.Every = time.Second
				s := open(b, db, l, o)
				if sealing {
					if err := s.Start(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
				b.SetParallelism(16)
				var mu sync.Mutex
				var all []time.Duration
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					var mine []time.Duration
					for pb.Next() {
						began := time.Now()
						if _, err := l.Append(b.Context(), audit.Event{Type: "test.done", Actor: person}); err != nil {
							b.Error(err)
							return
						}
						mine = append(mine, time.Since(began))
					}
					mu.Lock()
					all = append(all, mine...)
					mu.Unlock()
				})
				b.StopTimer()
				slices.Sort(all)
				b.ReportMetric(float64(all[len(all)/2].Microseconds()), "p50-us")
				b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-us")
			})
		}
	}
}
