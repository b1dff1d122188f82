package server_test

import (
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

type finding struct {
	Rule     string `json:"rule"`
	Severity string `json:"severity"`
	Object   string `json:"object"`
	Detail   string `json:"detail"`
}

// finding waits for an open finding of a rule about something.
func (p *process) finding(t *testing.T, rule, about string) finding {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		var all []finding
		p.api(t, "GET", "/findings", nil, &all)
		for _, f := range all {
			if f.Rule == rule && strings.HasPrefix(f.Object, about) {
				return f
			}
		}
	}
	t.Fatalf("no finding %s about %s", rule, about)
	return finding{}
}

// What the ledger finds out about itself in the background becomes a finding
// that a person sees: here after a start, since the last look was long ago.
func TestAMismatchBecomesAFinding(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		data := t.TempDir()
		p := start(t, data, dsn, "")
		p.company(t)
		p.stop(t)
		db := storagetest.Open(t, dsn)
		err := db.Tx(t.Context(), func(tx *storage.Tx) error {
			if err := tx.ExecOne(t.Context(), `UPDATE events SET record = $1 WHERE type = 'agent.created'`, []byte(`{}`)); err != nil {
				return err
			}
			return tx.ExecOne(t.Context(), `INSERT INTO self_audit (name, part, lane, at, rounds, problems, ran) VALUES ('log', '', 0, 0, 0, 0, 1)`)
		})
		if err != nil {
			t.Fatal(err)
		}
		db.Close()
		p = start(t, data, dsn, p.token)
		f := p.finding(t, "log.mismatch", "log/log/lane ") // the index may not have come as far before: then it is another
		if f.Severity != "critical" || !strings.HasPrefix(f.Object, "log/log/lane ") || !strings.Contains(f.Detail, "does not match") {
			t.Errorf("%+v", f)
		}
	})
}

// A retention below the floor is seen.
func TestAShortRetentionBecomesAFinding(t *testing.T) {
	p := start(t, t.TempDir(), storagetest.SQLite(t), "")
	p.api(t, "PUT", "/log/retention", map[string]any{"days": 30}, nil)
	if f := p.finding(t, "log.retention_short", ""); f.Object == "" || !strings.Contains(f.Detail, "test") {
		t.Errorf("%+v", f)
	}
}
