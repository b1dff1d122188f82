package seal_test

import (
	"bufio"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/seal"
	"github.com/countersign/countersign/internal/audit/tlog"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// fill writes n chained records of about 512 bytes into a lane, much faster
// than recording them.
func fill(b *testing.B, db *storage.DB, lane int64, n int) {
	b.Helper()
	const chunk = 200 // rows of a statement
	ctx := b.Context()
	var chain audit.Hash
	for from := 0; from < n; {
		to := min(n, from+20_000)
		at := chain
		err := db.Tx(ctx, func(tx *storage.Tx) error {
			at = chain
			for first := from + 1; first <= to; first += chunk {
				var rows []string
				var args []any
				for i := first; i < min(first+chunk, to+1); i++ {
					record := fmt.Appendf(nil, `{"id":"evt_%d_%d","schema":1,"pad":"%0460d"}`, lane, i, i)
					at = audit.ChainHash(at, lane, int64(i), audit.LeafHash(record))
					k := len(args)
					row := `(?, ?, ?, 'test.done', '', '', '', 0, ?, ?)` // numbered ones are names to SQLite, and looked up one by one
					if db.Dialect() == storage.Postgres {
						row = fmt.Sprintf(`($%d, $%d, $%d, 'test.done', '', '', '', 0, $%d, $%d)`, k+1, k+2, k+3, k+4, k+5)
					}
					rows = append(rows, row)
					args = append(args, lane, i, fmt.Sprintf("evt_%d_%d", lane, i), slices.Clone(at[:]), record)
				}
				if _, err := tx.Exec(ctx, `INSERT INTO events (lane, sn, id, type, call, run, agent, at, chain, record) VALUES `+strings.Join(rows, ", "), args...); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		chain, from = at, to
	}
	err := db.Tx(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO lanes (lane, holder, epoch, until, sn, chain, clean_sn) VALUES ($1, '', 0, 9000000000000000000, $2, $3, $2)`, lane, n, chain[:])
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
}

// events is how many records the benchmarks of large logs have: 1,000,000, or
// COUNTERSIGN_BENCH_EVENTS.
func events(b *testing.B) int {
	b.Helper()
	s := os.Getenv("COUNTERSIGN_BENCH_EVENTS")
	if s == "" {
		return 1_000_000
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

var engines = []struct {
	name string
	dsn  func(testing.TB) string
}{{"sqlite", storagetest.SQLite}, {"postgres", storagetest.Postgres}}

// sealed is what sealing and verifying a large log took.
type sealed struct {
	Engine   string  `json:"engine"`
	Events   int     `json:"events"`
	PerSec   float64 `json:"events_per_second"`
	Heap     float64 `json:"peak_heap_mib"`    // while sealing
	Read     float64 `json:"reads_per_second"` // of the records alone, in the same run: the floor
	Export   float64 `json:"export_seconds"`   // to a file
	Verify   float64 `json:"verify_seconds"`   // of the exported file, offline
	VerifyMB float64 `json:"verify_peak_mib"`  // heap while verifying
	Ratio    float64 `json:"seal_to_read_ratio"`
}

// BenchmarkSeal seals a log of 1,000,000 records in four lanes, from the first
// read to the last checkpoint's commit, exports it and verifies the export.
// The goals are 50,000 records a second, 512 MiB and 20 s.
func BenchmarkSeal(b *testing.B) {
	const lanes = 4
	n := events(b)
	var all []sealed
	for _, engine := range engines {
		b.Run(engine.name, func(b *testing.B) {
			db := storagetest.Open(b, engine.dsn(b))
			l := openLog(b, db)
			s := open(b, db, l, options(b))
			for lane := range int64(lanes) {
				fill(b, db, 100+lane, n/lanes)
			}
			r := sealed{Engine: engine.name, Events: n, Read: float64(n) / readAll(b, l, lanes, int64(n/lanes)).Seconds()}
			var took time.Duration
			b.ResetTimer()
			for b.Loop() { // a second time there is nothing left: -benchtime 1x
				began := time.Now()
				r.Heap = peak(func() {
					for done := 1; done > 0; {
						var err error
						if done, err = s.Step(b.Context()); err != nil {
							b.Error(err)
							return
						}
					}
				})
				took = time.Since(began)
			}
			b.StopTimer()
			r.PerSec = float64(n) / took.Seconds()
			r.Ratio = r.PerSec / r.Read
			exportAndVerify(b, s, &r)
			b.ReportMetric(r.PerSec, "events/s")
			b.ReportMetric(r.Heap, "MiB-heap")
			b.ReportMetric(r.Ratio, "of-reading")
			b.ReportMetric(r.Verify, "verify-s")
			all = append(all, r)
		})
	}
	writeResults(b, "seal", all)
}

// readAll reads every record once and does nothing with it.
func readAll(b *testing.B, l *audit.Log, lanes, each int64) time.Duration {
	b.Helper()
	began := time.Now()
	for lane := range lanes {
		for from := int64(0); from < each; from += 16 << 10 {
			if err := l.Raw(b.Context(), 100+lane, from, min(each, from+16<<10), func(int64, []byte, []byte) error { return nil }); err != nil {
				b.Fatal(err)
			}
		}
	}
	return time.Since(began)
}

// peak returns the largest heap in MiB while fn runs, looking 20 times a second.
func peak(fn func()) float64 {
	runtime.GC()
	done := make(chan struct{})
	go func() { defer close(done); fn() }()
	var top uint64
	for {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		top = max(top, m.HeapInuse)
		select {
		case <-done:
			return float64(top) / (1 << 20)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func exportAndVerify(b *testing.B, s *seal.Service, r *sealed) {
	b.Helper()
	f, err := os.Create(filepath.Join(b.TempDir(), "log.jsonl"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	began := time.Now()
	w := bufio.NewWriterSize(f, 1<<20)
	if err := errors.Join(s.Export(b.Context(), 0, false, w), w.Flush()); err != nil {
		b.Fatal(err)
	}
	r.Export = time.Since(began).Seconds()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		b.Fatal(err)
	}
	t, _ := trust(b, s)
	began = time.Now()
	r.VerifyMB = peak(func() {
		shown, err := tlog.VerifyExport(bufio.NewReaderSize(f, 1<<20), t, nil)
		if err != nil || shown.Entries < int64(r.Events) {
			b.Errorf("%+v, %v", shown, err)
		}
	})
	r.Verify = time.Since(began).Seconds()
}

// latency is how long appends took, with and without sealing in turn.
type latency struct {
	Engine  string  `json:"engine"`
	Writers int     `json:"writers"`
	Off50   float64 `json:"off_p50_us"`
	On50    float64 `json:"on_p50_us"`
	Off99   float64 `json:"off_p99_us"`
	On99    float64 `json:"on_p99_us"`
	Ratio50 float64 `json:"p50_ratio"`
	Ratio99 float64 `json:"p99_ratio"`
}

// BenchmarkAppend shows what sealing costs whoever records: appends to one log,
// in ten turns with sealing off and on, so that a busy machine meets both.
// While it is on there is a checkpoint a second.
func BenchmarkAppend(b *testing.B) {
	var all []latency
	for _, engine := range engines {
		for _, writers := range []int{1, 32} {
			b.Run(fmt.Sprintf("%s/%d", engine.name, writers), func(b *testing.B) {
				db := storagetest.Open(b, engine.dsn(b))
				l := openLog(b, db)
				o := options(b)
				o.Every = time.Second
				s := open(b, db, l, o)
				var off, on []float64
				for b.Loop() {
					for range 10 {
						off = append(off, appends(b, l, writers, 2*time.Second)...)
						if err := s.Start(b.Context()); err != nil {
							b.Fatal(err)
						}
						on = append(on, appends(b, l, writers, 2*time.Second)...)
						if err := s.Stop(b.Context()); err != nil {
							b.Fatal(err)
						}
					}
				}
				r := latency{engine.name, writers, at(off, 50), at(on, 50), at(off, 99), at(on, 99), 0, 0}
				r.Ratio50, r.Ratio99 = r.On50/r.Off50, r.On99/r.Off99
				all = append(all, r)
				b.ReportMetric(r.Off50, "off-p50-us")
				b.ReportMetric(r.On50, "on-p50-us")
				b.ReportMetric(r.Off99, "off-p99-us")
				b.ReportMetric(r.On99, "on-p99-us")
			})
		}
	}
	writeResults(b, "seal-latency", all)
}

// appends appends with some writers for a time and returns how long each took,
// in microseconds.
func appends(b *testing.B, l *audit.Log, writers int, during time.Duration) []float64 {
	b.Helper()
	var mu sync.Mutex
	var all []float64
	var wg sync.WaitGroup
	end := time.Now().Add(during)
	for range writers {
		wg.Go(func() {
			var mine []float64
			for time.Now().Before(end) {
				began := time.Now()
				if _, err := l.Append(b.Context(), audit.Event{Type: "test.done", Actor: person}); err != nil {
					b.Error(err)
					return
				}
				mine = append(mine, float64(time.Since(began).Nanoseconds())/1000)
			}
			mu.Lock()
			all = append(all, mine...)
			mu.Unlock()
		})
	}
	wg.Wait()
	return all
}

func at(v []float64, percent int) float64 {
	slices.Sort(v)
	return v[len(v)*percent/100]
}

// writeResults leaves what was measured where COUNTERSIGN_BENCH_OUT says.
func writeResults(b *testing.B, name string, v any) {
	b.Helper()
	dir := os.Getenv("COUNTERSIGN_BENCH_OUT")
	if dir == "" {
		return
	}
	doc, err := json.Marshal(map[string]any{
		"benchmark": name, "time": time.Now().UTC().Format(time.RFC3339), "go": runtime.Version(), "cpus": runtime.NumCPU(), "results": v,
	}, json.Deterministic(true))
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".json"), append(doc, '\n'), 0o644); err != nil {
		b.Fatal(err)
	}
}
