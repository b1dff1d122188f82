package server_test

import (
	"context"
	"encoding/json/v2"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/config"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// pageTook is what one page of the console took in a large store.
type pageTook struct {
	Page    string  `json:"page"`
	Ratio   float64 `json:"ratio"` // of its median to the median of a page that reads nothing, in the same run
	Median  float64 `json:"median_ms"`
	Slowest float64 `json:"slowest_ms"`
	Bytes   int     `json:"compressed_bytes"`
}

// BenchmarkPages asks for every page of the console with 1,000,000 events
// (COUNTERSIGN_BENCH_EVENTS) and 1,000 agents in the store. The goal is a median
// under 100 ms for each.
func BenchmarkPages(b *testing.B) { pagesOn(b, "pages", storagetest.SQLite) }

// BenchmarkPagesOnPostgres does the same on PostgreSQL.
func BenchmarkPagesOnPostgres(b *testing.B) { pagesOn(b, "pages-postgres", storagetest.Postgres) }

func pagesOn(b *testing.B, name string, engine func(testing.TB) string) {
	n := 1_000_000
	if s := os.Getenv("COUNTERSIGN_BENCH_EVENTS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			b.Fatal(err)
		}
	}
	st := largeStore(b, n, name, engine)
	p := start(b, st.Data, st.DSN, st.Token)
	caughtUp(b, p)
	v := p.visit(b)
	if resp := v.signIn(url.Values{"token": {p.token}}); resp.StatusCode != http.StatusSeeOther {
		b.Fatal(resp.Status)
	}
	run, event := st.Run, st.Event
	pages := []string{"/", "/approvals", "/approvals?box=settled", "/agents", "/agents?q=agent-7", "/agents/agent-007", "/runs", "/runs/" + run, "/events", "/events?q=decision:deny", "/events?q=agent:agent-007+since:2d", "/events/" + event,
		"/connections", "/connections/ledger", "/grants", "/policies", "/policies/none", "/policies/none/history", "/why/" + event, "/locks", "/findings", "/inventory", "/detection", "/detection/rules/spend.velocity?agent=agent-007", "/detections", "/inventory?state=unobserved", "/people", "/people/olga", "/settings", "/profile"}
	var all []pageTook
	for b.Loop() {
		all = all[:0]
		worst, empty := 0.0, v.timed("/sign-in").Median
		for _, page := range pages {
			t := v.timed(page)
			t.Ratio = t.Median / empty
			b.Logf("%-40s median %7.1f ms, slowest %7.1f ms, %5.1f sign-in pages, %6d bytes", page, t.Median, t.Slowest, t.Ratio, t.Bytes)
			all, worst = append(all, t), max(worst, t.Ratio)
		}
		b.ReportMetric(worst, "slowest-page/sign-in-page")
	}
	if dir := os.Getenv("COUNTERSIGN_BENCH_OUT"); dir != "" {
		doc, err := json.Marshal(map[string]any{"benchmark": name, "events": n, "agents": 1000, "time": time.Now().UTC().Format(time.RFC3339), "go": runtime.Version(), "cpus": runtime.NumCPU(), "results": all}, json.Deterministic(true))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name+".json"), append(doc, '\n'), 0o644)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// large is a store that was filled, and what to look for in it.
type large struct{ Data, DSN, Token, Run, Event string }

// largeStore makes a store of n events and 1,000 agents, or takes the one that an
// earlier run kept in the folder COUNTERSIGN_BENCH_KEEP: to fill it takes minutes.
func largeStore(b *testing.B, n int, name string, engine func(testing.TB) string) (st large) {
	b.Helper()
	keep := os.Getenv("COUNTERSIGN_BENCH_KEEP")
	note := filepath.Join(keep, "store.json")
	if keep == "" || name != "pages" { // a database of its own is not kept
		keep, st = "", large{Data: b.TempDir(), DSN: engine(b)}
	} else if doc, err := os.ReadFile(note); err == nil {
		if err := json.Unmarshal(doc, &st); err != nil {
			b.Fatal(err)
		}
		return st
	} else {
		st = large{Data: keep, DSN: filepath.Join(keep, "countersign.db")}
	}
	p := start(b, st.Data, st.DSN, "")
	p.company(b)
	p.api(b, "PUT", "/connections/ledger", map[string]any{"kind": "http", "owner": "olga", "url": "https://ledger.example"}, nil)
	if _, err := client.New(p.url, p.token).WithReason("bench").ImportOpenAPI(b.Context(), "ledger", `{"openapi":"3.0.0","info":{"title":"x","version":"1"},"paths":{"/pay":{"post":{"operationId":"pay","responses":{"200":{"description":"ok"}}}}}}`, nil); err != nil {
		b.Fatal(err)
	}
	expires := time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339)
	for i := range 1000 {
		name := fmt.Sprintf("agent-%03d", i)
		p.api(b, "PUT", "/agents/"+name, map[string]any{"owner": "olga", "stage": "development", "purpose": "pays invoices"}, nil)
		p.api(b, "PUT", "/grants/"+name, map[string]any{"agent": name, "connection": "ledger", "tools": []string{"pay"}, "expires": expires, "reason": "bench"}, nil)
	}
	p.api(b, "PUT", "/policies/none", map[string]any{"text": `@id("none") forbid (principal == Agent::"nobody", action, resource);`}, nil)
	st.Token = p.token
	p.stop(b)
	st.Run, st.Event = fillLog(b, st.Data, st.DSN, n)
	if keep != "" {
		doc, err := json.Marshal(st)
		if err == nil {
			err = os.WriteFile(note, doc, 0o600)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	return st
}

// timed asks for a page some times; the first does not count.
func (v *visitor) timed(page string) pageTook {
	v.t.Helper()
	out := pageTook{Page: page}
	var took []float64
	for i := range 12 {
		began := time.Now()
		resp, body := v.do("GET", page, nil, "Accept-Encoding", "gzip")
		if resp.StatusCode != http.StatusOK {
			v.t.Fatalf("%s: %s", page, resp.Status)
		}
		if i > 0 {
			took = append(took, float64(time.Since(began).Microseconds())/1000)
		}
		out.Bytes = len(body)
	}
	slices.Sort(took)
	out.Median, out.Slowest = took[len(took)/2], took[len(took)-1]
	return out
}

// fillLog makes n events of the last 30 days in the log of a server that is
// stopped: runs of ten calls by 1,000 agents, some denied. It returns a run and
// an event of it.
func fillLog(b *testing.B, data, dsn string, n int) (run, event string) {
	b.Helper()
	cfg, err := config.Load("", append(os.Environ(), "COUNTERSIGN_DATA="+data, "COUNTERSIGN_STORE="+dsn))
	if err != nil {
		b.Fatal(err)
	}
	keeper, err := secrets.OpenKeys(b.Context(), cfg.Key, cfg.KeyNext)
	if err != nil {
		b.Fatal(err)
	}
	defer keeper.Close()
	log, err := audit.Open(b.Context(), storagetest.Open(b, dsn), audit.Options{Redactor: nothing{}, Keeper: keeper})
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close(context.Background())
	const writers, calls = 64, 10
	var done atomic.Int64
	step := 30 * 24 * time.Hour / time.Duration(n)
	begun := time.Now().Add(-30 * 24 * time.Hour)
	var group errgroup.Group
	for w := range writers {
		group.Go(func() error {
			for made := int64(0); made < int64(n); {
				at := begun.Add(step * time.Duration(done.Add(2*calls)))
				made = done.Load()
				this := id.At(id.Run, at)
				for k := range calls {
					ev := audit.Event{Actor: audit.Actor{Kind: audit.KindAgent, Name: "agent"}, Agent: fmt.Sprintf("agent-%03d", (int(made)/20+w)%1000), Owner: "olga", Stage: "development", Connection: "ledger", Tool: "pay", Effect: "write", Run: this,
						Call: id.At(id.Call, at), Time: at.Add(time.Duration(k) * time.Second), Decision: &audit.Decision{Effect: "allow", Grants: []string{"agent"}, Version: "1"}}
					if k == 7 {
						ev.Type, ev.Decision.Effect, ev.Decision.Reason = audit.CallDenied, "deny", "denied by policy limits"
						if _, err := log.Append(b.Context(), ev); err != nil {
							return err
						}
						continue
					}
					receipt, err := log.Intent(b.Context(), ev, audit.Payload{Name: "arguments", Body: []byte(`{"invoice":"4711","amount_cents":1200}`)})
					if err != nil {
						return err
					}
					if w == 0 && k == 0 {
						run, event = this, receipt.Event()
					}
					ev.Decision, ev.Type, ev.Outcome = nil, audit.CallOutcome, &audit.Outcome{Status: audit.Succeeded, Code: 200, Micros: 1200}
					log.Outcome(receipt, ev)
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
	return run, event
}

// nothing redacts nothing: there is nothing in these events.
type nothing struct{}

func (nothing) Redact(b []byte) []byte { return b }

// caughtUp waits until everything can be found, and everything was observed.
func caughtUp(b *testing.B, p *process) {
	b.Helper()
	for began := time.Now(); ; {
		page, err := client.New(p.url, p.token).SearchLog(b.Context(), "decision:deny", "", 1, false)
		var diff client.InventoryDifference
		if err == nil && page.Behind == 0 {
			diff, err = client.New(p.url, p.token).InventoryDifference(b.Context(), client.InventoryQuery{})
		}
		if err == nil && page.Behind == 0 && diff.Behind == 0 {
			b.Logf("everything can be found after %v", time.Since(began).Round(time.Second))
			return
		}
		if time.Since(began) > time.Hour {
			b.Fatalf("the index does not catch up: %+v %v", page, err)
		}
		time.Sleep(time.Second)
	}
}
