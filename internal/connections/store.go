package connections

import (
	"context"
	"database/sql"
	"encoding/json/v2"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/storage"
)

const connectionColumns = `id, name, kind, dialect, url, command, env, owner, secret, auth, description, allow_private, timeout_us, created, updated, discovered, capture, proposal, retrieval, inspect, stages`

const toolColumns = `id, connection, name, effect, status, definition, digest, drift, drift_digest, pinned_by, pinned, seen, subject, objects, template, proposal, flow, limits, undo, undo_window`

// newToolColumns are those that discovery writes: what a person declared of a
// tool stays as it is.
const newToolColumns = `id, connection, name, effect, status, definition, digest, drift, drift_digest, pinned_by, pinned, seen`

// querier is the part of a database and of a transaction that reads.
type querier interface {
	Query(ctx context.Context, q string, args ...any) (*sql.Rows, error)
	QueryRow(ctx context.Context, q string, args ...any) *sql.Row
}

type scanner interface{ Scan(dest ...any) error }

func scanConnection(row scanner) (Connection, error) {
	var c Connection
	var command, env, retrieval, inspect, stages string
	var timeout, created, updated, discovered int64
	err := row.Scan(&c.ID, &c.Name, &c.Kind, &c.Dialect, &c.URL, &command, &env, &c.Owner, &c.Secret, &c.Auth,
		&c.Description, &c.AllowPrivate, &timeout, &created, &updated, &discovered, &c.Capture, &c.Proposal, &retrieval, &inspect, &stages)
	if err != nil {
		return c, err
	}
	c.Timeout = time.Duration(timeout) * time.Microsecond
	c.Created, c.Updated, c.Discovered = storage.Time(created), storage.Time(updated), storage.Time(discovered)
	if err := json.Unmarshal([]byte(command), &c.Command); err != nil {
		return c, err
	}
	if err := json.Unmarshal([]byte(inspect), &c.Inspect); err != nil {
		return c, err
	}
	if err := json.Unmarshal([]byte(stages), &c.Stages); err != nil {
		return c, err
	}
	if len(c.Stages) == 0 {
		c.Stages = nil
	}
	if retrieval != "" {
		if err := json.Unmarshal([]byte(retrieval), &c.Retrieval); err != nil {
			return c, err
		}
	}
	return c, json.Unmarshal([]byte(env), &c.Env)
}

func scanTool(row scanner) (Tool, error) {
	var t Tool
	var definition, drift, objects, flow, limits, undo string
	var pinned, seen int64
	err := row.Scan(&t.ID, &t.Connection, &t.Name, &t.Effect, &t.Status, &definition, &t.Digest, &drift, &t.DriftDigest, &t.PinnedBy, &pinned, &seen, &t.References.Subject, &objects, &t.References.Template, &t.References.Proposal, &flow, &limits, &undo, &t.References.UndoWindow)
	if err != nil {
		return t, err
	}
	t.Definition, t.Drift = []byte(definition), []byte(drift)
	t.PinnedAt, t.SeenAt = storage.Time(pinned), storage.Time(seen)
	return t, errors.Join(json.Unmarshal([]byte(objects), &t.References.Objects), json.Unmarshal([]byte(flow), &t.References.Flow), json.Unmarshal([]byte(limits), &t.References.Limits), json.Unmarshal([]byte(undo), &t.References.Undo))
}

// connectionRow reads one connection; found is false if there is none.
func connectionRow(ctx context.Context, q querier, name string) (c Connection, found bool, err error) {
	c, err = scanConnection(q.QueryRow(ctx, `SELECT `+connectionColumns+` FROM connections WHERE name = $1`, name))
	if storage.NoRows(err) {
		return Connection{}, false, nil
	}
	return c, err == nil, err
}

func toolRow(ctx context.Context, q querier, connection, name string) (t Tool, found bool, err error) {
	t, err = scanTool(q.QueryRow(ctx, `SELECT `+toolColumns+` FROM tools WHERE connection = $1 AND name = $2`, connection, name))
	if storage.NoRows(err) {
		return Tool{}, false, nil
	}
	return t, err == nil, err
}

func connectionRows(ctx context.Context, q querier) ([]Connection, error) {
	return collect(scanConnection)(q.Query(ctx, `SELECT `+connectionColumns+` FROM connections`))
}

func toolRows(ctx context.Context, q querier) ([]Tool, error) {
	return collect(scanTool)(q.Query(ctx, `SELECT `+toolColumns+` FROM tools`))
}

func toolRowsOf(ctx context.Context, q querier, connection string) ([]Tool, error) {
	return collect(scanTool)(q.Query(ctx, `SELECT `+toolColumns+` FROM tools WHERE connection = $1`, connection))
}

func collect[T any](scan func(scanner) (T, error)) func(*sql.Rows, error) ([]T, error) {
	return func(rows *sql.Rows, err error) ([]T, error) {
		if err != nil {
			return nil, err
		}
		defer rows.Close()
		var all []T
		for rows.Next() {
			v, err := scan(rows)
			if err != nil {
				return nil, err
			}
			all = append(all, v)
		}
		return all, rows.Err()
	}
}

func putConnection(ctx context.Context, tx *storage.Tx, c Connection) error {
	command, err := json.Marshal(c.Command, json.FormatNilSliceAsNull(false))
	if err != nil {
		return err
	}
	env, err := json.Marshal(c.Env, json.Deterministic(true))
	if err != nil {
		return err
	}
	inspect, err := json.Marshal(c.Inspect, json.Deterministic(true), json.FormatNilMapAsNull(false))
	if err != nil {
		return err
	}
	stages, err := json.Marshal(c.Stages, json.FormatNilSliceAsNull(false))
	if err != nil {
		return err
	}
	retrieval := []byte{}
	if c.Retrieval != nil {
		if retrieval, err = json.Marshal(c.Retrieval, json.Deterministic(true)); err != nil {
			return err
		}
	}
	_, err = tx.Exec(ctx, `INSERT INTO connections (`+connectionColumns+`)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)
		ON CONFLICT (name) DO UPDATE SET dialect = excluded.dialect, url = excluded.url, command = excluded.command, env = excluded.env,
			owner = excluded.owner, secret = excluded.secret, auth = excluded.auth, description = excluded.description,
			allow_private = excluded.allow_private, timeout_us = excluded.timeout_us, capture = excluded.capture, proposal = excluded.proposal, retrieval = excluded.retrieval, inspect = excluded.inspect, stages = excluded.stages, updated = excluded.updated`,
		c.ID, c.Name, c.Kind, c.Dialect, c.URL, string(command), string(env), c.Owner, c.Secret, c.Auth,
		c.Description, c.AllowPrivate, c.Timeout.Microseconds(), storage.Micros(c.Created), storage.Micros(c.Updated), storage.Micros(c.Discovered), c.Capture, c.Proposal, string(retrieval), string(inspect), string(stages))
	return err
}

// claimDiscovery marks a connection as discovered; false if somebody was first.
func claimDiscovery(ctx context.Context, tx *storage.Tx, name string, at time.Time) (bool, error) {
	res, err := tx.Exec(ctx, `UPDATE connections SET discovered = $1 WHERE name = $2 AND discovered = 0`, storage.Micros(at), name)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

// putTool writes a tool as it now is. was is the status and seen digests it
// was read with: if another replica wrote meanwhile, nothing happens and the
// result is false.
func putTool(ctx context.Context, tx *storage.Tx, t Tool, was *Tool) (bool, error) {
	var res sql.Result
	var err error
	if was == nil {
		res, err = tx.Exec(ctx, `INSERT INTO tools (`+newToolColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
			ON CONFLICT (connection, name) DO NOTHING`,
			t.ID, t.Connection, t.Name, t.Effect, t.Status, string(t.Definition), t.Digest, string(t.Drift), t.DriftDigest,
			t.PinnedBy, storage.Micros(t.PinnedAt), storage.Micros(t.SeenAt))
	} else {
		res, err = tx.Exec(ctx, `UPDATE tools SET effect = $1, status = $2, definition = $3, digest = $4, drift = $5, drift_digest = $6,
			pinned_by = $7, pinned = $8, seen = $9
			WHERE connection = $10 AND name = $11 AND status = $12 AND digest = $13 AND drift_digest = $14 AND effect = $15`,
			t.Effect, t.Status, string(t.Definition), t.Digest, string(t.Drift), t.DriftDigest,
			t.PinnedBy, storage.Micros(t.PinnedAt), storage.Micros(t.SeenAt), t.Connection, t.Name, was.Status, was.Digest, was.DriftDigest, was.Effect)
	}
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

// putReferences writes what a person declared of a tool.
func putReferences(ctx context.Context, tx *storage.Tx, t Tool) error {
	objects, err := json.Marshal(orEmpty(t.References.Objects), json.Deterministic(true))
	if err != nil {
		return err
	}
	flow, err := json.Marshal(t.References.Flow, json.Deterministic(true))
	if err != nil {
		return err
	}
	limits, err := json.Marshal(orEmpty(t.References.Limits), json.Deterministic(true))
	if err != nil {
		return err
	}
	undo, err := json.Marshal(t.References.Undo, json.Deterministic(true))
	if err != nil {
		return err
	}
	return tx.ExecOne(ctx, `UPDATE tools SET subject = $1, objects = $2, template = $3, proposal = $4, flow = $5, limits = $6, undo = $7, undo_window = $8 WHERE connection = $9 AND name = $10`,
		t.References.Subject, string(objects), t.References.Template, t.References.Proposal, string(flow), string(limits), string(undo), t.References.UndoWindow, t.Connection, t.Name)
}

func lastUses(ctx context.Context, db *storage.DB) (map[string]time.Time, error) {
	rows, err := db.Query(ctx, `SELECT connection, last_used FROM connection_uses`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[string]time.Time{}
	for rows.Next() {
		var name string
		var at int64
		if err := rows.Scan(&name, &at); err != nil {
			return nil, err
		}
		out[name] = storage.Time(at)
	}
	return out, rows.Err()
}

// putUses stores last uses in microseconds, never an earlier one over a later.
func putUses(ctx context.Context, db *storage.DB, last map[string]int64) error {
	return db.Tx(ctx, func(tx *storage.Tx) error {
		for _, name := range slices.Sorted(maps.Keys(last)) { // in one order, so that replicas do not lock each other out
			_, err := tx.Exec(ctx, `INSERT INTO connection_uses (connection, last_used) SELECT name, $1 FROM connections WHERE name = $2
				ON CONFLICT (connection) DO UPDATE SET last_used = excluded.last_used WHERE connection_uses.last_used < excluded.last_used`, last[name], name)
			if err != nil {
				return err
			}
		}
		return nil
	})
}
