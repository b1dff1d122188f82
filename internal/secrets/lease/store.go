package lease

import (
	"context"
	"database/sql"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage"
)

type querier interface {
	Query(ctx context.Context, q string, args ...any) (*sql.Rows, error)
}

const columns = `id, secret, secret_id, kind, agent, connection, owner, call, holder, name, sealed, issued, expires, due, why, attempts, error`

func rows(ctx context.Context, q querier, now time.Time, where string, args ...any) ([]Lease, error) {
	found, err := q.Query(ctx, `SELECT `+columns+` FROM secret_leases `+where, args...)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer found.Close()
	out := []Lease{}
	for found.Next() {
		var l Lease
		var issued, expires, due int64
		if err := found.Scan(&l.ID, &l.Secret, &l.secretID, &l.Kind, &l.Agent, &l.Connection, &l.Owner, &l.Call, &l.holder, &l.Name, &l.sealed,
			&issued, &expires, &due, &l.Why, &l.Attempts, &l.Error); err != nil {
			return nil, err
		}
		l.Issued, l.Expires, l.due = storage.Time(issued), storage.Time(expires), storage.Time(due)
		l.settle(now)
		out = append(out, l)
	}
	return out, found.Err()
}

func insert(ctx context.Context, tx *audit.Tx, l Lease) error {
	_, err := tx.Exec(ctx, `INSERT INTO secret_leases (`+columns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, '', 0, '')`,
		l.ID, l.Secret, l.secretID, l.Kind, l.Agent, l.Connection, l.Owner, l.Call, l.holder, l.Name, l.sealed,
		storage.Micros(l.Issued), storage.Micros(l.Expires), storage.Micros(l.due))
	return err
}

// hasten makes a live lease due, and reports whether there was one.
func hasten(ctx context.Context, tx *audit.Tx, id, why string, due time.Time) (bool, error) {
	res, err := tx.Exec(ctx, `UPDATE secret_leases SET due = $1, why = $2 WHERE id = $3 AND due > $1`, storage.Micros(due), why, id)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

func postpone(ctx context.Context, tx *audit.Tx, l Lease) error {
	_, err := tx.Exec(ctx, `UPDATE secret_leases SET due = $1, attempts = $2, error = $3 WHERE id = $4`, storage.Micros(l.due), l.Attempts, l.Error, l.ID)
	return err
}

func remove(ctx context.Context, tx *audit.Tx, id string) error {
	_, err := tx.Exec(ctx, `DELETE FROM secret_leases WHERE id = $1`, id)
	return err
}

// reseal is a secrets.Resealer.
func reseal(ctx context.Context, b *secrets.Batch) error {
	old, err := rows(ctx, b.Tx, time.Time{}, `WHERE substr(sealed, 1, $1) = $2 AND id > $3 ORDER BY id LIMIT $4`, len(b.Prefix), b.Prefix, b.After, b.Limit)
	if err != nil {
		return err
	}
	for _, l := range old {
		b.Found, b.After = b.Found+1, l.ID
		sealed, err := b.Kept(l.label(), l.sealed)
		if err != nil {
			b.Fail("the lease " + l.ID)
			continue
		}
		if _, err := b.Tx.Exec(ctx, `UPDATE secret_leases SET sealed = $1 WHERE id = $2`, sealed, l.ID); err != nil {
			return err
		}
	}
	return nil
}
