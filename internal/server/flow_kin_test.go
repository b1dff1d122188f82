package server_test

import (
	"context"
	"encoding/json/v2"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// flowWorld is a server with an agent whose calls of liar/other reach somebody,
// and that proves itself with a key of its own.
type flowWorld struct {
	*process
	t     *testing.T
	key   string // csk_…
	own   client.AgentKey
	admin *client.Client
}

func newFlowWorld(t *testing.T) *flowWorld {
	t.Helper()
	p := start(t, t.TempDir(), storagetest.SQLite(t), "")
	w := &flowWorld{process: p, t: t, admin: client.New(p.url, p.token).WithReason("test")}
	var l *liar
	l, w.key = p.liar(t)
	l.other = func(rw http.ResponseWriter) {
		fmt.Fprint(rw, `{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"MADE-IT"}]}}`)
	}
	p.api(t, "POST", "/connections/liar/refresh", map[string]any{}, nil)
	ctx := context.Background()
	own, err := client.NewAgentKey(p.url, "worker")
	if err != nil {
		t.Fatal(err)
	}
	codes, err := client.New(p.url, "").Enrol(ctx, own, "here")
	if err == nil {
		_, err = w.admin.Decide(ctx, codes.User, "worker", true)
	}
	if err == nil {
		_, err = client.New(p.url, "").AwaitEnrolment(ctx, own, codes, time.Hour)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.own = own
	return w
}

func (w *flowWorld) flow(tool string, f client.Flow) {
	w.t.Helper()
	if _, err := w.admin.SetReferences(context.Background(), "liar", tool, client.References{Flow: f}); err != nil {
		w.t.Fatal(err)
	}
}

// call returns the body of the answer.
func (w *flowWorld) call(credential, tool string, args map[string]any) string {
	w.t.Helper()
	_, body := w.send(w.t, "/mcp/liar", credential, "", map[string]any{"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": map[string]any{"name": tool, "arguments": args}})
	return body
}

func (w *flowWorld) made(credential, tool string, args map[string]any) bool {
	w.t.Helper()
	return strings.Contains(w.call(credential, tool, args), "MADE-IT")
}

// began returns the token of a run that the agent begins itself.
func (w *flowWorld) began() string {
	w.t.Helper()
	run, err := client.New(w.url, "").StartRunWithKey(context.Background(), w.own, time.Hour)
	if err != nil {
		w.t.Fatal(err)
	}
	return run.Token
}

// started returns a run that a person starts.
func (w *flowWorld) started() client.RunToken {
	w.t.Helper()
	run, err := w.admin.StartRun(context.Background(), "worker", time.Hour)
	if err != nil {
		w.t.Fatal(err)
	}
	return run
}

// access returns an access token that the agent gets for its key.
func (w *flowWorld) access(subject string) string {
	w.t.Helper()
	resp, err := http.PostForm(w.url+"/oauth2/token", url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "subject_token": {subject},
		"subject_token_type": {"urn:ietf:params:oauth:token-type:access_token"}, "resource": {w.url + "/mcp/liar"}})
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	var out struct {
		Token string `json:"access_token"`
	}
	if err := json.UnmarshalRead(resp.Body, &out); err != nil || out.Token == "" {
		w.t.Fatalf("no token: %v", err)
	}
	return out.Token
}

// What an agent has read follows it into every credential that it can get itself:
// a new run, a token exchanged for its key, the key. It does not follow it into a
// run that a person starts.
func TestNoNewCredentialWashesLabelsOff(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	w := newFlowWorld(t)
	w.api(t, "PUT", "/policies/clean", map[string]any{"text": `@id("clean") forbid (principal, action == Action::"liar/other", resource) when { context.provenance.untrusted };`}, nil)
	w.flow("other", client.Flow{Source: "trusted"})
	first, second := w.began(), w.began()
	if !w.made(second, "other", nil) {
		t.Fatal("nothing was read yet")
	}
	if !w.made(first, "read", nil) {
		t.Fatal("not read")
	}
	fresh := w.started()
	for name, credential := range map[string]string{"the same run": first, "a run begun before": second, "a new run": w.began(), "an access token": w.access(w.key), "a key": w.key, "a token for a run of its own": w.access(w.began())} {
		if w.made(credential, "other", nil) {
			t.Errorf("%s is clean", name)
		}
	}
	if !w.made(fresh.Token, "other", nil) || !w.made(w.access(fresh.Token), "other", nil) {
		t.Error("a run that a person started is not clean")
	}
}
