package audit_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// BenchmarkAppend measures durable appends against the floor in the same run:
// rows of the same size in a bare table, group-committed by one goroutine.
// "ratio" is the log's rate over the floor's.
func BenchmarkAppend(b *testing.B) {
	for _, engine := range []struct {
		name string
		dsn  func(testing.TB) string
	}{{"sqlite", storagetest.SQLite}, {"postgres", storagetest.Postgres}} {
		b.Run(engine.name, func(b *testing.B) {
			db := storagetest.Open(b, engine.dsn(b))
			l := open(b, db, options(b))
			for _, writers := range []int{1, 32, 128} {
				b.Run(fmt.Sprint(writers), func(b *testing.B) {
					f := newFloor(b, db)
					defer f.stop()
					n := max(b.N, writers)
					floor := spread(writers, n, func(int) { f.append() })
					b.ResetTimer()
					ours := spread(writers, n, func(int) {
						if _, err := l.Append(context.Background(), benchEvent); err != nil {
							b.Error(err)
						}
					})
					b.StopTimer()
					b.ReportMetric(float64(n)/ours.Seconds(), "events/s")
					b.ReportMetric(float64(n)/floor.Seconds(), "floor/s")
					b.ReportMetric(floor.Seconds()/ours.Seconds(), "ratio")
				})
			}
		})
	}
}

var benchEvent = func() audit.Event {
	ev := callEvent("call_01jd3v5w8qf9bqz0c4s6t7m2ka")
	ev.Type, ev.Run = audit.CallDenied, "run_01jd3v5w8qf9bqz0c4s6t7m2ka"
	ev.Decision = &audit.Decision{Effect: "deny", Policies: []string{"limits"}, Reason: "over the limit", Micros: 12}
	return ev
}()

// spread runs n calls of fn on writers goroutines and returns the time taken.
func spread(writers, n int, fn func(i int)) time.Duration {
	var next atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for range writers {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				fn(int(i))
			}
		})
	}
	wg.Wait()
	return time.Since(began)
}

// floor is the least that any log does.
type floor struct {
	b     *testing.B
	db    *storage.DB
	queue chan chan struct{}
	done  chan struct{}
}

func newFloor(b *testing.B, db *storage.DB) *floor {
	body := "BLOB"
	if db.Dialect() == storage.Postgres {
		body = "BYTEA"
	}
	if _, err := db.Writer().Exec(`CREATE TABLE IF NOT EXISTS floor (sn BIGINT PRIMARY KEY, record ` + body + `)`); err != nil {
		b.Fatal(err)
	}
	if _, err := db.Writer().Exec(`DELETE FROM floor`); err != nil {
		b.Fatal(err)
	}
	f := &floor{b, db, make(chan chan struct{}, 4096), make(chan struct{})}
	go f.run()
	return f
}

func (f *floor) append() {
	ack := make(chan struct{})
	f.queue <- ack
	<-ack
}

func (f *floor) stop() {
	close(f.queue)
	<-f.done
}

func (f *floor) run() {
	defer close(f.done)
	record := make([]byte, 512)
	sn := 0
	for ack := range f.queue {
		batch := []chan struct{}{ack}
		for len(f.queue) > 0 && len(batch) < 1024 {
			batch = append(batch, <-f.queue)
		}
		if err := f.insert(&sn, len(batch), record); err != nil {
			f.b.Error(err)
		}
		for _, ack := range batch {
			close(ack)
		}
	}
}

func (f *floor) insert(sn *int, n int, record []byte) error {
	tx, err := f.db.Writer().Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	var rows []string
	var args []any
	for range n {
		*sn++
		args = append(args, *sn, record)
		rows = append(rows, fmt.Sprintf("($%d, $%d)", len(args)-1, len(args)))
	}
	if _, err := tx.Exec(`INSERT INTO floor (sn, record) VALUES `+strings.Join(rows, ", "), args...); err != nil {
		return err
	}
	return tx.Commit()
}

// BenchmarkAppendPayload measures durable appends of an event with 2 KiB of
// payload, redaction aside.
func BenchmarkAppendPayload(b *testing.B) {
	body := []byte(strings.Repeat("the quick brown fox 4711 ", 82))
	for _, engine := range []struct {
		name string
		dsn  func(testing.TB) string
	}{{"sqlite", storagetest.SQLite}, {"postgres", storagetest.Postgres}} {
		b.Run(engine.name, func(b *testing.B) {
			l := open(b, storagetest.Open(b, engine.dsn(b)), options(b))
			for _, writers := range []int{1, 64} {
				b.Run(fmt.Sprint(writers), func(b *testing.B) {
					ours := spread(writers, max(b.N, writers), func(int) {
						if _, err := l.Append(context.Background(), benchEvent, audit.Payload{Name: "arguments", Body: body}); err != nil {
							b.Error(err)
						}
					})
					b.ReportMetric(float64(max(b.N, writers))/ours.Seconds(), "events/s")
				})
			}
		})
	}
}
