package server_test

import (
	"bytes"
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit/tlog"
)

// long reports whether the long form of the fault tests was asked for.
func long() bool { return os.Getenv("COUNTERSIGN_FAULTS") == "long" }

// plant is a server in a process of its own with its upstream and all that
// must outlive every fault: its key, its agent and what was proven.
type plant struct {
	*process
	t         *testing.T // the subtest
	life      *testing.T // the test, for which servers live
	data, dsn string
	env       []string
	up        *stage
	key       string
	number    atomic.Int64
	answered  atomic.Int64
	changed   sync.Map // names of users whose making was acknowledged
	kept      []byte   // a proof from before
	head      []byte   // a checkpoint from before
	vkey      string
}

// stage is the upstream. It remembers what it got, and a test can act at each
// step of a request.
type stage struct {
	witness
	at atomic.Pointer[func(step string)]
}

func (s *stage) step(name string) {
	if fn := s.at.Load(); fn != nil {
		(*fn)(name)
	}
}

func (s *stage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.step("connected")
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return // it did not arrive whole: nothing would have been done
	}
	r.Body = io.NopCloser(bytes.NewReader(b))
	s.witness.ServeHTTP(w, r)
	s.step("received")
	if f, ok := w.(http.Flusher); ok {
		f.Flush()
	}
	s.step("answered")
}

func (s *stage) received() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, times := range s.seen {
		n += times
	}
	return n
}

// newPlant starts a server on data and store, makes its company, and proves its
// first call.
func newPlant(t *testing.T, data, dsn string, env ...string) *plant {
	t.Helper()
	p := &plant{t: t, life: t, data: data, dsn: dsn, env: env, up: &stage{witness: witness{seen: map[string]int{}}}}
	upstream := httptest.NewServer(p.up)
	t.Cleanup(upstream.Close)
	p.process = start(t, data, dsn, "", env...)
	p.key = p.company(t)
	p.model(t, "up", "openai", upstream.URL, "witness-secret-0123456789")
	p.mustCall()
	p.prove()
	return p
}

// again starts the server after it has ended.
func (p *plant) again(env ...string) {
	p.t.Helper()
	p.process = start(p.life, p.data, p.dsn, p.token, append(p.env, env...)...)
}

// call makes one call and returns its status, 0 if it broke off.
func (p *plant) call() (int, string) {
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	status, body := try(ctx, p.url, p.key, p.number.Add(1))
	if status == http.StatusOK {
		p.answered.Add(1)
	}
	return status, body
}

func (p *plant) mustCall() {
	p.t.Helper()
	if status, body := p.call(); status != http.StatusOK {
		p.t.Fatalf("a call was refused: %d %s\n%s", status, body, p.stderr)
	}
}

// refused makes calls until they are refused with an error that an agent can act
// on, and none of anybody's is let through: what a broken store must look like from
// outside. Beside a full disk a write may work once more, and its call goes out,
// recorded; whole compares what went out with the log.
func (p *plant) refused(within time.Duration) {
	p.t.Helper()
	p.eventually(within, "calls are still let through", func() bool { status, _ := p.call(); return status != http.StatusOK })
	for end := time.Now().Add(within); ; {
		n := p.refusals(5)
		if n == 0 {
			return
		}
		if time.Now().After(end) {
			p.t.Errorf("%d requests reached the upstream while nothing could be recorded", n)
			return
		}
	}
}

// refusals makes calls, each of which must be refused, and returns how many
// requests reached the upstream meanwhile.
func (p *plant) refusals(calls int) int {
	p.t.Helper()
	before := p.up.received()
	for range calls {
		began := time.Now()
		status, body := p.call()
		if status == http.StatusOK {
			continue // it is counted
		}
		if status != http.StatusServiceUnavailable || !strings.Contains(body, "try again") && !strings.Contains(body, "refused") {
			p.t.Errorf("a call is refused with %d %s", status, body)
		}
		if d := time.Since(began); d > 20*time.Second {
			p.t.Errorf("a refusal takes %v", d)
		}
	}
	return int(p.up.received() - before)
}

// recovers waits until calls are let through again and the server is ready.
func (p *plant) recovers(within time.Duration) {
	p.t.Helper()
	p.eventually(within, "calls are refused for good", func() bool { status, _ := p.call(); return status == http.StatusOK })
	p.eventually(within, "it is not ready again", func() bool { status, _ := p.ready(); return status == http.StatusOK })
}

// ready asks for readiness, which must be answered whatever happens.
func (p *plant) ready() (int, string) {
	p.t.Helper()
	client := http.Client{Timeout: 15 * time.Second}
	resp, err := client.Get(p.url + "/readyz")
	if err != nil {
		p.t.Fatalf("readiness is not told: %v", err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

func (p *plant) eventually(within time.Duration, otherwise string, ok func() bool) {
	p.t.Helper()
	for end := time.Now().Add(within); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("%s after %v%s\n%s", otherwise, within, p.said(), tailOf(p.stderr.Bytes()))
		}
	}
}

// said is what the server says of its sealing, for a test that gave up.
func (p *plant) said() string {
	b, status, err := p.get("/api/v1/log/status")
	return fmt.Sprintf(" (sealing: %d %s %v)", status, b, err)
}

func tailOf(b []byte) []byte { return b[max(0, len(b)-4000):] }

// get reads from the server as the administrator.
func (p *plant) get(path string) ([]byte, int, error) {
	req, _ := http.NewRequest("GET", p.url+path, nil)
	req.Header.Set("Authorization", "Bearer "+p.token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return b, resp.StatusCode, err
}

// prove keeps a proof and a checkpoint, to be verified after the faults.
func (p *plant) prove() {
	p.t.Helper()
	var key struct {
		First string `json:"first"`
	}
	b, _, err := p.get("/api/v1/log/key")
	if err := errors.Join(err, json.Unmarshal(b, &key)); err != nil {
		p.t.Fatal(err)
	}
	p.vkey = key.First
	page := p.search("limit=1")
	p.eventually(20*time.Second, "nothing is sealed", func() bool {
		b, status, err := p.get("/api/v1/log/proof/" + page.Events[0].ID)
		p.kept = b
		return err == nil && status == http.StatusOK
	})
	if p.head, _, err = p.get("/log/checkpoint"); err != nil {
		p.t.Fatal(err)
	}
	p.oldProofs()
}

// oldProofs verifies what was proven before.
func (p *plant) oldProofs() {
	p.t.Helper()
	if _, err := tlog.VerifyProof(p.kept, tlog.Trust{Key: p.vkey}); err != nil {
		p.t.Errorf("a proof from before does not verify any more: %v", err)
	}
}

// whole checks, when all faults are over, that everything is sealed, that the
// tree is the log's and continues the one from before, that the search index
// has everything, and compares the log with what the upstream saw. It ends the
// server.
//
// It is patient: what waits on a connection that died in silence is given up
// only after a minute.
func (p *plant) whole() {
	p.t.Helper()
	p.oldProofs()
	p.eventually(3*time.Minute, "the log is not sealed to its end", func() bool {
		var st struct { // a fresh one: what is left out is as good as empty
			Behind  int64  `json:"behind"`
			Blocked string `json:"blocked"`
			Error   string `json:"error"`
		}
		b, _, err := p.get("/api/v1/log/status")
		return errors.Join(err, json.Unmarshal(b, &st)) == nil && st.Behind == 0 && st.Blocked == "" && st.Error == ""
	})
	var v struct {
		OK       bool     `json:"ok"`
		Problems []string `json:"problems"`
	}
	p.api(p.t, "POST", "/log/verify-tree", map[string]any{}, &v)
	if !v.OK {
		p.t.Errorf("the tree is not the log's: %v", v.Problems)
	}
	fetch := func(path string) ([]byte, error) {
		b, status, err := p.get("/log/" + path)
		switch {
		case err != nil:
			return nil, err
		case status == http.StatusNotFound:
			return nil, tlog.ErrAbsent
		case status != http.StatusOK:
			return nil, fmt.Errorf("%d: %s", status, b)
		}
		return b, nil
	}
	if was, is, err := tlog.VerifyServer(fetch, p.head, tlog.Trust{Key: p.vkey}, nil); err != nil || is.Size < was.Size {
		p.t.Errorf("the log does not continue the checkpoint from before: %+v, %+v, %v", was, is, err)
	}
	found := p.indexed()
	p.changes()
	p.process.stop(p.t)
	b := verdict(p.t, p.data, p.dsn, &p.up.witness)
	if found != len(b.intents) {
		p.t.Errorf("the index has %d intents, the log %d", found, len(b.intents))
	}
	if n := p.up.received(); p.answered.Load() > int64(n) {
		p.t.Errorf("%d calls were answered, the upstream got %d", p.answered.Load(), n)
	}
}

// listing is a page of a search.
type listing struct {
	Events []struct {
		ID string `json:"id"`
	} `json:"events"`
	Next   string `json:"next"`
	Behind int64  `json:"behind"`
}

func (p *plant) search(query string) listing {
	p.t.Helper()
	var page listing
	b, status, err := p.get("/api/v1/log/events?" + query)
	if err := errors.Join(err, json.Unmarshal(b, &page)); err != nil || status != http.StatusOK {
		p.t.Fatalf("%v: %d %s", err, status, b)
	}
	return page
}

// indexed waits until the index has followed the log, and returns how many
// intents it has.
func (p *plant) indexed() int {
	p.t.Helper()
	p.eventually(3*time.Minute, "the index does not follow", func() bool { return p.search("limit=1").Behind == 0 })
	n, cursor := 0, ""
	for {
		page := p.search("q=type:call.intent&limit=1000&cursor=" + cursor)
		n, cursor = n+len(page.Events), page.Next
		if cursor == "" {
			return n
		}
	}
}

// load calls with n clients until the returned function is called.
func (p *plant) load(n int) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	url := p.url
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			p.change(url)
		}
	})
	for range n {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
				if status, _ := try(ctx, url, p.key, p.number.Add(1)); status == http.StatusOK {
					p.answered.Add(1)
				}
				cancel()
			}
		})
	}
	return func() { close(done); wg.Wait() }
}

// change makes a user, and remembers one that was acknowledged.
func (p *plant) change(url string) {
	name := fmt.Sprintf("user-%d", p.number.Add(1))
	ctx, cancel := context.WithTimeout(p.t.Context(), 15*time.Second)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "PUT", url+"/api/v1/users/"+name, strings.NewReader(`{"role":"owner"}`))
	req.Header.Set("Authorization", "Bearer "+p.token)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Countersign-Reason", "test")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return
	}
	resp.Body.Close()
	if resp.StatusCode < 300 {
		p.changed.Store(name, true)
	}
	time.Sleep(10 * time.Millisecond) // people are slower
}

// changes checks that no acknowledged change is lost, and that each has its
// event.
func (p *plant) changes() {
	p.t.Helper()
	var users []struct {
		Name string `json:"name"`
	}
	b, _, err := p.get("/api/v1/users")
	if err := errors.Join(err, json.Unmarshal(b, &users)); err != nil {
		p.t.Fatal(err)
	}
	have, n := map[string]bool{}, 0
	for _, u := range users {
		have[u.Name] = true
		if strings.HasPrefix(u.Name, "user-") {
			n++
		}
	}
	p.changed.Range(func(name, _ any) bool {
		if !have[name.(string)] {
			p.t.Errorf("%v was made, acknowledged, and is gone", name)
		}
		return true
	})
	events, cursor := 0, ""
	for {
		page := p.search("q=object:user/user-*%20type:user.created&limit=1000&cursor=" + cursor)
		events, cursor = events+len(page.Events), page.Next
		if cursor == "" {
			break
		}
	}
	if events != n {
		p.t.Errorf("%d users were made, %d events say so", n, events)
	}
}

// copyTree copies a directory of small files: a backup.
func copyTree(t *testing.T, from, to string, skip func(name string) bool) {
	t.Helper()
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() || skip(e.Name()) {
			continue
		}
		b, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, e.Name()), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
