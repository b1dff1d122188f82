package server_test

import (
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// A run's stated scope is approved once: its calls are made without asking, no more
// of them than were stated and none outside, and another run is asked as before. An
// agent states it with its tool, an application through the API.
func TestAStatedScopeIsApprovedOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	w := newFlowWorld(t)
	fiona := w.person(t, "fiona", "approver")
	w.api(t, "PUT", "/groups/deciders", map[string]any{"members": []string{"fiona"}}, nil)
	w.flow("other", client.Flow{Args: map[string]string{"to": "recipient"}})
	w.api(t, "PUT", "/policies/reaches", map[string]any{"text": `@id("reaches") @approval("deciders") forbid (principal, action == Action::"liar/other", resource);`}, nil)
	run, other := w.started(), w.started()
	to := func(name string) map[string]any { return map[string]any{"to": name + "@example.com"} }
	approve := func(id string) {
		t.Helper()
		if status, body := w.as(t, fiona, "POST", "/api/v1/approvals/"+id+"/decision", `{"verdict":"approve","reason":"the three of the project"}`); status != 200 {
			t.Fatalf("%d %s", status, body)
		}
	}
	inForce := func(run, id string) {
		t.Helper()
		var r client.AskedScope
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			var err error
			if r, err = w.admin.ScopeRequest(t.Context(), run, id); err != nil {
				t.Fatal(err)
			}
			if r.State == "given" {
				return
			}
		}
		t.Fatalf("never in force: %+v", r)
	}
	ask := func(arguments map[string]any) string {
		_, body := w.send(t, "/mcp", run.Token, "", map[string]any{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": map[string]any{"name": "request_scope", "arguments": arguments}})
		return body
	}
	if body := ask(map[string]any{"scopes": []any{map[string]any{"tool": "liar__read", "args": map[string]any{"to": []string{"x"}}, "calls": 1}}, "reason": "x"}); !strings.Contains(body, `"isError":true`) {
		t.Errorf("a scope of what is not declared: %s", body)
	}
	body := ask(map[string]any{"scopes": []any{map[string]any{"tool": "liar__other", "args": map[string]any{"to": []string{"ann@example.com", "ben@example.com"}}, "calls": 2}}, "for": "30m", "reason": "two invitations"})
	at := strings.Index(body, "apr_")
	if at < 0 {
		t.Fatalf("not asked: %s", body)
	}
	id := body[at : at+30]
	if w.made(run.Token, "other", to("ann")) {
		t.Fatal("made before anybody approved")
	}
	if _, shown := w.as(t, fiona, "GET", "/api/v1/approvals/"+id, ""); !strings.Contains(shown, "ann@example.com or ben@example.com") || !strings.Contains(shown, "2 times at most") {
		t.Errorf("the approver reads %s", shown)
	}
	approve(id)
	inForce(run.Run, id)
	for name, c := range map[string]struct {
		credential string
		args       map[string]any
	}{"another run": {other.Token, to("ann")}, "a key": {w.key, to("ann")}, "somebody else": {run.Token, to("eve")}, "one more": {run.Token, map[string]any{"to": []string{"ann@example.com", "eve@example.com"}}}} {
		if w.made(c.credential, "other", c.args) {
			t.Errorf("%s: made", name)
		}
	}
	if !w.made(run.Token, "other", to("ann")) || !w.made(run.Token, "other", to("ben")) {
		t.Error("a call inside the scope was held")
	}
	if w.made(run.Token, "other", map[string]any{"to": "ben@example.com", "again": true}) {
		t.Error("a third call of two was made")
	}
	// The application states another; it ends with the run.
	asked, err := w.admin.AskScope(t.Context(), other.Run, "1h", client.StatedScope{Scope: client.Scope{Tool: "liar/other", Args: map[string][]string{"to": {"cem@example.com"}}}, Calls: 9})
	if err != nil || asked.State != "pending" {
		t.Fatalf("%+v, %v", asked, err)
	}
	approve(asked.ID)
	inForce(other.Run, asked.ID)
	if !w.made(other.Token, "other", to("cem")) {
		t.Error("the application's scope lets nothing through")
	}
	if err := w.admin.EndRun(t.Context(), other.Run); err != nil {
		t.Fatal(err)
	}
	if w.made(other.Token, "other", to("cem")) {
		t.Error("made after its run")
	}
}

// What names the server's address names the port that the system chose.
func TestLinksNameThePortThatIsBound(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	w := newHeldWorld(t, start(t, t.TempDir(), storagetest.SQLite(t), ""))
	_, id := w.held(0)
	body := w.call(w.process, "read", w.n)
	if want := w.url + "/approvals/" + id; strings.HasSuffix(w.url, ":0") || !strings.Contains(body, want) {
		t.Errorf("no link to %s: %s", want, body)
	}
}
