package mcp_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/audit"
)

var eventID = regexp.MustCompile(`evt_[0-9a-z]{26}`)

// shape is everything that an agent can see of an answer, without the event's
// identifier and the time.
func shape(r reply) string {
	h := r.header.Clone()
	h.Del("Date")
	var b strings.Builder
	_ = h.Write(&b)
	return http.StatusText(r.status) + "\n" + b.String() + "\n" + eventID.ReplaceAllString(r.body, "evt")
}

// An agent cannot find out which connections exist beside its own.
func TestAHiddenConnectionLooksLikeNone(t *testing.T) {
	h, u, _ := scripted(t)
	key := h.agent("stranger")
	before := len(u.received())
	initialize := `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}`
	for name, c := range map[string]struct {
		method, body string
		headers      []string
	}{
		"initialize":      {"POST", initialize, nil},
		"a tool":          {"POST", call("7", "read", `{}`), nil},
		"a notification":  {"POST", `{"jsonrpc":"2.0","method":"notifications/initialized"}`, nil},
		"an answer":       {"POST", `{"jsonrpc":"2.0","id":1,"result":{}}`, nil},
		"garbage":         {"POST", `hello`, nil},
		"a batch":         {"POST", "[" + initialize + "]", nil},
		"an unknown":      {"POST", `{"jsonrpc":"2.0","id":1,"method":"x/y"}`, nil},
		"another type":    {"POST", initialize, []string{"Content-Type", "text/plain"}},
		"a session":       {"POST", initialize, []string{"Mcp-Session-Id", "cs1.AAAA"}},
		"modern":          {"POST", `{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`, []string{"Mcp-Protocol-Version", "2026-07-28", "Mcp-Method", "server/discover"}},
		"a stream":        {"GET", "", nil},
		"a deletion":      {"DELETE", "", nil},
		"an odd method":   {"PUT", "", nil},
		"beneath it":      {"POST", "", nil},
		"an odd spelling": {"POST", initialize, nil},
	} {
		hidden, unknown := "/mcp/srv", "/mcp/nope"
		switch name {
		case "beneath it":
			hidden, unknown = "/mcp/srv/x", "/mcp/nope/x"
		case "an odd spelling":
			hidden = "/mcp/%73rv"
		}
		a, b := h.do(c.method, key, hidden, c.body, c.headers...), h.do(c.method, key, unknown, c.body, c.headers...)
		if a.status != 404 || shape(a) != shape(b) {
			t.Errorf("%s: hidden\n%s\nunknown\n%s", name, shape(a), shape(b))
		}
	}
	if len(u.received()) != before {
		t.Error("the hidden server was asked")
	}
	told := 0
	for _, ev := range h.events(audit.CallRefused, 30) {
		if ev.Connection == "srv" && strings.Contains(string(ev.Detail), "nothing allows this agent") {
			told++
		}
	}
	if told != 14 {
		t.Errorf("the log tells %d times that the connection was there", told)
	}
}

// What a mux would clean and redirect is refused, in the protocol's form, with
// an event.
func TestOddPathsAreRefusedAndRecorded(t *testing.T) {
	h, u, key := scripted(t)
	h.allow("bot", "srv")
	before := len(u.received())
	body := `{"jsonrpc":"2.0","id":1,"method":"ping"}`
	paths := []string{"/mcp//srv", "/mcp//", "//mcp/srv", "/mcp/./srv", "/mcp/x/../srv", "/x/../mcp/srv", "/mcp/%2e%2e/mcp/srv", "/mcp/srv%2f", "/mcp%2fsrv", "/mcp/srv%5c", "/mcp/s%00rv", "/mcp/../mcp/srv", "/%6dcp/srv", "/mcp/srv%252f"}
	for _, p := range paths {
		r := h.raw(key, p, body)
		if r.status != 400 || !strings.Contains(r.body, `"jsonrpc":"2.0"`) || !strings.Contains(r.body, "bad_path") || !strings.Contains(r.body, "evt_") {
			t.Errorf("%s: %d %v %s", p, r.status, r.header, r.body)
		}
	}
	if r := h.raw(key, "/mcp/srv/", body); r.status != 404 || !strings.Contains(r.body, "unknown_path") {
		t.Errorf("beneath a connection: %d %s", r.status, r.body)
	}
	if r := h.raw("", "/mcp//srv", body); r.status != 401 {
		t.Errorf("without a credential: %d", r.status)
	}
	if len(u.received()) != before {
		t.Error("something reached the upstream")
	}
	if n := len(h.events(audit.CallRefused, len(paths)+1)); n != len(paths)+1 {
		t.Errorf("%d events", n)
	}
}
