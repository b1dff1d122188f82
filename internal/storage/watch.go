package storage

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Limits of a Watcher.
const (
	// PollEvery is how often a replica looks for changes.
	PollEvery = 200 * time.Millisecond
	// PollTimeout bounds one look, so that a dead connection is given up.
	PollTimeout = 5 * time.Second
	// StaleAfter is how old a replica's view may be before it must refuse.
	StaleAfter = time.Second
)

// Bump marks what name stands for as changed. It belongs in the transaction
// that changes it.
func Bump(ctx context.Context, tx *Tx, name string) error {
	_, err := tx.Exec(ctx, `INSERT INTO versions (name, version) VALUES ($1, 1)
		ON CONFLICT (name) DO UPDATE SET version = versions.version + 1`, name)
	return err
}

// Watcher keeps in-memory copies true. Register with On before Start.
type Watcher struct {
	db     *DB
	log    *slog.Logger
	now    func() time.Time
	mu     sync.Mutex // serialises polls
	subs   []sub      // in the order in which they are told
	seen   map[string]int64
	last   atomic.Pointer[time.Time] // when the last complete poll began
	cancel context.CancelFunc
	done   chan struct{}
}

// sub is someone who is told of changes.
type sub struct {
	name   string
	reload func(context.Context) error
}

// NewWatcher returns a stopped watcher.
func NewWatcher(db *DB, log *slog.Logger) *Watcher {
	return &Watcher{db: db, log: log, now: time.Now, seen: map[string]int64{}}
}

// On registers reload to run at the first poll and whenever name is bumped.
// Within a poll, whoever registered earlier is told earlier.
func (w *Watcher) On(name string, reload func(context.Context) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.subs = append(w.subs, sub{name, reload})
	w.seen[name] = -1
}

// Ahead is On for a view that must be new before those of the rooms that were
// made earlier are: they ask it as soon as they see the change.
func (w *Watcher) Ahead(name string, reload func(context.Context) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.subs = append([]sub{{name, reload}}, w.subs...)
	w.seen[name] = -1
}

// Poll looks once and reloads what changed. A caller that changed something
// polls before it answers, so that its own next request sees the change. If a
// reload fails the view stays old and is not Fresh.
func (w *Watcher) Poll(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	started := w.now()
	current, err := w.versions(ctx)
	if err != nil {
		return ErrUnavailable.With(err)
	}
	for _, sub := range w.subs {
		if w.seen[sub.name] == current[sub.name] {
			continue
		}
		if err := sub.reload(ctx); err != nil {
			return fmt.Errorf("reload %s: %w", sub.name, err)
		}
	}
	for name := range w.seen {
		w.seen[name] = current[name]
	}
	w.last.Store(&started)
	return nil
}

func (w *Watcher) versions(ctx context.Context) (map[string]int64, error) {
	rows, err := w.db.Query(ctx, `SELECT name, version FROM versions`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	current := map[string]int64{}
	for rows.Next() {
		var name string
		var version int64
		if err := rows.Scan(&name, &version); err != nil {
			return nil, err
		}
		current[name] = version
	}
	return current, rows.Err()
}

// Fresh reports whether the last complete poll began less than StaleAfter ago.
// It goes by the monotonic clock: a wall clock that jumps back must not make an
// old view look new. One from the future is not fresh either.
func (w *Watcher) Fresh() bool {
	last := w.last.Load()
	if last == nil {
		return false
	}
	age := w.now().Sub(*last)
	return age >= 0 && age < StaleAfter
}

// Start polls once, failing if that fails, and then in the background.
func (w *Watcher) Start(ctx context.Context) error {
	if err := w.Poll(ctx); err != nil {
		return err
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	w.cancel, w.done = cancel, make(chan struct{})
	go w.loop(run)
	return nil
}

func (w *Watcher) loop(ctx context.Context) {
	defer close(w.done)
	tick := time.NewTicker(PollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := w.pollWithin(ctx); err != nil && ctx.Err() == nil {
			w.log.Error("cannot look for changes; calls are refused until it works", "error", err)
		}
	}
}

// pollWithin gives up on a store that neither answers nor fails: a connection
// that died in silence would otherwise keep the view old for as long as TCP
// waits, and the next poll uses another.
func (w *Watcher) pollWithin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, PollTimeout)
	defer cancel()
	return w.Poll(ctx)
}

// Stop ends polling. It is safe to call more than once and before Start.
func (w *Watcher) Stop() {
	if w.cancel != nil {
		w.cancel()
		<-w.done
		w.cancel = nil
	}
}
