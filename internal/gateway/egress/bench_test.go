package egress_test

import (
	"bytes"
	"encoding/json/v2"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/storage/storagetest"
)

const (
	benchRounds = 7
	benchFor    = 300 * time.Millisecond // per round and way
)

// way is one way to the same API.
type way struct{ name, base, key string }

// measured is what one scenario took one way.
type measured struct {
	Scenario string  `json:"scenario"`
	Way      string  `json:"target"`
	PerSec   float64 `json:"requests_per_second"` // median of rounds
	Ratio    float64 `json:"ratio_to_reverse_proxy"`
	P50      float64 `json:"p50_us"`
	Errors   int     `json:"errors"`
}

// BenchmarkHTTP measures the front, with a real log on SQLite, Cedar over the
// arguments and everything recorded, beside the API itself and
// httputil.ReverseProxy, in interleaved rounds of one run.
func BenchmarkHTTP(b *testing.B) {
	ways := benchWays(b)
	transport := &http.Transport{MaxIdleConns: 256, MaxIdleConnsPerHost: 256, DisableCompression: true}
	b.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}
	var all []measured
	for _, s := range []struct {
		name, method, path string
		clients            int
		body               []byte
	}{
		{" 1 client,  GET", "GET", "/pets?limit=2", 1, nil},
		{" 1 client,  POST 1 KiB", "POST", "/pets", 1, pet(1 << 10)},
		{"32 clients, GET", "GET", "/pets?limit=2", 32, nil},
		{"32 clients, POST 1 KiB", "POST", "/pets", 32, pet(1 << 10)},
		{"32 clients, POST 32 KiB", "POST", "/pets", 32, pet(32 << 10)},
	} {
		rates, took, failed := make([][]float64, len(ways)), make([][]float64, len(ways)), make([]int, len(ways))
		for round := range benchRounds + 1 {
			for i, w := range ways {
				times, errs := busy(client, s.clients, func() (*http.Request, error) {
					r, err := http.NewRequest(s.method, w.base+s.path, bytes.NewReader(s.body))
					if err == nil {
						r.Header.Set("Authorization", "Bearer "+w.key)
						r.Header.Set("Content-Type", "application/json")
					}
					return r, err
				})
				failed[i] += errs
				if round > 0 { // the first warms up
					rates[i], took[i] = append(rates[i], float64(len(times))/benchFor.Seconds()), append(took[i], times...)
				}
			}
		}
		for i, w := range ways {
			all = append(all, measured{s.name, w.name, median(rates[i]), median(rates[i]) / median(rates[1]), median(took[i]), failed[i]})
		}
	}
	for _, m := range all {
		fmt.Printf("%-24s %-14s %8.0f req/s  %.2f of the proxy  p50 %6.0f us  %d errors\n", m.Scenario, m.Way, m.PerSec, m.Ratio, m.P50, m.Errors)
		if m.Errors > 0 {
			b.Errorf("%s, %s: %d requests failed", m.Scenario, m.Way, m.Errors)
		}
	}
	keep(b, all)
}

func benchWays(b *testing.B) []way {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { // remembers nothing
		_, _ = io.Copy(io.Discard, q.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"pets":[{"id":7,"name":"Rex"},{"id":8,"name":"Mia"}],"next":null}`)
	}))
	b.Cleanup(func() { api.CloseClientConnections(); api.Close() })
	u, err := url.Parse(api.URL)
	if err != nil {
		b.Fatal(err)
	}
	r := &rig{t: b}
	r.serve(storagetest.Open(b, storagetest.SQLite(b)), api.URL, "", petOperations)
	r.Policies(`@id("pets") permit (principal == Agent::"invoice-checker", action in Action::"forge", resource);
@id("few") forbid (principal, action == Action::"forge/pets", resource) when { context.args has query && context.args.query has limit && context.args.query.limit > 100 };`)
	transport := &http.Transport{MaxIdleConns: 256, MaxIdleConnsPerHost: 256, DisableCompression: true}
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(u) }, Transport: transport})
	b.Cleanup(func() { proxy.CloseClientConnections(); proxy.Close(); transport.CloseIdleConnections() })
	return []way{{"direct", api.URL, r.Key}, {"reverse proxy", proxy.URL, r.Key}, {"countersign", r.url, r.Key}}
}

// pet is a JSON body of about n bytes.
func pet(n int) []byte {
	return []byte(`{"name":"Rex","note":"` + string(bytes.Repeat([]byte("all is well. "), n/13)) + `"}`)
}

// busy keeps clients busy for a while: how long each request took in
// microseconds, and how many failed.
func busy(client *http.Client, clients int, request func() (*http.Request, error)) (all []float64, failed int) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	until := time.Now().Add(benchFor)
	for range clients {
		wg.Go(func() {
			var took []float64
			errs := 0
			for time.Now().Before(until) {
				start := time.Now()
				if !served(client, request) {
					errs++
					continue
				}
				took = append(took, float64(time.Since(start).Nanoseconds())/1e3)
			}
			mu.Lock()
			all, failed = append(all, took...), failed+errs
			mu.Unlock()
		})
	}
	wg.Wait()
	return all, failed
}

func served(client *http.Client, request func() (*http.Request, error)) bool {
	r, err := request()
	if err != nil {
		return false
	}
	resp, err := client.Do(r)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err == nil && resp.StatusCode == http.StatusOK
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// keep leaves what was measured where COUNTERSIGN_BENCH_OUT says.
func keep(b *testing.B, all []measured) {
	dir := os.Getenv("COUNTERSIGN_BENCH_OUT")
	if dir == "" {
		return
	}
	doc, err := json.Marshal(map[string]any{
		"benchmark": "http", "time": time.Now().UTC().Format(time.RFC3339), "go": runtime.Version(), "cpus": runtime.NumCPU(), "results": all,
	}, json.Deterministic(true))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "http.json"), append(doc, '\n'), 0o644)
	}
	if err != nil {
		b.Fatal(err)
	}
}
