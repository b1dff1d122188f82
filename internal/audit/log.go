package audit

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/storage"
)

// Errors of this package. A store that cannot be written is
// storage.ErrUnavailable.
var (
	ErrEvent      = fault.New(fault.Invalid, "bad_event", "the event cannot be recorded as it is")
	ErrDuplicate  = fault.New(fault.Conflict, "duplicate_event", "an event with this identifier is in the log already")
	ErrClosed     = fault.New(fault.Unavailable, "log_closed", "the log is closing; nothing was recorded, try again")
	ErrNotFound   = fault.New(fault.NotFound, "no_such_event", "no such event in the log")
	ErrUnrecorded = fault.New(fault.Internal, "unrecorded_change", "a change was refused because it recorded no event")
	ErrNoRedactor = fault.New(fault.Invalid, "no_redactor", "the log does not open without a redactor: secrets would be written")
	ErrNoKeeper   = fault.New(fault.Invalid, "no_keeper", "the log does not open without a keeper: payloads would be written in plain")
	ErrKeeper     = fault.New(fault.Invalid, "wrong_log_key", "the key does not open the log's payloads: use the key that this database was made with (key in the configuration, or the file key in the data directory)")
	ErrErasure    = fault.New(fault.Invalid, "bad_erasure", "say what to erase: a subject, an agent or a run, one of them")
	ErrNothing    = fault.New(fault.NotFound, "nothing_to_erase", "the log keeps no payloads of this")
	ErrReason     = fault.New(fault.Invalid, "reason_required", "say why: give a reason of at most 1000 characters (--reason)")
	ErrHold       = fault.New(fault.Invalid, "bad_hold", "a legal hold names an agent, a run or a time, or several of them")
	ErrNoHold     = fault.New(fault.NotFound, "no_such_hold", "no such legal hold stands; list them with released ones included")
	ErrHeld       = fault.New(fault.Conflict, "on_hold", "a legal hold keeps some of this; nothing was erased")
	ErrRetention  = fault.New(fault.Invalid, "bad_retention", "payloads are kept for 1 to 36500 days")
	ErrInUse      = fault.New(fault.Conflict, "store_in_use", "another process uses this database file; stop it, or use PostgreSQL to run several")
	ErrNotDurable = fault.New(fault.Invalid, "store_not_durable", "PostgreSQL runs with synchronous_commit=off and would lose acknowledged events; set it to on for this database or user")
	ErrBroken     = fault.New(fault.Internal, "log_broken", "the log's head does not match its records; run countersign log verify")
)

// Redactor replaces secrets. It may return b itself when there are none, must
// not change b, and keeps valid JSON valid. One that also has RedactPersonal, with
// the same promise, replaces with it personal data; payloads of level Full do
// not pass through that.
type Redactor interface {
	Redact(b []byte) []byte
}

// Options of a Log.
type Options struct {
	Redactor Redactor         // required
	Keeper   Keeper           // required: seals the key that seals the payloads' keys
	Now      func() time.Time // nil means time.Now
	Logger   *slog.Logger     // nil discards
	Lanes    int              // committers of this process; 0 means 1 on SQLite, 4 on PostgreSQL
	// Alert is told, in the change that causes it, what someone must see; nil: nobody.
	Alert func(ctx context.Context, tx *Tx, a Alert) error
	// Check says what is wrong with an event that a room signed itself, "" if
	// nothing is, when the log is verified; nil: nothing is.
	Check  func(Event) string
	Holder string // names this process in the lanes table, for people
}

// Bounds of what waits to be committed.
const (
	maxBatch   = 1024     // events in one transaction
	maxBytes   = 8 << 20  // bytes in one transaction, give or take one event
	queueLen   = 4096     // events in each queue of a lane
	outcomeMem = 64 << 20 // bytes of outcomes that wait for the disk
)

// commitTimeout bounds one attempt to commit, so that a store which neither
// answers nor fails is noticed.
const commitTimeout = 5 * time.Second

// Log is the ledger. It is safe for concurrent use.
type Log struct {
	db     *storage.DB
	o      Options
	holder string
	file   *fileLock
	lite   *liteWriter
	keys   *keyring
	slots  []*slot
	// failing says that the last attempt to write failed, in whichever lane:
	// those that were not tried since are not known to work.
	failing atomic.Bool

	heldMu sync.Mutex
	held   map[int64]int64 // lane -> epoch of the holds of this process

	claiming   sync.Mutex         // one claim at a time
	gate       sync.RWMutex       // held while something is put into a queue
	closing    context.Context    // done when Close begins: nothing more is accepted
	close      context.CancelFunc // ends closing
	stopping   chan struct{}      // closed when the queues hold all they ever will
	abort      context.Context    // done when Close gives up waiting for the store
	giveUp     context.CancelFunc
	closeOnce  sync.Once
	closeErr   error
	background sync.WaitGroup

	forgetMu sync.Mutex
	onForget []func(context.Context, *storage.Tx, []Place) error

	room    *semaphore.Weighted // bytes of queued outcomes
	dropped atomic.Int64        // events that Later let go
	wake    broadcast
}

// Open returns the log in db. It claims its lanes, which may wait for a
// database that is busy, and records the outcome `unknown` for every call that
// was in flight when a holder of these lanes ended. On SQLite it refuses, with
// ErrInUse, a file that another process has open as a log.
func Open(ctx context.Context, db *storage.DB, o Options) (*Log, error) {
	if o.Redactor == nil {
		return nil, ErrNoRedactor
	}
	if o.Keeper == nil {
		return nil, ErrNoKeeper
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Lanes <= 0 {
		o.Lanes = 1
		if db.Dialect() == storage.Postgres {
			o.Lanes = 4
		}
	}
	l := &Log{db: db, o: o, holder: job.Holder(o.Holder), held: map[int64]int64{}, stopping: make(chan struct{}), room: semaphore.NewWeighted(outcomeMem)}
	l.closing, l.close = context.WithCancel(context.WithoutCancel(ctx))
	l.abort, l.giveUp = context.WithCancel(context.WithoutCancel(ctx))
	if err := l.start(ctx); err != nil {
		l.close()
		l.giveUp()
		for _, s := range l.slots {
			_ = l.release(ctx, s.claim) // it expires if this fails
		}
		l.lite.Close()
		return nil, errors.Join(err, l.file.Unlock())
	}
	return l, nil
}

func (l *Log) start(ctx context.Context) error {
	if err := l.prepareEngine(ctx); err != nil {
		return err
	}
	if err := l.ensureChangeLane(ctx); err != nil {
		return err
	}
	var err error
	if l.keys, err = openKeyring(ctx, l.db, l.o.Keeper, l.o.Now); err != nil {
		return err
	}
	if err := l.ensureRetention(ctx); err != nil {
		return err
	}
	for range l.o.Lanes {
		c, err := l.claimLane(ctx)
		if err != nil {
			return err
		}
		l.slots = append(l.slots, newSlot(l, c))
	}
	if err := l.sweep(ctx); err != nil {
		return err
	}
	for _, s := range l.slots {
		l.background.Add(1)
		go s.run()
	}
	l.background.Add(2)
	go l.keep()
	go l.retain()
	return nil
}

func (l *Log) prepareEngine(ctx context.Context) error {
	if l.db.Dialect() == storage.Postgres {
		var mode string
		if err := l.db.QueryRow(ctx, `SELECT current_setting('synchronous_commit')`).Scan(&mode); err != nil {
			return storage.ErrUnavailable.With(err)
		}
		if mode == "off" {
			return ErrNotDurable
		}
		return nil
	}
	var path string
	if err := l.db.QueryRow(ctx, `SELECT file FROM pragma_database_list WHERE name = 'main'`).Scan(&path); err != nil {
		return storage.ErrUnavailable.With(err)
	}
	var err error
	if l.file, err = lockFile(path + ".lock"); err != nil {
		return err
	}
	l.lite = newLiteWriter(l.db.Writer())
	return nil
}

func (l *Log) ensureChangeLane(ctx context.Context) error {
	err := l.db.Tx(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO lanes (lane, holder, epoch, until, sn, chain, clean_sn) VALUES ($1, '', 0, 0, 0, $2, 0)
			ON CONFLICT (lane) DO NOTHING`, changeLane, make([]byte, len(Hash{})))
		return err
	})
	if err != nil {
		return unavailable(err)
	}
	return nil
}

// Close refuses new events, writes those that wait, releases the lanes and
// stops. If ctx ends first it returns an error, and outcomes that could not be
// written become `unknown` at the next start. It may be called more than once.
func (l *Log) Close(ctx context.Context) error {
	l.closeOnce.Do(func() { l.closeErr = l.shut(ctx) })
	return l.closeErr
}

func (l *Log) shut(ctx context.Context) error {
	l.close()
	l.gate.Lock() // nobody is putting anything into a queue any more
	close(l.stopping)
	l.gate.Unlock()
	done := make(chan struct{})
	go func() { l.background.Wait(); close(done) }()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = ErrClosed.Say("the log closed before everything was written; outcomes not written become unknown").With(ctx.Err())
	}
	l.giveUp()
	<-done
	for _, s := range l.slots {
		if s.claim != nil && err == nil {
			err = l.release(ctx, s.claim)
		}
	}
	l.wake.all()
	l.lite.Close()
	return errors.Join(err, l.file.Unlock())
}

// Ref says where an event stands.
type Ref struct {
	ID       string
	Lane, SN int64
}

// Intent records that ev.Call is about to be forwarded and returns once that
// is durable. On an error there is no receipt and nothing may be forwarded;
// should the intent become durable afterwards, the log itself records its
// outcome as cancelled. ev.Call is required, ev.Type is set. The payloads must
// not be changed afterwards.
func (l *Log) Intent(ctx context.Context, ev Event, p ...Payload) (Receipt, error) {
	ev.Type = CallIntent
	if ev.Call == "" {
		return Receipt{}, ErrEvent.Say("an intent needs a call")
	}
	call := ev.Call
	res, it, err := l.append(ctx, intent, ev, p)
	if err != nil {
		return Receipt{}, err
	}
	return Receipt{call: call, event: it.entry.ev.ID, intent: it.entry, claim: res.claim, sn: res.sn, valid: true}, nil
}

// Append records ev and returns once it is durable. Intents and outcomes have
// their own methods. The payloads must not be changed afterwards.
func (l *Log) Append(ctx context.Context, ev Event, p ...Payload) (Ref, error) {
	if err := plainType(ev.Type); err != nil {
		return Ref{}, err
	}
	res, it, err := l.append(ctx, plain, ev, p)
	if err != nil {
		return Ref{}, err
	}
	return Ref{ID: it.entry.ev.ID, Lane: res.claim.lane, SN: res.sn}, nil
}

func plainType(t Type) error {
	if t == CallIntent || t == CallOutcome || t == CallSettled {
		return ErrEvent.Say("%s events are made by Intent and Outcome", t)
	}
	return nil
}

func (l *Log) append(ctx context.Context, k kind, ev Event, p []Payload) (result, *item, error) {
	e, err := l.prepare(ev, p)
	if err != nil {
		return result{}, nil, err
	}
	if err := l.lockNow(ctx, e); err != nil {
		return result{}, nil, err
	}
	it := &item{entry: e, kind: k, done: make(chan result, 1)}
	if err := l.put(ctx, it); err != nil {
		return result{}, nil, err
	}
	var res result
	select {
	case res = <-it.done:
	case <-ctx.Done():
		if it.state.CompareAndSwap(waiting, abandoned) {
			return result{}, nil, storage.ErrUnavailable.With(context.Cause(ctx))
		}
		res = <-it.done // the committer was faster
	}
	return res, it, res.err
}

// put hands it to a committer that works.
func (l *Log) put(ctx context.Context, it *item) error {
	l.gate.RLock()
	defer l.gate.RUnlock()
	if l.closing.Err() != nil {
		return ErrClosed
	}
	s := l.pick()
	if s == nil {
		return storage.ErrUnavailable
	}
	select {
	case s.in <- it:
		return nil
	case <-ctx.Done():
		return storage.ErrUnavailable.With(context.Cause(ctx))
	case <-l.closing.Done():
		return ErrClosed
	}
}

// Writable reports whether events can be recorded now, as far as the last
// attempts have shown.
func (l *Log) Writable() bool { return l.closing.Err() == nil && !l.failing.Load() && l.works() }

// works reports whether a committer works.
func (l *Log) works() bool {
	return slices.ContainsFunc(l.slots, func(s *slot) bool { return !s.down.Load() })
}

// pick returns the committer that the next event goes to, nil if none works: the
// first that is neither down nor crowded, so that few lanes get large batches
// instead of many lanes small ones; the least crowded if all are.
func (l *Log) pick() *slot {
	var least *slot
	for _, s := range l.slots {
		switch {
		case s.down.Load():
		case !s.crowded():
			return s
		case least == nil || len(s.in) < len(least.in):
			least = s
		}
	}
	return least
}

// Outcome records how the call of r ended, in the lane of its intent. It does
// not wait for the disk, unless 64 MiB of outcomes wait already; it is retried
// until it is written, and what the log could not write before it closed
// becomes `unknown`. Only the first outcome of a receipt counts. The event's
// identifier is made by the log; fields left empty are taken from the intent.
// The payloads must not be changed afterwards.
func (l *Log) Outcome(r Receipt, ev Event, p ...Payload) {
	if !r.valid {
		l.o.Logger.Error("an outcome without a receipt was refused", "call", ev.Call)
		return
	}
	ok, lost := r.claim.take(r.sn)
	if !ok {
		l.o.Logger.Error("a second outcome of a call was refused", "call", r.call)
		return
	}
	if lost {
		l.putOutcome(l.lateOutcome(r, ev, p))
		return
	}
	e := l.outcomeEntry(CallOutcome, r, ev, p)
	l.putOutcome(&item{entry: e, kind: outcome, of: r.claim, ofSN: r.sn})
}

// lateOutcome is what is left to say about a call whose lane went to another
// process: that one has recorded `unknown`, so this is no second outcome.
func (l *Log) lateOutcome(r Receipt, ev Event, p []Payload) *item {
	return &item{entry: l.outcomeEntry(CallSettled, r, ev, p), kind: outcome}
}

func (l *Log) outcomeEntry(t Type, r Receipt, ev Event, p []Payload) *entry {
	ev = inherit(ev, r.intent.ev)
	ev.Call, ev.Type, ev.ID = r.call, t, ""
	if ev.Outcome == nil {
		ev.Outcome = &Outcome{Status: Unknown}
	}
	e, err := l.prepare(ev, p)
	if err == nil {
		return e
	}
	l.o.Logger.Error("an outcome could not be recorded whole", "call", r.call, "error", err)
	bare := inherit(Event{Type: t, Actor: System, Outcome: &Outcome{Status: ev.Outcome.Status, Code: ev.Outcome.Code, Error: "the rest of this outcome could not be recorded"}}, r.intent.ev)
	if e, err = l.prepareAlone(bare); err != nil {
		panic("audit: an outcome made of the intent's own fields cannot be serialised: " + err.Error())
	}
	return e
}

func (l *Log) putOutcome(it *item) {
	it.weight = min(it.entry.size()+512, outcomeMem)
	if err := l.room.Acquire(l.closing, it.weight); err != nil {
		l.o.Logger.Warn("an outcome came after the log closed; it becomes unknown", "call", it.entry.ev.Call)
		return
	}
	l.gate.RLock()
	if l.lockReady(it.entry) {
		defer l.gate.RUnlock()
		l.queueOutcome(it)
		return
	}
	go func() { // a key must be made first, and nobody waits for the disk
		defer l.gate.RUnlock()
		l.lockOutcome(it)
		l.queueOutcome(it)
	}()
}

func (l *Log) queueOutcome(it *item) {
	s := l.slotOf(it)
	select {
	case s.out <- it:
		return
	default:
	}
	select {
	case s.out <- it:
	case <-l.closing.Done():
		l.room.Release(it.weight)
		l.o.Logger.Warn("an outcome came after the log closed; it becomes unknown", "call", it.entry.ev.Call)
	}
}

// slotOf returns the committer that holds the lane of it's intent, or any.
func (l *Log) slotOf(it *item) *slot {
	if it.of != nil && it.of.slot != nil {
		return it.of.slot
	}
	if s := l.pick(); s != nil {
		return s
	}
	return l.slots[0]
}

// Later records ev some time soon, without a promise: for what happens too
// often to wait for, such as refused credentials. Under pressure it is
// dropped, and the number dropped is reported.
func (l *Log) Later(ev Event) {
	if plainType(ev.Type) != nil {
		return
	}
	s := l.pick()
	if s == nil || len(s.in) > queueLen/2 {
		l.dropped.Add(1)
		return
	}
	e, err := l.prepareAlone(ev)
	if err != nil {
		l.o.Logger.Warn("an event was not recorded", "type", string(ev.Type), "error", err)
		return
	}
	l.gate.RLock()
	defer l.gate.RUnlock()
	if l.closing.Err() != nil {
		return
	}
	select {
	case s.in <- &item{entry: e, kind: plain}:
	default:
		l.dropped.Add(1)
	}
}
