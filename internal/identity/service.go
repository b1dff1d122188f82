package identity

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/storage"
)

// Version is the name under which changes of this room are announced.
const Version = "identity"

// Options of a Service.
type Options struct {
	// Derive returns 32 secret bytes for a label, the same on every replica and
	// after every restart. Required: run tokens are signed with it.
	Derive func(label string) []byte
	// Locks says whether a lock stops a caller. Nil locks nothing.
	Locks  Locks
	Now    func() time.Time // time.Now if nil
	Logger *slog.Logger     // discards if nil
}

// Locks says whether a lock stops something; locks.Service does.
type Locks interface {
	Check(sub locks.Subject) error
}

// unlocked is nothing locked.
type unlocked struct{}

func (unlocked) Check(locks.Subject) error { return nil }

// Service is the room's verbs and its view of the store.
type Service struct {
	db        *storage.DB
	log       *audit.Log
	watch     *storage.Watcher
	now       func() time.Time
	logger    *slog.Logger
	locks     Locks
	runs      *runSigner
	hash      *hasher
	limits    *limits
	uses      *uses
	view      atomic.Pointer[snapshot]
	before    []BeforeDelete
	staged    func(ctx context.Context, tx *audit.Tx, a Agent) error
	tokenEnds []func(ctx context.Context, tx *audit.Tx, ids []string) error
	access    Verifier
	cancel    context.CancelFunc
	done      chan struct{}

	follower Follower
}

// BeforeDelete is asked, inside the transaction, before a user, team or agent
// is deleted. It may clean up what hangs on the object ("agent/invoice-checker")
// or refuse with a fault that says what does.
type BeforeDelete func(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, object string) error

// New returns a Service and registers its view with watch. Until watch has
// polled, every credential is refused.
func New(db *storage.DB, log *audit.Log, watch *storage.Watcher, o Options) (*Service, error) {
	if o.Derive == nil {
		return nil, errors.New("identity: Options.Derive is required")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Locks == nil {
		o.Locks = unlocked{}
	}
	runs, err := newRunSigner(o.Derive)
	if err != nil {
		return nil, err
	}
	s := &Service{
		db: db, log: log, watch: watch, now: o.Now, logger: o.Logger, locks: o.Locks, runs: runs,
		hash: newHasher(), limits: newLimits(), uses: newUses(),
	}
	s.view.Store(emptySnapshot())
	watch.On(Version, s.reload)
	return s, nil
}

// OnDelete registers fn. It must be called before the Service is used.
func (s *Service) OnDelete(fn BeforeDelete) { s.before = append(s.before, fn) }

// OnStage says who is asked, inside the change, when an agent comes to another
// stage: an error undoes the change. It must be called before the Service is used.
func (s *Service) OnStage(fn func(ctx context.Context, tx *audit.Tx, a Agent) error) { s.staged = fn }

// OnTokenEnd registers fn, which is told inside the change that users' tokens
// end before their time, so that what was had by them ends too. It must be
// called before the Service is used.
func (s *Service) OnTokenEnd(fn func(ctx context.Context, tx *audit.Tx, ids []string) error) {
	s.tokenEnds = append(s.tokenEnds, fn)
}

// endTokensTx ends tokens of users.
func (s *Service) endTokensTx(ctx context.Context, tx *audit.Tx, ids ...string) error {
	for _, id := range ids {
		if _, err := tx.Exec(ctx, `UPDATE user_tokens SET revoked = $1 WHERE id = $2 AND revoked = 0`, storage.Micros(s.now()), id); err != nil {
			return err
		}
	}
	for _, fn := range s.tokenEnds {
		if err := fn(ctx, tx, ids); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) askBeforeDelete(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, object string) error {
	for _, fn := range s.before {
		if err := fn(ctx, tx, by, reason, object); err != nil {
			return err
		}
	}
	return nil
}

// change commits what fn does together with its events and brings the view up
// to date, so that the caller's next request sees the change. Callers of the
// …Tx verbs poll the watcher themselves after their commit.
func (s *Service) change(ctx context.Context, fn func(tx *audit.Tx) error) error {
	switch err := s.log.Change(ctx, fn); {
	case err == nil:
	case storage.Duplicate(err):
		return ErrConflict.With(err)
	case storage.Referenced(err):
		return ErrInUse.Say("something that this names was deleted, or is named by something made, in the meantime; look again").With(err)
	default:
		return err
	}
	if err := s.watch.Poll(ctx); err != nil {
		// The change stands; the watcher refuses calls until it can look again.
		s.logger.Warn("identity changed, but the view could not be reloaded", "error", err)
	}
	return nil
}

// bump announces that what replicas keep in memory changed.
func bump(ctx context.Context, tx *audit.Tx) error { return storage.Bump(ctx, tx.Tx, Version) }

// record records events and announces the change.
func record(ctx context.Context, tx *audit.Tx, events ...audit.Event) error {
	for _, ev := range events {
		tx.Record(ev)
	}
	return bump(ctx, tx)
}

// swap runs an UPDATE that compares a revision and tells a lost race.
func swap(ctx context.Context, tx *audit.Tx, query string, args ...any) error {
	err := tx.ExecOne(ctx, query, args...)
	if errors.Is(err, storage.ErrNotFound) {
		return ErrConflict
	}
	return err
}
