package approvals_test

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/identity"
)

var quiet = slog.New(slog.DiscardHandler)

func TestAnApprovedCallIsMadeOnce(t *testing.T) {
	each(t, func(w *world) {
		h := w.held(`{"amount":10}`)
		first := w.hold(h)
		if first.Permit != nil || !first.New || first.Request.State != approvals.Pending {
			t.Fatalf("%+v", first)
		}
		id := first.Request.ID
		if again := w.hold(h); again.New || again.Request.ID != id {
			t.Errorf("an identical call made another request: %+v", again)
		}
		w.approve("fiona", id)
		got := w.hold(h)
		if got.Permit == nil {
			t.Fatalf("no permit: %+v", got)
		}
		if w.state(id) != approvals.Executing {
			t.Errorf("state %s", w.state(id))
		}
		got.Permit.Settle(ctx, audit.Succeeded, &approvals.Kept{Status: 200, Body: []byte("paid")})
		got.Permit.Told(ctx)
		if next := w.hold(h); next.Permit != nil || !next.New || next.Request.ID == id {
			t.Errorf("the same call after execution is no new request: %+v", next)
		}
		want := []string{"approval.requested", "approval.granted", "approval.used", "approval.executed"}
		if got := w.events(id); !slices.Equal(got, want) {
			t.Errorf("events %v, want %v", got, want)
		}
	})
}

// What renders alike and differs in bytes is another call: an approval of one
// is none of the other.
func TestAnApprovalIsForExactlyTheseBytes(t *testing.T) {
	each(t, func(w *world) {
		base := `{"amount":10,"to":"Nordwind"}`
		id := w.hold(w.held(base)).Request.ID
		w.approve("fiona", id)
		for name, other := range map[string]string{
			"amount": `{"amount":10000,"to":"Nordwind"}`, "number form": `{"amount":1e1,"to":"Nordwind"}`, "number with point": `{"amount":10.0,"to":"Nordwind"}`,
			"key order": `{"to":"Nordwind","amount":10}`, "look-alike": `{"amount":10,"to":"Nоrdwind"}`, "invisible": "{\"amount\":10,\"to\":\"Nord\u200bwind\"}",
			"escaped": `{"amount":10,"to":"Nor\u0064wind"}`, "duplicate": `{"amount":10,"amount":10,"to":"Nordwind"}`, "space": `{"amount":10, "to":"Nordwind"}`,
		} {
			if a := w.hold(w.held(other)); a.Permit != nil || a.Request.ID == id {
				t.Errorf("%s: the approval of another call let it through", name)
			}
		}
		change := map[string]func(*approvals.Held){
			"agent":      func(h *approvals.Held) { h.Binding.Agent = "other" },
			"agent id":   func(h *approvals.Held) { h.Binding.AgentID = "agt_other" },
			"chain":      func(h *approvals.Held) { h.Binding.Chain = []audit.Actor{audit.Person("usr_x", "sam")} },
			"tool":       func(h *approvals.Held) { h.Binding.Tool = "reverse" },
			"definition": func(h *approvals.Held) { h.Binding.Definition = "d2" },
			"connection": func(h *approvals.Held) { h.Binding.Connection = "other" },
			"target":     func(h *approvals.Held) { h.Binding.Target = "t2" },
			"query":      func(h *approvals.Held) { h.Binding.Query = "force=1" },
			"path":       func(h *approvals.Held) { h.Binding.Path = "/v2" },
			"method":     func(h *approvals.Held) { h.Binding.Method = "PUT" },
		}
		for name, fn := range change {
			h := w.held(base)
			fn(&h)
			if a := w.hold(h); a.Permit != nil || a.Request.ID == id {
				t.Errorf("%s: the approval of another call let it through", name)
			}
		}
		if a := w.hold(w.held(base)); a.Permit == nil {
			t.Error("the call that was approved got no permit")
		}
	})
}

// Two secrets that are shown alike are two requests: the digest is of the raw
// bytes, what is shown and stored is redacted.
func TestDigestsAreOfRawBytesAndRedactedIsShown(t *testing.T) {
	each(t, func(w *world) {
		a, b := w.hold(w.held(`{"password":"hunter2"}`)), w.hold(w.held(`{"password":"hunter3"}`))
		if a.Request.ID == b.Request.ID {
			t.Error("two passwords made one request")
		}
		rec, err := w.log.Get(ctx, a.Request.Event)
		w.must(err)
		if body := string(rec.Payloads["arguments"]); body != `{"password":"[redacted:known]"}` {
			t.Errorf("stored %s", body)
		}
	})
}

func TestOnlyOneOfManyGetsThePermit(t *testing.T) {
	each(t, func(w *world) {
		h := w.held("x")
		id := w.hold(h).Request.ID
		w.approve("fiona", id)
		rooms := []*approvals.Service{w.Service, w.room(approvals.Options{}), w.room(approvals.Options{})}
		var mu sync.Mutex
		var wg sync.WaitGroup
		permits := 0
		for i := range 12 {
			wg.Go(func() {
				a, err := rooms[i%3].Hold(ctx, h)
				if err != nil && !errors.Is(err, approvals.ErrRaced) {
					t.Error(err)
				}
				if a.Permit != nil {
					mu.Lock()
					permits++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if permits != 1 {
			t.Errorf("%d permits", permits)
		}
	})
}

func TestApprovingTwiceAtTheSameInstantOnTwoReplicas(t *testing.T) {
	each(t, func(w *world) {
		id := w.hold(w.held("x", need("two", 2, "finance"))).Request.ID
		rooms := []*approvals.Service{w.Service, w.room(approvals.Options{})}
		var wg sync.WaitGroup
		errs := make([]error, 2)
		for i := range rooms {
			wg.Go(func() { _, errs[i] = rooms[i].Decide(ctx, w.by("fiona"), id, approvals.Approve, "fine") })
		}
		wg.Wait()
		if (errs[0] == nil) == (errs[1] == nil) || !errors.Is(errors.Join(errs...), approvals.ErrDecided) {
			t.Errorf("one person approved twice: %v", errs)
		}
		if w.state(id) != approvals.Pending {
			t.Fatalf("one person made a quorum of two: %s", w.state(id))
		}
		// Two people at the same instant are two.
		id = w.hold(w.held("y", need("two", 2, "finance"))).Request.ID
		for i, name := range []string{"fiona", "carl"} {
			wg.Go(func() { _, errs[i] = rooms[i].Decide(ctx, w.by(name), id, approvals.Approve, "fine") })
		}
		wg.Wait()
		if errs[0] != nil || errs[1] != nil || w.state(id) != approvals.Approved {
			t.Errorf("%v, %s", errs, w.state(id))
		}
	})
}

func TestWhoMayDecide(t *testing.T) {
	each(t, func(w *world) {
		id := w.hold(w.held("x")).Request.ID
		for name, want := range map[string]error{"sam": approvals.ErrNotEntitled, "lee": approvals.ErrNotEntitled, "root": approvals.ErrNotEntitled} {
			if _, err := w.Decide(ctx, w.by(name), id, approvals.Approve, "fine"); !errors.Is(err, want) {
				t.Errorf("%s: %v", name, err)
			}
		}
		// An agent, a name without its identifier, a made up person.
		for _, by := range []approvals.By{{Person: approvals.Person{ID: "agt_1", Name: "payer"}}, {Person: approvals.Person{Name: "fiona"}}, {Person: approvals.Person{ID: "usr_x", Name: "fiona"}}} {
			if _, err := w.Decide(ctx, by, id, approvals.Approve, "fine"); !errors.Is(err, approvals.ErrPerson) {
				t.Errorf("%+v: %v", by, err)
			}
		}
		if _, err := w.Decide(ctx, w.by("fiona"), id, approvals.Approve, "  "); !errors.Is(err, approvals.ErrReason) {
			t.Errorf("no reason: %v", err)
		}
		if _, err := w.Decide(ctx, w.by("fiona"), id, "maybe", "fine"); !errors.Is(err, approvals.ErrVerdict) {
			t.Errorf("verdict: %v", err)
		}
		r, err := w.Decide(ctx, w.by("fiona"), id, approvals.Deny, "wrong account")
		if err != nil || r.State != approvals.Denied {
			t.Fatalf("%v %s", err, r.State)
		}
		if _, err := w.Decide(ctx, w.by("carl"), id, approvals.Approve, "fine"); !errors.Is(err, approvals.ErrSettled) {
			t.Errorf("after a denial: %v", err)
		}
		// The agent hears the denial as often as it asks, until the time to decide is over.
		for range 2 {
			if a := w.hold(w.held("x")); a.Request.ID != id || a.Request.State != approvals.Denied {
				t.Errorf("%+v", a.Request)
			}
		}
		w.pass(5 * time.Hour)
		if a := w.hold(w.held("x")); !a.New {
			t.Errorf("a denial lasts for ever: %+v", a.Request)
		}
	})
}

func TestNobodyApprovesTheirOwn(t *testing.T) {
	each(t, func(w *world) {
		h := w.held("x")
		fiona := w.by("fiona")
		h.Binding.Chain = []audit.Actor{audit.Person(fiona.ID, "fiona")}
		id := w.hold(h).Request.ID
		if _, err := w.Decide(ctx, fiona, id, approvals.Approve, "mine"); !errors.Is(err, approvals.ErrSelf) {
			t.Errorf("someone in the principal chain: %v", err)
		}
		// Not through someone who stands in for her either.
		_, err := w.Delegate(ctx, audit.Person("", "fiona"), "leave", "fiona", "dora", time.Time{}, w.clock().Add(time.Hour))
		w.must(err)
		if _, err := w.Decide(ctx, w.by("dora"), id, approvals.Approve, "hers"); !errors.Is(err, approvals.ErrNotEntitled) {
			t.Errorf("a stand-in of someone in the chain: %v", err)
		}
		if _, err := w.Override(ctx, fiona, id, "urgent"); !errors.Is(err, approvals.ErrBreakGlass) {
			t.Errorf("break glass: %v", err)
		}
		w.approve("carl", id)

		// Whoever started the run, and the owner where the policy says so.
		run, _, err := w.ids.StartRun(ctx, audit.Person("", "carl"), "test", "payer", time.Hour)
		w.must(err)
		n := need("not-owner", 1, "finance")
		n.ExcludeOwner = true
		h = w.held("y", n)
		h.Run = run.ID
		id = w.hold(h).Request.ID
		for _, name := range []string{"carl", "olga"} {
			if _, err := w.Decide(ctx, w.by(name), id, approvals.Approve, "mine"); !errors.Is(err, approvals.ErrSelf) {
				t.Errorf("%s: %v", name, err)
			}
		}
		// The owner of now counts, not the one of then.
		_, err = w.ids.PutAgent(ctx, audit.System, "test", identity.Agent{Name: "payer", Owner: "fiona", Stage: "production"})
		w.must(err)
		if _, err := w.Decide(ctx, w.by("fiona"), id, approvals.Approve, "mine"); !errors.Is(err, approvals.ErrSelf) {
			t.Errorf("the present owner: %v", err)
		}
		w.approve("olga", id)
	})
}

func TestOnePersonFillsOnePlace(t *testing.T) {
	each(t, func(w *world) {
		// carl is in both groups and counts for one of them.
		id := w.hold(w.held("x", need("a", 1, "finance"), need("b", 1, "legal"))).Request.ID
		if r := w.approve("carl", id); r.State != approvals.Pending {
			t.Fatalf("one person in two groups counted twice: %s", r.State)
		}
		if r := w.approve("lee", id); r.State != approvals.Approved {
			t.Errorf("carl for finance and lee for legal: %s", r.State)
		}
		// carl came first, lee cannot do finance: carl has to.
		id = w.hold(w.held("y", need("a", 1, "legal"), need("b", 1, "finance", "board"))).Request.ID
		w.approve("carl", id)
		if r := w.approve("dora", id); r.State != approvals.Approved {
			t.Errorf("carl for legal, dora for the board: %s", r.State)
		}
		// Two policies that ask the same group are met by the same person.
		id = w.hold(w.held("z", need("a", 1, "finance"), need("b", 1, "finance"))).Request.ID
		if r := w.approve("fiona", id); r.State != approvals.Approved {
			t.Errorf("union of the same group: %s", r.State)
		}
	})
}

func TestQuorumsFailClosed(t *testing.T) {
	each(t, func(w *world) {
		for _, n := range []approvals.Need{need("zero", 0, "finance"), need("negative", -1, "finance"), need("nobody", 1)} {
			if _, err := w.Hold(ctx, w.held("x", n)); !errors.Is(err, approvals.ErrNeed) {
				t.Errorf("%s: %v", n.Policy, err)
			}
		}
		for name, n := range map[string]approvals.Need{"unknown group": need("a", 1, "nowhere"), "too many": need("b", 4, "finance"), "small group": need("c", 2, "board")} {
			if _, err := w.Hold(ctx, w.held(name, n)); !errors.Is(err, approvals.ErrImpossible) {
				t.Errorf("%s: %v", name, err)
			}
		}
		// Two needs, one person for both: nobody could.
		if _, err := w.Hold(ctx, w.held("both", need("a", 1, "board"), need("b", 2, "board", "board"))); !errors.Is(err, approvals.ErrImpossible) {
			t.Error(err)
		}
	})
}

// A group that is deleted and made again under its name is another group.
func TestGroupsAreKnownByIdentifier(t *testing.T) {
	each(t, func(w *world) {
		id := w.hold(w.held("x")).Request.ID
		w.must(w.ids.DeleteGroup(ctx, audit.System, "test", "finance"))
		w.team("finance", "sam", "fiona")
		for _, name := range []string{"sam", "fiona"} {
			if _, err := w.Decide(ctx, w.by(name), id, approvals.Approve, "fine"); !errors.Is(err, approvals.ErrNotEntitled) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestTwoClocks(t *testing.T) {
	each(t, func(w *world) {
		id := w.hold(w.held("x")).Request.ID
		w.pass(4*time.Hour - time.Second)
		if w.state(id) != approvals.Pending {
			t.Fatal("expired early")
		}
		w.pass(time.Second)
		if _, err := w.Decide(ctx, w.by("fiona"), id, approvals.Approve, "late"); !errors.Is(err, approvals.ErrExpired) {
			t.Errorf("approved after decide-by: %v", err)
		}
		if w.state(id) != approvals.Expired {
			t.Errorf("%s", w.state(id))
		}
		told := w.hold(w.held("x"))
		if told.Request.ID != id || told.Request.State != approvals.Expired || told.Permit != nil {
			t.Errorf("the agent is not told: %+v", told.Request)
		}
		if a := w.hold(w.held("x")); !a.New {
			t.Error("told twice")
		}
		// Approved, but not executed in time.
		id = w.hold(w.held("y")).Request.ID
		w.approve("fiona", id)
		w.pass(15 * time.Minute)
		if a := w.hold(w.held("y")); a.Permit != nil || a.Request.State != approvals.Expired {
			t.Errorf("executed after execute-by: %+v", a.Request)
		}
		// The clock settles without anyone asking, and history stays.
		id = w.hold(w.held("z")).Request.ID
		w.pass(4 * time.Hour)
		w.must(w.Tick(ctx))
		if w.state(id) != approvals.Expired {
			t.Error("the clock did not expire it")
		}
		got := w.events(id)
		slices.Sort(got) // the log's own clock stands still against the test's
		if !slices.Equal(got, []string{"approval.expired", "approval.requested"}) {
			t.Errorf("%v", got)
		}
		w.pass(2 * time.Hour)
		w.must(w.Tick(ctx))
		if a := w.hold(w.held("z")); !a.New {
			t.Error("a lapsed request is not let go")
		}
	})
}

func TestEverythingIsLookedAtAgainBeforeTheCall(t *testing.T) {
	for name, change := range map[string]func(w *world, h *approvals.Held){
		"the approver left": func(w *world, _ *approvals.Held) { w.disable("fiona") },
		"out of the group":  func(w *world, _ *approvals.Held) { w.team("finance", "carl", "olga") },
		"labels got worse":  func(_ *world, h *approvals.Held) { h.Labels = []string{"untrusted"} },
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(w *world) {
				h := w.held("x")
				id := w.hold(h).Request.ID
				w.approve("fiona", id)
				change(w, &h)
				if a := w.hold(h); a.Permit != nil || a.Request.ID != id || a.Request.State != approvals.Void {
					t.Errorf("%+v", a.Request)
				}
			})
		})
	}
}

// A request is bound to the policies and grants that determined the decision,
// as they were: what other rules decide about, people have not seen.
func TestOtherRulesMakeAnotherRequest(t *testing.T) {
	rules := func(digests ...string) (out []approvals.Rule) {
		for i, d := range digests {
			out = append(out, approvals.Rule{Name: fmt.Sprint("rule", i), Digest: d})
		}
		return out
	}
	for name, other := range map[string][]approvals.Rule{"changed": rules("b", "x"), "one more": rules("a", "x", "y"), "one less": rules("a"), "none": nil} {
		t.Run(name, func(t *testing.T) {
			each(t, func(w *world) {
				for _, before := range []approvals.State{approvals.Pending, approvals.Approved, approvals.Denied} {
					h := w.held(string(before))
					h.Binding.Rules = rules("a", "x")
					first := w.hold(h).Request
					switch before {
					case approvals.Approved:
						w.approve("fiona", first.ID)
					case approvals.Denied:
						_, err := w.Decide(ctx, w.by("fiona"), first.ID, approvals.Deny, "no")
						w.must(err)
					}
					changed := h
					changed.Binding.Rules = other
					second := w.hold(changed)
					if !second.New || second.Permit != nil || second.Request.ID == first.ID || second.Request.Digest == first.Digest {
						t.Errorf("%s: %+v", before, second)
					}
					if got := w.state(first.ID); before != approvals.Denied && got != approvals.Void {
						t.Errorf("%s: what people saw is %s", before, got)
					}
				}
			})
		})
	}
}

// A call that was made is told about whatever decides by now: it must not be
// made twice because a policy changed in between.
func TestWhatWasMadeIsToldUnderOtherRules(t *testing.T) {
	each(t, func(w *world) {
		h := w.held("x")
		id := w.hold(h).Request.ID
		w.approve("fiona", id)
		p := w.hold(h).Permit
		p.Settle(ctx, audit.Succeeded, &approvals.Kept{Status: 200, Body: []byte("paid")})
		p.Done()
		h.Binding.Rules = []approvals.Rule{{Name: "four-eyes", Digest: "v2"}}
		if a := w.hold(h); a.Kept == nil || a.Request.ID != id {
			t.Errorf("%+v", a)
		}
	})
}

func TestNothingIsApprovedThatChanged(t *testing.T) {
	each(t, func(w *world) {
		id := w.hold(w.held("x")).Request.ID
		w.mu.Lock()
		w.stale = "the tool's definition changed"
		w.mu.Unlock()
		if _, err := w.Decide(ctx, w.by("fiona"), id, approvals.Approve, "fine"); !errors.Is(err, approvals.ErrVoid) {
			t.Errorf("%v", err)
		}
		if w.state(id) != approvals.Void {
			t.Errorf("%s", w.state(id))
		}
	})
}

func TestTiersComeInByTime(t *testing.T) {
	each(t, func(w *world) {
		n := need("escalates", 1, "finance")
		n.Tiers = []approvals.Tier{{Group: approvals.Group{Name: "board"}, After: time.Hour}}
		id := w.hold(w.held("x", n)).Request.ID
		if _, err := w.Decide(ctx, w.by("dora"), id, approvals.Approve, "fine"); !errors.Is(err, approvals.ErrNotEntitled) {
			t.Errorf("before its time: %v", err)
		}
		w.must(w.Tick(ctx))
		if slices.Contains(w.events(id), "approval.escalated") {
			t.Error("escalated early")
		}
		w.pass(time.Hour)
		w.must(w.Tick(ctx))
		w.must(w.Tick(ctx))
		if got := w.events(id); !slices.Equal(got, []string{"approval.requested", "approval.escalated"}) {
			t.Errorf("%v", got)
		}
		if r := w.approve("dora", id); r.State != approvals.Approved {
			t.Errorf("%s", r.State)
		}
		if a := w.hold(w.held("x", n)); a.Permit == nil {
			t.Errorf("the tier's approval does not count at execution: %+v", a.Request)
		}
	})
}

func TestDelegation(t *testing.T) {
	each(t, func(w *world) {
		id := w.hold(w.held("x", need("two", 2, "finance"))).Request.ID
		fiona := audit.Person(w.by("fiona").ID, "fiona")
		for name, try := range map[string][3]any{
			"of someone else": {"carl", "dora", w.clock().Add(time.Hour)}, "to herself": {"fiona", "fiona", w.clock().Add(time.Hour)},
			"over already": {"fiona", "dora", w.clock().Add(-time.Hour)}, "for ever": {"fiona", "dora", w.clock().Add(200 * 24 * time.Hour)},
		} {
			if _, err := w.Delegate(ctx, fiona, "leave", try[0].(string), try[1].(string), time.Time{}, try[2].(time.Time)); err == nil {
				t.Errorf("%s: delegated", name)
			}
		}
		later, err := w.Delegate(ctx, fiona, "leave", "fiona", "dora", w.clock().Add(time.Hour), w.clock().Add(2*time.Hour))
		w.must(err)
		if _, err := w.Decide(ctx, w.by("dora"), id, approvals.Approve, "for fiona"); !errors.Is(err, approvals.ErrNotEntitled) {
			t.Errorf("before it begins: %v", err)
		}
		w.pass(time.Hour)
		r, err := w.Decide(ctx, w.by("dora"), id, approvals.Approve, "for fiona")
		if err != nil || r.Decisions[0].For.Name != "fiona" {
			t.Fatalf("%v %+v", err, r.Decisions)
		}
		if r := w.approve("carl", id); r.State != approvals.Approved {
			t.Fatal(r.State)
		}
		w.must(w.EndDelegation(ctx, fiona, "back", later.ID))
		if a := w.hold(w.held("x", need("two", 2, "finance"))); a.Permit != nil || a.Request.State != approvals.Void {
			t.Errorf("a delegation that was taken back still counts: %+v", a.Request)
		}
	})
}

func TestBreakingTheGlassIsLoud(t *testing.T) {
	each(t, func(w *world) {
		h := w.held("x")
		id := w.hold(h).Request.ID
		if _, err := w.Override(ctx, w.by("carl"), id, "urgent"); !errors.Is(err, approvals.ErrBreakGlass) {
			t.Errorf("by an approver: %v", err)
		}
		if _, err := w.Override(ctx, w.by("root"), id, ""); !errors.Is(err, approvals.ErrReason) {
			t.Errorf("without a reason: %v", err)
		}
		r, err := w.Override(ctx, w.by("root"), id, "the plant burns")
		w.must(err)
		if r.State != approvals.Approved || !r.Override || r.ExecuteBy.Sub(w.clock()) > 15*time.Minute {
			t.Errorf("%+v", r)
		}
		open, err := w.findings.List(ctx, findings.Query{Status: "open", Rule: "approval.overridden"})
		if err != nil || len(open) != 1 || !strings.Contains(open[0].Detail, "the plant burns") || !strings.Contains(open[0].Detail, "carl, fiona, olga") {
			t.Errorf("%v %+v", err, open)
		}
		if a := w.hold(h); a.Permit == nil {
			t.Error("no permit")
		}
		if !slices.Contains(w.events(id), "approval.overridden") {
			t.Error("no event")
		}
	})
}

func TestAnAnswerThatWasNotToldIsKeptForOneMoreCall(t *testing.T) {
	each(t, func(w *world) {
		h := w.held("x")
		id := w.hold(h).Request.ID
		w.approve("fiona", id)
		p := w.hold(h).Permit
		p.Settle(ctx, audit.Succeeded, &approvals.Kept{Status: 200, Body: []byte("paid"), Call: "call_1"})
		p.Done()
		a := w.hold(h)
		if a.Kept == nil || string(a.Kept.Body) != "paid" || a.Permit != nil {
			t.Fatalf("%+v", a)
		}
		if a := w.hold(h); !a.New {
			t.Errorf("told twice: %+v", a)
		}
		sealed := func() (n int) {
			w.must(w.db.QueryRow(ctx, `SELECT count(*) FROM approvals WHERE kept IS NOT NULL OR wire IS NOT NULL`).Scan(&n))
			return n
		}
		if n := sealed(); n != 1 { // by its id it can be collected for a day
			t.Errorf("%d answers are kept", n)
		}
		w.pass(25 * time.Hour)
		w.must(w.Tick(ctx))
		if n := sealed(); n != 0 {
			t.Errorf("%d answers stay behind", n)
		}
	})
}

// A call that ends, and is told, while an identical one is looking is not "being
// made now" any more: the identical one is a new request, here and on another
// replica. The room looks at its clock before and after it reads the request.
func TestACallThatEndsWhileAnotherLooksIsNotBeingMade(t *testing.T) {
	each(t, func(w *world) {
		for name, s := range map[string]*approvals.Service{"this replica": w.Service, "another": w.room(approvals.Options{})} {
			for look := 1; look <= 2; look++ {
				h := w.held(fmt.Sprint(name, look))
				id := w.hold(h).Request.ID
				w.approve("fiona", id)
				p := w.hold(h).Permit
				ended := false
				w.atLook(look, func() {
					ended = true
					p.Settle(ctx, audit.Succeeded, nil)
					p.Told(ctx)
				})
				a, err := s.Hold(ctx, h)
				w.must(err)
				if !ended || !a.New || a.Request.ID == id {
					t.Errorf("%s, look %d, ended %t: %s is %s", name, look, ended, a.Request.ID, a.Request.State)
				}
			}
		}
	})
}

// A replica that dies between use and outcome: what the log says is what the
// next one tells, and nothing is made again.
func TestWhatADeadReplicaLeft(t *testing.T) {
	each(t, func(w *world) {
		other := w.room(approvals.Options{})
		for name, end := range map[string]func(call string){
			"unknown": func(call string) {
				r, err := w.log.Intent(ctx, audit.Event{Call: call, Actor: audit.System})
				w.must(err)
				w.log.Outcome(r, audit.Event{Outcome: &audit.Outcome{Status: audit.Unknown}})
			},
			approvals.NotSent: func(string) {},
		} {
			h := w.held(name)
			id := w.hold(h).Request.ID
			w.approve("fiona", id)
			a, err := other.Hold(ctx, h)
			w.must(err)
			if a.Permit == nil {
				t.Fatal("no permit")
			}
			end(a.Request.ExecCall)
			w.pass(3 * time.Minute)
			for deadline := time.Now().Add(10 * time.Second); w.state(id) != approvals.Executed && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
				w.must(w.Tick(ctx))
			}
			r, err := w.Get(ctx, id)
			w.must(err)
			if r.State != approvals.Executed || r.Outcome != name {
				t.Errorf("%s: %s %s", name, r.State, r.Outcome)
			}
			if told := w.hold(h); told.Request.ID != id || told.Permit != nil || told.Kept != nil {
				t.Errorf("%s: %+v", name, told)
			}
		}
	})
}

func TestAFloodFromOneAgent(t *testing.T) {
	each(t, func(w *world) {
		s := w.room(approvals.Options{MaxPending: 5})
		for i := range 5 {
			_, err := s.Hold(ctx, w.held(fmt.Sprint(i)))
			w.must(err)
		}
		if _, err := s.Hold(ctx, w.held("one more")); !errors.Is(err, approvals.ErrTooMany) {
			t.Errorf("%v", err)
		}
		var last error
		for range 200 {
			if _, last = s.Hold(ctx, w.held("1")); last != nil {
				break
			}
		}
		if !errors.Is(last, approvals.ErrFlood) {
			t.Errorf("%v", last)
		}
		w.pass(2 * time.Minute)
		if _, err := s.Hold(ctx, w.held("1")); err != nil {
			t.Errorf("a flood locks the agent out for good: %v", err)
		}
	})
}

func TestWaitingWakesOnAnyReplica(t *testing.T) {
	each(t, func(w *world) {
		other := w.room(approvals.Options{})
		id := w.hold(w.held("x")).Request.ID
		done := make(chan approvals.Request, 2)
		for _, s := range []*approvals.Service{w.Service, other} {
			go func() {
				r, err := s.Wait(ctx, id, 30*time.Second, approvals.Pending)
				if err != nil {
					t.Error(err)
				}
				done <- r
			}()
		}
		w.approve("fiona", id)
		for range 2 {
			if r := <-done; r.State != approvals.Approved {
				t.Errorf("%s", r.State)
			}
		}
	})
}
