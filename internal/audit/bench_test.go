package audit_test

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// BenchmarkAppend measures durable appends beside two floors in the same run,
// each group-committed by one goroutine: "ratio" is the log's rate over that of
// raw inserts of the same rows into a table with the same indexes; "bare" is its
// rate over that of 512 bytes under one key, the least that any log does.
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
					const rounds = 3 // interleaved: what else the machine does hits all alike
					n := max(b.N/rounds, writers)
					var bare, same, ours time.Duration
					for range rounds {
						bare += floorTime(b, newFloor(b, db, 2), writers, n)
						same += floorTime(b, newFloor(b, db, 10), writers, n)
						ours += spread(writers, n, func(int) {
							if _, err := l.Append(context.Background(), benchEvent); err != nil {
								b.Error(err)
							}
						})
					}
					b.ReportMetric(float64(rounds*n)/ours.Seconds(), "events/s")
					b.ReportMetric(float64(rounds*n)/same.Seconds(), "floor/s")
					b.ReportMetric(same.Seconds()/ours.Seconds(), "ratio")
					b.ReportMetric(bare.Seconds()/ours.Seconds(), "bare")
				})
			}
		})
	}
}

func floorTime(b *testing.B, f *floor, writers, n int) time.Duration {
	b.Helper()
	defer f.stop()
	return spread(writers, n, func(int) { f.append() })
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

// floor inserts rows and nothing else: no event is made, serialised, redacted,
// hashed or chained for them.
type floor struct {
	b       *testing.B
	db      *storage.DB
	columns int // 2: a record alone; 10: those of the table events
	table   string
	sn      int
	stmts   map[int]*sql.Stmt // SQLite's, by rows
	queue   chan chan struct{}
	done    chan struct{}
}

func newFloor(b *testing.B, db *storage.DB, columns int) *floor {
	b.Helper()
	f := &floor{b: b, db: db, columns: columns, table: fmt.Sprintf("floor%d", columns), stmts: map[int]*sql.Stmt{}, queue: make(chan chan struct{}, 4096), done: make(chan struct{})}
	body := "BLOB"
	if db.Dialect() == storage.Postgres {
		body = "BYTEA"
	}
	schema := []string{`DROP TABLE IF EXISTS ` + f.table}
	if columns == 2 {
		schema = append(schema, `CREATE TABLE floor2 (sn BIGINT PRIMARY KEY, record `+body+`)`)
	} else {
		schema = append(schema, `CREATE TABLE floor10 (lane BIGINT NOT NULL, sn BIGINT NOT NULL, id TEXT NOT NULL, type TEXT NOT NULL, call TEXT NOT NULL, run TEXT NOT NULL,
			agent TEXT NOT NULL, at BIGINT NOT NULL, chain `+body+` NOT NULL, record `+body+` NOT NULL, PRIMARY KEY (lane, sn))`,
			`CREATE UNIQUE INDEX floor10_id ON floor10 (id)`, `CREATE INDEX floor10_call ON floor10 (call) WHERE call <> ''`, `CREATE INDEX floor10_run ON floor10 (run) WHERE run <> ''`)
	}
	for _, q := range schema {
		if _, err := db.Writer().Exec(q); err != nil {
			b.Fatal(err)
		}
	}
	for _, chunk := range []int{32, 1} {
		if db.Dialect() == storage.SQLite {
			row := "(" + strings.TrimSuffix(strings.Repeat("?,", columns), ",") + ")"
			//nolint:sqlclosecheck // stop closes it
			st, err := db.Writer().Prepare(`INSERT INTO ` + f.table + ` VALUES ` + strings.TrimSuffix(strings.Repeat(row+",", chunk), ","))
			if err != nil {
				b.Fatal(err)
			}
			f.stmts[chunk] = st
		}
	}
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
	for _, st := range f.stmts {
		st.Close()
	}
}

func (f *floor) run() {
	defer close(f.done)
	for ack := range f.queue {
		batch := []chan struct{}{ack}
		for len(f.queue) > 0 && len(batch) < 1024 {
			batch = append(batch, <-f.queue)
		}
		if err := f.insert(len(batch)); err != nil {
			f.b.Error(err)
		}
		for _, ack := range batch {
			close(ack)
		}
	}
}

// What the floors write: 512 bytes where that is all, else as much as benchEvent
// takes in the log.
var floorRecord, floorEvent, floorChain = make([]byte, 512), make([]byte, 760), make([]byte, 32)

// insert commits n rows in the way that was measured to be the engine's fastest:
// on SQLite a prepared statement for 32 rows and one for each that is left over,
// on PostgreSQL one statement that unnests arrays.
func (f *floor) insert(n int) error {
	rows := make([][]any, n)
	for i := range rows {
		f.sn++
		rows[i] = []any{int64(f.sn), floorRecord}
		if f.columns > 2 {
			rows[i] = []any{int64(1), int64(f.sn), id.New(id.Event), "call.denied", benchEvent.Call, benchEvent.Run, "invoice-checker", time.Now().UnixMicro(), floorChain, floorEvent}
		}
	}
	if f.db.Dialect() == storage.Postgres {
		return f.unnest(rows)
	}
	tx, err := f.db.Writer().Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for _, chunk := range []int{32, 1} {
		for ; len(rows) >= chunk; rows = rows[chunk:] {
			//nolint:sqlclosecheck // it ends with the transaction
			if _, err := tx.Stmt(f.stmts[chunk]).Exec(slices.Concat(rows[:chunk]...)...); err != nil {
				return err
			}
		}
	}
	return tx.Commit()
}

func (f *floor) unnest(rows [][]any) error {
	arrays := make([]any, len(rows[0]))
	for c := range arrays {
		switch rows[0][c].(type) {
		case int64:
			arrays[c] = pick[int64](rows, c)
		case string:
			arrays[c] = pick[string](rows, c)
		default:
			arrays[c] = pick[[]byte](rows, c)
		}
	}
	types := "$1::bigint[], $2::bytea[]"
	if f.columns > 2 {
		types = "$1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[], $9::bytea[], $10::bytea[]"
	}
	_, err := f.db.Pool().Exec(context.Background(), `INSERT INTO `+f.table+` SELECT * FROM unnest(`+types+`)`, arrays...)
	return err
}

func pick[T any](rows [][]any, c int) []T {
	out := make([]T, len(rows))
	for i, row := range rows {
		out[i] = row[c].(T)
	}
	return out
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
