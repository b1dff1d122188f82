package llm_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/test/line"
	"github.com/countersign/countersign/test/upstream"
)

const (
	chatPath    = "/llm/openai/v1/chat/completions"
	messagePath = "/llm/anthropic/v1/messages"
)

func TestUpstreamsThatMisbehave(t *testing.T) {
	l, up := small(t, line.Options{Idle: 300 * time.Millisecond})
	for i, c := range []struct {
		name    string
		path    string
		handler http.HandlerFunc
		status  int
		code    string
		outcome string
		says    string // in the outcome's error
	}{
		{"reset", chatPath, upstream.Reset, 502, "upstream_unreachable", audit.Broken, ""},
		{"no HTTP", chatPath, upstream.Raw("SSH-2.0-OpenSSH\r\n"), 502, "upstream_unreachable", audit.Broken, ""},
		{"an endless header", chatPath, upstream.Raw("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n"), 502, "upstream_unreachable", audit.Broken, ""},
		{"garbage", chatPath, upstream.JSON(200, "}{"), 502, "upstream_answer", audit.Broken, "not JSON"},
		{"a web page", chatPath, upstream.Text("text/html", "<html>"), 502, "upstream_answer", audit.Broken, "text/html"},
		{"half an answer", chatPath, upstream.Raw("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{\"a\":"), 502, "upstream_broken", audit.Broken, ""},
		{"a redirect", chatPath, upstream.Redirect("https://elsewhere.example/"), 502, "upstream_redirect", audit.Failed, "redirect"},
		{"our credential refused", chatPath, upstream.JSON(401, `{"error":{"message":"Incorrect API key: sk-live-9f"}}`), 502, "upstream_credential", audit.Failed, ""},
		{"an answer that stalls", chatPath, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, "{")
			_ = http.NewResponseController(w).Flush()
			upstream.Hang(w, r)
		}, 502, "upstream_idle", audit.Broken, "silent"},
		{"an error inside", chatPath, upstream.JSON(200, `{"error":{"message":"over quota"}}`), 200, "", audit.Failed, "over quota"},
		{"an error inside, by Anthropic", messagePath, upstream.JSON(200, `{"type":"error","error":{"type":"api_error","message":"over quota"}}`), 200, "", audit.Failed, "over quota"},
		{"the provider's own error", chatPath, upstream.JSON(429, `{"error":{"message":"slow down","code":"rate_limit_exceeded"}}`), 429, "rate_limit_exceeded", audit.Failed, "slow down"},
	} {
		t.Run(c.name, func(t *testing.T) {
			up.Answer(c.handler)
			got := do(t, l, "POST", c.path, `{"model":"m"}`)
			if got.status != c.status || got.code != c.code {
				t.Errorf("got %d %s, want %d %s", got.status, got.body, c.status, c.code)
			}
			if strings.Contains(got.body, "sk-live") || strings.Contains(got.body, "127.0.0.1") {
				t.Errorf("the answer says too much: %s", got.body)
			}
			l.Events(i+1, audit.CallIntent)
			o := l.Events(i+1, audit.CallOutcome)[i].Event.Outcome
			if o.Status != c.outcome || !strings.Contains(o.Error, c.says) {
				t.Errorf("outcome %+v", o)
			}
		})
	}
}

func TestAnUpstreamThatHangs(t *testing.T) {
	l, up := small(t, line.Options{})
	c := l.Connect("openai", connections.OpenAI, up.URL)
	c.Timeout = 200 * time.Millisecond
	l.Register(c)
	l.Policies(line.AllowAll)
	up.Answer(upstream.Hang)
	got := do(t, l, "POST", chatPath, `{"model":"m"}`)
	if got.status != 502 || got.code != "upstream_timeout" {
		t.Errorf("got %d %s", got.status, got.body)
	}
	up.Gone(t)
	if o := l.Events(1, audit.CallOutcome)[0].Event.Outcome; o.Status != audit.Broken {
		t.Errorf("outcome %+v", o)
	}
}

func TestAnUpstreamThatIsNotThere(t *testing.T) {
	l, up := small(t, line.Options{})
	l.Register(connections.Connection{Name: "openai", Kind: connections.LLM, Dialect: connections.OpenAI, URL: "http://127.0.0.1:1",
		Owner: "pat", Secret: "provider-key-openai", Auth: connections.AuthBearer, AllowPrivate: true})
	l.Policies(line.AllowAll)
	got := do(t, l, "POST", chatPath, `{"model":"m"}`)
	if got.status != 502 || got.code != "upstream_unreachable" {
		t.Errorf("got %d %s", got.status, got.body)
	}
	if n := len(up.Requests()); n != 0 {
		t.Errorf("the old upstream got %d requests after the connection changed", n)
	}
	l.Events(1, audit.CallOutcome)
}

func TestAConnectionThatMayNotBePrivate(t *testing.T) {
	l, up := small(t, line.Options{})
	// A public name that resolves to a private address would pass registration;
	// "localhost." is the nearest thing without a resolver of our own.
	_, err := l.Connections.Register(context.Background(), line.By, line.Reason, connections.Connection{Name: "sneaky", Kind: connections.LLM,
		Dialect: connections.OpenAI, URL: strings.Replace(up.URL, "http", "https", 1), Owner: "pat", Auth: connections.AuthNone})
	if err == nil {
		t.Error("a private address was registered without allow_private")
	}
}

// post begins a request that the test ends itself.
func post(ctx context.Context, t *testing.T, l *line.Line, path, body string) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+l.Key)
	req.Header.Set("Content-Type", "application/json")
	return l.Client().Do(req)
}

func TestAClientThatLeavesCancelsTheUpstream(t *testing.T) {
	l, up := small(t, line.Options{})
	t.Run("before the answer", func(t *testing.T) {
		up.Answer(upstream.Hang)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			up.Arrived(t)
			cancel()
		}()
		resp, err := post(ctx, t, l, chatPath, `{"model":"m"}`)
		if err == nil {
			resp.Body.Close()
			t.Fatal("there was an answer")
		}
		up.Gone(t)
		if o := l.Events(1, audit.CallOutcome)[0].Event.Outcome; o.Status != audit.Cancelled {
			t.Errorf("outcome %+v", o)
		}
	})
	t.Run("in a stream that never ends", func(t *testing.T) {
		up.Answer(upstream.Endless)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		resp, err := post(ctx, t, l, chatPath, `{"model":"m","stream":true}`)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.ReadFull(resp.Body, make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		cancel()
		up.Gone(t)
		o := l.Events(2, audit.CallOutcome)[1].Event.Outcome
		if o.Status != audit.Cancelled || o.Bytes < 100 || o.Digest == "" {
			t.Errorf("outcome %+v", o)
		}
	})
}

func TestAStreamIsPassedOnAsItComes(t *testing.T) {
	l, up := small(t, line.Options{})
	next := make(chan struct{})
	up.Answer(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for _, e := range []string{"data: {\"a\":1}\n\n", "data: {\"b\":2}\n\n", "data: [DONE]\n\n"} {
			_, _ = io.WriteString(w, e)
			_ = http.NewResponseController(w).Flush()
			<-next // not before the client has the event
		}
	})
	resp, err := post(t.Context(), t, l, chatPath, `{"model":"m","stream":true}`)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for _, want := range []string{"data: {\"a\":1}\n\n", "data: {\"b\":2}\n\n", "data: [DONE]\n\n"} {
		got := make([]byte, len(want))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != want {
			t.Fatalf("got %q %v", got, err)
		}
		next <- struct{}{}
	}
}

func TestAStreamThatBreaksEndsWithTheProvidersErrorEvent(t *testing.T) {
	l, up := small(t, line.Options{Idle: 300 * time.Millisecond})
	for i, c := range []struct {
		name, path, status, want string
		end                      http.HandlerFunc
	}{
		{"openai", chatPath, audit.Broken, "\n\ndata: {\"error\":{\"message\":\"", upstream.Abort},
		{"responses", "/llm/openai/v1/responses", audit.Broken, "event: error\ndata: {\"type\":\"error\",\"code\":\"upstream_", upstream.Abort},
		{"anthropic", messagePath, audit.Broken, "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\"", upstream.Abort},
		{"silence", messagePath, audit.Broken, "\"code\":\"upstream_idle\"", upstream.Hang},
	} {
		t.Run(c.name, func(t *testing.T) {
			up.Answer(upstream.Stream(c.end, "data: {\"x\":1}\n\n"))
			got := do(t, l, "POST", c.path, `{"model":"m","stream":true}`)
			if got.status != 200 || !strings.HasPrefix(got.body, "data: {\"x\":1}\n\n") || !strings.Contains(got.body, c.want) {
				t.Errorf("got %d %q", got.status, got.body)
			}
			if o := l.Events(i+1, audit.CallOutcome)[i].Event.Outcome; o.Status != c.status {
				t.Errorf("outcome %+v", o)
			}
		})
	}
}

func TestALongAnswerThatBreaksIsNotTakenForWhole(t *testing.T) {
	l, up := small(t, line.Options{})
	up.Answer(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"x":"`+strings.Repeat("x", 200<<10))
		_ = http.NewResponseController(w).Flush()
		upstream.Abort(w, r)
	})
	resp, err := post(t.Context(), t, l, chatPath, `{"model":"m"}`)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("half an answer ended as if it were whole")
	}
	if o := l.Events(1, audit.CallOutcome)[0].Event.Outcome; o.Status != audit.Broken {
		t.Errorf("outcome %+v", o)
	}
}

func TestManyAtOnceEachWithOneOutcome(t *testing.T) {
	up := upstream.Start(t, upstream.JSON(200, okChat))
	l := line.Start(t, storagetest.Open(t, storagetest.SQLite(t)), line.Options{})
	l.Connect("openai", connections.OpenAI, up.URL)
	l.Policies(line.AllowAll)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for range 10 {
				if got := do(t, l, "POST", chatPath, `{"model":"m"}`); got.status != 200 || got.body != okChat {
					t.Errorf("%d %s", got.status, got.body)
				}
			}
		})
	}
	wg.Wait()
	intents, outcomes := l.Events(320, audit.CallIntent), l.Events(320, audit.CallOutcome)
	calls := map[string]int{}
	for _, r := range append(intents, outcomes...) {
		calls[r.Event.Call]++
	}
	for call, n := range calls {
		if n != 2 {
			t.Errorf("%s has %d events", call, n)
		}
	}
	if runs := intents[0].Event.Run; runs == "" || intents[319].Event.Run != runs {
		t.Error("the calls of one agent within a moment are not one run")
	}
}
