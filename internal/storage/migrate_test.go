package storage_test

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// look returns the tables that make up a copy of the database at dsn and the
// numbers of the migrations that were made.
func look(t *testing.T, dsn string) (tables []string, made []int64) {
	t.Helper()
	ctx := context.Background()
	err := storagetest.Open(t, dsn).Snapshot(ctx, func(s *storage.Snapshot) (err error) {
		if tables, err = s.Tables(ctx); err == nil {
			made, err = s.Migrations(ctx)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(tables)
	return tables, made
}

// numbered returns the numbers of an engine's migrations.
func numbered(t *testing.T, engine string) []int64 {
	t.Helper()
	files, err := os.ReadDir("migrations/" + engine)
	if err != nil {
		t.Fatal(err)
	}
	all := []int64{0} // what goose begins with
	for _, f := range files {
		digits, _, _ := strings.Cut(f.Name(), "_")
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, n)
	}
	return all
}

// Every migration runs on an empty database, and what other tests start on is
// what comes of that.
func TestEveryMigrationRunsOnAnEmptyDatabase(t *testing.T) {
	sqlite, made := look(t, storagetest.SQLite(t))
	for _, engine := range []string{"sqlite", "postgres"} {
		if all := numbered(t, engine); !slices.Equal(all, made) {
			t.Fatalf("of the migrations %v of %s there were made %v", all, engine, made)
		}
	}
	storagetest.EachEmptyDSN(t, func(t *testing.T, dsn string) {
		tables, numbers := look(t, dsn)
		if !slices.Equal(tables, sqlite) || !slices.Equal(numbers, made) {
			t.Errorf("%v by %v\nSQLite has %v by %v", tables, numbers, sqlite, made)
		}
	})
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		tables, numbers := look(t, dsn)
		if !slices.Equal(tables, sqlite) || !slices.Equal(numbers, made) {
			t.Errorf("the copy has %v by %v", tables, numbers)
		}
	})
}
