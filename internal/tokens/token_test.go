package tokens_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json/v2"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/internal/tokens"
)

// An agent with a registered key gets a token for minutes and one audience.
func TestClientCredentials(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		p, k := w.register("bot")
		r := w.token(w.credentials(w.assertion("bot", p, nil), "/mcp/ledger"))
		if r.Status != 200 || r.Type != "Bearer" || r.Scope != "read write irreversible" || r.Refresh != "" || r.ExpiresIn < 5*60 || r.ExpiresIn > 15*60 {
			t.Fatalf("%+v", r)
		}
		c := w.accepts("the token", r.Access)
		if c.Agent.Name != "bot" || c.Owner.Name != "ada" || c.Credential.Kind != identity.KindAccess || len(c.OnBehalfOf) != 0 || !slices.Equal(c.Lineage, []string{k.ID}) {
			t.Errorf("%+v", c)
		}
		if !c.At("/mcp/ledger") || c.At("/mcp") || c.At("/mcp/ledger2") || c.At("/mcp/other") || c.At("/llm/ledger") {
			t.Error("the token is good elsewhere")
		}
		ev := w.events("token.issued", 1)[0]
		if ev.Agent != "bot" || ev.Owner != "ada" || ev.Credential != c.Credential.ID || ev.Actor.Kind != audit.KindAgent || !strings.Contains(string(ev.Detail), "client_credentials") {
			t.Errorf("%+v", ev)
		}
		w.nowhere(r.Access)
		w.clock.pass(10 * time.Minute)
		w.refuses("an expired token", r.Access, identity.ErrExpired)
	})
}

// What our issuer signs, anyone can verify with the keys and claims it publishes.
func TestTokenFollowsTheStandards(t *testing.T) {
	w := open(t, storagetest.Open(t, storagetest.SQLite(t)))
	p, _ := w.register("bot")
	token := w.get("bot", p, "read", "/mcp/ledger", "/llm/openai")
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256})
	must(t, err)
	var set jose.JSONWebKeySet
	w.read("/oauth2/jwks", &set)
	keys := set.Key(jws.Signatures[0].Header.KeyID)
	if len(keys) != 1 || jws.Signatures[0].Protected.ExtraHeaders["typ"] != "at+jwt" {
		t.Fatalf("%+v %+v", set, jws.Signatures[0].Protected)
	}
	b, err := jws.Verify(keys[0])
	must(t, err)
	var c struct {
		Iss, Sub, Scope, Jti string
		Client               string `json:"client_id"`
		Aud                  []string
		Iat, Exp             int64
	}
	must(t, json.Unmarshal(b, &c, json.MatchCaseInsensitiveNames(true)))
	if c.Iss != w.Issuer() || c.Sub != "agent:bot" || c.Client != "bot" || c.Scope != "read" || c.Jti == "" || c.Exp-c.Iat != 600 || !slices.Equal(c.Aud, []string{w.Issuer() + "/llm/openai", w.Issuer() + "/mcp/ledger"}) {
		t.Errorf("%+v", c)
	}
	var md map[string]any
	w.read("/.well-known/oauth-authorization-server", &md)
	for _, k := range []string{"issuer", "authorization_endpoint", "token_endpoint", "jwks_uri"} {
		if v, _ := md[k].(string); !strings.HasPrefix(v, w.Issuer()) {
			t.Errorf("%s: %v", k, md[k])
		}
	}
	if md["registration_endpoint"] != nil {
		t.Error("registration is told though it is off")
	}
	var oidc, prm map[string]any
	w.read("/.well-known/openid-configuration", &oidc)
	w.read("/.well-known/oauth-protected-resource/mcp/ledger", &prm)
	if oidc["issuer"] != w.Issuer() || prm["resource"] != w.Issuer()+"/mcp/ledger" || fmt.Sprint(prm["authorization_servers"]) != "["+w.Issuer()+"]" {
		t.Errorf("%v %v", oidc, prm)
	}
}

func (w *world) read(path string, v any) {
	w.t.Helper()
	resp, err := http.Get(w.door.URL + path)
	must(w.t, err)
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		w.t.Fatalf("%s: %s", path, resp.Status)
	}
	if set, ok := v.(*jose.JSONWebKeySet); ok {
		var raw struct{ Keys []jose.JSONWebKey }
		must(w.t, json.UnmarshalRead(resp.Body, &raw, json.MatchCaseInsensitiveNames(true)))
		set.Keys = raw.Keys
		return
	}
	must(w.t, json.UnmarshalRead(resp.Body, v))
}

// Every way to be somebody else that RFC 8725 and the issue name.
func TestForgedAssertions(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		p, _ := w.register("bot")
		helper, _ := w.register("helper")
		other := newPair(t, "bot-1") // the right id, another key
		pub := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: mustDER(t, &p.private.PublicKey)})
		now := w.clock.now()
		none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + base64.RawURLEncoding.EncodeToString(marshal(t, w.claims("bot", nil))) + "."
		embedded := signEmbedded(t, other, w.claims("bot", nil))
		for name, a := range map[string]string{
			"nothing":                   "",
			"garbage":                   "a.b.c",
			"alg none":                  none,
			"key confusion, PEM":        sign(t, jose.HS256, pub, map[string]string{"kid": "bot-1"}, w.claims("bot", nil)),
			"key confusion, JWK":        sign(t, jose.HS256, p.jwk(t), map[string]string{"kid": "bot-1"}, w.claims("bot", nil)),
			"another key":               w.assertion("bot", other, nil),
			"another agent's key":       w.assertion("bot", helper, nil),
			"a key of its own inside":   embedded,
			"another subject":           w.assertion("bot", p, m{"sub": "helper"}),
			"another issuer":            w.assertion("bot", p, m{"iss": "helper"}),
			"an agent that is not":      w.assertion("nobody", p, nil),
			"expired":                   w.assertion("bot", p, m{"exp": now.Add(-2 * time.Minute).Unix()}),
			"without an end":            w.assertion("bot", p, m{"exp": nil}),
			"valid for an hour":         w.assertion("bot", p, m{"exp": now.Add(time.Hour).Unix()}),
			"from the future":           w.assertion("bot", p, m{"iat": now.Add(2 * time.Minute).Unix()}),
			"not yet valid":             w.assertion("bot", p, m{"nbf": now.Add(2 * time.Minute).Unix()}),
			"another audience":          w.assertion("bot", p, m{"aud": "https://other.example"}),
			"our audience among others": w.assertion("bot", p, m{"aud": []string{w.Issuer(), "https://other.example"}}),
			"no audience":               w.assertion("bot", p, m{"aud": nil}),
			"no jti":                    w.assertion("bot", p, m{"jti": nil}),
			"an end that is a text":     w.assertion("bot", p, m{"exp": "soon"}),
			"a huge one":                w.assertion("bot", p, m{"x": strings.Repeat("x", 20000)}),
		} {
			w.fails(name, w.credentials(a, "/mcp/ledger"), 401, "invalid_client")
		}
		good := w.assertion("bot", p, nil)
		q := w.credentials(good, "/mcp/ledger")
		q.Set("client_id", "helper")
		w.fails("another client_id", q, 401, "invalid_client")
		q = w.credentials(good, "/mcp/ledger")
		q.Set("client_secret", "x")
		w.fails("a secret", q, 401, "invalid_client")
		w.accepts("the good one", w.token(w.credentials(good, "/mcp/ledger")).Access)
		w.fails("the same again", w.credentials(good, "/mcp/ledger"), 401, "invalid_client")
		w.accepts("clocks a minute apart", w.token(w.credentials(w.assertion("bot", p, m{"iat": now.Add(30 * time.Second).Unix(), "nbf": now.Add(30 * time.Second).Unix()}), "/mcp/ledger")).Access)
		if ev := w.events(audit.AuthRefused, 20)[0]; ev.Object != "oauth2/token" || ev.Agent != "" {
			t.Errorf("%+v", ev)
		}
		w.nowhere(good)
	})
}

func mustDER(t *testing.T, k any) []byte {
	t.Helper()
	b, err := x509.MarshalPKIXPublicKey(k)
	must(t, err)
	return b
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	must(t, err)
	return b
}

func signEmbedded(t *testing.T, p pair, claims any) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: p.private, KeyID: p.public.KeyID}}, &jose.SignerOptions{EmbedJWK: true})
	must(t, err)
	jws, err := s.Sign(marshal(t, claims))
	must(t, err)
	out, err := jws.CompactSerialize()
	must(t, err)
	return out
}

// Requests that ask for what cannot be had.
func TestMalformedRequests(t *testing.T) {
	w := open(t, storagetest.Open(t, storagetest.SQLite(t)))
	p, _ := w.register("bot")
	ask := func(change func(url.Values), doors ...string) url.Values {
		q := w.credentials(w.assertion("bot", p, nil), doors...)
		change(q)
		return q
	}
	w.fails("no grant", url.Values{}, 400, "unsupported_grant_type")
	w.fails("password grant", url.Values{"grant_type": {"password"}}, 400, "unsupported_grant_type")
	w.fails("no resource", ask(func(url.Values) {}), 400, "invalid_target")
	for _, r := range []string{"https://other.example/mcp/ledger", w.Issuer(), w.Issuer() + "/mcp/ledger?x", w.Issuer() + "/api/v1", w.Issuer() + "/mcp/../llm", w.Issuer() + ".evil.example/mcp", w.Issuer() + "/mcp/A", w.Issuer() + "/llm"} {
		w.fails("resource "+r, ask(func(q url.Values) { q.Set("resource", r) }), 400, "invalid_target")
	}
	w.fails("an unknown scope", ask(func(q url.Values) { q.Set("scope", "everything") }, "/mcp"), 400, "invalid_scope")
	w.fails("a scope of nothing", ask(func(q url.Values) { q.Set("scope", "tool:ledger/pay") }, "/mcp"), 400, "invalid_scope")
	w.fails("a parameter twice", ask(func(q url.Values) { q.Add("scope", "read"); q.Add("scope", "write") }, "/mcp"), 400, "invalid_request")
	w.fails("an unknown type", ask(func(q url.Values) { q.Set("requested_token_type", "urn:x") }, "/mcp"), 400, "invalid_request")
	resp, err := http.Post(w.door.URL+"/oauth2/token", "application/json", strings.NewReader(`{}`))
	must(t, err)
	resp.Body.Close()
	if resp.StatusCode != 400 {
		t.Errorf("JSON: %s", resp.Status)
	}
	resp, err = http.Post(w.door.URL+"/oauth2/token", "application/x-www-form-urlencoded", strings.NewReader("a="+strings.Repeat("x", 100<<10)))
	must(t, err)
	resp.Body.Close()
	if resp.StatusCode != 400 {
		t.Errorf("a huge form: %s", resp.Status)
	}
}

// Of many requests with one assertion, on two replicas, one succeeds.
func TestAnAssertionWorksOnce(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		p, _ := w.register("bot")
		two := join(t, w.db, w.log, w.clock)
		must(t, two.SetIssuer(w.Issuer()))
		a := tokens.ClientProof{Assertion: w.assertion("bot", p, nil)}
		var won atomic.Int64
		var wg sync.WaitGroup
		for i := range 8 {
			s := []*world{w, two}[i%2]
			wg.Go(func() {
				_, err := s.ClientCredentials(ctx, a, tokens.Ask{Resources: []string{w.Issuer() + "/mcp/ledger"}})
				if err == nil {
					won.Add(1)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Errorf("%d requests succeeded with one assertion", won.Load())
		}
	})
}

// Keys that must not be registered.
func TestClientKeysThatAreRefused(t *testing.T) {
	w := open(t, storagetest.Open(t, storagetest.SQLite(t)))
	private := newPair(t, "x")
	secret, _ := jose.JSONWebKey{Key: private.private, KeyID: "x"}.MarshalJSON()
	symmetric, _ := jose.JSONWebKey{Key: []byte("0123456789abcdef0123456789abcdef"), KeyID: "x"}.MarshalJSON()
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err == nil {
		raw, _ := jose.JSONWebKey{Key: &weak.PublicKey, KeyID: "x"}.MarshalJSON()
		refusedKey(t, w, "a weak key", tokens.ClientKeySpec{JWK: raw})
	}
	refusedKey(t, w, "a private key", tokens.ClientKeySpec{JWK: secret})
	refusedKey(t, w, "a symmetric key", tokens.ClientKeySpec{JWK: symmetric})
	refusedKey(t, w, "nothing", tokens.ClientKeySpec{})
	refusedKey(t, w, "both", tokens.ClientKeySpec{JWK: private.jwk(t), JWKSURL: "https://keys.example/jwks"})
	refusedKey(t, w, "an http URL", tokens.ClientKeySpec{JWKSURL: "http://keys.example/jwks"})
	refusedKey(t, w, "too long a life", tokens.ClientKeySpec{JWK: private.jwk(t), Life: 1000 * 24 * time.Hour})
	if _, err := w.AddClientKey(ctx, w.bob, "", "bot", tokens.ClientKeySpec{JWK: private.jwk(t)}); err == nil {
		t.Error("somebody who does not answer for the agent registered a key")
	}
	if _, err := w.AddClientKey(ctx, w.ada, "", "bot", tokens.ClientKeySpec{JWK: private.jwk(t)}); err != nil {
		t.Errorf("the owner: %v", err)
	}
	refusedKey(t, w, "the same again", tokens.ClientKeySpec{JWK: private.jwk(t)})
}

func refusedKey(t *testing.T, w *world, what string, spec tokens.ClientKeySpec) {
	t.Helper()
	if _, err := w.AddClientKey(ctx, w.root, "", "bot", spec); err == nil {
		t.Errorf("%s was registered", what)
	}
}

// A token dies with everything it comes from, on the replica that did not do it too.
func TestTokensDie(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		p, k := w.register("bot")
		two := join(t, w.db, w.log, w.clock)
		must(t, two.SetIssuer(w.Issuer()))
		dies := func(what string, want error, kill func(token string) error) {
			t.Helper()
			token := w.get("bot", p, "", "/mcp/ledger")
			two.accepts(what, token)
			must(t, kill(token))
			two.refuses(what, token, want)
			w.refuses(what, token, want)
		}
		ada := func(disabled bool) error {
			_, err := w.who.PutUser(ctx, audit.System, "x", identity.User{Name: "ada", Role: identity.Owner, Disabled: disabled})
			return err
		}
		dies("suspended", identity.ErrSuspended, func(string) error { _, err := w.who.Suspend(ctx, audit.System, "x", "bot"); return err })
		w.fails("a suspended agent's request", w.credentials(w.assertion("bot", p, nil), "/mcp/ledger"), 400, "invalid_grant")
		_, err := w.who.Resume(ctx, audit.System, "x", "bot")
		must(t, err)
		dies("its owner left", identity.ErrNoOwner, func(string) error { return ada(true) })
		must(t, ada(false))
		dies("given back", identity.ErrRevoked, func(token string) error { return w.Revoke(ctx, token, "") })
		dies("the signing key leaked", identity.ErrCredential, func(string) error { _, err := w.RotateKey(ctx, audit.System, "it leaked", true); return err })
		dies("its key was revoked", identity.ErrRevoked, func(string) error { return w.RevokeClientKey(ctx, w.ada, "x", "bot", k.ID) })
		w.fails("a revoked key", w.credentials(w.assertion("bot", p, nil), "/mcp/ledger"), 401, "invalid_client")
		p, _ = w.register("helper")
		token := w.get("helper", p, "", "/mcp/ledger")
		must(t, w.who.DeleteAgent(ctx, audit.System, "x", "helper"))
		_, err = w.who.PutAgent(ctx, audit.System, "x", identity.Agent{Name: "helper", Owner: "ada", Stage: identity.Staging})
		must(t, err)
		two.refuses("another agent of the same name", token, identity.ErrCredential)
	})
}

// Keys overlap: what the old one signed stays good, the new one is known before
// it signs, and what is gone is no longer believed.
func TestSigningKeysRotate(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		p, _ := w.register("bot")
		kid := func(token string) string {
			jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256})
			must(t, err)
			return jws.Signatures[0].Header.KeyID
		}
		old := w.get("bot", p, "", "/mcp/ledger")
		if _, err := w.RotateKey(ctx, audit.System, "", false); err == nil {
			t.Error("a rotation without a reason")
		}
		k, err := w.RotateKey(ctx, audit.System, "yearly", false)
		must(t, err)
		if n := len(w.JWKS().Keys); n != 2 {
			t.Errorf("%d keys are published", n)
		}
		if got := kid(w.get("bot", p, "", "/mcp/ledger")); got == k.ID || got != kid(old) {
			t.Error("the new key signs before caches can know it")
		}
		w.clock.pass(time.Hour)
		now := w.get("bot", p, "", "/mcp/ledger")
		if kid(now) != k.ID {
			t.Error("the new key does not sign")
		}
		w.clock.pass(9 * time.Minute)
		w.accepts("signed by the new key", now)
		last := w.clock.now()
		w.clock.pass(3 * time.Hour)
		if n := len(w.JWKS().Keys); n != 1 {
			t.Errorf("%d keys are published at the end (since %s)", n, last)
		}
		// A month later each replica sees that it is time, and one makes the key.
		w.clock.pass(31 * 24 * time.Hour)
		two := join(t, w.db, w.log, w.clock)
		var wg sync.WaitGroup
		for _, s := range []*world{w, two, w, two} {
			wg.Go(func() { _ = s.EnsureKey(ctx) }) // who loses the race says so
		}
		wg.Wait()
		keys, err := w.SigningKeys(ctx)
		must(t, err)
		if len(keys) != 2 || keys[1].Generation != 3 {
			t.Errorf("%+v", keys)
		}
		p2, _ := w.register("helper")
		w.accepts("while the next key waits", w.get("helper", p2, "", "/mcp/ledger"))
	})
}

// A key that does not sign can be retired, with all it signed, on every replica;
// the one that signs cannot, so that there is always one.
func TestSigningKeysRetire(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		p, _ := w.register("bot")
		two := join(t, w.db, w.log, w.clock)
		must(t, two.SetIssuer(w.Issuer()))
		state := func() (out []string) {
			keys, err := two.SigningKeys(ctx)
			must(t, err)
			for _, k := range keys {
				out = append(out, tokens.StatusOf(keys, k, w.clock.now()))
			}
			return out
		}
		old := w.get("bot", p, "", "/mcp/ledger")
		next, err := w.RotateKey(ctx, audit.System, "yearly", false)
		must(t, err)
		if got := state(); !slices.Equal(got, []string{tokens.KeySigning, tokens.KeyWaiting}) {
			t.Errorf("%v", got)
		}
		keys, err := w.SigningKeys(ctx)
		must(t, err)
		first := keys[0].ID
		for what, f := range map[string]func() error{
			"the key that signs": func() error { return w.RetireKey(ctx, audit.System, "x", first) },
			"a key that is not":  func() error { return w.RetireKey(ctx, audit.System, "x", "sgk_nothing") },
			"without a reason":   func() error { return w.RetireKey(ctx, audit.System, "", next.ID) },
		} {
			if f() == nil {
				t.Errorf("%s was retired", what)
			}
		}
		two.accepts("refused retirements change nothing", old)
		// One that waits goes; the next is made by itself, and there is always one.
		must(t, w.RetireKey(ctx, audit.System, "it was seen", next.ID))
		if w.RetireKey(ctx, audit.System, "again", next.ID) == nil {
			t.Error("a key was retired twice")
		}
		must(t, w.EnsureKey(ctx))
		if got := state(); !slices.Equal(got, []string{tokens.KeySigning, tokens.KeyGone, tokens.KeyWaiting}) {
			t.Errorf("%v", got)
		}
		for range 3 * 60 {
			w.clock.pass(time.Minute)
			two.poll()
			w.get("bot", p, "", "/mcp/ledger")
		}
		// One that was replaced goes before its time.
		w.get("bot", p, "", "/mcp/ledger")
		_, err = w.RotateKey(ctx, audit.System, "yearly", false)
		must(t, err)
		w.clock.pass(time.Hour - 9*time.Minute)
		last := w.get("bot", p, "", "/mcp/ledger")
		w.clock.pass(9 * time.Minute)
		two.accepts("signed by the one before", last)
		fresh := w.get("bot", p, "", "/mcp/ledger")
		keys, err = w.SigningKeys(ctx)
		must(t, err)
		must(t, w.RetireKey(ctx, audit.System, "it leaked", keys[len(keys)-2].ID))
		two.refuses("signed by a key that was retired", last, identity.ErrCredential)
		two.accepts("signed by its successor", fresh)
		if ev := w.events("token.key_retired", 2)[1]; ev.Reason != "it leaked" || ev.Object != "token-key/"+keys[len(keys)-2].ID || !strings.Contains(string(ev.Detail), tokens.KeyPublished) {
			t.Errorf("%+v", ev)
		}
	})
}

// Another server's tokens are none of ours, even under the same master key.
func TestAnotherIssuersTokens(t *testing.T) {
	w := open(t, storagetest.Open(t, storagetest.SQLite(t)))
	p, _ := w.register("bot")
	token := w.get("bot", p, "", "/mcp/ledger")
	w.accepts("here", token)
	must(t, w.SetIssuer("https://other.example"))
	w.refuses("a token of another issuer", token, identity.ErrCredential)
	other := open(t, storagetest.Open(t, storagetest.SQLite(t)))
	other.refuses("at another server", token, identity.ErrCredential)
	out, _, err := w.Assertion("connection:openai", "https://api.openai.example", time.Minute)
	must(t, err)
	w.refuses("what we say to others", out, identity.ErrCredential)
}

// An access token with anything about it changed is refused.
func TestForgedAccessTokens(t *testing.T) {
	w := open(t, storagetest.Open(t, storagetest.SQLite(t)))
	p, _ := w.register("bot")
	token := w.get("bot", p, "", "/mcp/ledger")
	parts := strings.Split(token, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	must(t, err)
	var claims m
	must(t, json.Unmarshal(payload, &claims))
	var set jose.JSONWebKeySet
	w.read("/oauth2/jwks", &set)
	kid := set.Keys[0].KeyID
	header := map[string]string{"kid": kid, "typ": "at+jwt"}
	pub, err := set.Keys[0].MarshalJSON()
	must(t, err)
	claims["aud"] = []string{w.Issuer() + "/mcp"}
	other := newPair(t, kid)
	for name, forged := range map[string]string{
		"another key":            sign(t, jose.ES256, other.private, header, claims),
		"the public key as HMAC": sign(t, jose.HS256, pub, header, claims),
		"no signature":           parts[0] + "." + parts[1] + ".",
		"another payload":        parts[0] + "." + base64.RawURLEncoding.EncodeToString(marshal(t, claims)) + "." + parts[2],
		"alg none":               base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"`+kid+`","typ":"at+jwt"}`)) + "." + parts[1] + ".",
		"alg none behind ours":   base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","alg":"none"}`)) + "." + parts[1] + ".",
		"the agent's own key":    sign(t, jose.ES256, p.private, header, claims),
		"its signature's twin":   parts[0] + "." + parts[1] + "." + twin(t, parts[2]),
		"a byte behind":          token + "A",
		"padding":                token + "=",
		"a part behind":          token + ".x",
		"another kid":            base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","kid":"sgk_other","typ":"at+jwt"}`)) + "." + parts[1] + "." + parts[2],
		"the key without an id":  base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","typ":"at+jwt"}`)) + "." + parts[1] + "." + parts[2],
	} {
		w.refuses(name, forged, identity.ErrCredential)
	}
	w.accepts("the real one", token)
}

// twin returns the other signature that verifies when one does: (r, n-s).
func twin(t *testing.T, signature string) string {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(signature)
	must(t, err)
	s := new(big.Int).SetBytes(b[32:])
	s.Sub(elliptic.P256().Params().N, s).FillBytes(b[32:])
	return base64.RawURLEncoding.EncodeToString(b)
}

// What one replica issues every library verifies: the signatures that we make
// ourselves are those of the standard.
func TestSignaturesAreTheStandards(t *testing.T) {
	w := open(t, storagetest.Open(t, storagetest.SQLite(t)))
	p, _ := w.register("bot")
	var set jose.JSONWebKeySet
	w.read("/oauth2/jwks", &set)
	for range 50 {
		token := w.get("bot", p, "", "/mcp/ledger")
		jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256})
		must(t, err)
		_, err = jws.Verify(set.Keys[0])
		must(t, err)
	}
}

// BenchmarkVerify: an access token is checked in memory (the target is 100 us);
// first is the check of one that was not seen before.
func BenchmarkVerify(b *testing.B) {
	w := open(b, storagetest.Open(b, storagetest.SQLite(b)))
	p, _ := w.register("bot")
	must(b, w.watch.Start(ctx))
	b.Cleanup(w.watch.Stop)
	token := w.get("bot", p, "", "/mcp/ledger")
	b.Run("again", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := w.who.Authenticate(ctx, token); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("first", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			w.Service.Forget()
			if _, err := w.who.Authenticate(ctx, token); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("ratio", func(b *testing.B) { compareFirst(b, w, p, token) })
	b.Run("issue", func(b *testing.B) {
		for b.Loop() {
			if _, err := w.ClientCredentials(ctx, tokens.ClientProof{Assertion: w.assertion("bot", p, nil)}, tokens.Ask{Resources: []string{w.Issuer() + "/mcp/ledger"}}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// compareFirst measures, in turns and by their medians, the check of a token at
// first sight and what verifying its signature alone would cost who has only
// the public key: on a busy machine the ratio means something.
func compareFirst(b *testing.B, w *world, p pair, token string) {
	sum := sha256.Sum256([]byte(token))
	sig, err := ecdsa.SignASN1(rand.Reader, p.private, sum[:])
	must(b, err)
	var first, verify []time.Duration
	took := func(list *[]time.Duration, fn func()) {
		began := time.Now()
		fn()
		*list = append(*list, time.Since(began))
	}
	for b.Loop() {
		w.Service.Forget()
		took(&first, func() { _, err = w.who.Authenticate(ctx, token) })
		must(b, err)
		took(&verify, func() { ecdsa.VerifyASN1(&p.private.PublicKey, sum[:], sig) })
	}
	median := func(list []time.Duration) float64 {
		slices.Sort(list)
		return float64(list[len(list)/2].Nanoseconds()) / 1000
	}
	b.ReportMetric(median(first), "first-us")
	b.ReportMetric(median(verify), "verify-us")
	b.ReportMetric(median(first)/median(verify), "first/verify")
}
