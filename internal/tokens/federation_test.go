package tokens_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json/v2"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/internal/tokens"
)

// issuer is an OpenID issuer over TLS with keys of its own, as GitHub Actions
// and Kubernetes clusters are.
type issuer struct {
	*httptest.Server
	t       testing.TB
	mu      sync.Mutex
	keys    map[string]*rsa.PrivateKey
	claims  string // what it says its issuer is, if not its URL
	broken  atomic.Bool
	fetches atomic.Int64 // of its keys
}

func newIssuer(t testing.TB) *issuer {
	i := &issuer{t: t, keys: map[string]*rsa.PrivateKey{}}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		iss := i.URL
		if i.claims != "" {
			iss = i.claims
		}
		_ = json.MarshalWrite(w, m{"issuer": iss, "jwks_uri": i.URL + "/keys", "id_token_signing_alg_values_supported": []string{"RS256"}})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		i.fetches.Add(1)
		if i.broken.Load() {
			http.Error(w, "down", http.StatusBadGateway)
			return
		}
		w.Write(i.jwks())
	})
	i.Server = httptest.NewTLSServer(mux)
	t.Cleanup(i.Close)
	i.add("one")
	return i
}

func (i *issuer) add(kid string) {
	i.t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	must(i.t, err)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys[kid] = k
}

func (i *issuer) jwks() []byte {
	i.mu.Lock()
	defer i.mu.Unlock()
	var keys []string
	for kid, k := range i.keys {
		b, _ := jose.JSONWebKey{Key: &k.PublicKey, KeyID: kid, Algorithm: "RS256", Use: "sig"}.MarshalJSON()
		keys = append(keys, string(b))
	}
	return []byte(`{"keys":[` + strings.Join(keys, ",") + `]}`)
}

func (i *issuer) ca() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.Certificate().Raw}))
}

func (i *issuer) sign(kid string, claims m) string {
	i.mu.Lock()
	k := i.keys[kid]
	i.mu.Unlock()
	return sign(i.t, jose.RS256, k, map[string]string{"kid": kid, "typ": "JWT"}, claims)
}

// github are the claims of a GitHub Actions job, changed by over.
func (w *world) github(i *issuer, over m) m {
	now := w.clock.now()
	c := m{"iss": i.URL, "aud": w.Issuer(), "sub": "repo:acme/shop:ref:refs/heads/main", "iat": now.Unix(), "nbf": now.Add(-5 * time.Second).Unix(), "exp": now.Add(5 * time.Minute).Unix(), "jti": rand.Text(),
		"repository": "acme/shop", "repository_id": "42", "ref": "refs/heads/main", "workflow": "release", "run_attempt": "1", "repository_visibility": "private"}
	for k, v := range over {
		if c[k] = v; v == nil {
			delete(c, k)
		}
	}
	return c
}

func (w *world) rule(i *issuer, over func(*tokens.Rule)) tokens.Rule {
	w.t.Helper()
	r := tokens.Rule{Name: "ci", Agent: "bot", Issuer: i.URL, Subject: "repo:acme/shop:ref:refs/heads/main", CA: i.ca(), Private: true}
	if over != nil {
		over(&r)
	}
	_, err := w.PutRule(ctx, audit.System, "test", r)
	must(w.t, err)
	return r
}

func (w *world) bearer(assertion, agent string, doors ...string) url.Values {
	q := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {assertion}}
	if agent != "" {
		q.Set("client_id", agent)
	}
	for _, d := range doors {
		q.Add("resource", w.Issuer()+d)
	}
	return q
}

// A CI job and a pod get tokens for what their platforms say of them.
func TestFederation(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		i := newIssuer(t)
		w.rule(i, func(r *tokens.Rule) { r.Claims = map[string]string{"repository_id": "42"} })
		r := w.token(w.bearer(i.sign("one", w.github(i, nil)), "bot", "/mcp/ledger"))
		c := w.accepts("a CI job", r.Access)
		if c.Agent.Name != "bot" || !c.At("/mcp/ledger") {
			t.Errorf("%+v", c)
		}
		ev := w.events("token.issued", 1)[0]
		for _, want := range []string{`"rule":"ci"`, "repo:acme/shop", i.URL} {
			if !strings.Contains(string(ev.Detail), want) {
				t.Errorf("the event lacks %s: %s", want, ev.Detail)
			}
		}
		// Kubernetes: aud is a list, what it says of the pod is nested.
		k := newIssuer(t)
		w.rule(k, func(r *tokens.Rule) {
			r.Name, r.Agent, r.Subject, r.Audience = "pods", "helper", "system:serviceaccount:support:assistant", "countersign"
		})
		now := w.clock.now()
		pod := k.sign("one", m{"iss": k.URL, "aud": []string{"countersign"}, "sub": "system:serviceaccount:support:assistant", "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
			"kubernetes.io": m{"namespace": "support", "pod": m{"name": "assistant-0", "uid": "u"}, "serviceaccount": m{"name": "assistant", "uid": "u"}}})
		q := w.bearer(pod, "")
		q.Set("requested_token_type", tokens.WantRun)
		r = w.token(q)
		c = w.accepts("a pod's run", r.Access)
		if c.Agent.Name != "helper" || c.Run != r.Run || c.Run == "" || r.IssuedType != tokens.WantRun || c.Doors != nil {
			t.Errorf("%+v %+v", c, r)
		}
		must(t, w.DeleteRule(ctx, audit.System, "moved", "pods"))
		w.refuses("a run whose rule is gone", r.Access, identity.ErrRevoked)
		access := w.token(w.bearer(i.sign("one", w.github(i, nil)), "", "/mcp/ledger")).Access
		w.accepts("before the rule changes", access)
		w.rule(i, func(r *tokens.Rule) { r.Subject = "repo:acme/shop:environment:production" })
		w.refuses("a token by the old rule", access, identity.ErrRevoked)
	})
}

// Whoever is almost the right one is not.
func TestFederationRefuses(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		i, other := newIssuer(t), newIssuer(t)
		w.rule(i, func(r *tokens.Rule) { r.Claims = map[string]string{"repository_id": "42"} })
		now := w.clock.now()
		i.mu.Lock()
		der := mustDER(t, &i.keys["one"].PublicKey)
		jwk, err := jose.JSONWebKey{Key: &i.keys["one"].PublicKey, KeyID: "one"}.MarshalJSON()
		i.mu.Unlock()
		must(t, err)
		p, _ := w.register("bot")
		good := w.github(i, nil)
		for name, token := range map[string]string{
			"nothing":                    "",
			"no issuer that we know":     other.sign("one", w.github(other, nil)),
			"another issuer's key":       other.sign("one", good),
			"alg none":                   base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"one"}`)) + "." + base64.RawURLEncoding.EncodeToString(marshal(t, good)) + ".",
			"key confusion, DER":         sign(t, jose.HS256, der, map[string]string{"kid": "one"}, good),
			"key confusion, PEM":         sign(t, jose.HS256, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), map[string]string{"kid": "one"}, good),
			"key confusion, JWK":         sign(t, jose.HS256, jwk, map[string]string{"kid": "one"}, good),
			"an elliptic key of its own": sign(t, jose.ES256, p.private, map[string]string{"kid": "one"}, good),
			"another audience":           i.sign("one", w.github(i, m{"aud": "https://other.example"})),
			"no audience":                i.sign("one", w.github(i, m{"aud": nil})),
			"expired":                    i.sign("one", w.github(i, m{"exp": now.Add(-2 * time.Minute).Unix()})),
			"no end":                     i.sign("one", w.github(i, m{"exp": nil})),
			"valid for a week":           i.sign("one", w.github(i, m{"exp": now.Add(7 * 24 * time.Hour).Unix()})),
			"from the future":            i.sign("one", w.github(i, m{"iat": now.Add(2 * time.Minute).Unix()})),
			"not yet":                    i.sign("one", w.github(i, m{"nbf": now.Add(2 * time.Minute).Unix()})),
			"a longer subject":           i.sign("one", w.github(i, m{"sub": "repo:acme/shop:ref:refs/heads/main2"})),
			"a shorter subject":          i.sign("one", w.github(i, m{"sub": "repo:acme/shop:ref:refs/heads/mai"})),
			"another case":               i.sign("one", w.github(i, m{"sub": "repo:Acme/shop:ref:refs/heads/main"})),
			"a space behind":             i.sign("one", w.github(i, m{"sub": "repo:acme/shop:ref:refs/heads/main "})),
			"letters that look alike":    i.sign("one", w.github(i, m{"sub": "repo:\u0430cme/shop:ref:refs/heads/main"})),
			"a pull request":             i.sign("one", w.github(i, m{"sub": "repo:acme/shop:pull_request"})),
			"another owner's fork":       i.sign("one", w.github(i, m{"sub": "repo:evil/shop:ref:refs/heads/main"})),
			"no subject":                 i.sign("one", w.github(i, m{"sub": nil})),
			"a subject that is a list":   i.sign("one", w.github(i, m{"sub": []string{"repo:acme/shop:ref:refs/heads/main"}})),
			"another value of a claim":   i.sign("one", w.github(i, m{"repository_id": "43"})),
			"a claim that is missing":    i.sign("one", w.github(i, m{"repository_id": nil})),
			"a claim that is a list":     i.sign("one", w.github(i, m{"repository_id": []string{"42"}})),
			"an issuer with a slash":     i.sign("one", w.github(i, m{"iss": i.URL + "/"})),
			"our own access token":       w.get("bot", p, "", "/mcp/ledger"),
		} {
			w.fails(name, w.bearer(token, "bot", "/mcp/ledger"), 400, "invalid_grant")
		}
		w.fails("another agent", w.bearer(i.sign("one", good), "helper", "/mcp/ledger"), 400, "invalid_grant")
		if n := other.fetches.Load(); n != 0 {
			t.Errorf("an issuer that no rule names was asked %d times", n)
		}
		w.accepts("the right one", w.token(w.bearer(i.sign("one", good), "bot", "/mcp/ledger")).Access)
		w.accepts("a clock half a minute ahead", w.token(w.bearer(i.sign("one", w.github(i, m{"iat": now.Add(30 * time.Second).Unix(), "nbf": now.Add(30 * time.Second).Unix()})), "bot", "/mcp/ledger")).Access)
		// The client learns that it was refused, the log why.
		r := w.fails("what is told", w.bearer(i.sign("one", w.github(i, m{"sub": "repo:evil/shop"})), "bot", "/mcp/ledger"), 400, "invalid_grant")
		if strings.Contains(r.Description, "subject") || strings.Contains(r.Description, "acme") {
			t.Errorf("the refusal tells the rule: %s", r.Description)
		}
		why := false
		for _, ev := range w.events(audit.AuthRefused, 3) {
			why = why || strings.Contains(string(ev.Detail), "audience") || strings.Contains(string(ev.Detail), "subject") || strings.Contains(string(ev.Detail), "issuer")
		}
		if !why {
			t.Error("no event says why")
		}
	})
}

// A flood of unknown key ids is no flood at the issuer; a new key is found all
// the same, and an issuer that is down does not stop those that are known.
func TestUnknownKeysAreFetchedOnce(t *testing.T) {
	w := open(t, storagetest.Open(t, storagetest.SQLite(t)))
	must(t, w.watch.Start(ctx))
	t.Cleanup(w.watch.Stop)
	i := newIssuer(t)
	w.rule(i, nil)
	ask := func(token string) error {
		_, err := w.Federate(ctx, token, "bot", tokens.Ask{Resources: []string{w.Issuer() + "/mcp/ledger"}})
		return err
	}
	must(t, ask(i.sign("one", w.github(i, nil))))
	w.clock.pass(31 * time.Second)
	w.poll()
	before := i.fetches.Load()
	forged := newIssuer(t)
	var wg sync.WaitGroup
	for n := range 200 {
		kid := fmt.Sprintf("unknown-%d", n)
		token := sign(t, jose.RS256, forged.keys["one"], map[string]string{"kid": kid}, w.github(i, nil))
		wg.Go(func() {
			if ask(token) == nil {
				t.Error("a forged token was accepted")
			}
		})
	}
	wg.Wait()
	if n := i.fetches.Load() - before; n != 1 {
		t.Errorf("200 unknown ids made %d requests to the issuer", n)
	}
	must(t, ask(i.sign("one", w.github(i, nil)))) // the flood is nobody else's trouble
	i.add("two")
	w.clock.pass(31 * time.Second)
	must(t, ask(i.sign("two", w.github(i, nil))))
	i.broken.Store(true)
	w.clock.pass(30 * time.Minute)
	must(t, ask(i.sign("one", w.github(i, nil))))
	w.clock.pass(time.Hour)
	if ask(i.sign("one", w.github(i, nil))) == nil {
		t.Error("keys that could not be had for more than an hour are still believed")
	}
	i.broken.Store(false)
	i.mu.Lock()
	delete(i.keys, "one")
	i.mu.Unlock()
	w.clock.pass(31 * time.Second)
	if ask(i.sign2("one", w.github(i, nil), forged.keys["one"])) == nil {
		t.Error("a withdrawn key is still believed")
	}
	must(t, ask(i.sign("two", w.github(i, nil))))
}

func (i *issuer) sign2(kid string, claims m, key *rsa.PrivateKey) string {
	return sign(i.t, jose.RS256, key, map[string]string{"kid": kid, "typ": "JWT"}, claims)
}

// What an issuer must be to be asked.
func TestIssuersThatAreRefused(t *testing.T) {
	w := open(t, storagetest.Open(t, storagetest.SQLite(t)))
	refused := func(what string, i *issuer, over func(*tokens.Rule)) {
		t.Helper()
		w.rule(i, over)
		r := w.token(w.bearer(i.sign("one", w.github(i, nil)), "bot", "/mcp/ledger"))
		if r.Access != "" || (r.Error != "temporarily_unavailable" && r.Error != "invalid_grant") {
			t.Errorf("%s: %+v", what, r)
		}
		if n := i.fetches.Load(); n != 0 {
			t.Errorf("%s: its keys were fetched", what)
		}
		must(t, w.DeleteRule(ctx, audit.System, "x", "ci"))
	}
	refused("a private address", newIssuer(t), func(r *tokens.Rule) { r.Private = false })
	refused("an unknown authority", newIssuer(t), func(r *tokens.Rule) { r.CA = "" })
	liar := newIssuer(t)
	liar.claims = "https://token.actions.githubusercontent.com"
	refused("one that says it is another", liar, nil)
	for what, over := range map[string]func(*tokens.Rule){
		"http":                        func(r *tokens.Rule) { r.Issuer = "http://issuer.example" },
		"a wildcard in the issuer":    func(r *tokens.Rule) { r.Issuer = "https://*.example" },
		"a wildcard without why":      func(r *tokens.Rule) { r.Subject = "repo:acme/*" },
		"everyone":                    func(r *tokens.Rule) { r.Subject, r.Wildcard = "*", "because" },
		"why without a wildcard":      func(r *tokens.Rule) { r.Wildcard = "because" },
		"no subject":                  func(r *tokens.Rule) { r.Subject = "" },
		"a wildcard in a claim":       func(r *tokens.Rule) { r.Claims = map[string]string{"ref": "refs/*"} },
		"a claim that every rule has": func(r *tokens.Rule) { r.Claims = map[string]string{"aud": "x"} },
		"a run of a day":              func(r *tokens.Rule) { r.RunLife = 24 * time.Hour },
		"no agent":                    func(r *tokens.Rule) { r.Agent = "nobody" },
		"no certificate":              func(r *tokens.Rule) { r.CA = "x" },
		"no keys":                     func(r *tokens.Rule) { r.JWKS = `{"keys":[]}` },
		"a trust domain without keys": func(r *tokens.Rule) { r.Issuer = "spiffe://acme.example" },
	} {
		r := tokens.Rule{Name: "x", Agent: "bot", Issuer: "https://issuer.example", Subject: "s"}
		over(&r)
		if _, err := w.PutRule(ctx, audit.System, "x", r); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
}

// A wildcard lets in what it says and no more.
func TestWildcards(t *testing.T) {
	w := open(t, storagetest.Open(t, storagetest.SQLite(t)))
	i := newIssuer(t)
	w.rule(i, func(r *tokens.Rule) {
		r.Subject, r.Wildcard = "repo:acme/shop:environment:*", "every environment deploys"
	})
	for sub, ok := range map[string]bool{
		"repo:acme/shop:environment:production": true, "repo:acme/shop:environment:": true, "repo:acme/shop:ref:refs/heads/environment:": false,
		"repo:acme/shopx:environment:production": false, "xrepo:acme/shop:environment:production": false,
	} {
		_, err := w.Federate(ctx, i.sign("one", w.github(i, m{"sub": sub})), "", tokens.Ask{Resources: []string{w.Issuer() + "/mcp"}})
		if (err == nil) != ok {
			t.Errorf("%q: %v", sub, err)
		}
	}
}

// A SPIFFE workload: the JWT-SVID is read by go-spiffe as by us, has no iss, and
// its keys come as the bundle of its trust domain.
func TestSPIFFE(t *testing.T) {
	w := open(t, storagetest.Open(t, storagetest.SQLite(t)))
	key := newPair(t, "authority-1")
	td := spiffeid.RequireTrustDomainFromString("acme.example")
	bundle := jwtbundle.New(td)
	must(t, bundle.AddJWTAuthority("authority-1", key.private.Public()))
	jwks, err := bundle.Marshal()
	must(t, err)
	_, err = w.PutRule(ctx, audit.System, "test", tokens.Rule{Name: "payments", Agent: "bot", Issuer: "spiffe://acme.example", Subject: "spiffe://acme.example/payments", JWKS: string(jwks)})
	must(t, err)
	now := w.clock.now()
	svid := func(sub string, k pair) string {
		return sign(t, jose.ES256, k.private, map[string]string{"kid": "authority-1", "typ": "JWT"}, m{"sub": sub, "aud": []string{w.Issuer()}, "exp": now.Add(5 * time.Minute).Unix(), "iat": now.Unix()})
	}
	token := svid("spiffe://acme.example/payments", key)
	parsed, err := jwtsvid.ParseAndValidate(token, bundle, []string{w.Issuer()})
	must(t, err)
	if parsed.ID.String() != "spiffe://acme.example/payments" {
		t.Fatal(parsed.ID)
	}
	w.accepts("a workload", w.token(w.bearer(token, "", "/mcp/ledger")).Access)
	for what, bad := range map[string]string{
		"another workload":     svid("spiffe://acme.example/payments2", key),
		"another trust domain": svid("spiffe://acme.example.evil/payments", key),
		"no SPIFFE ID":         svid("payments", key),
		"another authority":    svid("spiffe://acme.example/payments", newPair(t, "authority-1")),
	} {
		w.fails(what, w.bearer(bad, "", "/mcp/ledger"), 400, "invalid_grant")
	}
}
