package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/countersign/countersign/internal/fault"
)

// Errors of this package.
var (
	ErrUnavailable = fault.New(fault.Unavailable, "store_unavailable", "the database cannot be reached or written; nothing was changed, try again")
	ErrDSN         = fault.New(fault.Invalid, "bad_dsn", "the store must be a file path, sqlite:PATH or postgres://USER@HOST/DATABASE")
	ErrNotFound    = fault.New(fault.NotFound, "not_found", "no such row")
)

// Dialect names the engine, for the three places that need native code.
type Dialect int

// The engines.
const (
	SQLite Dialect = iota
	Postgres
)

func (d Dialect) String() string {
	if d == Postgres {
		return "postgres"
	}
	return "sqlite"
}

// DB is an open database. It is safe for concurrent use.
type DB struct {
	dialect     Dialect
	read, write *sql.DB
	pool        *pgxpool.Pool
	copier      *checkpointer // of SQLite's write-ahead log
}

// Dialect returns the engine.
func (db *DB) Dialect() Dialect { return db.dialect }

// Pool returns the native PostgreSQL pool, nil on SQLite. Only the log's
// append path may use it.
func (db *DB) Pool() *pgxpool.Pool { return db.pool }

// Writer returns the handle on which writes happen. On SQLite it is a single
// connection. Only the log's append path may use it; rooms use Tx.
func (db *DB) Writer() *sql.DB { return db.write }

// Open opens the database named by dsn, creating an SQLite file if it does not
// exist (mode 0600, its directory 0700), and brings its schema up to date.
func Open(ctx context.Context, dsn string) (*DB, error) {
	var db *DB
	var err error
	switch {
	case strings.HasPrefix(dsn, "postgres://"), strings.HasPrefix(dsn, "postgresql://"):
		db, err = openPostgres(ctx, dsn)
	case dsn == "", strings.Contains(dsn, "://"):
		return nil, ErrDSN
	default:
		db, err = openSQLite(strings.TrimPrefix(dsn, "sqlite:"))
	}
	if err != nil {
		return nil, err
	}
	if err := migrate(ctx, db); err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

// pingTimeout bounds the look at a connection that lay idle before it is used
// again. Without a bound every connection that died in silence costs its user
// a whole deadline, one after the other, long after the network is back.
const pingTimeout = 3 * time.Second

func openPostgres(ctx context.Context, dsn string) (*DB, error) {
	cfg, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, ErrDSN // the cause would show the DSN, and so its password
	}
	if cfg.MaxConns < 24 {
		cfg.MaxConns = 24
	}
	cfg.ConnConfig.ConnectTimeout = 5 * time.Second
	cfg.PingTimeout = pingTimeout
	cfg.ConnConfig.DialFunc = dialer().DialContext
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, ErrUnavailable.With(err)
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, ErrUnavailable.With(err)
	}
	std := stdlib.OpenDBFromPool(pool)
	return &DB{dialect: Postgres, read: std, write: std, pool: pool}, nil
}

// dialer finds out in about half a minute, not a quarter of an hour, that the
// other end is gone without a word.
func dialer() *net.Dialer {
	return &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 4}, Control: giveUpEarly}
}

func openSQLite(path string) (*DB, error) {
	if path == "" || strings.HasPrefix(path, ":memory:") {
		return nil, ErrDSN.Say("an in-memory store loses the log; give a file path")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, ErrUnavailable.With(err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, ErrUnavailable.With(err)
	}
	f.Close()
	write, err := sql.Open("sqlite", sqliteURI(path, "rw"))
	if err != nil {
		return nil, ErrUnavailable.With(err)
	}
	write.SetMaxOpenConns(1)
	write.SetMaxIdleConns(1)
	read, err := sql.Open("sqlite", sqliteURI(path, "ro"))
	if err != nil {
		write.Close()
		return nil, ErrUnavailable.With(err)
	}
	read.SetMaxOpenConns(8)
	read.SetMaxIdleConns(8)
	copier, err := startCheckpointer(path, write)
	if err != nil {
		write.Close()
		read.Close()
		return nil, ErrUnavailable.With(err)
	}
	return &DB{dialect: SQLite, read: read, write: write, copier: copier}, nil
}

// sqliteURI sets what durability and concurrency need: write-ahead log, fsync
// on every commit, writers that take the lock when they begin.
func sqliteURI(path, mode string) string {
	q := url.Values{}
	for _, p := range []string{"journal_mode(WAL)", "synchronous(FULL)", "busy_timeout(10000)", "foreign_keys(ON)", fmt.Sprintf("wal_autocheckpoint(%d)", fallbackAt), "temp_store(MEMORY)"} {
		q.Add("_pragma", p)
	}
	if mode == "ro" {
		q.Add("_pragma", "query_only(ON)")
	} else {
		q.Set("_txlock", "immediate")
	}
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + q.Encode()
}

// Close closes every connection.
func (db *DB) Close() error {
	if db.dialect == Postgres {
		err := db.write.Close()
		db.pool.Close()
		return err
	}
	return errors.Join(db.copier.stop(), db.read.Close(), db.write.Close())
}

// Ping reports whether the database answers.
func (db *DB) Ping(ctx context.Context) error {
	var one int
	if err := db.read.QueryRowContext(ctx, "SELECT 1").Scan(&one); err != nil {
		return ErrUnavailable.With(err)
	}
	return nil
}

// Query runs a read outside any transaction.
func (db *DB) Query(ctx context.Context, q string, args ...any) (*sql.Rows, error) {
	return db.read.QueryContext(ctx, q, args...)
}

// QueryPlanned is Query for reads whose best plan hangs on the arguments: how rare
// a word is, say. PostgreSQL would, from the sixth time on, plan a statement once
// for whatever arguments.
func (db *DB) QueryPlanned(ctx context.Context, q string, args ...any) (*sql.Rows, error) {
	if db.dialect == Postgres {
		args = append([]any{pgx.QueryExecModeExec}, args...)
	}
	return db.read.QueryContext(ctx, q, args...)
}

// QueryRow runs a read of one row outside any transaction.
func (db *DB) QueryRow(ctx context.Context, q string, args ...any) *sql.Row {
	return db.read.QueryRowContext(ctx, q, args...)
}

// QueryOnce runs one statement that writes, as a transaction of its own, in one
// round trip. Only on PostgreSQL, and only where Tx is measured to be too slow.
func (db *DB) QueryOnce(ctx context.Context, q string, args ...any) *sql.Row {
	return db.write.QueryRowContext(ctx, q, args...)
}

// Tx is a write transaction. It counts what it wrote, so that the log can
// refuse a change that nobody recorded.
type Tx struct {
	tx     *sql.Tx
	writes int
}

// Exec runs a statement.
func (tx *Tx) Exec(ctx context.Context, q string, args ...any) (sql.Result, error) {
	tx.writes++
	return tx.tx.ExecContext(ctx, q, args...)
}

// ExecOne runs a statement that must touch exactly one row; ErrNotFound if it
// touched none.
func (tx *Tx) ExecOne(ctx context.Context, q string, args ...any) error {
	res, err := tx.Exec(ctx, q, args...)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return errors.Join(ErrNotFound, err)
	}
	return nil
}

// Query runs a query inside the transaction.
func (tx *Tx) Query(ctx context.Context, q string, args ...any) (*sql.Rows, error) {
	return tx.tx.QueryContext(ctx, q, args...)
}

// QueryRow runs a query of one row inside the transaction.
func (tx *Tx) QueryRow(ctx context.Context, q string, args ...any) *sql.Row {
	return tx.tx.QueryRowContext(ctx, q, args...)
}

// Writes returns how many statements Exec has run.
func (tx *Tx) Writes() int { return tx.writes }

const (
	txAttempts = 8
	txTimeout  = time.Minute // of one attempt on PostgreSQL: a connection may be dead in silence
)

// Tx runs fn in a write transaction and commits if it returns nil. fn may run
// more than once (serialization failures, deadlocks, a busy file), so it must
// have no effect outside the transaction. On PostgreSQL the isolation is READ
// COMMITTED: compare-and-set with UPDATE … WHERE, never read-then-write.
func (db *DB) Tx(ctx context.Context, fn func(*Tx) error) error {
	var err error
	for attempt := range txAttempts {
		if err = db.once(ctx, fn); !retryable(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(time.Duration(attempt+1) * 5 * time.Millisecond):
		}
	}
	return ErrUnavailable.With(err)
}

func (db *DB) once(ctx context.Context, fn func(*Tx) error) error {
	if db.dialect == Postgres {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, txTimeout)
		defer cancel()
	}
	tx, err := db.write.BeginTx(ctx, nil)
	if err != nil {
		return ErrUnavailable.With(err)
	}
	defer tx.Rollback() // no effect after Commit
	if err := fn(&Tx{tx: tx}); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return ErrUnavailable.With(err)
	}
	return nil
}

func retryable(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code == "40001" || pg.Code == "40P01"
	}
	var lite *sqlite.Error
	return errors.As(err, &lite) && lite.Code()&0xff == sqlite3.SQLITE_BUSY
}

// Duplicate reports whether err says that a unique value exists already.
func Duplicate(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code == "23505"
	}
	var lite *sqlite.Error
	return errors.As(err, &lite) && (lite.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || lite.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
}

// Referenced reports whether err says that a row is named by, or names, another
// that is still or no longer there (a foreign key).
func Referenced(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code == "23503"
	}
	var lite *sqlite.Error
	return errors.As(err, &lite) && lite.Code() == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY
}

// NoRows reports whether err says that a query found nothing.
func NoRows(err error) bool { return errors.Is(err, sql.ErrNoRows) }

// Micros returns t as the BIGINT that columns hold: microseconds since 1970 in
// UTC, 0 for the zero time.
func Micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// Time returns the time of a BIGINT column, the zero time for 0.
func Time(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

// Redact returns dsn without its password, for people to read.
func Redact(dsn string) string {
	u, err := url.Parse(dsn)
	if err != nil || u.User == nil {
		if strings.Contains(dsn, "://") && err != nil {
			return fmt.Sprintf("%.8s…", dsn)
		}
		return dsn
	}
	return u.Redacted()
}
