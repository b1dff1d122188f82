package budget

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/storage"
)

const (
	queue      = 4096             // calls that wait at the desk
	mostBatch  = 256              // calls in one transaction
	deskWithin = 10 * time.Second // for one transaction
)

// Exceeded says that a call would go over a hard limit. It is ErrExceeded.
type Exceeded struct {
	Budget string        // its name
	Retry  time.Duration // when trying again makes sense; 0: never
	cause  *fault.Error
}

// Error returns what happened and what to do, without what others used.
func (e *Exceeded) Error() string { return e.cause.Message }

// Unwrap returns the fault.
func (e *Exceeded) Unwrap() error { return e.cause }

// Reservation is what one call may use. It must be settled or released, once;
// the second time has no effect. A nil Reservation is that of a call without a budget.
type Reservation struct {
	s    *Service
	call string
	made time.Time
	done atomic.Bool
}

// ask is a call at the desk.
type ask struct {
	call  string
	items []item
	done  chan error
	left  atomic.Bool // nobody waits any more
}

// item is what a call may use of one budget.
type item struct {
	budget *Budget
	part   string
	amount int64
}

// Reserve reserves what the call may use of every budget that it is for, or of
// none. It is durable, and counts on every replica, when Reserve returns. The
// error is *Exceeded, or that budgets cannot be seen or written.
func (s *Service) Reserve(ctx context.Context, c *Call) (*Reservation, error) {
	if !s.watch.Fresh() { // before the view is taken, so that it is as new as Fresh says
		return nil, ErrUnavailable
	}
	a := &ask{call: c.ID}
	prices := s.Prices()
	for _, b := range s.view.Load().of(c) {
		if n := b.most(c, prices); n > 0 {
			a.items = append(a.items, item{b, b.part(c), n})
		}
	}
	if len(a.items) == 0 {
		return nil, nil //nolint:nilnil // a call without a budget: see Reservation
	}
	a.done = make(chan error, 1)
	r := &Reservation{s: s, call: c.ID, made: time.Now()}
	select {
	case s.desk <- a:
	case <-ctx.Done():
		return nil, ErrUnavailable.With(ctx.Err())
	case <-s.quit:
		return nil, ErrUnavailable
	}
	select {
	case err := <-a.done:
		if err != nil {
			return nil, err
		}
		return r, nil
	case <-ctx.Done():
		a.left.Store(true) // what is reserved all the same is found by the sweep
		return nil, ErrUnavailable.With(ctx.Err())
	}
}

// Any reports whether there is anything to reserve for anybody: if not, a call
// need not be described.
func (s *Service) Any() bool { return len(s.view.Load().all) > 0 || !s.watch.Fresh() }

// Late reports whether the call may not go out any more: what was reserved for
// it may have been taken for that of a process that died.
func (r *Reservation) Late() bool { return r != nil && time.Since(r.made) > r.s.o.Valid }

// reserving serves the desk: all who wait, in one transaction, without waiting
// for more.
func (s *Service) reserving() {
	defer s.work.Done()
	for {
		var batch []*ask
		select {
		case a := <-s.desk:
			batch = append(batch, a)
		case <-s.quit:
			return
		}
		for more := true; more && len(batch) < mostBatch; {
			select {
			case a := <-s.desk:
				batch = append(batch, a)
			default:
				more = false
			}
		}
		batch = slices.DeleteFunc(batch, func(a *ask) bool { return a.left.Load() })
		if len(batch) > 0 {
			s.serve(batch)
		}
	}
}

// serve reserves for a batch and answers everyone in it.
func (s *Service) serve(batch []*ask) {
	ctx, cancel := context.WithTimeout(context.Background(), deskWithin)
	defer cancel()
	if len(batch) == 1 && s.alone(ctx, batch[0]) {
		batch[0].done <- nil
		return
	}
	var said []error
	var over []notice
	err := s.db.Tx(ctx, func(tx *storage.Tx) (err error) {
		said, over, err = s.reserve(ctx, tx, batch)
		return err
	})
	if err != nil {
		s.o.Logger.Error("budgets cannot be written; calls that have one are refused", "error", err)
	}
	for i, a := range batch {
		switch {
		case err != nil:
			a.done <- ErrUnavailable.With(err)
		default:
			a.done <- said[i]
		}
	}
	if err == nil {
		s.tell(over)
	}
}

// tightFor is how long nobody tries alone after something did not fit: it is slower
// then, and an error in the database's own log.
const tightFor = time.Second

// alone reserves for one call in one round trip and reports whether it did. If
// not, nothing is reserved, or what the sweep finds: whether it fits, and what is
// wrong, is for reserve to say.
func (s *Service) alone(ctx context.Context, a *ask) bool {
	now := time.Now()
	if s.db.Dialect() != storage.Postgres || s.o.Now != nil || now.Sub(s.tight) < tightFor {
		return false
	}
	items := slices.Clone(a.items)
	slices.SortFunc(items, func(x, y item) int { return strings.Compare(x.budget.ID, y.budget.ID) }) // as reserve locks them
	if holdAtOnce(ctx, s.db, a.call, items, now) {
		return true
	}
	s.tight = now
	return false
}

// window is one row that a batch uses.
type window struct {
	budget *Budget
	ends   time.Time
	asked  int64 // by the whole batch
	spent  int64
	held   int64 // with what of the batch was granted so far
	before int64
}

// reserve decides about each call of a batch in turn, on rows that are locked
// until the commit: in one order, so that replicas cannot wait for each other.
func (s *Service) reserve(ctx context.Context, tx *storage.Tx, batch []*ask) (said []error, over []notice, err error) {
	if err := s.unsynced(ctx, tx); err != nil {
		return nil, nil, err
	}
	now, err := s.clock(ctx, tx)
	if err != nil {
		return nil, nil, err
	}
	windows := map[key]*window{}
	for _, a := range batch {
		for _, it := range a.items {
			start, ends := it.budget.window(now)
			k := key{it.budget.ID, it.part, storage.Micros(start)}
			if windows[k] == nil {
				windows[k] = &window{budget: it.budget, ends: ends}
			}
			windows[k].asked += it.amount
		}
	}
	order := slices.SortedFunc(maps.Keys(windows), key.compare)
	for _, k := range order {
		w := windows[k]
		if w.spent, w.before, err = hold(ctx, tx, k, storage.Micros(w.ends), w.asked); err != nil {
			return nil, nil, err
		}
		w.held = w.before
	}
	said = make([]error, len(batch))
	var rows []any
	for i, a := range batch {
		exceeded, keys := fits(a, windows, now)
		if exceeded != nil {
			said[i] = exceeded.say(now)
			over = append(over, notice{key: exceeded.key, budget: exceeded.w.budget, level: toldHard, spent: exceeded.w.spent})
			continue
		}
		for j, it := range a.items {
			windows[keys[j]].held += it.amount
			rows = append(rows, a.call, it.budget.ID, it.part, keys[j].start, it.budget.Meter, it.amount, storage.Micros(now), 0)
		}
	}
	for _, k := range order {
		if w := windows[k]; w.held != w.before+w.asked {
			if err := unhold(ctx, tx, k, w.before+w.asked-w.held); err != nil {
				return nil, nil, err
			}
		}
	}
	return said, over, insertReservations(ctx, tx, rows)
}

// refused is why a call does not fit.
type refused struct {
	key    key
	w      *window
	amount int64
}

// fits finds the window that has no room for the call, and its keys.
func fits(a *ask, windows map[key]*window, now time.Time) (*refused, []key) {
	keys := make([]key, len(a.items))
	for j, it := range a.items {
		start, _ := it.budget.window(now)
		keys[j] = key{it.budget.ID, it.part, storage.Micros(start)}
		w := windows[keys[j]]
		// No sum overflows: each is bounded far below.
		if hard := it.budget.Hard; hard > 0 && (w.spent >= hard || w.held > hard || it.amount > hard-w.spent-w.held) {
			return &refused{keys[j], w, it.amount}, nil
		}
	}
	return nil, keys
}

// say tells the agent what was exceeded and when it renews.
func (r *refused) say(now time.Time) *Exceeded {
	b := r.w.budget
	e := &Exceeded{Budget: b.Name}
	limit := fmt.Sprintf("the budget %s allows %s", b.Name, b.Says(b.Hard))
	if b.Each != "" {
		limit += " for each " + b.Each
	}
	alone := ""
	if b.Meter == Tokens || b.Meter == Money {
		alone = ": it may use up to " + Amount(b.Meter, r.amount)
	}
	when := "it does not begin anew; ask an operator for more"
	switch {
	case r.amount > b.Hard:
		when = "it never allows so much at once; ask for a shorter answer, or an operator for more"
	case alone != "" && r.w.spent <= b.Hard-r.amount: // calls under way hold the rest, and need less in the end
		e.Retry = 2 * time.Second
		when = "calls under way hold the rest; try again when they have ended"
	case !r.w.ends.IsZero():
		e.Retry = max(r.w.ends.Sub(now), time.Second)
		when = "it begins anew at " + r.w.ends.Format(time.RFC3339)
	}
	e.cause = ErrExceeded.Say("%s, and this call would go over it%s; %s", limit, alone, when)
	return e
}

// unsynced lets PostgreSQL answer before this transaction is on its disk. What
// follows it is: the intent, without which nothing goes out, is committed later
// and synced, and everything before it with it.
func (s *Service) unsynced(ctx context.Context, tx *storage.Tx) error {
	if s.db.Dialect() != storage.Postgres {
		return nil
	}
	_, err := tx.Exec(ctx, `SET LOCAL synchronous_commit = off`)
	return err
}

// Close closes the desk: what waits is refused, what is to be settled is
// settled. It may be called more than once.
func (s *Service) Close(ctx context.Context) error {
	s.closing.Do(func() { close(s.quit) })
	done := make(chan struct{})
	go func() { s.work.Wait(); s.notices.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return errors.Join(ErrUnavailable.Say("budgets were closed before everything was settled; what is left is found in the log"), ctx.Err())
	}
}
