package server_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json/v2"
	"encoding/pem"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/modelcontextprotocol/go-sdk/oauthex"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

const (
	callback = "http://127.0.0.1:33418/callback"
	password = "correct horse battery"
)

var field = regexp.MustCompile(`<input type="hidden" name="([a-z]+)" value="([^"]*)">`)

// browser is a person at a browser: it opens the authorization URL, signs in,
// consents, and gives the client what the redirect brings.
type browser struct {
	t      testing.TB
	base   string
	name   string
	agent  string
	answer string
	opened []string // authorization URLs
	pages  []string // what the person saw
}

func (b *browser) open(at string) (url.Values, error) {
	b.opened = append(b.opened, at)
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	c := &http.Client{Jar: jar, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if !strings.HasPrefix(r.URL.String(), b.base) {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	resp, err := c.Get(at)
	if err != nil {
		return nil, err
	}
	if resp, err = b.submit(c, resp, "/oauth2/login", url.Values{"name": {b.name}, "password": {password}}); err != nil {
		return nil, err
	}
	resp, err = b.submit(c, resp, "/oauth2/consent", url.Values{"agent": {b.agent}, "answer": {b.answer}})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	back, err := url.Parse(resp.Header.Get("Location"))
	if err != nil || !strings.HasPrefix(back.String(), callback) {
		body, _ := io.ReadAll(resp.Body)
		return nil, fmt.Errorf("no redirect to the client: %s %s\n%s", resp.Status, back, body)
	}
	return back.Query(), nil
}

// submit fills in the form of a page.
func (b *browser) submit(c *http.Client, resp *http.Response, action string, q url.Values) (*http.Response, error) {
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	b.pages = append(b.pages, string(body))
	if resp.StatusCode != 200 || !strings.Contains(string(body), `action="`+action+`"`) {
		return nil, fmt.Errorf("%s: no form to %s: %s\n%s", resp.Request.URL, action, resp.Status, body)
	}
	for _, h := range []struct{ name, want string }{{"Content-Security-Policy", "frame-ancestors 'none'"}, {"Content-Security-Policy", "default-src 'none'"}, {"X-Frame-Options", "DENY"}, {"Cache-Control", "no-store"}, {"Referrer-Policy", "no-referrer"}} {
		if !strings.Contains(resp.Header.Get(h.name), h.want) {
			b.t.Errorf("%s: %s is %q", action, h.name, resp.Header.Get(h.name))
		}
	}
	for _, m := range field.FindAllStringSubmatch(string(body), -1) {
		q.Set(m[1], html.UnescapeString(m[2]))
	}
	return c.PostForm(b.base+action, q)
}

// signInHouse is a server with an MCP connection, a person who owns an agent,
// and a client metadata document.
func signInHouse(t *testing.T, env ...string) (p *process, document string) {
	t.Helper()
	var doc *httptest.Server
	doc = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.MarshalWrite(w, map[string]any{"client_id": doc.URL + r.URL.Path, "client_name": "Test <IDE>", "redirect_uris": []string{callback}, "grant_types": []string{"authorization_code", "refresh_token"},
			"token_endpoint_auth_method": "none"})
	}))
	t.Cleanup(doc.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: doc.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	desk := serveHelpdesk(t, "oauth-desk-token-0123456789")
	p = start(t, t.TempDir(), storagetest.SQLite(t), "", append(env, "SSL_CERT_FILE="+ca, "COUNTERSIGN_OAUTH_PRIVATE_CLIENTS=true")...)
	p.company(t)
	p.api(t, "PUT", "/secrets/desk-token", map[string]any{"value": "oauth-desk-token-0123456789", "owner": "olga", "connection": "helpdesk", "hosts": []string{"127.0.0.1"}}, nil)
	p.api(t, "PUT", "/connections/helpdesk", map[string]any{"kind": "mcp", "url": desk, "owner": "olga", "allow_private": true, "secret": "desk-token", "auth": "bearer"}, nil)
	p.api(t, "PUT", "/users/olga/password", map[string]any{"password": password}, nil)
	p.api(t, "PATCH", "/connections/helpdesk/tools/list_tickets", map[string]any{"effect": "read"}, nil)
	p.api(t, "PATCH", "/connections/helpdesk/tools/send_email", map[string]any{"effect": "irreversible"}, nil)
	p.grant(t, "helpdesk")
	return p, doc.URL + "/client.json"
}

// The MCP SDK for Go knows a URL and nothing else: it discovers how to sign in,
// a person consents, its calls go through under the person's name, and a call
// that cannot be undone sends it for a wider consent.
func TestGoSDKSignsInByDiscovery(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	for _, c := range []struct {
		name string
		env  []string
		cfg  func(document string, cfg *auth.AuthorizationCodeHandlerConfig)
	}{
		{"metadata document", nil, func(document string, cfg *auth.AuthorizationCodeHandlerConfig) {
			cfg.ClientIDMetadataDocumentConfig = &auth.ClientIDMetadataDocumentConfig{URL: document}
		}},
		{"dynamic registration", []string{"COUNTERSIGN_OAUTH_REGISTRATION=true"}, func(_ string, cfg *auth.AuthorizationCodeHandlerConfig) {
			cfg.DynamicClientRegistrationConfig = &auth.DynamicClientRegistrationConfig{Metadata: &oauthex.ClientRegistrationMetadata{ClientName: "Test", RedirectURIs: []string{callback}}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, document := signInHouse(t, c.env...)
			b := &browser{t: t, base: p.url, name: "olga", agent: "worker", answer: "allow"}
			cfg := &auth.AuthorizationCodeHandlerConfig{RedirectURL: callback, AuthorizationCodeFetcher: func(_ context.Context, a *auth.AuthorizationArgs) (*auth.AuthorizationResult, error) {
				q, err := b.open(a.URL)
				if err != nil {
					return nil, err
				}
				return &auth.AuthorizationResult{Code: q.Get("code"), State: q.Get("state"), Iss: q.Get("iss")}, nil
			}}
			c.cfg(document, cfg)
			h, err := auth.NewAuthorizationCodeHandler(cfg)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			s, err := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil).Connect(ctx, &mcp.StreamableClientTransport{Endpoint: p.url + "/mcp/helpdesk", OAuthHandler: h, MaxRetries: -1}, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if r, err := s.CallTool(ctx, &mcp.CallToolParams{Name: "list_tickets", Arguments: map[string]any{}}); err != nil || r.IsError {
				t.Fatalf("%v %+v", err, r)
			}
			if n := len(b.opened); n != 1 {
				t.Fatalf("the person was asked %d times: %v", n, b.opened)
			}
			if page := b.pages[1]; strings.Contains(page, "<IDE>") || !strings.Contains(page, "127.0.0.1:33418") {
				t.Errorf("the consent page: %s", page)
			}
			if r, err := s.CallTool(ctx, &mcp.CallToolParams{Name: "send_email", Arguments: map[string]any{"to": "ana@example.com", "subject": "s", "body": "b"}}); err != nil || r.IsError {
				t.Fatalf("step-up: %v %+v", err, r)
			}
			if n := len(b.opened); n != 2 || !strings.Contains(b.opened[1], "irreversible") {
				t.Errorf("no step-up: %v", b.opened)
			}
			p.actedFor(t, "olga", "worker", "send_email")
		})
	}
}

// actedFor checks that the log knows on whose behalf a tool was called.
func (p *process) actedFor(t *testing.T, user, agent, tool string) {
	t.Helper()
	var page struct {
		Events []struct {
			Agent      string `json:"agent"`
			Tool       string `json:"tool"`
			OnBehalfOf []struct {
				Kind string `json:"kind"`
				Name string `json:"name"`
			} `json:"on_behalf_of"`
		} `json:"events"`
	}
	p.api(t, "GET", "/log/events?q=type:call.intent", nil, &page)
	for _, ev := range page.Events {
		if ev.Tool == tool && ev.Agent == agent && len(ev.OnBehalfOf) == 1 && ev.OnBehalfOf[0].Kind == "user" && ev.OnBehalfOf[0].Name == user {
			return
		}
	}
	t.Errorf("no intent of %s by %s on behalf of %s: %+v", tool, agent, user, page.Events)
}

// The MCP SDK for TypeScript does the same.
func TestTypeScriptSDKSignsInByDiscovery(t *testing.T) {
	if testing.Short() {
		t.Skip("needs Node")
	}
	dir := npmClients(t)
	p, document := signInHouse(t)
	b := &browser{t: t, base: p.url, name: "olga", agent: "worker", answer: "allow"}
	cmd := exec.Command("node", "signin.mjs", p.url+"/mcp/helpdesk", document, callback)
	cmd.Dir = dir
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	var got struct {
		Tools []string          `json:"tools"`
		Said  map[string]string `json:"said"`
		Error string            `json:"error"`
	}
	for lines := newLines(stdout); ; {
		line, err := lines()
		if err != nil {
			t.Fatalf("%v\n%s", err, &errs)
		}
		if at, ok := strings.CutPrefix(line, "open "); ok {
			q, err := b.open(at)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(in, q.Get("code"), q.Get("iss"))
			continue
		}
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatal(errors.Join(err, errors.New(line)))
		}
		break
	}
	if got.Error != "" || !slices.Contains(got.Tools, "list_tickets") || got.Said["list_tickets"] != "ok" || got.Said["send_email"] != "ok" || len(b.opened) != 2 {
		t.Errorf("%+v, the person was asked %d times\n%s", got, len(b.opened), &errs)
	}
	p.actedFor(t, "olga", "worker", "send_email")
}

// newLines returns a reader of lines.
func newLines(r io.Reader) func() (string, error) {
	in := bufio.NewReader(r)
	return func() (string, error) {
		line, err := in.ReadString('\n')
		return strings.TrimSpace(line), err
	}
}

// A stream that an access token began is cut within a second of its agent's key
// being revoked, on a server that is told of it over the API.
func TestStreamOfARevokedTokenIsCut(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	released := make(chan struct{})
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		close(released)
	}))
	defer upstream.Close()
	p := start(t, t.TempDir(), storagetest.SQLite(t), "")
	p.company(t)
	p.model(t, "up", "openai", upstream.URL, "sk-upstream-0123456789")
	key, err := client.NewAgentKey(p.url, "worker")
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.JWK.Public().MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	registered, err := client.New(p.url, p.token).AddClientKey(t.Context(), "worker", client.ClientKeySpec{JWK: public})
	if err != nil {
		t.Fatal(err)
	}
	token, err := client.New(p.url, "").AccessToken(t.Context(), key, "read write irreversible", p.url+"/llm/up")
	if err != nil {
		t.Fatal(err)
	}
	ask := func(path string) *http.Response {
		req, _ := http.NewRequest("POST", p.url+path, strings.NewReader(`{"model":"m","stream":true,"messages":[{"role":"user","content":"hello"}]}`))
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	if resp := ask("/llm/other/v1/chat/completions"); resp.StatusCode != 401 {
		t.Errorf("at another connection: %s", resp.Status)
	}
	resp := ask("/llm/up/v1/chat/completions")
	first := make([]byte, 16)
	if _, err := io.ReadFull(resp.Body, first); err != nil || resp.StatusCode != 200 {
		t.Fatal(resp.Status, err)
	}
	began := time.Now()
	if err := client.New(p.url, p.token).WithReason("test").RevokeClientKey(t.Context(), "worker", registered.ID); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(resp.Body); err == nil && !strings.Contains(string(rest), "error") {
		t.Errorf("the stream ended as if it were whole: %q", rest)
	}
	select {
	case <-released:
		t.Logf("cut %s after the revocation began", time.Since(began))
	case <-time.After(30 * time.Second):
		t.Fatal("the upstream still sends")
	}
	if resp := ask("/llm/up/v1/chat/completions"); resp.StatusCode != 401 {
		t.Errorf("afterwards: %s", resp.Status)
	}
}
