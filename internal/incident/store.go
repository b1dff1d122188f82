package incident

import (
	"context"
	"database/sql"
	"encoding/json/v2"
	"fmt"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

type querier interface {
	Query(ctx context.Context, q string, args ...any) (*sql.Rows, error)
}

func gather[T any](ctx context.Context, q querier, scan func(*sql.Rows, *T) error, text string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, text, args...)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	out := []T{}
	for rows.Next() {
		var v T
		if err := scan(rows, &v); err != nil {
			return nil, fmt.Errorf("incident: read a row: %w", err)
		}
		out = append(out, v)
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return out, nil
}

func read(ctx context.Context, q querier, where string, args ...any) ([]Incident, error) {
	return gather(ctx, q, func(rows *sql.Rows, i *Incident) error {
		var opened, closed int64
		var scope, reach string
		err := rows.Scan(&i.ID, &i.Title, &i.Severity, &i.State, &i.Finding, &scope, &reach, &opened, &i.OpenedBy, &i.Reason, &closed, &i.ClosedBy, &i.Conclusion)
		if err == nil {
			err = json.Unmarshal([]byte(scope), &i.Scope)
		}
		if err == nil {
			err = json.Unmarshal([]byte(reach), &i.reach)
		}
		i.Opened, i.Closed = storage.Time(opened), storage.Time(closed)
		return err
	}, `SELECT id, title, severity, state, finding, scope, reach, opened, opened_by, reason, closed, closed_by, conclusion FROM incidents`+where, args...)
}

func insert(ctx context.Context, tx *audit.Tx, i Incident) error {
	scope, err := json.Marshal(i.Scope, json.Deterministic(true))
	if err != nil {
		return err
	}
	reach, err := json.Marshal(i.reach, json.Deterministic(true), json.FormatNilSliceAsNull(false))
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO incidents (id, title, severity, state, finding, scope, reach, opened, opened_by, reason, closed, closed_by, conclusion)
		VALUES ($1, $2, $3, 'open', $4, $5, $6, $7, $8, $9, 0, '', '')`, i.ID, i.Title, i.Severity, i.Finding, string(scope), string(reach), storage.Micros(i.Opened), i.OpenedBy, i.Reason)
	return err
}

func readNotes(ctx context.Context, q querier, incident string) ([]Remark, error) {
	return gather(ctx, q, func(rows *sql.Rows, r *Remark) error {
		var at int64
		err := rows.Scan(&r.ID, &at, &r.By, &r.Text)
		r.At = storage.Time(at)
		return err
	}, `SELECT id, at, by_name, body FROM incident_notes WHERE incident = $1 ORDER BY id LIMIT 1000`, incident)
}
