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

func keyRows(ctx context.Context, q querier) (map[string][]byte, error) {
	rows, err := q.Query(ctx, `SELECT name, sealed FROM secret_keys`)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	out := map[string][]byte{}
	for rows.Next() {
		var name string
		var sealed []byte
		if err := rows.Scan(&name, &sealed); err != nil {
			return nil, err
		}
		out[name] = sealed
	}
	return out, rows.Err()
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

const columns = `id, name, owner, connection, hosts, version, sealed, created, rotated, last_used`

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
	var hosts string
	var created, rotated, used int64
	if err := rows.Scan(&r.ID, &r.Name, &r.Owner, &r.Connection, &hosts, &r.Version, &r.sealed, &created, &rotated, &used); err != nil {
		return r, err
	}
	if err := json.Unmarshal([]byte(hosts), &r.Hosts); err != nil {
		r.Broken = true // altered by hand: it will not open either
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

func insertSecret(ctx context.Context, tx *audit.Tx, r row) error {
	hosts, err := json.Marshal(r.Hosts)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO secrets (`+columns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
		r.ID, r.Name, r.Owner, r.Connection, string(hosts), r.Version, r.sealed, storage.Micros(r.Created), storage.Micros(r.Rotated), 0)
	return err
}

// updateSecret replaces the row that holds old, which no other row ever held.
func updateSecret(ctx context.Context, tx *audit.Tx, r row, old []byte) error {
	hosts, err := json.Marshal(r.Hosts)
	if err != nil {
		return err
	}
	err = tx.ExecOne(ctx, `UPDATE secrets SET owner = $1, connection = $2, hosts = $3, version = $4, sealed = $5, rotated = $6 WHERE id = $7 AND sealed = $8`,
		r.Owner, r.Connection, string(hosts), r.Version, r.sealed, storage.Micros(r.Rotated), r.ID, old)
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
