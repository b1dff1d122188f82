package use

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"database/sql"
	"encoding/json/v2"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

type store struct {
	db   *storage.DB
	aead cipher.AEAD
}

func newStore(db *storage.DB, key []byte) (store, error) {
	block, err := aes.NewCipher(key[:32])
	if err != nil {
		return store{}, err
	}
	aead, err := cipher.NewGCM(block)
	return store{db, aead}, err
}

// state is what is written: up to where, and what it was made of.
type state struct {
	positions            audit.Cursor
	epoch, since, latest int64
}

// errMoved says that another replica wrote, or that it was begun again.
var errMoved = errors.New("what is written was moved by another")

type querier interface {
	Query(ctx context.Context, q string, args ...any) (*sql.Rows, error)
}

func each(ctx context.Context, q querier, scan func(*sql.Rows) error, text string, args ...any) error {
	rows, err := q.Query(ctx, text, args...)
	if err != nil {
		return storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return storage.ErrUnavailable.With(err)
		}
	}
	if err := rows.Err(); err != nil {
		return storage.ErrUnavailable.With(err)
	}
	return nil
}

func (s store) state(ctx context.Context) (state, error) {
	st := state{positions: audit.Cursor{}}
	values := map[string]*int64{"epoch": &st.epoch, "since": &st.since, "latest": &st.latest}
	err := each(ctx, s.db, func(r *sql.Rows) error {
		var lane, n int64
		var name string
		if err := r.Scan(&name, &lane, &n); err != nil {
			return err
		}
		if to := values[name]; to != nil {
			*to = n
		} else {
			st.positions[lane] = n
		}
		return nil
	}, `SELECT name, 0, value FROM use_state UNION ALL SELECT '', lane, sn FROM use_positions`)
	return st, err
}

func (s store) arguments(ctx context.Context) (map[pair][]argument, error) {
	out := map[pair][]argument{}
	err := each(ctx, s.db, func(r *sql.Rows) error {
		var p pair
		var a argument
		err := r.Scan(&p.agent, &p.connection, &p.tool, &a.path, &a.kind, &a.since)
		out[p] = append(out[p], a)
		return err
	}, `SELECT agent, connection, tool, path, kind, since FROM use_arguments ORDER BY agent, connection, tool, path`)
	return out, err
}

// watch writes down that arguments are looked at, and returns the next epoch.
func (s store) watch(ctx context.Context, epoch int64, p pair, args []argument) (int64, error) {
	err := s.db.Tx(ctx, func(tx *storage.Tx) error {
		if err := turn(ctx, tx, epoch); err != nil {
			return err
		}
		for _, a := range args {
			if _, err := tx.Exec(ctx, `INSERT INTO use_arguments (agent, connection, tool, path, kind, since) VALUES ($1, $2, $3, $4, $5, $6)`,
				p.agent, p.connection, p.tool, a.path, a.kind, a.since); err != nil {
				return err
			}
		}
		return nil
	})
	return epoch + 1, err
}

// turn moves the epoch on, if it is still this one.
func turn(ctx context.Context, tx *storage.Tx, epoch int64) error {
	q, args := `UPDATE use_state SET value = value + 1 WHERE name = 'epoch' AND value = $1`, []any{epoch}
	if epoch == 0 {
		q, args = `INSERT INTO use_state (name, value) VALUES ('epoch', 1) ON CONFLICT (name) DO NOTHING`, nil
	}
	err := tx.ExecOne(ctx, q, args...)
	if errors.Is(err, storage.ErrNotFound) {
		return errMoved
	}
	return err
}

func (s store) has(ctx context.Context, p pair) (bool, error) {
	var n int
	err := s.db.QueryRow(ctx, `SELECT count(*) FROM (SELECT 1 FROM use_days WHERE agent = $1 AND connection = $2 AND tool = $3 LIMIT 1) AS x`, p.agent, p.connection, p.tool).Scan(&n)
	if err != nil {
		return false, storage.ErrUnavailable.With(err)
	}
	return n > 0, nil
}

const dayColumns = `agent, connection, tool, rule, stage, day, allowed, denied, held, first_allowed, last_allowed, last_denied, last_held, last_event, args`

// days reads tallies that a condition selects.
func (s store) days(ctx context.Context, q querier, where string, args ...any) (map[key]*tally, error) {
	out := map[key]*tally{}
	err := each(ctx, q, func(r *sql.Rows) error {
		var k key
		var sealed []byte
		t := &tally{}
		if err := r.Scan(&k.agent, &k.connection, &k.tool, &k.rule, &k.stage, &k.day, &t.allowed, &t.denied, &t.held, &t.first, &t.last, &t.lastDenied, &t.lastHeld, &t.event, &sealed); err != nil {
			return err
		}
		t.args = s.open(k, sealed)
		out[k] = t
		return nil
	}, `SELECT `+dayColumns+` FROM use_days WHERE `+where, args...)
	return out, err
}

func (k key) context() []byte {
	return fmt.Appendf(nil, "%q %q %q %q %q %d", k.agent, k.connection, k.tool, k.rule, k.stage, k.day)
}

// seal encrypts what is kept of arguments, under its row's key.
func (s store) seal(k key, args map[string]*Observed) ([]byte, error) {
	if len(args) == 0 {
		return []byte{}, nil
	}
	plain, err := json.Marshal(args, json.Deterministic(true))
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, s.aead.NonceSize())
	rand.Read(nonce) // never fails
	return s.aead.Seal(nonce, nonce, plain, k.context()), nil
}

// open returns what was sealed; what cannot be read, as after a change of keys,
// is as if it had never been looked at, until the log is read again.
func (s store) open(k key, sealed []byte) map[string]*Observed {
	if len(sealed) < s.aead.NonceSize() {
		return nil
	}
	plain, err := s.aead.Open(nil, sealed[:s.aead.NonceSize()], sealed[s.aead.NonceSize():], k.context())
	var args map[string]*Observed
	if err != nil || json.Unmarshal(plain, &args) != nil {
		return nil
	}
	return args
}

// write adds a tail to what is written, and moves the positions, in tx.
func (s store) write(ctx context.Context, tx *storage.Tx, t *tail) error {
	if err := turn(ctx, tx, t.state.epoch); err != nil {
		return err
	}
	for _, lane := range slices.Sorted(maps.Keys(t.at)) {
		if _, err := tx.Exec(ctx, `INSERT INTO use_positions (lane, sn) VALUES ($1, $2) ON CONFLICT (lane) DO UPDATE SET sn = excluded.sn`, lane, t.at[lane]); err != nil {
			return err
		}
	}
	for name, v := range map[string]int64{"since": t.since, "latest": t.latest} {
		if _, err := tx.Exec(ctx, `INSERT INTO use_state (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, v); err != nil {
			return err
		}
	}
	keys := slices.SortedFunc(maps.Keys(t.tallies), compareKeys)
	if len(keys) == 0 {
		return nil
	}
	first, last := keys[0].day, keys[0].day
	for _, k := range keys {
		first, last = min(first, k.day), max(last, k.day)
	}
	there, err := s.days(ctx, tx, `day >= $1 AND day <= $2`, first, last)
	if err != nil {
		return err
	}
	for chunk := range slices.Chunk(keys, rowsAtOnce) {
		if err := s.put(ctx, tx, chunk, t.tallies, there); err != nil {
			return err
		}
	}
	return nil
}

// rowsAtOnce is how many rows one statement writes: 15 values each, far below
// what any engine takes.
const rowsAtOnce = 60

func (s store) put(ctx context.Context, tx *storage.Tx, keys []key, tallies, there map[key]*tally) error {
	var values strings.Builder
	var args []any
	for i, k := range keys {
		sum := &tally{}
		if old := there[k]; old != nil {
			sum.merge(old)
		}
		sum.merge(tallies[k])
		sealed, err := s.seal(k, sum.args)
		if err != nil {
			return err
		}
		row := []any{k.agent, k.connection, k.tool, k.rule, k.stage, k.day, sum.allowed, sum.denied, sum.held, sum.first, sum.last, sum.lastDenied, sum.lastHeld, sum.event, sealed}
		values.WriteString(strings.Repeat(", ", min(i, 1)) + "(")
		for n := range row {
			values.WriteString(strings.Repeat(", ", min(n, 1)) + "$" + strconv.Itoa(len(args)+n+1))
		}
		values.WriteByte(')')
		args = append(args, row...)
	}
	_, err := tx.Exec(ctx, `INSERT INTO use_days (`+dayColumns+`) VALUES `+values.String()+`
		ON CONFLICT (agent, connection, tool, rule, stage, day) DO UPDATE SET allowed = excluded.allowed, denied = excluded.denied, held = excluded.held,
			first_allowed = excluded.first_allowed, last_allowed = excluded.last_allowed, last_denied = excluded.last_denied, last_held = excluded.last_held,
			last_event = excluded.last_event, args = excluded.args`, args...)
	return err
}

// clear empties what is derived, in tx; what is looked at stays. From the
// beginning on, if all is true.
func (s store) clear(ctx context.Context, tx *storage.Tx, all bool) error {
	for _, q := range []string{`INSERT INTO use_state (name, value) VALUES ('epoch', 1) ON CONFLICT (name) DO UPDATE SET value = use_state.value + 1`, `DELETE FROM use_state WHERE name <> 'epoch'`, `DELETE FROM use_positions`, `DELETE FROM use_days`} {
		if _, err := tx.Exec(ctx, q); err != nil {
			return err
		}
	}
	if !all {
		return nil
	}
	_, err := tx.Exec(ctx, `UPDATE use_arguments SET since = 0`)
	return err
}

// forget removes, in tx, the values of a pair's day.
func (s store) forget(ctx context.Context, tx *storage.Tx, p pair, day int64) error {
	_, err := tx.Exec(ctx, `UPDATE use_days SET args = $1 WHERE agent = $2 AND connection = $3 AND tool = $4 AND day = $5`, []byte{}, p.agent, p.connection, p.tool, day)
	return err
}
