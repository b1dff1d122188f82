package server_test

import (
	"crypto/tls"
	"crypto/x509"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/test/idp"
)

var atProvider = regexp.MustCompile(`href="(/sign-in/provider[^"]*)"`)

// A person signs in to the console at their organisation's provider: in the
// browser that began, and comes to the page that was asked for.
func TestConsoleSignInAtTheProvider(t *testing.T) {
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
	p := start(t, t.TempDir(), storagetest.SQLite(t), "", "COUNTERSIGN_OIDC_ISSUER="+provider.URL, "COUNTERSIGN_OIDC_CLIENT_ID="+idp.ClientID, "COUNTERSIGN_OIDC_CLIENT_SECRET=env:IDP_SECRET", "IDP_SECRET="+idp.Secret, "COUNTERSIGN_OIDC_CA="+ca)
	p.api(t, "PUT", "/users/fiona", map[string]any{"role": "owner", "email": "fiona@acme.example"}, nil)
	says := func(deny bool, email string) {
		provider.Lock()
		defer provider.Unlock()
		provider.Deny = deny
		provider.User = idp.User{Subject: "s-" + email, Claims: map[string]any{"email": email, "email_verified": true, "preferred_username": "fiona"}}
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(provider.CA())
	get := func(c *http.Client, at string) (*http.Response, string) {
		t.Helper()
		resp, err := c.Get(at)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp, string(body)
	}
	browser := func() *http.Client {
		jar, _ := cookiejar.New(nil)
		return &http.Client{Jar: jar, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	}
	begin := func(c *http.Client) string {
		t.Helper()
		_, body := get(c, p.url+"/agents?q=x")
		m := atProvider.FindStringSubmatch(body)
		if m == nil {
			t.Fatalf("no way to the provider:\n%s", body)
		}
		return p.url + html.UnescapeString(m[1])
	}
	says(false, "fiona@acme.example")
	c := browser()
	if resp, body := get(c, begin(c)); resp.StatusCode != 200 || resp.Request.URL.RequestURI() != "/agents?q=x" || !strings.Contains(body, "<b>fiona</b>") {
		t.Errorf("%s %s\n%s", resp.Status, resp.Request.URL, body)
	}
	refused := func(what string, deny bool, email, text string) {
		t.Helper()
		says(deny, email)
		c := browser()
		if resp, body := get(c, begin(c)); resp.StatusCode < 400 || !strings.Contains(body, `role="alert"`) || !strings.Contains(body, text) {
			t.Errorf("%s: %s\n%s", what, resp.Status, body)
		}
	}
	refused("declined", true, "fiona@acme.example", "You were not signed in")
	refused("a stranger", false, "stranger@elsewhere.example", "You were not signed in")
	// The end of a sign-in is worth nothing in another browser.
	says(false, "fiona@acme.example")
	c = browser()
	var back string
	c.CheckRedirect = func(r *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(r.URL.Path, "/sign-in/finish") {
			back = r.URL.String()
			return http.ErrUseLastResponse
		}
		return nil
	}
	get(c, begin(c))
	if resp, body := get(browser(), back); back == "" || resp.StatusCode != 400 || !strings.Contains(body, "not begun in this browser") {
		t.Errorf("%s %q\n%s", resp.Status, back, body)
	}
	if resp, body := get(c, p.url+"/sign-in/finish?error=%3Cb%3Ecall+0800&error_description=call+0800"); resp.StatusCode < 400 || strings.Contains(body, "0800") {
		t.Errorf("%s\n%s", resp.Status, body)
	}
}
