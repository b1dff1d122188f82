package undo

import (
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
)

const (
	leaseTTL     = 15 * time.Second
	renewEvery   = 4 * time.Second
	lookEvery    = time.Second
	sendWithin   = 20 * time.Second // from the step to the compensating call's way out
	callWithin   = 5 * time.Minute
	mostAttempts = 5
)

// Start begins to carry out what was begun, here or on a replica that is gone.
func (s *Service) Start(ctx context.Context) error {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	s.done.Go(func() { s.run(run) })
	return nil
}

// Stop ends the background work; another replica goes on. It may be called
// without Start and more than once.
func (s *Service) Stop(ctx context.Context) error {
	if s.cancel == nil {
		return nil
	}
	s.cancel()
	s.done.Wait()
	s.cancel = nil
	return s.lease.Release(ctx)
}

func (s *Service) run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-tick.C:
		}
		if err := s.Advance(ctx); err != nil && ctx.Err() == nil {
			s.o.Logger.Warn("what is being undone could not go on; it is tried again", "error", err)
		}
	}
}

// Advance carries out what can be now, if this replica holds the lease: one at a
// time, so that two replicas do not make the same call.
func (s *Service) Advance(ctx context.Context) error {
	running, err := readUndos(ctx, s.o.DB, ` WHERE state = $1 ORDER BY id`, Running)
	if err != nil || len(running) == 0 {
		return err
	}
	if ours, err := s.lease.Acquire(ctx); err != nil || !ours {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go s.renew(ctx, cancel)
	var wrong error // with one must not stop the others
	for _, u := range running {
		if wrong = errors.Join(wrong, s.carry(ctx, u)); ctx.Err() != nil {
			break
		}
	}
	return wrong
}

// renew keeps the lease, and ends the work when it is lost.
func (s *Service) renew(ctx context.Context, lost context.CancelFunc) {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if s.lease.Renew(ctx) != nil {
				lost()
				return
			}
		}
	}
}

// carry moves one undo on as far as it goes: a step at a time, in order.
func (s *Service) carry(ctx context.Context, u Undo) error {
	for {
		steps, err := s.readSteps(ctx, s.o.DB, u.ID)
		if err != nil {
			return err
		}
		var next *Step
		for i := range steps {
			if !steps[i].settled() {
				next = &steps[i]
				break
			}
		}
		switch {
		case next == nil:
			return s.finish(ctx, u, Done, steps)
		case next.State == Failed || next.State == Doubt:
			return s.finish(ctx, u, Attention, steps)
		}
		moved, err := s.move(ctx, u, *next)
		if err != nil || !moved {
			return err
		}
	}
}

// finish ends an undo, or leaves it to a person.
func (s *Service) finish(ctx context.Context, u Undo, state string, steps []Step) error {
	count := map[string]int{}
	for _, st := range steps {
		count[st.State]++
	}
	return s.o.Log.Change(ctx, func(tx *audit.Tx) error {
		kind := audit.Type("undo.ended")
		if state == Attention {
			kind = "undo.stopped"
		}
		tx.Record(s.event(kind, audit.System, u, "", map[string]any{"undo": u.ID, "done": count[Undone], "cannot": count[Cannot], "failed": count[Failed], "unknown": count[Doubt], "left": count[Planned]}))
		return putState(ctx, tx, u, state, storage.Micros(s.o.Now()))
	})
}

// move takes one step as far as it goes now and reports whether it changed.
func (s *Service) move(ctx context.Context, u Undo, st Step) (bool, error) {
	switch st.State {
	case Planned:
		if st.cancels() {
			return s.cancelStep(ctx, u, st)
		}
		return s.make(ctx, u, st)
	case Held:
		state, why, err := s.o.Approval(ctx, st.Approval)
		switch {
		case err != nil:
			return false, err
		case state == "pending":
			return false, nil
		case state == "approved":
			return s.make(ctx, u, st)
		case state == "executing" || state == "executed":
			return s.make(ctx, u, st) // it is told what became of the same call
		}
		return s.put(ctx, u, st, Failed, "not approved: "+why)
	}
	return s.look(ctx, u, st)
}

// cancelStep cancels a call that was not sent yet. It may be done twice.
func (s *Service) cancelStep(ctx context.Context, u Undo, st Step) (bool, error) {
	sent, err := s.o.Cancel(ctx, audit.Person(u.byID, u.By), st.Approval, u.Reason)
	switch {
	case err != nil:
		return false, err
	case sent != "":
		return s.put(ctx, u, st, Failed, "it was sent before it could be cancelled, as "+sent+": undo that one")
	}
	return s.put(ctx, u, st, Undone, "it was never sent")
}

// make makes the compensating call. That it may go out from now on, and under
// which identifier, is durable before it does.
func (s *Service) make(ctx context.Context, u Undo, st Step) (bool, error) {
	if st.Attempts >= mostAttempts && st.State == Planned {
		return s.put(ctx, u, st, Failed, fmt.Sprintf("tried %d times", st.Attempts))
	}
	before := time.Now().Add(sendWithin)
	next := st
	next.State, next.Made, next.Attempts, next.Why = Making, id.At(id.Call, s.o.Now()), st.Attempts+1, ""
	if err := s.write(ctx, u, st, next, "undo.step_begun"); err != nil {
		return false, err
	}
	conn, tool, _ := strings.Cut(st.ByTool, "/")
	if _, err := s.act(ctx, u, Act{Call: next.Made, Agent: st.Agent, Connection: conn, Tool: tool, Args: st.Args, Before: before}); fault.KindOf(err) == fault.Invalid {
		return s.put(ctx, u, next, Failed, "it cannot be made: "+fault.Public(err).Message)
	} else if err != nil {
		return false, err
	}
	for waited := time.Now(); ; { // the outcome is recorded a moment after the answer
		if moved, err := s.look(ctx, u, next); err != nil || moved || time.Since(waited) > 10*time.Second {
			return moved, err
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *Service) act(ctx context.Context, u Undo, a Act) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	a.Undo, a.By = u.ID, audit.Person(u.byID, u.By)
	return s.o.Make(ctx, a)
}

// callReplayed is the type of the event of a call that got the answer of the same
// call made before.
const callReplayed audit.Type = "call.replayed"

// look finds out from the log what became of the compensating call.
func (s *Service) look(ctx context.Context, u Undo, st Step) (bool, error) {
	recs, err := s.o.Log.List(ctx, audit.Query{Call: st.Made, Types: []audit.Type{audit.CallIntent, audit.CallOutcome, audit.CallDenied, audit.CallHeld, audit.CallRefused, callReplayed}, Limit: 10})
	if err != nil {
		return false, err
	}
	left := true
	for _, r := range recs {
		var d struct {
			Approval string `json:"approval"`
			Made     string `json:"made_as"`
			Reason   string `json:"reason"`
		}
		_ = json.Unmarshal(r.Event.Detail, &d) // other details say none of it
		left = false
		switch r.Event.Type {
		case audit.CallOutcome:
			return s.outcome(ctx, u, st, r.Event.Outcome)
		case audit.CallHeld:
			next := st
			next.State, next.Approval, next.Why, next.Attempts = Held, d.Approval, "people have to approve it", st.Attempts-1
			if d.Approval == "" {
				next.State, next.Why = Failed, "it needs an approval that nobody can be asked for"
			}
			return true, s.write(ctx, u, st, next, "undo.step_asked")
		case audit.CallDenied, audit.CallRefused:
			why := d.Reason
			if r.Event.Decision != nil {
				why = r.Event.Decision.Reason
			}
			return s.put(ctx, u, st, Failed, "refused: "+why)
		case callReplayed: // made already, under the same approval
			next := st
			next.Made = d.Made
			return true, s.write(ctx, u, st, next, "undo.step_begun")
		}
	}
	began := s.o.Now()
	if t, ok := id.Time(id.Call, st.Made); ok {
		began = t
	}
	if left && s.o.Now().Sub(began) > s.o.Orphaned { // it never left, and nobody is about to send it
		return s.put(ctx, u, st, Planned, "")
	}
	return false, nil
}

// outcome settles a step by how its call ended. Where nobody knows, the declared
// read is asked before anything is repeated.
func (s *Service) outcome(ctx context.Context, u Undo, st Step, o *audit.Outcome) (bool, error) {
	switch {
	case o.Status == audit.Succeeded:
		return s.put(ctx, u, st, Undone, "")
	case o.Status == audit.Failed:
		return s.put(ctx, u, st, Failed, "the upstream answered that it failed: "+o.Error)
	case strings.HasPrefix(o.Error, "not forwarded:"):
		return s.put(ctx, u, st, Planned, "")
	case st.check == nil:
		return s.put(ctx, u, st, Doubt, "nobody knows whether it was done ("+o.Status+"), and its tool declares no read that shows it")
	}
	done, known, err := s.ask(ctx, u, st)
	switch {
	case err != nil:
		return false, err
	case !known:
		return s.put(ctx, u, st, Doubt, "nobody knows whether it was done ("+o.Status+"), and the read that would show it, "+st.check.Tool+", failed")
	case done:
		return s.put(ctx, u, st, Undone, st.check.Tool+" shows that it was done")
	}
	return s.put(ctx, u, st, Planned, "")
}

// ask makes the declared read.
func (s *Service) ask(ctx context.Context, u Undo, st Step) (done, known bool, err error) {
	conn, tool, _ := strings.Cut(st.check.Tool, "/")
	if t, ok := s.o.Tool(conn, tool); !ok || t.Effect != "read" {
		return false, false, nil
	}
	body, err := s.act(ctx, u, Act{Call: id.At(id.Call, s.o.Now()), Agent: st.Agent, Connection: conn, Tool: tool, Args: st.check.Args})
	switch fault.KindOf(err) {
	case fault.Invalid, fault.NotFound: // it cannot be asked, however often
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	v, ok := s.answer(conn, body)
	if !ok {
		return false, false, nil
	}
	for pointer, want := range st.check.Done {
		found, ok := at(v, pointer)
		if !ok {
			return false, false, nil
		}
		if !holds(found, want) {
			return false, true, nil
		}
	}
	return true, true, nil
}

// put writes a step's new state.
func (s *Service) put(ctx context.Context, u Undo, st Step, state, why string) (bool, error) {
	next := st
	next.State, next.Why = state, why
	if r := []rune(why); len(r) > 500 {
		next.Why = string(r[:500]) + "…"
	}
	if state == Planned {
		next.Made = ""
	}
	kind := map[string]audit.Type{Undone: "undo.step_executed", Failed: "undo.step_failed", Doubt: "undo.step_stopped", Planned: "undo.step_retried"}[state]
	return true, s.write(ctx, u, st, next, kind)
}

func (s *Service) write(ctx context.Context, u Undo, was, st Step, kind audit.Type) error {
	err := s.o.Log.Change(ctx, func(tx *audit.Tx) error {
		ev := s.event(kind, audit.System, u, "", map[string]any{"undo": u.ID, "n": st.N, "of": st.Call, "tool": st.ByTool, "made": st.Made, "state": st.State, "why": st.Why})
		ev.Call, ev.Agent = st.Call, st.Agent
		tx.Record(ev)
		return putStep(ctx, tx, u.ID, was, st)
	})
	if errors.Is(err, storage.ErrNotFound) {
		return ErrTaken
	}
	return err
}
