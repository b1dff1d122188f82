package storage_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"testing"

	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

func TestTxCommitsOrRollsBack(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := context.Background()
		if err := db.Tx(ctx, func(tx *storage.Tx) error { return storage.Bump(ctx, tx, "a") }); err != nil {
			t.Fatal(err)
		}
		boom := errors.New("boom")
		err := db.Tx(ctx, func(tx *storage.Tx) error {
			if err := storage.Bump(ctx, tx, "a"); err != nil {
				return err
			}
			return boom
		})
		if !errors.Is(err, boom) {
			t.Fatalf("got %v", err)
		}
		var v int
		if err := db.QueryRow(ctx, `SELECT version FROM versions WHERE name = $1`, "a").Scan(&v); err != nil || v != 1 {
			t.Fatalf("version %d, %v", v, err)
		}
	})
}

func TestDuplicateIsRecognised(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := context.Background()
		insert := func(tx *storage.Tx) error {
			_, err := tx.Exec(ctx, `INSERT INTO versions (name, version) VALUES ($1, 1)`, "x")
			return err
		}
		if err := db.Tx(ctx, insert); err != nil {
			t.Fatal(err)
		}
		if err := db.Tx(ctx, insert); !storage.Duplicate(err) {
			t.Fatalf("got %v", err)
		}
	})
}

// What is planned for its arguments is never planned for whatever arguments: the
// server holds no statement of it.
func TestQueryPlannedPreparesNothing(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := context.Background()
		if db.Dialect() == storage.Postgres {
			db.Writer().SetMaxOpenConns(1) // and so one session
		}
		for i := range 8 {
			rows, err := db.QueryPlanned(ctx, `SELECT $1 + 4711 WHERE $2 <> 'x'`, i, "y")
			if err != nil {
				t.Fatal(err)
			}
			var n int
			if !rows.Next() || rows.Scan(&n) != nil || n != i+4711 {
				t.Errorf("%d, %v", n, rows.Err())
			}
			if err := rows.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if db.Dialect() == storage.SQLite {
			return
		}
		var n int
		if err := db.QueryRow(ctx, `SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%+ 4711 WHERE%' AND name NOT IN (SELECT name FROM pg_prepared_statements WHERE statement LIKE '%pg_prepared%')`).Scan(&n); err != nil || n != 0 {
			t.Errorf("%d statements are prepared, %v", n, err)
		}
	})
}

func TestWatcherReloadsOnChangeAndGoesStale(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := context.Background()
		w := storage.NewWatcher(db, slog.New(slog.DiscardHandler))
		loads := 0
		w.On("things", func(context.Context) error { loads++; return nil })
		if w.Fresh() {
			t.Error("fresh before the first poll")
		}
		for range 2 {
			if err := w.Poll(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if loads != 1 || !w.Fresh() {
			t.Errorf("loads %d, fresh %v", loads, w.Fresh())
		}
		if err := db.Tx(ctx, func(tx *storage.Tx) error { return storage.Bump(ctx, tx, "things") }); err != nil {
			t.Fatal(err)
		}
		if err := w.Poll(ctx); err != nil || loads != 2 {
			t.Errorf("loads %d, %v", loads, err)
		}
		db.Close()
		if err := w.Poll(ctx); err == nil {
			t.Error("a poll of a closed database succeeded")
		}
	})
}

func TestSQLiteFileIsPrivate(t *testing.T) {
	dsn := storagetest.EmptySQLite(t)
	storagetest.Open(t, dsn)
	info, err := os.Stat(dsn)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
}

func TestRedactHidesPasswords(t *testing.T) {
	if got := storage.Redact("postgres://u:hunter2@h/db"); got != "postgres://u:xxxxx@h/db" {
		t.Errorf("got %s", got)
	}
}
