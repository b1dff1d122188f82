package audit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/storage"
)

// How long a hold on a lane lasts without being renewed, and how often it is.
const (
	laneTTL    = 5 * time.Second
	renewEvery = time.Second
)

// changeLane holds administrative changes; every replica appends to it, under
// its row's lock.
const changeLane = 0

var errFenced = errors.New("the lane is held by another")

// claim is one hold on one lane: it ends when another takes the lane.
type claim struct {
	lane, epoch int64
	slot        *slot // set before the first intent; nil while only recovering

	// Owned by the committer.
	sn     int64
	chain  Hash
	intent []int64 // sns of intents, ascending; those answered are dropped lazily from the front

	mu   sync.Mutex
	open map[int64]bool // intents without a durable outcome; true once an outcome is queued
	lost bool
}

// began registers a durable intent.
func (c *claim) began(sn int64) {
	c.intent = append(c.intent, sn)
	c.mu.Lock()
	c.open[sn] = false
	c.mu.Unlock()
}

// ended forgets an intent whose outcome is durable.
func (c *claim) ended(sn int64) {
	c.mu.Lock()
	delete(c.open, sn)
	c.mu.Unlock()
}

// take claims the right to write the outcome of an intent, once. lost says
// that the lane has gone to another, which has written or will write `unknown`.
func (c *claim) take(sn int64) (ok, lost bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	taken, open := c.open[sn]
	if !open || taken {
		return false, c.lost
	}
	c.open[sn] = true
	return true, c.lost
}

func (c *claim) lose() {
	c.mu.Lock()
	c.lost = true
	c.mu.Unlock()
}

// cleanBefore returns the largest sn up to which every intent will have an
// outcome once the batch that ends at to, answering the intents in ending and
// beginning at first its own first intent (0: none), is durable.
func (c *claim) cleanBefore(to, first int64, ending map[int64]bool) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.intent) > 0 {
		if _, open := c.open[c.intent[0]]; open {
			break
		}
		c.intent = c.intent[1:]
	}
	for _, sn := range c.intent {
		if _, open := c.open[sn]; open && !ending[sn] {
			return sn - 1
		}
	}
	if first > 0 {
		return first - 1
	}
	return to
}

// claimLane takes a lane that nobody holds, or makes a new one. On SQLite the
// file's lock has shown that every other holder is gone.
func (l *Log) claimLane(ctx context.Context) (*claim, error) {
	for range 64 {
		lane, err := l.freeLane(ctx, "")
		if err != nil {
			return nil, err
		}
		if lane == 0 {
			if err := l.newLane(ctx); err != nil {
				return nil, unavailable(err)
			}
			continue
		}
		c, err := l.claimNumber(ctx, lane)
		if errors.Is(err, errFenced) {
			continue // another replica was faster
		}
		return c, err
	}
	return nil, storage.ErrUnavailable.Say("no lane of the log could be claimed; other replicas keep taking them")
}

// free is the condition under which a lane may be taken: its hold has expired,
// or ends later than any hold can, because the database's clock jumped back.
func (l *Log) free() string {
	if l.db.Dialect() == storage.Postgres {
		return fmt.Sprintf(`(until < %[1]s OR until > %[1]s + %[2]d)`, job.Clock(storage.Postgres), 2*laneTTL.Microseconds())
	}
	return `lane > 0`
}

// freeLane returns the first lane that may be taken and is not ours, 0 if
// there is none.
func (l *Log) freeLane(ctx context.Context, and string) (int64, error) {
	rows, err := l.db.Query(ctx, `SELECT lane FROM lanes WHERE lane > 0 AND `+l.free()+and+` ORDER BY lane`)
	if err != nil {
		return 0, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	for rows.Next() {
		var lane int64
		if err := rows.Scan(&lane); err != nil {
			return 0, storage.ErrUnavailable.With(err)
		}
		if !l.holds(lane) {
			return lane, nil
		}
	}
	if err := rows.Err(); err != nil {
		return 0, storage.ErrUnavailable.With(err)
	}
	return 0, nil
}

func (l *Log) holds(lane int64) bool {
	l.heldMu.Lock()
	defer l.heldMu.Unlock()
	_, ok := l.held[lane]
	return ok
}

func (l *Log) hold(lane, epoch int64) {
	l.heldMu.Lock()
	defer l.heldMu.Unlock()
	l.held[lane] = epoch
}

func (l *Log) drop(c *claim) {
	l.heldMu.Lock()
	defer l.heldMu.Unlock()
	if l.held[c.lane] == c.epoch {
		delete(l.held, c.lane)
	}
}

func (l *Log) newLane(ctx context.Context) error {
	return l.db.Tx(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO lanes (lane, holder, epoch, until, sn, chain, clean_sn)
			SELECT coalesce(max(lane), 0) + 1, '', 0, 0, 0, $1, 0 FROM lanes WHERE true
			ON CONFLICT (lane) DO NOTHING`, make([]byte, len(Hash{})))
		return err
	})
}

func (l *Log) claimNumber(ctx context.Context, lane int64) (*claim, error) {
	c := &claim{lane: lane, open: map[int64]bool{}}
	var cleanSN int64
	var chain []byte
	err := l.db.Tx(ctx, func(tx *storage.Tx) error {
		return tx.QueryRow(ctx, `UPDATE lanes SET holder = $1, epoch = epoch + 1, until = `+job.Clock(l.db.Dialect())+` + $2
			WHERE lane = $3 AND `+l.free()+` RETURNING epoch, sn, chain, clean_sn`,
			l.holder, laneTTL.Microseconds(), lane).Scan(&c.epoch, &c.sn, &chain, &cleanSN)
	})
	switch {
	case storage.NoRows(err):
		return nil, errFenced
	case err != nil:
		return nil, unavailable(err)
	case len(chain) != len(c.chain):
		return nil, ErrBroken.Say("lane %d of the log has a head without a chain", lane)
	}
	c.chain = Hash(chain)
	l.hold(c.lane, c.epoch)
	if err := l.recoverLane(ctx, c, cleanSN); err != nil {
		l.drop(c) // it expires, and whoever takes it next begins again
		return nil, err
	}
	return c, nil
}

// recoverLane writes the outcome `unknown` for every intent that a holder now
// gone left without one. It runs before anything else is appended.
func (l *Log) recoverLane(ctx context.Context, c *claim, cleanSN int64) error {
	left, err := l.unanswered(ctx, c.lane, cleanSN)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		l.o.Logger.Warn("calls were in flight when their process ended; their outcome is unknown", "lane", c.lane, "calls", len(left))
	}
	for _, it := range left {
		c.began(it.sn)
	}
	for len(left) > 0 {
		n := min(len(left), maxBatch)
		batch := make([]*item, 0, n)
		for _, it := range left[:n] {
			e, err := l.autoOutcome(it.ev, Outcome{Status: Unknown, Error: "the process that made this call ended before it saw the answer"})
			if err != nil {
				return err
			}
			batch = append(batch, &item{entry: e, kind: outcome, of: c, ofSN: it.sn})
		}
		if err := l.write(ctx, c, batch); err != nil {
			return err
		}
		l.settle(c, batch)
		left = left[n:]
	}
	return nil
}

type orphan struct {
	sn int64
	ev Event
}

// unanswered returns the intents of a lane after cleanSN that have no outcome.
func (l *Log) unanswered(ctx context.Context, lane, cleanSN int64) ([]orphan, error) {
	rows, err := l.db.Query(ctx, `SELECT sn, type, call FROM events WHERE lane = $1 AND sn > $2 AND type IN ($3, $4) ORDER BY sn`,
		lane, cleanSN, string(CallIntent), string(CallOutcome))
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	byCall := map[string][]int64{}
	var order []string
	for rows.Next() {
		var sn int64
		var typ, call string
		if err := rows.Scan(&sn, &typ, &call); err != nil {
			return nil, storage.ErrUnavailable.With(err)
		}
		if Type(typ) == CallIntent {
			byCall[call] = append(byCall[call], sn)
			order = append(order, call)
		} else if open := byCall[call]; len(open) > 0 {
			byCall[call] = open[1:]
		}
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	var left []orphan
	for _, call := range order {
		if len(byCall[call]) == 0 {
			continue
		}
		sn := byCall[call][0]
		byCall[call] = byCall[call][1:]
		var record []byte
		if err := l.db.QueryRow(ctx, `SELECT record FROM events WHERE lane = $1 AND sn = $2`, lane, sn).Scan(&record); err != nil {
			return nil, storage.ErrUnavailable.With(err)
		}
		ev, err := DecodeRecord(record)
		if err != nil {
			return nil, fmt.Errorf("lane %d, sn %d: %w", lane, sn, err)
		}
		left = append(left, orphan{sn, ev})
	}
	return left, nil
}

// autoOutcome makes the outcome that nobody was left to report, in the name of
// the system, about the call that intent began.
func (l *Log) autoOutcome(intent Event, o Outcome) (*entry, error) {
	ev := inherit(Event{Actor: System, Outcome: &o}, intent)
	ev.Type = CallOutcome
	return l.prepareAlone(ev)
}

// inherit fills what an outcome shares with its intent and does not say.
func inherit(ev, intent Event) Event {
	ev.Call = intent.Call
	for _, f := range []struct{ to, from *string }{
		{&ev.Agent, &intent.Agent}, {&ev.Owner, &intent.Owner}, {&ev.Team, &intent.Team}, {&ev.Stage, &intent.Stage},
		{&ev.Credential, &intent.Credential}, {&ev.Run, &intent.Run}, {&ev.Connection, &intent.Connection},
		{&ev.Tool, &intent.Tool}, {&ev.Effect, &intent.Effect},
	} {
		if *f.to == "" {
			*f.to = *f.from
		}
	}
	if ev.Objects == nil {
		ev.Objects = intent.Objects
	}
	if ev.Actor == (Actor{}) {
		ev.Actor = intent.Actor
	}
	return ev
}

// sweep finishes lanes whose holders are gone and that nobody has taken since.
func (l *Log) sweep(ctx context.Context) error {
	for {
		lane, err := l.freeLane(ctx, ` AND clean_sn < sn`)
		if err != nil || lane == 0 {
			return err
		}
		c, err := l.claimNumber(ctx, lane)
		if errors.Is(err, errFenced) {
			continue
		}
		if err != nil {
			return err
		}
		if err := l.finish(ctx, c); err != nil {
			return err
		}
	}
}

// finish releases a lane just recovered: every intent in it has an outcome.
func (l *Log) finish(ctx context.Context, c *claim) error {
	l.drop(c)
	return l.db.Tx(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE lanes SET holder = '', until = 0, clean_sn = sn WHERE lane = $1 AND holder = $2 AND epoch = $3`, c.lane, l.holder, c.epoch)
		return err
	})
}

func (l *Log) release(ctx context.Context, c *claim) error {
	l.drop(c)
	return l.db.Tx(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE lanes SET holder = '', until = 0 WHERE lane = $1 AND holder = $2 AND epoch = $3`, c.lane, l.holder, c.epoch)
		return err
	})
}

// keep renews the holds of this process, and now and then finishes the lanes
// of dead ones, until the log closes. SQLite needs none of it: the file's lock
// ends with the process.
func (l *Log) keep() {
	defer l.background.Done()
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-l.closing.Done():
			return
		case <-tick.C:
		}
		if d := l.dropped.Swap(0); d > 0 {
			l.o.Logger.Warn("events of refused credentials were not logged: too many at once", "events", d)
		}
		if l.db.Dialect() != storage.Postgres {
			continue
		}
		if err := l.keys.refresh(l.closing); err != nil && l.closing.Err() == nil {
			l.o.Logger.Warn("whether keys were destroyed cannot be seen", "error", err)
		}
		if err := l.renew(l.closing); err != nil && l.closing.Err() == nil {
			l.o.Logger.Warn("the log's lanes cannot be renewed", "error", err)
		}
		if n%5 != 4 {
			continue
		}
		if err := l.sweep(l.closing); err != nil && l.closing.Err() == nil {
			l.o.Logger.Warn("lanes of ended processes cannot be finished", "error", err)
		}
	}
}

func (l *Log) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, laneTTL)
	defer cancel()
	l.heldMu.Lock()
	held := maps.Clone(l.held)
	l.heldMu.Unlock()
	return l.db.Tx(ctx, func(tx *storage.Tx) error {
		for _, lane := range slices.Sorted(maps.Keys(held)) { // one order, no deadlock
			if _, err := tx.Exec(ctx, `UPDATE lanes SET until = `+job.Clock(l.db.Dialect())+` + $1 WHERE lane = $2 AND holder = $3 AND epoch = $4`,
				laneTTL.Microseconds(), lane, l.holder, held[lane]); err != nil {
				return err
			}
		}
		return nil
	})
}

// unavailable gives err a kind if it has none.
func unavailable(err error) error {
	if err == nil || fault.KindOf(err) != fault.Internal {
		return err
	}
	return storage.ErrUnavailable.With(err)
}
