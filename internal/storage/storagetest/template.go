package storagetest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/countersign/countersign/internal/storage"
)

// Most tests start on a copy of a database that every migration was run on, once:
// running them for each test took more time than the tests.

// migrated is the content of an SQLite file with the schema and no rows.
var migrated = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "countersign-schema")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "schema.db")
	if err := migrate(path); err != nil {
		return nil, err
	}
	if _, err := os.Stat(path + "-wal"); err == nil {
		return nil, fmt.Errorf("%s is not all there is: its write-ahead log was left", path)
	}
	return os.ReadFile(path)
})

// migrate brings an empty database up to date as a server does that starts on it.
func migrate(dsn string) error {
	db, err := storage.Open(context.Background(), dsn)
	if err != nil {
		return err
	}
	return db.Close()
}

// copyOf creates the database name as a copy of the template of this schema.
func copyOf(t testing.TB, server *url.URL, name string) {
	t.Helper()
	template, err := templated()
	if err != nil {
		t.Fatalf("make a template on %s: %v", server.Redacted(), err)
	}
	admin(t, server.String(), "CREATE DATABASE "+name+" TEMPLATE "+template+" STRATEGY file_copy") // the other writes every page to the log too
}

// templated returns the name of a database of the PostgreSQL server with the
// schema and no rows. It stays there for other packages' tests; its name tells
// the migrations that were run on it.
var templated = sync.OnceValues(func() (string, error) {
	ctx := context.Background()
	server, err := url.Parse(os.Getenv(Env))
	if err != nil {
		return "", err
	}
	conn, err := pgx.Connect(ctx, server.String())
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx) // and so the lock is given up
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock(hashtext('countersign test templates'))`); err != nil {
		return "", err
	}
	name := "cs_template_" + storage.SchemaDigest()[:16]
	var there bool
	if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`, name).Scan(&there); err != nil || there {
		return name, err
	}
	raw := name + "_unfinished"
	for _, q := range []string{"DROP DATABASE IF EXISTS " + raw + " WITH (FORCE)", "CREATE DATABASE " + raw} {
		if _, err := conn.Exec(ctx, q); err != nil {
			return "", err
		}
	}
	u := *server
	u.Path = "/" + raw
	if err := migrate(u.String()); err != nil {
		return "", err
	}
	_, err = conn.Exec(ctx, "ALTER DATABASE "+raw+" RENAME TO "+name)
	return name, err
})
