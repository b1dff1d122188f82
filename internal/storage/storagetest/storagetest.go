package storagetest

import (
	"context"
	"crypto/rand"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/countersign/countersign/internal/storage"
)

// Env names the environment variable with the URL of a PostgreSQL server.
const Env = "COUNTERSIGN_TEST_POSTGRES"

// EnvMemory names the environment variable with a directory for SQLite files, on
// a file system in memory: tests commit thousands of times, and every commit
// waits for the disk. Without it they are in the test's own directory.
const EnvMemory = "COUNTERSIGN_TEST_MEMORY"

// Each runs fn as a subtest on a fresh database of each engine.
func Each(t *testing.T, fn func(t *testing.T, db *storage.DB)) {
	t.Helper()
	EachDSN(t, func(t *testing.T, dsn string) { fn(t, Open(t, dsn)) })
}

// EachDSN runs fn as a subtest with the DSN of a fresh database of each engine,
// for tests that open it themselves or more than once.
func EachDSN(t *testing.T, fn func(t *testing.T, dsn string)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { fn(t, SQLite(t)) })
	t.Run("postgres", func(t *testing.T) { fn(t, Postgres(t)) })
}

// EachEmptyDSN is EachDSN without the schema, for tests of how it comes to be.
func EachEmptyDSN(t *testing.T, fn func(t *testing.T, dsn string)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { fn(t, EmptySQLite(t)) })
	t.Run("postgres", func(t *testing.T) { fn(t, EmptyPostgres(t)) })
}

// Open opens dsn for the length of the test.
func Open(t testing.TB, dsn string) *storage.DB {
	t.Helper()
	db, err := storage.Open(context.Background(), dsn)
	if err != nil {
		t.Fatalf("open %s: %v", storage.Redact(dsn), err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// SQLite returns the DSN of a fresh file that has the schema and no rows.
func SQLite(t testing.TB) string {
	t.Helper()
	path := EmptySQLite(t)
	schema, err := migrated()
	if err != nil {
		t.Fatalf("make a file with the schema: %v", err)
	}
	if err := os.WriteFile(path, schema, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// EmptySQLite returns the DSN of a file that does not exist yet.
func EmptySQLite(t testing.TB) string {
	t.Helper()
	memory := os.Getenv(EnvMemory)
	if memory == "" {
		return filepath.Join(t.TempDir(), "countersign.db")
	}
	dir, err := os.MkdirTemp(memory, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "countersign.db")
}

// Postgres returns the DSN of a fresh database that has the schema and no rows,
// or skips the test if no server is configured.
func Postgres(t testing.TB) string {
	t.Helper()
	return postgres(t, copyOf)
}

// EmptyPostgres is Postgres without the schema.
func EmptyPostgres(t testing.TB) string {
	t.Helper()
	return postgres(t, func(t testing.TB, server *url.URL, name string) { admin(t, server.String(), "CREATE DATABASE "+name) })
}

func postgres(t testing.TB, create func(t testing.TB, server *url.URL, name string)) string {
	t.Helper()
	server := os.Getenv(Env)
	if server == "" {
		t.Skipf("set %s, or run make test, which starts a server", Env)
	}
	u, err := url.Parse(server)
	if err != nil {
		t.Fatalf("%s is not a URL", Env)
	}
	name := "cs_" + strings.ToLower(rand.Text()[:16])
	create(t, u, name)
	t.Cleanup(func() { admin(t, server, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)") })
	u.Path = "/" + name
	return u.String()
}

func admin(t testing.TB, server, statement string) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		t.Fatalf("connect to %s: %v", storage.Redact(server), err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}
