package storage_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/storage"
)

// What was written over is in no file after Flush, although others copy the
// write-ahead log at the same time.
func TestFlushEmptiesTheLog(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "c.db")
	db, err := storage.Open(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	write := func() {
		t.Helper()
		if err := db.Tx(ctx, func(tx *storage.Tx) error {
			_, err := tx.Exec(ctx, `CREATE TABLE IF NOT EXISTS scratch (body TEXT)`)
			if err == nil {
				_, err = tx.Exec(ctx, `INSERT INTO scratch (body) VALUES ($1)`, string(make([]byte, 8192)))
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	other, err := storage.Open(ctx, path) // as another process would
	if err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan error)
	go func() {
		for {
			select {
			case <-stop:
				stopped <- other.Close()
				return
			default:
				if err := other.Flush(ctx); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	for range 300 {
		write()
		if err := db.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path + "-wal"); err == nil && info.Size() > 0 {
			t.Fatalf("%d bytes are left in the write-ahead log", info.Size())
		}
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	write()
	rows, err := db.Query(ctx, `SELECT body FROM scratch`) // a reader of this version
	if err != nil || !rows.Next() {
		t.Fatal(err)
	}
	write()
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := db.Flush(short); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("while somebody reads what was before: %v", err)
	}
	flushed := make(chan error)
	go func() { flushed <- db.Flush(ctx) }()
	rows.Close()
	if err := <-flushed; err != nil {
		t.Error(err)
	}
}
