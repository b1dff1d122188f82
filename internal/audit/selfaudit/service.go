package selfaudit

import (
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/seal"
	"github.com/countersign/countersign/internal/audit/search"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/storage"
)

// ErrPosition says that an audit cannot go on from where the caller says.
var ErrPosition = fault.New(fault.Invalid, "bad_position", "the position is not one that a slice before returned; begin without one")

// The parts of an audit, in their order.
const (
	Log   = "log"   // chains, columns, payload commitments
	Tree  = "tree"  // records against tiles, tiles against each other, checkpoints
	Index = "index" // the search index against the log
	Calls = "calls" // intents and their outcomes
)

// Parts lists them.
var Parts = []string{Log, Tree, Index, Calls}

// Mismatched is the type of the event that records what was found.
const Mismatched audit.Type = "mismatch.found"

// Position is how far an audit is. The zero Position is the beginning.
type Position struct {
	Part string
	Lane int64
	At   int64 // a number in the lane, or of the tree a leaf
}

// Problem is a mismatch.
type Problem struct {
	Part    string
	Where   string // "lane 2, record 17, event evt_…", "tile/1/000"
	Message string
}

// Result is what one slice found.
type Result struct {
	Part     string
	Checked  int64    // records looked at
	InFlight int64    // calls of this slice that somebody works on: no problem
	Next     Position // where to go on
	Done     bool     // the whole was seen: Next is the beginning
	Problems []Problem
}

// Options of a Service.
type Options struct {
	// Alert is told, in a change of the log, what was found. Required.
	Alert  func(ctx context.Context, tx *audit.Tx, p Problem) error
	Every  time.Duration    // between slices; 0 means an hour
	Now    func() time.Time // nil means time.Now
	Logger *slog.Logger     // nil discards
}

// Service looks. It is safe for concurrent use.
type Service struct {
	db    *storage.DB
	log   *audit.Log
	tree  *seal.Service
	index *search.Service
	o     Options
	lease *job.Lease

	follow *job.Follower
}

// leaseTTL is longer than one step takes.
const leaseTTL = 2 * time.Minute

// New returns a stopped service.
func New(db *storage.DB, log *audit.Log, tree *seal.Service, index *search.Service, o Options) *Service {
	if o.Alert == nil {
		panic("selfaudit: Alert must be set")
	}
	if o.Every <= 0 {
		o.Every = time.Hour
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Service{db: db, log: log, tree: tree, index: index, o: o, lease: job.NewLease(db, "selfaudit", leaseTTL)}
	s.follow = s.follower()
	return s
}

// Total returns how many records a whole audit looks at, all parts together.
func (s *Service) Total(ctx context.Context) (int64, error) {
	head, err := s.log.Head(ctx)
	if err != nil {
		return 0, err
	}
	var n int64
	for _, sn := range head {
		n += sn
	}
	return n * int64(len(Parts)), nil
}

// Slice looks at about budget records from a position on, at those of one part.
// The error says that it could not look.
func (s *Service) Slice(ctx context.Context, at Position, budget int64) (Result, error) {
	if at.Part == "" {
		at.Part = Parts[0]
	}
	part := slices.Index(Parts, at.Part)
	if part < 0 || at.Lane < 0 || at.At < 0 {
		return Result{}, ErrPosition
	}
	r, err := s.look(ctx, at, budget)
	if err != nil {
		return Result{}, err
	}
	r.Part = at.Part
	switch {
	case r.Next != (Position{}):
		r.Next.Part = at.Part
	case part+1 < len(Parts):
		r.Next = Position{Part: Parts[part+1]}
	default:
		r.Done = true
	}
	return r, nil
}

// look looks at one part. Its Next is zero when the part's end was reached.
func (s *Service) look(ctx context.Context, at Position, budget int64) (r Result, err error) {
	place := audit.Place{Lane: at.Lane, SN: at.At}
	switch at.Part {
	case Log:
		var got audit.Slice
		got, err = s.log.VerifySlice(ctx, place, budget)
		r.take(at.Part, got.Checked, got.Next, got.Problems)
	case Calls:
		var got audit.Slice
		got, r.InFlight, err = s.log.UnfinishedSlice(ctx, place, budget)
		r.take(at.Part, got.Checked, got.Next, got.Problems)
	case Index:
		var got search.Slice
		got, err = s.index.VerifySlice(ctx, place, budget)
		r.take(at.Part, got.Checked, got.Next, got.Problems)
	case Tree:
		rep, next, terr := s.tree.VerifySlice(ctx, at.At, budget)
		r.Checked, r.Next.At, err = rep.Records, next, terr
		for _, p := range rep.Problems {
			r.Problems = append(r.Problems, Problem{at.Part, p.Where, p.Message})
		}
	}
	return r, err
}

func (r *Result) take(part string, checked int64, next audit.Place, problems []audit.Problem) {
	r.Checked, r.Next = checked, Position{Lane: next.Lane, At: next.SN}
	for _, p := range problems {
		where := fmt.Sprintf("lane %d, record %d", p.Lane, p.SN)
		if p.Event != "" {
			where += ", event " + p.Event
		}
		r.Problems = append(r.Problems, Problem{part, where, p.Message})
	}
}

// How much one look of the background sees: the whole in about a week, but not
// less than a thousand records, in steps that leave the database to others.
const (
	looksPerRound = 7 * 24
	leastPerLook  = 1000
	perStep       = 2000
)

// Look goes on with the audit where it stopped, if this process has the lease,
// and reports what it found. It runs by itself once an hour, and soon
// after a start if that is overdue.
func (s *Service) Look(ctx context.Context) ([]Problem, error) {
	if ours, err := s.lease.Acquire(ctx); err != nil || !ours {
		return nil, err
	}
	total, err := s.Total(ctx)
	if err != nil {
		return nil, err
	}
	at, err := s.position(ctx)
	if err != nil {
		return nil, err
	}
	var found []Problem
	for left := max(leastPerLook, total/looksPerRound+1); left > 0; {
		r, err := s.Slice(ctx, at, min(left, perStep))
		if err != nil {
			return found, err
		}
		if err := s.keep(ctx, r); err != nil {
			if errors.Is(err, job.ErrFenced) {
				return found, nil // another goes on
			}
			return found, err
		}
		found, at = append(found, r.Problems...), r.Next
		if r.Done {
			break
		}
		left -= max(r.Checked, 1)
	}
	return found, nil
}

// keep stores how far the audit is, and tells what it found.
func (s *Service) keep(ctx context.Context, r Result) error {
	if len(r.Problems) == 0 { // nothing changed but how far we are
		return s.db.Tx(ctx, func(tx *storage.Tx) error {
			if err := s.lease.Check(ctx, tx); err != nil {
				return err
			}
			return s.move(ctx, tx, r)
		})
	}
	return s.log.Change(ctx, func(tx *audit.Tx) error {
		if err := s.lease.Check(ctx, tx.Tx); err != nil {
			return err
		}
		for _, p := range r.Problems {
			s.o.Logger.Error("the log does not match itself", "part", p.Part, "where", p.Where, "problem", p.Message)
			detail, err := json.Marshal(map[string]string{"where": p.Where, "problem": p.Message}, json.Deterministic(true))
			if err != nil {
				return err
			}
			tx.Record(audit.Event{Type: Mismatched, Actor: audit.System, Object: "log/" + p.Part, Detail: detail})
			if err := s.o.Alert(ctx, tx, p); err != nil {
				return err
			}
		}
		return s.move(ctx, tx.Tx, r)
	})
}

// Start begins to look once an hour.
func (s *Service) Start(ctx context.Context) error { return s.follow.Start(ctx) }

// Stop ends looking and gives the lease up.
func (s *Service) Stop(ctx context.Context) error { return s.follow.Stop(ctx) }

// afterStart is how soon after a start an overdue slice is looked at.
const afterStart = 5 * time.Second

// due returns how long the first slice has time. A process that never lives for
// an hour looks, too.
func (s *Service) due(ctx context.Context) time.Duration {
	st, err := s.Status(ctx)
	if err != nil || st.Ran.IsZero() {
		return s.o.Every
	}
	return min(s.o.Every, max(afterStart, st.Ran.Add(s.o.Every).Sub(s.o.Now())))
}

// follower looks once an hour. Who calls Look looks beside it.
func (s *Service) follower() *job.Follower {
	return &job.Follower{Delay: s.due, Every: s.o.Every, Lease: s.lease,
		Step: func(ctx context.Context) (int, error) {
			_, err := s.Look(ctx)
			return 0, err
		},
		Failed: func(ctx context.Context, err error) {
			s.o.Logger.Warn("the log could not be looked at; the next try is within the hour", "error", err)
			job.Pause(ctx, s.o.Every)
		}}
}
