package flow

import (
	"context"

	"github.com/countersign/countersign/internal/storage"
)

// row is one thing that a run gathered.
type row struct {
	id     string
	sealed []byte
}

func insert(ctx context.Context, db *storage.DB, run string, at int64, r row) error {
	return db.Tx(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO flow (id, run, at, sealed) VALUES ($1, $2, $3, $4)`, r.id, run, at, r.sealed)
		return err
	})
}

// ids returns the ids of what a run gathered since, in the order it was gathered by
// each replica.
func ids(ctx context.Context, db *storage.DB, run string, since int64) (out []string, err error) {
	rows, err := db.Query(ctx, `SELECT id FROM flow WHERE run = $1 AND at >= $2 ORDER BY id`, run, since)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		out = append(out, id)
	}
	return out, rows.Err()
}

func sealedOf(ctx context.Context, db *storage.DB, id string) (b []byte, err error) {
	err = db.QueryRow(ctx, `SELECT sealed FROM flow WHERE id = $1`, id).Scan(&b)
	return b, err
}

// forget removes what is older than before.
func forget(ctx context.Context, db *storage.DB, before int64) error {
	return db.Tx(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM flow WHERE at < $1`, before)
		return err
	})
}
