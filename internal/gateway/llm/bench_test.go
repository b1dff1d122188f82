package llm_test

import (
	"bufio"
	"bytes"
	"encoding/json/v2"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/test/line"
)

const (
	benchRounds  = 5
	benchFor     = 300 * time.Millisecond // per round and target
	streamChunks = 20
)

// target is one way to the same upstream.
type target struct{ name, url, key string }

// result is what one scenario measured for one target.
type result struct {
	Scenario string  `json:"scenario"`
	Target   string  `json:"target"`
	PerSec   float64 `json:"requests_per_second"` // median of rounds
	P50      float64 `json:"p50_us"`
	P99      float64 `json:"p99_us"`
	Ratio    float64 `json:"ratio_to_reverse_proxy"` // of requests per second
	Added    float64 `json:"added_p50_us"`           // over direct
	Errors   int     `json:"errors"`
}

// BenchmarkLine measures calls with everything on (a real log on SQLite on disk,
// Cedar, redaction, capture) beside the same calls made directly and through
// httputil.ReverseProxy, in interleaved rounds of one run.
func BenchmarkLine(b *testing.B) {
	l, targets := benchTargets(b)
	var all []result
	for _, clients := range []int{1, 32} {
		for _, size := range []int{1 << 10, 2 << 10, 32 << 10} {
			for _, stream := range []bool{false, true} {
				if size == 2<<10 && (clients != 1 || stream) {
					continue
				}
				kind := "whole"
				if stream {
					kind = "stream"
				}
				name := fmt.Sprintf("%2d clients, %4s, %s", clients, sizeName(size), kind)
				all = append(all, compare(b, name, targets, clients, chat(size), stream)...)
			}
		}
	}
	all = append(all, chunkLatency(b, targets)...)
	report(b, append(all, durableWrite(b, l)))
	for _, r := range all {
		if r.Target == "countersign" && r.Errors > 0 {
			b.Errorf("%s: %d calls failed", r.Scenario, r.Errors)
		}
	}
}

// durableWrite measures what the log alone takes for one event, so that it can
// be taken off what a call takes with one client.
func durableWrite(b *testing.B, l *line.Line) result {
	var took []float64
	for range 300 {
		start := time.Now()
		if _, err := l.Log.Append(b.Context(), audit.Event{Type: "bench.measured", Actor: audit.System}); err != nil {
			b.Fatal(err)
		}
		took = append(took, float64(time.Since(start).Nanoseconds())/1e3)
	}
	return result{Scenario: "one durable write", Target: "the log alone", PerSec: 1e6 / quantile(took, 0.5), P50: quantile(took, 0.5), P99: quantile(took, 0.99)}
}

// benchUpstream answers like a model, fast, and without remembering anything.
func benchUpstream(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	switch r.URL.Query().Get("mode") {
	case "stream":
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range streamChunks {
			fmt.Fprintf(w, "data: {\"id\":\"c\",\"model\":\"gpt-5-mini\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"word %d \"}}]}\n\n", i)
			_ = http.NewResponseController(w).Flush()
		}
		_, _ = io.WriteString(w, "data: [DONE]\n\n")
	case "timed":
		w.Header().Set("Content-Type", "text/event-stream")
		for range 100 {
			time.Sleep(3 * time.Millisecond)
			fmt.Fprintf(w, "data: {\"t\":%d,\"choices\":[{\"delta\":{\"content\":\"word \"}}]}\n\n", time.Now().UnixNano())
			_ = http.NewResponseController(w).Flush()
		}
	case "idle":
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: {\"choices\":[{\"delta\":{\"content\":\"word \"}}]}\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	default:
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, benchAnswer)
	}
}

var benchAnswer = `{"id":"c","object":"chat.completion","model":"gpt-5-mini","choices":[{"index":0,"message":{"role":"assistant","content":"` +
	strings.Repeat("All is in order. ", 45) + `"},"finish_reason":"stop"}],"usage":{"prompt_tokens":400,"completion_tokens":180,"total_tokens":580}}`

func benchTargets(b *testing.B) (*line.Line, []target) {
	up := httptest.NewServer(http.HandlerFunc(benchUpstream))
	b.Cleanup(func() { up.CloseClientConnections(); up.Close() })
	u, err := url.Parse(up.URL)
	if err != nil {
		b.Fatal(err)
	}
	transport := &http.Transport{MaxIdleConns: 256, MaxIdleConnsPerHost: 256, DisableCompression: true}
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u) }, Transport: transport, FlushInterval: -1,
	})
	b.Cleanup(func() { proxy.CloseClientConnections(); proxy.Close(); transport.CloseIdleConnections() })
	l := line.Start(b, storagetest.Open(b, storagetest.SQLite(b)), line.Options{})
	l.Connect("openai", connections.OpenAI, up.URL)
	l.Policies(`@id("models") permit (principal == Agent::"invoice-checker", action in Action::"openai", resource)
when { context.args has model && ["gpt-5", "gpt-5-mini"].contains(context.args.model) };
@id("limit") forbid (principal, action == Action::"openai/chat.completions", resource)
when { context.args has max_tokens && context.args.max_tokens > 4096 };`)
	return l, []target{
		{"direct", up.URL + "/v1/chat/completions", l.Key},
		{"reverse proxy", proxy.URL + "/v1/chat/completions", l.Key},
		{"countersign", l.URL + chatPath, l.Key},
	}
}

func benchClient(b *testing.B) *http.Client {
	t := &http.Transport{MaxIdleConns: 256, MaxIdleConnsPerHost: 256, DisableCompression: true}
	b.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t}
}

func request(b *testing.B, t target, mode string, body []byte) *http.Request {
	u := t.url
	if mode != "" {
		u += "?mode=" + mode
	}
	req, err := http.NewRequest(http.MethodPost, u, bytes.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+t.key)
	req.Header.Set("Content-Type", "application/json")
	return req
}

// compare runs one scenario over all targets, round by round.
func compare(b *testing.B, name string, targets []target, clients int, body []byte, stream bool) []result {
	mode := ""
	if stream {
		mode = "stream"
	}
	client := benchClient(b)
	rates, latencies, failed := make([][]float64, len(targets)), make([][]float64, len(targets)), make([]int, len(targets))
	for round := range benchRounds + 1 {
		for i, t := range targets {
			n, took, errs := load(b, client, t, clients, mode, body)
			failed[i] += errs
			if round == 0 {
				continue // warming up
			}
			rates[i] = append(rates[i], float64(n)/benchFor.Seconds())
			latencies[i] = append(latencies[i], took...)
		}
	}
	out := make([]result, len(targets))
	for i, t := range targets {
		out[i] = result{Scenario: name, Target: t.name, PerSec: quantile(rates[i], 0.5), P50: quantile(latencies[i], 0.5), P99: quantile(latencies[i], 0.99), Errors: failed[i]}
	}
	for i := range out {
		out[i].Ratio, out[i].Added = out[i].PerSec/out[1].PerSec, out[i].P50-out[0].P50
	}
	return out
}

// load keeps clients busy for a while and returns how many requests they made,
// how long each took, in microseconds, and how many failed.
func load(b *testing.B, client *http.Client, t target, clients int, mode string, body []byte) (n int, all []float64, errs int) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	until := time.Now().Add(benchFor)
	for range clients {
		wg.Go(func() {
			var took []float64
			failed := 0
			for time.Now().Before(until) {
				start := time.Now()
				if err := once(client, request(b, t, mode, body)); err != nil {
					failed++
					continue
				}
				took = append(took, float64(time.Since(start).Nanoseconds())/1e3)
			}
			mu.Lock()
			all, errs = append(all, took...), errs+failed
			mu.Unlock()
		})
	}
	wg.Wait()
	return len(all), all, errs
}

func once(client *http.Client, req *http.Request) error {
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err = io.Copy(io.Discard, resp.Body); err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", resp.StatusCode)
	}
	return err
}

// chunkLatency measures how long a piece of a stream takes from the upstream's
// hand to the client's, for 8 streams at once.
func chunkLatency(b *testing.B, targets []target) []result {
	client := benchClient(b)
	out := make([]result, len(targets))
	lat := make([][]float64, len(targets))
	for range 3 {
		for i, t := range targets {
			var mu sync.Mutex
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					took := timed(b, client, t)
					mu.Lock()
					lat[i] = append(lat[i], took...)
					mu.Unlock()
				})
			}
			wg.Wait()
		}
	}
	for i, t := range targets {
		out[i] = result{Scenario: "a stream's chunk", Target: t.name, P50: quantile(lat[i], 0.5), P99: quantile(lat[i], 0.99)}
		out[i].Added = out[i].P50 - out[0].P50
	}
	return out
}

func timed(b *testing.B, client *http.Client, t target) []float64 {
	resp, err := client.Do(request(b, t, "timed", chat(1<<10)))
	if err != nil {
		b.Error(err)
		return nil
	}
	defer resp.Body.Close()
	var took []float64
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		stamp, ok := strings.CutPrefix(lines.Text(), `data: {"t":`)
		if !ok {
			continue
		}
		stamp, _, _ = strings.Cut(stamp, ",")
		ns, err := strconv.ParseInt(stamp, 10, 64)
		if err != nil {
			b.Error(err)
			return took
		}
		took = append(took, float64(time.Now().UnixNano()-ns)/1e3)
	}
	return took
}

func quantile(v []float64, q float64) float64 {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return v[min(len(v)-1, int(q*float64(len(v))))]
}

func report(b *testing.B, all []result) {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 2, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "scenario\ttarget\treq/s\tof proxy\tp50 us\tp99 us\tadded p50 us\terrors\t")
	for _, r := range all {
		fmt.Fprintf(w, "%s\t%s\t%.0f\t%.2f\t%.0f\t%.0f\t%.0f\t%d\t\n", r.Scenario, r.Target, r.PerSec, r.Ratio, r.P50, r.P99, r.Added, r.Errors)
	}
	w.Flush()
	fmt.Print("\n" + out.String()) // b.Log cuts what is long
	writeResults(b, "line", all)
}

// writeResults leaves what was measured where COUNTERSIGN_BENCH_OUT says.
func writeResults(b *testing.B, name string, v any) {
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

// BenchmarkIdleStreams opens COUNTERSIGN_BENCH_STREAMS (default 1,000) streams
// that have begun and are silent, and measures what they hold: the gateway's
// share and, in the same process, the upstream's.
func BenchmarkIdleStreams(b *testing.B) {
	n := 1000
	if s := os.Getenv("COUNTERSIGN_BENCH_STREAMS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			b.Fatal(err)
		}
	}
	_, targets := benchTargets(b)
	direct, through := idleStreams(b, targets[0], n), idleStreams(b, targets[2], n)
	b.Logf("%d idle streams hold %d MiB (%d KiB each), of which the upstream and the test hold %d MiB; 10,000 would hold %d MiB",
		n, through>>20, through/int64(n)>>10, direct>>20, through*10_000/int64(n)>>20)
	writeResults(b, "idle_streams", map[string]int64{"streams": int64(n), "bytes_total": through, "bytes_without_gateway": direct})
}

// idleStreams returns the bytes that n streams hold. The clients are bare
// connections, which hold nothing.
func idleStreams(b *testing.B, t target, n int) int64 {
	u, err := url.Parse(t.url)
	if err != nil {
		b.Fatal(err)
	}
	before := memory()
	conns := make([]net.Conn, 0, n)
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	body := chat(2 << 10)
	for range n {
		conn, err := net.Dial("tcp", u.Host)
		if err != nil {
			b.Fatal(err)
		}
		conns = append(conns, conn)
		fmt.Fprintf(conn, "POST %s?mode=idle HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
			u.Path, t.key, len(body), body)
	}
	buf := make([]byte, 4096)
	for _, conn := range conns {
		if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			b.Fatal(err)
		}
		for got := ""; !strings.Contains(got, "word"); {
			k, err := conn.Read(buf)
			if err != nil {
				b.Fatal(err)
			}
			got += string(buf[:k])
		}
	}
	return memory() - before
}

func memory() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}
