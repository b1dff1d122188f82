package approvals_test

import (
	"errors"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/identity"
)

// Who asks by a request's id: the agent it is of, for the people it is for, and
// gets the answer for a day, while identical calls are new ones.
func TestAskingByID(t *testing.T) {
	each(t, func(w *world) {
		h := w.held("x")
		chain := []audit.Actor{audit.Person("usr_x", "sam")}
		h.Binding.Chain = chain
		r := w.hold(h).Request
		agent := r.Binding.AgentID
		if !r.Of(agent, chain) || r.Of("agt_other", chain) || r.Of(agent, nil) || r.Of("", chain) {
			t.Error("a request is told to whom it is not of")
		}
		nobodys := approvals.Request{}
		if nobodys.Of("", nil) {
			t.Error("nobody's request is nobody's")
		}
		if _, err := w.Collect(ctx, r.ID); !errors.Is(err, approvals.ErrSettled) {
			t.Errorf("before it was made: %v", err)
		}
		w.approve("fiona", r.ID)
		p := w.hold(h).Permit
		p.Settle(ctx, audit.Succeeded, &approvals.Kept{Status: 200, Body: []byte("paid")})
		p.Done()
		for range 2 {
			if k, err := w.Collect(ctx, r.ID); err != nil || string(k.Body) != "paid" {
				t.Errorf("%v %+v", err, k)
			}
		}
		if a := w.hold(h); !a.New {
			t.Errorf("who collected is told once more: %+v", a)
		}
		w.pass(24 * time.Hour)
		if k, err := w.Collect(ctx, r.ID); err != nil || k != nil {
			t.Errorf("after a day: %v %+v", err, k)
		}
	})
}

// The person at the agent's client is its owner, if they may decide and nobody
// in particular is behind the call.
func TestWhoSitsAtTheClient(t *testing.T) {
	each(t, func(w *world) {
		if a := w.hold(w.held("plain")); !a.Self {
			t.Error("olga, the owner, is in the group")
		}
		if a := w.hold(w.held("others", need("legal", 1, "legal"))); a.Self {
			t.Error("the owner is not in the group")
		}
		n := need("not-owner", 1, "finance")
		n.ExcludeOwner = true
		if a := w.hold(w.held("other eyes", n)); a.Self {
			t.Error("the policy wants other eyes")
		}
		h := w.held("for sam")
		h.Binding.Chain = []audit.Actor{audit.Person("usr_x", "sam")}
		if a := w.hold(h); a.Self {
			t.Error("whoever sits there, they are in the chain")
		}
		h = w.held("approved")
		w.approve("fiona", w.hold(h).Request.ID)
		if a := w.hold(h); a.Self || a.Permit == nil {
			t.Errorf("nothing is left to decide: %+v", a)
		}
		w.disable("olga")
		if a := w.hold(w.held("gone")); a.Self {
			t.Error("the owner left")
		}
		_, err := w.ids.PutAgent(ctx, audit.System, "test", identity.Agent{Name: "payer", Owner: "fiona", Stage: "production"})
		w.must(err)
		if a := w.hold(w.held("now hers")); !a.Self {
			t.Error("the present owner is in the group")
		}
	})
}

// How a call ends: what is too large is not kept, what was told before it ended
// is not either, and what this replica makes no other one settles.
func TestHowAnApprovedCallEnds(t *testing.T) {
	each(t, func(w *world) {
		permit := func(content string) (approvals.Held, *approvals.Permit, string) {
			h := w.held(content)
			id := w.hold(h).Request.ID
			w.approve("fiona", id)
			return h, w.hold(h).Permit, id
		}
		h, p, id := permit("large")
		p.Settle(ctx, audit.Succeeded, &approvals.Kept{Body: make([]byte, approvals.KeepMost+1)})
		p.Done()
		if a := w.hold(h); a.Kept != nil || a.Request.ID != id || a.Request.State != approvals.Executed {
			t.Errorf("%+v", a)
		}
		h, p, id = permit("told first")
		p.Told(ctx)
		p.Settle(ctx, audit.Succeeded, &approvals.Kept{Body: []byte("paid")})
		if a := w.hold(h); !a.New {
			t.Errorf("told, and told again: %+v", a)
		}
		var kept int
		w.must(w.db.QueryRow(ctx, `SELECT count(*) FROM approvals WHERE kept IS NOT NULL`).Scan(&kept))
		if kept != 0 {
			t.Errorf("%d answers stay that were told (%s)", kept, id)
		}
		_, p, id = permit("ours")
		w.pass(time.Hour)
		w.must(w.Tick(ctx))
		if s := w.state(id); s != approvals.Executing {
			t.Errorf("what is being made here is %s", s)
		}
		p.Settle(ctx, audit.Failed, nil)
		p.Settle(ctx, audit.Succeeded, nil)
		p.Done()
		if r, err := w.Get(ctx, id); err != nil || r.Outcome != audit.Failed {
			t.Errorf("%v %s", err, r.Outcome)
		}
		// Another replica's, which may be about to record its intent.
		h = w.held("theirs")
		id = w.hold(h).Request.ID
		w.approve("fiona", id)
		a, err := w.room(approvals.Options{}).Hold(ctx, h)
		w.must(err)
		w.pass(time.Minute)
		w.must(w.Tick(ctx))
		if s := w.state(id); a.Permit == nil || s != approvals.Executing {
			t.Errorf("after a minute without an intent it is %s", s)
		}
		w.pass(2 * time.Minute)
		w.must(w.Tick(ctx))
		if r, err := w.Get(ctx, id); err != nil || r.Outcome != approvals.NotSent {
			t.Errorf("%v %s %s", err, r.State, r.Outcome)
		}
	})
}
