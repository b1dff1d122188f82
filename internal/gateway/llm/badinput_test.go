package llm_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json/v2"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/test/line"
	"github.com/countersign/countersign/test/upstream"
)

const okChat = `{"id":"c","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"fine"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`

// small starts a line with one connection per dialect to a server that answers
// well, and a policy that allows everything.
func small(t *testing.T, o line.Options) (*line.Line, *upstream.Server) {
	t.Helper()
	up := upstream.Start(t, upstream.JSON(200, okChat))
	l := line.Start(t, storagetest.Open(t, storagetest.SQLite(t)), o)
	l.Connect("openai", connections.OpenAI, up.URL)
	l.Connect("anthropic", connections.Anthropic, up.URL)
	l.Policies(line.AllowAll)
	return l, up
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
	code   string // of an error in OpenAI's or Anthropic's shape
	kind   string
}

func read(t *testing.T, resp *http.Response) answer {
	t.Helper()
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	a := answer{status: resp.StatusCode, header: resp.Header, body: string(b)}
	var doc struct {
		Error struct {
			Code, Type, Message string
		}
	}
	if json.Unmarshal(b, &doc, json.MatchCaseInsensitiveNames(true)) == nil {
		a.code, a.kind = doc.Error.Code, doc.Error.Type
	}
	return a
}

func do(t *testing.T, l *line.Line, method, path, body string, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, l.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+l.Key)
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		if req.Header.Del(header[i]); header[i+1] != "" {
			req.Header.Set(header[i], header[i+1])
		}
	}
	resp, err := l.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return read(t, resp)
}

func TestBadInputIsRefusedInTheClientsOwnForm(t *testing.T) {
	l, up := small(t, line.Options{MaxBody: 64 << 10})
	const chat, good = "/llm/openai/v1/chat/completions", `{"model":"m","messages":[]}`
	deep := `{"model":"m","messages":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`
	cases := []struct {
		name, method, path, body string
		header                   []string
		status                   int
		code                     string
	}{
		{"too large", "POST", chat, `{"model":"m","x":"` + strings.Repeat("x", 70<<10) + `"}`, nil, 413, "body_too_large"},
		{"deep", "POST", chat, deep, nil, 400, "json_too_deep"},
		{"duplicate keys", "POST", chat, `{"model":"a","model":"b"}`, nil, 400, "bad_json"},
		{"invalid UTF-8", "POST", chat, "{\"model\":\"\xff\"}", nil, 400, "bad_json"},
		{"trailing data", "POST", chat, good + good, nil, 400, "bad_json"},
		{"empty", "POST", chat, ``, nil, 400, "bad_json"},
		{"a batch", "POST", chat, `[` + good + `]`, nil, 400, "bad_field"},
		{"another type", "POST", chat, good, []string{"Content-Type", "text/plain"}, 415, "bad_content_type"},
		{"no type", "POST", chat, good, []string{"Content-Type", ""}, 415, "bad_content_type"},
		{"another charset", "POST", chat, good, []string{"Content-Type", "application/json; charset=utf-16"}, 415, "bad_content_type"},
		{"compressed", "POST", chat, good, []string{"Content-Encoding", "gzip"}, 415, "bad_content_encoding"},
		{"another method", "GET", chat, ``, nil, 405, "method_not_allowed"},
		{"deletion", "DELETE", "/llm/openai/v1/models/gpt-5", ``, nil, 405, "method_not_allowed"},
		{"a body where none belongs", "GET", "/llm/openai/v1/models", `{}`, nil, 400, "unexpected_body"},
		{"an unknown path", "POST", "/llm/openai/v1/files", good, nil, 404, "unknown_path"},
		{"another version", "POST", "/llm/openai/v2/chat/completions", good, nil, 404, "unknown_path"},
		{"no version", "POST", "/llm/openai/chat/completions", good, nil, 404, "unknown_path"},
		{"the other dialect", "POST", "/llm/openai/v1/messages", good, nil, 404, "unknown_path"},
		{"an unknown connection", "POST", "/llm/nobody/v1/chat/completions", good, nil, 404, "unknown_connection"},
		{"traversal", "POST", "/llm/openai/v1/../../admin", good, nil, 400, "bad_path"},
		{"encoded traversal", "POST", "/llm/openai/v1/%2e%2e/chat/completions", good, nil, 400, "bad_path"},
		{"an encoded slash", "GET", "/llm/openai/v1/models/..%2fchat", ``, nil, 400, "bad_path"},
		{"an encoded backslash", "GET", "/llm/openai/v1/models/a%5cb", ``, nil, 400, "bad_path"},
		{"an empty segment", "POST", "/llm/openai//v1/chat/completions", good, nil, 400, "bad_path"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := do(t, l, c.method, c.path, c.body, c.header...)
			if got.status != c.status || got.code != c.code || got.header.Get("Content-Type") != "application/json" {
				t.Errorf("got %d %s %q, want %d %s", got.status, got.code, got.body, c.status, c.code)
			}
		})
	}
	for _, r := range l.Events(len(cases), audit.CallRefused) {
		if r.Event.Agent != "invoice-checker" || len(r.Event.Detail) == 0 {
			t.Errorf("the event does not say who and why: %s", r.Raw)
		}
	}
	if got := up.Requests(); len(got) != 0 {
		t.Errorf("the upstream got %d requests, the first %s %s", len(got), got[0].Method, got[0].Path)
	}
	got := do(t, l, "POST", "/llm/anthropic/v1/messages", `{"model":1}`)
	if got.status != 400 || got.kind != "invalid_request_error" || !strings.HasPrefix(got.body, `{"type":"error"`) {
		t.Errorf("anthropic: %d %s", got.status, got.body)
	}
}

func TestNobodyGetsInWithoutACredential(t *testing.T) {
	l, up := small(t, line.Options{})
	for _, c := range []struct{ name, credential, other, code string }{
		{"none", "", "", "credential_missing"},
		{"garbage", "Bearer hello", "", "credential_unknown"},
		{"basic", "Basic eDp5", "", "credential_missing"},
		{"two different ones", "Bearer " + l.Key, "csk_other", "credential_ambiguous"},
		{"a user's token", "Bearer csu_0000", "", "credential_unknown"},
	} {
		got := do(t, l, "POST", "/llm/openai/v1/chat/completions", `{"model":"m"}`, "Authorization", c.credential, "Api-Key", c.other)
		if got.status != 401 || got.code != c.code || got.header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: %d %s", c.name, got.status, got.body)
		}
	}
	ctx := context.Background()
	if _, err := l.Identity.Suspend(ctx, line.By, line.Reason, "invoice-checker"); err != nil {
		t.Fatal(err)
	}
	if err := l.Watch.Poll(ctx); err != nil {
		t.Fatal(err)
	}
	if got := do(t, l, "POST", "/llm/openai/v1/chat/completions", `{"model":"m"}`); got.status != 403 || got.code != "agent_suspended" {
		t.Errorf("suspended: %d %s", got.status, got.body)
	}
	if got := up.Requests(); len(got) != 0 {
		t.Errorf("the upstream got %d requests", len(got))
	}
	var suspended bool
	for _, r := range l.Events(4, audit.AuthRefused) { // one for each reason, not for each request
		suspended = suspended || r.Event.Agent == "invoice-checker"
	}
	if !suspended {
		t.Error("the refusal of a recognised agent does not name it")
	}
}

// dial speaks HTTP by hand.
func dial(t *testing.T, l *line.Line) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(l.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func raw(t *testing.T, l *line.Line, request string, closeWrite bool) answer {
	t.Helper()
	conn := dial(t, l)
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	if closeWrite {
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	return read(t, resp)
}

func TestTheBodyIsNotReadBeforeTheCallerIsKnown(t *testing.T) {
	l, _ := small(t, line.Options{})
	got := raw(t, l, "POST /llm/openai/v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n", false)
	if got.status != 401 {
		t.Errorf("got %d %s", got.status, got.body)
	}
}

func TestLyingAndSlowBodies(t *testing.T) {
	l, up := small(t, line.Options{Read: 300 * time.Millisecond})
	head := "POST /llm/openai/v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nAuthorization: Bearer " + l.Key + "\r\n"
	got := raw(t, l, head+"Content-Length: 100\r\n\r\n{\"model\":\"m\"}", true)
	if got.status != 400 || got.code != "bad_body" {
		t.Errorf("shorter than announced: %d %s", got.status, got.body)
	}
	got = raw(t, l, head+"Content-Length: 100\r\n\r\n{\"model\":\"m\"", false)
	if got.status != 400 || got.code != "body_too_slow" {
		t.Errorf("slow: %d %s", got.status, got.body)
	}
	got = raw(t, l, head+"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n", false)
	if got.status != 400 || got.code != "bad_body" {
		t.Errorf("a broken chunk: %d %s", got.status, got.body)
	}
	l.Events(3, audit.CallRefused)
	if got := up.Requests(); len(got) != 0 {
		t.Errorf("the upstream got %d requests", len(got))
	}
}

func TestSmuggledHeadersReachNobody(t *testing.T) {
	l, up := small(t, line.Options{})
	auth := "Authorization: Bearer " + l.Key + "\r\nContent-Type: application/json\r\n"
	for name, request := range map[string]string{
		"two lengths":            "POST /llm/openai/v1/chat/completions HTTP/1.1\r\nHost: h\r\n" + auth + "Content-Length: 13\r\nContent-Length: 14\r\n\r\n{\"model\":\"m\"}x",
		"a space before a colon": "POST /llm/openai/v1/chat/completions HTTP/1.1\r\nHost: h\r\n" + auth + "X-A : b\r\nContent-Length: 2\r\n\r\n{}",
		"a strange encoding":     "POST /llm/openai/v1/chat/completions HTTP/1.1\r\nHost: h\r\n" + auth + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
	} {
		if got := raw(t, l, request, false); got.status < 400 {
			t.Errorf("%s: %d", name, got.status)
		}
	}
	// Both framings: the one that counts is the chunked one, for us and upstream.
	inner := "{\"model\":\"m\"}"
	got := raw(t, l, "POST /llm/openai/v1/chat/completions HTTP/1.1\r\nHost: h\r\n"+auth+"Content-Length: 4\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"+
		fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(inner), inner), false)
	for _, r := range up.Requests() {
		if string(r.Body) != inner || r.Header.Get("Transfer-Encoding") != "" {
			t.Errorf("the upstream got %q after %d", r.Body, got.status)
		}
	}
}

func TestBytesAndUnknownThingsPassUntouched(t *testing.T) {
	l, up := small(t, line.Options{})
	odd := "{ \"x_vendor\" : 12345678901234567890,\n\t\"model\":\"m\\u002d1\" , \"y\":1.10, \"messages\" : [ ] }"
	up.Answer(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Ratelimit-Remaining", "7")
		w.Header().Set("Set-Cookie", "a=b")
		upstream.JSON(200, "{\"b\":1.10, \"a\":12345678901234567890,\n\"x\":null }")(w, nil)
	})
	got := do(t, l, "POST", "/llm/openai/v1/chat/completions?api-version=1&x=%20y", odd, "X-Vendor-Thing", "yes", "OpenAI-Organization", "org", "Cookie", "a=b", "Api-Key", l.Key)
	if got.status != 200 || got.body != "{\"b\":1.10, \"a\":12345678901234567890,\n\"x\":null }" {
		t.Errorf("answer %d %q", got.status, got.body)
	}
	if got.header.Get("X-Ratelimit-Remaining") != "7" || got.header.Get("Set-Cookie") != "" || got.header.Get("X-Countersign-Call") == "" {
		t.Errorf("header %v", got.header)
	}
	r := up.Requests()[0]
	if string(r.Body) != odd || r.Path != "/v1/chat/completions" || r.Query != "api-version=1&x=%20y" {
		t.Errorf("upstream got %s?%s %q", r.Path, r.Query, r.Body)
	}
	h := r.Header
	if h.Get("X-Vendor-Thing") != "yes" || h.Get("OpenAI-Organization") != "org" || h.Get("Cookie") != "" || h.Get("Api-Key") != "" {
		t.Errorf("upstream header %v", h)
	}
	if h.Get("Authorization") != "Bearer "+line.Secret || strings.Contains(fmt.Sprint(h), l.Key) {
		t.Error("the upstream did not get exactly its own credential")
	}
	for _, ev := range append(l.Events(1, audit.CallIntent), l.Events(1, audit.CallOutcome)...) {
		if bytes.Contains(ev.Raw, []byte(line.Secret)) || bytes.Contains(ev.Raw, []byte(l.Key)) {
			t.Error("a credential is in the log")
		}
	}
}

func TestASecretInAPromptIsNotInTheLog(t *testing.T) {
	l, up := small(t, line.Options{})
	up.Answer(upstream.JSON(200, `{"model":"m","choices":[{"message":{"content":"the key is `+line.Secret+`"}}]}`))
	// Also on the border at which a capture is cut.
	filler := strings.Repeat("x", 64<<10-len(`[{"role":"user","content":"`)-len(line.Secret)/2)
	for _, text := range []string{line.Secret, filler + line.Secret + strings.Repeat("y", 20<<10)} {
		got := do(t, l, "POST", "/llm/openai/v1/chat/completions", `{"model":"m","messages":[{"role":"user","content":"`+text+`"}]}`)
		if got.status != 200 {
			t.Fatalf("%d %s", got.status, got.body)
		}
	}
	half := line.Secret[:len(line.Secret)/2]
	for _, r := range append(l.Events(2, audit.CallIntent), l.Events(2, audit.CallOutcome)...) {
		for name, p := range r.Payloads {
			if bytes.Contains(p, []byte(half)) {
				t.Errorf("%s: %s holds the secret, or half of it", r.Event.Type, name)
			}
			if len(p) > 80<<10 {
				t.Errorf("%s: %s holds %d bytes", r.Event.Type, name, len(p))
			}
		}
	}
}

func TestNothingGoesOutThatTheLogDoesNotHold(t *testing.T) {
	l, up := small(t, line.Options{})
	if err := l.Log.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	got := do(t, l, "POST", "/llm/openai/v1/chat/completions", `{"model":"m"}`)
	if got.status != 503 || got.code != "log_unavailable" || got.header.Get("Retry-After") == "" {
		t.Errorf("got %d %s", got.status, got.body)
	}
	if n := len(up.Requests()); n != 0 {
		t.Errorf("the upstream got %d requests", n)
	}
}
