package reviews

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/rest"
)

// Answer is what a person decides.
type Answer struct {
	Decision string // Keep or Revoke
	Reason   string // needed to keep
	To       string // of an owner that is revoked: who is to be the next; empty: the backup
}

// inTime reports whether an item may still be decided: until the review's end,
// and after it by those it escalated to.
func (s *Service) inTime(r *Review, it *Item) bool {
	return r.State != Closed && (s.now().Before(r.Due) || !it.Escalated.IsZero())
}

// Decide answers one item of a review. What is kept by the first of two levels
// waits for the second; a revoke stands at once and is executed. It returns when
// that is tried, or with the remediation open if that takes longer: the clock goes
// on. Refusals: ErrSelf, ErrNotYours, ErrDecided, ErrDue, ErrChanged, ErrReason.
func (s *Service) Decide(ctx context.Context, c rest.Caller, review string, n int, a Answer) (Item, error) {
	if a.Decision != Keep && a.Decision != Revoke {
		return Item{}, ErrInvalid.Say("decision: keep or revoke")
	}
	if err := checkReason(a.Reason, a.Decision == Keep); err != nil {
		return Item{}, err
	}
	r, it, err := s.item(ctx, review, n)
	if err != nil {
		return it, err
	}
	if err := s.decidable(&r, &it, Person{c.ID, c.Name}); err != nil {
		return it, err
	}
	if err := s.unchanged(ctx, &r, &it, Person{c.ID, c.Name}); err != nil {
		return it, err
	}
	if it.open() {
		if err := s.checkNext(&it, a); err != nil {
			return it, err
		}
		if a.Decision == Keep {
			if err := s.checkKept(ctx, &it); err != nil {
				return it, err
			}
		}
		it.Remedy.To = a.To
		if err := s.decided(ctx, &r, &it, audit.Person(c.ID, c.Name), a); err != nil {
			return it, err
		}
	}
	return it, s.after(ctx, &r, &it)
}

func (s *Service) item(ctx context.Context, review string, n int) (r Review, it Item, err error) {
	if r, err = find(ctx, s.o.DB, review); err != nil {
		return r, it, err
	}
	it, err = findItem(ctx, s.o.DB, r.ID, n)
	s.refresh(&it.Subject)
	return r, it, err
}

// decidable refuses a decision that is none of this person's, or comes too late.
func (s *Service) decidable(r *Review, it *Item, p Person) error {
	switch {
	case !it.open():
		return ErrDecided
	case r.State == Closed:
		return ErrClosed
	case !s.inTime(r, it):
		return ErrDue
	}
	return s.entitled(r, it, p)
}

// unchanged refuses to decide about something that is not any more what was
// asked about: the item asks about what it is now from then on. What is gone is
// decided by that. Who changed it since, and back, has a part in it: ErrSelf.
func (s *Service) unchanged(ctx context.Context, r *Review, it *Item, p Person) error {
	x, there, err := s.present(ctx, &it.Subject)
	switch {
	case err != nil:
		return err
	case !there:
		return s.decided(ctx, r, it, audit.System, Answer{Decision: Gone, Reason: "it is not there any more"})
	case x.Digest == it.Subject.Digest:
		it.Subject.Givers = x.Givers
		return s.entitled(r, it, p)
	}
	err = s.change(ctx, func(tx *audit.Tx) error {
		next := *it
		next.Subject = x
		next.Verdicts, next.Level = nil, 1 // what was said is about something else
		tx.Record(r.itemEvent(&next, id.New(id.Event), "review.item_changed", audit.System, "", map[string]any{"was": it.Subject.Digest}))
		return saveItem(ctx, tx.Tx, &next)
	})
	if err != nil {
		return err
	}
	return ErrChanged.Say("%s has changed since the review asked about it: %s; decide again about that", x.Object(), x.Says)
}

// decided commits a decision. Of two at once one counts, and the other is ErrRaced.
func (s *Service) decided(ctx context.Context, r *Review, it *Item, by audit.Actor, a Answer) error {
	now, ev := s.now(), id.New(id.Event)
	person := Person{by.ID, by.Name}
	if by.Kind != audit.KindUser {
		person = Person{Name: by.Name}
	}
	next := *it
	err := s.change(ctx, func(tx *audit.Tx) error {
		next = *it
		next.Verdicts = append(slices.Clone(it.Verdicts), Verdict{By: person, Level: it.Level, Decision: a.Decision, Reason: a.Reason, At: now, Event: ev})
		next.Events = slices.Clone(it.Events)
		final := a.Decision != Keep || it.Level == len(r.Rules.Levels)
		next.settle(a.Decision, final, now, r.Rules.grace())
		tx.Record(r.itemEvent(&next, ev, "review.decided", by, a.Reason, map[string]any{"decision": a.Decision, "level": it.Level, "final": final, "says": it.Subject.Says, "suggested": it.Subject.Suggest}))
		// Between the look and this commit the review may have been closed.
		var state string
		if err := tx.QueryRow(ctx, `SELECT state FROM review_campaigns WHERE id = $1`, r.ID).Scan(&state); err != nil {
			return err
		}
		if state == Closed {
			return ErrClosed
		}
		if err := saveItem(ctx, tx.Tx, &next); err != nil {
			return err
		}
		if !final {
			return s.tell(ctx, tx, "The review "+r.Name+" asks you to confirm that "+it.Subject.Says, s.reviewers(r, &next))
		}
		return nil
	})
	if err != nil {
		return err
	}
	*it = next
	return s.step("decided")
}

// after does what follows from a decision: a revoke without a grace is executed,
// and a review with nothing open is not open any more.
func (s *Service) after(ctx context.Context, r *Review, it *Item) error {
	if it.Remediation == Waiting && r.Rules.grace() == 0 {
		if err := s.carry(ctx, r, it); err != nil && !errors.Is(err, ErrRaced) {
			s.o.Logger.WarnContext(ctx, "a revoke that was decided could not be finished; it is again in a moment", "review", r.Name, "item", it.N, "error", err)
		}
	}
	if err := s.lookAt(ctx, r); err != nil && !errors.Is(err, ErrRaced) {
		s.o.Logger.WarnContext(ctx, "a review could not be looked at after a decision; it is again in a moment", "review", r.Name, "error", err)
	}
	now, err := findItem(ctx, s.o.DB, r.ID, it.N)
	if err == nil {
		*it = now
	}
	return err
}

// Delegate hands an open item to another person, who reviews in the place of
// those that may now. Its reviewers may do it, and who may change grants; nobody
// who is barred, to nobody who is, and to nobody who had it: it does not go round.
// Needs a note.
func (s *Service) Delegate(ctx context.Context, c rest.Caller, review string, n int, to, note string) (Item, error) {
	if err := checkReason(note, true); err != nil {
		return Item{}, err
	}
	r, it, err := s.item(ctx, review, n)
	if err != nil {
		return it, err
	}
	from := Person{c.ID, c.Name}
	if err := s.decidable(&r, &it, from); err != nil && !(errors.Is(err, ErrNotYours) && c.May(rest.Write)) {
		return it, err
	}
	u, ok := s.active(Person{Name: to})
	taker := Person{u.ID, u.Name}
	switch why := s.barred(&r, &it, taker); {
	case !ok:
		return it, ErrDelegate.Say("there is no active person %q who may decide", to)
	case why != "":
		return it, ErrDelegate.Say("%s has a part in %s and cannot review it", to, it.Subject.Object())
	case taker.same(from), it.had(taker):
		return it, ErrDelegate.Say("%s has or had it already; hand it to somebody else, or decide", to)
	}
	now, ev := s.now(), id.New(id.Event)
	next := it
	err = s.change(ctx, func(tx *audit.Tx) error {
		next = it
		next.Handovers = append(slices.Clone(it.Handovers), Handover{From: from, To: taker, Level: it.Level, Note: note, At: now, Event: ev})
		next.Events = slices.Clone(it.Events)
		tx.Record(r.itemEvent(&next, ev, "review.delegated", audit.Person(c.ID, c.Name), note, map[string]any{"from": from, "to": taker, "level": it.Level}))
		if err := saveItem(ctx, tx.Tx, &next); err != nil {
			return err
		}
		return s.tell(ctx, tx, fmt.Sprintf("%s hands you an item of the review %s: %s", c.Name, r.Name, it.Subject.Says), []Person{taker})
	})
	if err == nil {
		next.Reviewers = []string{taker.Name}
	}
	return next, err
}

// checkNext refuses a next owner who cannot be one.
func (s *Service) checkNext(it *Item, a Answer) error {
	if a.To == "" {
		return nil
	}
	if it.Subject.Kind != Owner || a.Decision != Revoke {
		return ErrInvalid.Say("to: only of an owner who is revoked another one can be named")
	}
	if u, ok := s.o.Identity.User(a.To); !ok || !u.May(rest.Own) || a.To == it.Subject.Owner {
		return ErrInvalid.Say("to: %q is no active user who may own agents and does not own it yet", a.To)
	}
	return nil
}

// settle is what a verdict makes of an item. Whoever decides executes at once;
// the clock comes later, in case they died.
func (it *Item) settle(decision string, final bool, now time.Time, grace time.Duration) {
	if !final {
		it.Level++
		it.Escalated, it.Why = time.Time{}, ""
		return
	}
	it.Decision, it.Decided = decision, now
	if decision == Revoke {
		it.Remediation, it.look = Waiting, now.Add(max(grace, patience))
	}
}
