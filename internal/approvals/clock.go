package approvals

import (
	"context"
	"errors"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/storage"
)

// How the clock runs.
const (
	tickEvery = 500 * time.Millisecond
	tickLease = 5 * time.Second
	tickBatch = 500 // requests looked at in one go
)

// Start begins the background work: the clocks of requests, and making
// approved calls where the server does. run makes one such call; nil: none.
func (s *Service) Start(ctx context.Context, run func(context.Context, Request, Wire) error) error {
	bg, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel, s.execute = cancel, run
	s.dirty.Store(true)
	s.done.Go(func() { s.tick(bg) })
	if run != nil {
		s.done.Go(func() { s.executor(bg) })
	}
	return nil
}

// Stop ends the background work. It may be called without Start and twice.
func (s *Service) Stop(context.Context) error {
	if s.cancel != nil {
		s.cancel()
		s.done.Wait()
		s.cancel = nil
	}
	return nil
}

// tick runs the clocks, on one replica at a time.
func (s *Service) tick(ctx context.Context) {
	lease := job.NewLease(s.db, "approvals/clock", tickLease)
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			_ = lease.Release(context.WithoutCancel(ctx)) // it expires if this fails
			return
		case <-tick.C:
		}
		ours, err := lease.Acquire(ctx)
		if err == nil && ours {
			err = s.Tick(ctx)
		}
		if err != nil && ctx.Err() == nil {
			s.o.Logger.Warn("the clocks of approval requests could not be looked at; they are again in a moment", "error", err)
		}
	}
}

// Tick does once what is due now: requests expire, tiers are told, calls whose
// replica died are settled, what changed under a request voids it. Each step is a compare-and-set, so that
// any number of replicas may run it.
func (s *Service) Tick(ctx context.Context) error {
	now := s.o.Now()
	due, err := read(ctx, s.db, ` WHERE due > 0 AND due <= $1 ORDER BY due LIMIT $2`, storage.Micros(now), tickBatch)
	if err != nil {
		return err
	}
	for i := range due {
		if err := s.lapse(ctx, &due[i], now); err != nil && !errors.Is(err, ErrRaced) {
			return err
		}
	}
	if s.dirty.Swap(false) {
		if err := s.voidStale(ctx, now); err != nil {
			s.dirty.Store(true)
			return err
		}
	}
	return s.settleOrphans(ctx, now)
}

func (s *Service) lapse(ctx context.Context, r *Request, now time.Time) error {
	switch {
	case r.State == Pending && now.Before(r.DecideBy):
		return s.escalate(ctx, r, now)
	case r.State == Pending, r.State == Approved:
		return s.expire(ctx, r, now)
	}
	return s.shut(ctx, r)
}

// escalate records that the next tiers may decide from now on.
func (s *Service) escalate(ctx context.Context, r *Request, now time.Time) error {
	c := *r
	return s.change(ctx, r.ID, func(tx *audit.Tx) error {
		*r = c
		var told []string
		for {
			at, more := r.nextTier()
			if !more || at.After(now) {
				break
			}
			told = append(told, r.tiers()[r.Escalated].Name)
			r.Escalated++
		}
		if err := save(ctx, tx, r, now); err != nil {
			return err
		}
		tx.Record(r.event("approval.escalated", audit.System, "", map[string]any{"groups": told}))
		return nil
	})
}

// voidStale voids what waits for something that has changed.
func (s *Service) voidStale(ctx context.Context, now time.Time) error {
	after := ""
	for {
		page, err := read(ctx, s.db, ` WHERE state IN ('pending', 'approved') AND id > $1 ORDER BY id LIMIT $2`, after, tickBatch)
		if err != nil {
			return err
		}
		for i := range page {
			r := &page[i]
			after = r.ID
			why := s.stale(r.Binding)
			if why == "" {
				continue
			}
			if err := s.void(ctx, r, why, now); err != nil && !errors.Is(err, ErrRaced) {
				return err
			}
		}
		if len(page) < tickBatch {
			return nil
		}
	}
}

// settleOrphans settles what was being executed by a replica that died: as the
// log says. A call that has an intent and no outcome yet gets one from the log
// itself; one without an intent never left.
func (s *Service) settleOrphans(ctx context.Context, now time.Time) error {
	page, err := read(ctx, s.db, ` WHERE state = 'executing' AND updated <= $1 ORDER BY id LIMIT $2`, storage.Micros(now.Add(-s.o.Orphaned)), tickBatch)
	if err != nil {
		return err
	}
	for i := range page {
		r := &page[i]
		s.liveMu.Lock()
		ours := s.live[r.ID] != nil
		s.liveMu.Unlock()
		if ours {
			continue
		}
		outcome, err := s.ending(ctx, r, now)
		if err != nil {
			return err
		}
		if outcome == "" {
			continue
		}
		if err := s.settle(ctx, r, outcome, false); err != nil && !errors.Is(err, ErrRaced) {
			return err
		}
	}
	return nil
}

// intentWithin is longer than any replica takes to make an intent durable
// after it used an approval up.
const intentWithin = 2 * time.Minute

// ending returns how the log says a call ended, "" if it does not yet.
func (s *Service) ending(ctx context.Context, r *Request, now time.Time) (string, error) {
	recs, err := s.log.List(ctx, audit.Query{Call: r.ExecCall, Types: []audit.Type{audit.CallIntent, audit.CallOutcome, audit.CallDenied}, Limit: 20})
	if err != nil {
		return "", err
	}
	intent := false
	for _, rec := range recs {
		switch {
		case rec.Event.Type == audit.CallOutcome && rec.Event.Outcome != nil:
			if now.Sub(rec.Event.Time) < s.o.Orphaned {
				return "", nil // its replica may be about to say more
			}
			return rec.Event.Outcome.Status, nil
		case rec.Event.Type == audit.CallIntent:
			intent = true
		}
	}
	if !intent && now.Sub(r.updated) > intentWithin {
		return NotSent, nil
	}
	return "", nil
}

// executor makes approved calls whose clients do not have to come back.
func (s *Service) executor(ctx context.Context) {
	for {
		next := time.NewTimer(s.nextSend(ctx))
		select {
		case <-ctx.Done():
			next.Stop()
			return
		case <-s.ready:
		case <-next.C:
		}
		next.Stop()
		if err := s.runApproved(ctx); err != nil && ctx.Err() == nil {
			s.o.Logger.Warn("approved calls could not be looked for; they are again in a moment", "error", err)
		}
	}
}

// atOnce is how many approved calls one replica makes at a time.
const atOnce = 64

// runApproved makes every approved call that the server makes. It waits for
// none of them: a slow upstream does not keep the others.
func (s *Service) runApproved(ctx context.Context) error {
	page, err := read(ctx, s.db, ` WHERE state = 'approved' AND server AND execute_by > $1 AND send_at <= $1 ORDER BY id LIMIT $2`, storage.Micros(s.o.Now()), tickBatch)
	if err != nil {
		return err
	}
	for _, r := range page {
		if !s.begin(r.ID) {
			continue
		}
		sealed, err := blob(ctx, s.db, "wire", r.ID)
		var w Wire
		if err == nil && len(sealed) > 0 {
			err = s.unseal(r.ID, "wire", sealed, &w)
		}
		if err != nil || len(sealed) == 0 { // unreadable, or used a moment ago
			s.end(r.ID)
			if err != nil {
				s.o.Logger.Error("an approved call cannot be made", "approval", r.ID, "error", err)
			}
			continue
		}
		s.done.Go(func() {
			defer s.end(r.ID)
			if err := s.execute(ctx, r, w); err != nil && ctx.Err() == nil {
				s.notMade(ctx, r.ID, err)
			}
		})
	}
	return nil
}

// begin reports whether this process may begin to make an approved call.
func (s *Service) begin(id string) bool {
	s.liveMu.Lock()
	defer s.liveMu.Unlock()
	if s.running[id] || len(s.running) >= atOnce {
		return false
	}
	s.running[id] = true
	return true
}

func (s *Service) end(id string) {
	s.liveMu.Lock()
	full := len(s.running) >= atOnce
	delete(s.running, id)
	s.liveMu.Unlock()
	if full {
		s.look() // there is room again
	}
}

// notMade is for an approved call that the line refused. What may pass is
// tried again while the approval lasts; anything else ends it.
func (s *Service) notMade(ctx context.Context, id string, err error) {
	s.o.Logger.Warn("an approved call was not made", "approval", id, "error", err)
	r, gerr := s.Get(ctx, id)
	if gerr != nil || r.State != Approved || fault.KindOf(err) == fault.Unavailable {
		return
	}
	if err := s.void(ctx, &r, "the call could not be made: "+fault.Public(err).Message, s.o.Now()); err != nil && !errors.Is(err, ErrRaced) {
		s.o.Logger.Warn("an approved call that cannot be made is tried again", "approval", id, "error", err)
	}
}
