package tokens_test

import (
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/tokens"
)

// userToken makes an API token of a user.
func (w *world) userToken(name string, life time.Duration) (id, value string) {
	w.t.Helper()
	c := w.person(name)
	t, value, err := w.who.IssueToken(ctx, audit.Person(c.ID, c.Name), "", "laptop", life)
	must(w.t, err)
	return t.ID, value
}

// A user lets an agent that they answer for act for them, by their own word or
// with the agent's proof besides; nobody else's agent, and for no longer than
// their own token and they themselves last.
func TestAUserDelegates(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		id, ada := w.userToken("ada", time.Hour)
		ask := func(token, agent, scope string, more url.Values, doors ...string) url.Values {
			q := w.exchange(token, scope, more, doors...)
			if agent != "" {
				q.Set("client_id", agent)
			}
			return q
		}
		r := w.token(ask(ada, "bot", "", nil, "/mcp/ledger"))
		c := w.accepts("by the user's word", r.Access)
		if !slices.Equal(names(c), []string{"user:ada", "bot"}) || r.Scope != "read write" || !c.At("/mcp/ledger") || c.At("/mcp/other") || !slices.Contains(c.Lineage, id) {
			t.Errorf("%+v %+v", r, c)
		}
		if r := w.token(ask(ada, "bot", "irreversible", nil, "/mcp/ledger")); r.Scope != "irreversible" {
			t.Errorf("what cannot be undone, asked for by name: %+v", r)
		}
		ev := w.events("token.exchanged", 2)[0]
		if ev.Agent != "bot" || len(ev.OnBehalfOf) != 1 || ev.OnBehalfOf[0].Name != "ada" || ev.OnBehalfOf[0].Kind != audit.KindUser {
			t.Errorf("%+v", ev)
		}
		bot, _ := w.register("bot")
		helper, _ := w.register("helper")
		w.accepts("with the agent's proof", w.token(ask(ada, "", "", w.as("bot", bot), "/mcp/ledger")).Access)
		// A sub-agent goes on: user, agent, agent.
		sub := w.token(w.exchange(r.Access, "read", w.as("helper", helper), "/mcp/ledger"))
		if got := names(w.accepts("a sub-agent", sub.Access)); !slices.Equal(got, []string{"user:ada", "agent:bot", "helper"}) {
			t.Errorf("%v", got)
		}
		w.fails("another's agent", ask(ada, "helper", "", nil, "/mcp/ledger"), 400, "unauthorized_client")
		w.fails("another's agent, which agrees", ask(ada, "", "", w.as("helper", helper), "/mcp/ledger"), 400, "unauthorized_client")
		w.fails("no agent", ask(ada, "", "", nil, "/mcp/ledger"), 400, "invalid_request")
		w.fails("an agent that is not", ask(ada, "nobody", "", nil, "/mcp/ledger"), 400, "invalid_request")
		w.fails("no resource", ask(ada, "bot", "", nil), 400, "invalid_target")
		w.fails("a user token that is none", ask(identity.Decoy(identity.TokenPrefix), "bot", "", nil, "/mcp/ledger"), 400, "invalid_grant")
		w.fails("a user as actor", w.exchange(r.Access, "", url.Values{"actor_token": {ada}, "actor_token_type": {tokens.WantAccess}}, "/mcp/ledger"), 400, "invalid_grant")
		// An administrator offers an agent to everybody.
		_, err := w.AddOAuthClient(ctx, audit.System, "for all", tokens.OAuthClient{ClientID: "ide", Agent: "helper", Redirects: []string{"https://ide.example/cb"}})
		must(t, err)
		w.accepts("an agent that is offered", w.token(ask(ada, "helper", "", nil, "/mcp/ledger")).Access)
		// No longer than the user's own token.
		w.clock.pass(time.Hour - 3*time.Minute)
		last := w.token(ask(ada, "bot", "", nil, "/mcp/ledger"))
		if left := w.accepts("three minutes before", last.Access).Credential.Expires.Sub(w.clock.now()); left > 3*time.Minute {
			t.Errorf("it lives %s longer than the user's own", left-3*time.Minute)
		}
		id, ada = w.userToken("ada", time.Hour)
		r = w.token(ask(ada, "bot", "", nil, "/mcp/ledger"))
		sub = w.token(w.exchange(r.Access, "read", w.as("helper", helper), "/mcp/ledger"))
		must(t, w.who.RevokeToken(ctx, audit.Person(w.ada.ID, "ada"), "lost", id))
		w.refuses("after the user's token was revoked", r.Access, identity.ErrRevoked)
		w.refuses("what came of it", sub.Access, identity.ErrRevoked)
		w.fails("from a revoked token", ask(ada, "bot", "", nil, "/mcp/ledger"), 400, "invalid_grant")
		_, ada = w.userToken("ada", time.Hour)
		r = w.token(ask(ada, "bot", "", nil, "/mcp/ledger"))
		_, err = w.who.PutUser(ctx, audit.System, "left", identity.User{Name: "ada", Role: identity.Owner, Disabled: true})
		must(t, err)
		if _, err := w.who.Authenticate(ctx, r.Access); err == nil {
			t.Error("it is good after the user left")
		}
		w.nowhere(ada, r.Access)
	})
}

// A program that a user starts has a token for its run, which names the user.
func TestARunOnBehalfOfAUser(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		id, ada := w.userToken("ada", 3*time.Hour)
		ask := func(scope string, life string) url.Values {
			q := w.exchange(ada, scope, url.Values{"client_id": {"bot"}, "requested_token_type": {tokens.WantRun}})
			if life != "" {
				q.Set("countersign_life", life)
			}
			return q
		}
		r := w.token(ask("", "7200"))
		c := w.accepts("the program's", r.Access)
		if !slices.Equal(names(c), []string{"user:ada", "bot"}) || c.Run == "" || c.Run != r.Run || r.IssuedType != tokens.WantRun || !c.At("/mcp/ledger") || c.Scope.String() != "read write" {
			t.Fatalf("%+v %+v", r, c)
		}
		if left := c.Credential.Expires.Sub(w.clock.now()); left != 2*time.Hour {
			t.Errorf("it lives %s", left)
		}
		w.clock.pass(time.Hour)
		w.accepts("an hour later", r.Access)
		must(t, w.who.EndRun(ctx, audit.System, "x", r.Run))
		w.refuses("after the run ended", r.Access, identity.ErrRevoked)
		r = w.token(ask("", "43200"))
		if left := w.accepts("as long as the user's token", r.Access).Credential.Expires.Sub(w.clock.now()); left > 2*time.Hour {
			t.Errorf("it lives %s", left)
		}
		must(t, w.who.RevokeToken(ctx, audit.Person(w.ada.ID, "ada"), "lost", id))
		w.refuses("after the user's token was revoked", r.Access, identity.ErrRevoked)
		w.clock.pass(time.Hour)
		// An agent's own credential begins no run this way.
		p, _ := w.register("bot")
		q := w.exchange(w.get("bot", p, "", "/mcp/ledger"), "", url.Values{"requested_token_type": {tokens.WantRun}}, "/mcp/ledger")
		w.fails("an agent's", q, 400, "unauthorized_client")
	})
}

// A user's token of an issuer outside lets the agent that a rule names, and that
// proves itself, act for the user that the rule names. Neither half alone does.
func TestAnIDTokenAsSubject(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		i := newIssuer(t)
		w.rule(i, func(r *tokens.Rule) {
			r.Name, r.Subject, r.Audience, r.User = "fiona", "00u-fiona", "web-app", "bob"
		})
		now := w.clock.now()
		id := func(over m) string {
			c := m{"iss": i.URL, "aud": "web-app", "sub": "00u-fiona", "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(), "nonce": "n", "email": "fiona@acme.example"}
			for k, v := range over {
				c[k] = v
			}
			return i.sign("one", c)
		}
		bot, k := w.register("bot")
		helper, _ := w.register("helper")
		ask := func(token string, more url.Values) url.Values {
			q := w.exchange(token, "", more, "/mcp/ledger")
			q.Set("subject_token_type", tokens.TypeID)
			return q
		}
		r := w.token(ask(id(nil), w.as("bot", bot)))
		c := w.accepts("the user's", r.Access)
		if !slices.Equal(names(c), []string{"user:bob", "bot"}) || r.Scope != "read write" || !slices.Contains(c.Lineage, k.ID) {
			t.Fatalf("%+v %+v", r, c)
		}
		if left := c.Credential.Expires.Sub(now); left > 5*time.Minute {
			t.Errorf("it lives %s, longer than what it came from", left)
		}
		q := ask(id(nil), w.as("bot", bot))
		q.Set("subject_token_type", tokens.TypeJWT)
		w.accepts("said to be a JWT", w.token(q).Access)
		c = w.accepts("with the actor's token", w.token(ask(id(nil), url.Values{"actor_token": {w.get("bot", bot, "", "/mcp/desk")}, "actor_token_type": {tokens.WantAccess}})).Access)
		if left := c.Credential.Expires.Sub(now); left > 5*time.Minute {
			t.Errorf("with the actor's token it lives %s, longer than the person's", left)
		}
		w.fails("without the agent's proof", ask(id(nil), nil), 400, "invalid_request")
		q = ask(id(nil), nil)
		q.Set("client_id", "bot")
		w.fails("an agent by name", q, 400, "invalid_request")
		w.fails("another agent", ask(id(nil), w.as("helper", helper)), 400, "invalid_grant")
		w.fails("an agent's forged proof", ask(id(nil), w.as("bot", newPair(t, "bot-1"))), 401, "invalid_client")
		for what, over := range map[string]m{
			"another subject": {"sub": "00u-fiona2"}, "one that looks alike": {"sub": "00u-fi\u043ena"}, "another program": {"aud": "other-app"}, "ours as audience": {"aud": w.Issuer()},
			"expired": {"exp": now.Add(-2 * time.Minute).Unix()}, "the address for the subject": {"sub": "fiona@acme.example"},
		} {
			w.fails(what, ask(id(over), w.as("bot", bot)), 400, "invalid_grant")
		}
		w.fails("another issuer's", ask(newIssuer(t).sign("one", m{"iss": i.URL, "aud": "web-app", "sub": "00u-fiona", "exp": now.Add(time.Minute).Unix()}), w.as("bot", bot)), 400, "invalid_grant")
		w.fails("a person's token as an agent's proof", w.bearer(id(nil), "bot", "/mcp/ledger"), 400, "invalid_grant")
		// And an agent's proof is no person's token.
		w.rule(i, func(r *tokens.Rule) { r.Name = "job" })
		w.fails("a job's token as a person's", ask(i.sign("one", w.github(i, nil)), w.as("bot", bot)), 400, "invalid_grant")
		must(t, w.DeleteRule(ctx, audit.System, "x", "fiona"))
		w.refuses("after the rule is gone", r.Access, identity.ErrRevoked)
		for what, over := range map[string]func(*tokens.Rule){
			"a user that is not":   func(r *tokens.Rule) { r.User = "nobody" },
			"a user by a wildcard": func(r *tokens.Rule) { r.Subject, r.Wildcard = "00u-*", "all of them" },
			"without an audience":  func(r *tokens.Rule) { r.Audience = "" },
		} {
			r := tokens.Rule{Name: "x", Agent: "bot", Issuer: "https://issuer.example", Subject: "s", Audience: "app", User: "bob"}
			over(&r)
			if _, err := w.PutRule(ctx, audit.System, "x", r); err == nil {
				t.Errorf("%s was accepted", what)
			}
		}
		// Who is given the name later is somebody else.
		_, err := w.who.PutUser(ctx, audit.System, "x", identity.User{Name: "guest", Role: identity.Viewer})
		must(t, err)
		w.poll()
		w.rule(i, func(r *tokens.Rule) {
			r.Name, r.Subject, r.Audience, r.User = "guest", "00u-guest", "web-app", "guest"
		})
		r = w.token(ask(id(m{"sub": "00u-guest"}), w.as("bot", bot)))
		w.accepts("a guest", r.Access)
		must(t, w.who.DeleteUser(ctx, audit.System, "x", "guest"))
		_, err = w.who.PutUser(ctx, audit.System, "x", identity.User{Name: "guest", Role: identity.Viewer})
		must(t, err)
		w.refuses("after the guest was deleted", r.Access, identity.ErrPrincipal)
		w.fails("a later guest", ask(id(m{"sub": "00u-guest"}), w.as("bot", bot)), 400, "invalid_grant")
	})
}
