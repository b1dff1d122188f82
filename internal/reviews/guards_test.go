package reviews_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/reviews"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// TestWhoReviewsNow follows who answers for it, and no name: another person of the
// name of one who left is not them.
func TestWhoReviewsNow(t *testing.T) {
	w := build(t, storagetest.SQLite(t))
	r := w.begin(reviews.Rules{}, "one")
	_, err := w.ids.SetOwner(ctx, w.person("root"), "moved", "payer", "bob", "ada")
	w.must(err)
	if got := w.get(r.Name).Items[0].Reviewers; !slices.Equal(got, []string{"bob"}) {
		t.Errorf("after the agent got another owner: %v", got)
	}
	if _, err := w.decide("ada", r.Name, 1, reviews.Keep, "I was asked"); !errors.Is(err, reviews.ErrNotYours) {
		t.Errorf("who owned it then decides: %v", err)
	}
	if _, err := w.Delegate(ctx, w.user("fin"), r.Name, 1, "ada", "not mine"); !errors.Is(err, reviews.ErrNotYours) {
		t.Errorf("anybody hands it over: %v", err)
	}
	_, err = w.Delegate(ctx, w.user("bob"), r.Name, 1, "fin", "knows it better")
	w.must(err)
	w.must(w.ids.DeleteUser(ctx, w.person("root"), "left", "fin"))
	_, err = w.ids.PutUser(ctx, w.person("root"), "another one", identity.User{Name: "fin", Role: "approver"})
	w.must(err)
	if got := w.get(r.Name).Items[0].Reviewers; !slices.Equal(got, []string{"bob"}) {
		t.Errorf("after who had it left: %v", got)
	}
	if _, err := w.decide("fin", r.Name, 1, reviews.Keep, "I am called so"); !errors.Is(err, reviews.ErrNotYours) {
		t.Errorf("a namesake decides: %v", err)
	}
}

// TestWhatTheFirstLevelSaidIsAboutWhatItSaw starts over when it changes between two
// levels; and where the time is over, one decides for both.
func TestWhatTheFirstLevelSaidIsAboutWhatItSaw(t *testing.T) {
	w := build(t, storagetest.SQLite(t))
	levels := [][]string{{"owner"}, {"user:fin"}}
	r := w.begin(reviews.Rules{Levels: levels}, "one")
	_, err := w.decide("ada", r.Name, 1, reviews.Keep, "needed")
	w.must(err)
	w.grant("dan", "one", "*")
	if _, err := w.decide("fin", r.Name, 1, reviews.Keep, "she said so"); !errors.Is(err, reviews.ErrChanged) {
		t.Errorf("%v", err)
	}
	if it := w.get(r.Name).Items[0]; it.Level != 1 || len(it.Verdicts) != 0 || !slices.Equal(it.Reviewers, []string{"ada"}) {
		t.Errorf("what was said about another thing counts: %+v", it)
	}
	late := w.begin(reviews.Rules{Levels: levels, Escalate: []string{"user:bob"}}, "two")
	w.pass(15 * day)
	w.tick()
	if it, err := w.decide("bob", late.Name, 1, reviews.Keep, "needed"); err != nil || it.Decision != reviews.Keep {
		t.Errorf("there is no time left for two: %v %+v", err, it)
	}
}

// TestCloseGivesNoDecision that silence does not give.
func TestCloseGivesNoDecision(t *testing.T) {
	w := build(t, storagetest.SQLite(t))
	up, kept, lost := w.begin(reviews.Rules{}, "one"), w.begin(reviews.Rules{Silence: reviews.KeepSilent}, "one"), w.begin(reviews.Rules{Silence: reviews.RevokeSilent, Levels: [][]string{{"user:fin"}}}, "two")
	if _, err := w.Close(ctx, w.person("dan"), " ", kept.Name); !errors.Is(err, reviews.ErrReason) {
		t.Errorf("without a reason: %v", err)
	}
	if _, err := w.Close(ctx, w.person("dan"), "enough", up.Name); !errors.Is(err, reviews.ErrNobody) {
		t.Errorf("where silence is for people: %v", err)
	}
	w.disable("fin")
	if _, err := w.Close(ctx, w.person("dan"), "enough", lost.Name); !errors.Is(err, reviews.ErrNobody) || !w.has("two") {
		t.Errorf("where nobody is left: %v", err)
	}
	w.pass(2 * time.Minute)
	w.tick() // it escalates to root, who is there
	if _, err := w.Close(ctx, w.person("dan"), "enough", lost.Name); !errors.Is(err, reviews.ErrNobody) || !w.has("two") {
		t.Errorf("what escalated is for people: %v", err)
	}
	r, err := w.Close(ctx, w.person("dan"), "enough", kept.Name)
	if err != nil || r.State != reviews.Closed || r.ClosedBy != "dan" || r.Counts.Kept != 1 {
		t.Errorf("%v %+v", err, r)
	}
	if _, err := w.decide("ada", kept.Name, 1, reviews.Revoke, "late"); !errors.Is(err, reviews.ErrDecided) {
		t.Errorf("decided after it was closed: %v", err)
	}
}

// TestWhatAProbeShows is a refusal for want of a right, and nothing else.
func TestWhatAProbeShows(t *testing.T) {
	w := build(t, storagetest.SQLite(t))
	for i, c := range []struct {
		name   string
		says   *audit.Event
		status int
		want   string // "": unclear, and tried again
	}{
		{"denied", &audit.Event{Type: audit.CallDenied, Detail: []byte(`{"reason":"no grant"}`)}, 403, reviews.Refused},
		{"no such tool, for it", &audit.Event{Type: audit.CallRefused, Detail: []byte(`{"code":"unknown_tool"}`)}, 404, reviews.Refused},
		{"a bad form", &audit.Event{Type: audit.CallRefused, Detail: []byte(`{"code":"bad_arguments","reason":"no field x"}`)}, 400, reviews.NotTried},
		{"over a limit", &audit.Event{Type: audit.CallRefused, Detail: []byte(`{"code":"rate_limited"}`)}, 429, reviews.NotTried},
		{"held", &audit.Event{Type: audit.CallHeld, Detail: []byte(`{"reason":"four eyes"}`)}, 202, reviews.NotTried},
		{"unreadable", &audit.Event{Type: audit.CallDenied, Detail: []byte(`{"code":5}`)}, 403, reviews.NotTried},
		{"another's call", &audit.Event{Type: audit.CallIntent, Credential: "key_other"}, 500, ""},
		{"nothing", nil, 500, ""},
		{"the door", nil, 401, reviews.Refused},
	} {
		name := "probe-" + string(rune('a'+i))
		w.grant("dan", name, "models")
		w.mu.Lock()
		w.says, w.status = c.says, c.status
		w.mu.Unlock()
		r := w.begin(reviews.Rules{}, name)
		it, err := w.decide("ada", r.Name, 1, reviews.Revoke, "not needed")
		w.must(err)
		if c.want == "" {
			if it.Remediation != reviews.Executed || it.Remedy.Error == "" {
				t.Errorf("%s: %s %+v", c.name, it.Remediation, it.Remedy)
			}
			continue
		}
		became := reviews.Unproven
		if c.want == reviews.Refused {
			became = reviews.Success
		}
		if it.Remediation != became || len(it.Remedy.Probes) != 1 || it.Remedy.Probes[0].Result != c.want {
			t.Errorf("%s: %s %+v", c.name, it.Remediation, it.Remedy)
		}
		told := slices.ContainsFunc(w.open(reviews.RuleStuck), func(f findings.Finding) bool { return f.Object == "review/"+it.Review+"/1" })
		if told != (became == reviews.Unproven) {
			t.Errorf("%s: told %v", c.name, told)
		}
	}
}

// TestAProbeIsNeverACall that could do something: not of a tool that changes
// something, not while the lock is not seen, not in the name of an agent that left.
func TestAProbeIsNeverACall(t *testing.T) {
	w := build(t, storagetest.SQLite(t))
	_, err := w.conns.Register(ctx, audit.System, "test", connections.Connection{Name: "ledger", Kind: "mcp", URL: "https://ledger.example", Owner: "bob", Auth: connections.AuthNone})
	w.must(err)
	w.conns.SetDiscoverer(pays{})
	_, err = w.conns.Refresh(ctx, w.person("dan"), "test", "ledger")
	w.must(err)
	w.must(w.watch.Poll(ctx))
	_, err = w.policy.PutGrant(ctx, w.person("dan"), "test", policy.Grant{Name: "pays", Agent: "payer", Connection: "ledger", Tools: []string{"pay"}, Expires: w.clock().Add(30 * day)})
	w.must(err)
	w.doors = "open" // whatever is asked for is made
	calls := func(when string) {
		t.Helper()
		recs, err := w.log.List(ctx, audit.Query{Types: []audit.Type{audit.CallIntent}})
		w.must(err)
		if len(recs) != 0 {
			t.Errorf("%s: %d calls were made", when, len(recs))
		}
	}
	begin := func(name string) reviews.Review {
		t.Helper()
		r, err := w.Begin(ctx, w.person("dan"), "test", reviews.Review{Scope: reviews.Scope{Kinds: []string{reviews.Connection}, Names: []string{name}, All: true}})
		w.must(err)
		return r
	}
	r := begin("ledger")
	it, err := w.decide("bob", r.ID, 1, reviews.Revoke, "over")
	w.must(err)
	if p := it.Remedy.Probes; len(p) != 1 || p[0].Result != reviews.NotTried {
		t.Errorf("%+v", it.Remedy)
	}
	calls("of what cannot be undone")

	r = begin("model")
	w.Die(func(at string) error {
		if at == "executed" {
			return errors.New("killed")
		}
		return nil
	})
	_, err = w.decide("bob", r.ID, 1, reviews.Revoke, "over")
	w.must(err)
	for _, l := range w.locks.Active() {
		if l.Kind == locks.Connection && l.Name == "model" {
			_, err = w.locks.Lift(ctx, w.person("root"), "a test", l.ID)
			w.must(err)
		}
	}
	w.Service = w.process()
	w.pass(time.Minute)
	w.must(w.watch.Poll(ctx))
	w.must(w.Tick(ctx, w.lease))
	if it := w.get(r.ID).Items[0]; it.Remediation != reviews.Unproven {
		t.Errorf("%s %+v", it.Remediation, it.Remedy)
	}
	calls("when its lock was lifted")

	r = w.begin(reviews.Rules{Grace: "1h", Levels: [][]string{{"owner"}}}, "one")
	_, err = w.decide("ada", r.Name, 1, reviews.Revoke, "over")
	w.must(err)
	w.must(w.log.Change(ctx, func(tx *audit.Tx) error {
		_, err := w.ids.RetireTx(ctx, tx, w.person("root"), "over", "payer")
		return err
	}))
	w.pass(2 * time.Hour)
	w.must(w.watch.Poll(ctx))
	w.must(w.Tick(ctx, w.lease))
	if it := w.get(r.Name).Items[0]; it.Remediation != reviews.Unproven || it.Remedy.Probes[0].Result != reviews.NotTried {
		t.Errorf("%s %+v", it.Remediation, it.Remedy)
	}
	calls("of an agent that left")
}

// TestARevokeEndsWhatItIsAbout, in the name of who decided, and not a namesake of it.
func TestARevokeEndsWhatItIsAbout(t *testing.T) {
	w := build(t, storagetest.SQLite(t))
	r := w.begin(reviews.Rules{Grace: "1h"}, "one", "two")
	for n := 1; n <= 2; n++ {
		_, err := w.decide("ada", r.Name, n, reviews.Revoke, "not needed")
		w.must(err)
	}
	w.must(w.policy.RevokeGrant(ctx, w.person("dan"), "away", "two"))
	w.grant("dan", "two", "embeddings")
	w.pass(2 * time.Hour)
	w.tick()
	if w.has("one") || !w.has("two") {
		t.Errorf("one %v, the new two %v", w.has("one"), w.has("two"))
	}
	recs, err := w.log.List(ctx, audit.Query{Types: []audit.Type{"grant.revoked"}})
	w.must(err)
	if len(recs) != 2 || recs[0].Event.Actor.Name != "ada" || !strings.HasPrefix(recs[0].Event.Reason, "review "+r.Name) {
		t.Errorf("%+v", recs)
	}
}

// TestOneReplicaLooks at what is due at a time.
func TestOneReplicaLooks(t *testing.T) {
	w := build(t, storagetest.SQLite(t))
	r := w.begin(reviews.Rules{}, "one")
	w.tick() // has the lease
	w.disable("ada")
	w.pass(2 * time.Minute)
	w.must(w.process().Tick(ctx, w.NewLease()))
	if it := w.get(r.Name).Items[0]; !it.Escalated.IsZero() {
		t.Error("one without the lease looks, too")
	}
}

// TestWhomAnExceptionIsFor is one grant, in production, as long as somebody answers.
func TestWhomAnExceptionIsFor(t *testing.T) {
	w := build(t, storagetest.SQLite(t))
	_, err := w.conns.Register(ctx, audit.System, "test", connections.Connection{Name: "ledger", Kind: "mcp", URL: "https://ledger.example", Owner: "bob", Auth: connections.AuthNone})
	w.must(err)
	w.conns.SetDiscoverer(pays{})
	_, err = w.conns.Refresh(ctx, w.person("dan"), "test", "ledger")
	w.must(err)
	w.must(w.watch.Poll(ctx))
	_, err = w.ids.PutAgent(ctx, audit.System, "test", identity.Agent{Name: "trial", Owner: "bob", Stage: "staging", Purpose: "x"})
	w.must(err)
	for name, agent := range map[string]string{"pays": "payer", "pays-too": "payer", "tries": "trial"} {
		w.stood(name, agent, "pay")
	}
	open := func() (out []string) {
		for _, f := range w.open(reviews.RuleStanding) {
			out = append(out, f.Object)
		}
		slices.Sort(out)
		return out
	}
	w.tick()
	if got := open(); !slices.Equal(got, []string{"grant/pays", "grant/pays-too"}) {
		t.Errorf("%v", got)
	}
	_, err = w.Except(ctx, w.person("dan"), "until the new tool is there", reviews.Exception{Grant: "pays", Owner: "dan", Until: w.clock().Add(30 * day)})
	w.must(err)
	if got := open(); !slices.Equal(got, []string{"grant/pays-too"}) {
		t.Errorf("with an exception for one: %v", got)
	}
	w.disable("dan")
	w.pass(2 * time.Minute)
	w.tick()
	if got := open(); !slices.Equal(got, []string{"grant/pays", "grant/pays-too"}) {
		t.Errorf("nobody answers for it any more: %v", got)
	}
}

// TestWhatAWishIsBoundTo: another agent of the name, or no connection, and it is
// void; and another approval is no wish.
func TestWhatAWishIsBoundTo(t *testing.T) {
	w := build(t, storagetest.SQLite(t))
	_, err := w.SetApprovers(ctx, w.person("root"), "test", reviews.Approvers{Connection: "*", Groups: []string{"finance"}})
	w.must(err)
	g, err := w.ask("ada", "models")
	w.must(err)
	r, err := w.asks.Get(ctx, g.ID)
	w.must(err)
	if why, ours := w.Stale(r.Binding); why != "" || !ours {
		t.Errorf("%q %v", why, ours)
	}
	for name, change := range map[string]func(b *approvals.Binding){
		"another agent": func(b *approvals.Binding) { b.AgentID = "agt_other" },
		"no agent":      func(b *approvals.Binding) { b.Agent = "ghost" },
		"no connection": func(b *approvals.Binding) { b.Connection = "ghost" },
		"other rules":   func(b *approvals.Binding) { b.Rules = []approvals.Rule{{Name: "approvers:*", Digest: "x"}} },
	} {
		b := r.Binding
		change(&b)
		if why, ours := w.Stale(b); why == "" || !ours {
			t.Errorf("%s: still current", name)
		}
	}
	b := r.Binding
	b.Method = "POST"
	if why, ours := w.Stale(b); why != "" || ours {
		t.Errorf("a call: %q %v", why, ours)
	}
	a, _ := w.ids.Agent("payer")
	held, err := w.asks.Hold(ctx, approvals.Held{Binding: b, Call: "call_1", Run: "run_1", Effect: "read", Needs: r.Needs, Reason: "four eyes", Args: []byte(`{}`)})
	w.must(err)
	if _, _, err := w.AskFor(ctx, identity.Caller{Agent: a}, approvals.Origin{}, held.Request.ID, "", reviews.Wish{}); !errors.Is(err, reviews.ErrNoRequest) {
		t.Errorf("a held call is a wish: %v", err)
	}
}

// TestReviewedIsAsItIs: what changed since it was kept was not reviewed.
func TestReviewedIsAsItIs(t *testing.T) {
	w := build(t, storagetest.SQLite(t))
	r := w.begin(reviews.Rules{}, "one")
	_, err := w.decide("ada", r.Name, 1, reviews.Keep, "needed")
	w.must(err)
	w.grant("dan", "one", "*")
	at, err := w.Reviewed(ctx)
	w.must(err)
	if len(at) != 0 {
		t.Errorf("%v", at)
	}
}
