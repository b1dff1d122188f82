package server_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json/v2"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/countersign/countersign/internal/secrets/leaktest"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// mintLife is how long what the exchange mints is good.
const mintLife = 4 * time.Second

// mintHouse is a provider that mints tokens for proofs, and its API, which
// takes tokens that it minted and whose time is not over, and nothing else.
type mintHouse struct {
	*httptest.Server
	proof func(r *http.Request) error // what it must be shown for a token

	mu    sync.Mutex
	ends  map[string]time.Time
	shown []string // what its API was called with
	bad   []string // what went wrong
}

func newMintHouse(t *testing.T) *mintHouse {
	h := &mintHouse{ends: map[string]time.Time{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		if token, _, ok := h.mint(w, r); ok {
			fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","issued_token_type":"urn:ietf:params:oauth:token-type:access_token","expires_in":%d}`, token, mintLife/time.Second)
		}
	})
	mux.HandleFunc("POST /app/installations/678/access_tokens", func(w http.ResponseWriter, r *http.Request) {
		if token, ends, ok := h.mint(w, r); ok {
			w.WriteHeader(http.StatusCreated)
			fmt.Fprintf(w, `{"token":%q,"expires_at":%q}`, token, ends.UTC().Format(time.RFC3339Nano))
		}
	})
	mux.HandleFunc("POST /v1/chat/completions", h.api)
	h.Server = httptest.NewServer(mux)
	t.Cleanup(h.Close)
	return h
}

func (h *mintHouse) mint(w http.ResponseWriter, r *http.Request) (token string, ends time.Time, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if err := h.proof(r); err != nil {
		h.bad = append(h.bad, err.Error())
		http.Error(w, `{"error":"invalid_grant"}`, http.StatusBadRequest)
		return "", ends, false
	}
	token, ends = "minted-"+rand.Text(), time.Now().Add(mintLife)
	h.ends[token] = ends
	return token, ends, true
}

func (h *mintHouse) api(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	with := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	h.shown = append(h.shown, with)
	if ends, ok := h.ends[with]; !ok || time.Now().After(ends) {
		h.bad = append(h.bad, fmt.Sprintf("called with %q, minted %v, ended %s ago", with, ok, time.Since(ends)))
		http.Error(w, `{"error":{"message":"bad token"}}`, http.StatusUnauthorized)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprint(w, `{"id":"c","object":"chat.completion","model":"m","choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"hello"}}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`)
}

// minted returns the tokens that there were, in the order of their use, and
// everything that went wrong.
func (h *mintHouse) minted() (used, bad []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Compact(slices.Clone(h.shown)), slices.Clone(h.bad)
}

// ourKeys returns the keys that the server publishes, found as a provider finds
// them.
func (p *process) ourKeys(t *testing.T) (issuer string, keys jose.JSONWebKeySet) {
	t.Helper()
	get := func(at string) []byte {
		status, body := p.as(t, "", "GET", strings.TrimPrefix(at, p.url), "")
		if status != http.StatusOK {
			t.Fatalf("%s: %d %s", at, status, body)
		}
		return []byte(body)
	}
	var d struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(get("/.well-known/openid-configuration"), &d); err != nil {
		t.Fatal(err)
	}
	var set struct {
		Keys []map[string]any `json:"keys"`
	}
	if err := json.Unmarshal(get(d.Keys), &set); err != nil {
		t.Fatal(err)
	}
	for _, raw := range set.Keys {
		b, _ := json.Marshal(raw)
		var k jose.JSONWebKey
		if err := k.UnmarshalJSON(b); err != nil {
			t.Fatal(err)
		}
		keys.Keys = append(keys.Keys, k)
	}
	return d.Issuer, keys
}

// claimsOf verifies a JWT with one of keys.
func claimsOf(token string, keys jose.JSONWebKeySet) (claims map[string]any, err error) {
	j, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256, jose.RS256})
	if err != nil {
		return nil, err
	}
	for _, k := range keys.Keys {
		if b, err := j.Verify(k); err == nil {
			return claims, json.Unmarshal(b, &claims)
		}
	}
	return nil, fmt.Errorf("none of %d keys made the signature", len(keys.Keys))
}

// Where a provider mints credentials, its API gets those: never what is stored,
// the same one until it ends, and none after its end.
func TestCredentialsAreMinted(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	app, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	appKey := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(app)}))
	const clientSecret = "the-oauth-client-secret-81hGq"
	dsn := storagetest.SQLite(t)
	p := start(t, t.TempDir(), dsn, "")
	key := p.company(t)
	issuer, keys := p.ourKeys(t)
	known := leaktest.Secrets{"the client's secret": clientSecret, "the app's key": strings.Split(appKey, "\n")[3]}
	for _, c := range []struct {
		kind, value string
		settings    map[string]string
		proof       func(r *http.Request) error
	}{
		{"federated", "", map[string]string{"provider": "rfc8693", "audience": "them", "url": "/token"}, func(r *http.Request) error {
			got, err := claimsOf(r.FormValue("subject_token"), keys)
			if err != nil || got["iss"] != issuer || got["aud"] != "them" || got["sub"] != "connection/federated" {
				return fmt.Errorf("not a token of our issuer's: %v %v", got, err)
			}
			return nil
		}},
		{"oauth", clientSecret, map[string]string{"token_url": "/token", "client_id": "us"}, func(r *http.Request) error {
			if id, secret, _ := r.BasicAuth(); id != "us" || secret != clientSecret || r.FormValue("grant_type") != "client_credentials" {
				return fmt.Errorf("not the client: %s", id)
			}
			return nil
		}},
		{"github-app", appKey, map[string]string{"url": "", "app_id": "12345", "installation_id": "678"}, func(r *http.Request) error {
			got, err := claimsOf(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &app.PublicKey}}})
			if err != nil || got["iss"] != "12345" {
				return fmt.Errorf("not the app: %v %v", got, err)
			}
			return nil
		}},
	} {
		t.Run(c.kind, func(t *testing.T) {
			h := newMintHouse(t)
			h.proof = c.proof
			for _, name := range []string{"url", "token_url"} {
				if path, ok := c.settings[name]; ok {
					c.settings[name] = h.URL + path
				}
			}
			c.settings["allow_private"] = "true"
			secret := map[string]any{"owner": "olga", "connection": c.kind, "hosts": []string{"127.0.0.1"}, "kind": c.kind, "settings": c.settings}
			if c.value != "" {
				secret["value"] = c.value
			}
			p.api(t, "PUT", "/connections/"+c.kind, map[string]any{"kind": "llm", "dialect": "openai", "url": h.URL, "owner": "olga", "allow_private": true, "secret": c.kind + "-key", "auth": "bearer"}, nil)
			p.api(t, "PUT", "/secrets/"+c.kind+"-key", secret, nil)
			p.grant(t, c.kind)
			began := time.Now()
			eventually(t, "the third token is used", func() bool {
				status, body := p.as(t, key, "POST", "/llm/"+c.kind+"/v1/chat/completions", `{"model":"m","messages":[{"role":"user","content":"hello"}]}`)
				if status != http.StatusOK {
					t.Fatalf("%d %s\n%s", status, body, p.stderr)
				}
				used, _ := h.minted()
				return len(used) >= 3
			})
			used, bad := h.minted()
			if len(bad) > 0 {
				t.Error(bad)
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			if n := len(h.shown); n < 6 || len(h.ends) != len(used) {
				t.Errorf("%d tokens were minted for %d calls, %d used", len(h.ends), n, len(used))
			}
			if least := mintLife; time.Since(began) < least {
				t.Errorf("two tokens were used up within %s; each is good for %s", time.Since(began), mintLife)
			}
			for token := range h.ends {
				known["a "+c.kind+" token"] = token
			}
		})
	}
	p.stop(t)
	for name, secret := range known {
		if strings.Contains(p.stderr.String(), secret) {
			t.Errorf("%s is in the server's output", name)
		}
	}
	leaktest.Bytes(t, known, "the database", dump(t, dsn))
}
