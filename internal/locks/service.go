package locks

import (
	"context"
	"encoding/json/v2"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/storage"
)

// Version is the name under which changes of locks are announced.
const Version = "locks"

// Options of a Service.
type Options struct {
	// Known says whether what a lock names is there: a typo must not look like a
	// stop. Nil knows everything.
	Known  func(ctx context.Context, kind, name string) (bool, error)
	Host   string       // this replica's name for people; the system's host name if empty
	Logger *slog.Logger // discards if nil
}

// Enforcer ends what a new lock covers and is at work on this replica, waits
// until it has ended, and returns how many calls, leases or the like that
// were. It must be safe to call again.
type Enforcer func(ctx context.Context, l Lock) (int, error)

// Service is the room's verbs and its view of the locks in force.
type Service struct {
	db      *storage.DB
	log     *audit.Log
	watch   *storage.Watcher
	o       Options
	replica string
	view    atomic.Pointer[snapshot]

	enforcers []Enforcer
	started   time.Time // by the database's clock
	wake      chan struct{}
	cancel    context.CancelFunc
	done      sync.WaitGroup

	mu    sync.Mutex
	acked map[string]bool // locks that this replica has enforced, or is enforcing
}

// New returns a stopped Service and registers its view with watch. Until watch
// has polled, everything is refused.
func New(db *storage.DB, log *audit.Log, watch *storage.Watcher, o Options) *Service {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Service{db: db, log: log, watch: watch, o: o, replica: job.Holder(o.Host), acked: map[string]bool{}, wake: make(chan struct{}, 1)}
	s.view.Store(newSnapshot(nil))
	watch.On(Version, s.reload)
	return s
}

// Enforce registers what ends when a lock comes into force. It must be called
// before Start.
func (s *Service) Enforce(fn Enforcer) { s.enforcers = append(s.enforcers, fn) }

// SetKnown sets Options.Known, for rooms that are built after this one. It must
// be called before Start.
func (s *Service) SetKnown(fn func(ctx context.Context, kind, name string) (bool, error)) {
	s.o.Known = fn
}

func (s *Service) reload(ctx context.Context) error {
	all, err := readLocks(ctx, s.db, ` WHERE ended = 0 ORDER BY id`)
	if err != nil {
		return err
	}
	s.view.Store(newSnapshot(all))
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return nil
}

// Check returns ErrLocked if a lock stops the subject, and ErrStale if locks
// cannot be seen. It works in memory.
func (s *Service) Check(sub Subject) error {
	if !s.watch.Fresh() { // before the view is taken, so that it is as new as Fresh says
		return ErrStale
	}
	l, locked := s.view.Load().covers(sub)
	if !locked {
		return nil
	}
	// The reason is for people who may read it, not for whoever presents a credential.
	return ErrLocked.Say("a lock on %s stops this call (%s); its owner or an operator can tell why and lift it", kindOf(l), l.ID)
}

func kindOf(l Lock) string {
	switch l.Kind {
	case Everything:
		return "all calls"
	case Agent, Owner, Team:
		return "the agent's " + map[string]string{Agent: "identity", Owner: "owner", Team: "team"}[l.Kind]
	}
	return "the " + l.Kind
}

// Active returns the locks in force, as the view has them.
func (s *Service) Active() []Lock { return s.view.Load().all }

// change commits what fn does with its events and brings the view up to date.
func (s *Service) change(ctx context.Context, fn func(tx *audit.Tx) error) error {
	if err := s.log.Change(ctx, fn); err != nil {
		return err
	}
	if err := s.watch.Poll(ctx); err != nil {
		// The change stands; the watcher refuses calls until it can look again.
		s.o.Logger.Warn("locks changed, but the view could not be reloaded", "error", err)
	}
	return nil
}

// Add places a lock that ends after expiresIn, never if that is zero.
func (s *Service) Add(ctx context.Context, by audit.Actor, l Lock, expiresIn time.Duration) (Lock, error) {
	err := s.change(ctx, func(tx *audit.Tx) (err error) {
		l, err = s.AddTx(ctx, tx, by, l, expiresIn)
		return err
	})
	return l, err
}

// AddTx is Add inside a change; whoever commits it polls the watcher.
func (s *Service) AddTx(ctx context.Context, tx *audit.Tx, by audit.Actor, l Lock, expiresIn time.Duration) (Lock, error) {
	if err := l.validate(); err != nil {
		return l, err
	}
	if expiresIn < 0 || expiresIn > LongestLife {
		return l, ErrInvalid.Say("a lock lives for more than nothing and at most a year; without an expiry it stays until it is lifted")
	}
	if s.o.Known != nil && l.Kind != Everything {
		switch known, err := s.o.Known(ctx, l.Kind, l.Name); {
		case err != nil:
			return l, err
		case !known:
			return l, ErrNotFound.Say("there is no %s %q, so nothing was stopped", l.Kind, l.Name)
		}
	}
	l.ID, l.By = id.New(ID), by.Name
	l.Ended, l.EndedBy, l.EndReason = time.Time{}, "", ""
	var err error
	if l.Placed, err = s.databaseTime(ctx, tx); err != nil {
		return l, err
	}
	if err := insert(ctx, tx, &l, expiresIn); err != nil {
		return l, err
	}
	tx.Record(event("lock.placed", by, l, l.Reason, map[string]any{"lock": l.ID, "expires": expiry(l)}))
	return l, storage.Bump(ctx, tx.Tx, Version)
}

func expiry(l Lock) any {
	if l.Expires.IsZero() {
		return nil
	}
	return l.Expires
}

// Lift ends a lock. Needs a reason.
func (s *Service) Lift(ctx context.Context, by audit.Actor, reason, lock string) (l Lock, err error) {
	if err := checkReason(reason); err != nil {
		return l, err
	}
	err = s.change(ctx, func(tx *audit.Tx) error {
		if l, err = readLock(ctx, tx, lock); err != nil {
			return err
		}
		return s.end(ctx, tx, by, "lock.lifted", reason, &l)
	})
	return l, err
}

// LiftAll ends every lock on one thing, in one change, and returns them. may is
// asked about each; it refuses all of them by an error. Needs a reason.
func (s *Service) LiftAll(ctx context.Context, by audit.Actor, reason, kind, name string, may func(Lock) error) (lifted []Lock, err error) {
	if err := checkReason(reason); err != nil {
		return nil, err
	}
	found, err := readLocks(ctx, s.db, ` WHERE ended = 0 AND kind = $1 AND name = $2 ORDER BY id`, kind, name)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	err = s.change(ctx, func(tx *audit.Tx) error {
		lifted = nil
		for _, l := range found {
			if may != nil {
				if err := may(l); err != nil {
					return err
				}
			}
			if err := s.end(ctx, tx, by, "lock.lifted", reason, &l); err != nil {
				return err
			}
			lifted = append(lifted, l)
		}
		return nil
	})
	return lifted, err
}

// end ends a lock inside a change.
func (s *Service) end(ctx context.Context, tx *audit.Tx, by audit.Actor, kind audit.Type, reason string, l *Lock) error {
	if !l.Ended.IsZero() {
		return ErrEnded
	}
	var err error
	if l.Ended, err = s.databaseTime(ctx, tx); err != nil {
		return err
	}
	if err := endLock(ctx, tx, l, by.Name, reason); err != nil {
		return err
	}
	tx.Record(event(kind, by, *l, reason, map[string]any{"lock": l.ID}))
	return storage.Bump(ctx, tx.Tx, Version)
}

// event returns an event about a lock. Its object is what the lock is on, so
// that whoever looks for that finds it.
func event(t audit.Type, by audit.Actor, l Lock, reason string, v map[string]any) audit.Event {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		b = nil // cannot be: plain values
	}
	ev := audit.Event{Type: t, Actor: by, Object: l.On(), Reason: reason, Detail: b}
	if l.Kind == Agent {
		ev.Agent = l.Name
	}
	return ev
}
