package use

import (
	"context"
	"errors"
	"time"

	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/storage"
)

// The follower's rhythm.
const (
	leaseTTL    = 30 * time.Second
	lookEvery   = time.Second            // other replicas' events are found this way
	gatherFor   = 200 * time.Millisecond // after an event, wait for its neighbours
	perLane     = 256                    // events read at a time
	stepTimeout = time.Minute
	// After a step it rests so many times as long as it worked: it never takes
	// more than a tenth of a core from the calls. Who asks does not wait for that.
	rests   = 9
	maxRest = time.Second
	// lateFor is how long after a day's end its last events are waited for.
	lateFor = 10 * time.Minute
)

// Start begins to follow the log.
func (s *Service) Start(ctx context.Context) error { return s.follow.Start(ctx) }

// Stop ends following. What was gathered and not written is read again.
func (s *Service) Stop(ctx context.Context) error { return s.follow.Stop(ctx) }

func (s *Service) follower() *job.Follower {
	return &job.Follower{Step: s.advance, Changed: s.log.Changed, Gather: gatherFor, Every: lookEvery, Timeout: stepTimeout, Lease: s.lease,
		Rest: func(worked time.Duration) time.Duration { return min(maxRest, rests*worked) },
		Failed: func(ctx context.Context, err error) {
			s.o.Logger.Warn("what is used is not followed", "error", err)
			job.Pause(ctx, lookEvery)
		}}
}

// advance takes one step, and writes what is due.
func (s *Service) advance(ctx context.Context) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.step(ctx)
	if err == nil && s.due() {
		err = s.flush(ctx)
	}
	if errors.Is(err, errMoved) || errors.Is(err, job.ErrFenced) {
		s.tail, err = nil, nil
	}
	return n, err
}

// due reports whether a day is over of which something is gathered, or too much is.
func (s *Service) due() bool {
	if s.tail.read >= s.o.Most {
		return true
	}
	over := dayOf(storage.Micros(s.o.Now().Add(-lateFor))) // the first day that is not
	for k := range s.tail.tallies {
		if k.day < over {
			return true
		}
	}
	return false
}

// flush writes what is gathered, if it is this replica's turn.
func (s *Service) flush(ctx context.Context) error {
	if ours, err := s.lease.Acquire(ctx); err != nil || !ours {
		return err
	}
	err := s.db.Tx(ctx, func(tx *storage.Tx) error {
		if err := s.lease.Check(ctx, tx); err != nil {
			return err
		}
		// What was erased since it was read must not be written down.
		if still, err := s.log.Unerased(ctx, tx, s.tail.erasures); err != nil || !still {
			return errors.Join(err, errMoved)
		}
		return s.store.write(ctx, tx, s.tail)
	})
	if err == nil {
		s.tail = nil // the next step continues what is written
	}
	return err
}
