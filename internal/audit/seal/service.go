package seal

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/tlog"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/storage"
)

// Errors of this package. An event that is not in the log is
// audit.ErrNotFound.
var (
	ErrOptions    = fault.New(fault.Invalid, "bad_seal_options", "the log cannot be sealed as configured")
	ErrRolledBack = fault.New(fault.Conflict, "log_rolled_back", "the database is behind the newest checkpoint kept outside it, or contradicts it; nothing is sealed until a person accepts the loss")
	ErrNoRollback = fault.New(fault.Conflict, "no_rollback", "the log is not rolled back; there is nothing to accept")
	ErrNotSealed  = fault.New(fault.Conflict, "not_sealed_yet", "the event is recorded but not sealed yet; try again in a few seconds")
	ErrBroken     = fault.New(fault.Internal, "seal_broken", "the log does not match its Merkle tree; run countersign log verify")
	ErrReason     = fault.New(fault.Invalid, "reason_required", "say why: give a reason of at most 1000 characters (--reason)")
	ErrNoTile     = fault.New(fault.NotFound, "no_such_tile", "the log has no such tile")
	ErrTooLarge   = fault.New(fault.TooLarge, "entry_too_large", "the bundle holds an entry larger than the format's 65535 bytes; use the export")
)

var errMoved = errors.New("the tree was moved by another")

// Sealer protects the private keys at rest. Its own key is outside the database.
type Sealer interface {
	Seal(ctx context.Context, plain []byte) ([]byte, error)
	Open(ctx context.Context, sealed []byte) ([]byte, error)
}

// Alert is something that a person must see.
type Alert struct {
	Rule   string // "log.rolled_back", "log.broken", "log.witness", "log.head_file"
	Object string // "log", "witness/NAME"
	Title  string
	Detail string
}

// Options of a Service.
type Options struct {
	Origin       string                       // names the log when it is first made; empty: a random name. Without spaces and plus
	Sealer       Sealer                       // required
	HeadFile     string                       // path of the newest checkpoint outside the database; empty: none is kept
	Every        time.Duration                // between checkpoints while there is something new; 0 means 1 s
	Witnesses    []Witness                    // who cosigns
	WitnessEvery time.Duration                // between checkpoints sent to a witness; 0 means 10 s
	Alert        func(context.Context, Alert) // told once when something becomes wrong; nil: only logged
	Now          func() time.Time             // nil means time.Now
	Logger       *slog.Logger                 // nil discards
}

// Service seals the log. It is safe for concurrent use.
type Service struct {
	db    *storage.DB
	log   *audit.Log
	store store
	o     Options
	lease *job.Lease
	post  post

	working  sync.Mutex // held by whoever moves the tree
	tree     *tree      // as this process left it; nil: read it again
	seized   bool       // the lease was taken from a dead process, once
	held     bool       // the lease was ours when last used
	seen     *tlog.Checkpoint
	seenNote string

	blocked atomic.Pointer[string] // why nothing may be sealed, nil if it may

	mu        sync.Mutex // guards what follows
	wrong     string     // the last step's error, "" if it worked
	witnesses []*witness
	alerted   map[string]string
	cancel    context.CancelFunc
	running   sync.WaitGroup
	sealed    chan struct{} // closed at the next seal
}

// leaseTTL bounds how long nothing is sealed when the leader dies.
const leaseTTL = 3 * time.Second

// New returns a stopped service. At the first start of a log it makes its key,
// which is an event. A database that contradicts the head file is found here
// and is no error: Blocked and Status say so, and nothing is sealed.
func New(ctx context.Context, db *storage.DB, log *audit.Log, o Options) (*Service, error) {
	if o.Sealer == nil {
		return nil, ErrOptions.Say("the log's key cannot be kept without a sealer")
	}
	if o.Every <= 0 {
		o.Every = time.Second
	}
	if o.WitnessEvery <= 0 {
		o.WitnessEvery = 10 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Service{db: db, log: log, store: store{db}, o: o, lease: job.NewLease(db, "seal", leaseTTL), post: newPost(), alerted: map[string]string{}, sealed: make(chan struct{})}
	var err error
	if s.witnesses, err = openWitnesses(o.Witnesses); err != nil {
		return nil, err
	}
	if err := s.ensure(ctx); err != nil {
		return nil, err
	}
	s.working.Lock()
	defer s.working.Unlock()
	if err := s.readHeadFile(); err != nil {
		return nil, err
	}
	if err := s.load(ctx); err != nil && !errors.Is(err, ErrRolledBack) {
		return nil, err
	}
	return s, nil
}

// Start begins to seal.
func (s *Service) Start(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel != nil {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.running.Go(func() { s.run(ctx) })
	for _, w := range s.witnesses {
		s.running.Go(func() { s.ask(ctx, w) })
	}
	return nil
}

// Stop ends sealing and gives the lease up.
func (s *Service) Stop(ctx context.Context) error {
	s.mu.Lock()
	cancel := s.cancel
	s.cancel = nil
	s.mu.Unlock()
	if cancel == nil {
		return s.lease.Release(ctx) // Step may have taken it
	}
	cancel()
	done := make(chan struct{})
	go func() { s.running.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.working.Lock()
	defer s.working.Unlock()
	s.held = false
	return s.lease.Release(ctx)
}

// The follower's rhythm.
const (
	lookEvery = 500 * time.Millisecond // other replicas' events, and a dead leader, are found this way
	gatherFor = 20 * time.Millisecond  // after an event, wait for its neighbours
	batchSize = 16 << 10               // records sealed in one transaction
	batchLite = 4 << 10                // the same on SQLite, whose one writer also records events
	thinEvery = 10 * time.Minute
	keepAll   = 24 * time.Hour // of checkpoints; older ones are thinned out to one an hour
	thinBatch = 2000           // removed at a time: SQLite has one writer
)

func (s *Service) run(ctx context.Context) {
	thinned := time.Now()
	for ctx.Err() == nil {
		if time.Since(thinned) > thinEvery && s.leads() {
			thinned = time.Now()
			if _, err := s.Thin(ctx); err != nil && ctx.Err() == nil {
				s.o.Logger.Warn("old checkpoints cannot be thinned out", "error", err)
			}
		}
		changed := s.log.Changed()
		began := time.Now()
		n, err := s.stepWithin(ctx)
		if ctx.Err() != nil {
			return
		}
		s.note(ctx, err)
		switch {
		case err != nil:
			pause(ctx, lookEvery)
		case n >= s.batch():
			if s.db.Dialect() == storage.SQLite {
				pause(ctx, time.Since(began)/4) // one writer: recording comes first
			}
		case n > 0:
			pause(ctx, s.o.Every-time.Since(began))
		default:
			select {
			case <-ctx.Done():
			case <-changed:
				pause(ctx, gatherFor)
			case <-time.After(lookEvery):
			}
		}
	}
}

// stepTimeout bounds one step, which takes a second at most: a connection that
// died in silence must not hold up the sealing.
const stepTimeout = 15 * time.Second

func (s *Service) stepWithin(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	return s.Step(ctx)
}

// batch returns how many records are sealed in one transaction.
func (s *Service) batch() int {
	if s.db.Dialect() == storage.SQLite {
		return batchLite
	}
	return batchSize
}

// Thin removes some checkpoints that are older than a day and not cosigned,
// keeping the last of each hour, and returns how many. It runs by itself.
func (s *Service) Thin(ctx context.Context) (int64, error) {
	return s.store.thin(ctx, s.o.Now().Add(-keepAll), thinBatch)
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// note remembers how the last step went, and tells once what is new.
func (s *Service) note(ctx context.Context, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	s.mu.Lock()
	was := s.wrong
	s.wrong = text
	s.mu.Unlock()
	if err == nil || text == was {
		return
	}
	s.o.Logger.Error("the log is not sealed", "error", err)
	switch {
	case errors.Is(err, ErrRolledBack):
		s.alert(ctx, Alert{"log.rolled_back", "log", "The database is older than the log's newest checkpoint", fault.Public(err).Message})
	case errors.Is(err, ErrBroken):
		s.alert(ctx, Alert{"log.broken", "log", "The log does not match its Merkle tree", fault.Public(err).Message})
	}
}

// alert tells a person, once as long as it says the same.
func (s *Service) alert(ctx context.Context, a Alert) {
	s.mu.Lock()
	said := s.alerted[a.Rule+" "+a.Object] == a.Detail
	s.alerted[a.Rule+" "+a.Object] = a.Detail
	s.mu.Unlock()
	if said {
		return
	}
	s.o.Logger.Warn(a.Title, "rule", a.Rule, "object", a.Object, "detail", a.Detail)
	if s.o.Alert != nil {
		s.o.Alert(ctx, a)
	}
}

// announce wakes who waits for a checkpoint.
func (s *Service) announce() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.sealed)
	s.sealed = make(chan struct{})
}

// Sealed returns a channel that is closed when this process signs a checkpoint.
func (s *Service) Sealed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sealed
}
