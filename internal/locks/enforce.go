package locks

import (
	"context"
	"errors"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

const (
	beatEvery = time.Second            // how often a replica says that it is there
	aliveFor  = 3 * time.Second        // how old that may be for it to be waited for
	lookEvery = 500 * time.Millisecond // for locks that expired, and enforcement that failed
	forgetFor = time.Hour              // rows of replicas that are gone
	cutWithin = 10 * time.Second       // for one attempt to enforce a lock
)

// Replica is this replica's name.
func (s *Service) Replica() string { return s.replica }

// Replicas returns the names of the replicas that are there, by name.
func (s *Service) Replicas(ctx context.Context) ([]string, error) {
	rows, err := s.db.Query(ctx, `SELECT name FROM replicas WHERE seen >= `+s.clock()+` - $1 ORDER BY name`, aliveFor.Microseconds())
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		out = append(out, name)
	}
	return out, rows.Err()
}

// Start makes this replica known, and begins to enforce locks and to end those
// that expire.
func (s *Service) Start(ctx context.Context) error {
	if err := s.beat(ctx); err != nil {
		return err
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	s.done.Add(1)
	go s.run(run)
	return nil
}

// Stop ends the background work; nobody waits for this replica any more. It
// may be called without Start and more than once.
func (s *Service) Stop(ctx context.Context) error {
	if s.cancel == nil {
		return nil
	}
	s.cancel()
	s.done.Wait()
	s.cancel = nil
	return s.db.Tx(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM replicas WHERE name = $1`, s.replica)
		return err
	})
}

func (s *Service) run(ctx context.Context) {
	defer s.done.Done()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	beaten := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
			s.enforceNew(ctx)
			continue
		case <-tick.C:
		}
		s.enforceNew(ctx)
		if err := s.expire(ctx); err != nil && ctx.Err() == nil {
			s.o.Logger.Warn("locks that expired could not be ended; they stand", "error", err)
		}
		if time.Since(beaten) >= beatEvery && s.watch.Fresh() {
			beaten = time.Now()
			if err := s.beat(ctx); err != nil && ctx.Err() == nil {
				s.o.Logger.Warn("this replica could not say that it is there", "error", err)
			}
		}
	}
}

// beat says that this replica is there and sees locks.
func (s *Service) beat(ctx context.Context) error {
	now := s.clock()
	return s.db.Tx(ctx, func(tx *storage.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM replicas WHERE seen < `+now+` - $1`, forgetFor.Microseconds()); err != nil {
			return err
		}
		var started int64
		err := tx.QueryRow(ctx, `INSERT INTO replicas (name, started, seen) VALUES ($1, `+now+`, `+now+`)
			ON CONFLICT (name) DO UPDATE SET seen = `+now+` RETURNING started`, s.replica).Scan(&started)
		if s.started.IsZero() { // at Start, before anything reads it
			s.started = storage.Time(started)
		}
		return err
	})
}

// expire ends locks whose time is over, by the database's clock. Until that
// is recorded they stand.
func (s *Service) expire(ctx context.Context) error {
	some := false
	for _, l := range s.view.Load().all {
		some = some || !l.Expires.IsZero()
	}
	if !some {
		return nil
	}
	over, err := readLocks(ctx, s.db, ` WHERE ended = 0 AND expires > 0 AND expires <= `+s.clock())
	for _, l := range over {
		err = errors.Join(err, s.change(ctx, func(tx *audit.Tx) error {
			l := l
			return s.end(ctx, tx, audit.System, "lock.expired", "its time was over", &l)
		}))
	}
	if errors.Is(err, ErrEnded) { // another replica was first
		return nil
	}
	return err
}

// enforceNew enforces what this replica has not enforced yet.
func (s *Service) enforceNew(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	active := map[string]bool{}
	for _, l := range s.view.Load().all {
		active[l.ID] = true
		if s.acked[l.ID] {
			continue
		}
		s.acked[l.ID] = true
		s.done.Add(1)
		go func() {
			defer s.done.Done()
			if err := s.enforce(ctx, l); err != nil {
				if ctx.Err() == nil {
					s.o.Logger.Error("a lock is in force, but not all that it covers has ended; trying again", "lock", l.ID, "error", err)
				}
				s.mu.Lock()
				delete(s.acked, l.ID)
				s.mu.Unlock()
			}
		}()
	}
	for id := range s.acked {
		if !active[id] {
			delete(s.acked, id)
		}
	}
}

// enforce ends what l covers here, and says so when it has ended.
func (s *Service) enforce(ctx context.Context, l Lock) error {
	ctx, cancel := context.WithTimeout(ctx, cutWithin)
	defer cancel()
	cut := 0
	var failed error
	for _, end := range s.enforcers {
		n, err := end(ctx, l)
		cut, failed = cut+n, errors.Join(failed, err)
	}
	if failed != nil {
		return failed
	}
	if l.Placed.Before(s.started) {
		return nil // nobody waits for a replica that came later
	}
	return s.log.Change(ctx, func(tx *audit.Tx) error {
		now, err := s.databaseTime(ctx, tx)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `INSERT INTO lock_acks (lock_id, replica, cut, at) VALUES ($1, $2, $3, $4) ON CONFLICT (lock_id, replica) DO NOTHING`,
			l.ID, s.replica, cut, storage.Micros(now))
		tx.Record(event("lock.enforced", audit.System, l, "", map[string]any{"lock": l.ID, "replica": s.replica, "cut": cut, "micros": now.Sub(l.Placed).Microseconds()}))
		return err
	})
}
