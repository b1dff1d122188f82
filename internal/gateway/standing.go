package gateway

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/releases"
)

// standingEvery is how often callers of calls in flight are looked at again,
// beside every time that identities or locks change (Recheck, Cut).
const standingEvery = 250 * time.Millisecond

// standing cuts calls in flight whose caller may not call any more: the
// credential was revoked or expired, the agent suspended, its owner disabled, a
// lock placed, the release that bound the call rolled back. A view that is merely stale refuses new calls and cuts nothing,
// until it has been stale for too long.
type standing struct {
	blindFor time.Duration

	mu    sync.Mutex
	calls map[*answerBody]struct{}
	gone  chan struct{}   // closed and replaced when a call is gone
	cut   []locks.Subject // calls cut by a lock that no lock has counted yet
	once  sync.Once
	look  chan struct{}
	stop  chan struct{}
	done  chan struct{}
}

func newStanding(blindFor time.Duration) *standing {
	s := &standing{blindFor: blindFor, calls: map[*answerBody]struct{}{}, gone: make(chan struct{}), look: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	go s.run()
	return s
}

func (s *standing) add(a *answerBody) {
	s.mu.Lock()
	s.calls[a] = struct{}{}
	s.mu.Unlock()
}

// remove forgets a call that ended, with err if it broke off. One that a lock
// cut is kept for the lock to count, in the same step: a lock that sees nothing
// in flight any more must find it counted.
func (s *standing) remove(a *answerBody, err error) {
	s.mu.Lock()
	delete(s.calls, a)
	if err != nil && errors.Is(context.Cause(a.ctx), locks.ErrLocked) {
		s.cut = append(s.cut, subject(a.call))
		s.cut = s.cut[max(0, len(s.cut)-maxUncounted):]
	}
	close(s.gone)
	s.gone = make(chan struct{})
	s.mu.Unlock()
}

// those returns the calls in flight that which names, and a channel that is
// closed when the next call is gone.
func (s *standing) those(which func(*answerBody) bool) ([]*answerBody, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var calls []*answerBody
	for a := range s.calls {
		if which(a) {
			calls = append(calls, a)
		}
	}
	return calls, s.gone
}

func (s *standing) run() {
	defer close(s.done)
	tick := time.NewTicker(standingEvery)
	defer tick.Stop()
	seen := time.Now() // when it could last be told who may call
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		case <-s.look:
		}
		if s.recheck(time.Since(seen) > s.blindFor) {
			seen = time.Now()
		}
	}
}

// recheck cuts what may not go on, and with blind everything of which that
// cannot be told. It reports whether it could be told of all.
func (s *standing) recheck(blind bool) bool {
	calls, _ := s.those(func(*answerBody) bool { return true })
	sighted := true
	for _, a := range calls {
		err := a.allowed()
		switch {
		case err == nil:
		case errors.Is(err, locks.ErrLocked), errors.Is(err, releases.ErrRolled):
			a.stop(err)
		case fault.KindOf(err) != fault.Unavailable:
			a.stop(ErrStopped)
		case blind:
			a.stop(ErrBlind)
		default:
			sighted = false
		}
	}
	return sighted
}

// maxUncounted bounds what is kept of calls that a lock cut before the lock
// itself asked.
const maxUncounted = 10_000

// count returns how many calls were cut that l covers, each once.
func (s *standing) count(l locks.Lock) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.cut)
	s.cut = slices.DeleteFunc(s.cut, l.Covers)
	return before - len(s.cut)
}

// allowed says why a call in flight may not go on.
func (a *answerBody) allowed() error {
	if a.call.resume != nil {
		if _, err := a.g.o.Authenticator.Readmit(context.Background(), a.call.resume.Resumed); err != nil {
			return err
		}
	} else if a.call.credential != "" { // not Countersign's own
		if _, err := a.g.o.Authenticator.Authenticate(context.Background(), a.call.credential); err != nil {
			return err
		}
	}
	if err := a.g.locked(a.call); err != nil {
		return err
	}
	if err := a.g.stands(a.call); err != nil && !a.spared() {
		return err
	}
	return nil
}

// close may be called more than once.
func (s *standing) close() {
	s.once.Do(func() { close(s.stop) })
	<-s.done
}

// locked asks whether a lock stops the call.
func (g *Gateway) locked(call *Call) error {
	if g.o.Locks == nil {
		return nil
	}
	return g.o.Locks.Check(subject(call))
}

// subject is the call as locks see it.
func subject(call *Call) locks.Subject {
	var s locks.Subject
	if call.Who.Agent.Name != "" {
		s = call.Who.Subject()
		s.Run = call.Run
	}
	s.Connection, s.Tool = call.Connection.Name, call.Tool.Name
	return s
}

// Recheck looks at the callers of all calls in flight now, in the background:
// identities or locks have changed.
func (g *Gateway) Recheck() {
	select {
	case g.standing.look <- struct{}{}:
	default: // it is about to
	}
}

// Cut ends the calls in flight that a lock covers, waits until they have ended
// and returns how many they were. It is a locks.Enforcer.
func (g *Gateway) Cut(ctx context.Context, l locks.Lock) (int, error) {
	err := locks.ErrLocked.Say("the call was cut by a lock (%s); its owner or an operator can tell why and lift it", l.ID)
	covered := func(a *answerBody) bool { return l.Covers(subject(a.call)) }
	for {
		calls, gone := g.standing.those(covered)
		if len(calls) == 0 {
			return g.standing.count(l), nil
		}
		for _, a := range calls {
			a.stop(err)
		}
		select {
		case <-gone:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}
