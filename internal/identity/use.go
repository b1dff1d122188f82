package identity

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/countersign/countersign/internal/storage"
)

const (
	flushEvery = 2 * time.Second  // how soon a first use shows
	writeEvery = time.Minute      // at most one write per credential
	forgetUse  = 10 * time.Minute // of a credential that is idle
)

const kindToken = "token" // beside KindKey and KindRun

// use is the last use of one credential or agent.
type use struct {
	kind, id      string
	last, written atomic.Int64 // microseconds: last use, and the last use that was stored
	at            time.Time    // when it was stored; touched by flushes only
}

type uses struct {
	mu    sync.RWMutex
	known map[string]*use
	flush sync.Mutex // one at a time
}

func newUses() *uses { return &uses{known: map[string]*use{}} }

func (u *uses) note(kind, id string, at time.Time) {
	u.mu.RLock()
	e := u.known[id]
	u.mu.RUnlock()
	if e == nil {
		u.mu.Lock()
		if e = u.known[id]; e == nil {
			e = &use{kind: kind, id: id}
			u.known[id] = e
		}
		u.mu.Unlock()
	}
	us := storage.Micros(at)
	for {
		last := e.last.Load()
		if last >= us || e.last.CompareAndSwap(last, us) {
			return
		}
	}
}

// due returns what must be stored at now, and forgets what is idle.
func (u *uses) due(now time.Time) (out []*use) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for id, e := range u.known {
		switch age := now.Sub(e.at); {
		case e.last.Load() == e.written.Load():
			if age > forgetUse {
				delete(u.known, id)
			}
		case age >= writeEvery:
			out = append(out, e)
		}
	}
	return out
}

// Used notes that a credential was used at a time. It costs a map look-up; the
// store learns of it within seconds, and then at most once a minute.
func (s *Service) Used(c Caller, at time.Time) {
	if c.Credential.Kind != KindAccess { // these live for minutes and have no row
		s.uses.note(c.Credential.Kind, c.Credential.ID, at)
	}
	s.uses.note("agent", c.Agent.ID, at)
}

var useStatements = map[string]string{
	KindKey:   `UPDATE agent_keys SET last_used = $1 WHERE id = $2 AND last_used < $1`,
	KindRun:   `UPDATE agent_runs SET last_used = $1 WHERE credential = $2 AND last_used < $1`,
	kindToken: `UPDATE user_tokens SET last_used = $1 WHERE id = $2 AND last_used < $1`,
	"agent":   `UPDATE agents SET last_call = $1 WHERE id = $2 AND last_call < $1`,
}

// Flush stores the last uses that are due. Observations are no change that a
// person makes, so they are no events.
func (s *Service) Flush(ctx context.Context) error {
	s.uses.flush.Lock()
	defer s.uses.flush.Unlock()
	now := s.now()
	due := s.uses.due(now)
	if len(due) == 0 {
		return nil
	}
	last := make([]int64, len(due))
	err := s.db.Tx(ctx, func(tx *storage.Tx) error {
		for i, e := range due {
			last[i] = e.last.Load()
			if _, err := tx.Exec(ctx, useStatements[e.kind], last[i], e.id); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, e := range due {
		e.written.Store(last[i])
		e.at = now
	}
	return nil
}

// Start begins to store last uses in the background.
func (s *Service) Start(ctx context.Context) error {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel, s.done = cancel, make(chan struct{})
	go func() {
		defer close(s.done)
		tick := time.NewTicker(flushEvery)
		defer tick.Stop()
		for {
			select {
			case <-run.Done():
				return
			case <-tick.C:
			}
			if err := s.Flush(run); err != nil && run.Err() == nil {
				s.logger.Warn("last uses of credentials could not be stored", "error", err)
			}
		}
	}()
	return nil
}

// Stop ends the background work and stores what is due. It may be called
// without Start and more than once.
func (s *Service) Stop(ctx context.Context) error {
	if s.cancel == nil {
		return nil
	}
	s.cancel()
	<-s.done
	s.cancel = nil
	return s.Flush(ctx)
}
