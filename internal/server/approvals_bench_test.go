package server_test

import (
	"encoding/json/v2"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/countersign/countersign/internal/storage/storagetest"
)

const (
	waitingLimit    = 200 << 20 // bytes that a server may hold with 10,000 requests waiting
	waitingRoutines = 1000      // goroutines that it may have then
)

// BenchmarkWaiting parks COUNTERSIGN_BENCH_WAITING (default 10,000) held calls
// of 100 agents and measures the server, a process of its own: its resident
// memory and, from the stacks that it leaves when it is asked to quit, its
// goroutines. It fails if 10,000 hold more than 200 MiB or a goroutine each.
func BenchmarkWaiting(b *testing.B) {
	n := 10_000
	if s := os.Getenv("COUNTERSIGN_BENCH_WAITING"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			b.Fatal(err)
		}
	}
	p := start(b, b.TempDir(), storagetest.SQLite(b), "", "GOTRACEBACK=all")
	keys := p.waitingAgents(b, (n+99)/100)
	before := resident(b, p.cmd.Process.Pid)
	began := time.Now()
	hc := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
	var g errgroup.Group
	g.SetLimit(16)
	for i := range n {
		g.Go(func() error {
			status, body, err := heldPost(hc, p.url, keys[i/100], "held", i, 0)
			if err == nil && (status != http.StatusForbidden || !strings.Contains(body, "approval_pending")) {
				err = fmt.Errorf("call %d: %d %s", i, status, body)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
	took := time.Since(began)
	hc.CloseIdleConnections()
	time.Sleep(5 * time.Second) // what making them left behind is collected meanwhile
	after := resident(b, p.cmd.Process.Pid)
	routines := p.quit()
	b.Logf("%d requests wait, made in %s: the server holds %d MiB, %d MiB of it since they began, and has %d goroutines", n, took.Round(time.Millisecond), after>>20, (after-before)>>20, routines)
	b.ReportMetric(float64(after)/(1<<20), "MiB")
	b.ReportMetric(float64(routines), "goroutines")
	if after > waitingLimit || routines > waitingRoutines || routines == 0 {
		b.Errorf("%d MiB and %d goroutines are over the limits of %d MiB and %d", after>>20, routines, waitingLimit>>20, waitingRoutines)
	}
	benchOut(b, "waiting.json", map[string]int64{"requests": int64(n), "resident_bytes": after, "resident_bytes_before": before, "goroutines": int64(routines), "took_ms": took.Milliseconds()})
}

// waitingAgents registers agents whose calls of the model "held" wait, and
// returns their keys.
func (p *process) waitingAgents(b testing.TB, n int) []string {
	b.Helper()
	p.company(b)
	p.model(b, "up", "openai", "http://127.0.0.1:9", "waiting-model-key-0123456789")
	p.api(b, "PUT", "/groups/deciders", map[string]any{"members": []string{"admin"}}, nil)
	p.api(b, "PUT", "/policies/held", map[string]any{"text": heldModels}, nil)
	keys := make([]string, n)
	for i := range keys {
		name := fmt.Sprint("agent-", i)
		p.api(b, "PUT", "/agents/"+name, map[string]any{"owner": "olga", "backup": "ben", "stage": "development", "purpose": "waits"}, nil)
		p.api(b, "PUT", "/grants/"+name, map[string]any{"agent": name, "connection": "up", "tools": []string{"*"}, "reason": "test"}, nil)
		var issued struct {
			Key string `json:"key"`
		}
		p.api(b, "POST", "/agents/"+name+"/keys", map[string]any{}, &issued)
		keys[i] = issued.Key
	}
	return keys
}

// quit has the process print its stacks and end, and returns how many there are.
func (p *process) quit() int {
	_ = p.cmd.Process.Signal(syscall.SIGQUIT)
	_ = p.cmd.Wait()
	n := 0
	for line := range strings.Lines(p.stderr.String()) {
		if strings.HasPrefix(line, "goroutine ") {
			n++
		}
	}
	return n
}

// heldPost makes call n of a model, kept for at most wait.
func heldPost(hc *http.Client, url, key, model string, n int, wait time.Duration) (int, string, error) {
	req, err := http.NewRequest(http.MethodPost, url+"/llm/up/v1/chat/completions", strings.NewReader(modelCall(model, int64(n))))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", "application/json")
	if wait > 0 {
		req.Header.Set("Prefer", fmt.Sprintf("wait=%d", int(wait/time.Second)))
	}
	resp, err := hc.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

func benchOut(b *testing.B, name string, v any) {
	b.Helper()
	dir := os.Getenv("COUNTERSIGN_BENCH_OUT")
	if dir == "" {
		return
	}
	out, err := json.Marshal(v, json.Deterministic(true))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name), append(out, '\n'), 0o600)
	}
	if err != nil {
		b.Error(err)
	}
}

// BenchmarkDecide measures from a person's decision, as it is sent, to the
// arrival of the approved call at its upstream, whose client is kept: on one
// machine, and with the person at one replica and the client at another. Beside
// it stands a call that nobody holds, from its sending to its arrival.
func BenchmarkDecide(b *testing.B) {
	for _, c := range []struct {
		name  string
		n     int
		limit time.Duration
	}{{"one", 1, 100 * time.Millisecond}, {"replicas", 2, time.Second}} {
		b.Run(c.name, func(b *testing.B) {
			dsn := storagetest.SQLite(b)
			if c.n > 1 {
				dsn = storagetest.Postgres(b)
			}
			arrived := make(chan time.Time, 1)
			upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.ReadAll(r.Body)
				arrived <- time.Now()
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprint(w, `{"id":"x","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"ok"},"finish_reason":"stop"}]}`)
			}))
			defer upstream.Close()
			all := replicas(b, dsn, c.n)
			at, from := all[len(all)-1], all[0]
			key := from.company(b)
			from.model(b, "up", "openai", upstream.URL, "decide-model-key-0123456789")
			from.api(b, "PUT", "/groups/deciders", map[string]any{"members": []string{"admin"}}, nil)
			from.api(b, "PUT", "/policies/held", map[string]any{"text": heldModels}, nil)
			time.Sleep(2 * time.Second) // until every replica has seen all that
			var held, plain []time.Duration
			for i := 0; b.Loop(); i++ {
				plain = append(plain, timePlain(b, at, key, i, arrived))
				held = append(held, timeDecide(b, from, at, key, i, arrived))
			}
			report(b, c.name, held, plain, c.limit)
		})
	}
}

func timePlain(b *testing.B, at *process, key string, i int, arrived <-chan time.Time) time.Duration {
	b.Helper()
	began := time.Now()
	if status, body, err := heldPost(http.DefaultClient, at.url, key, "plain", i, 0); err != nil || status != http.StatusOK {
		b.Fatal(status, body, err)
	}
	return (<-arrived).Sub(began)
}

func timeDecide(b *testing.B, from, at *process, key string, i int, arrived <-chan time.Time) time.Duration {
	b.Helper()
	done := make(chan error, 1)
	go func() {
		status, body, err := heldPost(http.DefaultClient, at.url, key, "held", i, 50*time.Second)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("%d %s", status, body)
		}
		done <- err
	}()
	id := from.pendingOf(b)
	began := time.Now()
	from.decide(b, id, "approve")
	took := (<-arrived).Sub(began)
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	return took
}

func report(b *testing.B, name string, held, plain []time.Duration, limit time.Duration) {
	b.Helper()
	at := func(d []time.Duration, q float64) time.Duration {
		d = slices.Sorted(slices.Values(d))
		return d[min(len(d)-1, int(q*float64(len(d))))]
	}
	p50, p99, base := at(held, 0.5), at(held, 0.99), at(plain, 0.5)
	ratio := float64(p50) / float64(base)
	b.Logf("%s: decided to executed %s (p50), %s (p99); a call that nobody holds %s (p50): ratio %.1f", name, p50, p99, base, ratio)
	b.ReportMetric(float64(p50.Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(p99.Microseconds())/1000, "p99-ms")
	b.ReportMetric(ratio, "ratio")
	if p50 > limit {
		b.Errorf("%s is over %s", p50, limit)
	}
	benchOut(b, "decide-"+name+".json", map[string]any{"calls": len(held), "p50_ms": float64(p50.Microseconds()) / 1000, "p99_ms": float64(p99.Microseconds()) / 1000, "plain_p50_ms": float64(base.Microseconds()) / 1000, "ratio": ratio})
}
