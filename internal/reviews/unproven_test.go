package reviews_test

import (
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/reviews"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/internal/tokens"
)

// about begins a review about one thing and returns its item.
func (w *world) about(kind, name string, rules reviews.Rules) reviews.Item {
	w.t.Helper()
	rules.Levels = [][]string{{"owner", "backup", "role:admin"}}
	r, err := w.Begin(ctx, w.person("dan"), "test", reviews.Review{Name: "about-" + name + "-" + strings.ToLower(kind), Scope: reviews.Scope{Kinds: []string{kind}, Names: []string{name}, All: true}, Rules: rules})
	w.must(err)
	return w.get(r.Name).Items[0]
}

func (w *world) trust(name string, change func(*tokens.Rule)) {
	w.t.Helper()
	r := tokens.Rule{Name: name, Agent: "payer", Issuer: "https://ci.example", Subject: "repo:x"}
	change(&r)
	_, err := w.tokens.PutRule(ctx, w.person("dan"), "test", r)
	w.must(err)
}

// A trust rule that was removed is tried with a token as it let in, which is refused
// for want of a rule; what another rule trusts all the same shows nothing.
func TestARemovedTrustRuleIsTried(t *testing.T) {
	w := build(t, storagetest.SQLite(t))
	for name, change := range map[string]func(*tokens.Rule){
		"plain": func(*tokens.Rule) {},
		"claims": func(r *tokens.Rule) {
			r.Subject, r.Claims, r.Audience = "repo:y", map[string]string{"repository": "acme/y", "protected": "true"}, "https://elsewhere.example"
		},
		"wild": func(r *tokens.Rule) { r.Subject, r.Wildcard = "repo:acme/*:ref:main", "every branch" },
		"person": func(r *tokens.Rule) {
			r.Issuer, r.Subject, r.User, r.Audience = "https://people.example", "u-1", "fin", "program-1"
		},
		"spiffe": func(r *tokens.Rule) {
			r.Issuer, r.Subject, r.JWKSURL = "spiffe://acme", "spiffe://acme/payer", "https://keys.acme.example/jwks"
		},
	} {
		w.trust(name, change)
		it := w.about(reviews.Trust, name, reviews.Rules{})
		rule, err := w.tokens.Rule(ctx, name)
		w.must(err)
		before, err := w.tokens.Counterfeit(rule)
		w.must(err)
		if by, err := w.tokens.Trusting(before, "payer", rule.User != ""); err != nil || len(by) != 1 || by[0] != name {
			t.Errorf("%s: while the rule is there its token is trusted by %v, %v", name, by, err)
		}
		w.presented, w.refusals = nil, nil
		it, err = w.decide("root", it.Review, it.N, reviews.Revoke, "")
		w.must(err)
		if p := it.Remedy.Probes; it.Remediation != reviews.Success || len(p) != 1 || p[0].Result != reviews.Refused || len(w.presented) != 1 {
			t.Errorf("%s: %+v, %d shown", name, it.Remedy, len(w.presented))
		}
		if why := strings.Join(w.refusals, ""); strings.Contains(why, "key") || strings.Contains(why, "signature") || !strings.Contains(why, "rule") && !strings.Contains(why, "subject") {
			t.Errorf("%s: it was refused for something else: %s", name, why)
		}
	}

	w.trust("one", func(*tokens.Rule) {})
	w.trust("two", func(r *tokens.Rule) { r.Subject, r.Wildcard = "repo:*", "all of them" })
	it, err := w.decide("root", w.about(reviews.Trust, "one", reviews.Rules{}).Review, 1, reviews.Revoke, "")
	w.must(err)
	if p := it.Remedy.Probes; it.Remediation != reviews.Unproven || p[0].Result != reviews.Otherwise || !strings.Contains(p[0].Why, "two") {
		t.Errorf("another rule trusts it: %+v", it.Remedy)
	}

	w.doors = "open"
	it, err = w.decide("root", w.about(reviews.Trust, "two", reviews.Rules{}).Review, 1, reviews.Revoke, "")
	w.must(err)
	if it.Remediation != reviews.Failed || len(w.open(reviews.RuleFailed)) != 1 {
		t.Errorf("let in: %+v", it.Remedy)
	}

	w.trust("three", func(*tokens.Rule) {})
	waits := w.about(reviews.Trust, "three", reviews.Rules{Grace: "1h"})
	_, err = w.decide("root", waits.Review, 1, reviews.Revoke, "")
	w.must(err)
	w.must(w.tokens.DeleteRule(ctx, w.person("dan"), "by hand", "three"))
	w.pass(2 * time.Hour)
	w.tick()
	if it := w.get(waits.Review).Items[0]; it.Remediation != reviews.Unproven || it.Remedy.Probes[0].Result != reviews.NotTried {
		t.Errorf("somebody else removed it: %s %+v", it.Remediation, it.Remedy)
	}
}

// What cannot be tried ends: at once if its lock was lifted, and else after so many
// tries. It is unproven then, and a finding says why.
func TestProbesEnd(t *testing.T) {
	w := build(t, storagetest.SQLite(t))
	it := w.about(reviews.Connection, "model", reviews.Rules{})
	w.doors = "gone"
	it, err := w.decide("bob", it.Review, 1, reviews.Revoke, "")
	w.must(err)
	if it.Remediation != reviews.Executed || it.Remedy.Tries == 0 || it.Remedy.Lock == "" {
		t.Fatalf("%s %+v", it.Remediation, it.Remedy)
	}
	_, err = w.locks.Lift(ctx, w.person("root"), "needed at once", it.Remedy.Lock)
	w.must(err)
	w.pass(10 * time.Minute)
	w.tick()
	it = w.get(it.Review).Items[0]
	if p := it.Remedy.Probes; it.Remediation != reviews.Unproven || !strings.Contains(p[0].Why, "lifted by root") || !strings.Contains(p[0].Why, "needed at once") {
		t.Errorf("%s %+v", it.Remediation, it.Remedy)
	}
	if open := w.open(reviews.RuleStuck); len(open) != 1 || !strings.Contains(open[0].Detail, "lifted by root") {
		t.Errorf("%+v", open)
	}

	it, err = w.decide("ada", w.begin(reviews.Rules{}, "one").Name, 1, reviews.Revoke, "")
	w.must(err)
	n := 1
	for ; it.Remediation == reviews.Executed && n < 100; n++ {
		w.pass(10 * time.Minute)
		_ = w.Tick(ctx, w.lease) // it says what fails
		it = w.get(it.Review).Items[0]
	}
	if it.Remediation != reviews.Unproven || n != 24 || !strings.Contains(it.Remedy.Probes[0].Why, "after 24 tries") {
		t.Errorf("after %d: %s %+v", n, it.Remediation, it.Remedy)
	}
	recs, err := w.log.List(ctx, audit.Query{Types: []audit.Type{"review.revoke_tried"}})
	w.must(err)
	if len(recs) != 2 {
		t.Errorf("%d events", len(recs))
	}
	if r := w.get(it.Review); r.State != reviews.Closed {
		t.Errorf("the review is %s", r.State)
	}
}
