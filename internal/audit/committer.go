package audit

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/countersign/countersign/internal/storage"
)

type kind int

const (
	plain kind = iota
	intent
	outcome
)

// The states of an item somebody waits for.
const (
	waiting   int32 = iota
	abandoned       // the caller left
	answered        // the caller has been told
)

type result struct {
	claim *claim
	sn    int64
	err   error
}

// item is one event on its way to the disk.
type item struct {
	entry *entry
	kind  kind
	state atomic.Int32
	done  chan result // nil when nobody waits

	// Of an outcome.
	of     *claim // the claim of its intent, nil if it ends none
	ofSN   int64
	weight int64 // bytes to give back to Log.room

	// Set by write.
	sn    int64
	chain Hash
}

// answer tells the caller, if one still waits, and reports whether it did.
func (it *item) answer(r result) bool {
	if it.done == nil || !it.state.CompareAndSwap(waiting, answered) {
		return false
	}
	it.done <- r
	return true
}

// slot is a committer: two queues and, most of the time, a lane.
type slot struct {
	log   *Log
	in    chan *item // somebody waits, or nobody minds
	out   chan *item // outcomes: kept until they are written
	down  atomic.Bool
	busy  atomic.Int64 // since when (after began) it has been at a batch, 0 if it is not
	claim *claim       // nil after the lane was lost and before another is claimed
	keep  []*item      // outcomes to write first
	doubt *doubt       // a batch that may or may not be durable
	ghost *doubt       // the last batch found not to be durable: a commit that was cut off may still arrive
}

// doubt is a batch whose commit failed without saying whether it happened.
type doubt struct {
	items     []*item
	first, sn int64 // of its first and last item
	chain     Hash  // of its last item
}

func newDoubt(items []*item) *doubt {
	last := items[len(items)-1]
	return &doubt{items: items, first: items[0].sn, sn: last.sn, chain: last.chain}
}

// restore gives the items the positions they had: a retry may have changed them.
func (d *doubt) restore() []*item {
	for i, it := range d.items {
		it.sn = d.first + int64(i)
	}
	d.items[len(d.items)-1].chain = d.chain
	return d.items
}

func newSlot(l *Log, c *claim) *slot {
	s := &slot{log: l, in: make(chan *item, queueLen), out: make(chan *item, queueLen)}
	s.own(c)
	return s
}

func (s *slot) own(c *claim) {
	c.slot = s
	s.claim = c
}

// run commits what is queued until the log closes: everything there is, at
// once, without waiting for more. Only an outcome alone lingers a moment.
func (s *slot) run() {
	defer s.log.background.Done()
	for {
		batch, ok := s.gather()
		if !ok {
			return
		}
		s.busy.Store(max(1, int64(time.Since(began))))
		err := s.commit(batch)
		s.busy.Store(0)
		s.mark(err == nil)
		if err == nil {
			continue
		}
		s.log.o.Logger.Error("the log cannot be written; calls are refused until it can", "error", err)
		s.refuse(batch, err)
		if !s.repair() {
			return
		}
		s.mark(true)
		s.log.o.Logger.Info("the log can be written again")
	}
}

// mark notes how the last attempt to write went: for the lane, and for the log.
func (s *slot) mark(works bool) {
	s.down.Store(!works)
	s.log.failing.Store(!works)
}

// gather waits for something to write and takes what there is. It reports
// false when there is nothing left and the log closes.
func (s *slot) gather() ([]*item, bool) {
	n := min(len(s.keep), maxBatch)
	batch := s.keep[:n:n]
	s.keep = s.keep[n:]
	var bytes int64
	add := func(it *item) {
		if it.state.Load() != abandoned {
			batch = append(batch, it)
			bytes += it.entry.size()
		}
	}
	if len(batch) == 0 {
		it, ok := s.first()
		if !ok {
			return nil, false
		}
		add(it)
		if it.kind == outcome {
			s.linger(add)
		}
	}
	for len(batch) < maxBatch && bytes < maxBytes {
		select {
		case it := <-s.in:
			add(it)
		case it := <-s.out:
			add(it)
		default:
			return batch, true
		}
	}
	return batch, true
}

// first waits for something to write. It reports false when there is nothing
// left and the log closes.
func (s *slot) first() (*item, bool) {
	select {
	case it := <-s.in:
		return it, true
	case it := <-s.out:
		return it, true
	case <-s.log.stopping:
	}
	select {
	case it := <-s.in:
		return it, true
	case it := <-s.out:
		return it, true
	default:
		return nil, false
	}
}

// outcomeLinger is how long an outcome, for which nobody waits, may wait for an
// event that shares its commit. Without it the commit of each outcome stands in
// the way of the intent that follows.
const outcomeLinger = 5 * time.Millisecond

// linger waits for an event somebody waits for, for at most outcomeLinger. The
// outcomes that come meanwhile stay in their queue.
func (s *slot) linger(add func(*item)) {
	timer := time.NewTimer(outcomeLinger)
	defer timer.Stop()
	select {
	case it := <-s.in:
		add(it)
	case <-timer.C:
	case <-s.log.stopping:
	}
}

// commit makes batch durable and tells everybody who waits. It tries again
// once after a failure of the store and after each loss of the lane. On an
// error nothing of batch is known to be durable.
func (s *slot) commit(batch []*item) error {
	ctx, cancel := context.WithTimeout(s.log.abort, commitTimeout)
	defer cancel()
	var err error
	for attempt := 0; attempt < 4 && len(batch) > 0; attempt++ {
		if err = s.ready(ctx); err != nil {
			break
		}
		batch = s.rest(batch)
		if len(batch) == 0 {
			return nil
		}
		c := s.claim
		err = s.log.write(ctx, c, batch)
		switch {
		case err == nil:
			s.log.settle(c, batch)
			return nil
		case errors.Is(err, errFenced):
			s.fenced()
		case badData(err):
			return s.commitSingly(ctx, batch)
		default:
			s.doubt = newDoubt(batch)
		}
	}
	return err
}

// rest drops what resolving a doubt has settled already and gives outcomes a
// new form when the lane of their intents was lost.
func (s *slot) rest(batch []*item) []*item {
	out := batch[:0:0]
	for _, it := range batch {
		if it.state.Load() == abandoned || it.state.Load() == answered {
			continue
		}
		if it.kind == outcome && it.of != nil && it.of != s.claim {
			it.entry = s.log.settled(it.entry)
			it.of = nil
		}
		out = append(out, it)
	}
	return out
}

// settled turns an outcome into the late word on a call whose outcome another
// process has recorded as unknown.
func (l *Log) settled(e *entry) *entry {
	ev := e.ev
	ev.Type = CallSettled
	record, err := canonical(ev)
	if err != nil {
		panic("audit: a serialised event cannot be serialised again: " + err.Error())
	}
	return &entry{ev: ev, record: record, leaf: LeafHash(record), payloads: e.payloads}
}

// commitSingly writes the items of a batch one by one, because one of them is
// refused by the store and must not take the others with it.
func (s *slot) commitSingly(ctx context.Context, batch []*item) error {
	for i, it := range batch {
		err := s.log.write(ctx, s.claim, []*item{it})
		switch {
		case err == nil:
			s.log.settle(s.claim, []*item{it})
		case badData(err):
			if storage.Duplicate(err) {
				err = ErrDuplicate
			} else {
				err = ErrEvent.With(err)
			}
			if !it.answer(result{err: err}) {
				s.log.o.Logger.Error("an event was refused by the store", "event", it.entry.ev.ID, "type", string(it.entry.ev.Type), "error", err)
			}
			it.state.Store(answered)
			s.log.unload(it)
		default:
			if errors.Is(err, errFenced) {
				s.fenced()
			} else {
				s.doubt = newDoubt([]*item{it})
			}
			s.refuse(batch[i:], err)
			return nil
		}
	}
	return nil
}

// ready makes sure that the slot has a lane and knows its head.
func (s *slot) ready(ctx context.Context) error {
	if s.doubt != nil {
		if err := s.resolve(ctx); err != nil {
			return err
		}
	}
	if s.claim != nil {
		return nil
	}
	s.log.claiming.Lock()
	defer s.log.claiming.Unlock()
	c, err := s.log.claimLane(ctx)
	if err != nil {
		return err
	}
	s.own(c)
	return nil
}

// fenced makes ready look why a write met another head than expected.
func (s *slot) fenced() {
	s.doubt, s.ghost = s.ghost, nil
	if s.doubt == nil {
		s.doubt = &doubt{sn: -1}
	}
}

// resolve finds out whether the batch in doubt is durable.
func (s *slot) resolve(ctx context.Context) error {
	h, err := s.log.head(ctx, s.claim.lane)
	if err != nil {
		return err
	}
	d := s.doubt
	switch {
	case h.holder != s.log.holder || h.epoch != s.claim.epoch:
		if err := s.bury(ctx, h, d); err != nil {
			return err
		}
		s.lose()
	case h.sn == d.sn && h.chain == d.chain:
		s.log.settle(s.claim, d.restore())
		s.ghost = nil
	case h.sn == s.claim.sn && h.chain == s.claim.chain:
		if len(d.items) > 0 {
			s.ghost = d
		}
	default:
		return ErrBroken.Say("lane %d of the log ends at %d, which this process did not write; run countersign log verify", s.claim.lane, h.sn)
	}
	s.doubt = nil
	return nil
}

// bury settles a batch in a lane that another has taken since: that one
// records intents found there as unknown, so they give no receipt.
func (s *slot) bury(ctx context.Context, h head, d *doubt) error {
	if len(d.items) == 0 || h.sn < d.sn {
		return nil
	}
	durable, err := s.log.contains(ctx, s.claim.lane, d.sn, d.chain)
	if err != nil || !durable {
		return err
	}
	for _, it := range d.restore() {
		switch {
		case it.kind == intent:
			it.answer(result{err: storage.ErrUnavailable})
		case it.kind == outcome:
			it.state.Store(answered)
			s.log.unload(it)
		case !it.answer(result{claim: s.claim, sn: it.sn}):
			it.state.Store(answered)
		}
	}
	return nil
}

// lose gives up a lane that another has taken.
func (s *slot) lose() {
	s.log.o.Logger.Warn("a lane of the log was taken by another process", "lane", s.claim.lane)
	s.claim.lose()
	s.log.drop(s.claim)
	s.claim, s.ghost = nil, nil
}

// refuse tells everybody who waits that nothing was recorded, and keeps the
// outcomes.
func (s *slot) refuse(batch []*item, err error) {
	err = unavailable(err)
	for _, it := range batch {
		if it.kind == outcome {
			if it.state.Load() != answered {
				s.keep = append(s.keep, it)
			}
			continue
		}
		it.answer(result{err: err})
	}
}

// repair waits until the store works again, refusing everything meanwhile. It
// reports false when the log gave up.
func (s *slot) repair() bool {
	delay := 20 * time.Millisecond
	timer := time.NewTimer(delay)
	defer timer.Stop()
	for {
		select {
		case it := <-s.in:
			s.refuse([]*item{it}, storage.ErrUnavailable)
		case <-s.log.abort.Done():
			return false
		case <-timer.C:
			ctx, cancel := context.WithTimeout(s.log.abort, commitTimeout)
			err := s.probe(ctx)
			cancel()
			if err == nil {
				return true
			}
			delay = min(2*delay, 500*time.Millisecond)
			timer.Reset(delay)
		}
	}
}

// probe reports whether the lane can be written, by writing what it holds.
func (s *slot) probe(ctx context.Context) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	s.keep = s.rest(s.keep)
	err := s.log.touch(ctx, s.claim)
	if errors.Is(err, errFenced) {
		s.fenced()
	}
	return err
}

// settle does what follows from a durable batch.
func (l *Log) settle(c *claim, batch []*item) {
	last := batch[len(batch)-1]
	c.sn, c.chain = last.sn, last.chain
	for _, it := range batch {
		switch it.kind {
		case intent:
			c.began(it.sn)
		case outcome:
			if it.of != nil {
				it.of.ended(it.ofSN)
			}
			it.state.Store(answered)
			l.unload(it)
			continue
		}
		switch {
		case it.answer(result{claim: c, sn: it.sn}):
		case it.kind == intent:
			l.neverForwarded(c, it)
		default:
			it.state.Store(answered)
		}
	}
	l.wake.all()
}

// unload gives back the room of a queued outcome.
func (l *Log) unload(it *item) {
	if it.weight > 0 {
		l.room.Release(it.weight)
		it.weight = 0
	}
}

// neverForwarded ends an intent that became durable after its caller had gone:
// without a receipt nothing was forwarded.
func (l *Log) neverForwarded(c *claim, it *item) {
	if ok, lost := c.take(it.sn); !ok || lost {
		return
	}
	e, err := l.autoOutcome(it.entry.ev, Outcome{Status: Cancelled, Error: "not forwarded: the caller had gone before the intent was durable"})
	if err != nil {
		l.o.Logger.Error("an outcome could not be made", "call", it.entry.ev.Call, "error", err)
		return
	}
	c.slot.keep = append(c.slot.keep, &item{entry: e, kind: outcome, of: c, ofSN: it.sn})
}
