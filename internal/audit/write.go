package audit

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/storage"
)

// head is a lane's row.
type head struct {
	holder    string
	epoch, sn int64
	chain     Hash
}

func (l *Log) head(ctx context.Context, lane int64) (head, error) {
	var h head
	var chain []byte
	err := l.db.QueryRow(ctx, `SELECT holder, epoch, sn, chain FROM lanes WHERE lane = $1`, lane).Scan(&h.holder, &h.epoch, &h.sn, &chain)
	if err != nil {
		return head{}, storage.ErrUnavailable.With(err)
	}
	if len(chain) != len(h.chain) {
		return head{}, ErrBroken.Say("lane %d of the log has a head without a chain", lane)
	}
	h.chain = Hash(chain)
	return h, nil
}

func (l *Log) contains(ctx context.Context, lane, sn int64, chain Hash) (bool, error) {
	var have []byte
	err := l.db.QueryRow(ctx, `SELECT chain FROM events WHERE lane = $1 AND sn = $2`, lane, sn).Scan(&have)
	if storage.NoRows(err) {
		return false, nil
	}
	if err != nil {
		return false, storage.ErrUnavailable.With(err)
	}
	return string(have) == string(chain[:]), nil
}

// touch writes a lane's row as it is, to see that it can be written.
func (l *Log) touch(ctx context.Context, c *claim) error {
	return l.db.Tx(ctx, func(tx *storage.Tx) error {
		res, err := tx.Exec(ctx, `UPDATE lanes SET until = `+job.Clock(l.db.Dialect())+` + $1 WHERE lane = $2 AND holder = $3 AND epoch = $4 AND sn = $5`,
			laneTTL.Microseconds(), c.lane, l.holder, c.epoch, c.sn)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(errFenced, err)
		}
		return nil
	})
}

// write chains batch to the end of c's lane and commits it in one transaction,
// durable on return. errFenced says that the lane's head is not as c knows it.
func (l *Log) write(ctx context.Context, c *claim, batch []*item) error {
	sn, chain, first := c.sn, c.chain, int64(0)
	ending := map[int64]bool{}
	for _, it := range batch {
		sn++
		chain = ChainHash(chain, c.lane, sn, it.entry.leaf)
		it.sn, it.chain = sn, chain
		if it.kind == intent && first == 0 {
			first = sn
		}
		if it.kind == outcome && it.of == c {
			ending[it.ofSN] = true
		}
	}
	cleanSN := c.cleanBefore(sn, first, ending)
	if l.lite != nil {
		return l.lite.write(ctx, l.holder, c, batch, cleanSN)
	}
	return l.writePostgres(ctx, c, batch, cleanSN)
}

// badData reports whether the store refuses what it was given, rather than
// being unable to write.
func badData(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return strings.HasPrefix(pg.Code, "22") || strings.HasPrefix(pg.Code, "23")
	}
	return storage.Duplicate(err)
}

// fencedInsert commits a batch in one statement and so in one round trip. The
// inserts happen only if the lane's row is still as this process left it.
const fencedInsert = `
WITH fence AS (
	UPDATE lanes SET sn = $1, chain = $2, clean_sn = $3, until = (extract(epoch from clock_timestamp()) * 1000000)::bigint + $4
	WHERE lane = $5 AND holder = $6 AND epoch = $7 AND sn = $8 RETURNING lane
), written AS (
	INSERT INTO events (lane, sn, id, type, call, run, agent, at, chain, record)
	SELECT fence.lane, e.* FROM fence, unnest($9::bigint[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::bigint[], $16::bytea[], $17::bytea[]) AS e
)`

const (
	fencedEvents   = fencedInsert + ` SELECT count(*) FROM fence`
	fencedPayloads = fencedInsert + `, beside AS (
	INSERT INTO payloads (lane, sn, n, name, key, body)
	SELECT fence.lane, p.* FROM fence, unnest($18::bigint[], $19::bigint[], $20::text[], $21::bigint[], $22::bytea[]) AS p
) SELECT count(*) FROM fence`
)

func (l *Log) writePostgres(ctx context.Context, c *claim, batch []*item, cleanSN int64) error {
	n := len(batch)
	sns, at := make([]int64, n), make([]int64, n)
	text := make([]string, 5*n)
	ids, types, calls, runs, agents := text[:n], text[n:2*n], text[2*n:3*n], text[3*n:4*n], text[4*n:]
	chains, records := make([][]byte, n), make([][]byte, n)
	var psn, pn, keys []int64
	var names []string
	var bodies [][]byte
	for i, it := range batch {
		ev := &it.entry.ev
		sns[i], ids[i], types[i], calls[i], runs[i], agents[i] = it.sn, ev.ID, string(ev.Type), ev.Call, ev.Run, ev.Agent
		at[i], chains[i], records[i] = storage.Micros(ev.Time), it.chain[:], it.entry.record
		for j, p := range it.entry.payloads {
			psn, pn, names = append(psn, it.sn), append(pn, int64(j)), append(names, p.name)
			keys, bodies = append(keys, p.key), append(bodies, p.buf)
		}
	}
	last := batch[n-1]
	args := []any{last.sn, last.chain[:], cleanSN, laneTTL.Microseconds(), c.lane, l.holder, c.epoch, c.sn,
		sns, ids, types, calls, runs, agents, at, chains, records}
	q := fencedEvents
	if len(psn) > 0 {
		q = fencedPayloads
		args = append(args, psn, pn, names, keys, bodies)
	}
	var ours int
	if err := l.db.Pool().QueryRow(ctx, q, args...).Scan(&ours); err != nil {
		return err
	}
	if ours == 0 {
		return errFenced
	}
	return nil
}

// chunks are how many rows one statement inserts: few statements, each
// prepared once.
var chunks = []int{64, 8, 1}

const (
	eventColumns   = 10
	payloadColumns = 6
)

// liteWriter appends on SQLite's one writing connection. It belongs to the
// committers, one at a time.
type liteWriter struct {
	db       *sql.DB
	turn     chan struct{} // held while writing; a channel, so that waiting ends with the context
	fence    *sql.Stmt
	events   map[int]*sql.Stmt
	payloads map[int]*sql.Stmt
	args     []any
}

func newLiteWriter(db *sql.DB) *liteWriter {
	return &liteWriter{db: db, turn: make(chan struct{}, 1), events: map[int]*sql.Stmt{}, payloads: map[int]*sql.Stmt{}}
}

// Close frees the statements. It accepts a nil writer.
func (w *liteWriter) Close() {
	if w == nil {
		return
	}
	for _, m := range []map[int]*sql.Stmt{w.events, w.payloads} {
		for n, st := range m {
			st.Close()
			delete(m, n)
		}
	}
	if w.fence != nil {
		w.fence.Close()
		w.fence = nil
	}
}

func (w *liteWriter) prepare(ctx context.Context) error {
	if w.fence != nil {
		return nil
	}
	for _, n := range chunks {
		var err error
		if w.events[n], err = w.db.PrepareContext(ctx, `INSERT INTO events (lane, sn, id, type, call, run, agent, at, chain, record) VALUES `+values(n, eventColumns)); err != nil {
			return err
		}
		if w.payloads[n], err = w.db.PrepareContext(ctx, `INSERT INTO payloads (lane, sn, n, name, key, body) VALUES `+values(n, payloadColumns)); err != nil {
			return err
		}
	}
	var err error
	w.fence, err = w.db.PrepareContext(ctx, `UPDATE lanes SET sn = ?, chain = ?, clean_sn = ? WHERE lane = ? AND holder = ? AND epoch = ? AND sn = ?`)
	return err
}

func values(rows, columns int) string {
	row := "(" + strings.TrimSuffix(strings.Repeat("?,", columns), ",") + ")"
	return strings.TrimSuffix(strings.Repeat(row+",", rows), ",")
}

func (w *liteWriter) write(ctx context.Context, holder string, c *claim, batch []*item, cleanSN int64) error {
	select {
	case w.turn <- struct{}{}:
		defer func() { <-w.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := w.prepare(ctx); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	tx, err := w.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer tx.Rollback() // no effect after Commit
	last := batch[len(batch)-1]
	res, err := tx.StmtContext(ctx, w.fence).ExecContext(ctx, last.sn, last.chain[:], cleanSN, c.lane, holder, c.epoch, c.sn)
	if err != nil {
		return fmt.Errorf("fence: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		return errors.Join(errFenced, err)
	}
	if err := w.insert(ctx, tx, c.lane, batch); err != nil {
		return fmt.Errorf("insert: %w", err)
	}
	return tx.Commit()
}

func (w *liteWriter) insert(ctx context.Context, tx *sql.Tx, lane int64, batch []*item) error {
	defer func() { clear(w.args) }() // keep no payload alive
	w.args = w.args[:0]
	for _, it := range batch {
		ev := &it.entry.ev
		w.args = append(w.args, lane, it.sn, ev.ID, string(ev.Type), ev.Call, ev.Run, ev.Agent, storage.Micros(ev.Time), it.chain[:], it.entry.record)
	}
	if err := execChunks(ctx, tx, w.events, w.args, eventColumns); err != nil {
		return err
	}
	w.args = w.args[:0]
	for _, it := range batch {
		for n, p := range it.entry.payloads {
			w.args = append(w.args, lane, it.sn, int64(n), p.name, p.key, p.buf)
		}
	}
	return execChunks(ctx, tx, w.payloads, w.args, payloadColumns)
}

func execChunks(ctx context.Context, tx *sql.Tx, by map[int]*sql.Stmt, args []any, columns int) error {
	for _, n := range chunks {
		if len(args) < n*columns {
			continue
		}
		st := tx.StmtContext(ctx, by[n])
		for len(args) >= n*columns {
			if _, err := st.ExecContext(ctx, args[:n*columns]...); err != nil {
				return err
			}
			args = args[n*columns:]
		}
	}
	return nil
}
