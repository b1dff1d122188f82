package server_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// A run that did something before anybody asked where values come from may have
// read anything; one of which only lists, refusals and held calls were seen has
// read nothing.
func TestWhatNobodyWatchedIsUntrusted(t *testing.T) {
	p := start(t, t.TempDir(), storagetest.SQLite(t), "")
	l, key := p.liar(t)
	l.other = func(w http.ResponseWriter) {
		fmt.Fprint(w, `{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"MADE-IT"}]}}`)
	}
	p.api(t, "POST", "/connections/liar/refresh", map[string]any{}, nil)
	call := func(credential, method, tool string) string {
		_, body := p.send(t, "/mcp/liar", credential, "", map[string]any{"jsonrpc": "2.0", "id": 7, "method": method, "params": map[string]any{"name": tool, "arguments": map[string]any{}}})
		return body
	}
	token := func() string {
		var run struct {
			Token string `json:"token"`
		}
		p.api(t, "POST", "/agents/worker/runs", map[string]any{"expires_in": "1h"}, &run)
		return run.Token
	}
	if body := call(key, "tools/call", "other"); !strings.Contains(body, "MADE-IT") {
		t.Fatalf("%s", body)
	}
	p.api(t, "PUT", "/policies/asks", map[string]any{"text": `
@id("clean") forbid (principal, action == Action::"liar/read", resource) when { context.provenance.untrusted };
@id("never") forbid (principal, action == Action::"liar/other", resource);`}, nil)
	if body := call(key, "tools/call", "read"); strings.Contains(body, "MADE-IT") {
		t.Errorf("a run that read before anybody asked: %s", body)
	}
	// What is refused later, too, is told as one of its run.
	if body := call(key, "tools/call", "nothing"); !strings.Contains(body, "unknown") {
		t.Errorf("%s", body)
	}
	run, admin := "", client.New(p.url, p.token)
	for end := time.Now().Add(30 * time.Second); run == "" && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		page, err := admin.SearchLog(t.Context(), "type:call.refused", "", 1, false)
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Events) > 0 {
			run = page.Events[0].Run
			break
		}
	}
	if run == "" {
		t.Error("a refusal is in no run")
	}
	fresh := token()
	call(fresh, "tools/list", "")
	call(fresh, "tools/call", "other") // denied
	if body := call(fresh, "tools/call", "read"); !strings.Contains(body, "MADE-IT") {
		t.Errorf("a run that read nothing yet: %s", body)
	}
	if body := call(fresh, "tools/call", "read"); strings.Contains(body, "MADE-IT") {
		t.Errorf("a run that has read: %s", body)
	}
}
