package storage

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/fault"
)

// ErrNotEmpty refuses to fill a database that holds something.
var ErrNotEmpty = fault.New(fault.Conflict, "store_not_empty", "the database is not empty: give a new one")

// Snapshot is a consistent view of the whole database, while others write.
type Snapshot struct {
	tx *sql.Tx
	db *DB
}

// Snapshot runs fn on a consistent view: on PostgreSQL one REPEATABLE READ
// transaction, on SQLite one read transaction.
func (db *DB) Snapshot(ctx context.Context, fn func(*Snapshot) error) error {
	o := &sql.TxOptions{ReadOnly: true}
	if db.dialect == Postgres {
		o.Isolation = sql.LevelRepeatableRead
	}
	tx, err := db.read.BeginTx(ctx, o)
	if err != nil {
		return ErrUnavailable.With(err)
	}
	defer tx.Rollback() // nothing was written
	return fn(&Snapshot{tx: tx, db: db})
}

// kept reports whether a table is part of a copy of the database: not what is
// rebuilt from the log (the search index), nor what only tells which processes
// are alive now.
func kept(table string) bool {
	return !strings.HasPrefix(table, "search_") && !strings.HasPrefix(table, "sqlite_") && !slices.Contains([]string{"leases", "replicas", "goose_db_version"}, table)
}

// Tables returns the tables that make up a copy, each after those that it
// refers to.
func (s *Snapshot) Tables(ctx context.Context) ([]string, error) {
	return tables(ctx, s.tx, s.db.dialect)
}

type queryer interface {
	QueryContext(ctx context.Context, q string, args ...any) (*sql.Rows, error)
}

func tables(ctx context.Context, q queryer, d Dialect) ([]string, error) {
	names, refs := `SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name`,
		`SELECT m.name, f."table" FROM sqlite_master m JOIN pragma_foreign_key_list(m.name) f WHERE m.type = 'table'`
	if d == Postgres {
		names = `SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema() AND table_type = 'BASE TABLE' ORDER BY table_name`
		refs = `SELECT c.relname, r.relname FROM pg_constraint x JOIN pg_class c ON c.oid = x.conrelid JOIN pg_class r ON r.oid = x.confrelid
			WHERE x.contype = 'f' AND x.connamespace = current_schema()::regnamespace`
	}
	all, err := pairs(ctx, q, `SELECT name, '' FROM (`+names+`) AS t (name)`)
	if d == SQLite {
		all, err = pairs(ctx, q, `SELECT name, '' FROM (`+names+`)`)
	}
	if err != nil {
		return nil, err
	}
	edges, err := pairs(ctx, q, refs)
	if err != nil {
		return nil, err
	}
	var out []string
	var visit func(name string)
	visit = func(name string) {
		if slices.Contains(out, name) {
			return
		}
		for _, e := range edges {
			if e[0] == name && e[1] != name {
				visit(e[1])
			}
		}
		out = append(out, name)
	}
	for _, p := range all {
		if kept(p[0]) {
			visit(p[0])
		}
	}
	return out, nil
}

func pairs(ctx context.Context, q queryer, query string) ([][2]string, error) {
	rows, err := q.QueryContext(ctx, query)
	if err != nil {
		return nil, ErrUnavailable.With(err)
	}
	defer rows.Close()
	var out [][2]string
	for rows.Next() {
		var p [2]string
		if err := rows.Scan(&p[0], &p[1]); err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, rows.Err()
}

// Migrations returns the numbers of the migrations that were made, in order.
func (s *Snapshot) Migrations(ctx context.Context) ([]int64, error) { return migrated(ctx, s.tx) }

func migrated(ctx context.Context, q queryer) ([]int64, error) {
	rows, err := q.QueryContext(ctx, `SELECT DISTINCT version_id FROM goose_db_version WHERE is_applied ORDER BY version_id`)
	if err != nil {
		return nil, ErrUnavailable.With(err)
	}
	defer rows.Close()
	var out []int64
	for rows.Next() {
		var n int64
		if err := rows.Scan(&n); err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, rows.Err()
}

// Rows calls begin with the columns of a table and then each with every row.
// Values are int64, string, []byte, bool or nil. They may be kept.
func (s *Snapshot) Rows(ctx context.Context, table string, begin func(columns []string) error, each func(values []any) error) error {
	rows, err := s.tx.QueryContext(ctx, `SELECT * FROM "`+table+`"`) // a name from Tables; whoever reads a copy goes by the columns' names
	if err != nil {
		return ErrUnavailable.With(err)
	}
	defer rows.Close()
	kinds, err := rows.ColumnTypes()
	if err != nil {
		return err
	}
	columns := make([]string, len(kinds))
	for i, k := range kinds {
		columns[i] = k.Name()
	}
	if err := begin(columns); err != nil {
		return err
	}
	for rows.Next() {
		values, into := make([]any, len(kinds)), make([]any, len(kinds))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			return err
		}
		for i, k := range kinds {
			if values[i], err = portable(k.DatabaseTypeName(), values[i]); err != nil {
				return fmt.Errorf("%s.%s: %w", table, columns[i], err)
			}
		}
		if err := each(values); err != nil {
			return err
		}
	}
	return rows.Err()
}

// portable returns a value as it is on every engine.
func portable(kind string, v any) (any, error) {
	switch x := v.(type) {
	case int64:
		if strings.HasPrefix(kind, "BOOL") {
			return x != 0, nil
		}
		return x, nil
	case int32:
		return int64(x), nil
	case []byte:
		if kind == "TEXT" {
			return string(x), nil
		}
		return x, nil
	case nil, string, bool:
		return v, nil
	}
	return nil, fmt.Errorf("a value of the type %T cannot be copied", v)
}

// Fill is a transaction that fills an empty database.
type Fill struct {
	tx     *sql.Tx
	tables []string
}

// Fill runs fn in one transaction on a database that holds nothing, and commits
// if it returns nil. fn runs once. ErrNotEmpty if there is anything.
func (db *DB) Fill(ctx context.Context, fn func(*Fill) error) error {
	tx, err := db.write.BeginTx(ctx, nil)
	if err != nil {
		return ErrUnavailable.With(err)
	}
	defer tx.Rollback() // no effect after Commit
	f := &Fill{tx: tx}
	if f.tables, err = tables(ctx, tx, db.dialect); err != nil {
		return err
	}
	for _, t := range f.tables {
		var some bool
		if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM "`+t+`")`).Scan(&some); err != nil {
			return ErrUnavailable.With(err)
		}
		if some {
			return ErrNotEmpty
		}
	}
	if err := fn(f); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return ErrUnavailable.With(err)
	}
	return nil
}

// Migrations returns the numbers of the migrations that were made, in order.
func (f *Fill) Migrations(ctx context.Context) ([]int64, error) { return migrated(ctx, f.tx) }

// Exec runs a statement.
func (f *Fill) Exec(ctx context.Context, q string, args ...any) error {
	_, err := f.tx.ExecContext(ctx, q, args...)
	return err
}

// Into returns what inserts rows into a table. The names come from a file, so
// they must be those of a table and its columns.
func (f *Fill) Into(ctx context.Context, table string, columns []string) (func(values []any) error, error) {
	if !slices.Contains(f.tables, table) {
		return nil, ErrNotFound.Say("there is no table %.60q", table)
	}
	rows, err := f.tx.QueryContext(ctx, `SELECT * FROM "`+table+`" WHERE 1 = 0`)
	if err != nil {
		return nil, ErrUnavailable.With(err)
	}
	defer rows.Close()
	known, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	marks := make([]string, len(columns))
	for i, c := range columns {
		if !slices.Contains(known, c) {
			return nil, ErrNotFound.Say("the table %s has no column %.60q", table, c)
		}
		marks[i] = fmt.Sprintf("$%d", i+1)
	}
	q := `INSERT INTO "` + table + `" ("` + strings.Join(columns, `", "`) + `") VALUES (` + strings.Join(marks, ", ") + `)`
	return func(values []any) error {
		if len(values) != len(columns) {
			return ErrNotFound.Say("a row of %s has %d values for %d columns", table, len(values), len(columns))
		}
		_, err := f.tx.ExecContext(ctx, q, values...)
		return err
	}, nil
}
