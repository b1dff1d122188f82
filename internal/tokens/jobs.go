package tokens

import (
	"context"
	"time"

	"github.com/countersign/countersign/internal/storage"
)

const (
	lookEvery = time.Minute
	keepEnded = 7 * 24 * time.Hour // of sessions, for people to look at; the log keeps them
)

// Start makes the first signing key, failing if it cannot, and then sees to
// the next ones in the background. The watcher must have polled.
func (s *Service) Start(ctx context.Context) error {
	if err := s.EnsureKey(ctx); err != nil {
		return err
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel, s.done = cancel, make(chan struct{})
	go func() {
		defer close(s.done)
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		for {
			select {
			case <-run.Done():
				return
			case <-tick.C:
			}
			for what, fn := range map[string]func(context.Context) error{"the signing key": s.EnsureKey, "what has expired": s.Purge} {
				if err := fn(run); err != nil && run.Err() == nil {
					s.logger.Warn("cannot see to "+what, "error", err)
				}
			}
		}
	}()
	return nil
}

// Stop ends the background work. It may be called without Start and more than once.
func (s *Service) Stop(context.Context) error {
	if s.cancel != nil {
		s.cancel()
		<-s.done
		s.cancel = nil
	}
	return nil
}

// Purge forgets what has expired. The log keeps what happened.
func (s *Service) Purge(ctx context.Context) error {
	now := s.now()
	return s.db.Tx(ctx, func(tx *storage.Tx) error {
		for _, q := range []struct {
			text   string
			before time.Time
		}{
			{`DELETE FROM oauth_codes WHERE expires < $1`, now.Add(-SessionLife)},
			{`DELETE FROM token_sessions WHERE expires < $1`, now.Add(-keepEnded)},
			{`DELETE FROM used_assertions WHERE until < $1`, now},
			{`DELETE FROM token_revocations WHERE until < $1`, now},
			{`DELETE FROM enrolments WHERE expires < $1`, now.Add(-keepEnrolled)},
		} {
			if _, err := tx.Exec(ctx, q.text, storage.Micros(q.before)); err != nil {
				return err
			}
		}
		return nil
	})
}
