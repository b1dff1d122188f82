package passkeys

import (
	"context"
	"database/sql"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

// querier is a *storage.DB or a transaction.
type querier interface {
	Query(ctx context.Context, q string, args ...any) (*sql.Rows, error)
}

func collect[T any](ctx context.Context, q querier, scan func(*sql.Rows) (T, error), query string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, query, args...)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	out := []T{}
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, storage.ErrUnavailable.With(err)
		}
		out = append(out, v)
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return out, nil
}

func readPasskeys(ctx context.Context, q querier, where string, args ...any) ([]Passkey, error) {
	return collect(ctx, q, func(rows *sql.Rows) (p Passkey, err error) {
		var created, used int64
		err = rows.Scan(&p.ID, &p.Credential, &p.UserID, &p.User, &p.Name, &p.Key, &p.Count, &created, &used)
		p.Created, p.LastUsed = storage.Time(created), storage.Time(used)
		return p, err
	}, `SELECT id, credential, user_id, user_name, name, public_key, sign_count, created, last_used FROM passkeys`+where, args...)
}

func readTexts(ctx context.Context, q querier, query string, args ...any) ([]string, error) {
	return collect(ctx, q, func(rows *sql.Rows) (t string, err error) { return t, rows.Scan(&t) }, query, args...)
}

func insert(ctx context.Context, tx *audit.Tx, p Passkey) error {
	_, err := tx.Exec(ctx, `INSERT INTO passkeys (id, credential, user_id, user_name, name, public_key, sign_count, created, last_used) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0)`,
		p.ID, p.Credential, p.UserID, p.User, p.Name, p.Key, int64(p.Count), storage.Micros(p.Created))
	return err
}

// changed reports whether a statement changed a row.
func changed(r sql.Result, err error) (bool, error) {
	if err != nil {
		return false, err
	}
	n, err := r.RowsAffected()
	return n > 0, err
}
