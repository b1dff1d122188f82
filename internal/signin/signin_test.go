package signin_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/signin"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/test/idp"
)

var ctx = context.Background()

type clean struct{}

func (clean) Redact(b []byte) []byte { return b }

// world is the room with a real provider and a browser.
type world struct {
	*signin.Service
	t        *testing.T
	db       *storage.DB
	log      *audit.Log
	watch    *storage.Watcher
	ids      *identity.Service
	findings *findings.Service
	idp      *idp.Provider
	site     *httptest.Server
	config   signin.Config

	mu  sync.Mutex
	now time.Time
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func derive(label string) []byte { sum := sha256.Sum256([]byte(label)); return sum[:] }

func settle(t *testing.T, db *storage.DB, change func(*signin.Config)) *world {
	t.Helper()
	w := &world{t: t, db: db, now: time.Now().UTC().Truncate(time.Second)}
	var err error
	w.log, err = audit.Open(ctx, db, audit.Options{Redactor: clean{}, Keeper: audittest.Keeper("k")})
	w.must(err)
	t.Cleanup(func() { w.log.Close(ctx) })
	w.watch = storage.NewWatcher(db, nil)
	w.ids, err = identity.New(db, w.log, w.watch, identity.Options{Derive: derive, Now: w.clock})
	w.must(err)
	w.findings = findings.New(db, w.log, w.clock)
	w.idp, err = idp.New(nil)
	w.must(err)
	t.Cleanup(w.idp.Close)
	w.idp.Now = w.clock
	w.idp.User = idp.User{Subject: "sub-ada", Claims: map[string]any{"email": "ada@acme.example", "email_verified": true, "preferred_username": "Ada", "name": "Ada L.", "groups": []string{"staff", "finance"}}}
	w.config = signin.Config{Issuer: w.idp.URL, ClientID: idp.ClientID, Secret: func() (string, error) { return idp.Secret, nil }, Scopes: "openid profile email offline_access", CA: w.idp.CA(),
		NameClaim: "preferred_username", EmailClaim: "email", GroupClaim: "groups", Join: true, CheckEvery: 15 * time.Minute}
	if change != nil {
		change(&w.config)
	}
	w.site = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { w.ServeHTTP(rw, r) }))
	t.Cleanup(w.site.Close)
	w.Service = w.replica()
	w.must(w.watch.Poll(ctx))
	_, err = w.ids.PutUser(ctx, audit.System, "set up", identity.User{Name: "root", Role: identity.Admin})
	w.must(err)
	return w
}

func (w *world) replica() *signin.Service {
	w.t.Helper()
	s, err := signin.New(signin.Options{DB: w.db, Log: w.log, Watch: w.watch, Identity: w.ids, Findings: w.findings, Derive: derive, Base: func() string { return w.site.URL }, Config: w.config, Now: w.clock})
	w.must(err)
	return s
}

func each(t *testing.T, change func(*signin.Config), fn func(t *testing.T, w *world)) {
	t.Helper()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) { fn(t, settle(t, db, change)) })
}

// browser follows a URL until it leaves for where the sign-in ends, and returns
// every URL it was sent to.
func (w *world) browser(at string) (visited []*url.URL, page *http.Response) {
	w.t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.idp.CA())
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for range 5 {
		resp, err := c.Get(at)
		w.must(err)
		resp.Body.Close()
		next, err := resp.Location()
		if err != nil {
			return visited, resp
		}
		visited = append(visited, next)
		if !strings.HasPrefix(next.String(), w.idp.URL) && next.Path != signin.CallbackPath {
			return visited, resp
		}
		at = next.String()
	}
	return visited, nil
}

const loopback = "http://127.0.0.1:4711/cb"

// signIn does all of it, and returns the query the browser ends with.
func (w *world) signIn(redirect string) (verifier string, end *url.URL) {
	w.t.Helper()
	verifier = rand.Text() + rand.Text()
	at, _, err := w.StartLogin(ctx, redirect, signin.Challenge(verifier), "192.0.2.7")
	w.must(err)
	visited, page := w.browser(at)
	if len(visited) == 0 || visited[len(visited)-1].Path == signin.CallbackPath {
		w.t.Fatalf("the browser ended with %v, %v", visited, page)
	}
	return verifier, visited[len(visited)-1]
}

func (w *world) in() (identity.User, string) {
	w.t.Helper()
	verifier, end := w.signIn(loopback)
	t, value, err := w.FinishLogin(ctx, end.Query().Get("ticket"), verifier, "192.0.2.7")
	if err != nil {
		w.t.Fatalf("%v (%s)", err, end)
	}
	u, _ := w.ids.User(t.User)
	return u, value
}

func TestAPersonJoinsAndComesBack(t *testing.T) {
	each(t, nil, func(t *testing.T, w *world) {
		u, value := w.in()
		if u.Name != "ada" || u.Role != identity.Viewer || u.Email != "ada@acme.example" || u.Issuer != w.idp.URL || u.Subject != "sub-ada" || u.DisplayName != "Ada L." {
			t.Errorf("%+v", u)
		}
		c, err := w.ids.AuthenticateUser(ctx, value)
		if err != nil || c.Name != "ada" {
			t.Error(c, err)
		}
		w.idp.User.Claims["preferred_username"] = "root" // a name is for joining only
		if again, _ := w.in(); again.ID != u.ID {
			t.Errorf("%+v", again)
		}
		if r := w.idp.Redirects(); r[0] != w.site.URL+signin.CallbackPath {
			t.Error(r)
		}
		var n int
		w.must(w.db.QueryRow(ctx, `SELECT count(*) FROM user_standing WHERE sealed LIKE '%idp-refresh%'`).Scan(&n))
		if n != 0 {
			t.Error("a refresh token is stored in clear")
		}
	})
}

func TestTheConsoleIsAProgramLikeAnother(t *testing.T) {
	each(t, nil, func(t *testing.T, w *world) {
		verifier, end := w.signIn("/login/done")
		if !strings.HasPrefix(end.String(), w.site.URL+"/login/done?ticket=") {
			t.Fatal(end)
		}
		ticket := end.Query().Get("ticket")
		if _, _, err := w.FinishLogin(ctx, ticket, rand.Text()+rand.Text(), ""); !errors.Is(err, signin.ErrTicket) {
			t.Error("without its verifier:", err)
		}
		if _, _, err := w.FinishLogin(ctx, ticket, verifier, ""); err != nil {
			t.Error(err)
		}
		if _, _, err := w.replica().FinishLogin(ctx, ticket, verifier, ""); !errors.Is(err, signin.ErrTicket) {
			t.Error("twice, on another replica:", err)
		}
		_, end = w.signIn("/login/done")
		w.pass(3 * time.Minute)
		if _, _, err := w.FinishLogin(ctx, end.Query().Get("ticket"), verifier, ""); !errors.Is(err, signin.ErrTicket) {
			t.Error("too late:", err)
		}
	})
}

func TestRedirectsLeadNowhereElse(t *testing.T) {
	each(t, nil, func(t *testing.T, w *world) {
		for _, bad := range []string{"", "https://evil.example/", "//evil.example", "/\\evil.example", "http://127.0.0.1.evil.example:80/", "http://localhost:80/x", "http://127.0.0.1/x", "http://u@127.0.0.1:80/", "http://127.0.0.1:80/#x",
			"http://127.0.0.1:80/?a=b", "javascript:alert(1)", "/a?b", "/a#b", "evil", "http://10.0.0.1:80/", "http:///x", "/a\r\nX: y", "http://[::ffff:127.0.0.1]:80/", "/" + strings.Repeat("a", 600)} {
			if at, _, err := w.StartLogin(ctx, bad, signin.Challenge("x"), ""); !errors.Is(err, signin.ErrRedirect) {
				t.Errorf("%q: %q %v", bad, at, err)
			}
		}
		for _, good := range []string{"/", "/login/oidc", "http://127.0.0.1:1/x", "http://[::1]:8080/"} {
			if _, _, err := w.StartLogin(ctx, good, signin.Challenge("x"), ""); err != nil {
				t.Errorf("%q: %v", good, err)
			}
		}
		if _, _, err := w.StartLogin(ctx, "/", "short", ""); !errors.Is(err, signin.ErrRequest) {
			t.Error(err)
		}
	})
}

// What the provider, or somebody in its name, may send: nobody is let in.
func TestAnswersThatAreRefused(t *testing.T) {
	set := func(name string, v any) func(*world) {
		return func(w *world) { w.idp.Tamper = func(c map[string]any) { c[name] = v } }
	}
	for name, attack := range map[string]func(w *world){
		"another nonce":          set("nonce", "x"),
		"no nonce":               func(w *world) { w.idp.Tamper = func(c map[string]any) { delete(c, "nonce") } },
		"another audience":       set("aud", "other"),
		"two audiences, no azp":  set("aud", []string{idp.ClientID, "other"}),
		"issued for another":     set("azp", "other"),
		"another issuer":         set("iss", "https://evil.example"),
		"expired":                set("exp", time.Now().Add(-2*time.Hour).Unix()),
		"from the future":        set("iat", time.Now().Add(2*time.Hour).Unix()),
		"nobody":                 set("sub", ""),
		"alg none":               func(w *world) { w.idp.Sign = idp.Unsigned },
		"another key":            func(w *world) { w.idp.Sign = w.idp.Forged },
		"a public key as secret": func(w *world) { w.idp.Sign = w.idp.Symmetric },
		"a name twice": func(w *world) {
			w.idp.Sign = func(c []byte) string { return w.idp.RS256([]byte(`{"email":"root@acme.example",` + string(c[1:]))) }
		},
		"no ID token":             func(w *world) { w.idp.Sign = func([]byte) string { return "" } },
		"issuer mix-up":           func(w *world) { w.idp.Iss = "https://other.example" },
		"no iss, though promised": func(w *world) { w.idp.Iss = "-" },
		"declined":                func(w *world) { w.idp.Deny = true },
		"broken":                  func(w *world) { w.idp.Broken = true },
	} {
		t.Run(name, func(t *testing.T) {
			w := settle(t, storagetest.Open(t, storagetest.SQLite(t)), nil)
			attack(w)
			_, end := w.signIn(loopback)
			if end.Query().Get("ticket") != "" || end.Query().Get("error") == "" {
				t.Errorf("let in: %s", end)
			}
			if _, there := w.ids.User("ada"); there {
				t.Error("somebody joined")
			}
		})
	}
}

func TestStateWorksOnceAndInTime(t *testing.T) {
	each(t, nil, func(t *testing.T, w *world) {
		verifier := rand.Text() + rand.Text()
		at, _, err := w.StartLogin(ctx, loopback, signin.Challenge(verifier), "")
		w.must(err)
		visited, _ := w.browser(at)
		back := visited[0] // the provider's answer, as a thief may have it
		for what, u := range map[string]string{"replayed": back.String(), "forged": w.site.URL + signin.CallbackPath + "?code=x&state=forged", "none": w.site.URL + signin.CallbackPath + "?code=x",
			"twice": back.String() + "&state=x"} {
			if visited, page := w.browser(u); len(visited) > 0 || page.StatusCode != 400 {
				t.Errorf("%s: sent on to %v", what, visited)
			}
		}
		// A code of one sign-in with the state of another: PKCE and nonce do not fit.
		a, _, err := w.StartLogin(ctx, loopback, signin.Challenge(verifier), "")
		w.must(err)
		b, _, err := w.StartLogin(ctx, loopback, signin.Challenge(verifier), "")
		w.must(err)
		stop := func(at string) url.Values {
			pool := x509.NewCertPool()
			pool.AppendCertsFromPEM(w.idp.CA())
			c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
			resp, err := c.Get(at)
			w.must(err)
			resp.Body.Close()
			next, err := resp.Location()
			w.must(err)
			return next.Query()
		}
		qa, qb := stop(a), stop(b)
		next, err := w.Callback(ctx, signin.Answer{State: qb.Get("state"), Code: qa.Get("code"), Issuer: qa.Get("iss")})
		if err != nil || strings.Contains(next, "ticket=") {
			t.Error("a code was injected:", next, err)
		}
		c, _, err := w.StartLogin(ctx, loopback, signin.Challenge(verifier), "")
		w.must(err)
		qc := stop(c)
		w.pass(11 * time.Minute)
		if _, err := w.Callback(ctx, signin.Answer{State: qc.Get("state"), Code: qc.Get("code"), Issuer: qc.Get("iss")}); !errors.Is(err, signin.ErrState) {
			t.Error("too late:", err)
		}
	})
}

func TestWhoMaySignIn(t *testing.T) {
	one := func(name string, config func(*signin.Config), person func(*world), want string) {
		t.Run(name, func(t *testing.T) {
			w := settle(t, storagetest.Open(t, storagetest.SQLite(t)), config)
			if person != nil {
				person(w)
			}
			_, end := w.signIn(loopback)
			if got := end.Query().Get("error"); got != want {
				t.Errorf("got %q, want %q (%s)", got, want, end.Query().Get("error_description"))
			}
		})
	}
	claim := func(name string, v any) func(*world) { return func(w *world) { w.idp.User.Claims[name] = v } }
	acme := func(c *signin.Config) { c.Domains = []string{"acme.example"} }
	one("nobody joins by default", func(c *signin.Config) { c.Join = false }, nil, "not_registered")
	one("domain", acme, nil, "")
	one("another domain", acme, claim("email", "ada@evil.example"), "not_vouched")
	one("a look-alike domain", acme, claim("email", "ada@acme.example@evil.example"), "not_vouched")
	one("unverified", acme, claim("email_verified", false), "not_vouched")
	one("not said to be verified", acme, func(w *world) { delete(w.idp.User.Claims, "email_verified") }, "not_vouched")
	one("trusted all the same", func(c *signin.Config) { acme(c); c.TrustEmail = true }, func(w *world) { delete(w.idp.User.Claims, "email_verified") }, "")
	one("in a group", func(c *signin.Config) { c.RequireGroup = []string{"staff"} }, nil, "")
	one("in no group", func(c *signin.Config) { c.RequireGroup = []string{"boss"} }, nil, "not_vouched")
	one("a group from userinfo", func(c *signin.Config) { c.RequireGroup = []string{"staff"} }, func(w *world) { w.idp.Hide = []string{"groups"} }, "")
	one("a name that is taken", nil, claim("preferred_username", "root"), "name_taken")
	one("disabled by a person", nil, func(w *world) {
		_, err := w.ids.PutUser(ctx, audit.System, "x", identity.User{Name: "ada", Email: "ada@acme.example", Role: identity.Viewer, Disabled: true})
		w.must(err)
	}, "user_disabled")
}

func TestALocalUserIsLinkedByAVerifiedAddress(t *testing.T) {
	each(t, func(c *signin.Config) { c.Join = false }, func(t *testing.T, w *world) {
		_, err := w.ids.PutUser(ctx, audit.System, "x", identity.User{Name: "ada.l", Email: "Ada@acme.example", Role: identity.Owner})
		w.must(err)
		w.idp.User.Claims["email_verified"] = false
		if _, end := w.signIn(loopback); end.Query().Get("error") != "not_registered" {
			t.Error("an unverified address links:", end)
		}
		w.idp.User.Claims["email_verified"] = true
		u, _ := w.in()
		if u.Name != "ada.l" || u.Role != identity.Owner || u.Subject != "sub-ada" {
			t.Errorf("%+v", u)
		}
		w.idp.User.Subject = "another" // the address again, by another account
		if _, end := w.signIn(loopback); end.Query().Get("error") != "not_registered" {
			t.Error("the address of a linked user links again:", end)
		}
	})
}

func TestGroupsLeadToRolesAndGroups(t *testing.T) {
	each(t, func(c *signin.Config) {
		c.Roles = map[string]string{"finance": identity.Approver, "admins": identity.Admin}
		c.Groups = map[string]string{"finance": "controllers", "other": "controllers", "ghost": "not-there"}
	}, func(t *testing.T, w *world) {
		_, err := w.ids.PutGroup(ctx, audit.System, "x", identity.Group{Name: "controllers", Members: []string{"root"}})
		w.must(err)
		u, _ := w.in()
		g, _ := w.ids.Group("controllers")
		if u.Role != identity.Approver || !g.Has("ada") || !g.Has("root") {
			t.Error(u.Role, g.Members)
		}
		w.idp.User.Claims["groups"] = []string{"admins"}
		u, _ = w.in()
		if g, _ = w.ids.Group("controllers"); u.Role != identity.Admin || g.Has("ada") {
			t.Error(u.Role, g.Members)
		}
		delete(w.idp.User.Claims, "groups")
		if u, _ = w.in(); u.Role != identity.Viewer {
			t.Error("no groups, and still", u.Role)
		}
	})
}

func TestWhoIsGoneIsDisabled(t *testing.T) {
	each(t, func(c *signin.Config) { c.RequireGroup = []string{"staff"} }, func(t *testing.T, w *world) {
		_, value := w.in()
		lease := job.NewLease(w.db, "signin/standing", time.Minute)
		look := func() {
			t.Helper()
			w.pass(20 * time.Minute)
			if err := w.Look(ctx, lease); err != nil {
				t.Error(err)
			}
		}
		for range 3 { // refresh tokens rotate
			look()
		}
		if u, _ := w.ids.User("ada"); u.Disabled {
			t.Fatal("disabled, though there")
		}
		w.idp.Broken = true
		w.pass(20 * time.Minute)
		if err := w.Look(ctx, lease); !errors.Is(err, signin.ErrProvider) {
			t.Error(err)
		}
		w.idp.Broken = false
		if u, _ := w.ids.User("ada"); u.Disabled {
			t.Fatal("a broken provider says nothing about people")
		}
		w.idp.User.Gone = true
		look()
		u, _ := w.ids.User("ada")
		if !u.Disabled || !u.Gone {
			t.Fatalf("%+v", u)
		}
		if _, err := w.ids.AuthenticateUser(ctx, value); err == nil {
			t.Error("their session lives")
		}
		w.idp.User.Gone = false
		if u, value = w.in(); u.Disabled || u.Gone {
			t.Errorf("came back: %+v", u)
		}
		w.idp.User.Claims["groups"] = []string{"alumni"}
		look()
		if u, _ = w.ids.User("ada"); !u.Gone {
			t.Error("out of the group, and still here")
		}
		if _, err := w.ids.AuthenticateUser(ctx, value); err == nil {
			t.Error("their session lives")
		}
	})
}

// A no that may be our own doing, because we died between the provider's answer
// and our commit, is no proof that somebody left.
func TestADeathBetweenAnswerAndCommit(t *testing.T) {
	each(t, nil, func(t *testing.T, w *world) {
		w.in()
		w.pass(20 * time.Minute)
		dead := job.NewLease(w.db, "signin/standing", time.Minute)
		if ok, err := dead.Acquire(ctx); !ok || err != nil {
			t.Fatal(ok, err)
		}
		w.idp.Tamper = func(map[string]any) { // between its answer and our commit, another takes over
			w.idp.Tamper = nil
			if err := job.NewLease(w.db, "signin/standing", time.Minute).Seize(ctx); err != nil {
				t.Error(err)
			}
		}
		if err := w.Look(ctx, dead); !errors.Is(err, job.ErrFenced) {
			t.Fatal("not fenced:", err)
		}
		lease := job.NewLease(w.db, "signin/standing", time.Minute)
		w.must(lease.Seize(ctx))
		if err := w.replica().Look(ctx, lease); err != nil {
			t.Fatal(err)
		}
		if u, _ := w.ids.User("ada"); u.Disabled {
			t.Error("disabled for our own doing")
		}
		open, err := w.findings.List(ctx, findings.Query{Rule: signin.RuleUnconfirmed, Status: findings.Open})
		if err != nil || len(open) != 1 {
			t.Error(open, err)
		}
		w.in()
		if open, _ = w.findings.List(ctx, findings.Query{Rule: signin.RuleUnconfirmed, Status: findings.Open}); len(open) != 0 {
			t.Error("still open after they came back")
		}
	})
}

func TestADeviceSignsIn(t *testing.T) {
	each(t, nil, func(t *testing.T, w *world) {
		verifier := rand.Text() + rand.Text()
		d, err := w.StartDevice(ctx, signin.Challenge(verifier), "")
		w.must(err)
		if strings.Contains(d.Handle, d.UserCode) || d.Interval != 1 {
			t.Errorf("%+v", d)
		}
		if _, _, err := w.FinishDevice(ctx, d.Handle, verifier, ""); !errors.Is(err, signin.ErrPending) {
			t.Error(err)
		}
		w.idp.Approve(d.UserCode)
		if _, _, err := w.FinishDevice(ctx, d.Handle, rand.Text()+rand.Text(), ""); !errors.Is(err, signin.ErrTicket) {
			t.Error("without its verifier:", err)
		}
		tk, _, err := w.FinishDevice(ctx, d.Handle, verifier, "")
		if err != nil || tk.User != "ada" {
			t.Error(tk, err)
		}
		if _, _, err := w.FinishDevice(ctx, d.Handle, verifier, ""); err == nil {
			t.Error("twice")
		}
	})
}

func TestSignOutEverywhere(t *testing.T) {
	each(t, nil, func(t *testing.T, w *world) {
		u, one := w.in()
		_, two := w.in()
		_, api, err := w.ids.IssueToken(ctx, audit.Person(u.ID, u.Name), "", "ci", 0)
		w.must(err)
		if _, err := w.ids.SignOut(ctx, audit.Person("usr_x", "root2"), "", "ada", true); !errors.Is(err, identity.ErrAdminOnly) {
			t.Error("by anybody:", err)
		}
		n, err := w.ids.SignOut(ctx, audit.Person(u.ID, u.Name), "lost my bag", "ada", false)
		if n != 2 || err != nil {
			t.Error(n, err)
		}
		alive := func(v string) bool { _, err := w.ids.AuthenticateUser(ctx, v); return err == nil }
		if got := []bool{alive(one), alive(two), alive(api)}; !slices.Equal(got, []bool{false, false, true}) {
			t.Error(got)
		}
		if n, err = w.ids.SignOut(ctx, audit.System, "incident", "ada", true); n != 1 || err != nil || alive(api) {
			t.Error(n, err)
		}
	})
}

func TestWithoutAProvider(t *testing.T) {
	w := settle(t, storagetest.Open(t, storagetest.SQLite(t)), func(c *signin.Config) { *c = signin.Config{} })
	if _, _, err := w.StartLogin(ctx, "/", signin.Challenge("x"), ""); !errors.Is(err, signin.ErrOff) {
		t.Error(err)
	}
	if _, err := w.Callback(ctx, signin.Answer{}); !errors.Is(err, signin.ErrOff) {
		t.Error(err)
	}
	if _, err := w.StartDevice(ctx, "", ""); !errors.Is(err, signin.ErrOff) {
		t.Error(err)
	}
}
