package server_test

import (
	"bufio"
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/storage/storagetest"
)

// Invariant 5: whoever may not call any more makes no further call, and the
// calls in flight are cut within a second.
func TestCallsInFlightAreCut(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		upstream := serveModel(t, "standing-model-key-0123")
		p := start(t, t.TempDir(), dsn, "")
		p.company(t)
		// Without a backup, who would answer for the agent in olga's place.
		p.api(t, "PUT", "/agents/worker", map[string]any{"owner": "olga", "stage": "development", "purpose": "tests"}, nil)
		p.model(t, "openai", "openai", upstream, "standing-model-key-0123")
		for name, end := range map[string]func(run string){
			"the run is ended":      func(run string) { p.api(t, "POST", "/runs/"+run+"/end", map[string]any{}, nil) },
			"the agent suspended":   func(string) { p.api(t, "POST", "/agents/worker/suspend", map[string]any{"reason": "test"}, nil) },
			"the owner is disabled": func(string) { p.api(t, "PUT", "/users/olga", map[string]any{"role": "owner", "disabled": true}, nil) },
		} {
			t.Run(name, func(t *testing.T) {
				p.api(t, "PUT", "/users/olga", map[string]any{"role": "owner"}, nil)
				p.api(t, "POST", "/agents/worker/resume", map[string]any{"reason": "test"}, nil)
				var run struct {
					Token string `json:"token"`
					Run   string `json:"run"`
				}
				p.api(t, "POST", "/agents/worker/runs", map[string]any{"expires_in": "10m"}, &run)
				lines := p.endless(t, run.Token)
				if !lines.Scan() {
					t.Fatal("the stream did not begin")
				}
				end(run.Run)
				began := time.Now()
				timer := time.AfterFunc(20*time.Second, p.kill) // ends the test if nothing cuts the stream
				for lines.Scan() {
				}
				timer.Stop()
				t.Logf("cut after %s", time.Since(began))
				if took := time.Since(began); took > 5*time.Second { // the promise is one second, on a machine that is not busy
					t.Errorf("the stream went on for %s", took)
				}
			})
		}
	})
}

// An agent whose backup owner answers for it goes on when its owner is gone:
// no call is cut or refused in between.
func TestCallsGoOnUnderABackup(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		upstream := serveModel(t, "standing-model-key-0123")
		p := start(t, t.TempDir(), dsn, "")
		key := p.company(t)
		p.model(t, "openai", "openai", upstream, "standing-model-key-0123")
		for range 5 {
			lines := p.endless(t, key)
			p.api(t, "PUT", "/users/olga", map[string]any{"role": "owner", "disabled": true}, nil)
			for range 50 { // a line every 20 ms: longer than callers go unlooked at
				if !lines.Scan() {
					t.Fatalf("the stream was cut: %v", lines.Err())
				}
			}
			p.api(t, "PUT", "/users/olga", map[string]any{"role": "owner"}, nil)
		}
	})
}

// endless begins a stream that only a cut ends.
func (p *process) endless(t testing.TB, token string) *bufio.Scanner {
	t.Helper()
	body := `{"model":"test-endless?delay=20ms","max_tokens":5,"stream":true,"messages":[{"role":"user","content":"go on"}]}`
	req, _ := http.NewRequest("POST", p.url+"/llm/openai/v1/chat/completions", bytes.NewReader([]byte(body)))
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		t.Fatalf("%s %s", resp.Status, resp.Header.Get("Content-Type"))
	}
	return bufio.NewScanner(resp.Body)
}
