package audit_test

import (
	"context"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

// plainly rewrites the one payload of an event as versions without keys wrote
// it, commitment included. The chains are rechain's to mend.
func plainly(t *testing.T, db *storage.DB, event string, salt, body []byte) {
	t.Helper()
	ctx := context.Background()
	var lane, sn int64
	var record string
	if err := db.QueryRow(ctx, `SELECT lane, sn, record FROM events WHERE id = $1`, event).Scan(&lane, &sn, &record); err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(record, `"payloads":[{"digest":"`)
	if !ok {
		t.Fatalf("no payload in %s", record)
	}
	sum := audit.Commit(salt, body)
	record = before + `"payloads":[{"digest":"` + hex.EncodeToString(sum[:]) + rest[64:]
	execute(t, db, `UPDATE events SET record = $1 WHERE lane = $2 AND sn = $3`, []byte(record), lane, sn)
	execute(t, db, `UPDATE payloads SET salt = $1, body = $2, key = 0 WHERE lane = $3 AND sn = $4`, salt, body, lane, sn)
}

// rechain computes every chain anew.
func rechain(t *testing.T, db *storage.DB) {
	t.Helper()
	ctx := context.Background()
	rows, err := db.Query(ctx, `SELECT lane, sn, record FROM events ORDER BY lane, sn`)
	if err != nil {
		t.Fatal(err)
	}
	chains := map[int64]audit.Hash{}
	type row struct {
		lane, sn int64
		chain    audit.Hash
	}
	var all []row
	for rows.Next() {
		var r row
		var record []byte
		if err := rows.Scan(&r.lane, &r.sn, &record); err != nil {
			t.Fatal(err)
		}
		r.chain = audit.ChainHash(chains[r.lane], r.lane, r.sn, audit.LeafHash(record))
		chains[r.lane] = r.chain
		all = append(all, r)
	}
	rows.Close() //nolint:sqlclosecheck // before the writes that follow
	for _, r := range all {
		execute(t, db, `UPDATE events SET chain = $1 WHERE lane = $2 AND sn = $3`, r.chain[:], r.lane, r.sn)
	}
	for lane, chain := range chains {
		execute(t, db, `UPDATE lanes SET chain = $1 WHERE lane = $2`, chain[:], lane)
	}
}
