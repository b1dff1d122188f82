package server_test

import (
	"context"
	"encoding/json/v2"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/example/helpdesk"
	"github.com/countersign/countersign/internal/example/model"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// seen is what test/npm/clients.mjs prints.
type seen struct {
	OpenAI    map[string]attempt `json:"openai"`
	Anthropic map[string]attempt `json:"anthropic"`
	MCP       map[string]struct {
		OK *struct {
			Tools  []string           `json:"tools"`
			Called map[string]attempt `json:"called"`
		} `json:"ok"`
		Error *clientError `json:"error"`
	} `json:"mcp"`
}

type attempt struct {
	OK    any          `json:"ok"`
	Error *clientError `json:"error"`
}

type clientError struct {
	Name    string `json:"name"`
	Status  int    `json:"status"`
	Code    any    `json:"code"`
	Message string `json:"message"`
}

// The official npm clients, unmodified, call a model and an MCP server through
// a real server process.
func TestNpmClients(t *testing.T) {
	if testing.Short() {
		t.Skip("needs Node")
	}
	dir := npmClients(t)
	modelURL := serveModel(t, "npm-model-key-0123456789")
	deskURL := serveHelpdesk(t, "npm-desk-token-0123456789")

	p := start(t, t.TempDir(), storagetest.SQLite(t), "")
	key := p.company(t)
	p.model(t, "openai", "openai", modelURL, "npm-model-key-0123456789")
	p.model(t, "anthropic", "anthropic", modelURL, "npm-model-key-0123456789")
	p.api(t, "PUT", "/secrets/desk-token", map[string]any{"value": "npm-desk-token-0123456789", "owner": "olga", "connection": "helpdesk", "hosts": []string{"127.0.0.1"}}, nil)
	p.api(t, "PUT", "/connections/helpdesk", map[string]any{"kind": "mcp", "url": deskURL, "owner": "olga", "allow_private": true, "secret": "desk-token", "auth": "bearer"}, nil)
	p.grant(t, "helpdesk")
	p.api(t, "PUT", "/policies/test", map[string]any{"text": `
@id("allowed-models") @advice("this model is not on the list")
forbid (principal, action in [Action::"openai", Action::"anthropic"], resource)
when { context.args has model && context.args.model == "forbidden-model" };

@id("no-mail") @advice("mail leaves the company")
forbid (principal, action == Action::"helpdesk/send_email", resource);`}, nil)

	one, all := p.url+"/mcp/helpdesk", p.url+"/mcp"
	cmd := exec.Command("node", "clients.mjs", one, all)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "OPENAI_BASE_URL="+p.url+"/llm/openai/v1", "OPENAI_API_KEY="+key,
		"ANTHROPIC_BASE_URL="+p.url+"/llm/anthropic", "ANTHROPIC_API_KEY="+key, "COUNTERSIGN_TOKEN="+key,
		`MCP_CALLS=[["list_tickets",{}],["helpdesk__list_tickets",{}],["send_email",{"to":"x@evil.example","subject":"s","body":"b"}]]`)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, stderr(err))
	}
	var got seen
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	checkModels(t, got)
	checkTools(t, got, one, "list_tickets", "send_email")
	checkTools(t, got, all, "helpdesk__list_tickets", "")
	if t.Failed() {
		t.Logf("%s", out)
	}
}

func checkModels(t *testing.T, got seen) {
	t.Helper()
	for name, a := range map[string]attempt{"openai chat": got.OpenAI["chat"], "openai stream": got.OpenAI["stream"], "openai responses": got.OpenAI["responses"],
		"openai embeddings": got.OpenAI["embeddings"], "openai models": got.OpenAI["models"], "anthropic message": got.Anthropic["message"],
		"anthropic stream": got.Anthropic["stream"], "anthropic count": got.Anthropic["count"], "anthropic models": got.Anthropic["models"]} {
		if a.Error != nil || a.OK == nil {
			t.Errorf("%s: %+v", name, a.Error)
		}
	}
	if e := got.OpenAI["forbidden"].Error; e == nil || e.Status != 403 || e.Code != "policy_denied" || !strings.Contains(e.Message, "not on the list") {
		t.Errorf("openai refusal: %+v", e)
	}
	if e := got.Anthropic["forbidden"].Error; e == nil || e.Status != 403 || !strings.Contains(e.Message, "permission_error") {
		t.Errorf("anthropic refusal: %+v", e)
	}
}

func checkTools(t *testing.T, got seen, url, lists, denied string) {
	t.Helper()
	m := got.MCP[url]
	if m.OK == nil {
		t.Errorf("%s: %+v", url, m.Error)
		return
	}
	if !slices.Contains(m.OK.Tools, lists) || slices.ContainsFunc(m.OK.Tools, func(n string) bool { return strings.HasSuffix(n, "send_email") }) {
		t.Errorf("%s lists %v", url, m.OK.Tools)
	}
	if a := m.OK.Called[lists]; a.Error != nil || a.OK.(map[string]any)["isError"] != false {
		t.Errorf("%s %s: %+v", url, lists, a)
	}
	if a := m.OK.Called[denied]; denied != "" && a.Error == nil && a.OK.(map[string]any)["isError"] != true {
		t.Errorf("%s %s was not refused: %+v", url, denied, a)
	}
}

func stderr(err error) string {
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return string(e.Stderr)
	}
	return ""
}

// npmClients installs the clients as the lock file says, once, and returns
// their directory.
func npmClients(t *testing.T) string {
	t.Helper()
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed; install Node.js to run the npm clients", tool)
		}
	}
	dir, err := filepath.Abs("../../test/npm")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules", ".package-lock.json")); err == nil {
		return dir
	}
	cmd := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	return dir
}

func serveModel(t testing.TB, key string) string {
	t.Helper()
	s, err := model.New(model.Options{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	return "http://" + serve(t, s.Serve)
}

func serveHelpdesk(t testing.TB, token string) string {
	t.Helper()
	s, err := helpdesk.New(context.Background(), helpdesk.Options{Dir: t.TempDir(), Token: token})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return "http://" + serve(t, s.Serve) + helpdesk.Path
}

// serve runs fn on a free port until the test ends.
func serve(t testing.TB, fn func(context.Context, net.Listener) error) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- fn(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Error("a server did not stop")
		}
	})
	return l.Addr().String()
}
