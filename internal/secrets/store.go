package secrets

import (
	"context"
	"database/sql"
	"encoding/json/v2"
	"errors"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

type querier interface {
	Query(ctx context.Context, q string, args ...any) (*sql.Rows, error)
}

// keyRows returns the sealed keyset and seed, and the keyset's generation.
func keyRows(ctx context.Context, q querier) (sealed map[string][]byte, generation int64, err error) {
	rows, err := q.Query(ctx, `SELECT name, sealed, generation FROM secret_keys`)
	if err != nil {
		return nil, 0, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	sealed = map[string][]byte{}
	for rows.Next() {
		var name string
		var b []byte
		var g int64
		if err := rows.Scan(&name, &b, &g); err != nil {
			return nil, 0, err
		}
		if sealed[name] = b; name == keysetRow {
			generation = g
		}
	}
	return sealed, generation, rows.Err()
}

func insertKey(ctx context.Context, tx *audit.Tx, name string, sealed []byte, now time.Time) error {
	_, err := tx.Exec(ctx, `INSERT INTO secret_keys (name, sealed, created) VALUES ($1, $2, $3)`, name, sealed, storage.Micros(now))
	return err
}

// row is a stored secret.
type row struct {
	Secret
	sealed []byte
}

const columns = `id, name, owner, connection, hosts, version, sealed, created, rotated, last_used, kind, source, settings, rotation, newest, ref`

func secretRows(ctx context.Context, q querier, where string, args ...any) ([]row, error) {
	rows, err := q.Query(ctx, `SELECT `+columns+` FROM secrets `+where+` ORDER BY name`, args...)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	var out []row
	for rows.Next() {
		r, err := scanRow(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

func scanRow(rows *sql.Rows) (r row, err error) {
	var hosts, settings, rotation string
	var created, rotated, used int64
	if err := rows.Scan(&r.ID, &r.Name, &r.Owner, &r.Connection, &hosts, &r.Version, &r.sealed, &created, &rotated, &used,
		&r.Kind, &r.Source, &settings, &rotation, &r.Newest, &r.Ref); err != nil {
		return r, err
	}
	for _, err := range []error{json.Unmarshal([]byte(hosts), &r.Hosts), json.Unmarshal([]byte(settings), &r.Settings), json.Unmarshal([]byte(rotation), &r.Rotation)} {
		r.Broken = r.Broken || err != nil // altered by hand: it will not open either
	}
	if len(r.Settings) == 0 {
		r.Settings = nil
	}
	if len(r.Rotation) == 0 {
		r.Rotation = nil
	}
	r.Created, r.Rotated, r.LastUsed = storage.Time(created), storage.Time(rotated), storage.Time(used)
	return r, nil
}

func secretRow(ctx context.Context, q querier, name string) (row, bool, error) {
	rows, err := secretRows(ctx, q, `WHERE name = $1`, name)
	if err != nil || len(rows) == 0 {
		return row{}, false, err
	}
	return rows[0], true, nil
}

// texts are the fields of a row that are stored as JSON.
func (r row) texts() (hosts, settings, rotation string, err error) {
	out := make([]string, 3)
	for i, v := range []any{r.Hosts, r.Settings, r.Rotation} {
		b, err := json.Marshal(v, json.Deterministic(true))
		if err != nil {
			return "", "", "", err
		}
		out[i] = string(b)
	}
	return out[0], out[1], out[2], nil
}

func insertSecret(ctx context.Context, tx *audit.Tx, r row) error {
	hosts, settings, rotation, err := r.texts()
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO secrets (`+columns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, $10, $11, $12, $13, $14, $15)`,
		r.ID, r.Name, r.Owner, r.Connection, hosts, r.Version, r.sealed, storage.Micros(r.Created), storage.Micros(r.Rotated),
		r.Kind, r.Source, settings, rotation, r.Newest, r.Ref)
	return err
}

// updateSecret replaces the row that is as old, which no other row ever was.
func updateSecret(ctx context.Context, tx *audit.Tx, r, old row) error {
	hosts, settings, rotation, err := r.texts()
	if err != nil {
		return err
	}
	err = tx.ExecOne(ctx, `UPDATE secrets SET owner = $1, connection = $2, hosts = $3, version = $4, sealed = $5, rotated = $6,
		kind = $7, source = $8, settings = $9, rotation = $10, newest = $11, ref = $12 WHERE id = $13 AND sealed = $14 AND newest = $15`,
		r.Owner, r.Connection, hosts, r.Version, r.sealed, storage.Micros(r.Rotated),
		r.Kind, r.Source, settings, rotation, r.Newest, r.Ref, r.ID, old.sealed, old.Newest)
	if errors.Is(err, storage.ErrNotFound) {
		return ErrRaced
	}
	return err
}

func deleteSecret(ctx context.Context, tx *audit.Tx, id string) error {
	err := tx.ExecOne(ctx, `DELETE FROM secrets WHERE id = $1`, id)
	if errors.Is(err, storage.ErrNotFound) {
		return ErrRaced
	}
	return err
}

func touchSecret(ctx context.Context, db *storage.DB, id string, at time.Time) error {
	return db.Tx(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE secrets SET last_used = $1 WHERE id = $2 AND last_used < $1`, storage.Micros(at), id)
		return err
	})
}

// versionRow is a version beside the current one.
type versionRow struct {
	Version
	secret string
	sealed []byte
}

func versionRows(ctx context.Context, q querier, secret string) ([]versionRow, error) {
	rows, err := q.Query(ctx, `SELECT secret, version, state, sealed, created, rotation, ref FROM secret_versions
		WHERE secret = $1 OR $1 = '' ORDER BY secret, version`, secret)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	var out []versionRow
	for rows.Next() {
		var v versionRow
		var created int64
		if err := rows.Scan(&v.secret, &v.Number, &v.State, &v.sealed, &created, &v.Rotation, &v.Ref); err != nil {
			return nil, err
		}
		v.Created = storage.Time(created)
		out = append(out, v)
	}
	return out, rows.Err()
}

func insertVersion(ctx context.Context, tx *audit.Tx, v versionRow) error {
	_, err := tx.Exec(ctx, `INSERT INTO secret_versions (secret, version, state, sealed, created, rotation, ref) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		v.secret, v.Number, v.State, v.sealed, storage.Micros(v.Created), v.Rotation, v.Ref)
	return err
}

func resealVersion(ctx context.Context, tx *audit.Tx, v versionRow) error {
	return tx.ExecOne(ctx, `UPDATE secret_versions SET sealed = $1 WHERE secret = $2 AND version = $3`, v.sealed, v.secret, v.Number)
}

// deleteVersions deletes the versions of a secret that are in a state; all if
// state is empty.
func deleteVersions(ctx context.Context, tx *audit.Tx, secret, state string) error {
	_, err := tx.Exec(ctx, `DELETE FROM secret_versions WHERE secret = $1 AND (state = $2 OR $2 = '')`, secret, state)
	return err
}
