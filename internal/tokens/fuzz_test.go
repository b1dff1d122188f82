package tokens_test

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/internal/tokens"
	"github.com/countersign/countersign/internal/tokens/oauth"
)

// FuzzTokenRequest: no form has a token who proved nothing, and every answer is
// one of the protocol's.
func FuzzTokenRequest(f *testing.F) {
	w := open(f, storagetest.Open(f, storagetest.SQLite(f)))
	w.register("bot")
	mux := http.NewServeMux()
	oauth.New(oauth.Options{Tokens: w.Service, People: w.who, Key: derive("forms")}).Routes(mux)
	for _, path := range []string{"/oauth2/token", "/oauth2/device_authorization", "/oauth2/revoke", "/oauth2/register"} {
		f.Add(path, "grant_type=client_credentials&client_assertion_type="+url.QueryEscape(tokens.AssertionType)+"&client_assertion=a.b.c&resource=x")
		f.Add(path, "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token=csu_x&subject_token_type="+tokens.TypeID+"&client_id=bot")
		f.Add(path, "a=1&a=2&%zz")
	}
	f.Fuzz(func(t *testing.T, path, body string) {
		if !strings.HasPrefix(path, "/oauth2/") || strings.ContainsAny(path, " \t\r\n?#%\\\x00\x7f") || len(path) > 50 {
			return
		}
		req, err := http.NewRequest("POST", "http://h"+path, strings.NewReader(body))
		if err != nil {
			return
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		out := httptest.NewRecorder()
		mux.ServeHTTP(out, req)
		if strings.Contains(out.Body.String(), "access_token\"") || out.Code >= 500 {
			t.Errorf("%s %q: %d %s", path, body, out.Code, out.Body)
		}
	})
}

// FuzzMetadata: a client that is let in has redirect URIs to which a code may be
// sent, and a name that is text.
func FuzzMetadata(f *testing.F) {
	const id = "https://ide.example/client.json"
	f.Add([]byte(`{"client_id":"` + id + `","client_name":"IDE","redirect_uris":["http://127.0.0.1:1/cb","https://a.example/cb","app.x:/cb"],"token_endpoint_auth_method":"none"}`))
	f.Add([]byte(`{"client_id":"` + id + `","redirect_uris":["javascript:alert(1)"]}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		c, err := tokens.ReadMetadata(id, doc)
		if err != nil {
			return
		}
		if c.ClientID != id || len(c.Redirects) == 0 || c.Name == "" || len(c.Name) > 100 || strings.ContainsAny(c.Name, "\n\r\x00") {
			t.Errorf("%+v", c)
		}
		for _, r := range c.Redirects {
			u, err := url.Parse(r)
			if err != nil || u.Fragment != "" || u.User != nil || u.Scheme == "javascript" || u.Scheme == "data" || u.Scheme == "file" || (u.Scheme == "https" && u.Host == "") ||
				(u.Scheme == "http" && u.Hostname() != "localhost" && !strings.HasPrefix(u.Hostname(), "127.") && u.Hostname() != "::1" && !strings.HasPrefix(u.Hostname(), "::ffff:")) {
				t.Errorf("%q", r)
			}
		}
	})
}

// FuzzKeySet: every key that is read of a JWKS can verify and cannot sign.
func FuzzKeySet(f *testing.F) {
	p := newPair(f, "k")
	f.Add([]byte(`{"keys":[` + string(p.jwk(f)) + `]}`))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AAAA"},{"kty":"RSA","n":"AQ","e":"AQAB"}]}`))
	f.Fuzz(func(t *testing.T, set []byte) {
		keys, err := tokens.ParseSet(set)
		if err != nil {
			return
		}
		for _, k := range keys {
			if !k.IsPublic() || !k.Valid() {
				t.Errorf("%+v", k)
			}
			switch pub := k.Key.(type) {
			case *rsa.PublicKey:
				if pub.N.BitLen() < 2048 {
					t.Error("a weak key")
				}
			case *ecdsa.PublicKey:
				if _, err := pub.ECDH(); err != nil && pub.Curve.Params().BitSize >= 256 {
					t.Errorf("no point: %v", err)
				}
			}
		}
	})
}

// FuzzRule: a rule that is stored lets in no subject but the one it names, or
// those its wildcard does.
func FuzzRule(f *testing.F) {
	f.Add("https://issuer.example", "repo:acme/shop:*", "because", "repo:acme/shop:x")
	f.Add("spiffe://acme.example", "spiffe://acme.example/a", "", "spiffe://acme.example/b")
	f.Add("https://issuer.example", "a*b*c", "why", "abc")
	f.Fuzz(func(t *testing.T, issuer, subject, wildcard, shown string) {
		r, err := tokens.Rule{Name: "x", Agent: "bot", Issuer: issuer, Subject: subject, Wildcard: wildcard, Audience: "us", JWKSURL: "https://k.example"}.Normalize()
		if err != nil {
			return
		}
		if strings.Contains(issuer, "*") || (strings.Contains(subject, "*") && strings.TrimSpace(wildcard) == "") {
			t.Errorf("stored: %+v", r)
		}
		lets := tokens.LetsIn(r, shown)
		if wildcard == "" && lets != (shown == subject) {
			t.Errorf("%q lets %q in: %v", subject, shown, lets)
		}
		first, _, _ := strings.Cut(subject, "*")
		if wildcard != "" && lets && !strings.HasPrefix(shown, first) {
			t.Errorf("%q lets %q in", subject, shown)
		}
	})
}
