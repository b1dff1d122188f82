package reviews

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/storage"
)

const (
	lookEvery = time.Second
	leaseTTL  = 30 * time.Second
	batch     = 50
)

// NewLease returns the lease under which one replica at a time runs the clock.
func (s *Service) NewLease() *job.Lease { return job.NewLease(s.o.DB, "reviews/clock", leaseTTL) }

// Start begins to do what is due.
func (s *Service) Start(ctx context.Context) error {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	lease := s.NewLease()
	s.done.Go(func() {
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		for {
			select {
			case <-run.Done():
				_ = lease.Release(context.WithoutCancel(run)) // else it expires
				return
			case <-tick.C:
			}
			if err := s.Tick(run, lease); err != nil && run.Err() == nil {
				s.o.Logger.Warn("reviews could not be looked at; they are again in a moment", "error", err)
			}
		}
	})
	return nil
}

// Stop ends the background work. It may be called without Start and more than once.
func (s *Service) Stop(context.Context) error {
	if s.cancel != nil {
		s.cancel()
		s.done.Wait()
		s.cancel = nil
	}
	return nil
}

// Tick does what is due, as far as this replica holds the lease: reminders,
// escalations and ends of reviews; revokes that wait or were interrupted. Each
// step is a compare-and-set, so that a fenced holder changes nothing twice.
func (s *Service) Tick(ctx context.Context, lease *job.Lease) error {
	if ours, err := lease.Acquire(ctx); err != nil || !ours {
		return err
	}
	now := storage.Micros(s.now())
	due, err := readItems(ctx, s.o.DB, ` WHERE look > 0 AND look <= $1 ORDER BY look LIMIT $2`, now, batch)
	if err != nil {
		return err
	}
	var all []error
	touched := map[string]bool{}
	for i := range due {
		if err := lease.Renew(ctx); err != nil {
			return err
		}
		r, err := find(ctx, s.o.DB, due[i].Review)
		if err == nil {
			touched[r.ID] = true
			err = s.carry(ctx, &r, &due[i])
		}
		all = append(all, ignoring(err))
	}
	open, err := readReviews(ctx, s.o.DB, ` WHERE look > 0 AND look <= $1 ORDER BY look LIMIT $2`, now, batch)
	if err != nil {
		return err
	}
	for i := range open {
		delete(touched, open[i].ID)
		all = append(all, ignoring(s.lookAt(ctx, &open[i])))
	}
	for which := range touched {
		if r, err := find(ctx, s.o.DB, which); err == nil {
			all = append(all, ignoring(s.lookAt(ctx, &r)))
		}
	}
	all = append(all, s.lookAtChanges(ctx))
	if s.dirty.Swap(false) || s.o.Now().Sub(s.looked) > lookAgain {
		s.looked = s.o.Now()
		if err := s.lookAtStanding(ctx); err != nil {
			s.dirty.Store(true)
			all = append(all, err)
		}
	}
	return errors.Join(all...)
}

// ignoring drops errors that say that somebody else did it.
func ignoring(err error) error {
	if errors.Is(err, ErrRaced) {
		return nil
	}
	return err
}

// lookAt does what is due of a review: who has no reviewer escalates, who is
// late is reminded, what nobody decided in time is decided as was said, and a
// review with nothing left is closed.
func (s *Service) lookAt(ctx context.Context, r *Review) error {
	now, err := find(ctx, s.o.DB, r.ID)
	if err != nil || now.State == Closed {
		return err
	}
	*r = now
	items, err := itemsOf(ctx, s.o.DB, r.ID)
	if err != nil {
		return err
	}
	lost := 0
	for i := range items {
		it := &items[i]
		if !it.open() {
			continue
		}
		s.refresh(&it.Subject)
		if err := s.lookAtItem(ctx, r, it); err != nil && !errors.Is(err, ErrRaced) {
			return err
		}
		if it.open() && len(s.reviewers(r, it)) == 0 {
			lost++
		}
	}
	return s.conclude(ctx, r, items, lost)
}

// lookAtItem escalates an open item whose reviewers all left, and ends one whose
// time is over.
func (s *Service) lookAtItem(ctx context.Context, r *Review, it *Item) error {
	late := !s.now().Before(r.Due)
	switch can := s.reviewers(r, it); {
	case it.Escalated.IsZero() && len(can) == 0:
		return s.escalate(ctx, r, it, "nobody who was to review it is left who may")
	case !late || !it.Escalated.IsZero(): // what escalated waits for people, however late it is
		return nil
	case r.Rules.Silence == EscalateSilent:
		return s.escalate(ctx, r, it, "nobody decided in time")
	case r.Rules.Silence == Keep:
		if err := s.checkKept(ctx, it); errors.Is(err, policy.ErrStanding) {
			return s.escalate(ctx, r, it, "nobody decided in time, and silence does not keep what lets an agent in production do, without an end, what cannot be undone")
		} else if err != nil {
			return err
		}
	}
	if err := s.decided(ctx, r, it, audit.System, Answer{Decision: r.Rules.Silence, Reason: "nobody decided in time"}); err != nil {
		return err
	}
	if it.Decision == "" { // kept by silence at the first of two levels
		return s.decided(ctx, r, it, audit.System, Answer{Decision: r.Rules.Silence, Reason: "nobody decided in time"})
	}
	return nil
}

// escalate hands an item to those who decide when nobody else can or did.
func (s *Service) escalate(ctx context.Context, r *Review, it *Item, why string) error {
	next := *it
	err := s.change(ctx, func(tx *audit.Tx) error {
		next = *it
		next.Events = slices.Clone(it.Events)
		next.Escalated, next.Why = s.now(), why
		if !s.now().Before(r.Due) { // there is no time left for two
			next.Level = len(r.Rules.Levels)
		}
		to := s.reviewers(r, &next)
		tx.Record(r.itemEvent(&next, id.New(id.Event), "review.escalated", audit.System, why, map[string]any{"to": to}))
		if err := saveItem(ctx, tx.Tx, &next); err != nil {
			return err
		}
		return s.tell(ctx, tx, "The review "+r.Name+" needs you, because "+why+": "+it.Subject.Says, to)
	})
	if err == nil {
		*it = next
	}
	return err
}

// conclude saves how a review stands now, and closes it when nothing is left.
func (s *Service) conclude(ctx context.Context, r *Review, items []Item, lost int) error {
	now := s.now()
	next := *r
	open, busy := 0, 0
	for i := range items {
		if items[i].open() {
			open++
		} else if !items[i].settled() {
			busy++
		}
	}
	next.Overdue = open > 0 && !now.Before(r.Due)
	switch {
	case open > 0:
		next.State = Open
	case busy > 0:
		next.State = Decided
	default:
		next.State, next.Closed, next.ClosedBy = Closed, now, "system"
	}
	remind := 0
	for at := next.nextReminder(); open > 0 && !at.IsZero() && !at.After(now); at = next.nextReminder() {
		remind++
		next.Reminded++
	}
	if r.ClosedBy != "" && next.State == Closed {
		next.ClosedBy = r.ClosedBy
	}
	return s.change(ctx, func(tx *audit.Tx) error {
		to := next
		if remind > 0 {
			people := s.everybody(&to, items)
			tx.Record(to.event("review.reminded", audit.System, "", map[string]any{"open": open, "people": people}))
			if err := s.tell(ctx, tx, fmt.Sprintf("The review %s waits for you until %s: countersign review mine", r.Name, r.Due.UTC().Format(time.DateOnly)), people); err != nil {
				return err
			}
		}
		if err := s.find(ctx, tx, &to, lost); err != nil {
			return err
		}
		if to.State == Closed {
			tx.Record(to.event("review.closed", audit.System, "", map[string]any{"counts": tally(items), "verdicts": digestOf(verdicts(items))}))
		}
		if err := saveReview(ctx, tx.Tx, &to, to.nextLook(now)); err != nil {
			return err
		}
		next = to
		return nil
	})
}

func tally(items []Item) (c Counts) {
	for i := range items {
		c.count(&items[i])
	}
	return c
}

// verdicts is what a closed review came to, for its digest.
func verdicts(items []Item) [][3]string {
	out := make([][3]string, len(items))
	for i, it := range items {
		out[i] = [3]string{it.ID, it.Decision, it.Remediation}
	}
	return out
}

// find opens and closes the findings about a review.
func (s *Service) find(ctx context.Context, tx *audit.Tx, r *Review, lost int) error {
	set := func(on bool, f findings.Finding) error {
		if on {
			return s.o.Findings.OpenTx(ctx, tx, f)
		}
		return s.o.Findings.CloseObjectTx(ctx, tx, audit.System, f.Object, "somebody can decide, or did", f.Rule)
	}
	late := findings.Finding{Rule: RuleLate, Severity: findings.Medium, Object: object(r), Title: "The review " + r.Name + " is overdue",
		Detail: "Its time was over at " + r.Due.UTC().Format(time.RFC3339) + ", and something is open. It does not close by itself: countersign review show " + r.Name}
	return errors.Join(set(lost > 0, nobody(r, lost)), set(r.Overdue, late))
}

// Close ends an open review before its time: what is open is decided as silence
// was said to be. With silence that escalates, or where nobody is left who could
// decide, it is refused: those items need a person. Needs a reason.
func (s *Service) Close(ctx context.Context, by audit.Actor, reason, review string) (Review, error) {
	if err := checkReason(reason, true); err != nil {
		return Review{}, err
	}
	r, err := find(ctx, s.o.DB, review)
	if err != nil {
		return r, err
	}
	if r.State == Closed {
		return r, ErrClosed
	}
	items, err := itemsOf(ctx, s.o.DB, r.ID)
	if err != nil {
		return r, err
	}
	for i := range items {
		if !items[i].open() {
			continue
		}
		s.refresh(&items[i].Subject)
		if r.Rules.Silence == Keep {
			if err := s.checkKept(ctx, &items[i]); err != nil {
				return r, err
			}
		}
		if r.Rules.Silence == EscalateSilent || !items[i].Escalated.IsZero() || len(s.reviewers(&r, &items[i])) == 0 {
			return r, ErrNobody.Say("item %d (%s) needs a person's decision, and silence does not give one; decide, or hand it to somebody (countersign review delegate %s %d --to USER)", items[i].N, items[i].Subject.Object(), r.Name, items[i].N)
		}
	}
	for i := range items {
		for it := &items[i]; it.open(); {
			if err := s.decided(ctx, &r, it, audit.System, Answer{Decision: r.Rules.Silence, Reason: "the review was closed: " + reason}); err != nil {
				return r, err
			}
		}
	}
	r.ClosedBy = by.Name
	if err := s.change(ctx, func(tx *audit.Tx) error {
		tx.Record(r.event("review.ended", by, reason, map[string]any{}))
		return saveReview(ctx, tx.Tx, &r, s.now())
	}); err != nil {
		return r, err
	}
	for i := range items {
		if err := s.after(ctx, &r, &items[i]); err != nil {
			return r, err
		}
	}
	return s.Get(ctx, r.ID)
}
