package search

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/storage"
)

// ErrCursor says that a page cannot be continued from where the caller says.
var ErrCursor = fault.New(fault.Invalid, "bad_cursor", "the cursor is not the id of an event; give the one of the page before")

// Options of a Service.
type Options struct {
	Logger *slog.Logger     // nil discards
	Now    func() time.Time // nil means time.Now
	// Owns says whether a person owns an agent ("agent/NAME"): owners see what
	// their agents sent and got. Nil: nobody does.
	Owns rest.Owns
}

// Service is the index and its follower. It is safe for concurrent use.
type Service struct {
	store store
	db    *storage.DB
	log   *audit.Log
	o     Options
	lease *job.Lease
	// lite says that the engine has one writer, which the log must not miss for long.
	lite   bool
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
	s := &Service{store: store{db, newBlinder(log.Derive("search words")), &known{}, walkLite}, db: db, log: log, o: o, lease: job.ReplicaLease(db, "search", leaseTTL), lite: db.Dialect() == storage.SQLite}
	s.follow = s.follower()
	log.OnForget(s.forget)
	return s, nil
}

// Page says which part of the results is wanted.
type Page struct {
	After  string // the last event's identifier on the page before
	Limit  int    // 0 means 100; at most 1,000
	Oldest bool   // oldest first rather than newest first
}

const (
	defaultPage = 100
	maxPage     = 1000
)

// Result is one page of what was found.
type Result struct {
	Records []audit.Record // without payloads
	Next    string         // Page.After of the next page, empty if this is the last
}

// Find returns the events that q selects. Events of the last moments may not
// be indexed yet (Behind).
func (s *Service) Find(ctx context.Context, q Query, p Page) (Result, error) {
	if p.After != "" && !id.Is(id.Event, p.After) {
		return Result{}, ErrCursor
	}
	if p.Limit <= 0 {
		p.Limit = defaultPage
	}
	p.Limit = min(p.Limit, maxPage)
	recs, next, err := s.find(ctx, q, p)
	if err != nil {
		return Result{}, err
	}
	res := Result{Next: next}
	for i := range recs {
		if q.sure(&recs[i]) {
			res.Records = append(res.Records, recs[i])
		}
	}
	return res, nil
}

// find returns a page of what the index selects, and from where the next one
// continues.
func (s *Service) find(ctx context.Context, q Query, p Page) (recs []audit.Record, next string, err error) {
	if s.db.Dialect() == storage.SQLite && q.hasBeginnings() {
		recs, done, err := s.findBegun(ctx, q, p)
		if err != nil {
			return nil, "", err
		}
		if done {
			if len(recs) == p.Limit {
				next = recs[len(recs)-1].Event.ID
			}
			return recs, next, nil
		}
	}
	ids, err := s.store.find(ctx, q, p)
	if err != nil {
		return nil, "", err
	}
	if len(ids) == p.Limit {
		next = ids[len(ids)-1]
	}
	recs, err = s.log.GetMany(ctx, ids)
	return recs, next, err
}

// sure checks what the index only approximates: wildcards in fields of many
// values, and values by their digests.
func (q Query) sure(r *audit.Record) bool {
	for _, f := range q.filters {
		if f.holds(&r.Event) == f.not {
			return false
		}
	}
	return true
}

// Behind returns how many events the index has yet to read.
func (s *Service) Behind(ctx context.Context) (int64, error) {
	at, err := s.store.positions(ctx)
	if err != nil {
		return 0, err
	}
	head, err := s.log.Head(ctx)
	if err != nil {
		return 0, err
	}
	var n int64
	for lane, sn := range head {
		n += sn - at[lane]
	}
	return n, nil
}

// How long a search waits for events that were recorded before it, and how far
// behind the index may be for that to be worth it.
const (
	freshWithin = 2 * time.Second
	freshEvery  = 20 * time.Millisecond
	freshEvents = 2000
)

// Fresh waits until what is in the log now can be found, so that whoever looks
// for what they just did finds it. An index that is far behind, as while it is
// built again, is not waited for: Behind says so.
func (s *Service) Fresh(ctx context.Context) error {
	head, err := s.log.Head(ctx)
	if err != nil {
		return err
	}
	for end := time.Now().Add(freshWithin); ; job.Pause(ctx, freshEvery) {
		at, err := s.store.positions(ctx)
		if err != nil {
			return err
		}
		var behind int64
		for lane, sn := range head {
			behind += max(0, sn-at[lane])
		}
		if behind == 0 || behind > freshEvents || time.Now().After(end) || ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// Rebuild empties the index and lets the follower fill it again. What it holds
// is found during that time, the rest is not. It is recorded.
func (s *Service) Rebuild(ctx context.Context, by audit.Actor, reason string) error {
	return s.log.Change(ctx, func(tx *audit.Tx) error {
		tx.Record(audit.Event{Type: "search.rebuilt", Actor: by, Object: "search", Reason: reason})
		return s.store.clear(ctx, tx.Tx)
	})
}

// Start begins to follow the log.
func (s *Service) Start(ctx context.Context) error { return s.follow.Start(ctx) }

// Stop ends following.
func (s *Service) Stop(ctx context.Context) error { return s.follow.Stop(ctx) }

// The follower's rhythm.
const (
	leaseTTL  = 10 * time.Second
	lookEvery = 500 * time.Millisecond // other replicas' events are found this way
	gatherFor = 50 * time.Millisecond  // after an event, wait for its neighbours
	perLane   = 64                     // events read at a time
)

// How much one transaction writes: records, and bytes of words. SQLite has one
// writer, which the log must not miss for long.
const (
	batchRecords, batchBytes         = perLane, 128 << 10
	liteBatchRecords, liteBatchBytes = 16, 16 << 10
)

// stepTimeout bounds one step.
const stepTimeout = time.Minute

func (s *Service) follower() *job.Follower {
	return &job.Follower{Step: s.stepOrPurge, Changed: s.log.Changed, Gather: gatherFor, Every: lookEvery, Timeout: stepTimeout, Lease: s.lease,
		Failed: func(ctx context.Context, err error) {
			s.o.Logger.Warn("the search index does not follow the log", "error", err)
			job.Pause(ctx, lookEvery)
		}}
}

// stepOrPurge takes what was erased out of the index's files when there is
// nothing to index.
func (s *Service) stepOrPurge(ctx context.Context) (int, error) {
	n, err := s.step(ctx)
	if n > 0 || err != nil {
		return n, err
	}
	more, err := s.store.purge(ctx)
	if err != nil {
		s.o.Logger.Warn("what was erased cannot be taken out of the search index's files yet", "error", err)
	} else if more {
		job.Pause(ctx, gatherFor)
		return 1, nil
	}
	return 0, nil
}

// step indexes some events and returns how many.
func (s *Service) step(ctx context.Context) (int, error) {
	if ours, err := s.lease.Acquire(ctx); err != nil || !ours {
		return 0, err
	}
	erasures, err := s.log.Erasures(ctx) // before anything is read of payloads
	if err != nil {
		return 0, err
	}
	at, err := s.store.positions(ctx)
	if err != nil {
		return 0, err
	}
	lanes := map[int64][]audit.Record{}
	n, err := s.log.Next(ctx, at, perLane, true, func(r audit.Record) error {
		lanes[r.Lane] = append(lanes[r.Lane], r)
		return nil
	})
	if err != nil {
		return n, err
	}
	for lane, recs := range lanes {
		if err := s.indexLane(ctx, erasures, at[lane], recs); err != nil {
			return n, err
		}
	}
	return n, nil
}

// indexLane writes records of one lane in transactions of a bounded size.
func (s *Service) indexLane(ctx context.Context, erasures, from int64, recs []audit.Record) error {
	maxRecords, maxBytes := batchRecords, batchBytes
	if s.lite {
		maxRecords, maxBytes = liteBatchRecords, liteBatchBytes
	}
	for len(recs) > 0 {
		var words []texts
		for bytes := 0; len(words) < min(len(recs), maxRecords) && bytes < maxBytes; {
			r := &recs[len(words)]
			t := texts{eventText(r), s.store.blind.text(payloadText(r))}
			words = append(words, t)
			bytes += len(t.event) + len(t.blind)
		}
		batch := recs[:len(words)]
		recs = recs[len(words):]
		began := time.Now()
		moved, err := s.index(ctx, erasures, from, batch, words)
		if err != nil || !moved {
			return err
		}
		from = batch[len(batch)-1].SN
		if s.lite {
			job.Pause(ctx, 2*time.Since(began))
		}
	}
	return nil
}

var errMoved = errors.New("the index was moved by another")

func (s *Service) index(ctx context.Context, erasures, from int64, batch []audit.Record, words []texts) (bool, error) {
	last := batch[len(batch)-1]
	epoch := 0
	err := s.db.Tx(ctx, func(tx *storage.Tx) error {
		epoch = s.store.known.begin()
		if err := s.lease.Check(ctx, tx); err != nil {
			return err
		}
		// What was erased since it was read must not be written down.
		if still, err := s.log.Unerased(ctx, tx, erasures); err != nil || !still {
			return errors.Join(err, errMoved)
		}
		moved, err := s.store.advance(ctx, tx, last.Lane, from, last.SN)
		if err != nil {
			return err
		}
		if !moved {
			return errMoved
		}
		return s.store.insert(ctx, tx, batch, words)
	})
	if errors.Is(err, errMoved) || errors.Is(err, job.ErrFenced) {
		return false, nil
	}
	if err == nil {
		s.store.known.commit(epoch)
	}
	return err == nil, err
}
