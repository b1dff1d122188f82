package mcp_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/gateway/mcp/wire"
	"github.com/countersign/countersign/internal/identity"
)

// selfDecider is a house whose agent's owner, pat, may decide.
func selfDecider(t *testing.T) (*house, *upstream, string) {
	h, up, key := held(t, payHeld)
	_, err := h.ids.PutGroup(context.Background(), audit.System, "test", identity.Group{Name: "controllers", Members: []string{"fiona", "pat"}})
	h.must(err)
	return h, up, key
}

// begin begins a session of the older era of a client with these capabilities.
func (h *house) begin(key, path, caps string) (session string) {
	h.t.Helper()
	return h.raw(key, path, message("initialize", `"protocolVersion":"2025-11-25","capabilities":`+caps+`,"clientInfo":{"name":"a","version":"1"}`)).header.Get(wire.HeaderSession)
}

// stream posts a call and returns the events of its answer, one at a time.
func (h *house) stream(ctx context.Context, key, path, session, body string) (next func() string) {
	h.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url+path, strings.NewReader(body))
	h.must(err)
	for k, v := range map[string]string{"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "Authorization": "Bearer " + key, wire.HeaderSession: session, wire.HeaderVersion: "2025-11-25"} {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	h.must(err)
	h.t.Cleanup(func() { resp.Body.Close() })
	r := wire.NewReader(resp.Body, 1<<20)
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
		b, err := io.ReadAll(resp.Body)
		h.must(err)
		return func() string { return string(b) }
	}
	return func() string {
		h.t.Helper()
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return ""
		}
		h.must(err)
		return string(e.Data)
	}
}

var question = regexp.MustCompile(`"id":"(cs1\.[^"]+)","method":"elicitation/create"`)

// An older client is asked in the stream of its call to show its person where
// to decide; what it answers reaches no upstream, and says nothing about the call.
func TestThePersonAtAnOlderClientIsShownWhereToDecide(t *testing.T) {
	for path, name := range bothEnds {
		h, up, key := selfDecider(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		session := h.begin(key, path, `{"elicitation":{"url":{}}}`)
		next := h.stream(ctx, key, path, session, call("1", name, `{"id":"x"}`))
		ask := next()
		id := approvalID.FindString(ask)
		if !strings.Contains(ask, `"mode":"url"`) || !strings.Contains(ask, `"elicitationId":"`+id+`"`) || !strings.Contains(ask, `"url":"http://countersign.example/approvals/`+id) || question.FindStringSubmatch(ask) == nil {
			t.Fatalf("%s: %s", path, ask)
		}
		answer := `{"jsonrpc":"2.0","id":"` + question.FindStringSubmatch(ask)[1] + `","result":{"action":"accept"}}`
		if r := h.raw(key, path, answer, wire.HeaderSession, session); r.status != http.StatusAccepted {
			t.Errorf("%s: %d %s", path, r.status, r.body)
		}
		h.reaches(id, approvals.Pending)
		if n := payments(up); n != 0 {
			t.Fatalf("%s: that the page was opened made the call", path)
		}
		h.decide(id, approvals.Approve)
		all := ""
		for e := next(); e != ""; e = next() {
			all += e + "\n"
		}
		if !strings.Contains(all, `"notifications/elicitation/complete","params":{"elicitationId":"`+id+`"}`) || !strings.Contains(all, `"text":"done"`) {
			t.Errorf("%s: %s", path, all)
		}
		for _, m := range up.received() {
			if strings.Contains(m, "cs1.") || strings.Contains(m, "accept") {
				t.Errorf("%s: the upstream got %s", path, m)
			}
		}
	}
}

// Who does not want to decide now is told that it waits, at once.
func TestAPersonWhoDoesNotWantToDecideNow(t *testing.T) {
	for path, name := range bothEnds {
		h, _, key := selfDecider(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		session := h.begin(key, path, `{"elicitation":{"url":{}}}`)
		next := h.stream(ctx, key, path, session, call("1", name, `{"id":"x"}`))
		token := question.FindStringSubmatch(next())[1]
		other := h.agent("other")
		h.allow("other", "srv")
		no := `{"jsonrpc":"2.0","id":"` + token + `","result":{"action":"decline"}}`
		h.raw(other, path, no) // is nobody's business but the agent's
		if r := h.raw(key, path, no, wire.HeaderSession, session); r.status != http.StatusAccepted {
			t.Errorf("%s: %d %s", path, r.status, r.body)
		}
		if last := next(); !strings.Contains(last, "Pending") || strings.Contains(last, "elicitation/complete") {
			t.Errorf("%s: %s", path, last)
		}
	}
}

// Nobody is asked who cannot be, or may not decide.
func TestNobodyIsShownWhatTheyCannotDecide(t *testing.T) {
	for path, name := range bothEnds {
		h, _, key := selfDecider(t)
		for _, caps := range []string{`{}`, `{"elicitation":{}}`, `{"elicitation":{"form":{}}}`} {
			next := h.stream(t.Context(), key, path, h.begin(key, path, caps), call("1", name, `{"id":"x"}`))
			if b := next(); !strings.Contains(b, "Pending") {
				t.Errorf("%s %s: %s", path, caps, b)
			}
		}
		_, err := h.ids.PutGroup(context.Background(), audit.System, "test", identity.Group{Name: "controllers", Members: []string{"fiona"}})
		h.must(err)
		next := h.stream(t.Context(), key, path, h.begin(key, path, `{"elicitation":{"url":{}}}`), call("1", name, `{"id":"x"}`))
		if b := next(); !strings.Contains(b, "Pending") {
			t.Errorf("%s: the owner may not decide: %s", path, b)
		}
	}
}

// What was sealed for something else is no state of a link: a session that is sent
// as one is refused.
func TestASessionIsNoStateOfALink(t *testing.T) {
	h, _, key := selfDecider(t)
	session := h.begin(key, "/mcp/srv", `{"elicitation":{"url":{}}}`)
	if session == "" {
		t.Fatal("no session")
	}
	r := h.modern(key, "/mcp/srv", "tools/call", "pay", `"name":"pay","arguments":{"id":"x"},"requestState":"`+session+`","inputResponses":{"approval":{"action":"accept"}}`, `{"elicitation":{"url":{}}}`)
	if !strings.Contains(r.body, "requestState is not what") {
		t.Errorf("%s", r.body)
	}
}
