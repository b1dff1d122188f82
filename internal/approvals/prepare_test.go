package approvals_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
)

// windowed is a call that policy allows and whose tool lets it be cancelled.
func (w *world) windowed(content string) approvals.Held {
	h := w.held(content)
	h.Needs, h.Window, h.Server, h.Allowed = nil, 30*time.Second, true, true
	h.Wire = &approvals.Wire{Front: "mcp", Body: []byte(content)}
	return h
}

func TestAPreparedCallIsSentAfterItsWindow(t *testing.T) {
	each(t, func(w *world) {
		h := w.windowed("pay 1")
		a := w.hold(h)
		if a.Permit != nil || a.Request.State != approvals.Approved || a.Request.SendAt.Sub(w.clock()) != 30*time.Second || !a.Request.Server {
			t.Fatalf("%+v", a.Request)
		}
		again := h
		again.Call = "call_again"
		if b := w.hold(again); b.Request.ID != a.Request.ID || b.Permit != nil {
			t.Errorf("the same call again: %+v", b)
		}
		slow := w.windowed("pay later") // is seen whenever the other one is, and not sent
		slow.Window = time.Hour
		later := w.hold(slow)
		var sent []string
		var mu sync.Mutex
		done := make(chan struct{})
		run := func(s *approvals.Service) func(context.Context, approvals.Request, approvals.Wire) error {
			return func(ctx context.Context, r approvals.Request, wire approvals.Wire) error {
				if w.clock().Before(r.SendAt) {
					t.Errorf("%s is to be sent before its time", r.ID)
					return nil
				}
				h := w.windowed("pay 1")
				h.Call, h.Only, h.Labels = "call_sent", r.ID, []string{"untrusted"} // what the run has read since is the line's to decide about
				a, err := s.Hold(ctx, h)
				if err != nil || a.Permit == nil {
					return err
				}
				mu.Lock()
				sent = append(sent, string(wire.Body))
				mu.Unlock()
				a.Permit.Settle(ctx, audit.Succeeded, &approvals.Kept{Status: 200, Body: []byte("paid"), Call: "call_sent"})
				a.Permit.Done()
				close(done)
				return nil
			}
		}
		w.must(w.Start(ctx, run(w.Service)))
		other := w.room(approvals.Options{}) // another replica: it is sent once
		w.must(other.Start(ctx, run(other)))
		t.Cleanup(func() { w.Stop(ctx); other.Stop(ctx) })
		if got := w.state(a.Request.ID); got != approvals.Approved {
			t.Errorf("%s before its time", got)
		}
		w.pass(31 * time.Second)
		w.must(w.Comment(ctx, w.by("olga"), later.Request.ID, "wake up", false)) // both look at once
		select {
		case <-done:
		case <-time.After(30 * time.Second):
			t.Fatal("it was not sent")
		}
		mu.Lock()
		if strings.Join(sent, " ") != "pay 1" {
			t.Errorf("sent %q", sent)
		}
		mu.Unlock()
		if b := w.hold(again); b.Kept == nil || string(b.Kept.Body) != "paid" {
			t.Errorf("the same call after it was sent: %+v", b)
		}
		if got := strings.Join(w.events(a.Request.ID), " "); got != "approval.prepared approval.used approval.executed" {
			t.Error(got)
		}
		if _, err := w.Withdraw(ctx, audit.Person("usr_1", "ada"), a.Request.ID, "late"); !errors.Is(err, approvals.ErrSettled) {
			t.Errorf("withdrawn after it was sent: %v", err)
		}
	})
}

func TestAPreparedCallThatIsCancelledIsNeverSent(t *testing.T) {
	each(t, func(w *world) {
		h := w.windowed("pay 1")
		a := w.hold(h)
		if _, err := w.Withdraw(ctx, audit.Person("usr_1", "ada"), a.Request.ID, "wrong supplier"); err != nil {
			t.Fatal(err)
		}
		w.pass(time.Minute)
		h.Only = a.Request.ID
		if b, err := w.Hold(ctx, h); err == nil && b.Permit != nil {
			t.Error("it was sent although it was cancelled")
		}
		// The same call again is another one: what was cancelled does not send it.
		again := w.windowed("pay 1")
		for deadline := time.Now().Add(30 * time.Second); w.hold(again).Request.ID == a.Request.ID; { // told once that it was cancelled
			if time.Now().After(deadline) {
				t.Fatal("the same call is not asked about again")
			}
		}
		w.pass(31 * time.Second)
		if b, err := w.Hold(ctx, h); !errors.Is(err, approvals.ErrVoid) {
			t.Errorf("sent for one that was cancelled: %v %+v", err, b.Permit)
		}
		// Other rules decide about it by now: what waits is void, and it waits anew.
		old := w.hold(w.windowed("pay 2")).Request.ID
		ruled := w.windowed("pay 2")
		ruled.Binding.Rules = []approvals.Rule{{Name: "four-eyes", Digest: "v2"}}
		if b := w.hold(ruled); b.Request.ID == old || w.state(old) != approvals.Void {
			t.Errorf("%+v, and the old one is %s", b.Request, w.state(old))
		}
		// Who cancels and who sends race: one of them.
		for n := range 8 {
			h := w.windowed("pay " + string(rune('a'+n)))
			a := w.hold(h)
			w.pass(31 * time.Second)
			h.Only = a.Request.ID
			var wg sync.WaitGroup
			var cancelled, sent bool
			wg.Go(func() {
				_, err := w.Withdraw(ctx, audit.Person("usr_1", "ada"), a.Request.ID, "wrong")
				cancelled = err == nil
			})
			wg.Go(func() {
				b, err := w.Hold(ctx, h)
				sent = err == nil && b.Permit != nil
				if sent {
					b.Permit.Settle(ctx, audit.Succeeded, nil)
					b.Permit.Done()
				}
			})
			wg.Wait()
			if cancelled == sent {
				t.Fatalf("cancelled %v, sent %v", cancelled, sent)
			}
		}
	})
}

func TestAWindowAfterAnApproval(t *testing.T) {
	each(t, func(w *world) {
		h := w.held("pay 1")
		h.Window, h.Server, h.Wire = 30*time.Second, true, &approvals.Wire{Front: "mcp"}
		a := w.hold(h)
		r := w.approve("fiona", a.Request.ID)
		if r.SendAt.Sub(w.clock()) != 30*time.Second || r.ExecuteBy.Sub(r.SendAt) != 15*time.Minute {
			t.Errorf("sent at %s, by %s", r.SendAt, r.ExecuteBy)
		}
		if b := w.hold(h); b.Permit != nil {
			t.Error("it was made in its window")
		}
		w.pass(30 * time.Second)
		if b := w.hold(h); b.Permit == nil {
			t.Errorf("it was not made after its window: %+v", b.Request)
		} else {
			b.Permit.Settle(ctx, audit.Succeeded, nil)
			b.Permit.Done()
		}
		bare := w.windowed("pay 2")
		bare.Wire = nil
		if _, err := w.Hold(ctx, bare); !errors.Is(err, approvals.ErrImpossible) {
			t.Errorf("what cannot be kept: %v", err)
		}
		bare.Window, bare.Wire = 0, &approvals.Wire{}
		if _, err := w.Hold(ctx, bare); !errors.Is(err, approvals.ErrNeed) {
			t.Errorf("neither a need nor a window: %v", err)
		}
		unheld := w.windowed("pay 4")
		unheld.Allowed = false // something holds it that names nobody who could approve it
		if _, err := w.Hold(ctx, unheld); !errors.Is(err, approvals.ErrNeed) {
			t.Errorf("what is held is not prepared: %v", err)
		}
		later := w.windowed("pay 5")
		d := w.hold(later)
		w.pass(31 * time.Second)
		later.Allowed, later.Only = false, d.Request.ID
		if b, err := w.Hold(ctx, later); err == nil && b.Permit != nil || w.state(d.Request.ID) != approvals.Void {
			t.Errorf("sent although it is held by now: %v %s", err, w.state(d.Request.ID))
		}
		old := w.windowed("pay 3")
		c := w.hold(old)
		w.pass(30*time.Second + 16*time.Minute) // nobody could send it for long
		if b, err := w.Hold(ctx, old); err != nil || b.Permit != nil || b.Request.ID == c.Request.ID && b.Request.State == approvals.Approved {
			t.Errorf("sent long after its time: %+v %v", b, err)
		}
	})
}

// TestPreparedCallsOfAnAgentAreBounded counts those of the agent that still wait.
func TestPreparedCallsOfAnAgentAreBounded(t *testing.T) {
	each(t, func(w *world) {
		s := w.room(approvals.Options{MaxPending: 2})
		hold := func(agent, content string) error {
			h := w.windowed(content)
			h.Binding.Agent = agent
			_, err := s.Hold(ctx, h)
			return err
		}
		w.must(hold("payer", "pay 1"))
		w.must(hold("payer", "pay 2"))
		if err := hold("payer", "pay 3"); !errors.Is(err, approvals.ErrTooMany) {
			t.Errorf("one more than may wait: %v", err)
		}
		if err := hold("other", "pay 3"); err != nil {
			t.Errorf("another agent has to wait for it: %v", err)
		}
		w.pass(31 * time.Second)
		if err := hold("payer", "pay 3"); err != nil {
			t.Errorf("none waits any more: %v", err)
		}
	})
}

// TestWhatWaitsToBeSent is found by its call and its run, and wakes the executor
// when it is due.
func TestWhatWaitsToBeSent(t *testing.T) {
	each(t, func(w *world) {
		next := func(want time.Duration) {
			t.Helper()
			if got := w.NextSend(); got != want {
				t.Errorf("the executor sleeps for %s, not %s", got, want)
			}
		}
		next(5 * time.Second)
		gone, h := w.windowed("pay 1"), w.windowed("pay 2")
		g, a := w.hold(gone), w.hold(h)
		if a.Request.DecideBy != a.Request.SendAt || a.Request.ExecuteBy.Sub(a.Request.SendAt) != 15*time.Minute {
			t.Errorf("%+v", a.Request)
		}
		held := w.hold(w.held("pay 3")) // waits for people, not for a window
		if _, err := w.Withdraw(ctx, audit.Person("usr_1", "ada"), g.Request.ID, "wrong"); err != nil {
			t.Fatal(err)
		}
		found := func(call, run string) (out string) {
			t.Helper()
			all, err := w.Windowed(ctx, call, run)
			w.must(err)
			for _, r := range all {
				out += r.ID + " " + string(r.State) + ";"
			}
			return out
		}
		if got := found("", "run_1"); got != a.Request.ID+" approved;" {
			t.Errorf("of the run: %s", got)
		}
		if got := found(gone.Call, ""); got != g.Request.ID+" void;" {
			t.Errorf("of a call that was cancelled: %s", got)
		}
		if got := found(held.Request.Call, ""); got != "" {
			t.Errorf("of a call without a window: %s", got)
		}
		next(5 * time.Second)
		w.pass(28 * time.Second)
		next(2 * time.Second)
		w.pass(2 * time.Second)
		next(5 * time.Second) // it is due: it was looked for before this
	})
}
