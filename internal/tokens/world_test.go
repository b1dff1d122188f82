package tokens_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json/v2"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/internal/tokens"
	"github.com/countersign/countersign/internal/tokens/oauth"
	"github.com/countersign/countersign/internal/tokens/remote"
)

var (
	ctx   = context.Background()
	quiet = slog.New(slog.DiscardHandler)
)

type clean struct{}

func (clean) Redact(b []byte) []byte { return b }

// clock is a clock that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func derive(label string) []byte {
	sum := sha256.Sum256([]byte("one/" + label))
	return sum[:]
}

// world is the room on a real database behind its real door, with people and
// agents: root is the administrator, ada owns bot, bob owns helper.
type world struct {
	*tokens.Service
	t     testing.TB
	db    *storage.DB
	log   *audit.Log
	watch *storage.Watcher
	who   *identity.Service
	clock *clock
	root  rest.Caller
	ada   rest.Caller
	bob   rest.Caller
	door  *httptest.Server
}

func open(t testing.TB, db *storage.DB, options ...func(*tokens.Options)) *world {
	t.Helper()
	log, err := audit.Open(ctx, db, audit.Options{Redactor: clean{}, Keeper: audittest.Keeper("k")})
	must(t, err)
	t.Cleanup(func() { log.Close(ctx) })
	w := join(t, db, log, &clock{t: time.Now().UTC().Truncate(time.Second)}, options...)
	for name, role := range map[string]string{"root": identity.Admin, "ada": identity.Owner, "bob": identity.Owner} {
		_, err := w.who.PutUser(ctx, audit.System, "set up", identity.User{Name: name, Role: role})
		must(t, err)
	}
	w.root, w.ada, w.bob = w.person("root"), w.person("ada"), w.person("bob")
	for name, owner := range map[string]string{"bot": "ada", "helper": "bob", "third": "bob", "fourth": "bob", "fifth": "bob"} {
		_, err := w.who.PutAgent(ctx, audit.System, "set up", identity.Agent{Name: name, Owner: owner, Stage: identity.Production})
		must(t, err)
	}
	return w
}

// join is another replica on the same database.
func join(t testing.TB, db *storage.DB, log *audit.Log, c *clock, options ...func(*tokens.Options)) *world {
	t.Helper()
	w := &world{t: t, db: db, log: log, clock: c, watch: storage.NewWatcher(db, quiet)}
	var err error
	w.who, err = identity.New(db, log, w.watch, identity.Options{Derive: derive, Now: c.now})
	must(t, err)
	o := tokens.Options{Derive: derive, Fetcher: remote.New(), Now: c.now, PrivateClients: true}
	for _, fn := range options {
		fn(&o)
	}
	w.Service, err = tokens.New(db, log, w.watch, w.who, o)
	must(t, err)
	mux := http.NewServeMux()
	oauth.New(oauth.Options{Tokens: w.Service, People: w.who, Key: derive("forms")}).Routes(mux)
	w.door = httptest.NewServer(mux)
	t.Cleanup(w.door.Close)
	must(t, w.SetIssuer(w.door.URL))
	w.poll()
	must(t, w.EnsureKey(ctx))
	return w
}

func (w *world) person(name string) rest.Caller {
	u, ok := w.who.User(name)
	if !ok {
		w.t.Fatalf("no user %s", name)
	}
	return rest.Caller{ID: u.ID, Name: u.Name, Role: u.Role}
}

func (w *world) poll() {
	w.t.Helper()
	must(w.t, w.watch.Poll(ctx))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func each(t *testing.T, fn func(t *testing.T, w *world)) {
	t.Helper()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) { fn(t, open(t, db)) })
}

// pair is a key pair of an agent.
type pair struct {
	private *ecdsa.PrivateKey
	public  jose.JSONWebKey
}

func newPair(t testing.TB, kid string) pair {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return pair{k, jose.JSONWebKey{Key: &k.PublicKey, KeyID: kid, Algorithm: string(jose.ES256), Use: "sig"}}
}

func (p pair) jwk(t testing.TB) []byte {
	t.Helper()
	b, err := p.public.MarshalJSON()
	must(t, err)
	return b
}

// register makes a key pair and registers it for an agent.
func (w *world) register(agent string) (pair, tokens.ClientKey) {
	w.t.Helper()
	p := newPair(w.t, agent+"-1")
	k, err := w.AddClientKey(ctx, w.root, "test", agent, tokens.ClientKeySpec{JWK: p.jwk(w.t)})
	must(w.t, err)
	return p, k
}

type m = map[string]any

// sign signs claims with a key and an algorithm.
func sign(t testing.TB, alg jose.SignatureAlgorithm, key any, header map[string]string, claims any) string {
	t.Helper()
	o := &jose.SignerOptions{}
	for k, v := range header {
		o = o.WithHeader(jose.HeaderKey(k), v)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, o)
	must(t, err)
	b, err := json.Marshal(claims)
	must(t, err)
	jws, err := s.Sign(b)
	must(t, err)
	out, err := jws.CompactSerialize()
	must(t, err)
	return out
}

// claims are a good client assertion of an agent, changed by over.
func (w *world) claims(agent string, over m) m {
	now := w.clock.now()
	c := m{"iss": agent, "sub": agent, "aud": w.Issuer(), "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(), "jti": id.New("t")}
	for k, v := range over {
		if c[k] = v; v == nil {
			delete(c, k)
		}
	}
	return c
}

func (w *world) assertion(agent string, p pair, over m) string {
	w.t.Helper()
	return sign(w.t, jose.ES256, p.private, map[string]string{"kid": p.public.KeyID, "typ": "JWT"}, w.claims(agent, over))
}

// reply is what the token endpoint answers.
type reply struct {
	Status      int
	Access      string        `json:"access_token"`
	IssuedType  string        `json:"issued_token_type"`
	Type        string        `json:"token_type"`
	ExpiresIn   int           `json:"expires_in"`
	Scope       string        `json:"scope"`
	Refresh     string        `json:"refresh_token"`
	Run         string        `json:"countersign_run"`
	Agent       string        `json:"countersign_agent"`
	Doors       []tokens.Door `json:"countersign_connections"`
	Error       string        `json:"error"`
	Description string        `json:"error_description"`
	Device      string        `json:"device_code"`
	User        string        `json:"user_code"`
	ClientID    string        `json:"client_id"`
}

// post sends a form to a door.
func (w *world) post(path string, q url.Values) (r reply) {
	w.t.Helper()
	w.poll()
	resp, err := http.PostForm(w.door.URL+path, q)
	must(w.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	must(w.t, err)
	if err := json.Unmarshal(b, &r); err != nil {
		w.t.Fatalf("%s: %v\n%s", resp.Status, err, b)
	}
	r.Status = resp.StatusCode
	if got := resp.Header.Get("Cache-Control"); got != "no-store" {
		w.t.Errorf("%s may be kept: %q", path, got)
	}
	return r
}

func (w *world) token(q url.Values) reply { w.t.Helper(); return w.post("/oauth2/token", q) }

// credentials is a request by client credentials.
func (w *world) credentials(assertion string, resource ...string) url.Values {
	q := url.Values{"grant_type": {"client_credentials"}, "client_assertion_type": {tokens.AssertionType}, "client_assertion": {assertion}}
	for _, r := range resource {
		q.Add("resource", w.Issuer()+r)
	}
	return q
}

// get has a token for doors or fails.
func (w *world) get(agent string, p pair, scope string, doors ...string) string {
	w.t.Helper()
	q := w.credentials(w.assertion(agent, p, nil), doors...)
	if scope != "" {
		q.Set("scope", scope)
	}
	r := w.token(q)
	if r.Access == "" {
		w.t.Fatalf("no token: %+v", r)
	}
	return r.Access
}

func (w *world) exchange(subject, scope string, more url.Values, doors ...string) url.Values {
	q := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "subject_token": {subject}, "subject_token_type": {tokens.WantAccess}}
	if scope != "" {
		q.Set("scope", scope)
	}
	for k, v := range more {
		q[k] = v
	}
	for _, d := range doors {
		q.Add("resource", w.Issuer()+d)
	}
	return q
}

// accepts authenticates with a view that is surely fresh.
func (w *world) accepts(what, token string) identity.Caller {
	w.t.Helper()
	w.poll()
	c, err := w.who.Authenticate(ctx, token)
	if err != nil {
		w.t.Fatalf("%s: %v", what, err)
	}
	return c
}

func (w *world) refuses(what, token string, want error) {
	w.t.Helper()
	w.poll()
	if _, err := w.who.Authenticate(ctx, token); !errors.Is(err, want) {
		w.t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

// fails checks that a token request is refused with a code.
func (w *world) fails(what string, q url.Values, status int, code string) reply {
	w.t.Helper()
	r := w.token(q)
	if r.Access != "" || r.Status != status || r.Error != code {
		w.t.Errorf("%s: got %d %s %q (token %v), want %d %s", what, r.Status, r.Error, r.Description, r.Access != "", status, code)
	}
	return r
}

// events returns the events of a type, of every lane, once there are n.
func (w *world) events(kind audit.Type, n int) (events []audit.Event) {
	w.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		events = nil
		rows, err := w.db.Query(ctx, `SELECT record FROM events WHERE type = $1 ORDER BY lane, sn`, string(kind))
		must(w.t, err)
		for rows.Next() {
			var raw []byte
			must(w.t, rows.Scan(&raw))
			ev, err := audit.DecodeRecord(raw)
			must(w.t, err)
			events = append(events, ev)
		}
		must(w.t, rows.Err())
		rows.Close()
		if len(events) >= n || time.Now().After(deadline) {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if len(events) < n {
		w.t.Fatalf("%d events of type %s, want %d", len(events), kind, n)
	}
	return events
}

// nowhere fails if a secret value is anywhere in the log or the tables.
func (w *world) nowhere(values ...string) {
	w.t.Helper()
	for _, q := range []string{`SELECT CAST(record AS TEXT) FROM events`, `SELECT hash FROM oauth_codes`, `SELECT hash FROM refresh_tokens`, `SELECT user_code FROM enrolments`, `SELECT device_code FROM enrolments`} {
		if w.db.Dialect() == storage.Postgres {
			q = strings.ReplaceAll(q, "CAST(record AS TEXT)", "convert_from(record, 'UTF8')")
		}
		rows, err := w.db.Query(ctx, q)
		must(w.t, err)
		for rows.Next() {
			var s []byte
			must(w.t, rows.Scan(&s))
			for _, v := range values {
				if v != "" && bytes.Contains(s, []byte(v)) {
					w.t.Errorf("a secret is in the store: %s", q)
				}
			}
		}
		must(w.t, rows.Err())
		rows.Close()
	}
}

// mustJSON returns a whole key pair as a JWK, as nobody should send it.
func mustJSON(t testing.TB, p pair) []byte {
	t.Helper()
	b, err := jose.JSONWebKey{Key: p.private, KeyID: "x"}.MarshalJSON()
	must(t, err)
	return b
}
