package rotation_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
)

// session logs in with a DSN and returns what uses the session again.
func session(t *testing.T, dsn string) func() error {
	t.Helper()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(ctx) })
	return func() error {
		var one int
		return conn.QueryRow(ctx, "SELECT 1").Scan(&one)
	}
}
