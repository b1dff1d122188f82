package server_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// owned has the agent's owner decide, too, and holds all payments but one.
func (p *payments) owned() {
	p.t.Helper()
	p.api(p.t, "PUT", "/groups/deciders", map[string]any{"members": []string{"admin", "olga"}}, nil)
	p.api(p.t, "PUT", "/policies/held", map[string]any{"text": `
@id("held") @approval("deciders") forbid (principal, action == Action::"ledger/pay_invoice", resource) when { context.args.number != "4704" };`}, nil)
}

// The official TypeScript client finishes a held payment as a task and has its
// person shown where to decide, as 2025-11-25 has both.
func TestTheNpmClientHasTasksAndShowsLinks(t *testing.T) {
	p := newPayments(t)
	dir := npmClients(t)
	p.owned()
	p.approver()
	ways := map[string]map[string]any{"task": p.pays("4702"), "made": p.pays("4704")}
	said := p.npm(dir, "/mcp/ledger", ways)
	for door, w := range map[string]map[string]map[string]any{"/mcp/ledger": {"link": p.pays("4703")}, "/mcp": {"link": p.pays("4705")}} {
		got := p.npm(dir, door, w)["link"]
		if len(got) != 2 || !strings.HasPrefix(got[0], "url http://127.0.0.1:") || !strings.Contains(got[0], "/approvals/apr_") {
			t.Fatalf("%s: %q", door, got)
		}
		p.finished("link at "+door, got[1], w["link"])
	}
	task := said["task"]
	if !strings.HasPrefix(task[0], "apr_") || !strings.HasSuffix(task[0], " working") || task[len(task)-2] != "completed" {
		t.Fatalf("%q", task)
	}
	p.finished("task", task[len(task)-1], ways["task"])
	made := said["made"]
	if len(made) != 3 || !strings.HasPrefix(made[0], "tsk_") || made[1] != "completed" {
		t.Fatalf("%q", made)
	}
	p.finished("made", made[2], ways["made"])
	p.once()
}

// The official Go client, in both eras and at both doors, shows its person where
// to decide, who signs in and decides; then the call goes on by itself.
func TestTheGoClientShowsItsPersonWhereToDecide(t *testing.T) {
	p := newPayments(t)
	p.owned()
	olga := p.person(t, "olga", "owner")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for _, way := range []struct{ door, tool, version, invoice string }{
		{"/mcp/ledger", "pay_invoice", "2025-11-25", "4702"}, {"/mcp", "ledger__pay_invoice", "2025-11-25", "4703"}, {"/mcp", "ledger__pay_invoice", "2026-07-28", "4705"},
	} {
		var mu sync.Mutex
		var shown []string
		o := &sdk.ClientOptions{
			Capabilities: &sdk.ClientCapabilities{Elicitation: &sdk.ElicitationCapabilities{URL: &sdk.URLElicitationCapabilities{}}},
			ElicitationHandler: func(_ context.Context, r *sdk.ElicitRequest) (*sdk.ElicitResult, error) {
				mu.Lock()
				defer mu.Unlock()
				shown = append(shown, r.Params.Mode+" "+r.Params.URL)
				_, id, _ := strings.Cut(r.Params.URL, "/approvals/")
				go func() { // the person reads the page while their client waits
					if status, body := p.as(t, olga, "POST", "/api/v1/approvals/"+id+"/decision", `{"verdict":"approve","reason":"mine to decide"}`); status != 200 {
						t.Errorf("%+v: %d %s", way, status, body)
					}
				}()
				return &sdk.ElicitResult{Action: "accept"}, nil
			},
		}
		s, err := sdk.NewClient(&sdk.Implementation{Name: "test", Version: "1"}, o).Connect(ctx, &sdk.StreamableClientTransport{Endpoint: p.url + way.door, HTTPClient: &http.Client{Transport: bearer(p.key)}, DisableStandaloneSSE: true}, &sdk.ClientSessionOptions{ProtocolVersion: way.version})
		if err != nil {
			t.Fatal(err)
		}
		args := p.pays(way.invoice)
		r, err := s.CallTool(ctx, &sdk.CallToolParams{Name: way.tool, Arguments: args})
		if err != nil || r.IsError || len(r.Content) == 0 {
			t.Fatalf("%+v: %v %+v", way, err, r)
		}
		p.finished(way.door+" "+way.version, r.Content[0].(*sdk.TextContent).Text, args)
		if len(shown) != 1 || !strings.HasPrefix(shown[0], "url http://127.0.0.1:") || !strings.Contains(shown[0], "/approvals/apr_") {
			t.Errorf("%+v: %q", way, shown)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	p.once()
}
