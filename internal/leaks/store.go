package leaks

import (
	"context"
	"database/sql"
	"encoding/hex"
	"fmt"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

type canaryRow struct {
	Canary
	digest digest
}

type querier interface {
	Query(ctx context.Context, q string, args ...any) (*sql.Rows, error)
}

// readCanaries returns the canary called name, or all if name is empty.
func readCanaries(ctx context.Context, q querier, name string) ([]canaryRow, error) {
	rows, err := q.Query(ctx, `SELECT id, name, kind, placed_at, digest, created_by, created, last_used, uses FROM canaries WHERE $1 = '' OR name = $1 ORDER BY name`, name)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	var out []canaryRow
	for rows.Next() {
		var r canaryRow
		var sum string
		var created, used int64
		if err := rows.Scan(&r.ID, &r.Name, &r.Kind, &r.Where, &sum, &r.By, &created, &used, &r.Uses); err != nil {
			return nil, fmt.Errorf("leaks: read a row: %w", err)
		}
		if n, err := hex.Decode(r.digest[:], []byte(sum)); err != nil || n != len(r.digest) {
			return nil, fmt.Errorf("leaks: canary %s holds no digest", r.ID)
		}
		r.Created, r.LastUsed = storage.Time(created), storage.Time(used)
		out = append(out, r)
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return out, nil
}

func insertCanary(ctx context.Context, tx *audit.Tx, c Canary, d digest) error {
	_, err := tx.Exec(ctx, `INSERT INTO canaries (id, name, kind, placed_at, digest, created_by, created, last_used, uses) VALUES ($1, $2, $3, $4, $5, $6, $7, 0, 0)`,
		c.ID, c.Name, c.Kind, c.Where, hex.EncodeToString(d[:]), c.By, storage.Micros(c.Created))
	return err
}
