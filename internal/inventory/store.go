package inventory

import (
	"context"
	"database/sql"
	"encoding/json/v2"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

// How many names are kept. Whoever invents names fills what is theirs, and shows
// in what was left out.
const (
	mostOfSource = 100  // of a kind, by one who showed them
	mostOfKind   = 5000 // of a kind
	mostLeft     = 500  // of those of whom it is counted apart what was left out
	keepObserved = 400 * 24 * time.Hour
)

// turnLane is the row of inventory_positions that counts the writes.
const turnLane = -1

// errMoved says that another replica read the same part of the log.
var errMoved = errors.New("another replica has read on")

type querier interface {
	Query(ctx context.Context, q string, args ...any) (*sql.Rows, error)
	QueryRow(ctx context.Context, q string, args ...any) *sql.Row
}

func each(ctx context.Context, q querier, scan func(*sql.Rows) error, text string, args ...any) error {
	rows, err := q.Query(ctx, text, args...)
	if err != nil {
		return storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return fmt.Errorf("inventory: read: %w", err)
		}
	}
	if err := rows.Err(); err != nil {
		return storage.ErrUnavailable.With(err)
	}
	return nil
}

// positions returns how far the log was read, and the number of writes.
func positions(ctx context.Context, db *storage.DB) (at audit.Cursor, turn int64, err error) {
	at = audit.Cursor{}
	err = each(ctx, db, func(r *sql.Rows) error {
		var lane, sn int64
		err := r.Scan(&lane, &sn)
		if lane == turnLane {
			turn = sn
		} else {
			at[lane] = sn
		}
		return err
	}, `SELECT lane, sn FROM inventory_positions`)
	return at, turn, err
}

// write adds what was seen, and moves the positions, if nobody did since turn.
// known reports whether a thing is registered: then it needs no room.
func write(ctx context.Context, tx *storage.Tx, turn int64, at audit.Cursor, found map[key]*seen, known func(key) bool, now time.Time) error {
	if err := takeTurn(ctx, tx, turn); err != nil {
		return err
	}
	for _, lane := range slices.Sorted(maps.Keys(at)) {
		if _, err := tx.Exec(ctx, `INSERT INTO inventory_positions (lane, sn) VALUES ($1, $2) ON CONFLICT (lane) DO UPDATE SET sn = excluded.sn`, lane, at[lane]); err != nil {
			return err
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(found), compareKeys) {
		if err := put(ctx, tx, k, *found[k], known); err != nil {
			return err
		}
	}
	_, err := tx.Exec(ctx, `DELETE FROM inventory_observed WHERE last < $1`, storage.Micros(now.Add(-keepObserved)))
	return err
}

func compareKeys(a, b key) int {
	if c := slices.Compare([]string{a.kind}, []string{b.kind}); c != 0 {
		return c
	}
	return slices.Compare([]string{a.name}, []string{b.name})
}

func takeTurn(ctx context.Context, tx *storage.Tx, turn int64) error {
	q, args := `UPDATE inventory_positions SET sn = sn + 1 WHERE lane = $1 AND sn = $2`, []any{turnLane, turn}
	if turn == 0 {
		q, args = `INSERT INTO inventory_positions (lane, sn) VALUES ($1, 1) ON CONFLICT (lane) DO NOTHING`, []any{turnLane}
	}
	err := tx.ExecOne(ctx, q, args...)
	if errors.Is(err, storage.ErrNotFound) {
		return errMoved
	}
	return err
}

// put adds to what is known of a thing. A new one needs room; without, it is
// counted as left out.
func put(ctx context.Context, tx *storage.Tx, k key, n seen, known func(key) bool) error {
	old, err := one(ctx, tx, k)
	if err != nil {
		return err
	}
	if old.times == 0 && slices.Contains(Kinds, k.kind) && !known(k) {
		room, err := hasRoom(ctx, tx, k, n)
		if err != nil {
			return err
		}
		if !room {
			return leaveOut(ctx, tx, k.kind, n)
		}
	}
	old.merge(n)
	return save(ctx, tx, k, old)
}

func hasRoom(ctx context.Context, tx *storage.Tx, k key, n seen) (bool, error) {
	var all, theirs int
	err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM inventory_observed WHERE kind = $1`, k.kind).Scan(&all)
	if err == nil {
		err = tx.QueryRow(ctx, `SELECT COUNT(*) FROM inventory_observed WHERE kind = $1 AND source = $2`, k.kind, n.source).Scan(&theirs)
	}
	return all < mostOfKind && theirs < mostOfSource, err
}

func leaveOut(ctx context.Context, tx *storage.Tx, kind string, n seen) error {
	k := key{kindMore + kind, n.source}
	old, err := one(ctx, tx, k)
	if err != nil {
		return err
	}
	if old.times == 0 {
		var rows int
		if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM inventory_observed WHERE kind = $1`, k.kind).Scan(&rows); err != nil {
			return err
		}
		if rows >= mostLeft { // too many who invent: they are counted together
			k.name = ""
			if old, err = one(ctx, tx, k); err != nil {
				return err
			}
		}
	}
	old.merge(n)
	return save(ctx, tx, k, old)
}

const columns = `source, sources, first, last, passed, times, first_event, last_event`

func scan(row interface{ Scan(dest ...any) error }, before ...any) (s seen, err error) {
	var sources string
	var first, last, passed int64
	if err := row.Scan(append(before, &s.source, &sources, &first, &last, &passed, &s.times, &s.firstEvent, &s.event)...); err != nil {
		return s, err
	}
	s.first, s.last, s.passed = storage.Time(first), storage.Time(last), storage.Time(passed)
	return s, json.Unmarshal([]byte(sources), &s.sources)
}

func one(ctx context.Context, tx *storage.Tx, k key) (seen, error) {
	s, err := scan(tx.QueryRow(ctx, `SELECT `+columns+` FROM inventory_observed WHERE kind = $1 AND name = $2`, k.kind, k.name))
	if storage.NoRows(err) {
		return seen{}, nil
	}
	return s, err
}

func save(ctx context.Context, tx *storage.Tx, k key, s seen) error {
	sources, err := json.Marshal(s.sources, json.FormatNilSliceAsNull(false))
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO inventory_observed (kind, name, `+columns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
		ON CONFLICT (kind, name) DO UPDATE SET sources = excluded.sources, first = excluded.first, last = excluded.last, passed = excluded.passed, times = excluded.times,
			first_event = excluded.first_event, last_event = excluded.last_event`,
		k.kind, k.name, s.source, string(sources), storage.Micros(s.first), storage.Micros(s.last), storage.Micros(s.passed), s.times, s.firstEvent, s.event)
	return err
}

// all returns every row.
func all(ctx context.Context, db *storage.DB) (map[key]seen, error) {
	out := map[key]seen{}
	err := each(ctx, db, func(r *sql.Rows) error {
		var k key
		s, err := scan(r, &k.kind, &k.name)
		out[k] = s
		return err
	}, `SELECT kind, name, `+columns+` FROM inventory_observed`)
	return out, err
}

// asides returns what is set aside now.
func asides(ctx context.Context, db *storage.DB, now time.Time) (map[key]Aside, error) {
	out := map[key]Aside{}
	err := each(ctx, db, func(r *sql.Rows) error {
		var k key
		var a Aside
		var until, at int64
		err := r.Scan(&k.kind, &k.name, &until, &a.Reason, &a.By, &at, &a.Event)
		a.Until, a.At = storage.Time(until), storage.Time(at)
		out[k] = a
		return err
	}, `SELECT kind, name, until, reason, by_name, at, event FROM inventory_asides WHERE until > $1`, storage.Micros(now))
	return out, err
}

func putAside(ctx context.Context, tx *storage.Tx, k key, a Aside, most int) error {
	var n int
	if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM inventory_asides WHERE until > $1`, storage.Micros(a.At)).Scan(&n); err != nil {
		return err
	}
	if n >= most {
		return ErrAsides
	}
	_, err := tx.Exec(ctx, `INSERT INTO inventory_asides (kind, name, until, reason, by_name, at, event) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (kind, name) DO UPDATE SET until = excluded.until, reason = excluded.reason, by_name = excluded.by_name, at = excluded.at, event = excluded.event`,
		k.kind, k.name, storage.Micros(a.Until), a.Reason, a.By, storage.Micros(a.At), a.Event)
	return err
}

func endAside(ctx context.Context, tx *storage.Tx, k key, now time.Time) error {
	err := tx.ExecOne(ctx, `UPDATE inventory_asides SET until = $1 WHERE kind = $2 AND name = $3 AND until > $1`, storage.Micros(now), k.kind, k.name)
	if errors.Is(err, storage.ErrNotFound) {
		return ErrNotAside
	}
	return err
}
