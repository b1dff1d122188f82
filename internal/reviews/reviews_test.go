package reviews_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/reviews"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// TestACampaign keeps one grant and revokes another, which is then refused.
func TestACampaign(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		w := build(t, dsn)
		w.used["two"] = reviews.Use{Watched: time.Now().Add(-90 * day)}
		w.pass(60 * day)
		r := w.begin(reviews.Rules{})
		if len(r.Items) != 2 || r.Items[0].Subject.Name != "one" || !slices.Equal(r.Items[0].Subject.Flags, []string{"new"}) || r.Items[0].Subject.Suggest != "" {
			t.Fatalf("%+v", r.Items)
		}
		if two := r.Items[1]; !slices.Equal(two.Subject.Flags, []string{"new", "unused"}) || two.Subject.Suggest != reviews.Revoke || !slices.Equal(two.Reviewers, []string{"ada"}) {
			t.Errorf("what nobody used for 90 days is not marked for revoking: %+v", two)
		}
		if len(w.told) != 1 || w.told[0].People[0].Name != "ada" {
			t.Errorf("the reviewer was not told: %+v", w.told)
		}
		mine, err := w.Mine(ctx, reviews.Person{ID: w.user("ada").ID, Name: "ada"})
		w.must(err)
		if len(mine) != 2 {
			t.Errorf("ada has %d items waiting", len(mine))
		}
		if _, err := w.decide("ada", r.Name, 1, reviews.Keep, " "); !errors.Is(err, reviews.ErrReason) {
			t.Errorf("kept without a reason: %v", err)
		}
		if _, err := w.decide("fin", r.Name, 1, reviews.Keep, "why not"); !errors.Is(err, reviews.ErrNotYours) {
			t.Errorf("anybody decides: %v", err)
		}
		it, err := w.decide("ada", r.Name, 1, reviews.Keep, "answers every ticket")
		w.must(err)
		if it.Decision != reviews.Keep || it.Remediation != reviews.NoRemedy || !w.has("one") {
			t.Errorf("%+v", it)
		}
		it, err = w.decide("ada", r.Name, 2, reviews.Revoke, "")
		w.must(err)
		if it.Decision != reviews.Revoke || it.Remediation != reviews.Success || len(it.Remedy.Probes) != 1 || it.Remedy.Probes[0].Result != reviews.Refused || it.Remedy.Probes[0].Event == "" || w.has("two") {
			t.Errorf("a revoke was not executed and proven: %+v", it)
		}
		if rec, err := w.log.Get(ctx, it.Remedy.Probes[0].Event); err != nil || rec.Event.Type != audit.CallDenied || rec.Event.Agent != "payer" {
			t.Errorf("%v %+v", err, rec.Event)
		}
		r = w.get(r.Name)
		if r.State != reviews.Closed || r.Counts.Kept != 1 || r.Counts.Revoked != 1 || r.Counts.Pending != 0 {
			t.Errorf("%+v", r)
		}
		w.must(w.log.Change(ctx, func(tx *audit.Tx) error {
			gone, err := w.RevokedTx(ctx, tx, "payer")
			if err != nil || gone["one"] || !gone["two"] {
				t.Errorf("revoked: %v %v", gone, err)
			}
			return err
		}))
		if _, err := w.decide("ada", r.Name, 1, reviews.Revoke, "changed my mind"); !errors.Is(err, reviews.ErrDecided) {
			t.Errorf("decided twice: %v", err)
		}
		// What was kept as it is, is not asked about again; what it became is.
		if _, err := w.Begin(ctx, w.person("dan"), "again", reviews.Review{Name: "again"}); !errors.Is(err, reviews.ErrEmpty) {
			t.Errorf("a kept grant is asked about again: %v", err)
		}
		_, err = w.policy.PutGrant(ctx, w.person("dan"), "wider", policy.Grant{Name: "one", Agent: "payer", Connection: "model", Tools: []string{"*"}})
		w.must(err)
		r, err = w.Begin(ctx, w.person("dan"), "again", reviews.Review{Name: "again"})
		w.must(err)
		if !slices.Equal(r.Items[0].Subject.Flags, []string{"new", "wide"}) {
			t.Errorf("%v", r.Items[0].Subject.Flags)
		}
	})
}

// TestNobodyReviewsThemselves tries every way to one's own grant: directly,
// through a group, a level, an escalation, a handover, and after another's edit.
func TestNobodyReviewsThemselves(t *testing.T) {
	w := build(t, storagetest.SQLite(t))
	w.grant("ada", "hers", "models")
	_, err := w.policy.PutGrant(ctx, w.person("dan"), "an edit", policy.Grant{Name: "hers", Agent: "payer", Connection: "model", Tools: []string{"models"}, Expires: time.Now().Add(day)})
	w.must(err)
	self := func(err error) {
		t.Helper()
		if !errors.Is(err, reviews.ErrSelf) {
			t.Errorf("%v", err)
		}
	}
	for _, rule := range []string{"owner", "user:ada", "group:finance"} {
		r := w.begin(reviews.Rules{Levels: [][]string{{rule}}, Escalate: []string{"group:finance", "user:ada"}}, "hers")
		if slices.Contains(r.Items[0].Reviewers, "ada") {
			t.Errorf("%s: ada reviews what she gave: %v", rule, r.Items[0].Reviewers)
		}
		_, err := w.decide("ada", r.Name, 1, reviews.Keep, "it is good")
		self(err)
		_, err = w.Delegate(ctx, w.user("ada"), r.Name, 1, "bob", "decide for me")
		self(err)
		_, err = w.Delegate(ctx, w.user("dan"), r.Name, 1, "bob", "I edited it")
		self(err)
		if _, err = w.Delegate(ctx, w.user("root"), r.Name, 1, "ada", "hers"); !errors.Is(err, reviews.ErrDelegate) {
			t.Errorf("handed to who gave it: %v", err)
		}
	}
	// Who owns the agent, where the review wants other eyes; and who is the owner.
	r := w.begin(reviews.Rules{Levels: [][]string{{"owner", "backup"}}, Apart: true}, "one")
	_, err = w.decide("ada", r.Name, 1, reviews.Keep, "mine")
	self(err)
	if _, err = w.decide("bob", r.Name, 1, reviews.Keep, "needed"); err != nil {
		t.Error(err)
	}
	r, err = w.Begin(ctx, w.person("dan"), "owners", reviews.Review{Scope: reviews.Scope{Kinds: []string{reviews.Owner}}, Rules: reviews.Rules{Levels: [][]string{{"owner", "backup"}}}})
	w.must(err)
	_, err = w.decide("ada", r.ID, 1, reviews.Keep, "I am the right one")
	self(err)
	// Who changed it while the review was open, and back: it says what it said.
	w.grant("dan", "back", "models")
	r = w.begin(reviews.Rules{}, "back")
	for _, tool := range []string{"*", "models"} {
		w.grant("ada", "back", tool)
	}
	_, err = w.decide("ada", r.Name, 1, reviews.Keep, "as it was")
	self(err)
	// Not at both levels either.
	r = w.begin(reviews.Rules{Levels: [][]string{{"owner"}, {"owner", "group:finance"}}}, "two")
	it, err := w.decide("ada", r.Name, 1, reviews.Keep, "needed")
	w.must(err)
	if it.Decision != "" || it.Level != 2 {
		t.Errorf("one level of two decided: %+v", it)
	}
	_, err = w.decide("ada", r.Name, 1, reviews.Keep, "still")
	self(err)
	if it, err = w.decide("fin", r.Name, 1, reviews.Keep, "confirmed"); err != nil || it.Decision != reviews.Keep || len(it.Verdicts) != 2 {
		t.Errorf("%v %+v", err, it)
	}
}

// TestHandovers are taken up, do not go round, and end with who leaves.
func TestHandovers(t *testing.T) {
	w := build(t, storagetest.SQLite(t))
	r := w.begin(reviews.Rules{}, "one")
	hand := func(from, to string) error {
		_, err := w.Delegate(ctx, w.user(from), r.Name, 1, to, "knows it better")
		return err
	}
	if _, err := w.Delegate(ctx, w.user("ada"), r.Name, 1, "bob", ""); !errors.Is(err, reviews.ErrReason) {
		t.Errorf("without a note: %v", err)
	}
	for _, to := range []string{"ada", "vic", "nobody", "dan"} {
		if err := hand("ada", to); !errors.Is(err, reviews.ErrDelegate) {
			t.Errorf("handed to %s: %v", to, err)
		}
	}
	w.must(hand("ada", "bob"))
	if _, err := w.decide("ada", r.Name, 1, reviews.Keep, "after all"); !errors.Is(err, reviews.ErrNotYours) {
		t.Errorf("who handed it over decides: %v", err)
	}
	w.must(hand("bob", "fin"))
	for _, to := range []string{"ada", "bob", "fin"} {
		if err := hand("fin", to); !errors.Is(err, reviews.ErrDelegate) {
			t.Errorf("it goes round to %s: %v", to, err)
		}
	}
	w.disable("fin")
	if got := w.get(r.Name).Items[0].Reviewers; !slices.Equal(got, []string{"bob"}) {
		t.Errorf("after the last one left: %v", got)
	}
	it, err := w.decide("bob", r.Name, 1, reviews.Keep, "needed")
	w.must(err)
	if len(it.Handovers) != 2 || it.Handovers[1].Note != "knows it better" || it.Handovers[1].Event == "" {
		t.Errorf("%+v", it.Handovers)
	}
}

// TestEveryReviewerLeft escalates, and never closes by silence.
func TestEveryReviewerLeft(t *testing.T) {
	for _, silence := range reviews.Silences {
		t.Run(silence, func(t *testing.T) {
			w := build(t, storagetest.SQLite(t))
			r := w.begin(reviews.Rules{Silence: silence, Escalate: []string{"user:fin"}}, "one")
			w.disable("ada")
			w.pass(2 * time.Minute)
			w.tick()
			it := w.get(r.Name).Items[0]
			if it.Escalated.IsZero() || !slices.Equal(it.Reviewers, []string{"fin"}) || len(w.open(reviews.RuleNobody)) != 0 {
				t.Errorf("it did not escalate: %+v", it)
			}
			w.disable("fin")
			w.pass(30 * day)
			w.tick()
			got := w.get(r.Name)
			if got.State != reviews.Open || !got.Overdue || got.Items[0].Decision != "" || !w.has("one") || len(w.open(reviews.RuleNobody)) != 1 || len(w.open(reviews.RuleLate)) != 1 {
				t.Errorf("silence of nobody decided: %+v, findings %v", got, w.open(reviews.RuleNobody))
			}
			if _, err := w.Close(ctx, w.person("dan"), "away with it", r.Name); !errors.Is(err, reviews.ErrNobody) {
				t.Errorf("closed: %v", err)
			}
			if _, err := w.Delegate(ctx, w.user("root"), r.Name, 1, "bob", "nobody else is left"); err != nil {
				t.Fatal(err)
			}
			_, err := w.decide("bob", r.Name, 1, reviews.Keep, "needed")
			w.must(err)
			if got = w.get(r.Name); got.State != reviews.Closed || len(w.open(reviews.RuleNobody)) != 0 || len(w.open(reviews.RuleLate)) != 0 {
				t.Errorf("%+v", got)
			}
		})
	}
}

// TestSilence ends as was said at the start, and nobody decides after it.
func TestSilence(t *testing.T) {
	w := build(t, storagetest.SQLite(t))
	keep, revoke, up := w.begin(reviews.Rules{Silence: reviews.KeepSilent, Levels: [][]string{{"owner"}, {"backup"}}}, "one"), w.begin(reviews.Rules{Silence: reviews.RevokeSilent}, "two"), w.begin(reviews.Rules{}, "one")
	w.pass(8 * day)
	w.tick()
	if got := w.get(keep.Name); got.Reminded != 1 || len(w.told) != 6 {
		t.Errorf("reminded %d times, told %d", got.Reminded, len(w.told))
	}
	w.pass(7 * day)
	for _, r := range []reviews.Review{keep, revoke, up} {
		if _, err := w.decide("ada", r.Name, 1, reviews.Keep, "late"); !errors.Is(err, reviews.ErrDue) {
			t.Errorf("decided after the end: %v", err)
		}
	}
	w.tick()
	for r, want := range map[string]string{keep.Name: reviews.Keep, revoke.Name: reviews.Revoke, up.Name: ""} {
		it := w.get(r).Items[0]
		if it.Decision != want {
			t.Errorf("%s: %+v", r, it)
		}
		if want == "" && !slices.Equal(it.Reviewers, []string{"root"}) {
			t.Errorf("it escalates to %v", it.Reviewers)
		}
		if _, err := w.decide("ada", r, 1, reviews.Revoke, "late"); !errors.Is(err, reviews.ErrDecided) && !errors.Is(err, reviews.ErrNotYours) {
			t.Errorf("decided after the end: %v", err)
		}
	}
	w.pass(time.Minute)
	w.tick()
	if it := w.get(revoke.Name).Items[0]; it.Remediation != reviews.Success || w.has("two") || it.Verdicts[0].By.ID != "" {
		t.Errorf("what silence revoked was not executed: %+v", it)
	}
	if _, err := w.decide("root", up.Name, 1, reviews.Keep, "needed"); err != nil {
		t.Error(err)
	}
}

// TestUsedBetween shows the calls between a decision and its execution.
func TestUsedBetween(t *testing.T) {
	w := build(t, storagetest.SQLite(t))
	r := w.begin(reviews.Rules{Grace: "1h"}, "one")
	call := func(grant string) string {
		ev := audit.Event{Call: id.New(id.Call), Agent: "payer", Connection: "model", Tool: "chat.completions", Decision: &audit.Decision{Effect: "allow", Grants: []string{grant}}}
		if _, err := w.log.Intent(ctx, ev); err != nil {
			t.Error(err)
		}
		return ev.Call
	}
	call("one")
	it, err := w.decide("ada", r.Name, 1, reviews.Revoke, "not needed")
	w.must(err)
	if it.Remediation != reviews.Waiting || !w.has("one") || w.get(r.Name).State != reviews.Decided {
		t.Errorf("a grace was not given: %+v", it)
	}
	call("one")
	call("two")
	var all sync.WaitGroup
	for range 20 { // more than one page of the log
		all.Go(func() {
			for range 50 {
				call("one")
			}
		})
	}
	all.Wait()
	last := call("one")
	w.tick()
	if !w.has("one") {
		t.Error("executed within its grace")
	}
	w.pass(2 * time.Hour)
	w.tick()
	it = w.get(r.Name).Items[0]
	if it.Remediation != reviews.Success || it.Remedy.Used == nil || it.Remedy.Used.Calls != 1002 || len(w.open(reviews.RuleUsed)) != 1 {
		t.Fatalf("%+v", it)
	}
	if rec, err := w.log.Get(ctx, it.Remedy.Used.Event); err != nil || rec.Event.Call != last {
		t.Errorf("%v %+v", err, rec.Event)
	}
}

// TestDecisionsRace has many decide the same item at once: one counts.
func TestDecisionsRace(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		w := build(t, dsn)
		r := w.begin(reviews.Rules{Levels: [][]string{{"owner", "backup", "group:finance"}}, Grace: "1h"}, "one")
		var won sync.Map
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				who, what := []string{"ada", "bob", "fin"}[i%3], []string{reviews.Keep, reviews.Revoke}[i%2]
				it, err := w.decide(who, r.Name, 1, what, fmt.Sprint("reason ", i))
				if err == nil {
					won.Store(i, it)
				} else if fault.KindOf(err) != fault.Conflict {
					t.Errorf("%v", err)
				}
			})
		}
		all.Wait()
		n := 0
		won.Range(func(_, _ any) bool { n++; return true })
		it := w.get(r.Name).Items[0]
		recs, err := w.log.List(ctx, audit.Query{Types: []audit.Type{"review.decided"}})
		w.must(err)
		if n != 1 || len(it.Verdicts) != 1 || len(recs) != 1 {
			t.Errorf("%d decisions counted, %d are kept, %d recorded", n, len(it.Verdicts), len(recs))
		}
	})
}

// TestKilledBetweenDecisionAndRevocation dies at every step; another process
// goes on, and the revoke is executed once.
func TestKilledBetweenDecisionAndRevocation(t *testing.T) {
	for _, step := range []string{"decided", "executing", "executed", "tried"} {
		t.Run(step, func(t *testing.T) {
			w := build(t, storagetest.SQLite(t))
			r := w.begin(reviews.Rules{}, "one")
			died := errors.New("killed")
			w.Die(func(at string) error {
				if at == step {
					return died
				}
				return nil
			})
			_, err := w.decide("ada", r.Name, 1, reviews.Revoke, "not needed")
			if step == "decided" && !errors.Is(err, died) {
				t.Fatalf("it did not die: %v", err)
			}
			it := w.get(r.Name).Items[0]
			if it.Decision != reviews.Revoke || it.Remediation == reviews.Success {
				t.Fatalf("%+v", it)
			}
			w.Service = w.process()
			w.tick()
			if step == "decided" && w.get(r.Name).Items[0].Remediation != reviews.Waiting {
				t.Error("another process did not wait for the one that decided")
			}
			w.pass(time.Minute)
			w.tick()
			recs, err := w.log.List(ctx, audit.Query{Types: []audit.Type{"grant.revoked"}})
			w.must(err)
			if it = w.get(r.Name).Items[0]; it.Remediation != reviews.Success || w.has("one") || len(recs) != 1 || w.get(r.Name).State != reviews.Closed {
				t.Errorf("%+v, revoked %d times", it, len(recs))
			}
		})
	}
}

// TestWhatIsLetThrough is a finding, and what cannot be tried is tried again.
func TestWhatIsLetThrough(t *testing.T) {
	w := build(t, storagetest.SQLite(t))
	w.doors = "gone"
	r := w.begin(reviews.Rules{}, "one")
	it, err := w.decide("ada", r.Name, 1, reviews.Revoke, "")
	w.must(err)
	if it.Remediation != reviews.Executed || it.Remedy.Error == "" || w.has("one") {
		t.Fatalf("%+v", it)
	}
	for range 5 {
		w.pass(time.Hour)
		if err := w.Tick(ctx, w.lease); fault.KindOf(err) != fault.Unavailable {
			t.Errorf("%v", err)
		}
	}
	if len(w.open(reviews.RuleStuck)) != 1 || w.get(r.Name).State != reviews.Decided {
		t.Errorf("nobody is told that it was not tried: %+v", w.get(r.Name))
	}
	w.doors = "open"
	w.pass(time.Hour)
	w.tick()
	it = w.get(r.Name).Items[0]
	if f := w.open(reviews.RuleFailed); it.Remediation != reviews.Failed || len(f) != 1 || f[0].Severity != "critical" {
		t.Errorf("%+v %+v", it, f)
	}
	keys, err := w.ids.Keys(ctx, "payer")
	w.must(err)
	for _, k := range keys {
		if k.Status(time.Now()) != "revoked" {
			t.Errorf("the probe's key %s is %s", k.ID, k.Status(time.Now()))
		}
	}
	// Another grant for the same tool is not asked for: the call would be made.
	w.doors = ""
	w.grant("dan", "also", "embeddings")
	r = w.begin(reviews.Rules{}, "two")
	it, err = w.decide("ada", r.Name, 1, reviews.Revoke, "")
	w.must(err)
	if p := it.Remedy.Probes; it.Remediation != reviews.Unproven || len(p) != 1 || p[0].Result != reviews.Otherwise || !strings.Contains(p[0].Why, "grant also") {
		t.Errorf("%+v", it.Remedy)
	}
}

// TestWhatChangedIsLookedAtAgain refuses to keep what nobody has seen.
func TestWhatChangedIsLookedAtAgain(t *testing.T) {
	w := build(t, storagetest.SQLite(t))
	r := w.begin(reviews.Rules{})
	_, err := w.policy.PutGrant(ctx, w.person("dan"), "wider", policy.Grant{Name: "one", Agent: "payer", Connection: "model", Tools: []string{"*"}})
	w.must(err)
	if _, err := w.decide("ada", r.Name, 1, reviews.Keep, "fine"); !errors.Is(err, reviews.ErrChanged) || !strings.Contains(err.Error(), "model/*") {
		t.Errorf("%v", err)
	}
	if it, err := w.decide("ada", r.Name, 1, reviews.Keep, "fine"); err != nil || it.Subject.Tools[0] != "*" {
		t.Errorf("%v %+v", err, it)
	}
	// A namesake of what was asked about is not what was asked about.
	w.must(w.policy.RevokeGrant(ctx, w.person("dan"), "away", "two"))
	w.grant("dan", "two", "embeddings")
	if it, err := w.decide("ada", r.Name, 2, reviews.Revoke, "not needed"); err != nil || it.Decision != reviews.Gone || !w.has("two") {
		t.Errorf("%v %+v", err, it)
	}
}

// TestBadReviews are refused.
func TestBadReviews(t *testing.T) {
	w := build(t, storagetest.SQLite(t))
	for name, r := range map[string]reviews.Review{
		"name":     {Name: "../x"},
		"past":     {Due: time.Now().Add(-time.Hour)},
		"kind":     {Scope: reviews.Scope{Kinds: []string{"everything"}}},
		"only":     {Scope: reviews.Scope{Only: []string{"old"}}},
		"unused":   {Scope: reviews.Scope{UnusedFor: "a month"}},
		"levels":   {Rules: reviews.Rules{Levels: [][]string{{"owner"}, {"owner"}, {"owner"}}}},
		"empty":    {Rules: reviews.Rules{Levels: [][]string{{}}}},
		"reviewer": {Rules: reviews.Rules{Levels: [][]string{{"everyone"}}}},
		"user":     {Rules: reviews.Rules{Levels: [][]string{{"user:nobody"}}}},
		"group":    {Rules: reviews.Rules{Escalate: []string{"group:nobody"}}},
		"silence":  {Rules: reviews.Rules{Silence: "wait"}},
		"remind":   {Rules: reviews.Rules{Remind: []string{"never"}}},
		"grace":    {Rules: reviews.Rules{Grace: "-1h"}},
	} {
		if _, err := w.Begin(ctx, w.person("dan"), "test", r); !errors.Is(err, reviews.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.Begin(ctx, w.person("dan"), "", reviews.Review{}); !errors.Is(err, reviews.ErrReason) {
		t.Errorf("%v", err)
	}
	if _, err := w.Begin(ctx, w.person("dan"), "\x1b[2J", reviews.Review{}); !errors.Is(err, reviews.ErrReason) {
		t.Errorf("%v", err)
	}
	if _, err := w.Begin(ctx, w.person("dan"), "test", reviews.Review{Scope: reviews.Scope{Agents: []string{"nobody"}}}); !errors.Is(err, reviews.ErrEmpty) {
		t.Errorf("%v", err)
	}
	r := w.begin(reviews.Rules{})
	if _, err := w.Begin(ctx, w.person("dan"), "test", reviews.Review{Name: r.Name}); !errors.Is(err, reviews.ErrExists) {
		t.Errorf("%v", err)
	}
	if _, err := w.decide("ada", r.Name, 99, reviews.Keep, "x"); !errors.Is(err, reviews.ErrNoItem) {
		t.Errorf("%v", err)
	}
	if _, err := w.decide("ada", r.Name, 1, "maybe", "x"); !errors.Is(err, reviews.ErrInvalid) {
		t.Errorf("%v", err)
	}
	if _, err := w.Get(ctx, "none"); !errors.Is(err, reviews.ErrNotFound) {
		t.Errorf("%v", err)
	}
}
