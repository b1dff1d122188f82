package lifecycle

import (
	"context"
	"database/sql"
	"encoding/json/v2"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

// querier is a *storage.DB or a transaction.
type querier interface {
	Query(ctx context.Context, q string, args ...any) (*sql.Rows, error)
}

func collect[T any](ctx context.Context, q querier, scan func(*sql.Rows) (T, error), text string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, text, args...)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	out := []T{}
	for rows.Next() {
		one, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, one)
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return out, nil
}

func readAgentNames(ctx context.Context, q querier, text string, args ...any) ([]string, error) {
	return collect(ctx, q, func(rows *sql.Rows) (n string, err error) { return n, rows.Scan(&n) }, text, args...)
}

func readDepartures(ctx context.Context, q querier, where string, args ...any) ([]Departure, error) {
	return collect(ctx, q, func(rows *sql.Rows) (d Departure, err error) {
		var began, deadline, suspended int64
		if err = rows.Scan(&d.Agent, &d.Owner, &began, &deadline, &suspended); err != nil {
			return d, err
		}
		d.Began, d.Deadline = storage.Time(began), storage.Time(deadline)
		if d.before = suspended == wasSuspended; d.before {
			suspended = began
		}
		d.Suspended = storage.Time(suspended)
		return d, nil
	}, `SELECT agent, owner, began, deadline, suspended FROM departures`+where, args...)
}

func insertDeparture(ctx context.Context, tx *audit.Tx, d Departure) error {
	_, err := tx.Exec(ctx, `INSERT INTO departures (agent, owner, began, deadline, suspended) VALUES ($1, $2, $3, $4, 0)
		ON CONFLICT (agent) DO UPDATE SET owner = excluded.owner, began = excluded.began, deadline = excluded.deadline, suspended = 0`,
		d.Agent, d.Owner, storage.Micros(d.Began), storage.Micros(d.Deadline))
	return err
}

func readOffers(ctx context.Context, q querier, where string, args ...any) ([]Offer, error) {
	return collect(ctx, q, func(rows *sql.Rows) (o Offer, err error) {
		var created, expires int64
		err = rows.Scan(&o.Agent, &o.To, &o.By, &o.Reason, &created, &expires)
		o.Created, o.Expires = storage.Time(created), storage.Time(expires)
		return o, err
	}, `SELECT agent, offered, given_by, reason, created, expires FROM agent_offers`+where, args...)
}

func upsertOffer(ctx context.Context, tx *audit.Tx, o Offer) error {
	_, err := tx.Exec(ctx, `INSERT INTO agent_offers (agent, offered, given_by, reason, created, expires) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (agent) DO UPDATE SET offered = excluded.offered, given_by = excluded.given_by, reason = excluded.reason, created = excluded.created, expires = excluded.expires`,
		o.Agent, o.To, o.By, o.Reason, storage.Micros(o.Created), storage.Micros(o.Expires))
	return err
}

// readIdle returns since when agents count as used, where a person said so.
func readIdle(ctx context.Context, q querier) (map[string]time.Time, error) {
	type row struct {
		agent string
		since int64
	}
	rows, err := collect(ctx, q, func(rows *sql.Rows) (r row, err error) { return r, rows.Scan(&r.agent, &r.since) }, `SELECT agent, since FROM agent_idle`)
	out := make(map[string]time.Time, len(rows))
	for _, r := range rows {
		out[r.agent] = storage.Time(r.since)
	}
	return out, err
}

func readDecommissions(ctx context.Context, q querier, where string, args ...any) ([]Decommission, error) {
	return collect(ctx, q, func(rows *sql.Rows) (d Decommission, err error) {
		var created, ended int64
		var actor, removed, probes string
		if err = rows.Scan(&d.ID, &d.Agent, &d.AgentID, &d.By, &actor, &d.Reason, &d.State, &created, &ended, &d.Tries, &removed, &probes, &d.sealed, &d.revision); err != nil {
			return d, err
		}
		d.Created, d.Ended = storage.Time(created), storage.Time(ended)
		for text, into := range map[string]any{actor: &d.actor, removed: &d.Removed, probes: &d.Probes} {
			if err := json.Unmarshal([]byte(text), into); err != nil {
				return d, ErrStored.With(err)
			}
		}
		return d, nil
	}, `SELECT id, agent, agent_id, given_by, actor, reason, state, created, ended, tries, removed, probes, sealed, revision FROM decommissions`+where, args...)
}

func insertDecommission(ctx context.Context, tx *audit.Tx, d Decommission) error {
	_, err := tx.Exec(ctx, `INSERT INTO decommissions (id, agent, agent_id, given_by, actor, reason, state, created, ended, due, tries, removed, probes, sealed, revision)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, $8, 0, $9, $10, $11, 1)`,
		d.ID, d.Agent, d.AgentID, d.By, text(d.actor), d.Reason, d.State, storage.Micros(d.Created), text(d.Removed), text(d.Probes), d.sealed)
	return err
}

// saveDecommission writes what changes of d if it is still as it was read:
// ErrGone if not. Like observations elsewhere it asks for a row back, because
// what a probe found out so far is no change that needs an event.
func saveDecommission(ctx context.Context, tx *storage.Tx, d *Decommission, due time.Time) error {
	var id string
	err := tx.QueryRow(ctx, `UPDATE decommissions SET state = $1, ended = $2, due = $3, tries = $4, removed = $5, probes = $6, sealed = $7, revision = revision + 1
		WHERE id = $8 AND revision = $9 RETURNING id`,
		d.State, storage.Micros(d.Ended), storage.Micros(due), d.Tries, text(d.Removed), text(d.Probes), d.sealed, d.ID, d.revision).Scan(&id)
	if storage.NoRows(err) {
		return ErrGone
	}
	if err == nil {
		d.revision++
	}
	return err
}

// text is for plain values, which always marshal.
func text(v any) string {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return "null"
	}
	return string(b)
}
