package server_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/countersign/countersign/internal/storage/storagetest"
)

// withTLS is a TLS door of a server, as providers have one. Its certificate is
// for 127.0.0.1.
func withTLS(t *testing.T, plain string) *httptest.Server {
	t.Helper()
	u, err := url.Parse(plain)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = ""
	s := httptest.NewTLSServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u) }, FlushInterval: -1})
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s
}

// behindTLS is a server whose model and MCP server are at https addresses, and
// what a program needs to call them through its proxy.
type behindTLS struct {
	*process
	model, desk string // the addresses that programs know
	proxy       *url.URL
	roots       string // file
}

func newBehindTLS(t *testing.T) *behindTLS {
	t.Helper()
	h := &behindTLS{}
	modelDoor := withTLS(t, serveModel(t, "tls-model-key-0123456789"))
	deskPlain := serveHelpdesk(t, "tls-desk-token-0123456789")
	deskDoor := withTLS(t, deskPlain)
	h.model, h.desk = modelDoor.URL, deskDoor.URL+deskPlain[strings.LastIndexByte(deskPlain, '/'):]
	upstreams := filepath.Join(t.TempDir(), "upstreams.pem")
	if err := os.WriteFile(upstreams, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: modelDoor.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	h.process = start(t, t.TempDir(), storagetest.SQLite(t), "", "SSL_CERT_FILE="+upstreams)
	key := h.company(t)
	h.process.model(t, "openai", "openai", h.model, "tls-model-key-0123456789")
	h.api(t, "PUT", "/secrets/desk-token", map[string]any{"value": "tls-desk-token-0123456789", "owner": "olga", "connection": "helpdesk", "hosts": []string{"127.0.0.1"}}, nil)
	h.api(t, "PUT", "/connections/helpdesk", map[string]any{"kind": "mcp", "url": h.desk, "owner": "olga", "allow_private": true, "secret": "desk-token", "auth": "bearer"}, nil)
	h.grant(t, "helpdesk")
	h.api(t, "PUT", "/policies/test", map[string]any{"text": `
@id("allowed-models") @advice("this model is not on the list")
forbid (principal, action in Action::"openai", resource) when { context.args has model && context.args.model == "forbidden-model" };`}, nil)
	var err error
	if h.proxy, err = url.Parse(h.url); err != nil {
		t.Fatal(err)
	}
	h.proxy.User = url.UserPassword("agent", key)
	status, root := h.as(t, "", "GET", "/proxy/ca.pem", "")
	if status != http.StatusOK {
		t.Fatalf("%d %s", status, root)
	}
	h.roots = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(h.roots, []byte(root), 0o600); err != nil {
		t.Fatal(err)
	}
	return h
}

// client is an HTTP client that knows the proxy and its certificate alone.
func (h *behindTLS) client(t *testing.T) *http.Client {
	t.Helper()
	b, err := os.ReadFile(h.roots)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(b)
	transport := &http.Transport{Proxy: http.ProxyURL(h.proxy), TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// A model's host and an MCP server's host, asked for through the proxy, are the
// connections: their own rules hold, and their own credentials are sent.
func TestModelsAndToolsThroughTheProxy(t *testing.T) {
	h := newBehindTLS(t)
	for _, c := range []struct {
		model, want string
		status      int
	}{{"test-echo", `"choices"`, 200}, {"forbidden-model", "policy_denied", 403}} {
		req, err := http.NewRequest("POST", h.model+"/v1/chat/completions", strings.NewReader(`{"model":"`+c.model+`","messages":[{"role":"user","content":"hello"}]}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer sk-of-the-program")
		req.Header.Set("Content-Type", "application/json")
		resp, err := h.client(t).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		body := string(b)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s: %d %s", c.model, resp.StatusCode, body)
		}
	}
	session, err := mcp.NewClient(&mcp.Implementation{Name: "program", Version: "1"}, nil).Connect(t.Context(), &mcp.StreamableClientTransport{Endpoint: h.desk, HTTPClient: h.client(t)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	tools, err := session.ListTools(t.Context(), nil)
	if err != nil || len(tools.Tools) == 0 {
		t.Fatalf("%v %v", tools, err)
	}
	res, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "list_tickets", Arguments: map[string]any{}})
	if err != nil || res.IsError {
		t.Errorf("%+v %v", res, err)
	}
}

// The programs people write, with what countersign run sets and no base URL
// beside the provider's own.
func TestPythonThroughTheProxy(t *testing.T) {
	if testing.Short() {
		t.Skip("needs Python")
	}
	site := pythonClients(t)
	h := newBehindTLS(t)
	script := `
import sys, openai, requests
c = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="sk-of-the-program")
say = [{"role": "user", "content": "hello"}]
print("whole", c.chat.completions.create(model="test-echo", messages=say).choices[0].message.content)
print("stream", "".join(p.choices[0].delta.content or "" for p in c.chat.completions.create(model="test-echo", stream=True, messages=say) if p.choices))
try:
    c.chat.completions.create(model="forbidden-model", messages=say)
except openai.PermissionDeniedError as e:
    print("refused", e.code)
for model in "test-echo", "forbidden-model":
    r = requests.post(sys.argv[1] + "/v1/chat/completions", headers={"Authorization": "Bearer sk-of-the-program"}, json={"model": model, "messages": say})
    print("requests", model, r.status_code, r.json().get("error", {}).get("code"))
try:
    requests.get("https://elsewhere.example/")
except requests.exceptions.ProxyError as e:
    print("elsewhere", "403" in str(e))
`
	cmd := exec.CommandContext(t.Context(), "python3", "-c", script, h.model)
	cmd.Env = append(os.Environ(), "PYTHONPATH="+site, "HTTPS_PROXY="+h.proxy.String(), "https_proxy="+h.proxy.String(), "NO_PROXY=", "no_proxy=", "SSL_CERT_FILE="+h.roots, "REQUESTS_CA_BUNDLE="+h.roots)
	out, err := cmd.CombinedOutput()
	for _, want := range []string{"whole ", "stream ", "refused policy_denied", "requests test-echo 200 None", "requests forbidden-model 403 policy_denied", "elsewhere True"} {
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("no %q: %v\n%s", want, err, out)
		}
	}
}

// pythonClients installs the clients in the versions that are written down, once,
// and returns their directory.
func pythonClients(t *testing.T) string {
	t.Helper()
	if err := exec.Command("python3", "-m", "pip", "--version").Run(); err != nil {
		t.Skipf("Python with pip is not installed; install it (python3-pip) to run the Python clients: %v", err)
	}
	dir, err := filepath.Abs("../../test/python")
	if err != nil {
		t.Fatal(err)
	}
	wanted, err := os.ReadFile(filepath.Join(dir, "requirements.txt"))
	if err != nil {
		t.Fatal(err)
	}
	site := filepath.Join(dir, "site")
	if have, err := os.ReadFile(filepath.Join(site, "requirements.txt")); err == nil && string(have) == string(wanted) {
		return site
	}
	if err := os.RemoveAll(site); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("python3", "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", "--target", site, "-r", "requirements.txt")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("pip install: %v\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(site, "requirements.txt"), wanted, 0o600); err != nil { // it is complete
		t.Fatal(err)
	}
	return site
}
