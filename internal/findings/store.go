package findings

import (
	"context"
	"database/sql"
	"encoding/json/v2"
	"fmt"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

type querier interface {
	Query(ctx context.Context, q string, args ...any) (*sql.Rows, error)
}

// muted is until when a finding is muted, 0 if it is not. It takes the present as
// $1. Who may not close a finding cannot mute it either.
const muted = `COALESCE((SELECT MAX(m.until) FROM finding_mutes m WHERE m.until > $1 AND (m.rule = '' OR m.rule = f.rule) AND (m.object = '' OR m.object = f.object)
	AND (m.agent = '' OR m.agent = f.agent) AND (f.not_by = '' OR m.by_id <> f.not_by)), 0)`

const columns = `SELECT f.id, f.rule, f.severity, f.object, f.title, f.detail, f.events, f.status, f.opened, f.updated, f.closed, f.closed_by, f.reason, f.revision, f.not_by,
	f.agent, f.count, f.first_seen, f.last_seen, f.told, f.reopened, f.tune, f.history, ` + muted + ` FROM findings f`

// read returns findings; where begins its arguments at $2.
func read(ctx context.Context, q querier, now time.Time, where string, args ...any) ([]Finding, error) {
	rows, err := q.Query(ctx, columns+where, append([]any{storage.Micros(now)}, args...)...)
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
	var events, history string
	var opened, updated, closed, first, last, told, until int64
	if err = rows.Scan(&f.ID, &f.Rule, &f.Severity, &f.Object, &f.Title, &f.Detail, &events, &f.Status, &opened, &updated, &closed, &f.ClosedBy, &f.Reason, &f.revision, &f.NotBy,
		&f.Agent, &f.Count, &first, &last, &told, &f.Reopened, &f.Tune, &history, &until); err != nil {
		return f, err
	}
	f.Opened, f.Updated, f.Closed, f.told = storage.Time(opened), storage.Time(updated), storage.Time(closed), storage.Time(told)
	f.First, f.Seen = storage.Time(first), storage.Time(last)
	if f.State = f.Status; f.Status == Open && until > 0 {
		f.State, f.MutedTo = Muted, storage.Time(until)
	}
	if err = json.Unmarshal([]byte(history), &f.History); err != nil {
		return f, err
	}
	return f, json.Unmarshal([]byte(events), &f.Events)
}

// latest returns what is known of an object under a rule: the open finding, or
// else the one that was closed last.
func (s *Service) latest(ctx context.Context, q querier, rule, object string) ([]Finding, error) {
	return read(ctx, q, s.now(), ` WHERE f.rule = $2 AND f.object = $3 ORDER BY CASE WHEN f.status = 'open' THEN 0 ELSE 1 END, f.closed DESC, f.id DESC LIMIT 1`, rule, object)
}

// full reports whether so many findings of a rule are open that no more are made.
func full(ctx context.Context, tx *audit.Tx, rule string, most int) (bool, error) {
	var n int
	err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM (SELECT 1 AS one FROM findings WHERE rule = $1 AND status = 'open' LIMIT $2) AS found`, rule, most).Scan(&n)
	return n >= most, err
}

// insert reports whether it made a row; it does not when the same finding is
// open already. Like update it asks for a row back rather than for a count: a
// statement that touched nothing is no write, and needs no event.
func insert(ctx context.Context, tx *audit.Tx, f Finding) (bool, error) {
	events, err := marshal(f.Events)
	if err != nil {
		return false, err
	}
	return touched(tx.QueryRow(ctx, `INSERT INTO findings (id, rule, severity, object, title, detail, events, status, opened, updated, closed, closed_by, reason, revision, not_by,
			agent, count, first_seen, last_seen, told)
		VALUES ($1, $2, $3, $4, $5, $6, $7, 'open', $8, $8, 0, '', '', 1, $9, $10, $11, $8, $8, $8) ON CONFLICT (rule, object) WHERE status = 'open' DO NOTHING RETURNING id`,
		f.ID, f.Rule, f.Severity, f.Object, f.Title, f.Detail, events, storage.Micros(f.Opened), f.NotBy, f.Agent, f.Count))
}

// update reports whether f was still as it had been read.
func update(ctx context.Context, tx *audit.Tx, f Finding) (bool, error) {
	events, err := marshal(f.Events)
	if err != nil {
		return false, err
	}
	history, err := marshal(f.History)
	if err != nil {
		return false, err
	}
	return touched(tx.QueryRow(ctx, `UPDATE findings SET severity = $1, title = $2, detail = $3, events = $4, updated = $5, not_by = $6, agent = $7, count = $8, last_seen = $9, told = $10,
		status = $11, opened = $12, closed = $13, closed_by = $14, reason = $15, reopened = $16, tune = $17, history = $18, revision = revision + 1 WHERE id = $19 AND revision = $20 RETURNING id`,
		f.Severity, f.Title, f.Detail, events, storage.Micros(f.Updated), f.NotBy, f.Agent, f.Count, storage.Micros(f.Seen), storage.Micros(f.told),
		f.Status, storage.Micros(f.Opened), storage.Micros(f.Closed), f.ClosedBy, f.Reason, f.Reopened, f.Tune, history, f.ID, f.revision))
}

func touched(row *sql.Row) (bool, error) {
	var id string
	err := row.Scan(&id)
	if storage.NoRows(err) {
		return false, nil
	}
	return err == nil, err
}

// marshal writes a list as JSON; an empty one is [].
func marshal[T any](list []T) (string, error) {
	if list == nil {
		list = []T{}
	}
	b, err := json.Marshal(list, json.Deterministic(true))
	return string(b), err
}
