package server_test

import (
	"context"
	"encoding/json/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countersign/countersign/internal/audit/tlog"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// backup copies the database of a server that is down and returns what puts
// the copy in its place.
func backup(t *testing.T, dsn string) (restore func()) {
	t.Helper()
	if !strings.HasPrefix(dsn, "postgres") {
		dir, kept := filepath.Dir(dsn), t.TempDir()
		mine := func(name string) bool { return !strings.HasPrefix(name, filepath.Base(dsn)) }
		copyTree(t, dir, kept, mine)
		return func() {
			for _, suffix := range []string{"", "-wal", "-shm"} {
				if err := os.Remove(dsn + suffix); err != nil && !os.IsNotExist(err) {
					t.Fatal(err)
				}
			}
			copyTree(t, kept, dir, mine)
		}
	}
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	name := strings.TrimPrefix(u.Path, "/")
	u.Path = "/postgres"
	exec := func(q string) {
		t.Helper()
		ctx := context.Background()
		conn, err := pgx.Connect(ctx, u.String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(ctx)
		if _, err := conn.Exec(ctx, q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	exec("CREATE DATABASE " + name + "_old TEMPLATE " + name)
	t.Cleanup(func() { exec("DROP DATABASE IF EXISTS " + name + "_old WITH (FORCE)") })
	return func() {
		exec("DROP DATABASE " + name + " WITH (FORCE)")
		exec("CREATE DATABASE " + name + " TEMPLATE " + name + "_old")
	}
}

// A database restored from an old backup does not know whom it stopped since.
// The server says so wherever it is asked, lets no call through and seals
// nothing, until a person decides. What was proven before stays proven.
func TestFaultRestoredBackup(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		p := newPlant(t, t.TempDir(), dsn)
		p.process.stop(t)
		restore := backup(t, dsn)
		p.again()
		p.mustCall()
		p.prove()
		p.api(t, "POST", "/agents/worker/suspend", map[string]any{}, nil)
		if status, body := p.call(); status != http.StatusForbidden {
			t.Fatalf("a suspended agent: %d %s", status, body)
		}
		p.process.kill()
		before := p.up.received()
		restore()
		for range 2 { // a restart does not make it forget
			p.again()
			p.rolledBack()
			p.process.kill()
		}
		p.again()
		p.rolledBack()
		if n := p.up.received(); n != before {
			t.Errorf("%d requests reached the upstream of an agent that is suspended", n-before)
		}
		p.api(t, "POST", "/agents/worker/suspend", map[string]any{}, nil)
		p.api(t, "POST", "/log/accept-rollback", map[string]any{"reason": "the disk died; the stops of the last hour are made again"}, nil)
		p.eventually(20*time.Second, "it is not ready", func() bool { status, _ := p.ready(); return status == http.StatusOK })
		if status, _ := p.call(); status != http.StatusForbidden {
			t.Errorf("the agent that was suspended again: %d", status)
		}
		p.api(t, "POST", "/agents/worker/resume", map[string]any{}, nil)
		p.recovers(20 * time.Second)
		p.oldProofs()
		p.newEra()
	})
}

// rolledBack checks that the server says what has happened to its database.
func (p *plant) rolledBack() {
	p.t.Helper()
	if status, body := p.ready(); status != http.StatusServiceUnavailable || !strings.Contains(body, "older than the log's newest checkpoint") {
		p.t.Errorf("readiness: %d %s", status, body)
	}
	var report struct {
		Checks []struct{ ID, Status, Detail, Fix string } `json:"checks"`
	}
	b, _, err := p.get("/api/v1/doctor")
	if err != nil {
		p.t.Fatal(err)
	}
	if err := json.Unmarshal(b, &report, json.MatchCaseInsensitiveNames(true)); err != nil {
		p.t.Fatal(err)
	}
	said := false
	for _, c := range report.Checks {
		said = said || c.ID == "seal" && c.Status == "fail" && strings.Contains(c.Detail, "restored from an older copy") && strings.Contains(c.Fix, "accept-rollback")
	}
	if !said {
		p.t.Errorf("the doctor does not say it: %s", b)
	}
	if status, body := p.call(); status != http.StatusServiceUnavailable || !strings.Contains(body, "accept-rollback") {
		p.t.Errorf("a call: %d %s", status, body)
	}
	if b, _, err := p.get("/api/v1/findings"); err != nil || !strings.Contains(string(b), "log.rolled_back") {
		p.t.Errorf("no finding: %v %s", err, b)
	}
}

// newEra checks that a new event is proven from the log's first key on.
func (p *plant) newEra() {
	p.t.Helper()
	p.eventually(20*time.Second, "nothing is found", func() bool { return len(p.search("limit=1").Events) > 0 }) // the index fills itself again
	id := p.search("limit=1").Events[0].ID
	var proof []byte
	p.eventually(20*time.Second, "nothing is sealed", func() bool {
		b, status, err := p.get("/api/v1/log/proof/" + id)
		proof = b
		return err == nil && status == http.StatusOK
	})
	if shown, err := tlog.VerifyProof(proof, tlog.Trust{Key: p.vkey}); err != nil || !strings.HasSuffix(shown.Origin, "/era-2") {
		p.t.Errorf("%+v, %v", shown, err)
	}
}
