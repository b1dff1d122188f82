package server_test

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json/v2"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/countersign/countersign/test/idp"
)

var elsewhere = regexp.MustCompile(`href="(/oauth2/elsewhere\?request=[^"]+)"`)

// A person who signs in at their organisation's provider, and has no password
// here, consents to a program: in the browser that began, and in no other.
func TestConsentOfAPersonOfTheProvider(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	provider, err := idp.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(provider.Close)
	ca := filepath.Join(t.TempDir(), "idp.pem")
	if err := os.WriteFile(ca, provider.CA(), 0o600); err != nil {
		t.Fatal(err)
	}
	p, document := signInHouse(t, "COUNTERSIGN_OIDC_ISSUER="+provider.URL, "COUNTERSIGN_OIDC_CLIENT_ID="+idp.ClientID, "COUNTERSIGN_OIDC_CLIENT_SECRET=env:IDP_SECRET", "IDP_SECRET="+idp.Secret, "COUNTERSIGN_OIDC_CA="+ca)
	p.api(t, "PUT", "/users/fiona", map[string]any{"role": "owner", "email": "fiona@acme.example"}, nil)
	p.api(t, "PUT", "/agents/worker", map[string]any{"owner": "fiona", "stage": "development"}, nil)
	says := func(deny bool) {
		provider.Lock()
		defer provider.Unlock()
		provider.Deny = deny
		provider.User = idp.User{Subject: "s-1", Claims: map[string]any{"email": "fiona@acme.example", "email_verified": true, "preferred_username": "fiona"}}
	}
	says(false)
	verifier := strings.Repeat("v", 43)
	sum := sha256.Sum256([]byte(verifier))
	request := url.Values{"response_type": {"code"}, "client_id": {document}, "redirect_uri": {callback}, "state": {"a & b"}, "scope": {"read"}, "resource": {p.url + "/mcp/helpdesk"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"}}.Encode()

	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(provider.CA())
	// surf is a browser that goes where it is sent, until a URL has stop in it.
	surf := func(stop string) *http.Client {
		jar, _ := cookiejar.New(nil)
		return &http.Client{Jar: jar, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
			if strings.Contains(r.URL.String(), stop) {
				return http.ErrUseLastResponse
			}
			return nil
		}}
	}
	get := func(c *http.Client, at string) (*http.Response, string) {
		resp, err := c.Get(at)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp, string(body)
	}
	link := func(c *http.Client) string {
		resp, body := get(c, p.url+"/oauth2/authorize?"+request)
		m := elsewhere.FindStringSubmatch(body)
		if m == nil {
			t.Fatalf("%s: no way to the provider:\n%s", resp.Status, body)
		}
		return p.url + html.UnescapeString(m[1])
	}
	shut := func(what string, resp *http.Response, body string) {
		t.Helper()
		if resp.StatusCode < 400 || strings.Contains(body, `action="/oauth2/consent"`) || !strings.Contains(body, `role="alert"`) {
			t.Errorf("%s: %s\n%s", what, resp.Status, body)
		}
	}

	c := surf(callback)
	resp, err := c.Get(link(c))
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{t: t, base: p.url}
	resp, err = b.submit(c, resp, "/oauth2/consent", url.Values{"agent": {"worker"}, "answer": {"allow"}})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	back, err := url.Parse(resp.Header.Get("Location"))
	if err != nil || !strings.HasPrefix(back.String(), callback) || back.Query().Get("state") != "a & b" {
		t.Fatalf("%s %s", resp.Status, back)
	}
	answer, err := http.PostForm(p.url+"/oauth2/token", url.Values{"grant_type": {"authorization_code"}, "client_id": {document}, "redirect_uri": {callback}, "code": {back.Query().Get("code")}, "code_verifier": {verifier}})
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var token struct {
		Access string `json:"access_token"`
	}
	if err := json.UnmarshalRead(answer.Body, &token); err != nil || token.Access == "" {
		t.Fatal(answer.Status, err)
	}
	if said := p.tool(t, "/mcp/helpdesk", token.Access, "list_tickets", map[string]any{}); strings.Contains(said, `"isError":true`) {
		t.Fatal(said)
	}
	p.actedFor(t, "fiona", "worker", "list_tickets")
	if resp, body := get(c, p.url+"/oauth2/authorize?"+request); !strings.Contains(body, `action="/oauth2/login"`) {
		t.Errorf("the session goes on after the consent: %s\n%s", resp.Status, body)
	}

	// Somebody's ticket is of no use in another's browser, nor twice.
	thief, victim := surf("nowhere"), surf("/oauth2/signed-in")
	resp, _ = get(victim, link(victim))
	ticket := resp.Header.Get("Location")
	if !strings.Contains(ticket, "ticket=") {
		t.Fatal(resp.Status, ticket)
	}
	resp, body := get(thief, ticket)
	shut("a browser that began nothing", resp, body)
	own := surf("/oauth2/signed-in")
	get(own, link(own))
	own.CheckRedirect = nil
	resp, body = get(own, ticket)
	shut("a browser that began another", resp, body)
	kept := victim.Jar.Cookies(mustURL(t, p.url+"/oauth2/signed-in"))
	victim.CheckRedirect = nil
	if resp, body := get(victim, ticket); !strings.Contains(body, `action="/oauth2/consent"`) {
		t.Errorf("the browser that began: %s\n%s", resp.Status, body)
	}
	again := surf("nowhere")
	again.Jar.SetCookies(mustURL(t, p.url+"/oauth2/signed-in"), kept)
	resp, body = get(again, ticket)
	shut("a ticket twice", resp, body)

	says(true)
	c = surf("nowhere")
	resp, body = get(c, link(c))
	shut("the provider declines", resp, body)
	resp, body = get(c, p.url+"/oauth2/elsewhere?request=client_id%3Dnobody")
	shut("a program that is not", resp, body)
	says(false)
	resp, body = get(c, p.url+"/oauth2/elsewhere?request="+url.QueryEscape(strings.Replace(request, "a+%26+b", strings.Repeat("s", 2000), 1)+"&x="+strings.Repeat("y", 1000)))
	shut("more than a browser keeps", resp, body)
}

func mustURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// Without a provider there is no way to one.
func TestNoProviderNoWayThere(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	p, _ := signInHouse(t)
	for _, path := range []string{"/oauth2/elsewhere?request=x", "/oauth2/signed-in?ticket=x"} {
		if status, body := p.as(t, "", "GET", path, ""); status != 404 {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
}
