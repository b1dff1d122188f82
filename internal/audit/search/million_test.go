package search_test

import (
	"context"
	"encoding/json/v2"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/audit/search"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// found is what one query over the large index took.
type found struct {
	Engine  string  `json:"engine"`
	Query   string  `json:"query"`
	Records int     `json:"records"` // on the first page
	Median  float64 `json:"median_ms"`
	Slowest float64 `json:"slowest_ms"`
}

// firstPages are queries of each kind: by one field, by several, negated, with
// wildcards, in time, for words that are everywhere, here and there and
// nowhere, for phrases and prefixes.
var firstPages = []string{
	"", "agent:agent-7", "run:run-31337", "decision:deny", "decision:deny tool:conn-1/* since:2h", "tool:conn-3/tool-3", "tool:nothing/*",
	"owner:owner-3 -status:succeeded", "owner:nobody", "team:team-2 stage:production status:failed", "policy:limits", "label:injection", "policy:none-such",
	"since:200d until:199d", "until:200d agent:agent-3", "type:call.denied -agent:agent-7", "object:invoice/4711", "status:unknown",
	"invoice", `"invoice 4711"`, "overdue agent:agent-7", "overdue decision:deny", "lighthouse", "nowhere", "invoice -overdue", "limi*", "agent-7 invoice",
}

// BenchmarkFirstPage searches an index of 1,000,000 events
// (COUNTERSIGN_BENCH_EVENTS) and reports how long the first page takes: the
// goal is under 100 ms.
func BenchmarkFirstPage(b *testing.B) {
	n := 1_000_000
	if s := os.Getenv("COUNTERSIGN_BENCH_EVENTS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			b.Fatal(err)
		}
	}
	var all []found
	for _, engine := range []struct {
		name string
		dsn  func(testing.TB) string
	}{{"sqlite", storagetest.SQLite}, {"postgres", storagetest.Postgres}} {
		b.Run(engine.name, func(b *testing.B) {
			ctx := b.Context()
			db := storagetest.Open(b, engine.dsn(b))
			l, err := audit.Open(ctx, db, audit.Options{Redactor: noSecrets{}, Keeper: audittest.Keeper("k")})
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close(context.Background())
			s, err := search.New(db, l, search.Options{})
			if err != nil {
				b.Fatal(err)
			}
			fillIndex(b, db, s, n)
			var worst float64
			b.ResetTimer()
			for b.Loop() {
				for _, q := range firstPages {
					f := firstPage(b, s, q)
					f.Engine = engine.name
					b.Logf("%-50q %4d records %8.1f ms, slowest %8.1f ms", q, f.Records, f.Median, f.Slowest)
					worst, all = max(worst, f.Median), append(all, f)
				}
			}
			b.ReportMetric(worst, "worst-median-ms")
		})
	}
	writeResults(b, "search", all)
}

// asked is how often each query is asked: often enough for PostgreSQL to plan a
// prepared statement for whatever arguments, if it were one.
const asked = 15

// firstPage asks often, the first time uncounted: it warms the engine.
func firstPage(b *testing.B, s *search.Service, text string) found {
	b.Helper()
	f := found{Query: text}
	var took []float64
	for i := range asked {
		q, err := search.Parse(text, benchNow)
		if err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		res, err := s.Find(b.Context(), q, search.Page{})
		if err != nil {
			b.Fatalf("%s: %v", text, err)
		}
		if i > 0 {
			took = append(took, float64(time.Since(began).Microseconds())/1000)
		}
		f.Records = len(res.Records)
	}
	slices.Sort(took)
	f.Median, f.Slowest = took[len(took)/2], took[len(took)-1]
	return f
}

var benchNow = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// fillIndex makes a year of events, in the log and in the index: intents with
// their outcomes, refusals and changes of a company with 40 agents.
func fillIndex(b *testing.B, db *storage.DB, s *search.Service, n int) {
	b.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	rebuild := dropWordIndexes(b, db)
	began, step := time.Now(), 365*24*time.Hour/time.Duration(n)
	for from := 0; from < n; {
		to := min(n, from+20_000)
		recs := make([]audit.Record, 0, to-from)
		for i := from; i < to; i++ {
			recs = append(recs, benchRecord(rng, i, benchNow.Add(-time.Duration(n-i)*step)))
		}
		if err := storeEvents(b.Context(), db, recs); err != nil {
			b.Fatal(err)
		}
		if err := s.Insert(b.Context(), recs); err != nil {
			b.Fatal(err)
		}
		from = to
	}
	rebuild()
	b.Logf("%d events made in %v", n, time.Since(began).Round(time.Second))
}

// dropWordIndexes drops PostgreSQL's indexes of words, which are quicker to make
// when the rows are there, and returns what makes them.
func dropWordIndexes(b *testing.B, db *storage.DB) (rebuild func()) {
	b.Helper()
	if db.Dialect() != storage.Postgres {
		return func() {}
	}
	exec := func(q string) {
		if _, err := db.Writer().ExecContext(b.Context(), q); err != nil {
			b.Fatalf("%s: %v", q, err)
		}
	}
	rows, err := db.Query(b.Context(), `SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'search_events' AND indexdef LIKE '%USING gin%'`)
	if err != nil {
		b.Fatal(err)
	}
	defer rows.Close()
	var names, defs []string
	for rows.Next() {
		var name, def string
		if err := rows.Scan(&name, &def); err != nil {
			b.Fatal(err)
		}
		names, defs = append(names, name), append(defs, def)
	}
	if err := rows.Err(); err != nil || len(names) == 0 {
		b.Fatalf("%d indexes of words, %v", len(names), err)
	}
	for _, name := range names {
		exec(`DROP INDEX ` + name)
	}
	return func() {
		for _, def := range defs {
			exec(def)
		}
		exec(`VACUUM ANALYZE search_events`) // autovacuum would, in time
		exec(`ANALYZE events`)
	}
}

// storeEvents writes the events themselves, many rows to a statement.
func storeEvents(ctx context.Context, db *storage.DB, recs []audit.Record) error {
	const chunk, columns = 200, 10
	return db.Tx(ctx, func(tx *storage.Tx) error {
		for part := range slices.Chunk(recs, chunk) {
			var rows []string
			var args []any
			for i := range part {
				r := &part[i]
				marks := make([]string, columns)
				for c := range marks {
					if marks[c] = "?"; db.Dialect() == storage.Postgres { // numbered ones are names to SQLite, and looked up one by one
						marks[c] = fmt.Sprintf("$%d", len(args)+c+1)
					}
				}
				rows = append(rows, "("+strings.Join(marks, ", ")+")")
				args = append(args, r.Lane, r.SN, r.Event.ID, string(r.Event.Type), r.Event.Call, r.Event.Run, r.Event.Agent, storage.Micros(r.Event.Time), make([]byte, 32), r.Raw)
			}
			if _, err := tx.Exec(ctx, `INSERT INTO events (lane, sn, id, type, call, run, agent, at, chain, record) VALUES `+strings.Join(rows, ", "), args...); err != nil {
				return err
			}
		}
		return nil
	})
}

// benchRecord makes the i-th event. One in four has a payload, which begins
// with an invoice; one in 5,000 is labelled, one in 33 denied.
func benchRecord(rng *rand.Rand, i int, at time.Time) audit.Record {
	agent := rng.IntN(40)
	ev := audit.Event{
		Schema: audit.Schema, ID: id.At(id.Event, at), Time: at, Type: audit.CallIntent, Actor: audit.Actor{Kind: audit.KindAgent, Name: fmt.Sprintf("agent-%d", agent)},
		Agent: fmt.Sprintf("agent-%d", agent), Owner: fmt.Sprintf("owner-%d", agent%10), Team: fmt.Sprintf("team-%d", agent%5), Stage: []string{"production", "staging"}[agent%2],
		Run: fmt.Sprintf("run-%d", i/20), Call: fmt.Sprintf("call-%d", i/2), Connection: fmt.Sprintf("conn-%d", rng.IntN(6)), Tool: fmt.Sprintf("tool-%d", rng.IntN(5)),
		Credential: fmt.Sprintf("key-%d", agent), Remote: "10.0.0.7", Client: "python-httpx/0.28", Effect: "read",
		Decision: &audit.Decision{Effect: "allow", Grants: []string{fmt.Sprintf("grant-%d", agent)}, Policies: []string{"default"}},
	}
	switch {
	case rng.IntN(33) == 0:
		ev.Type, ev.Decision.Effect, ev.Decision.Policies, ev.Decision.Reason = audit.CallDenied, "deny", []string{"limits"}, "the amount is over the limit"
	case rng.IntN(500) == 0:
		ev = audit.Event{Schema: audit.Schema, ID: ev.ID, Time: at, Type: "agent.updated", Actor: audit.Person("usr_1", "ada"), Object: fmt.Sprintf("invoice/%d", rng.IntN(10_000)), Reason: "quarterly"}
	case i%2 == 1:
		ev.Type, ev.Outcome = audit.CallOutcome, &audit.Outcome{Status: audit.Succeeded, Micros: 1234, Code: 200}
		if rng.IntN(50) == 0 {
			ev.Outcome.Status, ev.Outcome.Error = audit.Failed, "the ledger is closed"
		}
	}
	if rng.IntN(5000) == 0 {
		ev.Labels = []string{"injection"}
	}
	r := audit.Record{Lane: 1 + int64(i%4), SN: int64(i/4) + 1, Event: ev}
	if rng.IntN(4) == 0 {
		r.Event.Payloads = []audit.Commitment{{Name: "arguments", Size: 200}}
		r.Payloads = map[string][]byte{"arguments": benchPayload(rng)}
	}
	r.Raw, _ = json.Marshal(r.Event) // an event can be serialised
	return r
}

var vocabulary = func() []string {
	rng := rand.New(rand.NewPCG(3, 4))
	out := make([]string, 5000)
	for i := range out {
		w := make([]byte, 3+rng.IntN(8))
		for j := range w {
			w[j] = byte('a' + rng.IntN(26))
		}
		out[i] = string(w)
	}
	return out
}()

func benchPayload(rng *rand.Rand) []byte {
	b := fmt.Appendf(nil, `{"text":"invoice %d `, rng.IntN(100_000))
	if rng.IntN(10) == 0 {
		b = append(b, "overdue "...)
	}
	if rng.IntN(20_000) == 0 {
		b = append(b, "lighthouse "...)
	}
	for range 24 {
		b = append(b, vocabulary[min(rng.IntN(len(vocabulary)), rng.IntN(len(vocabulary)))]...)
		b = append(b, ' ')
	}
	return append(b, `"}`...)
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
