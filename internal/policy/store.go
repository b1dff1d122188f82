package policy

import (
	"context"
	"database/sql"
	"encoding/json/v2"
	"errors"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

// querier is what reads need: the database or a transaction.
type querier interface {
	Query(ctx context.Context, q string, args ...any) (*sql.Rows, error)
}

const fileColumns = `SELECT p.name, p.id, p.version, p.text, v.saved_by, v.reason, v.saved
	FROM policies p JOIN policy_versions v ON v.name = p.name AND v.version = p.version`

func readFiles(ctx context.Context, q querier, where string, args ...any) ([]File, error) {
	return collect(ctx, q, func(rows *sql.Rows) (File, error) {
		var f File
		var saved int64
		err := rows.Scan(&f.Name, &f.ID, &f.Version, &f.Text, &f.SavedBy, &f.Reason, &saved)
		f.Saved = storage.Time(saved)
		return f, err
	}, fileColumns+where+` ORDER BY p.name`, args...)
}

func readHistory(ctx context.Context, q querier, name string) ([]Version, error) {
	return collect(ctx, q, func(rows *sql.Rows) (Version, error) {
		var v Version
		var saved int64
		err := rows.Scan(&v.Version, &v.Text, &v.Deleted, &v.SavedBy, &v.Reason, &saved)
		v.Saved = storage.Time(saved)
		return v, err
	}, `SELECT version, text, deleted, saved_by, reason, saved FROM policy_versions WHERE name = $1 ORDER BY version DESC`, name)
}

func readGrants(ctx context.Context, q querier, where string, args ...any) ([]grantRow, error) {
	return collect(ctx, q, func(rows *sql.Rows) (grantRow, error) {
		var g grantRow
		var tools string
		var expires, created int64
		err := rows.Scan(&g.Name, &g.ID, &g.Agent, &g.Connection, &tools, &g.When, &expires, &g.GivenBy, &g.Reason, &created, &g.revision)
		g.Expires, g.Created = storage.Time(expires), storage.Time(created)
		return g, errors.Join(err, json.Unmarshal([]byte(tools), &g.Tools))
	}, `SELECT name, id, agent, connection, tools, condition, expires, given_by, reason, created, revision FROM grants`+where+` ORDER BY name`, args...)
}

type grantRow struct {
	Grant
	revision int64
}

func collect[T any](ctx context.Context, q querier, scan func(*sql.Rows) (T, error), text string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, text, args...)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	all := []T{}
	for rows.Next() {
		one, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return all, nil
}

// lastVersion returns the highest version a file ever had, 0 if none.
func lastVersion(ctx context.Context, tx *audit.Tx, name string) (int64, error) {
	var n int64
	err := tx.QueryRow(ctx, `SELECT COALESCE(MAX(version), 0) FROM policy_versions WHERE name = $1`, name).Scan(&n)
	return n, err
}

// writeVersion adds the next version to a file's history. Two writers that
// both saw the last one cannot both add the next.
func writeVersion(ctx context.Context, tx *audit.Tx, name string, v Version) error {
	_, err := tx.Exec(ctx, `INSERT INTO policy_versions (name, version, text, deleted, saved_by, reason, saved) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		name, v.Version, v.Text, v.Deleted, v.SavedBy, v.Reason, storage.Micros(v.Saved))
	if storage.Duplicate(err) {
		return ErrChanged
	}
	return err
}

func writeFile(ctx context.Context, tx *audit.Tx, f File) error {
	_, err := tx.Exec(ctx, `INSERT INTO policies (name, id, version, text) VALUES ($1, $2, $3, $4)
		ON CONFLICT (name) DO UPDATE SET version = excluded.version, text = excluded.text`, f.Name, f.ID, f.Version, f.Text)
	return err
}

func deleteFile(ctx context.Context, tx *audit.Tx, name string, version int64) error {
	return changed(tx.ExecOne(ctx, `DELETE FROM policies WHERE name = $1 AND version = $2`, name, version))
}

func insertGrant(ctx context.Context, tx *audit.Tx, g Grant, tools string) error {
	_, err := tx.Exec(ctx, `INSERT INTO grants (name, id, agent, connection, tools, condition, expires, given_by, reason, created, revision)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 1)`,
		g.Name, g.ID, g.Agent, g.Connection, tools, g.When, storage.Micros(g.Expires), g.GivenBy, g.Reason, storage.Micros(g.Created))
	if storage.Duplicate(err) {
		return ErrChanged
	}
	return err
}

func updateGrant(ctx context.Context, tx *audit.Tx, g Grant, tools string, revision int64) error {
	return changed(tx.ExecOne(ctx, `UPDATE grants SET agent = $1, connection = $2, tools = $3, condition = $4, expires = $5, given_by = $6, reason = $7, revision = revision + 1
		WHERE name = $8 AND revision = $9`, g.Agent, g.Connection, tools, g.When, storage.Micros(g.Expires), g.GivenBy, g.Reason, g.Name, revision))
}

func deleteGrant(ctx context.Context, tx *audit.Tx, name string, revision int64) error {
	return changed(tx.ExecOne(ctx, `DELETE FROM grants WHERE name = $1 AND revision = $2`, name, revision))
}

// changed turns a row that is no longer as it was read into a conflict.
func changed(err error) error {
	if errors.Is(err, storage.ErrNotFound) {
		return ErrChanged
	}
	return err
}

// micros rounds to what the store keeps, so that what is written equals what
// is read.
func micros(t time.Time) time.Time { return storage.Time(storage.Micros(t)) }

// readGrantVersions returns the states that a grant had, the newest first.
func readGrantVersions(ctx context.Context, q querier, name string) ([]GrantVersion, error) {
	return collect(ctx, q, func(rows *sql.Rows) (GrantVersion, error) {
		v := GrantVersion{Grant: Grant{Name: name}}
		var tools string
		var expires, saved int64
		err := rows.Scan(&v.Version, &v.Grant.ID, &v.Grant.Agent, &v.Grant.Connection, &tools, &v.Grant.When, &expires, &v.Revoked, &v.SavedBy, &v.Reason, &saved)
		v.Grant.Expires, v.Saved = storage.Time(expires), storage.Time(saved)
		v.Grant.GivenBy, v.Grant.Reason, v.Grant.Created = v.SavedBy, v.Reason, v.Saved
		return v, errors.Join(err, json.Unmarshal([]byte(tools), &v.Grant.Tools))
	}, `SELECT version, id, agent, connection, tools, condition, expires, revoked, saved_by, reason, saved FROM grant_versions WHERE name = $1 ORDER BY version DESC`, name)
}

// keepGrant adds the next version to a grant's history.
func keepGrant(ctx context.Context, tx *audit.Tx, g Grant, revoked bool, by, reason string, at time.Time) error {
	tools, err := json.Marshal(g.Tools)
	if err != nil {
		return err
	}
	var last int64
	if err := tx.QueryRow(ctx, `SELECT COALESCE(MAX(version), 0) FROM grant_versions WHERE name = $1`, g.Name).Scan(&last); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO grant_versions (name, version, id, agent, connection, tools, condition, expires, revoked, saved_by, reason, saved)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`,
		g.Name, last+1, g.ID, g.Agent, g.Connection, string(tools), g.When, storage.Micros(g.Expires), revoked, by, reason, storage.Micros(at))
	if storage.Duplicate(err) {
		return ErrChanged
	}
	return err
}
