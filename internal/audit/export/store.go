package export

import (
	"context"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

type store struct{ db *storage.DB }

// state is what the database knows of a target.
type state struct {
	destination             string
	sent, rejected, skipped int64
	sentAt, failing, told   time.Time
	err                     string
	blocked                 string // event that the target refuses, or everything
	orders                  int64  // how often a person said to go on
	skip                    string // event to leave out
}

// everything is blocked by a target that takes nothing at all.
const everything = "everything"

func (s store) state(ctx context.Context, target string) (state, error) {
	var st state
	var sentAt, failing, told int64
	err := s.db.QueryRow(ctx, `SELECT destination, sent, rejected, skipped, sent_at, failing, told, error, blocked, orders, skip
		FROM export_targets WHERE name = $1`, target).
		Scan(&st.destination, &st.sent, &st.rejected, &st.skipped, &sentAt, &failing, &told, &st.err, &st.blocked, &st.orders, &st.skip)
	if storage.NoRows(err) {
		return st, nil
	}
	if err != nil {
		return st, storage.ErrUnavailable.With(err)
	}
	st.sentAt, st.failing, st.told = storage.Time(sentAt), storage.Time(failing), storage.Time(told)
	return st, nil
}

// ensure makes the row of a target, or brings its destination up to date, and
// reports whether that changed.
func (s store) ensure(ctx context.Context, tx *storage.Tx, target, destination string) (changed, isNew bool, err error) {
	res, err := tx.Exec(ctx, `INSERT INTO export_targets (name, destination, sent, rejected, skipped, sent_at, failing, told, error, blocked, orders, skip)
		VALUES ($1, $2, 0, 0, 0, 0, 0, 0, '', '', 0, '') ON CONFLICT (name) DO NOTHING`, target, destination)
	if err != nil {
		return false, false, err
	}
	if n, err := res.RowsAffected(); err != nil || n == 1 {
		return true, true, err
	}
	res, err = tx.Exec(ctx, `UPDATE export_targets SET destination = $1 WHERE name = $2 AND destination <> $1`, destination, target)
	if err != nil {
		return false, false, err
	}
	n, err := res.RowsAffected()
	return n == 1, false, err
}

func (s store) positions(ctx context.Context, target string) (audit.Cursor, error) {
	rows, err := s.db.Query(ctx, `SELECT lane, sn FROM export_positions WHERE target = $1`, target)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	c := audit.Cursor{}
	for rows.Next() {
		var lane, sn int64
		if err := rows.Scan(&lane, &sn); err != nil {
			return nil, storage.ErrUnavailable.With(err)
		}
		c[lane] = sn
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return c, nil
}

// advance moves a lane's position forward and reports whether it was at from.
func (s store) advance(ctx context.Context, tx *storage.Tx, target string, lane, from, to int64) (bool, error) {
	res, err := tx.Exec(ctx, `INSERT INTO export_positions (target, lane, sn) SELECT CAST($1 AS TEXT), CAST($2 AS BIGINT), CAST($3 AS BIGINT)
		WHERE CAST($4 AS BIGINT) = 0 OR EXISTS (SELECT 1 FROM export_positions WHERE target = $1 AND lane = $2)
		ON CONFLICT (target, lane) DO UPDATE SET sn = $3 WHERE export_positions.sn = $4`, target, lane, to, from)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

// delivered counts what was sent; the target works.
func (s store) delivered(ctx context.Context, tx *storage.Tx, target string, sent, rejected, skipped int64, note string, now time.Time) error {
	return tx.ExecOne(ctx, `UPDATE export_targets SET sent = sent + $1, rejected = rejected + $2, skipped = skipped + $3, sent_at = $4, failing = 0, error = $5, blocked = '',
		skip = CASE WHEN $3 > 0 THEN '' ELSE skip END WHERE name = $6`, sent, rejected, skipped, storage.Micros(now), note, target)
}

// failed keeps what is wrong, and since when.
func (s store) failed(ctx context.Context, target, problem, blocked string, now time.Time) error {
	return s.db.Tx(ctx, func(tx *storage.Tx) error {
		return tx.ExecOne(ctx, `UPDATE export_targets SET error = $1, blocked = $2, failing = CASE WHEN failing = 0 THEN $3 ELSE failing END WHERE name = $4`,
			problem, blocked, storage.Micros(now), target)
	})
}

// well takes back what failed kept.
func (s store) well(ctx context.Context, target string) error {
	return s.db.Tx(ctx, func(tx *storage.Tx) error {
		return tx.ExecOne(ctx, `UPDATE export_targets SET error = CASE WHEN failing = 0 THEN error ELSE '' END, failing = 0, blocked = '' WHERE name = $1`, target)
	})
}

// tell marks that a finding is open, or none (zero), and reports whether that
// is new.
func (s store) tell(ctx context.Context, tx *storage.Tx, target string, at time.Time) (bool, error) {
	res, err := tx.Exec(ctx, `UPDATE export_targets SET told = $1 WHERE name = $2 AND (told = 0) = $3`, storage.Micros(at), target, !at.IsZero())
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

// order tells whoever follows the target to go on, leaving out skip.
func (s store) order(ctx context.Context, tx *storage.Tx, target, skip string) error {
	return tx.ExecOne(ctx, `UPDATE export_targets SET orders = orders + 1, skip = $1, blocked = '' WHERE name = $2`, skip, target)
}

// file is the state of a target's open file in one directory.
type file struct {
	number  int64
	part    string // name of the file while it is written
	written int64  // bytes of it that count
	opened  time.Time
	closing bool // it is being handed over
}

func (s store) file(ctx context.Context, target, dir string) (file, error) {
	f := file{number: 1}
	var opened int64
	err := s.db.QueryRow(ctx, `SELECT number, part, written, opened, closing FROM export_files WHERE target = $1 AND dir = $2`, target, dir).
		Scan(&f.number, &f.part, &f.written, &opened, &f.closing)
	if err != nil && !storage.NoRows(err) {
		return f, storage.ErrUnavailable.With(err)
	}
	f.opened = storage.Time(opened)
	return f, nil
}

func (s store) setFile(ctx context.Context, tx *storage.Tx, target, dir string, f file) error {
	return tx.ExecOne(ctx, `INSERT INTO export_files (target, dir, number, part, written, opened, closing) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (target, dir) DO UPDATE SET number = $3, part = $4, written = $5, opened = $6, closing = $7`,
		target, dir, f.number, f.part, f.written, storage.Micros(f.opened), f.closing)
}
