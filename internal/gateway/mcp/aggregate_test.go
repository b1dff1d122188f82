package mcp_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
)

// two scripted upstreams, both with the resources doc://a and doc://b.
func pair(t *testing.T) (h *house, first, second *upstream, key string) {
	h = build(t)
	first, second = newUpstream(t, twoTools), newUpstream(t, twoTools)
	h.connect(connections.Connection{Name: "one", URL: first.URL})
	h.connect(connections.Connection{Name: "two", URL: second.URL})
	key = h.agent("bot")
	h.allow("bot", "one")
	return h, first, second, key
}

func TestNamesRouteAndBytesStay(t *testing.T) {
	h, first, second, key := pair(t)
	h.allow("bot", "two", "pay")
	r := h.raw(key, "/mcp", `{"jsonrpc":"2.0","id":"a","method":"tools/list"}`)
	for _, want := range []string{`"one__read"`, `"one__pay"`, `"two__pay"`, `"vendor":{"n":12345678901234567890}`} {
		if !strings.Contains(r.body, want) {
			t.Errorf("%s is missing: %s", want, r.body)
		}
	}
	if strings.Contains(r.body, "two__read") {
		t.Errorf("shown without a grant: %s", r.body)
	}
	seen := len(second.received())
	r = h.raw(key, "/mcp", call("12345678901234567890", "one__read", `{"id":"x","n":1.10}`))
	if r.body != `{"jsonrpc":"2.0","id":12345678901234567890,"result":{"content":[{"type":"text","text":"done","vendor":1.10}],"structuredContent":{"big":12345678901234567890,"f":1.10},"future":{"a":[]}}}` {
		t.Errorf("%d %s", r.status, r.body)
	}
	got := first.received()
	if want := "POST " + call("12345678901234567890", "read", `{"id":"x","n":1.10}`); got[len(got)-1] != want {
		t.Errorf("the upstream got %s", got[len(got)-1])
	}
	for _, name := range []string{"two__read", "nope__read", "read", "one__", "__read"} {
		if r := h.raw(key, "/mcp", call("1", name, `{}`)); !strings.Contains(r.body, "-32602") || !strings.Contains(r.body, "Unknown tool: "+name) {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
	}
	if n := len(second.received()); n != seen {
		t.Errorf("the other upstream got %d requests", n-seen)
	}
}

func TestAResourceOfTwoIsRefused(t *testing.T) {
	h, _, _, key := pair(t)
	read := `{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"doc://a"}}`
	if r := h.raw(key, "/mcp", read); !strings.Contains(r.body, "hello") {
		t.Errorf("%d %s", r.status, r.body)
	}
	h.allow("bot", "two")
	h.raw(key, "/mcp", `{"jsonrpc":"2.0","id":1,"method":"resources/list"}`)
	if r := h.raw(key, "/mcp", read); !strings.Contains(r.body, "More than one connection") {
		t.Errorf("%d %s", r.status, r.body)
	}
	if r := h.raw(key, "/mcp", strings.Replace(read, "doc://a", "doc://zzz", 1)); !strings.Contains(r.body, "-32002") {
		t.Errorf("%d %s", r.status, r.body)
	}
}

func TestAMissingUpstreamDoesNotHideTheOthers(t *testing.T) {
	h, _, second, key := pair(t)
	h.allow("bot", "two")
	second.Close()
	r := h.raw(key, "/mcp", `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`)
	if !strings.Contains(r.body, `"one__read"`) || !strings.Contains(r.body, `"countersign/unavailable":["two"]`) {
		t.Errorf("%d %s", r.status, r.body)
	}
	if r := h.raw(key, "/mcp", call("1", "two__read", `{}`)); !strings.Contains(r.body, "-32050") {
		t.Errorf("%d %s", r.status, r.body)
	}
}

func TestAForgottenSessionIsBegunAgain(t *testing.T) {
	h, first, _, key := pair(t)
	if r := h.raw(key, "/mcp", call("1", "one__read", `{}`)); !strings.Contains(r.body, "done") {
		t.Fatalf("%d %s", r.status, r.body)
	}
	forgot := true
	first.on(func(w http.ResponseWriter, r *http.Request, body string) bool {
		if forgot && strings.Contains(body, "tools/call") {
			forgot = false
			w.WriteHeader(http.StatusNotFound)
			return true
		}
		return false
	})
	if r := h.raw(key, "/mcp", call("1", "one__read", `{}`)); !strings.Contains(r.body, "done") {
		t.Errorf("%d %s", r.status, r.body)
	}
}

func TestTheAggregatedEndpointRefuses(t *testing.T) {
	h, first, _, key := pair(t)
	other := h.agent("other")
	before := len(first.received())
	session := h.raw(key, "/mcp", hello).header.Get("Mcp-Session-Id")
	if session == "" {
		t.Fatal("no session")
	}
	for name, c := range map[string]struct {
		key, body string
		headers   []string
		status    int
		contains  string
	}{
		"no credential":   {"", `{}`, nil, 401, "-32051"},
		"origin":          {key, hello, []string{"Origin", "https://evil.example"}, 403, ""},
		"batch":           {key, `[` + hello + `]`, nil, 400, "-32600"},
		"foreign session": {other, `{"jsonrpc":"2.0","id":1,"method":"ping"}`, []string{"Mcp-Session-Id", session}, 404, ""},
		"unasked answer":  {key, `{"jsonrpc":"2.0","id":"cs1.AAAA","result":{}}`, []string{"Mcp-Session-Id", session}, 400, ""},
		"unknown method":  {key, `{"jsonrpc":"2.0","id":1,"method":"x/y"}`, nil, 200, "-32601"},
		"future version":  {key, `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2099-01-01"}}}`, []string{"Mcp-Protocol-Version", "2099-01-01", "Mcp-Method", "tools/list"}, 400, "-32022"},
	} {
		if r := h.raw(c.key, "/mcp", c.body, c.headers...); r.status != c.status || !strings.Contains(r.body, c.contains) {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
	}
	if r := h.do(http.MethodGet, key, "/mcp", ""); r.status != 404 {
		t.Errorf("GET without a session: %d", r.status)
	}
	if r := h.do(http.MethodGet, key, "/mcp", "", "Mcp-Session-Id", session, "Accept", "application/json"); r.status != 406 {
		t.Errorf("GET of JSON: %d", r.status)
	}
	if r := h.do(http.MethodGet, other, "/mcp", "", "Mcp-Session-Id", session); r.status != 404 {
		t.Errorf("GET of another's session: %d", r.status)
	}
	if r := h.do(http.MethodGet, key, "/mcp", "", "Mcp-Protocol-Version", "2026-07-28"); r.status != 405 {
		t.Errorf("GET of the newer era: %d", r.status)
	}
	if r := h.do(http.MethodPut, key, "/mcp", ""); r.status != 405 {
		t.Errorf("PUT: %d", r.status)
	}
	if r := h.do(http.MethodDelete, key, "/mcp", "", "Mcp-Session-Id", session); r.status != 204 {
		t.Errorf("DELETE: %d %s", r.status, r.body)
	}
	if r := h.raw(other, "/mcp", `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`); !strings.Contains(r.body, `"tools":[]`) {
		t.Errorf("an agent without grants: %s", r.body)
	}
	if got := first.received()[before:]; len(got) != 0 {
		t.Errorf("reached the upstream: %q", got)
	}
	h.events(audit.CallRefused, 9)
}
