package reviews_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/reviews"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/internal/tokens"
)

// TestOtherKinds revokes one of each: it is ended, and tried.
func TestOtherKinds(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		w := build(t, dsn)
		_, err := w.tokens.PutRule(ctx, w.person("dan"), "test", tokens.Rule{Name: "ci", Agent: "payer", Issuer: "https://ci.example", Subject: "repo:x"})
		w.must(err)
		r, err := w.Begin(ctx, w.person("root"), "everything", reviews.Review{Name: "all", Scope: reviews.Scope{Kinds: reviews.Kinds, All: true}, Rules: reviews.Rules{Levels: [][]string{{"owner", "backup", "role:admin"}}}})
		w.must(err)
		at := map[string]int{}
		for _, it := range r.Items {
			at[it.Subject.Kind] = it.N
		}
		if len(at) != 5 {
			t.Fatalf("%v", at)
		}
		revoke := func(who, kind, to string) reviews.Item {
			t.Helper()
			it, err := w.Decide(ctx, w.user(who), "all", at[kind], reviews.Answer{Decision: reviews.Revoke, To: to})
			w.must(err)
			if it.Remediation != reviews.Success || len(it.Remedy.Probes) == 0 {
				t.Errorf("%s: %+v", kind, it)
			}
			return it
		}
		if it := revoke("ada", reviews.Trust, ""); it.Remedy.Probes[0].Result != reviews.Refused {
			t.Errorf("%+v", it.Remedy)
		}
		if _, err := w.tokens.Rule(ctx, "ci"); !errors.Is(err, tokens.ErrNotFound) {
			t.Errorf("the rule is still there: %v", err)
		}
		it := revoke("bob", reviews.Connection, "")
		if p := it.Remedy.Probes[0]; p.Result != reviews.Refused || p.Event == "" || w.locks.Check(locks.Subject{Connection: "model"}) == nil {
			t.Errorf("a disabled connection: %+v", it.Remedy)
		}
		revoke("bob", reviews.Secret, "") // it has no rotator, so the connection that sends it is disabled
		if _, err := w.Decide(ctx, w.user("bob"), "all", at[reviews.Owner], reviews.Answer{Decision: reviews.Revoke, To: "vic"}); !errors.Is(err, reviews.ErrInvalid) {
			t.Errorf("given to who may own nothing: %v", err)
		}
		revoke("bob", reviews.Owner, "dan")
		if a, _ := w.ids.Agent("payer"); a.Owner != "dan" {
			t.Errorf("%+v", a)
		}
	})
}

// TestStandingRights are found, and an exception has an owner, a reason and an end.
func TestStandingRights(t *testing.T) {
	w := build(t, storagetest.SQLite(t))
	_, err := w.conns.Register(ctx, audit.System, "test", connections.Connection{Name: "ledger", Kind: "mcp", URL: "https://ledger.example", Owner: "bob", Auth: connections.AuthNone})
	w.must(err)
	w.conns.SetDiscoverer(pays{})
	_, err = w.conns.Refresh(ctx, w.person("dan"), "test", "ledger")
	w.must(err)
	w.must(w.watch.Poll(ctx))
	w.stood("pays", "payer", "pay")
	w.tick()
	open := w.open(reviews.RuleStanding)
	if len(open) != 1 || open[0].Object != "grant/pays" {
		t.Fatalf("%+v", open)
	}
	until := w.clock().Add(30 * day)
	for _, bad := range []struct {
		reason, owner string
		until         time.Time
	}{{"", "ada", until}, {"x", "vic", until}, {"x", "ada", w.clock().Add(-time.Hour)}, {"x", "ada", w.clock().Add(400 * day)}} {
		if _, err := w.Except(ctx, w.person("dan"), bad.reason, reviews.Exception{Grant: "pays", Owner: bad.owner, Until: bad.until}); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	e, err := w.Except(ctx, w.person("dan"), "until the new tool is there", reviews.Exception{Grant: "pays", Owner: "ada", Until: until})
	w.must(err)
	if len(w.open(reviews.RuleStanding)) != 0 {
		t.Error("an exception does not count")
	}
	w.pass(31 * day)
	w.tick()
	if len(w.open(reviews.RuleStanding)) != 1 {
		t.Error("an exception counts after its end")
	}
	w.must(w.EndException(ctx, w.person("dan"), "over", e.ID))
	_, err = w.policy.PutGrant(ctx, w.person("dan"), "bounded", policy.Grant{Name: "pays", Agent: "payer", Connection: "ledger", Tools: []string{"pay"}, Expires: time.Now().Add(day)})
	w.must(err)
	w.tick()
	if len(w.open(reviews.RuleStanding)) != 0 {
		t.Error("a right with an end stands")
	}
}

// TestQuestions are asked when something changes, once.
func TestQuestions(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		w := build(t, dsn)
		w.tick() // from here on
		_, err := w.ids.SetOwner(ctx, w.person("root"), "moved", "payer", "bob", "")
		w.must(err)
		_, err = w.policy.PutGrant(ctx, w.person("dan"), "wider", policy.Grant{Name: "one", Agent: "payer", Connection: "model", Tools: []string{"*"}})
		w.must(err)
		w.pass(time.Minute)
		w.tick()
		w.pass(time.Minute)
		w.tick()
		all, err := w.List(ctx, true)
		w.must(err)
		if len(all) != 1 || !strings.HasPrefix(all[0].Question, "bob answers for payer now, no more ada") || all[0].Counts.Items != 2 {
			t.Fatalf("%+v", all)
		}
		if campaigns, err := w.List(ctx, false); err != nil || len(campaigns) != 0 {
			t.Errorf("%v %+v", err, campaigns)
		}
		q := w.get(all[0].Name)
		if !slices.Equal(q.Items[0].Reviewers, []string{"bob"}) {
			t.Errorf("%+v", q.Items[0])
		}
		for n := 1; n <= 2; n++ {
			_, err := w.decide("bob", q.Name, n, reviews.Keep, "still needed")
			w.must(err)
		}
		// What is narrower is not asked about; what is wider is.
		_, err = w.policy.PutGrant(ctx, w.person("dan"), "narrower", policy.Grant{Name: "one", Agent: "payer", Connection: "model", Tools: []string{"models"}})
		w.must(err)
		_, err = w.policy.PutGrant(ctx, w.person("dan"), "wider", policy.Grant{Name: "two", Agent: "payer", Connection: "model", Tools: []string{"embeddings", "models"}})
		w.must(err)
		w.pass(time.Minute)
		w.tick()
		all, err = w.List(ctx, true)
		w.must(err)
		if len(all) != 2 || all[0].Question != "dan made the grant two wider: is that needed?" || all[0].Counts.Items != 1 {
			t.Errorf("%+v", all)
		}
	})
}

// TestHowAnAgentStands is what others ask reviews.
func TestHowAnAgentStands(t *testing.T) {
	w := build(t, storagetest.SQLite(t))
	r := w.begin(reviews.Rules{})
	_, err := w.decide("ada", r.Name, 1, reviews.Keep, "needed")
	w.must(err)
	last, err := w.LastReview(ctx, "payer")
	w.must(err)
	if last.Grants != 2 || !last.Last.IsZero() || !slices.Equal(last.Unreviewed, []string{"two"}) || !slices.Equal(last.Pending, []string{r.Name + " 2"}) {
		t.Errorf("%+v", last)
	}
	_, err = w.decide("ada", r.Name, 2, reviews.Keep, "needed")
	w.must(err)
	last, err = w.LastReview(ctx, "payer")
	w.must(err)
	at, err := w.Reviewed(ctx)
	w.must(err)
	if last.Last.IsZero() || len(last.Pending) != 0 || len(at) != 2 || !last.Last.Equal(at["one"]) {
		t.Errorf("%+v %v", last, at)
	}
	_, err = w.ids.PutAgent(ctx, audit.System, "test", identity.Agent{Name: "bare", Owner: "ada", Stage: "staging", Purpose: "x"})
	w.must(err)
	if last, err = w.LastReview(ctx, "bare"); err != nil || last.Grants != 0 {
		t.Errorf("%v %+v", err, last)
	}
}

// pays is an upstream with one tool, of which nobody has said that it can be undone.
type pays struct{}

func (pays) Discover(context.Context, audit.Actor, connections.Connection) ([]connections.Definition, error) {
	return []connections.Definition{{Name: "pay", Raw: []byte(`{"name":"pay","inputSchema":{"type":"object"}}`)}}, nil
}
