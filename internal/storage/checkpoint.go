package storage

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"sync"
	"time"
)

// How SQLite's write-ahead log goes back into the database file. Left to
// itself, SQLite does that inside the commit that happens to cross a
// threshold, and whoever waits for that commit waits for thousands of pages.
// Here a connection of its own copies them while others commit; the writer
// copies only what came in the meantime.
const (
	checkpointEvery = 250 * time.Millisecond
	finishAt        = 4000 // pages of 4 KiB in the log from which the writer finishes the copy, so that the log begins anew
	flushAgain      = 10 * time.Millisecond
	fallbackAt      = 64000 // pages from which a commit does it all, should the checkpointer not keep up
)

// checkpointer copies in the background. A failure costs only time: the log
// grows until fallbackAt, where the commit itself reports what is wrong.
type checkpointer struct {
	turn        sync.Mutex // one copy at a time: SQLite refuses a second one at once, whatever its busy timeout
	own, writer *sql.DB
	wal         string
	cancel      context.CancelFunc
	done        chan struct{}
}

func startCheckpointer(path string, writer *sql.DB) (*checkpointer, error) {
	own, err := sql.Open("sqlite", sqliteURI(path, "rw"))
	if err != nil {
		return nil, err
	}
	own.SetMaxOpenConns(1)
	ctx, cancel := context.WithCancel(context.Background())
	c := &checkpointer{own: own, writer: writer, wal: path + "-wal", cancel: cancel, done: make(chan struct{})}
	go c.run(ctx)
	return c, nil
}

func (c *checkpointer) run(ctx context.Context) {
	defer close(c.done)
	tick := time.NewTicker(checkpointEvery)
	defer tick.Stop()
	var seen time.Time // when the log had last been written, at the last copy that was whole
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		info, err := os.Stat(c.wal)
		if err != nil || info.ModTime().Equal(seen) {
			continue
		}
		if c.copy(ctx) {
			seen = info.ModTime()
		}
	}
}

// copy copies what it can and returns whether that was everything.
func (c *checkpointer) copy(ctx context.Context) (whole bool) {
	c.turn.Lock()
	defer c.turn.Unlock()
	pages, whole := checkpoint(ctx, c.own)
	if pages >= finishAt {
		_, whole = checkpoint(ctx, c.writer)
	}
	return whole
}

// Flush copies SQLite's write-ahead log whole into the database file and
// empties it, so that what was overwritten stands in no file any more. It
// waits for readers of older versions, and fails when ctx ends before they do.
// On PostgreSQL it does nothing.
func (db *DB) Flush(ctx context.Context) error {
	if db.copier == nil {
		return nil
	}
	db.copier.turn.Lock()
	defer db.copier.turn.Unlock()
	for {
		var busy, frames, moved int
		if err := db.write.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &frames, &moved); err != nil {
			return ErrUnavailable.With(err)
		}
		if busy == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ErrUnavailable.With(fmt.Errorf("%d of %d pages of the write-ahead log were copied: %w", moved, frames, ctx.Err()))
		case <-time.After(flushAgain):
		}
	}
}

// checkpoint copies what no reader needs any more, without waiting for anyone.
// It returns how many pages the log holds and whether all of them are copied.
func checkpoint(ctx context.Context, db *sql.DB) (pages int, whole bool) {
	var busy, copied int
	if err := db.QueryRowContext(ctx, "PRAGMA wal_checkpoint(PASSIVE)").Scan(&busy, &pages, &copied); err != nil {
		return 0, false
	}
	return pages, busy == 0 && copied == pages
}

// stop ends it. It accepts a nil checkpointer.
func (c *checkpointer) stop() error {
	if c == nil {
		return nil
	}
	c.cancel()
	<-c.done
	return c.own.Close()
}
