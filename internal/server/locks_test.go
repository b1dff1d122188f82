package server_test

import (
	"bufio"
	"encoding/json/v2"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// replicas starts n servers on one PostgreSQL database, or one on SQLite. Behind
// a load balancer they are one server: all issue tokens under the first's URL.
func replicas(t testing.TB, dsn string, n int) []*process {
	t.Helper()
	return replicasOf(t, t.TempDir(), dsn, "", n)
}

// replicasOf is replicas with the data of a first server, which has ended; token is
// the administrator's.
func replicasOf(t testing.TB, data, dsn, token string, n int) []*process {
	t.Helper()
	if !strings.HasPrefix(dsn, "postgres") {
		n = 1
	}
	all := []*process{start(t, data, dsn, token)}
	for i := 1; i < n; i++ {
		// Another machine has the keys, not the files.
		own := t.TempDir()
		for _, name := range []string{"key"} {
			b, err := os.ReadFile(filepath.Join(data, name))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(own, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		listen := net.JoinHostPort("127.0.0.1", strconv.Itoa(freePort(t)))
		r := start(t, own, dsn, all[0].token, "COUNTERSIGN_URL="+all[0].url, "COUNTERSIGN_LISTEN="+listen)
		r.url = "http://" + listen
		all = append(all, r)
	}
	return all
}

// ask makes one short call and returns its status and answer.
func (p *process) ask(t testing.TB, token string) (int, string) {
	t.Helper()
	return p.as(t, token, "POST", "/llm/openai/v1/chat/completions", `{"model":"test-echo","max_tokens":5,"messages":[{"role":"user","content":"hello"}]}`)
}

// drained returns a channel that is closed when the stream has ended.
func drained(lines *bufio.Scanner) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines.Scan() {
		}
	}()
	return done
}

type lockState struct {
	ID     string  `json:"id"`
	Cut    int     `json:"cut"`
	Acks   []any   `json:"acks"`
	Silent []any   `json:"silent"`
	Millis float64 `json:"millis"`
}

// settled waits until no replica is silent about a lock.
func (p *process) settled(t testing.TB, id string) (st lockState) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; {
		p.api(t, "GET", "/locks/"+id, nil, &st)
		if len(st.Silent) == 0 {
			return st
		}
		if time.Now().After(deadline) {
			t.Fatalf("silent: %+v", st)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Invariant 5 on every replica: a lock of any kind refuses new calls and cuts
// those in flight, each replica says so, and lifting it lets calls go on.
func TestALockStopsEverywhere(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		upstream := serveModel(t, "lock-model-key-0123456789")
		all := replicas(t, dsn, 3)
		p := all[0]
		p.company(t)
		p.model(t, "openai", "openai", upstream, "lock-model-key-0123456789")
		p.api(t, "PUT", "/teams/crew", map[string]any{"members": []string{"olga"}}, nil)
		p.api(t, "PUT", "/agents/worker", map[string]any{"owner": "olga", "backup": "ben", "team": "crew", "stage": "development"}, nil)
		var run struct {
			Token string `json:"token"`
			Run   string `json:"run"`
		}
		p.api(t, "POST", "/agents/worker/runs", map[string]any{"expires_in": "1h"}, &run)
		var key struct {
			ID  string `json:"id"`
			Key string `json:"key"`
		}
		p.api(t, "POST", "/agents/worker/keys", map[string]any{}, &key)
		for _, c := range []struct{ kind, name, credential string }{
			{"agent", "worker", run.Token}, {"owner", "olga", run.Token}, {"team", "crew", key.Key}, {"connection", "openai", key.Key},
			{"tool", "openai/chat.completions", run.Token}, {"run", run.Run, run.Token}, {"credential", key.ID, key.Key}, {"everything", "", key.Key},
		} {
			var streams []<-chan struct{}
			for _, r := range all {
				r.eventuallyAllowed(t, c.credential)
				lines := r.endless(t, c.credential)
				if !lines.Scan() {
					t.Fatal("the stream did not begin")
				}
				streams = append(streams, drained(lines))
			}
			var placed lockState
			p.api(t, "POST", "/locks", map[string]any{"kind": c.kind, "name": c.name}, &placed)
			for i, ended := range streams {
				select {
				case <-ended:
				case <-time.After(30 * time.Second):
					t.Fatalf("%s/%s: the stream on replica %d goes on", c.kind, c.name, i)
				}
			}
			st := p.settled(t, placed.ID)
			if len(st.Acks) != len(all) || st.Cut != len(all) {
				t.Errorf("%s/%s: %+v", c.kind, c.name, st)
			}
			for i, r := range all {
				if status, body := r.ask(t, c.credential); status != 403 || !strings.Contains(body, `"locked"`) || strings.Contains(body, "test") {
					t.Errorf("%s/%s on replica %d: %d %s", c.kind, c.name, i, status, body)
				}
			}
			p.api(t, "DELETE", "/locks/"+placed.ID, nil, nil)
			for _, r := range all {
				r.eventuallyAllowed(t, c.credential)
			}
			t.Logf("%s: %.0f ms", c.kind, st.Millis)
		}
	})
}

// eventuallyAllowed waits until a replica has seen that calls may be made.
func (p *process) eventuallyAllowed(t testing.TB, credential string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		status, body := p.ask(t, credential)
		if status == 200 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d %s", status, body)
		}
	}
}

// An owner stops their own agent and nobody else's, and cannot lift what an
// operator placed.
func TestOwnersStopTheirOwn(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	p := start(t, t.TempDir(), storagetest.SQLite(t), "")
	p.company(t)
	p.api(t, "PUT", "/agents/other", map[string]any{"owner": "ben", "stage": "development"}, nil)
	olga := p.person(t, "olga", rest.Owner)
	why := `{"reason":"odd"}`
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", "/agents/other/lock", why, 403},
		{"POST", "/locks", `{"kind":"agent","name":"worker","reason":"odd"}`, 403},
		{"POST", "/agents/worker/lock", `{}`, 400}, // no reason
		{"POST", "/agents/worker/lock", why, 201},
		{"POST", "/agents/worker/unlock", why, 200},
		{"POST", "/agents/worker/resume", why, 403},
	} {
		if status, body := p.as(t, olga, c.method, "/api/v1"+c.path, c.body); status != c.status {
			t.Errorf("%s %s: %d %s", c.method, c.path, status, body)
		}
	}
	var placed lockState
	p.api(t, "POST", "/locks", map[string]any{"kind": "agent", "name": "worker"}, &placed)
	if status, body := p.as(t, olga, "POST", "/api/v1/agents/worker/unlock", why); status != 403 || !strings.Contains(body, "placed by admin") {
		t.Errorf("unlocked: %d %s", status, body)
	}
	if status, body := p.as(t, olga, "DELETE", "/api/v1/locks/"+placed.ID+"?reason=x", ""); status != 403 {
		t.Errorf("lifted: %d %s", status, body)
	}
	var mine lockState
	status, body := p.as(t, olga, "POST", "/api/v1/agents/worker/lock", why)
	if err := json.Unmarshal([]byte(body), &mine); err != nil || status != 201 {
		t.Fatal(status, body)
	}
	if status, body := p.as(t, olga, "DELETE", "/api/v1/locks/"+mine.ID+"?reason=x", ""); status != 200 {
		t.Errorf("her own: %d %s", status, body)
	}
	if status, _ := p.as(t, olga, "DELETE", "/api/v1/locks/lck_nothing?reason=x", ""); status != 404 {
		t.Errorf("none: %d", status)
	}
}

// BenchmarkStop measures from the moment that somebody asks to stop an agent to
// the moment that the last of its streams has ended, as their clients see it:
// three replicas on PostgreSQL (one on SQLite without it), two streams on each.
func BenchmarkStop(b *testing.B) {
	dsn := storagetest.SQLite(b)
	if os.Getenv(storagetest.Env) != "" {
		dsn = storagetest.Postgres(b)
	}
	upstream := serveModel(b, "bench-model-key-0123456789")
	all := replicas(b, dsn, 3)
	p := all[0]
	p.company(b)
	p.model(b, "openai", "openai", upstream, "bench-model-key-0123456789")
	var key struct {
		Key string `json:"key"`
	}
	p.api(b, "POST", "/agents/worker/keys", map[string]any{}, &key)
	b.Run("lock", func(b *testing.B) {
		measureStops(b, "stop-lock", all, func() string { return key.Key }, func(string) func() {
			var placed lockState
			p.api(b, "POST", "/locks", map[string]any{"kind": "agent", "name": "worker"}, &placed)
			return func() { p.api(b, "DELETE", "/locks/"+placed.ID, nil, nil) }
		})
	})
}

// measureStops opens streams on every replica, calls stop and waits until all
// have ended, b.N times, and prints and stores the distribution.
func measureStops(b *testing.B, name string, all []*process, credential func() string, stop func(credential string) func()) {
	const each = 2
	var took []time.Duration
	for b.Loop() {
		secret := credential()
		var streams []*bufio.Scanner
		for _, r := range all {
			r.eventuallyAllowed(b, secret)
			for range each {
				lines := r.endless(b, secret)
				if !lines.Scan() {
					b.Fatal("the stream did not begin")
				}
				streams = append(streams, lines)
			}
		}
		var ended sync.WaitGroup
		var mu sync.Mutex
		var last time.Time
		for _, lines := range streams {
			ended.Add(1)
			go func() {
				defer ended.Done()
				for lines.Scan() {
				}
				mu.Lock()
				last = time.Now()
				mu.Unlock()
			}()
		}
		began := time.Now()
		undo := stop(secret)
		ended.Wait()
		took = append(took, last.Sub(began))
		undo()
	}
	slices.Sort(took)
	at := func(q float64) float64 { return float64(took[int(q*float64(len(took)-1))].Microseconds()) / 1000 }
	result := map[string]any{"name": name, "replicas": len(all), "streams": each * len(all), "tries": len(took), "p50_ms": at(.5), "p99_ms": at(.99), "max_ms": at(1)}
	b.ReportMetric(at(.5), "p50-ms")
	b.ReportMetric(at(.99), "p99-ms")
	b.ReportMetric(at(1), "max-ms")
	fmt.Printf("%s: %d replicas, %d streams, %d tries: p50 %.0f ms, p99 %.0f ms, max %.0f ms\n", name, len(all), each*len(all), len(took), at(.5), at(.99), at(1))
	if dir := os.Getenv("COUNTERSIGN_BENCH_OUT"); dir != "" {
		out, err := json.Marshal(result, json.Deterministic(true))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name+".json"), append(out, '\n'), 0o644)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
