package lifecycle

import (
	"context"
	"errors"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/storage"
)

const (
	lookEvery = time.Second
	idleEvery = time.Minute // or a tenth of what counts as idle
	leaseTTL  = 30 * time.Second
	batch     = 100
)

// NewLease returns the lease under which one replica at a time runs the clock.
func (s *Service) NewLease() *job.Lease { return job.NewLease(s.o.DB, "lifecycle/clock", leaseTTL) }

// Start begins to do what is due.
func (s *Service) Start(ctx context.Context) error {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	lease := s.NewLease()
	s.done.Go(func() {
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		var idle time.Time
		for {
			select {
			case <-run.Done():
				_ = lease.Release(context.WithoutCancel(run)) // else it expires
				return
			case <-tick.C:
			}
			look := s.Tick
			if time.Since(idle) >= max(lookEvery, min(idleEvery, s.o.IdleAfter/10)) {
				look, idle = s.Look, time.Now()
			}
			if err := look(run, lease); err != nil && run.Err() == nil {
				s.o.Logger.Warn("the lifecycle of agents could not be looked at", "error", err)
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

// Tick does what has a time at which it is due, as far as this replica holds the
// lease: graces that end, offers that expire, decommissions that were interrupted.
func (s *Service) Tick(ctx context.Context, lease *job.Lease) error {
	if ours, err := lease.Acquire(ctx); err != nil || !ours {
		return err
	}
	return errors.Join(s.endGraces(ctx, lease), s.withdrawOffers(ctx), s.continueAll(ctx, lease))
}

// Look is Tick and a look at every agent's last use.
func (s *Service) Look(ctx context.Context, lease *job.Lease) error {
	err := s.Tick(ctx, lease)
	if lease.Epoch() == 0 {
		return err
	}
	return errors.Join(err, s.lookIdle(ctx, lease))
}

// fenced is change for whoever holds the lease. What turns out to be done
// already changes nothing.
func (s *Service) fenced(ctx context.Context, lease *job.Lease, fn func(tx *audit.Tx) error) error {
	err := s.change(ctx, func(tx *audit.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		return lease.Check(ctx, tx.Tx)
	})
	if errors.Is(err, errNothing) {
		return nil
	}
	return err
}

func (s *Service) endGraces(ctx context.Context, lease *job.Lease) error {
	due, err := readDepartures(ctx, s.o.DB, ` WHERE suspended = 0 AND deadline <= $1 ORDER BY deadline LIMIT $2`, storage.Micros(s.o.Now()), batch)
	if err != nil {
		return err
	}
	for _, d := range due {
		err := s.fenced(ctx, lease, func(tx *audit.Tx) error {
			now, err := readDepartures(ctx, tx, ` WHERE agent = $1 AND suspended = 0 AND deadline = $2`, d.Agent, storage.Micros(d.Deadline))
			if err != nil {
				return err
			}
			if len(now) == 0 { // accepted meanwhile
				return errNothing
			}
			var a identity.Agent
			if a, err = s.o.Identity.AgentTx(ctx, tx, d.Agent); err != nil {
				return err
			}
			return s.expire(ctx, tx, d, a)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
