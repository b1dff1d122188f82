package server_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/countersign/countersign/internal/storage/storagetest"
)

const heldPolicies = `
@id("held") @approval("deciders")
forbid (principal, action == Action::"helpdesk/get_ticket", resource) when { context.args.number != "T-1002" };
@id("held-for-the-server") @approval("deciders") @execute("server")
forbid (principal, action == Action::"helpdesk/get_ticket", resource) when { context.args.number == "T-1002" };`

// heldDesk is a server whose agent's look at a ticket is held.
func heldDesk(t *testing.T, data, dsn string) (*process, string) {
	t.Helper()
	desk := serveHelpdesk(t, "held-desk-token-0123456789")
	p := start(t, data, dsn, "")
	key := p.company(t)
	p.api(t, "PUT", "/secrets/desk-token", map[string]any{"value": "held-desk-token-0123456789", "owner": "olga", "connection": "helpdesk", "hosts": []string{"127.0.0.1"}}, nil)
	p.api(t, "PUT", "/connections/helpdesk", map[string]any{"kind": "mcp", "url": desk, "owner": "olga", "allow_private": true, "secret": "desk-token", "auth": "bearer"}, nil)
	p.grant(t, "helpdesk")
	p.api(t, "PUT", "/groups/deciders", map[string]any{"members": []string{"admin"}}, nil)
	p.api(t, "PUT", "/policies/held", map[string]any{"text": heldPolicies}, nil)
	return p, key
}

type approvalRow struct {
	ID    string `json:"id"`
	State string `json:"state"`
}

// pendingOf waits until a request is pending and returns its id.
func (p *process) pendingOf(t testing.TB) string {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		var rows []approvalRow
		p.api(t, "GET", "/approvals?state=pending", nil, &rows)
		if len(rows) > 0 {
			return rows[0].ID
		}
	}
	t.Fatal("nothing is pending")
	return ""
}

func (p *process) decide(t testing.TB, id, verdict string) {
	t.Helper()
	p.api(t, "POST", "/approvals/"+id+"/decision", map[string]any{"verdict": verdict, "reason": "test"}, nil)
}

func (p *process) settledAs(t testing.TB, id, state string) {
	t.Helper()
	var row approvalRow
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if p.api(t, "GET", "/approvals/"+id, nil, &row); row.State == state {
			return
		}
	}
	t.Fatalf("%s is %s, not %s", id, row.State, state)
}

// ticket asks for a ticket as a plain client would and returns the answer.
func (p *process) ticket(t testing.TB, key, number string) string {
	t.Helper()
	body := fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"get_ticket","arguments":{"number":%q}}}`, time.Now().UnixNano(), number)
	req, _ := http.NewRequest(http.MethodPost, p.url+"/mcp/helpdesk", strings.NewReader(body))
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

type bearer string

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+string(b))
	return http.DefaultTransport.RoundTrip(r)
}

// The official client asks for progress, is kept while a person decides, and
// gets the answer of its one call, at a connection's endpoint and at that of all.
func TestAClientIsKeptWhilePeopleDecide(t *testing.T) {
	p, key := heldDesk(t, t.TempDir(), storagetest.SQLite(t))
	for path, name := range map[string]string{"/mcp/helpdesk": "get_ticket", "/mcp": "helpdesk__get_ticket"} {
		c := sdk.NewClient(&sdk.Implementation{Name: "test", Version: "1"}, nil)
		ctx, cancel := context.WithTimeout(context.Background(), 45*time.Second)
		defer cancel()
		s, err := c.Connect(ctx, &sdk.StreamableClientTransport{Endpoint: p.url + path, HTTPClient: &http.Client{Transport: bearer(key)}, DisableStandaloneSSE: true}, nil)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan time.Time, 1)
		go func() {
			p.decide(t, p.pendingOf(t), "approve")
			done <- time.Now()
		}()
		params := &sdk.CallToolParams{Name: name, Arguments: map[string]any{"number": "T-1001"}}
		params.SetProgressToken("p")
		r, err := s.CallTool(ctx, params)
		if err != nil || r.IsError || !strings.Contains(fmt.Sprint(r.StructuredContent, r.Content[0].(*sdk.TextContent).Text), "T-1001") {
			t.Fatalf("%s: %v %+v", path, err, r)
		}
		t.Logf("%s: answered %s after the decision was answered", path, time.Since(<-done))
		s.Close()
	}
}

// The server makes the call when it is approved, although its client is gone;
// the answer waits for whoever asks again.
func TestTheServerMakesAnApprovedCall(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		p, key := heldDesk(t, t.TempDir(), dsn)
		if out := p.ticket(t, key, "T-1002"); !strings.Contains(out, "Pending") {
			t.Fatal(out)
		}
		id := p.pendingOf(t)
		p.decide(t, id, "approve")
		p.settledAs(t, id, "executed")
		if out := p.ticket(t, key, "T-1002"); !strings.Contains(out, "T-1002") || strings.Contains(out, "Pending") {
			t.Errorf("the kept answer: %s", out)
		}
		if out := p.ticket(t, key, "T-1002"); !strings.Contains(out, "Pending") {
			t.Errorf("the same call again is no new request: %s", out)
		}
	})
}

// What waits is bound to the policies and grants that determined its decision:
// one that has nothing to do with it may change, one of them may not.
func TestOnlyWhatDeterminedADecisionVoidsItsRequest(t *testing.T) {
	p, key := heldDesk(t, t.TempDir(), storagetest.SQLite(t))
	p.ticket(t, key, "T-1001")
	id := p.pendingOf(t)
	p.api(t, "PUT", "/agents/other", map[string]any{"owner": "olga", "stage": "development"}, nil)
	p.api(t, "PUT", "/grants/unrelated", map[string]any{"agent": "other", "connection": "helpdesk", "tools": []string{"*"}}, nil)
	p.api(t, "PUT", "/policies/unrelated", map[string]any{"text": `@id("mail") forbid (principal, action == Action::"helpdesk/send_email", resource);`}, nil)
	p.api(t, "PUT", "/policies/held", map[string]any{"text": "// only a comment\n" + heldPolicies}, nil)
	if out := p.ticket(t, key, "T-1001"); !strings.Contains(out, id) {
		t.Errorf("after changes that do not concern it: %s", out)
	}
	p.decide(t, id, "approve")
	if out := p.ticket(t, key, "T-1001"); strings.Contains(out, "Pending") || !strings.Contains(out, "T-1001") {
		t.Errorf("what was approved is not made: %s", out)
	}

	for name, change := range map[string]func(){
		"a policy that holds it": func() {
			p.api(t, "PUT", "/policies/held", map[string]any{"text": strings.Replace(heldPolicies, `@approval("deciders")`, `@approval("deciders") @decide_within("1h")`, 1)}, nil)
		},
		"the grant that allows it": func() {
			p.api(t, "PUT", "/grants/worker-helpdesk", map[string]any{"agent": "worker", "connection": "helpdesk", "tools": []string{"get_ticket"}}, nil)
		},
	} {
		p.ticket(t, key, "T-1003")
		id := p.pendingOf(t)
		p.decide(t, id, "approve")
		change()
		out := p.ticket(t, key, "T-1003")
		if !strings.Contains(out, "Pending") || strings.Contains(out, id) {
			t.Errorf("%s changed: %s", name, out)
		}
		p.settledAs(t, id, "void")
		next := p.pendingOf(t) // the clock voids what waits, also if nobody asks again
		p.api(t, "PUT", "/policies/held", map[string]any{"text": strings.Replace(heldPolicies, `@approval("deciders")`, `@approval("deciders") @decide_within("`+strconv.Itoa(len(name))+`m")`, 1)}, nil)
		p.settledAs(t, next, "void")
	}
}

// Requests and approvals outlive the process, killed at any of their steps.
func TestApprovalsOutliveTheProcess(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		data := t.TempDir()
		p, key := heldDesk(t, data, dsn)
		p.ticket(t, key, "T-1001")
		id := p.pendingOf(t)
		p.kill()
		p = start(t, data, dsn, p.token)
		p.decide(t, id, "approve")
		p.kill()
		p = start(t, data, dsn, p.token)
		if out := p.ticket(t, key, "T-1001"); !strings.Contains(out, "T-1001") || strings.Contains(out, "Pending") {
			t.Errorf("after approval and death: %s", out)
		}
		p.settledAs(t, id, "executed")
		p.kill()
		p = start(t, data, dsn, p.token)
		if out := p.ticket(t, key, "T-1001"); !strings.Contains(out, "Pending") || strings.Contains(out, id) {
			t.Errorf("an approval was good twice: %s", out)
		}
	})
}
