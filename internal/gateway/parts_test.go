package gateway_test

import (
	"encoding/json/v2"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/identity"
)

func TestPaths(t *testing.T) {
	for _, good := range []string{"", "/", "/v1/chat/completions", "/v1/models/gpt-5", "/v1/models/claude%20x", "/v1/models/m:1", "/v1/models/a..b"} {
		if err := gateway.CheckPath(good); err != nil {
			t.Errorf("%q refused: %v", good, err)
		}
	}
	for _, bad := range []string{"v1", "//", "/v1//x", "/../x", "/v1/..", "/v1/./x", "/v1/%2e%2e/x", "/v1/.%2E/x", "/v1/a%2fb", "/v1/a%2Fb", "/v1/a%5cb",
		`/v1/a\b`, "/v1/%00", "/v1/a%0d%0ab", "/v1/%", "/v1/%zz", "/v1/%252e", "/a?b", "/a#b"} {
		if gateway.CheckPath(bad) == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}

func FuzzPath(f *testing.F) {
	f.Add("/v1/%2e%2e/x")
	f.Add("/llm/openai/v1/models/gpt-5")
	f.Fuzz(func(t *testing.T, path string) {
		if gateway.CheckPath(path) != nil {
			return
		}
		r, err := http.NewRequest("GET", "http://h"+path, nil)
		if err != nil {
			t.Fatalf("accepted %q, which is no path: %v", path, err)
		}
		if u := r.URL.JoinPath(); path != "" && path != "/" && u.Path != r.URL.Path {
			t.Fatalf("%q means %q to some readers and %q to others", path, r.URL.Path, u.Path)
		}
	})
}

func TestCredential(t *testing.T) {
	for _, c := range []struct {
		name   string
		header http.Header
		want   string
		err    error
	}{
		{"bearer", http.Header{"Authorization": {"Bearer csk_1"}}, "csk_1", nil},
		{"bearer in lower case", http.Header{"Authorization": {"bearer  csk_1 "}}, "csk_1", nil},
		{"x-api-key", http.Header{"X-Api-Key": {"csk_1"}}, "csk_1", nil},
		{"api-key", http.Header{"Api-Key": {"csk_1"}}, "csk_1", nil},
		{"the same twice", http.Header{"Api-Key": {"csk_1"}, "Authorization": {"Bearer csk_1"}}, "csk_1", nil},
		{"two", http.Header{"Api-Key": {"csk_1"}, "Authorization": {"Bearer csk_2"}}, "", gateway.ErrAmbiguous},
		{"a repeated header", http.Header{"Authorization": {"Bearer csk_1", "Bearer csk_1"}}, "", gateway.ErrAmbiguous},
		{"basic", http.Header{"Authorization": {"Basic eDp5"}}, "", gateway.ErrCredential},
		{"none", http.Header{}, "", gateway.ErrCredential},
	} {
		got, err := gateway.Credential(c.header)
		if got != c.want || err != c.err {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
}

func TestHeadersOnTheWayOut(t *testing.T) {
	in := http.Header{
		"Authorization": {"Bearer csk_1"}, "X-Api-Key": {"csk_1"}, "Api-Key": {"csk_1"}, "Cookie": {"a=b"}, "Proxy-Authorization": {"x"},
		"Connection": {"keep-alive, X-Hop"}, "X-Hop": {"1"}, "Keep-Alive": {"1"}, "Te": {"trailers"}, "Transfer-Encoding": {"chunked"},
		"Upgrade": {"h2c"}, "Trailer": {"x"}, "X-Forwarded-For": {"1.2.3.4"}, "Forwarded": {"for=1"}, "Via": {"1.1 x"},
		"Accept-Encoding": {"gzip"}, "Content-Length": {"3"}, "Idempotency-Key": {"k"},
		"Anthropic-Version": {"2023-06-01"}, "X-Unknown": {"kept", "twice"}, "Content-Type": {"application/json"},
	}
	want := http.Header{
		"Anthropic-Version": {"2023-06-01"}, "X-Unknown": {"kept", "twice"}, "Content-Type": {"application/json"},
		"idempotency-key": {"k"}, "User-Agent": {""}, "Accept-Encoding": {"identity"},
	}
	if diff := cmp.Diff(want, gateway.CleanRequest(in)); diff != "" {
		t.Error(diff)
	}
	if in.Get("Authorization") == "" {
		t.Error("the client's own header was changed")
	}
}

func TestHeadersOnTheWayBack(t *testing.T) {
	got := gateway.CleanAnswer(http.Header{
		"Connection": {"close, X-Hop"}, "X-Hop": {"1"}, "Set-Cookie": {"a=b"}, "Strict-Transport-Security": {"max-age=1"}, "Transfer-Encoding": {"chunked"},
		"Request-Id": {"r"}, "X-Ratelimit-Remaining": {"3"}, "Content-Type": {"application/json"},
	})
	want := http.Header{"Request-Id": {"r"}, "X-Ratelimit-Remaining": {"3"}, "Content-Type": {"application/json"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func agent(name string) identity.Caller {
	return identity.Caller{Agent: identity.Agent{ID: "agt_" + name, Name: name}, Credential: identity.Credential{ID: "key_" + name}}
}

func TestRunsAreDerivedFromWhoCallsAndWhen(t *testing.T) {
	r := gateway.NewBook(15 * time.Minute)
	now := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	first, n := r.Of(agent("a"), now)
	if n != 0 || first == "" {
		t.Fatalf("first call: %q, %d before it", first, n)
	}
	if again, n := r.Of(agent("a"), now.Add(14*time.Minute)); again != first || n != 1 {
		t.Errorf("within the gap: %q, %d", again, n)
	}
	if other, _ := r.Of(agent("b"), now.Add(14*time.Minute)); other == first {
		t.Error("two agents share a run")
	}
	if next, n := r.Of(agent("a"), now.Add(30*time.Minute)); next == first || n != 0 {
		t.Errorf("after the gap: %q, %d", next, n)
	}
	named := agent("a")
	named.Run = "run_named"
	if got, _ := r.Of(named, now.Add(31*time.Minute)); got != "run_named" {
		t.Errorf("a run token's run became %q", got)
	}
	if got, n := r.Of(named, now.Add(2*time.Hour)); got != "run_named" || n != 1 {
		t.Errorf("a run token's run ended by a pause: %q, %d", got, n)
	}
}

func TestRefusedCredentialsCannotFillTheLog(t *testing.T) {
	now := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	var events []audit.Event
	c := gateway.NewCoalescer(func() time.Time { return now }, func(ev audit.Event) { events = append(events, ev) })
	count := func() (n int64) {
		for _, ev := range events {
			var d struct {
				Count int64 `json:"count"`
			}
			if err := json.Unmarshal(ev.Detail, &d); err != nil {
				t.Fatal(err)
			}
			n += d.Count
		}
		return n
	}
	for i := range 1000 {
		c.Add(audit.Event{Type: audit.AuthRefused, Remote: fmt.Sprintf("203.0.113.%d", i%250)}, "credential_unknown")
	}
	if len(events) != 1 || count() != 1 {
		t.Fatalf("%d events for one network in one minute", len(events))
	}
	now = now.Add(time.Minute)
	c.Flush(now, false)
	if len(events) != 2 || count() != 1000 {
		t.Errorf("after a minute %d events that count %d", len(events), count())
	}
	for i := range 100_000 {
		c.Add(audit.Event{Type: audit.AuthRefused, Remote: fmt.Sprintf("10.%d.%d.1", i/256%256, i%256)}, "credential_unknown")
	}
	if len(events) > 2+4200 {
		t.Errorf("a flood from many networks made %d events", len(events))
	}
	c.Close()
	if count() != 101_000 {
		t.Errorf("%d refusals counted, want 101000", count())
	}
}
