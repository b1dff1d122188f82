package connections

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/countersign/countersign/internal/storage"
)

const (
	useFlush = 2 * time.Second // how soon a first use is stored
	useEvery = time.Minute     // at most one write per connection
)

// use is the last use of one connection.
type use struct {
	last, written atomic.Int64 // microseconds: last use, and the last use that was stored
	at            time.Time    // when it was stored; touched by Flush alone
}

// uses are the last uses seen by this process.
type uses struct {
	known sync.Map // connection: *use
	flush sync.Mutex
}

// Used notes that a connection was called at a time. It costs a map look-up;
// the store learns of it within seconds, and then at most once a minute.
func (s *Service) Used(connection string, at time.Time) {
	v, ok := s.uses.known.Load(connection)
	if !ok {
		v, _ = s.uses.known.LoadOrStore(connection, &use{})
	}
	u, us := v.(*use), storage.Micros(at)
	for {
		last := u.last.Load()
		if last >= us || u.last.CompareAndSwap(last, us) {
			return
		}
	}
}

// LastUses returns when each connection was last called, about a minute exact
// for calls by way of other replicas. Connections never called are left out.
func (s *Service) LastUses(ctx context.Context) (map[string]time.Time, error) {
	out, err := lastUses(ctx, s.db)
	if err != nil {
		return nil, err
	}
	s.uses.known.Range(func(name, v any) bool {
		if at := storage.Time(v.(*use).last.Load()); at.After(out[name.(string)]) {
			out[name.(string)] = at
		}
		return true
	})
	return out, nil
}

// FlushUses stores the last uses that are due. Observations are no change that
// a person makes, so they are no events.
func (s *Service) FlushUses(ctx context.Context) error { return s.flushUses(ctx, false) }

func (s *Service) flushUses(ctx context.Context, all bool) error {
	s.uses.flush.Lock()
	defer s.uses.flush.Unlock()
	now := s.now()
	due := map[string]int64{}
	s.uses.known.Range(func(name, v any) bool {
		u := v.(*use)
		if last := u.last.Load(); last != u.written.Load() && (all || now.Sub(u.at) >= useEvery) {
			due[name.(string)] = last
		}
		return true
	})
	if len(due) == 0 {
		return nil
	}
	if err := putUses(ctx, s.db, due); err != nil {
		return err
	}
	for name, last := range due {
		v, _ := s.uses.known.Load(name)
		v.(*use).written.Store(last)
		v.(*use).at = now
	}
	return nil
}

// Start begins to store last uses in the background.
func (s *Service) Start(ctx context.Context) error {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel, s.done = cancel, make(chan struct{})
	go func() {
		defer close(s.done)
		tick := time.NewTicker(useFlush)
		defer tick.Stop()
		for {
			select {
			case <-run.Done():
				return
			case <-tick.C:
			}
			if err := s.FlushUses(run); err != nil && run.Err() == nil {
				s.logger.Warn("last uses of connections could not be stored", "error", err)
			}
		}
	}()
	return nil
}

// Stop ends the background work and stores what was not yet. It may be called
// without Start and more than once.
func (s *Service) Stop(ctx context.Context) error {
	if s.cancel == nil {
		return nil
	}
	s.cancel()
	<-s.done
	s.cancel = nil
	return s.flushUses(ctx, true)
}
