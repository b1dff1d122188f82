package posture

import (
	"context"
	"errors"
	"time"

	"github.com/countersign/countersign/internal/audit"
)

// Start begins to compute what is due: queries about four times a day, probes
// and drills once a day. The first look comes some minutes after the start.
func (s *Service) Start(context.Context) error {
	if s.o.Every < 0 || s.started {
		return nil
	}
	s.started = true
	ctx := s.life
	s.done.Go(func() {
		tick := time.NewTicker(s.o.Every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if err := s.Due(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, ErrBusy) {
				s.o.Logger.Error("posture could not be computed; it is tried again", "error", err)
			}
		}
	})
	return nil
}

// Stop ends the background work for good; a run that waits for nobody is given up.
// It may be called without Start and more than once.
func (s *Service) Stop(context.Context) error {
	s.end()
	s.done.Wait()
	return nil
}

// Due computes the predicates whose newest result is older than they are asked
// for, and deletes what is older than it is kept. Nothing is computed while
// nothing is registered.
func (s *Service) Due(ctx context.Context) error {
	if err := s.expire(ctx); err != nil {
		return err
	}
	if (&pass{s: s}).empty() {
		return nil
	}
	newest, err := s.latest(ctx)
	if err != nil {
		return err
	}
	var due []string
	for _, p := range predicates {
		if x, ok := newest[p.ID]; !ok || s.o.Now().Sub(x.Collected) >= p.every || x.Version != p.Version {
			due = append(due, p.ID)
		}
	}
	if len(due) == 0 {
		return nil
	}
	_, err = s.Evaluate(ctx, audit.System, "it was due", due...)
	return err
}
