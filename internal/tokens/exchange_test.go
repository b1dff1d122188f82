package tokens_test

import (
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/internal/tokens"
)

// as is the proof of the agent that wants to act.
func (w *world) as(agent string, p pair) url.Values {
	return url.Values{"client_assertion_type": {tokens.AssertionType}, "client_assertion": {w.assertion(agent, p, nil)}}
}

func names(c identity.Caller) (out []string) {
	for _, a := range c.OnBehalfOf {
		out = append(out, string(a.Kind)+":"+a.Name)
	}
	return append(out, c.Agent.Name)
}

// A sub-agent acts on behalf of an agent, with less, and for no longer.
func TestDelegation(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		bot, _ := w.register("bot")
		helper, hk := w.register("helper")
		parent := w.get("bot", bot, "read write", "/mcp/ledger", "/mcp/desk")
		w.clock.pass(4 * time.Minute)
		r := w.token(w.exchange(parent, "read tool:ledger/list", w.as("helper", helper), "/mcp/ledger"))
		if r.Status != 200 || r.IssuedType != tokens.WantAccess || r.Scope != "read tool:ledger/list" {
			t.Fatalf("%+v", r)
		}
		c := w.accepts("the sub-agent's", r.Access)
		if !slices.Equal(names(c), []string{"agent:bot", "helper"}) || !c.At("/mcp/ledger") || c.At("/mcp/desk") || c.Scope.Allows("ledger", "pay", "write") || !c.Scope.Allows("ledger", "list", "read") || c.Scope.Allows("ledger", "other", "read") {
			t.Errorf("%+v %+v", c, c.Scope)
		}
		if from := w.accepts("the agent's", parent); c.Credential.Expires.After(from.Credential.Expires) || !slices.Contains(c.Lineage, from.Credential.ID) || !slices.Contains(c.Lineage, hk.ID) {
			t.Errorf("it lives longer than what it came from, or does not know it: %+v", c)
		}
		ev := w.events("token.exchanged", 1)[0]
		if ev.Agent != "helper" || len(ev.OnBehalfOf) != 1 || ev.OnBehalfOf[0].Name != "bot" || ev.OnBehalfOf[0].ID == "" {
			t.Errorf("%+v", ev)
		}
		// Everything about it only shrinks.
		child := r.Access
		for what, q := range map[string]url.Values{
			"more effects":               w.exchange(parent, "read write irreversible", w.as("helper", helper), "/mcp/ledger"),
			"back to what the first had": w.exchange(child, "read write", nil, "/mcp/ledger"),
			"every tool":                 w.exchange(child, "read", nil, "/mcp/ledger"),
			"another tool":               w.exchange(child, "read tool:ledger/pay", nil, "/mcp/ledger"),
		} {
			w.fails(what, q, 400, "invalid_scope")
		}
		for what, q := range map[string]url.Values{
			"another connection": w.exchange(child, "", nil, "/mcp/desk"),
			"everything":         w.exchange(parent, "", nil, "/mcp"),
			"another front":      w.exchange(parent, "", nil, "/llm/ledger"),
			"one more":           w.exchange(parent, "", nil, "/mcp/ledger", "/mcp/third"),
		} {
			w.fails(what, q, 400, "invalid_target")
		}
		q := w.exchange(parent, "", nil, "/mcp/ledger")
		q.Set("requested_token_type", tokens.WantRun)
		w.fails("a run", q, 400, "unauthorized_client")
		// A call that was held for it can be made without it, until it dies with
		// what it came from.
		again := func() (identity.Caller, error) {
			w.poll()
			return w.who.Readmit(ctx, identity.Resumed{Agent: c.Agent.Name, AgentID: c.Agent.ID, Credential: c.Credential.ID, Kind: c.Credential.Kind, Lineage: c.Lineage, OnBehalfOf: c.OnBehalfOf})
		}
		if got, err := again(); err != nil || len(got.Behind) != 1 || got.Behind[0].Name != "bot" || !slices.Equal(got.Lineage, c.Lineage) {
			t.Errorf("made later: %+v, %v", got, err)
		}
		must(t, w.Revoke(ctx, parent, ""))
		if _, err := again(); !errors.Is(err, identity.ErrRevoked) {
			t.Errorf("made later, after the parent was revoked: %v", err)
		}
		w.refuses("after the parent was revoked", child, identity.ErrRevoked)
		w.fails("from a revoked one", w.exchange(parent, "", nil, "/mcp/ledger"), 400, "invalid_grant")
		w.fails("from nothing", w.exchange("nonsense", "", nil, "/mcp/ledger"), 400, "invalid_grant")
	})
}

// The chain of delegation is bounded, and everyone in it counts.
func TestDelegationDepth(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		token := w.get("bot", first(w.register("bot")), "", "/mcp/ledger")
		for _, name := range []string{"helper", "third", "fourth", "fifth"} {
			r := w.token(w.exchange(token, "", w.as(name, first(w.register(name))), "/mcp/ledger"))
			if r.Access == "" {
				t.Fatalf("%s: %+v", name, r)
			}
			token = r.Access
		}
		if got := names(w.accepts("five deep", token)); !slices.Equal(got, []string{"agent:bot", "agent:helper", "agent:third", "agent:fourth", "fifth"}) {
			t.Errorf("%v", got)
		}
		_, err := w.who.PutAgent(ctx, audit.System, "x", identity.Agent{Name: "sixth", Owner: "ada", Stage: identity.Staging})
		must(t, err)
		w.fails("six deep", w.exchange(token, "", w.as("sixth", first(w.register("sixth"))), "/mcp/ledger"), 400, "invalid_grant")
		_, err = w.who.Suspend(ctx, audit.System, "x", "third")
		must(t, err)
		w.refuses("with a suspended agent in the chain", token, identity.ErrPrincipal)
		_, err = w.who.Resume(ctx, audit.System, "x", "third")
		must(t, err)
		w.accepts("again", token)
		_, err = w.who.PutUser(ctx, audit.System, "x", identity.User{Name: "ada", Role: identity.Owner, Disabled: true})
		must(t, err)
		w.refuses("when the first agent's owner left", token, identity.ErrPrincipal)
	})
}

func first(p pair, _ tokens.ClientKey) pair { return p }

// A key or a run token can be turned into less for minutes, and what came of it
// ends with it.
func TestExchangeOfKeysAndRuns(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		k, value, err := w.who.IssueKey(ctx, audit.System, "", "bot", 0)
		must(t, err)
		w.fails("without a resource", w.exchange(value, "", nil), 400, "invalid_target")
		r := w.token(w.exchange(value, "read", nil, "/mcp/ledger"))
		w.accepts("from a key", r.Access)
		must(t, w.who.RevokeKey(ctx, audit.System, "x", k.ID))
		w.refuses("after the key was revoked", r.Access, identity.ErrRevoked)
		run, token, err := w.who.StartRun(ctx, audit.System, "", "bot", 0)
		must(t, err)
		helper, _ := w.register("helper")
		r = w.token(w.exchange(token, "", w.as("helper", helper), "/mcp/ledger"))
		if c := w.accepts("from a run", r.Access); c.Run != run.ID || !slices.Equal(names(c), []string{"agent:bot", "helper"}) {
			t.Errorf("%+v", c)
		}
		must(t, w.who.EndRun(ctx, audit.System, "x", run.ID))
		w.refuses("after the run ended", r.Access, identity.ErrRevoked)
		_, value, err = w.who.IssueKey(ctx, audit.System, "", "bot", 0)
		must(t, err)
		q := w.exchange(value, "", url.Values{"actor_token": {w.get("helper", helper, "", "/mcp/desk")}, "actor_token_type": {tokens.WantAccess}}, "/mcp/ledger")
		if c := w.accepts("with an actor's token", w.token(q).Access); !slices.Equal(names(c), []string{"agent:bot", "helper"}) {
			t.Errorf("%+v", c)
		}
		delete(q, "actor_token_type")
		w.fails("an actor's token without a type", q, 400, "invalid_request")
		q = w.exchange(value, "", w.as("helper", newPair(t, "helper-1")), "/mcp/ledger")
		w.fails("an actor that did not prove itself", q, 401, "invalid_client")
		w.nowhere(value, token)
	})
}

// A scope narrows what is already narrow, whatever is asked.
func TestScope(t *testing.T) {
	parse := func(s string) identity.Scope {
		t.Helper()
		x, err := identity.ParseScope(s)
		must(t, err)
		return x
	}
	for _, c := range []struct {
		inner, outer string
		within       bool
	}{
		{"read", "read write", true}, {"read write", "read", false}, {"read tool:a/b", "read", true}, {"read", "read tool:a/b", false},
		{"read tool:a/b", "read tool:a/b tool:a/c", true}, {"read tool:a/d", "read tool:a/b", false}, {"", "read", true}, {"irreversible", "read write", false},
	} {
		if got := parse(c.inner).Within(parse(c.outer)); got != c.within {
			t.Errorf("%q within %q: %v", c.inner, c.outer, got)
		}
	}
	if s := parse("write tool:b/x read tool:a/y read openid").String(); s != "read write tool:a/y tool:b/x" {
		t.Errorf("%q", s)
	}
	for _, bad := range []string{"admin", "tool:", "tool:x", "tool:/x", `tool:a/"b"`, "tool:a/b\\", "tool:a/\u00e9", strings.Repeat("read ", 65), strings.Repeat("x", 3000)} {
		if _, err := identity.ParseScope(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
	if s := parse("read tool:a/b").With("a", "c", "write"); s.String() != "read write tool:a/b tool:a/c" || !s.Allows("a", "c", "write") {
		t.Error(s)
	}
	if !parse("read tool:a/b").Allows("a", "mcp:tools/list", "read") || parse("read").Allows("a", "x", "write") {
		t.Error("effects or protocol steps")
	}
}

// FuzzScope: what a scope says reads back as the same, and allows no more than
// its effects.
func FuzzScope(f *testing.F) {
	f.Add("read write tool:ledger/pay_invoice")
	f.Add("tool:a/b read read")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := identity.ParseScope(text)
		if err != nil {
			return
		}
		again, err := identity.ParseScope(s.String())
		if err != nil || again.String() != s.String() || !again.Within(s) && len(s.Effects) > 0 {
			t.Errorf("%q became %q, then %q %v", text, s, again, err)
		}
		if !s.Within(identity.FullScope()) {
			t.Errorf("%q is more than everything", text)
		}
	})
}

// FuzzProof: no text from outside lets anyone in, or breaks the reader.
func FuzzProof(f *testing.F) {
	w := open(f, storagetest.Open(f, storagetest.SQLite(f)))
	p, _ := w.register("bot")
	f.Add(w.assertion("bot", newPair(f, "bot-1"), nil))
	f.Add(w.assertion("bot", p, m{"exp": 1e300}))
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Fuzz(func(t *testing.T, token string) {
		if out, err := w.Federate(ctx, token, "bot", tokens.Ask{Resources: []string{w.Issuer() + "/mcp"}}); err == nil {
			t.Errorf("%q had %+v", token, out)
		}
		if _, err := w.who.Authenticate(ctx, token); err == nil {
			t.Errorf("%q is somebody", token)
		}
	})
}
