package server_test

import (
	"bytes"
	"context"
	"encoding/json/v2"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/jackc/pgx/v5"

	"github.com/countersign/countersign/internal/config"
	"github.com/countersign/countersign/internal/server"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
	pgtest "github.com/countersign/countersign/test/postgres"
)

// backUp takes a backup over the API and returns it and its key.
func (p *process) backUp(t *testing.T) ([]byte, age.Identity) {
	t.Helper()
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	in, err := json.Marshal(map[string]any{"recipients": []string{key.Recipient().String()}, "reason": "test"})
	if err != nil {
		t.Fatal(err)
	}
	req, _ := http.NewRequest(http.MethodPost, p.url+"/api/v1/backups", bytes.NewReader(in))
	req.Header.Set("Authorization", "Bearer "+p.token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%d, %v, %.300s", resp.StatusCode, err, b)
	}
	return b, key
}

// refill restores a backup into a new place on the other engine, if there is one.
func refill(t *testing.T, dsn string, b []byte, key age.Identity) (data, store string) {
	t.Helper()
	data = t.TempDir()
	store = filepath.Join(data, "restored.db")
	if !strings.HasPrefix(dsn, "postgres") && os.Getenv(storagetest.Env) != "" {
		store = storagetest.Postgres(t)
	}
	cfg, err := config.Load("", []string{"COUNTERSIGN_DATA=" + data, "COUNTERSIGN_STORE=" + store})
	if err != nil {
		t.Fatal(err)
	}
	for _, cut := range []int{len(b) / 2, len(b) - 1} { // what is not whole leaves nothing behind
		if _, _, err := server.Restore(t.Context(), cfg, bytes.NewReader(b[:cut]), []age.Identity{key}); err == nil {
			t.Fatalf("%d of %d bytes were restored", cut, len(b))
		}
	}
	if _, _, err := server.Restore(t.Context(), cfg, bytes.NewReader(b), []age.Identity{key}); err != nil {
		t.Fatal(err)
	}
	return data, store
}

// A backup restored elsewhere lets nothing through until a person resumes; the
// proofs from before keep verifying, and what came after it is missing.
func TestABackupRestoredElsewhereWaitsForAPerson(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		p := newPlant(t, t.TempDir(), dsn)
		p.mustCall()
		p.prove()
		b, key := p.backUp(t)
		p.mustCall() // it goes on
		p.api(t, "POST", "/agents/worker/suspend", map[string]any{}, nil)
		p.process.kill()
		p.data, p.dsn = refill(t, dsn, b, key)
		before := p.up.received()
		for range 2 {
			p.again()
			if status, body := p.ready(); status != http.StatusServiceUnavailable {
				t.Errorf("readiness: %d %s", status, body)
			}
			if status, body := p.call(); status != http.StatusServiceUnavailable {
				t.Errorf("a call: %d %s", status, body)
			}
			p.process.kill()
		}
		p.again()
		if n := p.up.received(); n != before {
			t.Errorf("%d requests reached the upstream", n-before)
		}
		p.api(t, "POST", "/backups/resume", map[string]any{"reason": "the machine burnt down"}, nil)
		p.recovers(20 * time.Second)
		p.oldProofs()
		p.newEra()
	})
}

// A lease that is over in a restored database is not revoked: the server that
// the backup is of may have given it a longer life. When a person resumes, it is.
func TestARestoredDatabaseRevokesNothingByItself(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		pg := pgtest.Shared(t)
		pg.Exec(t, `DROP ROLE IF EXISTS restored_readers`, `CREATE ROLE restored_readers NOLOGIN`)
		p := start(t, t.TempDir(), dsn, "")
		p.company(t)
		p.api(t, "PUT", "/secrets/db", map[string]any{"value": pg.DSN, "owner": "olga", "connection": "database", "kind": "postgres", "settings": map[string]string{"roles": "restored_readers"}}, nil)
		p.api(t, "PUT", "/connections/database", map[string]any{"kind": "mcp", "owner": "olga", "command": []string{os.Args[0]},
			"env": map[string]string{partEnv: "database", "DATABASE_URL": "secret://db", "DATABASE_USER": "secret://db#username"}}, nil)
		p.grant(t, "database")
		var run struct {
			Token string `json:"token"`
		}
		p.api(t, "POST", "/agents/worker/runs", map[string]any{"expires_in": "10m"}, &run)
		answer := p.tool(t, "/mcp/database", run.Token, "whoami", map[string]any{})
		m := leased.FindStringSubmatch(answer)
		if m == nil {
			t.Fatalf("not a leased role: %s", answer)
		}
		role := strings.ReplaceAll(m[1], " ", "")
		b, key := p.backUp(t)
		token := p.token
		p.kill() // a stop would give the lease back

		data, store := refill(t, dsn, b, key)
		db := storagetest.Open(t, store)
		if err := db.Tx(t.Context(), func(tx *storage.Tx) error {
			return tx.ExecOne(t.Context(), `UPDATE secret_leases SET due = 1 WHERE name = $1`, role)
		}); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		p = start(t, data, store, token)
		there := func() bool {
			conn, err := pgx.Connect(t.Context(), pg.DSN)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(context.WithoutCancel(t.Context()))
			var found bool
			if err := conn.QueryRow(t.Context(), `SELECT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = $1)`, role).Scan(&found); err != nil {
				t.Fatal(err)
			}
			return found
		}
		for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			if !there() {
				t.Fatal("a restored database revoked a lease")
			}
		}
		p.api(t, "POST", "/backups/resume", map[string]any{"reason": "the other one is gone"}, nil)
		eventually(t, "the lease is revoked after a person resumed", func() bool { return !there() })
	})
}

// Killed while it replaces the key, a server goes on at its next start, and
// loses nothing.
func TestARekeySurvivesSIGKILL(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		const n = 130
		data := t.TempDir()
		p := start(t, data, dsn, "")
		p.company(t)
		for i := range n {
			p.api(t, "PUT", fmt.Sprintf("/secrets/s%03d", i), map[string]any{"value": fmt.Sprintf("a value of its own %03d", i), "owner": "olga", "connection": "nothing"}, nil)
		}
		old, err := os.ReadFile(filepath.Join(data, "key"))
		if err != nil {
			t.Fatal(err)
		}
		status := func() (st struct {
			Rekey struct {
				Phase    string `json:"phase"`
				Resealed int    `json:"resealed"`
			} `json:"rekey"`
		}) {
			p.api(t, "GET", "/keys", nil, &st)
			return st
		}
		whole := func() {
			t.Helper()
			var all []struct {
				Name   string `json:"name"`
				Broken bool   `json:"broken"`
			}
			p.api(t, "GET", "/secrets", nil, &all)
			for _, s := range all {
				if s.Broken {
					t.Fatalf("%s is lost", s.Name)
				}
			}
			if len(all) < n {
				t.Fatalf("%d secrets", len(all))
			}
		}
		p.api(t, "POST", "/keys/rekey", map[string]any{}, nil)
		for _, wait := range []func() bool{
			func() bool { return true },
			func() bool { return status().Rekey.Resealed > 0 },
			func() bool { return status().Rekey.Phase == "done" },
		} {
			eventually(t, "the rekey goes on", wait)
			p.kill()
			p = start(t, data, dsn, p.token)
			whole()
		}
		p.stop(t)
		if now, err := os.ReadFile(filepath.Join(data, "key")); err != nil || bytes.Equal(now, old) {
			t.Errorf("the key file is the old one: %v", err)
		}
		if err := os.WriteFile(filepath.Join(data, "key"), old, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := launch(t, data, dsn, p.token); err == nil {
			t.Error("the server starts with the old key")
		}
	})
}
