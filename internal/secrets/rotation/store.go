package rotation

import (
	"context"
	"database/sql"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

type querier interface {
	Query(ctx context.Context, q string, args ...any) (*sql.Rows, error)
}

const columns = `id, secret, secret_id, step, cause, reason, actor_id, actor, urgent, ref, version, attempts, next_try, error, started, updated`

const isOpen = `step IN ('create', 'set', 'test', 'finish')`

func rotationRows(ctx context.Context, q querier, where string, args ...any) ([]Rotation, error) {
	rows, err := q.Query(ctx, `SELECT `+columns+` FROM secret_rotations `+where, args...)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	out := []Rotation{}
	for rows.Next() {
		var r Rotation
		var urgent, next, started, updated int64
		if err := rows.Scan(&r.ID, &r.Secret, &r.secretID, &r.Step, &r.Cause, &r.Reason, &r.By.ID, &r.By.Name, &urgent, &r.Ref, &r.Version,
			&r.Attempts, &next, &r.Error, &started, &updated); err != nil {
			return nil, err
		}
		r.By.Kind = audit.KindUser
		if r.By.ID == "" {
			r.By.Kind = audit.KindSystem
		}
		r.Urgent, r.NextTry, r.Started, r.Updated = urgent != 0, storage.Time(next), storage.Time(started), storage.Time(updated)
		out = append(out, r)
	}
	return out, rows.Err()
}

func insertRotation(ctx context.Context, tx *audit.Tx, r Rotation) error {
	_, err := tx.Exec(ctx, `INSERT INTO secret_rotations (`+columns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, '', 0, 0, $10, '', $11, $11)`,
		r.ID, r.Secret, r.secretID, r.Step, r.Cause, r.Reason, r.By.ID, r.By.Name, number(r.Urgent), storage.Micros(r.NextTry), storage.Micros(r.Started))
	return err
}

// updateRotation stores what a step made of a rotation that stood at step from;
// storage.ErrNotFound if it does not stand there any more.
func updateRotation(ctx context.Context, tx *audit.Tx, r Rotation, from string) error {
	return tx.ExecOne(ctx, `UPDATE secret_rotations SET step = $1, ref = $2, version = $3, attempts = $4, next_try = $5, error = $6, updated = $7
		WHERE id = $8 AND step = $9`,
		r.Step, r.Ref, r.Version, r.Attempts, storage.Micros(r.NextTry), r.Error, storage.Micros(r.Updated), r.ID, from)
}

func hasten(ctx context.Context, tx *audit.Tx, id string, urgent bool, now time.Time) error {
	_, err := tx.Exec(ctx, `UPDATE secret_rotations SET next_try = $1, urgent = CASE WHEN $2 = 1 THEN 1 ELSE urgent END WHERE id = $3`,
		storage.Micros(now), number(urgent), id)
	return err
}

func leftoverRows(ctx context.Context, q querier, where string, args ...any) ([]Leftover, error) {
	rows, err := q.Query(ctx, `SELECT secret_id, version, secret, rotation, ref, urgent, due, attempts, error, created FROM secret_leftovers `+where, args...)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	var out []Leftover
	for rows.Next() {
		var l Leftover
		var urgent, due, created int64
		if err := rows.Scan(&l.secretID, &l.Version, &l.Secret, &l.Rotation, &l.Ref, &urgent, &due, &l.Attempts, &l.Error, &created); err != nil {
			return nil, err
		}
		l.Urgent, l.Due, l.Created = urgent != 0, storage.Time(due), storage.Time(created)
		out = append(out, l)
	}
	return out, rows.Err()
}

func putLeftover(ctx context.Context, tx *audit.Tx, l Leftover) error {
	_, err := tx.Exec(ctx, `INSERT INTO secret_leftovers (secret_id, version, secret, rotation, ref, urgent, due, attempts, error, created)
		VALUES ($1, $2, $3, $4, $5, $6, $7, 0, '', $8)
		ON CONFLICT (secret_id, version) DO UPDATE SET due = $7, urgent = $6`,
		l.secretID, l.Version, l.Secret, l.Rotation, l.Ref, number(l.Urgent), storage.Micros(l.Due), storage.Micros(l.Created))
	return err
}

func postponeLeftover(ctx context.Context, tx *audit.Tx, l Leftover) error {
	_, err := tx.Exec(ctx, `UPDATE secret_leftovers SET due = $1, attempts = $2, error = $3 WHERE secret_id = $4 AND version = $5`,
		storage.Micros(l.Due), l.Attempts, l.Error, l.secretID, l.Version)
	return err
}

func deleteLeftover(ctx context.Context, tx *audit.Tx, l Leftover) error {
	_, err := tx.Exec(ctx, `DELETE FROM secret_leftovers WHERE secret_id = $1 AND version = $2`, l.secretID, l.Version)
	return err
}

// overwritten forgets leftovers of the same name at the provider: it is used
// anew.
func overwritten(ctx context.Context, tx *audit.Tx, secretID, ref string) error {
	if ref == "" {
		return nil
	}
	_, err := tx.Exec(ctx, `DELETE FROM secret_leftovers WHERE secret_id = $1 AND ref = $2`, secretID, ref)
	return err
}

func number(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
