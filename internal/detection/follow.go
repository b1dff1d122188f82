package detection

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/storage"
)

// The follower's rhythm.
const (
	leaseTTL  = 5 * time.Second
	lookEvery = 200 * time.Millisecond // other replicas' events are found this way
	gatherFor = 15 * time.Millisecond  // after an event, wait for its neighbours
	perLane   = 512                    // records read at a time
	saveEvery = time.Second            // counted since is counted again after a crash
	saveMost  = 4000                   // records
	tendEvery = time.Second
)

var errMoved = fault.New(fault.Conflict, "detection_moved", "another replica evaluates")

// follower is the one who evaluates. Its methods are called by one goroutine.
type follower struct {
	s             *Service
	engine        *Engine
	epoch         int64
	saved         audit.Cursor // as the database has it
	at            audit.Cursor // as far as was evaluated
	since         int64        // what is older is not acted upon
	usage         map[usageKey]usageSum
	fresh         int // records since the last save
	last          time.Time
	tended, swept time.Time
	waits         bool // for replicas to say that they have cut
	flood         map[string]*burst
}

// step evaluates some records and returns how many.
func (f *follower) step(ctx context.Context) (int, error) {
	if ours, err := f.hold(ctx); err != nil || !ours {
		return 0, err
	}
	if f.engine == nil || f.s.changed.Swap(false) {
		if err := f.load(ctx); err != nil {
			return 0, f.void(err)
		}
	}
	recs, err := f.read(ctx)
	if err != nil {
		return 0, err
	}
	found := f.evaluate(recs)
	switch {
	case len(found) > 0:
		err = f.commit(ctx, found)
	case f.fresh >= saveMost, f.fresh > 0 && time.Since(f.last) >= saveEvery:
		err = f.save(ctx)
	}
	if err != nil {
		return 0, f.void(err)
	}
	return len(recs), f.s.tend(ctx, f)
}

// void drops what was computed, because it is not what is stored; that is read
// again. That another replica has taken over is no error.
func (f *follower) void(err error) error {
	f.engine = nil
	if errors.Is(err, errMoved) || errors.Is(err, job.ErrFenced) {
		return nil
	}
	return err
}

// hold takes or extends the lease.
func (f *follower) hold(ctx context.Context) (bool, error) {
	l := f.s.lease
	ours, err := l.Acquire(ctx)
	if err != nil || !ours {
		f.engine = nil
		return false, err
	}
	if epoch := l.Epoch(); epoch != f.epoch {
		f.epoch, f.engine = epoch, nil
	}
	return true, nil
}

// load reads what was saved into an engine with the present rules. What was
// evaluated and not saved is evaluated again.
func (f *follower) load(ctx context.Context) error {
	if f.engine != nil && f.fresh > 0 {
		if err := f.save(ctx); err != nil {
			return err
		}
	}
	s := f.s
	if err := s.begin(ctx); err != nil {
		return err
	}
	e := newEngine(*s.rules.Load(), s.o.Seed, s.o.Labels)
	rows, err := readStates(ctx, s.db, "")
	if err != nil {
		return err
	}
	for _, r := range rows {
		kind := slices.Index(keyNames[:], r.kind)
		if kind < 0 {
			continue
		}
		if err := e.decode(keyKind(kind), r.value, r.body); err != nil {
			s.o.Logger.Error("what detection counted cannot be read; it counts anew", "kind", r.kind, "error", err)
		}
	}
	if f.saved, err = readPositions(ctx, s.db); err != nil {
		return err
	}
	if f.since, err = readSince(ctx, s.db); err != nil {
		return err
	}
	f.engine, f.at, f.usage, f.fresh, f.last, f.flood = e, maps.Clone(f.saved), map[usageKey]usageSum{}, 0, time.Now(), map[string]*burst{}
	return f.forgive(ctx)
}

// begin notes, once, from when on what is found is acted upon.
func (s *Service) begin(ctx context.Context) error {
	at, err := readSince(ctx, s.db)
	if err != nil || at != 0 {
		return err
	}
	return s.db.Tx(ctx, func(tx *storage.Tx) error {
		if err := s.lease.Check(ctx, tx); err != nil {
			return err
		}
		return putSince(ctx, tx, storage.Micros(s.o.Now().Add(-time.Minute)), false)
	})
}

// read returns the next records of all lanes in the order of their times. Of a
// lane that has more than was read, the times end earlier than those of the
// others: what is later than it goes is read again the next time, so that no lane
// runs ahead of another by more than their clocks do.
func (f *follower) read(ctx context.Context) ([]audit.Record, error) {
	byLane := map[int64][]audit.Record{}
	if _, err := f.s.log.Next(ctx, f.at, perLane, false, func(r audit.Record) error {
		byLane[r.Lane] = append(byLane[r.Lane], r)
		return nil
	}); err != nil {
		return nil, err
	}
	return merge(byLane, perLane), nil
}

// merge puts the records of lanes in order. Of a lane with full records there
// may be more.
func merge(byLane map[int64][]audit.Record, full int) []audit.Record {
	var until time.Time
	for _, recs := range byLane {
		if len(recs) < full {
			continue
		}
		// The latest, not the last: a clock may have gone back, and one lane at least must be read whole.
		if last := slices.MaxFunc(recs, func(a, b audit.Record) int { return a.Event.Time.Compare(b.Event.Time) }).Event.Time; until.IsZero() || last.Before(until) {
			until = last
		}
	}
	var out []audit.Record
	for _, lane := range slices.Sorted(maps.Keys(byLane)) {
		for _, r := range byLane[lane] {
			if !until.IsZero() && r.Event.Time.After(until) {
				break
			}
			out = append(out, r)
		}
	}
	slices.SortStableFunc(out, func(a, b audit.Record) int { return a.Event.Time.Compare(b.Event.Time) })
	return out
}

// evaluate counts records in memory and returns what rules found.
func (f *follower) evaluate(recs []audit.Record) []Signal {
	var found []Signal
	f.engine.bound = f.s.o.Now().UnixMicro()
	for i := range recs {
		r := &recs[i]
		f.at[r.Lane] = max(f.at[r.Lane], r.SN)
		f.fresh++
		f.used(&r.Event)
		for _, sig := range f.engine.Observe(&r.Event) {
			if sig.At >= f.since {
				found = append(found, sig)
			}
		}
	}
	return found
}

// save stores what was counted, and how far.
func (f *follower) save(ctx context.Context) error {
	states, err := f.states()
	if err != nil {
		return err
	}
	if err := f.s.db.Tx(ctx, func(tx *storage.Tx) error { return f.store(ctx, tx, states) }); err != nil {
		return err
	}
	f.stored()
	return nil
}

// states encodes what changed.
func (f *follower) states() ([]stateRow, error) {
	out := make([]stateRow, 0, len(f.engine.touched))
	for _, k := range f.engine.touched {
		if f.engine.keys[k.kind][k.value] != k { // it made place for another
			continue
		}
		body, err := f.engine.encode(k)
		if err != nil {
			return nil, err
		}
		out = append(out, stateRow{keyNames[k.kind], k.value, k.seen, body})
	}
	return out, nil
}

// store writes what was counted and moves the position, in a transaction whose
// holder still has the lease.
func (f *follower) store(ctx context.Context, tx *storage.Tx, states []stateRow) error {
	if err := f.s.lease.Check(ctx, tx); err != nil {
		return err
	}
	for _, lane := range slices.Sorted(maps.Keys(f.at)) {
		if f.at[lane] == f.saved[lane] {
			continue
		}
		moved, err := movePosition(ctx, tx, lane, f.saved[lane], f.at[lane])
		if err != nil {
			return err
		}
		if !moved {
			return errMoved
		}
	}
	for _, k := range f.engine.gone {
		if err := dropState(ctx, tx, keyNames[k.kind], k.value); err != nil {
			return err
		}
	}
	for _, r := range states {
		if err := putState(ctx, tx, r); err != nil {
			return err
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(f.usage), usageKey.compare) {
		if err := addUsage(ctx, tx, k, f.usage[k]); err != nil {
			return err
		}
	}
	return nil
}

// stored notes that what changed is saved.
func (f *follower) stored() {
	for _, k := range f.engine.touched {
		k.dirty = false
	}
	f.engine.touched, f.engine.gone = f.engine.touched[:0], nil
	clear(f.usage)
	f.saved, f.fresh, f.last = maps.Clone(f.at), 0, time.Now()
}

// forgive forgets what rules counted of what a person lifted: the same counts
// must not do it again at once.
func (f *follower) forgive(ctx context.Context) error {
	lifted, err := readDetections(ctx, f.s.db, ` WHERE state = 'lifted' AND forgiven = 0 ORDER BY id LIMIT 500`)
	if err != nil || len(lifted) == 0 {
		return err
	}
	for _, d := range lifted {
		f.engine.forgive(d.Rule, d.key, d.value)
	}
	states, err := f.states()
	if err != nil {
		return err
	}
	if err := f.s.db.Tx(ctx, func(tx *storage.Tx) error {
		for _, d := range lifted {
			if _, err := tx.Exec(ctx, `UPDATE detections SET forgiven = 1 WHERE id = $1`, d.ID); err != nil {
				return err
			}
		}
		return f.store(ctx, tx, states)
	}); err != nil {
		return err
	}
	f.stored()
	return nil
}

// Step evaluates what is new in the log, if this process has the lease, and
// returns how many records that were. It runs by itself once started.
func (s *Service) Step(ctx context.Context) (int, error) { return s.follow.step(ctx) }

// Start begins to follow the log.
func (s *Service) Start(ctx context.Context) error { return s.runs.Start(ctx) }

// Stop saves what was counted and ends following.
func (s *Service) Stop(ctx context.Context) error { return s.runs.Stop(ctx) }

func (s *Service) follower() *job.Follower {
	return &job.Follower{Step: s.Step, Changed: s.log.Changed, Gather: gatherFor, Every: lookEvery, Lease: s.lease, Ended: s.follow.end,
		Failed: func(ctx context.Context, err error) {
			s.o.Logger.Warn("detection cannot evaluate; it goes on from where it was", "error", err)
			job.Pause(ctx, time.Second)
		}}
}

// end saves what was counted.
func (f *follower) end(ctx context.Context) error {
	if f.engine == nil || f.fresh == 0 {
		return nil
	}
	err := f.save(ctx)
	f.engine = nil
	if errors.Is(err, errMoved) || errors.Is(err, job.ErrFenced) {
		return nil
	}
	return err
}
