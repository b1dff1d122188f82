package server_test

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/storage/storagetest"
)

// No door answers an odd path with a redirect: it is refused, in the door's own
// form, and recorded.
func TestOddPathsAtEveryDoor(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	p := start(t, t.TempDir(), storagetest.SQLite(t), "")
	key := p.company(t)
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	ask := func(method, path, credential string) (int, string, string) {
		t.Helper()
		req, err := http.NewRequest(method, p.url+path, strings.NewReader(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+credential)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, resp.Header.Get("Content-Type"), string(b)
	}
	for _, c := range []struct{ path, kind, has string }{
		{"/mcp//x", "application/json", `"jsonrpc":"2.0"`},
		{"//mcp/x", "application/json", `"jsonrpc":"2.0"`},
		{"/mcp/../mcp/x", "application/json", `"jsonrpc":"2.0"`},
		{"/healthz/..//mcp/x", "application/json", `"jsonrpc":"2.0"`},
		{"/mcp/x%2fy", "application/json", `"jsonrpc":"2.0"`},
		{"/llm//openai/v1/models", "application/json", `"error":{"message"`},
		{"//llm/openai/v1/models", "application/json", `"error":{"message"`},
		{"/llm/openai/v1/%2e%2e/models", "application/json", `"error":{"message"`},
		{"/api//v1/agents", "application/problem+json", `"code":"bad_path"`},
		{"/api/v1/../v1/agents", "application/problem+json", `"code":"bad_path"`},
		{"/api/v1/%2e%2e/v1/agents", "application/problem+json", `"code":"bad_path"`},
		{"//api/v1/agents", "application/problem+json", `"code":"bad_path"`},
		{"//log/checkpoint", "text/plain; charset=utf-8", "empty or dot segments"},
		{"/log/tile/../checkpoint", "text/plain; charset=utf-8", "empty or dot segments"},
		{"//healthz", "text/plain; charset=utf-8", "empty or dot segments"},
		{"/a\\b", "text/plain; charset=utf-8", "empty or dot segments"},
		{"//", "text/plain; charset=utf-8", "empty or dot segments"},
	} {
		for _, method := range []string{"GET", "POST"} {
			status, kind, body := ask(method, c.path, key)
			if status/100 != 4 || kind != c.kind || !strings.Contains(body, c.has) {
				t.Errorf("%s %s: %d %s %s", method, c.path, status, kind, body)
			}
		}
	}
	for path, want := range map[string]int{"/api/openapi.json": 200, "/healthz": 200, "/": 303} { // the console wants a person to sign in
		if status, _, body := ask("GET", path, p.token); status != want {
			t.Errorf("%s: %d %.200s", path, status, body)
		}
	}
	var page struct {
		Events []struct {
			Object string `json:"object"`
			Type   string `json:"type"`
		} `json:"events"`
	}
	for typ, want := range map[string]int{"call.refused": 16, "auth.refused": 18} {
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) { // the index follows the log
			p.api(t, "GET", "/log/events?limit=500&q="+url.QueryEscape("type:"+typ), nil, &page)
			if len(page.Events) >= want || time.Now().After(deadline) {
				break
			}
		}
		if len(page.Events) != want {
			t.Errorf("%d events of %s, want %d", len(page.Events), typ, want)
		}
	}
}
