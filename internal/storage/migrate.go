package storage

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"time"

	"github.com/pressly/goose/v3"
)

//go:embed migrations
var migrations embed.FS

// migrate brings the schema up to date. Replicas that start together race; the
// loser's transaction fails and it looks again, so no lock outlives a crash.
func migrate(ctx context.Context, db *DB) error {
	dialect := goose.DialectSQLite3
	if db.dialect == Postgres {
		dialect = goose.DialectPostgres
	}
	dir, err := fs.Sub(migrations, "migrations/"+db.dialect.String())
	if err != nil {
		return err
	}
	for attempt := 0; ; attempt++ {
		err := migrateOnce(ctx, dialect, db, dir)
		if err == nil {
			return nil
		}
		if attempt == 5 || ctx.Err() != nil {
			return ErrUnavailable.Say("the schema cannot be brought up to date; the database was left as it was").With(err)
		}
		time.Sleep(time.Duration(attempt+1) * 100 * time.Millisecond)
	}
}

func migrateOnce(ctx context.Context, dialect goose.Dialect, db *DB, dir fs.FS) error {
	p, err := goose.NewProvider(dialect, db.write, dir, goose.WithAllowOutofOrder(true)) // rooms number their migrations in ranges of their own
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	_, err = p.Up(ctx)
	return err
}

// SchemaDigest names the schema that Open brings a database to: the SHA-256 of
// the migrations of both engines, in hex.
func SchemaDigest() string {
	h := sha256.New()
	err := fs.WalkDir(migrations, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(migrations, path)
		fmt.Fprintf(h, "%q %q\n", path, b)
		return err
	})
	if err != nil {
		panic(err) // they are embedded: they can be read
	}
	return hex.EncodeToString(h.Sum(nil))
}
