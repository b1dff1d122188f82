package runs_test

import (
	"encoding/json/jsontext"
	"fmt"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/runs"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// BenchmarkRuns measures what runs cost on the way of a call, beside one durable
// write of one row, which every call makes twice for the log: on each engine,
// what an answer that proposes a call pays, and what later calls do.
func BenchmarkRuns(b *testing.B) {
	for engine, dsn := range map[string]func(testing.TB) string{"sqlite": storagetest.SQLite, "postgres": storagetest.Postgres} {
		b.Run(engine, func(b *testing.B) {
			db, err := storage.Open(ctx, dsn(b))
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { db.Close() })
			compare(b, db)
		})
	}
}

func compare(b *testing.B, db *storage.DB) {
	b.Helper()
	c := newClock()
	s, err := runs.New(db, runs.Options{Now: c.at, Derive: func(string) []byte { return make([]byte, 32) }})
	if err != nil {
		b.Fatal(err)
	}
	if err := db.Tx(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(ctx, `CREATE TABLE one (id BIGINT PRIMARY KEY)`)
		return err
	}); err != nil {
		b.Fatal(err)
	}
	args := jsontext.Value(`{"invoice":"2026-11-25/4711","amount_cents":125000,"payee":"Nordwind GmbH","note":"as agreed"}`)
	query := runs.Query{Agent: "a", Names: []string{"ledger__pay", "pay", "mcp__ledger__pay", "ledger_pay", "mcp_ledger_pay", "ledger-pay", "ledger.pay"}, Args: args}
	links := make([]runs.Link, 64)
	for i := range links {
		links[i] = runs.Link{Kind: runs.LinkCall, Text: fmt.Sprintf("call_0123456789_%d", i)}
	}
	check := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	check(s.Propose(exchange("a", "run_1"), nil, links))
	n := 0
	works := []struct {
		name string
		do   func()
	}{
		{"row", func() {
			n++
			check(db.Tx(ctx, func(tx *storage.Tx) error {
				_, err := tx.Exec(ctx, `INSERT INTO one (id) VALUES ($1)`, n)
				return err
			}))
		}},
		{"propose", func() {
			c.pass(time.Second)
			check(s.Propose(exchange("a", "run_1"), []runs.Proposal{{Tool: "pay", Args: args}}, nil))
		}},
		{"match-near", func() { _, _, err := s.Match(ctx, query); check(err) }},
		{"match-none", func() {
			q := query
			q.Agent = "nobody"
			_, _, err := s.Match(ctx, q)
			check(err)
		}},
		{"continue-near", func() { _, err := s.Continue(ctx, "a", links, true); check(err) }},
	}
	spent := make([]time.Duration, len(works))
	const rounds = 20
	for b.Loop() {
		for i, w := range works { // in turns, so that all have the same machine
			began := time.Now()
			for range rounds {
				w.do()
			}
			spent[i] += time.Since(began)
		}
	}
	for i, w := range works {
		b.ReportMetric(float64(spent[i])/float64(spent[0]), w.name+"/row")
	}
	b.ReportMetric(float64(spent[0].Microseconds())/float64(b.N*rounds), "µs/row")
}
