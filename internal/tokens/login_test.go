package tokens_test

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/internal/tokens"
)

const back = "http://127.0.0.1:7000/cb"

// program registers a client and returns a good authorization request and its
// PKCE verifier.
func (w *world) program(agent string) (tokens.OAuthClient, url.Values, string) {
	w.t.Helper()
	c, err := w.AddOAuthClient(ctx, audit.System, "test", tokens.OAuthClient{ClientID: "ide-" + strings.ToLower(rand.Text()), Agent: agent, Redirects: []string{back}})
	must(w.t, err)
	verifier := rand.Text() + rand.Text()
	sum := sha256.Sum256([]byte(verifier))
	return c, url.Values{"response_type": {"code"}, "client_id": {c.ClientID}, "redirect_uri": {back}, "state": {"s"}, "code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])},
		"code_challenge_method": {"S256"}, "resource": {w.Issuer() + "/mcp/ledger"}}, verifier
}

// code lets ada consent.
func (w *world) code(q url.Values, agent string) string {
	w.t.Helper()
	p, err := w.Plan(ctx, q)
	must(w.t, err)
	code, err := w.Consent(ctx, w.ada, p, agent)
	must(w.t, err)
	return code
}

func redeem(c tokens.OAuthClient, code, verifier string) url.Values {
	return url.Values{"grant_type": {"authorization_code"}, "client_id": {c.ClientID}, "code": {code}, "code_verifier": {verifier}, "redirect_uri": {back}}
}

func refresh(c tokens.OAuthClient, token string) url.Values {
	return url.Values{"grant_type": {"refresh_token"}, "client_id": {c.ClientID}, "refresh_token": {token}}
}

// A person lets a program act as an agent on their behalf.
func TestConsent(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		c, q, verifier := w.program("bot")
		code := w.code(q, "bot")
		r := w.token(redeem(c, code, verifier))
		who := w.accepts("the program", r.Access)
		if !slices.Equal(names(who), []string{"user:ada", "bot"}) || r.Scope != tokens.FirstScope || who.Scope.Allows("ledger", "x", "irreversible") || r.Refresh == "" {
			t.Fatalf("%+v %+v", who, r)
		}
		ev := w.events("token.consented", 1)[0]
		if ev.Actor.Name != "ada" || ev.Agent != "bot" || !strings.Contains(string(ev.Detail), c.ClientID) {
			t.Errorf("%+v", ev)
		}
		next := w.token(refresh(c, r.Refresh))
		w.accepts("refreshed", next.Access)
		more := refresh(c, next.Refresh)
		more.Set("scope", "read write irreversible")
		w.fails("a refresh for more", more, 400, "invalid_scope")
		// A sub-agent in the name of the person, through the agent.
		helper, _ := w.register("helper")
		sub := w.token(w.exchange(next.Access, "read", w.as("helper", helper), "/mcp/ledger"))
		if got := names(w.accepts("a sub-agent", sub.Access)); !slices.Equal(got, []string{"user:ada", "agent:bot", "helper"}) {
			t.Errorf("%v", got)
		}
		w.nowhere(code, r.Refresh, next.Refresh, next.Access)
		// Policy sees who the person is, and what they are in now.
		_, err := w.who.PutGroup(ctx, audit.System, "x", identity.Group{Name: "controllers", Members: []string{"ada"}})
		must(t, err)
		if c := w.accepts("a sub-agent", sub.Access); c.For == nil || c.For.ID != w.ada.ID || !slices.Equal(c.For.Groups, []string{"controllers"}) {
			t.Errorf("%+v", c.For)
		}
		// When the person leaves, all of it ends.
		_, err = w.who.PutUser(ctx, audit.System, "x", identity.User{Name: "ada", Role: identity.Owner, Disabled: true})
		must(t, err)
		for what, token := range map[string]string{"the program": next.Access, "the sub-agent": sub.Access} {
			w.poll()
			if _, err := w.who.Authenticate(ctx, token); err == nil {
				t.Errorf("%s still acts for somebody who left", what)
			}
		}
		w.fails("a refresh for somebody who left", refresh(c, next.Refresh), 400, "invalid_grant")
	})
}

// A code works once, for the one who began, in time; one that comes twice ends
// what it gave.
func TestCodesAndRefreshTokensThatAreStolen(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		c, q, verifier := w.program("bot")
		other, _, _ := w.program("bot")
		code := w.code(q, "bot")
		w.fails("without its verifier", redeem(c, code, ""), 400, "invalid_grant")
		w.fails("with another verifier", redeem(c, code, rand.Text()+rand.Text()), 400, "invalid_grant")
		w.fails("by another client", redeem(other, code, verifier), 400, "invalid_grant")
		elsewhere := redeem(c, code, verifier)
		elsewhere.Set("redirect_uri", "http://127.0.0.1:7001/cb")
		w.fails("for another redirect", elsewhere, 400, "invalid_grant")
		wider := redeem(c, code, verifier)
		wider.Set("resource", w.Issuer()+"/mcp/other")
		w.fails("for another resource", wider, 400, "invalid_target")
		r := w.token(redeem(c, code, verifier))
		w.accepts("the right one", r.Access)
		w.fails("the code again", redeem(c, code, verifier), 400, "invalid_grant")
		w.refuses("what the code gave", r.Access, identity.ErrRevoked)
		w.fails("the refresh token of it", refresh(c, r.Refresh), 400, "invalid_grant")

		late := w.code(q, "bot")
		w.clock.pass(2 * time.Minute)
		w.fails("too late", redeem(c, late, verifier), 400, "invalid_grant")

		r = w.token(redeem(c, w.code(q, "bot"), verifier))
		w.fails("a refresh by another client", refresh(other, r.Refresh), 400, "invalid_grant")
		next := w.token(refresh(c, r.Refresh))
		w.accepts("refreshed", next.Access)
		w.fails("the old refresh token again", refresh(c, r.Refresh), 400, "invalid_grant")
		w.refuses("what the new one gave", next.Access, identity.ErrRevoked)
		w.fails("the new refresh token", refresh(c, next.Refresh), 400, "invalid_grant")
		if ev := w.events("token.session_ended", 2)[1]; !strings.Contains(ev.Reason, "twice") {
			t.Errorf("%+v", ev)
		}
		r = w.token(redeem(c, w.code(q, "bot"), verifier))
		must(t, w.Revoke(ctx, r.Refresh, ""))
		w.refuses("given back", r.Access, identity.ErrRevoked)
		r = w.token(redeem(c, w.code(q, "bot"), verifier))
		must(t, w.RemoveOAuthClient(ctx, audit.System, "x", c.ID))
		w.refuses("of a program that was removed", r.Access, identity.ErrRevoked)
	})
}

// Authorization requests that are refused: to the person when it is not sure
// whose redirect URI it is, else to the client.
func TestAuthorizationRequestsThatAreRefused(t *testing.T) {
	w := open(t, storagetest.Open(t, storagetest.SQLite(t)))
	c, good, _ := w.program("bot")
	for what, x := range map[string]struct {
		over     url.Values
		redirect bool
	}{
		"no client":          {url.Values{"client_id": {""}}, false},
		"an unknown client":  {url.Values{"client_id": {"nobody"}}, false},
		"a root document":    {url.Values{"client_id": {"https://client.example/"}}, false},
		"another redirect":   {url.Values{"redirect_uri": {"https://evil.example/cb"}}, false},
		"a longer redirect":  {url.Values{"redirect_uri": {back + "/evil"}}, false},
		"a look-alike host":  {url.Values{"redirect_uri": {"http://127.0.0.1.evil.example/cb"}}, false},
		"a script":           {url.Values{"redirect_uri": {"javascript:alert(1)"}}, false},
		"two of one":         {url.Values{"client_id": {c.ClientID, "x"}}, false},
		"an implicit grant":  {url.Values{"response_type": {"token"}}, true},
		"no PKCE":            {url.Values{"code_challenge": {""}}, true},
		"plain PKCE":         {url.Values{"code_challenge_method": {"plain"}}, true},
		"no resource":        {url.Values{"resource": nil}, true},
		"another's resource": {url.Values{"resource": {"https://evil.example/mcp"}}, true},
		"an unknown scope":   {url.Values{"scope": {"root"}}, true},
	} {
		q := url.Values{}
		for k, v := range good {
			q[k] = v
		}
		for k, v := range x.over {
			q[k] = v
		}
		_, err := w.Plan(ctx, q)
		if _, redirect := errors.AsType[*tokens.RedirectError](err); err == nil || redirect != x.redirect {
			t.Errorf("%s: %v (to the client: %v)", what, err, redirect)
		}
	}
	q := url.Values{}
	for k, v := range good {
		q[k] = v
	}
	q.Set("redirect_uri", "http://127.0.0.1:9999/cb")
	if _, err := w.Plan(ctx, q); err != nil {
		t.Errorf("another port of this machine: %v", err)
	}
	p, err := w.Plan(ctx, good)
	must(t, err)
	if _, err := w.Consent(ctx, w.bob, p, "helper"); fault.KindOf(err) != fault.Denied {
		t.Errorf("an agent that the program is not for: %v", err)
	}
	p.Client.Agent = ""
	if _, err := w.Consent(ctx, w.bob, p, "bot"); fault.KindOf(err) != fault.Denied {
		t.Errorf("an agent that the person does not answer for: %v", err)
	}
	if _, err := w.Register(ctx, []byte(`{"redirect_uris":["http://127.0.0.1/cb"]}`), ""); fault.KindOf(err) != fault.Denied {
		t.Errorf("registration though it is off: %v", err)
	}
}

// What registers itself is bounded, and cannot be sent anywhere.
func TestDynamicRegistration(t *testing.T) {
	w := open(t, storagetest.Open(t, storagetest.SQLite(t)), func(o *tokens.Options) { o.Registration = true })
	for _, bad := range []string{`{}`, `[]`, `{"redirect_uris":[]}`, `{"redirect_uris":["http://evil.example/cb"]}`, `{"redirect_uris":["javascript:x"]}`, `{"redirect_uris":["https://a.example/#f"]}`,
		`{"redirect_uris":["http://127.0.0.1/cb"],"token_endpoint_auth_method":"client_secret_basic"}`, `{"redirect_uris":["http://127.0.0.1/cb"],"redirect_uris":["https://b.example"]}`} {
		if c, err := w.Register(ctx, []byte(bad), ""); err == nil {
			t.Errorf("%s: %+v", bad, c)
		}
	}
	c, err := w.Register(ctx, []byte(`{"redirect_uris":["http://127.0.0.1/cb"],"client_name":"x","scope":"everything"}`), "192.0.2.1")
	must(t, err)
	if got, err := w.OAuthClient(ctx, c.ClientID); err != nil || got.Kind != tokens.Dynamic || got.Agent != "" {
		t.Errorf("%+v %v", got, err)
	}
	w.events("oauth_client.created", 1)
}

// Forms of our pages are taken from our pages alone, from the session they were
// made for, about what was shown.
func TestFormsFromElsewhere(t *testing.T) {
	w := open(t, storagetest.Open(t, storagetest.SQLite(t)))
	must(t, w.who.SetPassword(ctx, audit.System, "x", "ada", "", "correct horse battery"))
	_, q, _ := w.program("bot")
	post := func(path string, form url.Values, header map[string]string, cookie string) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequest(http.MethodPost, w.door.URL+path, strings.NewReader(form.Encode()))
		must(t, err)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		for k, v := range header {
			req.Header.Set(k, v)
		}
		if cookie != "" {
			req.AddCookie(&http.Cookie{Name: "countersign_consent", Value: cookie})
		}
		resp, err := (&http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(req)
		must(t, err)
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		must(t, err)
		return resp, string(b)
	}
	signIn := url.Values{"request": {q.Encode()}, "name": {"ada"}, "password": {"correct horse battery"}}
	for what, h := range map[string]map[string]string{"fetch metadata": {"Sec-Fetch-Site": "cross-site"}, "origin": {"Origin": "https://evil.example"}} {
		if resp, _ := post("/oauth2/login", signIn, h, ""); resp.StatusCode != 400 || len(resp.Cookies()) > 0 {
			t.Errorf("a form from elsewhere (%s) signed in: %s", what, resp.Status)
		}
	}
	wrong := url.Values{"request": {q.Encode()}, "name": {"ada"}, "password": {"nonsense"}}
	if resp, body := post("/oauth2/login", wrong, nil, ""); resp.StatusCode != 401 || len(resp.Cookies()) > 0 || strings.Contains(body, "nonsense") {
		t.Errorf("a wrong password: %s", resp.Status)
	}
	resp, _ := post("/oauth2/login", signIn, map[string]string{"Origin": w.door.URL, "Sec-Fetch-Site": "same-origin"}, "")
	if resp.StatusCode != 303 || len(resp.Cookies()) != 1 {
		t.Fatalf("%s", resp.Status)
	}
	k := resp.Cookies()[0]
	if !k.HttpOnly || k.SameSite != http.SameSiteLaxMode || k.Path != "/oauth2/" {
		t.Errorf("%+v", k)
	}
	for what, form := range map[string]url.Values{
		"not bound":        {"request": {q.Encode()}, "agent": {"bot"}, "answer": {"allow"}},
		"bound by a guess": {"request": {q.Encode()}, "agent": {"bot"}, "answer": {"allow"}, "bound": {strings.Repeat("0", 64)}},
	} {
		if resp, _ := post("/oauth2/consent", form, nil, k.Value); resp.StatusCode != 400 || resp.Header.Get("Location") != "" {
			t.Errorf("%s: %s %s", what, resp.Status, resp.Header.Get("Location"))
		}
	}
	if resp, body := post("/oauth2/consent", url.Values{"request": {q.Encode()}, "answer": {"allow"}}, nil, "csu_nonsense"); resp.StatusCode != 200 || !strings.Contains(body, "Sign in again") {
		t.Errorf("without a session: %s", resp.Status)
	}
}

// A client that was told to get a wider scope and refreshes instead is told to
// begin anew, by whichever replica it asks, for a minute; it loses nothing.
func TestARefreshIsNoStepUp(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		c, q, verifier := w.program("bot")
		r := w.token(redeem(c, w.code(q, "bot"), verifier))
		who := w.accepts("the program", r.Access)
		helper, _ := w.register("helper")
		sub := w.accepts("a sub-agent", w.token(w.exchange(r.Access, "read", w.as("helper", helper), "/mcp/ledger")).Access)
		w.Challenged(ctx, sub.Lineage) // not the client: it was told nothing
		r = w.token(refresh(c, r.Refresh))
		w.accepts("refreshed", r.Access)

		w.Challenged(ctx, who.Lineage)
		w.Challenged(ctx, who.Lineage)
		w.fails("a refresh after the challenge", refresh(c, r.Refresh), 400, "invalid_grant")
		other := join(t, w.db, w.log, w.clock)
		other.fails("at another replica", refresh(c, r.Refresh), 400, "invalid_grant")
		w.accepts("what it has", r.Access)
		named := refresh(c, r.Refresh)
		named.Set("scope", "read")
		r = w.token(named)
		if w.accepts("a refresh that says what for", r.Access); r.Scope != "read" {
			t.Errorf("%+v", r)
		}
		w.fails("and then one that does not", refresh(c, r.Refresh), 400, "invalid_grant")
		w.clock.pass(time.Minute + time.Second)
		r = w.token(refresh(c, r.Refresh))
		if w.accepts("a minute later", r.Access); r.Scope != tokens.FirstScope {
			t.Errorf("%+v", r)
		}
		// Another consent of the same person is not concerned.
		c2, q2, verifier2 := w.program("bot")
		r2 := w.token(redeem(c2, w.code(q2, "bot"), verifier2))
		w.Challenged(ctx, who.Lineage)
		w.accepts("another consent", w.token(refresh(c2, r2.Refresh)).Access)
	})
}
