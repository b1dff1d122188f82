package use

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/storage"
)

// Options of a Service.
type Options struct {
	Policy   *policy.Service                                              // must be set
	Agents   func(name string) (policy.Agent, bool)                       // an agent as it is now; nil knows none
	Owns     func(ctx context.Context, user, object string) (bool, error) // owners see values of their agents' calls; nil: nobody owns
	Findings *findings.Service                                            // told of refusals because of a right-sizing; nil: nobody is
	Logger   *slog.Logger                                                 // nil discards
	Now      func() time.Time                                             // nil means time.Now
	// Most is how many events are gathered in memory before they are written
	// though their day is not over; 0 means 500,000.
	Most int64
}

// Service follows the log and answers from what it knows. It is safe for
// concurrent use.
type Service struct {
	db    *storage.DB
	log   *audit.Log
	store store
	o     Options
	lease *job.Lease

	mu   sync.Mutex // guards tail, and that steps follow each other
	tail *tail

	follow *job.Follower
}

// New returns a stopped service.
func New(db *storage.DB, log *audit.Log, o Options) (*Service, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Most == 0 {
		o.Most = 500_000
	}
	st, err := newStore(db, log.Derive("use arguments"))
	if err != nil {
		return nil, err
	}
	s := &Service{db: db, log: log, store: st, o: o, lease: job.ReplicaLease(db, "use", leaseTTL)}
	s.follow = s.follower()
	log.OnForget(s.forget)
	return s, nil
}

// Rebuild throws away what is known and reads the log again. From the log's
// beginning on, if all is true, it looks at every argument that policies name
// by now; else at each from when it was first named, which gives the same as
// before. It is recorded.
func (s *Service) Rebuild(ctx context.Context, by audit.Actor, reason string, all bool) error {
	return s.log.Change(ctx, func(tx *audit.Tx) error {
		tx.Record(audit.Event{Type: "use.rebuilt", Actor: by, Object: "use", Reason: reason})
		return s.store.clear(ctx, tx.Tx, all)
	})
}

// forget removes what was kept of payloads at places. Whole days of pairs lose
// their values: which of them a payload had is not known any more.
func (s *Service) forget(ctx context.Context, tx *storage.Tx, places []audit.Place) error {
	recs, err := s.log.At(ctx, places)
	if err != nil {
		return err
	}
	type spot struct {
		pair
		day int64
	}
	done := map[spot]bool{}
	for i := range recs {
		ev := &recs[i].Event
		at := spot{pairOf(ev), dayOf(storage.Micros(ev.Time))}
		if !counts(ev) || done[at] {
			continue
		}
		done[at] = true
		if err := s.store.forget(ctx, tx, at.pair, at.day); err != nil {
			return err
		}
	}
	return nil
}
