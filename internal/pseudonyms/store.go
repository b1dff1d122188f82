package pseudonyms

import (
	"context"
	"time"

	"github.com/countersign/countersign/internal/storage"
)

func put(ctx context.Context, db *storage.DB, r row, sealed []byte, now time.Time) error {
	return db.Tx(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO pseudonyms (agent_id, token, sealed, used) VALUES ($1, $2, $3, $4)
			ON CONFLICT (agent_id, token) DO UPDATE SET sealed = $3, used = $4`, r.agent, r.token, sealed, storage.Micros(now))
		return err
	})
}

func get(ctx context.Context, db *storage.DB, r row) (sealed []byte, err error) {
	err = db.QueryRow(ctx, `SELECT sealed FROM pseudonyms WHERE agent_id = $1 AND token = $2`, r.agent, r.token).Scan(&sealed)
	return sealed, err
}

func sweep(ctx context.Context, db *storage.DB, before time.Time) error {
	return db.Tx(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM pseudonyms WHERE used < $1`, storage.Micros(before))
		return err
	})
}
