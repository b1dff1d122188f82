package mcp_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/mcp"
	"github.com/countersign/countersign/internal/gateway/mcp/wire"
	"github.com/countersign/countersign/internal/identity"
)

// heldLine is a line that holds the one call there is until people decide.
type heldLine struct {
	mcp.Line
	decided time.Duration // after the call; 0: never
	began   time.Time
	asked   int  // how often the call was made
	still   bool // it is held again, once it was decided
}

var oneHeld = gateway.Waiting{ID: "apr_00000000000000000000000001", URL: "http://countersign.example/approvals/x", State: approvals.Pending}

func (l *heldLine) Serve(ctx context.Context, in gateway.Incoming) (*gateway.Answer, error) {
	if _, err := in.Parse(ctx, identity.Caller{}); err != nil {
		return nil, err
	}
	if l.asked++; l.asked > 1 && l.decided > 0 && (!l.still || l.asked > 5) {
		return nil, &gateway.Refusal{Code: gateway.CodeRefused, Reason: "denied by fiona"}
	}
	w := oneHeld
	return nil, &gateway.Refusal{Code: gateway.CodePending, Reason: "it waits", Approval: &w}
}

func (l *heldLine) Await(ctx context.Context, _ *gateway.Waiting, most time.Duration) bool {
	left := time.Hour
	if l.decided > 0 {
		left = time.Until(l.began.Add(l.decided))
	}
	select {
	case <-time.After(min(left, most)):
		return left <= most
	case <-ctx.Done():
		return false
	}
}

func (l *heldLine) Visible(identity.Caller, connections.Connection, connections.Tool) bool {
	return true
}

func (l *heldLine) MayHold(identity.Caller, connections.Connection, connections.Tool) bool {
	return true
}

// onePayment is a registry of one connection with one tool.
type onePayment struct{ mcp.Registry }

func (onePayment) Connection(name string) (connections.Connection, bool) {
	return connections.Connection{Name: name, Kind: connections.MCP}, true
}

func (onePayment) Tools(string) []connections.Tool { return []connections.Tool{payTool} }

func (onePayment) Tool(_, name string) (connections.Tool, bool) { return payTool, name == "pay" }

var payTool = connections.Tool{Name: "pay", Status: connections.StatusPinned, Definition: []byte(`{"name":"pay"}`)}

// posted is what a client wrote down of an answer: the events with when each came.
type posted struct {
	*httptest.ResponseRecorder
	began time.Time
	at    []time.Duration
}

func (p *posted) Write(b []byte) (int, error) {
	p.at = append(p.at, time.Since(p.began))
	return p.ResponseRecorder.Write(b)
}

// waited makes one call at a clock that moves when everybody waits, and returns
// what came, and when.
func waited(l *heldLine, meta string, header ...string) *posted {
	f := mcp.New(mcp.Options{Line: l, Registry: onePayment{}, Key: make([]byte, 32)})
	defer f.Close()
	r := httptest.NewRequest(http.MethodPost, "/mcp/srv", strings.NewReader(`{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"pay","arguments":{}`+meta+`}}`))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	r.Header.Set("Authorization", "Bearer x")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	p := &posted{ResponseRecorder: httptest.NewRecorder(), began: time.Now()}
	l.began = p.began
	f.ServeHTTP(p, r)
	return p
}

const withProgress = `,"_meta":{"progressToken":"p"}`

// A client that asked for progress is kept for 50 s, hears of it every 10 s with
// a value that grows, and is told "pending" as an ordinary result then.
func TestAHeldCallIsKeptForFiftySeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := waited(&heldLine{}, withProgress)
		body := p.Body.String()
		for n := range 4 {
			if want := fmt.Sprintf(`"progressToken":"p","progress":%d,`, n+1); strings.Count(body, want) != 1 || p.at[n] != time.Duration(n+1)*10*time.Second {
				t.Errorf("%s: %v in %s", want, p.at, body)
			}
		}
		if len(p.at) != 5 || p.at[4] != gateway.MostWait || gateway.MostWait != 50*time.Second {
			t.Errorf("told at %v", p.at)
		}
		last := body[strings.LastIndex(body, "data:"):]
		if !strings.Contains(last, `"id":7`) || !strings.Contains(last, "Pending: ") || !strings.Contains(last, oneHeld.ID) || !strings.Contains(last, `"isError":false`) {
			t.Errorf("%s", last)
		}
	})
}

// One that did not is told at once; one that asked for the wait alone is kept
// that long and hears nothing meanwhile.
func TestWhoAskedForNoProgressGetsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for wait, want := range map[string]time.Duration{"": 0, "wait=20": 20 * time.Second, "wait=3000": gateway.MostWait, "wait=0": 0, "wait=-1": 0, "wait=soon": 0} {
			p := waited(&heldLine{}, "", "Prefer", wait)
			if len(p.at) != 1 || p.at[0] != want || strings.Contains(p.Body.String(), "progress") || !strings.Contains(p.Body.String(), "Pending: ") || p.Header().Get("Content-Type") != "application/json" {
				t.Errorf("%q: %v %s", wait, p.at, p.Body)
			}
		}
		// Who asked for both is kept as long as it asked for.
		if p := waited(&heldLine{}, withProgress, "Prefer", "wait=25"); len(p.at) != 3 || p.at[2] != 25*time.Second {
			t.Errorf("%v %s", p.at, p.Body)
		}
	})
}

// What people decide meanwhile is told when they do, and the call is made once
// more for it, not again and again.
func TestADecisionEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &heldLine{decided: 27 * time.Second}
		p := waited(l, withProgress)
		if n := len(p.at); n != 3 || p.at[2] != 27*time.Second || l.asked != 2 || !strings.Contains(p.Body.String(), "denied by fiona") {
			t.Errorf("%v, made %d times: %s", p.at, l.asked, p.Body)
		}
		l = &heldLine{decided: time.Second, still: true}
		if p := waited(l, withProgress); l.asked != 2 || !strings.Contains(p.Body.String(), "Pending: ") {
			t.Errorf("held again: made %d times: %s", l.asked, p.Body)
		}
	})
}

// Who asks for a task is told at once, whatever else it asked for: it has the task
// to wait with.
func TestATaskIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := waited(&heldLine{}, withProgress+`,"task":{"ttl":60000}`, wire.HeaderVersion, "2025-11-25")
		if len(p.at) != 1 || p.at[0] != 0 || !strings.Contains(p.Body.String(), `"task":{"taskId":"`+oneHeld.ID) {
			t.Errorf("%v %s", p.at, p.Body)
		}
	})
}
