package posture_test

import (
	"context"
	"encoding/json/jsontext"
	"slices"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/posture"
	"github.com/countersign/countersign/internal/storage"
)

// broken makes every check of a predicate fail at once, in a business in which
// they pass. What breaks a check on its own is beside it, by its name.
var broken = map[string]struct {
	checks []string
	breaks func(w *world, tool string)
}{
	"E1": {[]string{"agents", "tools", "callers", "models", "secrets", "networks"}, func(w *world, tool string) {
		w.call(w.event("ghost", "model", tool), true)
		who := w.event("payer", "model", "invented")
		who.Type, who.Remote, who.Detail = audit.CallRefused, "198.51.100.4", jsontext.Value(`{"front":"mcp","code":"unknown_tool"}`)
		w.note(who)
		w.note(audit.Event{Type: audit.AuthRefused, Remote: "203.0.113.9", Client: "curl/8", Detail: jsontext.Value(`{"code":"credential_unknown","count":3}`)})
		w.note(audit.Event{Type: "canary.used", Object: "canary/wiki", Remote: "203.0.113.9"})
		w.answered(w.event("payer", "model", tool), "a model that nobody prices")
	}},
	"E2": {[]string{"owners", "identities"}, func(w *world, tool string) {
		ev := w.event("payer", "model", tool)
		ev.Agent = "twin" // with the credential of payer
		w.call(ev, true)
		u, _ := w.ids.User("olga")
		u.Disabled = true
		_, err := w.ids.PutUser(ctx, audit.System, "test", u)
		w.must(err)
	}},
	"E3": {[]string{"redaction", "found"}, func(w *world, _ string) {
		w.leaky = []byte{}
		w.must(w.findings.Open(ctx, findings.Finding{Rule: "credential.leaked", Severity: findings.Critical, Object: "secret/model-key", Title: "it stands in a wiki"}))
	}},
	"E4": {[]string{"credentials", "secrets"}, func(w *world, _ string) {
		w.write(`UPDATE agent_keys SET expires = $1 WHERE agent = 'payer'`, storage.Micros(time.Now().Add(1000*24*time.Hour)))
		w.ahead = 100 * 24 * time.Hour
	}},
	"E5": {[]string{"use", "width", "reviews", "duties"}, func(w *world, _ string) {
		_, err := w.policy.PutGrant(ctx, audit.System, "test", policy.Grant{Name: "payer-model", Agent: "payer", Connection: "model", Tools: []string{"*"}})
		w.must(err)
		w.SetReviews(func(context.Context) (map[string]time.Time, map[string][]string, error) {
			return nil, map[string][]string{"payer": {"it pays and approves"}}, nil
		})
		w.ahead = 61 * 24 * time.Hour
	}},
	"E6": {[]string{"calls", "delegation", "widening"}, func(w *world, tool string) {
		ev := w.event("payer", "model", tool)
		ev.Credential = ""
		w.call(ev, true)
		w.note(audit.Event{Type: "token.issued", Agent: "payer", Detail: jsontext.Value(`{"token":"atk_parent","scope":"read","audience":["http://x/mcp"],"expires":"2026-01-01T00:00:00Z"}`)})
		w.note(audit.Event{Type: "token.exchanged", Agent: "payer", Detail: jsontext.Value(`{"token":"atk_child","scope":"read write","audience":["http://x/mcp"],"expires":"2026-01-01T00:00:00Z","subject_credential":"atk_parent"}`)})
		w.doors = "open"
	}},
	"E7": {[]string{"no credential", "forged token", "expired", "wrong audience", "out of grant", "other stage", "stages"}, func(w *world, tool string) {
		ev := w.event("payer", "model", tool)
		ev.Stage = "development"
		w.call(ev, true)
		w.doors = "open"
	}},
	"E8": {[]string{"decommissioned", "drill"}, func(w *world, tool string) {
		_, err := w.ids.PutAgent(ctx, audit.System, "test", identity.Agent{Name: "old", Owner: "olga", Stage: "production", Purpose: "is ended"})
		w.must(err)
		w.must(w.watch.Poll(ctx))
		_, err = w.lifecycle.Decommission(ctx, audit.System, "test", "old")
		w.must(err)
		w.must(w.watch.Poll(ctx))
		w.call(w.event("old", "model", tool), true)
		w.doors = "open"
	}},
	"E9": {[]string{"tools", "policies", "prompts"}, func(w *world, _ string) {
		_, err := w.conns.Register(ctx, audit.System, "test", connections.Connection{Name: "desk", Kind: "mcp", URL: "https://desk.example/mcp", Owner: "olga"})
		w.must(err)
		w.must(w.watch.Poll(ctx))
		for _, says := range []string{"reads", "reads, and pays"} { // accepted at first, and changed
			w.conns.SetDiscoverer(offers(says))
			_, err = w.conns.Refresh(ctx, audit.System, "test", "desk")
			w.must(err)
			w.must(w.watch.Poll(ctx))
		}
		w.write(`UPDATE grants SET expires = 0`) // and no replica is told
		w.SetReleases(func(context.Context) ([]posture.Pinned, error) {
			return []posture.Pinned{{Agent: "payer", Approved: "sha256:1", Running: "sha256:2"}}, nil
		})
	}},
	"E10": {[]string{"outcomes", "chain", "tree", "delivery"}, func(w *world, tool string) {
		w.call(w.event("payer", "model", tool), false)
		w.write(`UPDATE events SET chain = $1 WHERE sn = 3`, make([]byte, 32))
		w.seal = "lane 1 has a gap"
		w.sent = []posture.Delivery{{Name: "siem", Since: time.Now(), Error: "refused"}}
		w.ahead = 3 * time.Hour
	}},
	"E11": {[]string{"retention", "deletions", "beginning"}, func(w *world, _ string) {
		w.must(w.log.SetRetention(ctx, audit.System, "less to keep", audit.Retention{Days: 30}))
		w.note(audit.Event{Type: audit.PayloadExpired, Object: "log/retention", Detail: jsontext.Value(`{"days":30}`)})
		w.write(`DELETE FROM events WHERE sn = 1`)
	}},
	"E12": {[]string{"stop", "approvals"}, func(w *world, tool string) {
		w.approved(tool, "another/tool")
		w.doors = "open"
	}},
}

func TestEveryCheckCanFail(t *testing.T) {
	for _, p := range posture.Predicates() {
		t.Run(p.ID, func(t *testing.T) {
			t.Parallel()
			w := build(t)
			tool := w.business()
			w.approved(tool, tool)
			w.whole()
			good := w.evaluate(p.ID)
			b := broken[p.ID]
			for _, c := range good.Checks { // that all are listed, but for those of which cases says how they fail
				if !slices.Contains(b.checks, c.Name) && !(p.ID == "E3" && c.Name == "record") {
					t.Errorf("nothing breaks the check %q", c.Name)
				}
				if c.Result == posture.Fail {
					t.Errorf("in order, %q fails: %+v", c.Name, c.Violations)
				}
			}
			b.breaks(w, tool)
			w.must(w.watch.Poll(ctx))
			bad := w.evaluate(p.ID)
			for _, c := range bad.Checks {
				if slices.Contains(b.checks, c.Name) && (c.Result != posture.Fail || len(c.Violations) == 0 || !c.Canary.Caught) {
					t.Errorf("broken, %q is %s (%s): %+v", c.Name, c.Result, c.Reason, c)
				}
			}
		})
	}
}

// offers is an upstream with one tool, which says what it does.
type offers string

func (o offers) Discover(context.Context, audit.Actor, connections.Connection) ([]connections.Definition, error) {
	return []connections.Definition{{Name: "read", Raw: jsontext.Value(`{"name":"read","description":"` + string(o) + `","inputSchema":{"type":"object"}}`)}}, nil
}

// note records an event of an agent, or of nobody.
func (w *world) note(ev audit.Event) {
	w.t.Helper()
	if ev.Actor.Kind == "" {
		ev.Actor = audit.System
	}
	_, err := w.log.Append(ctx, ev)
	w.must(err)
}

// write changes the store behind everybody's back.
func (w *world) write(q string, args ...any) {
	w.t.Helper()
	w.must(w.db.Tx(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(ctx, q, args...)
		return err
	}))
}
