package gateway

import (
	"context"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/fault"
)

// standingEvery is how often callers of calls in flight are looked at again.
// With the watcher's poll it keeps the time from a revocation to the last call
// cut under a second.
const standingEvery = 250 * time.Millisecond

// standing cuts calls in flight whose caller may not call any more: the
// credential was revoked or expired, the agent suspended, its owner disabled. A
// view that is merely stale cuts nothing; it refuses new calls.
type standing struct {
	mu    sync.Mutex
	calls map[*answerBody]struct{}
	once  sync.Once
	stop  chan struct{}
	done  chan struct{}
}

func newStanding() *standing {
	s := &standing{calls: map[*answerBody]struct{}{}, stop: make(chan struct{}), done: make(chan struct{})}
	go s.run()
	return s
}

func (s *standing) add(a *answerBody) {
	s.mu.Lock()
	s.calls[a] = struct{}{}
	s.mu.Unlock()
}

func (s *standing) remove(a *answerBody) {
	s.mu.Lock()
	delete(s.calls, a)
	s.mu.Unlock()
}

func (s *standing) run() {
	defer close(s.done)
	tick := time.NewTicker(standingEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
			s.look()
		}
	}
}

func (s *standing) look() {
	s.mu.Lock()
	calls := make([]*answerBody, 0, len(s.calls))
	for a := range s.calls {
		calls = append(calls, a)
	}
	s.mu.Unlock()
	for _, a := range calls {
		if a.call.credential == "" {
			continue // Countersign's own
		}
		_, err := a.g.o.Authenticator.Authenticate(context.Background(), a.call.credential)
		if err != nil && fault.KindOf(err) != fault.Unavailable {
			a.cancel(ErrStopped)
		}
	}
}

// close may be called more than once.
func (s *standing) close() {
	s.once.Do(func() { close(s.stop) })
	<-s.done
}
