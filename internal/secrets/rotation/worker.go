package rotation

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage"
)

const (
	atOnce   = 4 // rotations
	stepTime = 30 * time.Second
)

// Rules of the findings.
const (
	ruleFailed   = "secret.rotation_failed"
	ruleLeftover = "secret.not_retired"
)

// leftoverPatience is after how many attempts to retire something a finding says so.
const leftoverPatience = 3

// Look does what is due now, once, if this replica holds the lease: begins what
// the schedule asks for, takes every open rotation as far as it goes, and
// retires what is left over.
func (s *Service) Look(ctx context.Context) error {
	if s.Held != nil && s.Held(ctx) {
		return nil
	}
	if ok, err := s.lease.Acquire(ctx); err != nil || !ok {
		return err
	}
	if err := s.schedule(ctx); err != nil {
		return err
	}
	open, err := rotationRows(ctx, s.DB, `WHERE `+isOpen+` AND next_try <= $1 ORDER BY next_try`, storage.Micros(s.Now()))
	if err != nil {
		return err
	}
	left, err := leftoverRows(ctx, s.DB, `WHERE due <= $1 ORDER BY due`, storage.Micros(s.Now()))
	if err != nil {
		return err
	}
	busy := map[string]bool{} // nothing else is done to a secret that rotates
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, r := range open {
		busy[r.secretID] = true
		g.Go(func() error { return s.advance(gctx, r) })
	}
	for _, l := range left {
		if !busy[l.secretID] {
			busy[l.secretID] = true
			g.Go(func() error { return s.retire(gctx, l) })
		}
	}
	return g.Wait()
}

// schedule begins the rotations that are due.
func (s *Service) schedule(ctx context.Context) error {
	for _, sec := range s.Secrets.Secrets() {
		p, err := planOf(sec.Rotation)
		if err != nil || p.every == 0 || due(sec, p.every).After(s.Now()) || s.Rotators[sec.Rotation["by"]] == nil {
			continue
		}
		last, err := rotationRows(ctx, s.DB, `WHERE secret_id = $1 ORDER BY started DESC, id DESC LIMIT 1`, sec.ID)
		if err != nil {
			return err
		}
		if len(last) > 0 && (last[0].Open() || s.next(sec, p, last[0]).After(s.Now())) {
			continue
		}
		err = s.change(ctx, func(tx *audit.Tx) error {
			_, err := s.beginTx(ctx, tx, audit.System, "its value is due", sec, OnSchedule, false)
			return err
		})
		if err != nil && !storage.Duplicate(err) {
			return err
		}
	}
	return nil
}

// change commits fn only while this replica holds the lease.
func (s *Service) change(ctx context.Context, fn func(tx *audit.Tx) error) error {
	return s.Log.Change(ctx, func(tx *audit.Tx) error {
		if err := s.lease.Check(ctx, tx.Tx); err != nil {
			return err
		}
		return fn(tx)
	})
}

// advance takes a rotation as far as it goes.
func (s *Service) advance(ctx context.Context, r Rotation) error {
	for r.Open() {
		next, err := s.step(ctx, r)
		if errors.Is(err, storage.ErrNotFound) {
			return nil // another has taken it further
		}
		if err != nil {
			return err
		}
		if next.Step == r.Step || next.NextTry.After(s.Now()) {
			return nil
		}
		r = next
	}
	return nil
}

// step does the step at which r stands. Its error is about us, not about the
// provider, whose failures are stored with the rotation.
func (s *Service) step(ctx context.Context, r Rotation) (Rotation, error) {
	s.at("before " + r.Step)
	var v secrets.Value
	var err error
	next := r
	switch r.Step {
	case Create:
		next.Step = Set
		err = s.act(ctx, r, Create, func(ctx context.Context, rot Rotator, w Work) error {
			v, next.Ref, err = rot.Create(ctx, w)
			return err
		})
		defer v.Wipe()
	case Set:
		next.Step = Test
		err = s.act(ctx, r, Set, func(ctx context.Context, rot Rotator, w Work) error { return rot.Set(ctx, w) })
	case Test:
		next.Step = Finish
		err = s.act(ctx, r, Test, func(ctx context.Context, rot Rotator, w Work) error { return rot.Test(ctx, w) })
	case Finish:
		next.Step = Done
	}
	s.at("after " + r.Step)
	if err != nil {
		return s.failed(ctx, r, err)
	}
	next.Error, next.Updated, next.NextTry = "", s.Now(), s.Now()
	if err := s.commit(ctx, r, &next, v); err != nil {
		if errors.Is(err, secrets.ErrNoPending) || errors.Is(err, secrets.ErrNotFound) {
			return s.failed(ctx, r, ErrSuperseded)
		}
		return r, err
	}
	s.at("committed " + r.Step)
	return next, nil
}

func (s *Service) at(point string) {
	if s.point != nil {
		s.point(point)
	}
}

// commit stores what a step did, together with where the rotation stands then.
func (s *Service) commit(ctx context.Context, r Rotation, next *Rotation, v secrets.Value) error {
	err := s.change(ctx, func(tx *audit.Tx) error {
		switch r.Step {
		case Create:
			n, err := s.Secrets.PendTx(ctx, tx, r.Secret, r.ID, next.Ref, v)
			if err != nil {
				return err
			}
			next.Version = n
			if err := overwritten(ctx, tx, r.secretID, next.Ref); err != nil {
				return err
			}
		case Finish:
			if err := s.finishTx(ctx, tx, r); err != nil {
				return err
			}
		}
		s.record(tx, "secret.rotation_advanced", audit.System, "", *next, nil)
		return updateRotation(ctx, tx, *next, r.Step)
	})
	if err == nil && r.Step == Finish {
		if perr := s.Watch.Poll(ctx); perr != nil {
			s.Logger.Warn("a secret was rotated, but the view could not be reloaded", "secret", r.Secret, "error", perr)
		}
	}
	return err
}

func (s *Service) finishTx(ctx context.Context, tx *audit.Tx, r Rotation) error {
	reason := r.Reason
	if reason == "" {
		reason = "rotation " + r.ID
	}
	was, err := s.Secrets.PromoteTx(ctx, tx, r.By, reason, r.Secret, r.ID)
	if err != nil {
		return err
	}
	p, err := planOf(was.Rotation)
	if err != nil {
		return err
	}
	now := s.Now()
	l := Leftover{Secret: r.Secret, secretID: r.secretID, Version: was.Version, Rotation: r.ID, Ref: was.Ref, Urgent: r.Urgent, Due: now.Add(p.overlap), Created: now}
	if r.Urgent {
		l.Due = now
	}
	if err := putLeftover(ctx, tx, l); err != nil {
		return err
	}
	return s.Findings.CloseObjectTx(ctx, tx, audit.System, "secret/"+r.Secret, "it was rotated", ruleFailed)
}

// failed stores that a step did not work: it is repeated later, or the rotation
// ends and what it left at the provider is retired.
func (s *Service) failed(ctx context.Context, r Rotation, cause error) (Rotation, error) {
	if ctx.Err() != nil {
		return r, ctx.Err() // we are stopping; nobody's fault
	}
	s.Logger.Warn("a step of a rotation failed", "secret", r.Secret, "rotation", r.ID, "step", r.Step, "attempt", r.Attempts+1, "error", cause)
	next := r
	next.Attempts++
	next.Error, next.Updated = said(cause), s.Now()
	next.NextTry = s.Now().Add(s.Backoff(r.Attempts))
	if r.Step == Test {
		next.Step = Set // it may not have been set after all
	}
	over := next.Attempts >= s.Attempts || hopeless(cause)
	if over {
		next.Step = Failed
	}
	err := s.change(ctx, func(tx *audit.Tx) error {
		if over {
			if err := s.giveUpTx(ctx, tx, next); err != nil {
				return err
			}
		}
		s.record(tx, "secret.rotation_tried", audit.System, "", next, map[string]string{"error": next.Error})
		return updateRotation(ctx, tx, next, r.Step)
	})
	return next, err
}

func (s *Service) giveUpTx(ctx context.Context, tx *audit.Tx, r Rotation) error {
	if err := s.Secrets.DropTx(ctx, tx, r.Secret, secrets.Pending, r.Version); err != nil {
		return err
	}
	if r.Version > 0 {
		now := s.Now()
		l := Leftover{Secret: r.Secret, secretID: r.secretID, Version: r.Version, Rotation: r.ID, Ref: r.Ref, Due: now, Created: now}
		if err := putLeftover(ctx, tx, l); err != nil {
			return err
		}
	}
	severity := findings.Medium
	if r.Urgent {
		severity = findings.Critical
	}
	return s.Findings.OpenTx(ctx, tx, findings.Finding{Rule: ruleFailed, Severity: severity, Object: "secret/" + r.Secret, Title: "the rotation of " + r.Secret + " failed",
		Detail: r.Error + ". The value before it is still in use. Mend this and run: countersign secret rotate " + r.Secret})
}

// hopeless reports whether repeating a step cannot help.
func hopeless(err error) bool {
	switch fault.KindOf(err) {
	case fault.Invalid, fault.NotFound, fault.Conflict, fault.Unsupported:
		return true
	}
	return false
}

func said(err error) string { return fault.Public(err).Message }

// act does something at a provider after it is on record, with the secret's
// versions and the admin's.
func (s *Service) act(ctx context.Context, r Rotation, what string, fn func(context.Context, Rotator, Work) error) error {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	call := id.New(id.Call)
	sec, _ := s.Secrets.Secret(r.Secret)
	receipt, err := s.Log.Intent(ctx, audit.Event{Actor: audit.System, Call: call, Connection: sec.Connection, Owner: sec.Owner, Tool: "rotation/" + what, Object: "secret/" + r.Secret, Reason: r.ID})
	if err != nil {
		return err
	}
	err = s.with(ctx, receipt, call, r, fn)
	end := &audit.Outcome{Status: audit.Succeeded}
	if err != nil {
		end.Status, end.Error = audit.Failed, said(err)
	}
	s.Log.Outcome(receipt, audit.Event{Actor: audit.System, Outcome: end})
	return err
}

func (s *Service) with(ctx context.Context, receipt audit.Receipt, call string, r Rotation, fn func(context.Context, Rotator, Work) error) error {
	sec, versions, err := s.Secrets.Reveal(ctx, receipt, call, r.Secret)
	if err != nil {
		return err
	}
	w := Work{Token: r.ID, Secret: sec, Current: versions[secrets.Current], Pending: versions[secrets.Pending], Previous: versions[secrets.Previous], Urgent: r.Urgent}
	defer func() { w.wipe() }()
	rot := s.Rotators[sec.Rotation["by"]]
	if rot == nil || sec.ID != r.secretID {
		return ErrSuperseded
	}
	if (r.Step == Set || r.Step == Test) && w.Pending.Rotation != r.ID {
		return ErrSuperseded
	}
	p, err := planOf(sec.Rotation)
	if err != nil {
		return err
	}
	w.Settings = p.rest
	if p.admin != "" {
		_, admin, err := s.Secrets.Reveal(ctx, receipt, call, p.admin)
		if err != nil {
			return err
		}
		w.Admin = admin[secrets.Current].Value
		for _, state := range []string{secrets.Pending, secrets.Previous} {
			admin[state].Value.Wipe()
		}
	}
	return fn(ctx, rot, w)
}

// retire ends what must not live any more, and goes on trying.
func (s *Service) retire(ctx context.Context, l Leftover) error {
	sec, ok := s.Secrets.Secret(l.Secret)
	switch {
	case !ok || sec.ID != l.secretID || s.Rotators[sec.Rotation["by"]] == nil:
		return s.orphaned(ctx, l)
	case sec.Version == l.Version || l.Ref != "" && sec.Ref == l.Ref:
		return s.drop(ctx, l, "it is the current version again") // somebody rolled back
	}
	if err := s.lease.Renew(ctx); err != nil { // what was due when we looked may be in use again
		return err
	}
	s.at("before retire")
	r := Rotation{ID: l.Rotation, Secret: l.Secret, secretID: l.secretID, Urgent: l.Urgent, Step: Finish}
	err := s.act(ctx, r, "retire", func(ctx context.Context, rot Rotator, w Work) error {
		if w.Previous.Number != l.Version {
			w.Previous.Value.Wipe()
			w.Previous = secrets.Held{}
		}
		return rot.Retire(ctx, w, l.Ref)
	})
	s.at("after retire")
	switch {
	case err == nil:
		return s.retired(ctx, l)
	case errors.Is(err, ErrUnnamed):
		return s.orphaned(ctx, l)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.Logger.Warn("what was rotated away could not be retired", "secret", l.Secret, "version", l.Version, "attempt", l.Attempts+1, "error", err)
	l.Due, l.Error = s.Now().Add(s.Backoff(l.Attempts)), said(err)
	l.Attempts++
	return s.change(ctx, func(tx *audit.Tx) error {
		if l.Attempts >= leftoverPatience {
			severity := findings.Medium
			if l.Urgent {
				severity = findings.Critical
			}
			if err := s.Findings.OpenTx(ctx, tx, findings.Finding{Rule: ruleLeftover, Severity: severity, Object: "secret/" + l.Secret,
				Title: "a former credential of " + l.Secret + " is still alive", Detail: "Retiring it is tried until it works: " + l.Error}); err != nil {
				return err
			}
		}
		s.record(tx, "secret.retirement_tried", audit.System, "", r, map[string]string{"error": l.Error, "ref": l.Ref})
		return postponeLeftover(ctx, tx, l)
	})
}

func (s *Service) retired(ctx context.Context, l Leftover) error {
	err := s.change(ctx, func(tx *audit.Tx) error {
		if err := deleteLeftover(ctx, tx, l); err != nil {
			return err
		}
		if err := s.Secrets.DropTx(ctx, tx, l.Secret, secrets.Previous, l.Version); err != nil {
			return err
		}
		s.record(tx, "secret.retired", audit.System, "rotation "+l.Rotation, Rotation{ID: l.Rotation, Secret: l.Secret}, map[string]string{"ref": l.Ref})
		return s.Findings.CloseObjectTx(ctx, tx, audit.System, "secret/"+l.Secret, "it was retired", ruleLeftover)
	})
	s.at("committed retire")
	return err
}

func (s *Service) drop(ctx context.Context, l Leftover, why string) error {
	return s.change(ctx, func(tx *audit.Tx) error {
		s.record(tx, "secret.retirement_dropped", audit.System, why, Rotation{ID: l.Rotation, Secret: l.Secret}, map[string]string{"ref": l.Ref})
		return deleteLeftover(ctx, tx, l)
	})
}

// orphaned tells people of a credential that we can end no more.
func (s *Service) orphaned(ctx context.Context, l Leftover) error {
	return s.change(ctx, func(tx *audit.Tx) error {
		s.record(tx, "secret.retirement_dropped", audit.System, "it cannot be ended from here", Rotation{ID: l.Rotation, Secret: l.Secret}, map[string]string{"ref": l.Ref})
		if err := s.Findings.OpenTx(ctx, tx, findings.Finding{Rule: ruleLeftover, Severity: findings.Medium, Object: "secret/" + l.Secret,
			Title: "a former credential of " + l.Secret + " may be alive", Detail: "It could not be retired: the secret or its rotator was removed, or it was put by hand and the provider does not say what it calls it (" + l.Ref + "). End it there."}); err != nil {
			return err
		}
		return deleteLeftover(ctx, tx, l)
	})
}
