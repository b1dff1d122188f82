package mcp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/mcp"
	"github.com/countersign/countersign/internal/gateway/mcp/wire"
	"github.com/countersign/countersign/internal/identity"
)

// askedLine is a line that knows how one request stands.
type askedLine struct {
	heldLine
	w         gateway.Waiting
	kept      *approvals.Kept
	stuck     error // why it cannot be withdrawn
	collected int
}

func (l *askedLine) Ask(context.Context, identity.Caller, string, time.Duration) (*gateway.Waiting, error) {
	w := l.w
	return &w, nil
}

func (l *askedLine) Collect(context.Context, gateway.Incoming, identity.Caller, *gateway.Waiting, *gateway.Call) (*approvals.Kept, error) {
	l.collected++
	return l.kept, nil
}

func (l *askedLine) Withdraw(context.Context, identity.Caller, *gateway.Waiting) error {
	return l.stuck
}

// ask posts a message about the request of l in the newer era, or the older one.
func (l *askedLine) ask(t *testing.T, modern bool, method string) string {
	t.Helper()
	f := mcp.New(mcp.Options{Line: l, Registry: onePayment{}, Key: make([]byte, 32)})
	defer f.Close()
	params, name := fmt.Sprintf(`"taskId":%q`, l.w.ID), l.w.ID
	if method == "tools/call" {
		params, name = fmt.Sprintf(`"name":"check_approval","arguments":{"id":%q}`, l.w.ID), "check_approval"
	}
	version := "2025-11-25"
	if modern {
		version = wire.Modern
		params += fmt.Sprintf(`,"_meta":{%q:%q,%q:%s}`, wire.MetaVersion, wire.Modern, wire.MetaCapabilities, withTasks)
	}
	r := httptest.NewRequest(http.MethodPost, "/mcp/srv", strings.NewReader(message(method, params)))
	for k, v := range map[string]string{"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "Authorization": "Bearer x", wire.HeaderVersion: version} {
		r.Header.Set(k, v)
	}
	if modern {
		r.Header.Set(wire.HeaderMethod, method)
		r.Header.Set(wire.HeaderName, name)
	}
	w := httptest.NewRecorder()
	f.ServeHTTP(w, r)
	return w.Body.String()
}

func asked(s approvals.State) *askedLine {
	w := oneHeld
	w.State, w.Why, w.Connection, w.Tool, w.Executed, w.Server = s, "because", "srv", "pay", "call_1", true
	return &askedLine{w: w}
}

const oldEra, newEra = false, true

// What a task came to is told in the words of each era, and never better than it is.
func TestWhatATaskCameTo(t *testing.T) {
	for _, c := range []struct {
		state  approvals.State
		modern bool
		method string
		want   string
	}{
		{approvals.Expired, newEra, "tasks/get", `"isError":true`},
		{approvals.Expired, oldEra, "tasks/get", `"status":"failed"`},
		{approvals.Expired, oldEra, "tasks/result", `"isError":true`},
		{approvals.Expired, oldEra, "tasks/cancel", `-32602`},
		{approvals.Void, newEra, "tasks/get", `"status":"cancelled"`},
		{approvals.Executing, oldEra, "tasks/cancel", `-32602`},
		{approvals.Executing, newEra, "tasks/get", `"status":"working"`},
		{approvals.Executed, newEra, "tasks/get", `its answer is not kept`},
		{approvals.Executed, oldEra, "tasks/get", `"status":"failed"`},
		{approvals.Executed, oldEra, "tasks/result", `its answer is not kept`},
		{approvals.Executed, oldEra, "tools/call", `"isError":true`},
	} {
		if b := asked(c.state).ask(t, c.modern, c.method); !strings.Contains(b, c.want) {
			t.Errorf("%s, newer era %t, %s: %s", c.state, c.modern, c.method, b)
		}
	}
	broken := asked(approvals.Executed)
	broken.kept = &approvals.Kept{Status: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: []byte(`{"jsonrpc":"2.0","id":1,"result":{"content":[]}`)}
	if b := broken.ask(t, newEra, "tasks/get"); !strings.Contains(b, "its answer is not kept") {
		t.Errorf("half an answer: %s", b)
	}
}

// A connection's endpoint tells nothing of others' requests, nor of tools that
// are gone.
func TestWhereARequestIsTold(t *testing.T) {
	for name, change := range map[string]func(*gateway.Waiting){
		"another connection": func(w *gateway.Waiting) { w.Connection = "other" },
		"a tool that went":   func(w *gateway.Waiting) { w.Tool = "gone" },
	} {
		for _, method := range []string{"tasks/get", "tools/call"} {
			l := asked(approvals.Executed)
			change(&l.w)
			if b := l.ask(t, newEra, method); l.collected != 0 || strings.Contains(b, "call_1") {
				t.Errorf("%s, %s: collected %d times, %s", name, method, l.collected, b)
			}
		}
	}
}

// That it could not be cancelled is said in both eras.
func TestATaskThatCannotBeCancelled(t *testing.T) {
	for _, modern := range []bool{oldEra, newEra} {
		l := asked(approvals.Pending)
		l.stuck = gateway.Refuse(fault.New(fault.Unavailable, "storage_unavailable", "no database"))
		if b := l.ask(t, modern, "tasks/cancel"); !strings.Contains(b, `"error":{`) {
			t.Errorf("newer era %t: %s", modern, b)
		}
	}
}

// What a client claims counts only in the era that has it.
func TestCapabilitiesOfAnotherEraAreNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, claim := range []string{`,"_meta":{"` + wire.MetaCapabilities + `":` + withTasks + `}`, `,"task":{"ttl":60000}`} {
			if b := waited(&heldLine{}, claim).Body.String(); !strings.Contains(b, "Pending: ") || strings.Contains(b, `"taskId"`) {
				t.Errorf("%s: %s", claim, b)
			}
		}
	})
}

// wishes answers request_grant.
type wishes struct {
	asked []mcp.GrantAsk
	err   error
}

func (g *wishes) Offered(context.Context) bool { return false }

func (g *wishes) Ask(_ context.Context, _ identity.Caller, _ gateway.Incoming, ask mcp.GrantAsk) (string, []byte, error) {
	g.asked = append(g.asked, ask)
	return "asked", []byte(`{"id":"x"}`), g.err
}

// A grant is asked for at the endpoint of all connections alone, in exactly the
// words that there are for it; what went wrong inside is not told.
func TestGrantsAreAskedForAtOneEndpoint(t *testing.T) {
	g := &wishes{}
	h := assemble(t, &house{grants: g}, filepath.Join(t.TempDir(), "cs.db"))
	up := newUpstream(t, twoTools)
	h.connect(connections.Connection{Name: "srv", URL: up.URL})
	key := h.agent("bot")
	h.allow("bot", "srv")
	const wish = `{"connection":"srv","tools":["pay"],"for":"1h","reason":"r"}`
	if b := h.raw(key, "/mcp", call("1", "request_grant", wish)).body; len(g.asked) != 1 || g.asked[0].Connection != "srv" || !strings.Contains(b, `"structuredContent":{"id":"x"}`) {
		t.Errorf("%+v %s", g.asked, b)
	}
	for where, b := range map[string]string{
		"at a connection": h.raw(key, "/mcp/srv", call("1", "request_grant", wish)).body,
		"more members":    h.raw(key, "/mcp", call("1", "request_grant", `{"connection":"srv","tools":["pay"],"reason":"r","approved":true}`)).body,
	} {
		if len(g.asked) != 1 || !strings.Contains(b, "-32602") {
			t.Errorf("%s: %+v %s", where, g.asked, b)
		}
	}
	if b := h.raw(key, "/mcp", `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`).body; strings.Contains(b, "request_grant") {
		t.Errorf("offered where nothing can be asked for: %s", b)
	}
	g.err = errors.New("a secret of the database")
	if b := h.raw(key, "/mcp", call("1", "request_grant", wish)).body; strings.Contains(b, "secret") || !strings.Contains(b, `"isError":true`) {
		t.Errorf("%s", b)
	}
}

// A body that does not say how long it is is bounded too.
func TestABodyOfUnknownLengthIsBounded(t *testing.T) {
	f := mcp.New(mcp.Options{Line: &heldLine{}, Registry: onePayment{}, Key: make([]byte, 32), MaxBody: 100})
	defer f.Close()
	body := io.MultiReader(strings.NewReader(call("1", "pay", `{"id":"`+strings.Repeat("x", 200)+`"}`)))
	r := httptest.NewRequest(http.MethodPost, "/mcp/srv", body)
	for k, v := range map[string]string{"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "Authorization": "Bearer x"} {
		r.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	if f.ServeHTTP(w, r); w.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
