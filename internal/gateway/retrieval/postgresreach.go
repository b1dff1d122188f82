package retrieval

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countersign/countersign/internal/gateway/reach"
)

// Limits on what a database is asked.
const (
	tellTime  = 10 * time.Second // for one statement
	mostRows  = 1_000_000        // that are counted
	countTime = 5 * time.Second
)

// told asks a PostgreSQL database in transactions that can change nothing.
func (e table) told(ctx context.Context, j job, t *reach.Told) error {
	ctx, cancel := within(ctx, j.call.Connection)
	defer cancel()
	conn, err := e.connect(ctx, j)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(ctx) // it is closed whatever it says
	}()
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly})
	if err != nil {
		return broken(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // nothing was changed
	if _, err := tx.Exec(ctx, fmt.Sprintf("SET LOCAL statement_timeout = %d", tellTime.Milliseconds())); err != nil {
		return broken(err)
	}
	// What the database is asked for is meant by these names and nothing else.
	if _, err := tx.Exec(ctx, "SET LOCAL search_path = pg_catalog"); err != nil {
		return broken(err)
	}
	for _, ask := range []func(context.Context, pgx.Tx, *reach.Told) error{role, memberships, databases} {
		if err := ask(ctx, tx, t); err != nil {
			return broken(err)
		}
	}
	mapped := j.call.Connection.Retrieval.Table
	if !strings.Contains(mapped, ".") {
		mapped = "public." + mapped
	}
	if err := tables(ctx, tx, mapped, t); err != nil {
		return broken(err)
	}
	t.Unknowable("what functions of the database do with the rights of their owners, and what row level security hides (tables with it are marked)")
	return e.countRows(ctx, tx, mapped, t)
}

// role asks who the credential is, and what it may do beside tables.
func role(ctx context.Context, tx pgx.Tx, t *reach.Told) error {
	var super, bypass, roles, dbs, replication, create bool
	err := tx.QueryRow(ctx, `SELECT r.rolname::text, r.rolsuper, r.rolbypassrls, r.rolcreaterole, r.rolcreatedb, r.rolreplication, has_database_privilege(current_database(), 'CREATE')
		FROM pg_roles r WHERE r.rolname = current_user`).Scan(&t.Identity, &super, &bypass, &roles, &dbs, &replication, &create)
	if err != nil {
		return err
	}
	for _, x := range []struct {
		has  bool
		name string
	}{{super, "superuser"}, {bypass, "bypass row level security"}, {roles, "create roles"}, {dbs, "create databases"}, {replication, "replication"}, {create, "create schemas in this database"}} {
		if x.has {
			t.Right(reach.Right{Name: x.name, From: reach.Upstream, Write: true})
		}
	}
	return nil
}

// memberships asks which roles the credential can act as. A superuser can act as
// all; that is said already.
func memberships(ctx context.Context, tx pgx.Tx, t *reach.Told) error {
	rows, err := tx.Query(ctx, `SELECT r.rolname::text FROM pg_roles r JOIN pg_roles me ON me.rolname = current_user
		WHERE NOT me.rolsuper AND r.oid <> me.oid AND pg_has_role(me.oid, r.oid, 'MEMBER') ORDER BY 1 LIMIT 200`)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, name := range names {
		// What an ordinary role may do is in the rights to tables already; of those
		// that PostgreSQL brings, these read.
		reads := !strings.HasPrefix(name, "pg_") || name == "pg_read_all_data" || name == "pg_read_all_settings" || name == "pg_read_all_stats" || name == "pg_stat_scan_tables" || name == "pg_monitor"
		t.Right(reach.Right{Name: "acts as " + name, From: reach.Upstream, Write: !reads})
	}
	return err
}

func databases(ctx context.Context, tx pgx.Tx, t *reach.Told) error {
	rows, err := tx.Query(ctx, `SELECT datname::text FROM pg_database
		WHERE datallowconn AND datname <> current_database() AND has_database_privilege(oid, 'CONNECT') ORDER BY 1 LIMIT 200`)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, name := range names {
		t.Add(reach.Thing{Kind: reach.Database, Name: name, Rights: []string{"connect"}})
	}
	if len(names) > 0 {
		t.Unknowable("what is in other databases of the server that the credential may connect to")
	}
	return err
}

// tables asks for every table, view and foreign table with which the credential may
// do something.
func tables(ctx context.Context, tx pgx.Tx, mapped string, t *reach.Told) error {
	rows, err := tx.Query(ctx, `SELECT name, estimate, guarded, rights FROM (
			SELECT n.nspname || '.' || c.relname AS name, c.reltuples::bigint AS estimate, c.relrowsecurity AS guarded,
				array_remove(ARRAY[
					CASE WHEN has_any_column_privilege(c.oid, 'SELECT') THEN 'select' END, CASE WHEN has_any_column_privilege(c.oid, 'INSERT') THEN 'insert' END,
					CASE WHEN has_any_column_privilege(c.oid, 'UPDATE') THEN 'update' END, CASE WHEN has_table_privilege(c.oid, 'DELETE') THEN 'delete' END,
					CASE WHEN has_table_privilege(c.oid, 'TRUNCATE') THEN 'truncate' END, CASE WHEN pg_has_role(c.relowner, 'USAGE') THEN 'owner' END], NULL) AS rights
			FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\_toast%' AND n.nspname NOT LIKE 'pg\_temp%'
				AND has_schema_privilege(n.oid, 'USAGE')) x
		WHERE cardinality(rights) > 0 ORDER BY name <> $1, name LIMIT $2`, mapped, reach.MostThings+1)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		x := reach.Thing{Kind: reach.Table}
		var estimate int64
		var guarded bool
		if err := rows.Scan(&x.Name, &estimate, &guarded, &x.Rights); err != nil {
			return err
		}
		x.Open = x.Name == mapped
		for _, r := range x.Rights {
			x.Write = x.Write || r != "select"
		}
		if estimate >= 0 && x.Rights[0] == "select" {
			x.Count, x.About = &estimate, true
		}
		if guarded {
			x.Rights = append(x.Rights, "row level security")
		}
		t.Add(x)
	}
	return rows.Err()
}

// countRows counts what the credential can read of the connection's own table, up to
// a limit. A database that does not manage that leaves its estimate.
func (table) countRows(ctx context.Context, tx pgx.Tx, mapped string, t *reach.Told) error {
	i := -1
	for k := range t.Things {
		if t.Things[k].Kind == reach.Table && t.Things[k].Open && t.Things[k].Rights[0] == "select" {
			i = k
		}
	}
	if i < 0 {
		return nil
	}
	if _, err := tx.Exec(ctx, fmt.Sprintf("SET LOCAL statement_timeout = %d", countTime.Milliseconds())); err != nil {
		return broken(err)
	}
	var n int64
	err := tx.QueryRow(ctx, "SELECT count(*) FROM (SELECT 1 FROM "+pgx.Identifier(strings.Split(mapped, ".")).Sanitize()+fmt.Sprintf(" LIMIT %d) x", mostRows)).Scan(&n)
	if err != nil {
		t.Unknowable("how many rows of the connection's own table the credential can read: the database did not count them")
		return nil //nolint:nilerr // it is said
	}
	t.Things[i].Count, t.Things[i].About = &n, n == mostRows
	return nil
}
