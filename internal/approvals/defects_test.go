package approvals_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/identity"
)

// What follows are defects that other systems had, one test each. Those that
// need the line are in gateway/mcp/defects_test.go.

// OpenBao #3666: a control group whose number of approvals was left out, or
// zero, let everything through.
func TestDefectAnOmittedQuorumFailsOpen(t *testing.T) {
	each(t, func(w *world) {
		omitted := approvals.Need{Policy: "p", Groups: []approvals.Group{{Name: "finance"}}, DecideWithin: time.Hour, ExecuteWithin: time.Minute}
		for name, needs := range map[string][]approvals.Need{
			"omitted": {omitted}, "zero": {need("zero", 0, "finance")}, "negative": {need("negative", -1, "finance")},
			"beside a good one": {need("good", 1, "finance"), omitted}, "no need at all": {},
		} {
			h := w.held(name)
			h.Needs = needs
			if a, err := w.Hold(ctx, h); !errors.Is(err, approvals.ErrNeed) || a.Permit != nil {
				t.Errorf("%s: %v %+v", name, err, a)
			}
		}
		if all, err := w.List(ctx, approvals.Query{}); err != nil || len(all) > 0 {
			t.Errorf("%v %+v", err, all)
		}
	})
}

// OpenBao #3814: a member of a group in a group was not recognised. Groups do
// not nest here, and nobody can make one that looks as if it did.
func TestDefectAMemberOfANestedGroupIsNotRecognised(t *testing.T) {
	each(t, func(w *world) {
		for _, inner := range []string{"legal", "group:legal", "Group::legal", "@legal"} {
			if _, err := w.ids.PutGroup(ctx, audit.System, "test", identity.Group{Name: "outer", Members: []string{"fiona", inner}}); err == nil {
				t.Errorf("%q is a member", inner)
			}
		}
	})
}

// OpenBao #3815: a group of the same name in another tenant was accepted.
func TestDefectAGroupOfTheSameNameIsAccepted(t *testing.T) {
	each(t, func(w *world) {
		h := w.held("x")
		id := w.hold(h).Request.ID
		w.approve("fiona", id)
		w.must(w.ids.DeleteGroup(ctx, audit.System, "test", "finance"))
		w.team("finance", "fiona", "carl", "olga") // another group, though every name is the same
		if a := w.hold(h); a.Permit != nil || a.Request.State != approvals.Void {
			t.Errorf("%+v", a.Request)
		}
	})
}

// OpenBao #3601: an approver could not see what they approved.
func TestDefectAnApproverCannotSeeWhatTheyApprove(t *testing.T) {
	each(t, func(w *world) {
		id := w.hold(w.held(`{"amount":12400,"to":"Nordwind GmbH","password":"hunter2"}`)).Request.ID
		for _, name := range []string{"fiona", "carl"} {
			v := w.show(name, id).View
			if v == nil || v.Missing != "" || !strings.Contains(fmt.Sprint(v.Arguments), "Nordwind GmbH") || strings.Contains(fmt.Sprint(v), "hunter2") {
				t.Errorf("%s sees %+v", name, v)
			}
		}
	})
}

// OpenBao, control_group.go: one approver in the groups of two factors counted
// for both.
func TestDefectOnePersonCountsForTwoGroups(t *testing.T) {
	each(t, func(w *world) {
		needs := []approvals.Need{need("a", 1, "finance"), need("b", 1, "legal")}
		id := w.hold(w.held("x", needs...)).Request.ID
		if r := w.approve("carl", id); r.State != approvals.Pending { // a member of both
			t.Errorf("%s", r.State)
		}
		if a := w.hold(w.held("x", needs...)); a.Permit != nil {
			t.Error("one person was two")
		}
	})
}

// guren #621: the fingerprint was of the redacted arguments, so that another
// password had the same.
func TestDefectAFingerprintOfRedactedArguments(t *testing.T) {
	each(t, func(w *world) {
		one, other := w.held(`{"password":"hunter2"}`), w.held(`{"password":"hunter2hunter2"}`)
		id := w.hold(one).Request.ID
		w.approve("fiona", id)
		if a := w.hold(other); a.Permit != nil || a.Request.ID == id {
			t.Errorf("%+v", a.Request)
		}
		if a := w.hold(one); a.Permit == nil {
			t.Errorf("%+v", a.Request)
		}
	})
}

// vaara #479: an approval of an amount of 10 allowed 100000 from then on.
func TestDefectAnApprovalAllowsLargerAmounts(t *testing.T) {
	each(t, func(w *world) {
		for i, amount := range []string{"10", "100000", "11", "9", "1e1", "-10"} {
			a := w.hold(w.held(`{"amount":` + amount + `}`))
			if a.Permit != nil || !a.New {
				t.Errorf("%s: %+v", amount, a.Request)
			}
			if i == 0 {
				w.approve("fiona", a.Request.ID)
			}
		}
	})
}

// acp-gateway #39: identifiers were unique in a session only, and one request
// that nobody answered blocked the others.
func TestDefectOneUnansweredRequestBlocksTheOthers(t *testing.T) {
	each(t, func(w *world) {
		stuck := w.hold(w.held("stuck")).Request.ID
		seen := map[string]bool{stuck: true}
		for i := range 5 {
			h := w.held(fmt.Sprint("next ", i))
			h.Run = "run_2"
			id := w.hold(h).Request.ID
			if seen[id] {
				t.Fatalf("%s twice", id)
			}
			seen[id] = true
			w.approve("fiona", id)
			a := w.hold(h)
			if a.Permit == nil {
				t.Fatalf("behind an unanswered one: %+v", a.Request)
			}
			a.Permit.Settle(ctx, audit.Succeeded, nil)
			a.Permit.Told(ctx)
		}
		if s := w.state(stuck); s != approvals.Pending {
			t.Errorf("%s", s)
		}
	})
}

// omnigent #3502: the policy said 600 seconds and the runner waited a day.
// Nothing in a request waits longer than its shortest policy says.
func TestDefectTheWaitIsNotThePolicys(t *testing.T) {
	each(t, func(w *world) {
		short, long := need("short", 1, "finance"), need("long", 1, "legal")
		short.DecideWithin, short.ExecuteWithin = 600*time.Second, 30*time.Second
		h := w.held("x", long, short)
		r := w.hold(h).Request
		if got := r.DecideBy.Sub(r.Created); got != 600*time.Second {
			t.Fatalf("waits %s", got)
		}
		w.approve("fiona", r.ID)
		if got := w.approve("lee", r.ID); got.ExecuteBy.Sub(got.Decided) != 30*time.Second {
			t.Errorf("good for %s", got.ExecuteBy.Sub(got.Decided))
		}
		h = w.held("y", long, short)
		id := w.hold(h).Request.ID
		w.pass(600 * time.Second)
		w.must(w.Tick(ctx))
		if s := w.state(id); s != approvals.Expired {
			t.Errorf("after 600 s: %s", s)
		}
	})
}

// Teleport #68308: a request that expired was gone, and its history with it.
func TestDefectHistoryVanishesOnExpiry(t *testing.T) {
	each(t, func(w *world) {
		h := w.held(`{"to":"Nordwind GmbH"}`, need("two", 2, "finance"))
		id := w.hold(h).Request.ID
		w.approve("fiona", id)
		w.must(w.Comment(ctx, w.by("carl"), id, "who is that?", false))
		w.pass(5 * time.Hour)
		w.must(w.Tick(ctx))
		w.hold(h) // the agent is told
		w.pass(400 * 24 * time.Hour)
		w.must(w.Tick(ctx))
		d := w.show("carl", id)
		if d.State != approvals.Expired || len(d.Decisions) != 1 || d.Decisions[0].Person != "fiona" || len(d.Comments) != 1 || !strings.Contains(fmt.Sprint(d.View.Arguments), "Nordwind") {
			t.Errorf("%+v", d)
		}
		all, err := w.List(ctx, approvals.Query{State: approvals.Expired})
		if err != nil || len(all) != 1 || all[0].ID != id {
			t.Errorf("%v %+v", err, all)
		}
		got := w.events(id)
		slices.Sort(got) // the log's own clock stands still against the test's
		if !slices.Equal(got, []string{"approval.commented", "approval.expired", "approval.requested", "approval.voted"}) {
			t.Errorf("%v", got)
		}
	})
}

// Teleport #15580: what was approved once could be used as long as it lasted.
func TestDefectAnApprovalIsGoodMoreThanOnce(t *testing.T) {
	each(t, func(w *world) {
		h := w.held("x")
		id := w.hold(h).Request.ID
		w.approve("fiona", id)
		p := w.hold(h).Permit
		other := w.room(approvals.Options{})
		for name, s := range map[string]*approvals.Service{"on another replica": other, "after a restart": w.room(approvals.Options{})} {
			if a, err := s.Hold(ctx, h); err != nil || a.Permit != nil || a.Request.State != approvals.Executing {
				t.Errorf("%s: %v %+v", name, err, a.Request)
			}
		}
		p.Settle(ctx, audit.Failed, nil) // that it failed does not make it good again
		p.Told(ctx)
		if a := w.hold(h); a.Permit != nil || !a.New {
			t.Errorf("%+v", a.Request)
		}
	})
}

// Teleport #50957: what was approved could not be given back before its time.
func TestDefectAnApprovalCannotBeDroppedEarly(t *testing.T) {
	each(t, func(w *world) {
		h := w.held("x")
		id := w.hold(h).Request.ID
		w.approve("fiona", id)
		if code, body := w.as("fiona", "POST", "/api/v1/approvals/"+id+"/withdraw", `{"reason":"I may not"}`); code != 403 {
			t.Errorf("by someone else: %d %s", code, body)
		}
		if code, body := w.as("olga", "POST", "/api/v1/approvals/"+id+"/withdraw", `{"reason":"not needed"}`); code != 200 {
			t.Fatalf("%d %s", code, body)
		}
		a := w.hold(h)
		if a.Permit != nil || a.Request.State != approvals.Void || !strings.Contains(a.Request.Why, "withdrawn by olga") {
			t.Errorf("%+v", a.Request)
		}
	})
}
