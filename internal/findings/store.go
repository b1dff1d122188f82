package findings

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

const columns = `SELECT id, rule, severity, object, title, detail, events, status, opened, updated, closed, closed_by, reason, revision, not_by FROM findings`

func read(ctx context.Context, q querier, where string, args ...any) ([]Finding, error) {
	rows, err := q.Query(ctx, columns+where, args...)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	out := []Finding{}
	for rows.Next() {
		f, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("findings: read a row: %w", err)
		}
		out = append(out, f)
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return out, nil
}

func scan(rows *sql.Rows) (f Finding, err error) {
	var events string
	var opened, updated, closed int64
	if err = rows.Scan(&f.ID, &f.Rule, &f.Severity, &f.Object, &f.Title, &f.Detail, &events, &f.Status, &opened, &updated, &closed, &f.ClosedBy, &f.Reason, &f.revision, &f.NotBy); err != nil {
		return f, err
	}
	f.Opened, f.Updated, f.Closed = storage.Time(opened), storage.Time(updated), storage.Time(closed)
	return f, json.Unmarshal([]byte(events), &f.Events)
}

func readOpen(ctx context.Context, q querier, rule, object string) ([]Finding, error) {
	return read(ctx, q, ` WHERE rule = $1 AND object = $2 AND status = 'open'`, rule, object)
}

// insert reports whether it made a row; it does not when the same finding is
// open already. Like update it asks for a row back rather than for a count: a
// statement that touched nothing is no write, and needs no event.
func insert(ctx context.Context, tx *audit.Tx, f Finding) (bool, error) {
	events, err := marshalEvents(f.Events)
	if err != nil {
		return false, err
	}
	return touched(tx.QueryRow(ctx, `INSERT INTO findings (id, rule, severity, object, title, detail, events, status, opened, updated, closed, closed_by, reason, revision, not_by)
		VALUES ($1, $2, $3, $4, $5, $6, $7, 'open', $8, $8, 0, '', '', 1, $9) ON CONFLICT (rule, object) WHERE status = 'open' DO NOTHING RETURNING id`,
		f.ID, f.Rule, f.Severity, f.Object, f.Title, f.Detail, events, storage.Micros(f.Opened), f.NotBy))
}

// update reports whether f was still as it had been read.
func update(ctx context.Context, tx *audit.Tx, f Finding) (bool, error) {
	events, err := marshalEvents(f.Events)
	if err != nil {
		return false, err
	}
	return touched(tx.QueryRow(ctx, `UPDATE findings SET severity = $1, title = $2, detail = $3, events = $4, updated = $5, not_by = $6, revision = revision + 1
		WHERE id = $7 AND revision = $8 RETURNING id`, f.Severity, f.Title, f.Detail, events, storage.Micros(f.Updated), f.NotBy, f.ID, f.revision))
}

func touched(row *sql.Row) (bool, error) {
	var id string
	err := row.Scan(&id)
	if storage.NoRows(err) {
		return false, nil
	}
	return err == nil, err
}

func marshalEvents(events []string) (string, error) {
	if events == nil {
		events = []string{}
	}
	b, err := json.Marshal(events)
	return string(b), err
}
