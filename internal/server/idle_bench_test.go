package server_test

import (
	"bufio"
	"encoding/json/v2"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/countersign/countersign/internal/storage/storagetest"
)

// idleLimit is the most that the server may hold with 10,000 idle streams.
const idleLimit = 1 << 30

// BenchmarkIdleStreams holds COUNTERSIGN_BENCH_STREAMS (default 10,000) streams
// of model answers that have begun and are silent, and measures the resident
// memory of the server, which is a process of its own: client and upstream are
// here. It fails if 10,000 hold more than 1 GiB.
func BenchmarkIdleStreams(b *testing.B) {
	n := 10_000
	if s := os.Getenv("COUNTERSIGN_BENCH_STREAMS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			b.Fatal(err)
		}
	}
	needFiles(b, uint64(2*n+500)) //nolint:gosec // small
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"word\"}}]}\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	defer func() { upstream.CloseClientConnections(); upstream.Close() }()
	p := start(b, b.TempDir(), storagetest.SQLite(b), "", "COUNTERSIGN_LIMITS_IDLE_STREAM=1h")
	key := p.company(b)
	p.model(b, "openai", "openai", upstream.URL, "idle-model-key-0123456789")
	before := resident(b, p.cmd.Process.Pid)
	began := time.Now()
	conns := openStreams(b, strings.TrimPrefix(p.url, "http://"), key, n)
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	took := time.Since(began)
	time.Sleep(5 * time.Second) // what opening them left behind is collected meanwhile
	after := resident(b, p.cmd.Process.Pid)
	b.Logf("%d idle streams, opened in %s: the server holds %d MiB, %d MiB of it since they began (%d KiB each)",
		n, took.Round(time.Millisecond), after>>20, (after-before)>>20, (after-before)/int64(n)>>10)
	b.ReportMetric(float64(after)/(1<<20), "MiB")
	if n >= 10_000 && after > idleLimit {
		b.Errorf("%d MiB is over the limit of %d MiB", after>>20, idleLimit>>20)
	}
	if dir := os.Getenv("COUNTERSIGN_BENCH_OUT"); dir != "" {
		out, err := json.Marshal(map[string]int64{"streams": int64(n), "resident_bytes": after, "resident_bytes_before": before}, json.Deterministic(true))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "idle_streams.json"), append(out, '\n'), 0o600)
		}
		if err != nil {
			b.Error(err)
		}
	}
}

// openStreams opens n streams and waits until each has begun.
func openStreams(b *testing.B, addr, key string, n int) []net.Conn {
	b.Helper()
	conns := make([]net.Conn, n)
	body := `{"model":"m","stream":true,"messages":[{"role":"user","content":"` + strings.Repeat("lorem ipsum ", 170) + `"}]}`
	request := fmt.Sprintf("POST /llm/openai/v1/chat/completions HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", key, len(body), body)
	var g errgroup.Group
	g.SetLimit(64)
	for i := range conns {
		g.Go(func() error {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				return err
			}
			conns[i] = conn
			if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
				return err
			}
			if _, err := conn.Write([]byte(request)); err != nil {
				return err
			}
			for lines := bufio.NewScanner(conn); lines.Scan(); {
				if strings.Contains(lines.Text(), "word") {
					return conn.SetDeadline(time.Time{})
				}
			}
			return fmt.Errorf("stream %d did not begin", i)
		})
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
	return conns
}

// needFiles raises the limit on open files, which the server inherits, or says
// which limit is in the way.
func needFiles(b *testing.B, n uint64) {
	b.Helper()
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		b.Fatal(err)
	}
	if l.Cur >= n {
		return
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: n, Max: max(n, l.Max)}); err != nil {
		b.Skipf("%d open files are needed and RLIMIT_NOFILE is %d of at most %d: %v; run as root, or with fewer COUNTERSIGN_BENCH_STREAMS", n, l.Cur, l.Max, err)
	}
}

// resident returns a process's resident memory in bytes.
func resident(b *testing.B, pid int) int64 {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Skipf("the resident memory of another process cannot be read here: %v", err)
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return kib << 10
		}
	}
	b.Fatal("no VmRSS")
	return 0
}
