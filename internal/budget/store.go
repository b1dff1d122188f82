package budget

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/storage"
)

// querier is a *storage.DB or a transaction.
type querier interface {
	Query(ctx context.Context, q string, args ...any) (*sql.Rows, error)
}

// gather reads rows with scan.
func gather[T any](ctx context.Context, q querier, scan func(*sql.Rows, *T) error, text string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, text, args...)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	out := []T{}
	for rows.Next() {
		var v T
		if err := scan(rows, &v); err != nil {
			return nil, fmt.Errorf("budget: read a row: %w", err)
		}
		out = append(out, v)
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return out, nil
}

func readBudgets(ctx context.Context, q querier, where string, args ...any) ([]Budget, error) {
	return gather(ctx, q, func(rows *sql.Rows, b *Budget) error {
		var created, updated int64
		err := rows.Scan(&b.ID, &b.Name, &b.Meter, &b.Agent, &b.Team, &b.Tool, &b.Each, &b.Period, &b.Zone, &b.Hard, &b.Soft, &b.Reason, &b.By, &created, &updated)
		b.Created, b.Updated = storage.Time(created), storage.Time(updated)
		return err
	}, `SELECT id, name, meter, agent, team, tool, per, period, zone, hard, soft, reason, set_by, created, updated FROM budgets`+where, args...)
}

func insertBudget(ctx context.Context, tx *audit.Tx, b Budget) error {
	_, err := tx.Exec(ctx, `INSERT INTO budgets (id, name, meter, agent, team, tool, per, period, zone, hard, soft, reason, set_by, created, updated)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)`,
		b.ID, b.Name, b.Meter, b.Agent, b.Team, b.Tool, b.Each, b.Period, b.Zone, b.Hard, b.Soft, b.Reason, b.By, storage.Micros(b.Created), storage.Micros(b.Updated))
	return err
}

// deleteBudget removes a budget, and what it counted if counted is set.
func deleteBudget(ctx context.Context, tx *audit.Tx, b Budget, counted bool) error {
	if _, err := tx.Exec(ctx, `DELETE FROM budgets WHERE id = $1`, b.ID); err != nil || !counted {
		return err
	}
	if _, err := tx.Exec(ctx, `DELETE FROM budget_reservations WHERE budget = $1`, b.ID); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `DELETE FROM budget_windows WHERE budget = $1`, b.ID)
	return err
}

// rower is a *storage.DB or a transaction.
type rower interface {
	QueryRow(ctx context.Context, q string, args ...any) *sql.Row
}

// clock is the time by which replicas agree.
func (s *Service) clock(ctx context.Context, tx rower) (time.Time, error) {
	if s.o.Now != nil {
		return s.o.Now().UTC().Truncate(time.Microsecond), nil
	}
	var us int64
	if err := tx.QueryRow(ctx, `SELECT `+job.Clock(s.db.Dialect())).Scan(&us); err != nil {
		return time.Time{}, storage.ErrUnavailable.With(err)
	}
	return storage.Time(us), nil
}

// key names one period of one part of a budget.
type key struct {
	budget, part string
	start        int64
}

func (k key) compare(o key) int {
	switch {
	case k.budget != o.budget:
		return strings.Compare(k.budget, o.budget)
	case k.part != o.part:
		return strings.Compare(k.part, o.part)
	case k.start < o.start:
		return -1
	case k.start > o.start:
		return 1
	}
	return 0
}

// hold adds amount to what is reserved in a window, makes it if it is not there,
// keeps it locked until the transaction's end, and returns what was spent and
// reserved before.
func hold(ctx context.Context, tx *storage.Tx, k key, ends, amount int64) (spent, reserved int64, err error) {
	err = tx.QueryRow(ctx, `INSERT INTO budget_windows (budget, part, start, ends, spent, reserved, told) VALUES ($1, $2, $3, $4, 0, $5, 0)
		ON CONFLICT (budget, part, start) DO UPDATE SET reserved = budget_windows.reserved + $5 RETURNING spent, reserved`,
		k.budget, k.part, k.start, ends, amount).Scan(&spent, &reserved)
	return spent, reserved - amount, err
}

// atOnce reserves for one call, all of it (1) or nothing (0), if the database's
// clock is in the periods that are named. Where only some of it fits it divides by
// zero: what was held is taken back with the statement. A window is locked by the
// update that looks whether there is room, in the order of $2. What is not synced
// here is with the intent, see unsynced.
const atOnce = `
WITH quick AS (SELECT set_config('synchronous_commit', 'off', true) AS v, (extract(epoch from clock_timestamp()) * 1000000)::bigint AS now),
want AS (
	SELECT t.*, quick.now FROM quick, unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[], $8::bigint[])
		WITH ORDINALITY AS t (budget, part, start, ends, hard, meter, amount, n) WHERE quick.v IS NOT NULL
), held AS (
	INSERT INTO budget_windows (budget, part, start, ends, spent, reserved, told)
	SELECT budget, part, start, ends, 0, amount, 0 FROM want WHERE now >= start AND (ends = 0 OR now < ends) AND (hard = 0 OR amount <= hard) ORDER BY n
	ON CONFLICT (budget, part, start) DO UPDATE SET reserved = budget_windows.reserved + EXCLUDED.reserved
		WHERE EXISTS (SELECT 1 FROM want w WHERE w.budget = budget_windows.budget AND
			(w.hard = 0 OR budget_windows.spent < w.hard AND budget_windows.reserved <= w.hard AND w.amount <= w.hard - budget_windows.spent - budget_windows.reserved))
	RETURNING budget
), kept AS (
	INSERT INTO budget_reservations (call, budget, part, start, meter, amount, at, freed)
	SELECT $1, budget, part, start, meter, amount, now, 0 FROM want WHERE (SELECT count(*) FROM held) = (SELECT count(*) FROM want) RETURNING budget
)
SELECT CASE h WHEN w THEN 1 WHEN 0 THEN 0 ELSE 1 / (h - h) END FROM (SELECT (SELECT count(*) FROM held) AS h, (SELECT count(*) FROM want) AS w, (SELECT count(*) FROM kept)) AS n`

// holdAtOnce reserves items, which are sorted, for a call, each in the period that
// now is in, and reports whether it did. If not nothing is reserved, unless the
// connection broke.
func holdAtOnce(ctx context.Context, db *storage.DB, call string, items []item, now time.Time) bool {
	n := len(items)
	text, numbers := make([]string, 3*n), make([]int64, 4*n)
	budgets, parts, meters := text[:n], text[n:2*n], text[2*n:]
	starts, ends, hards, amounts := numbers[:n], numbers[n:2*n], numbers[2*n:3*n], numbers[3*n:]
	for i, it := range items {
		start, end := it.budget.window(now)
		budgets[i], parts[i], meters[i] = it.budget.ID, it.part, it.budget.Meter
		starts[i], ends[i], hards[i], amounts[i] = storage.Micros(start), storage.Micros(end), it.budget.Hard, it.amount
	}
	var done int
	err := db.QueryOnce(ctx, atOnce, call, budgets, parts, starts, ends, hards, meters, amounts).Scan(&done)
	return err == nil && done == 1
}

// readWindow returns what was spent and is reserved in a window: nothing if it has
// not begun.
func readWindow(ctx context.Context, tx rower, k key) (spent, reserved int64, err error) {
	err = tx.QueryRow(ctx, `SELECT spent, reserved FROM budget_windows WHERE budget = $1 AND part = $2 AND start = $3`, k.budget, k.part, k.start).Scan(&spent, &reserved)
	if storage.NoRows(err) {
		return 0, 0, nil
	}
	return spent, reserved, err
}

// unhold takes amount from what is reserved again.
func unhold(ctx context.Context, tx *storage.Tx, k key, amount int64) error {
	_, err := tx.Exec(ctx, `UPDATE budget_windows SET reserved = reserved - $4 WHERE budget = $1 AND part = $2 AND start = $3`, k.budget, k.part, k.start, amount)
	return err
}

// mostSpent is where a window stops counting, far from where numbers end.
const mostSpent = math.MaxInt64 / 2

// spend turns what was reserved into what was spent and returns what is spent
// then. A window that was deleted with its budget is no error.
func spend(ctx context.Context, tx *storage.Tx, k key, reserved, spent int64) (now int64, told int64, err error) {
	err = tx.QueryRow(ctx, `UPDATE budget_windows SET reserved = reserved - $4, spent = CASE WHEN spent > $6 THEN $7 ELSE spent + $5 END
		WHERE budget = $1 AND part = $2 AND start = $3 RETURNING spent, told`, k.budget, k.part, k.start, reserved, spent, mostSpent-spent, int64(mostSpent)).Scan(&now, &told)
	if storage.NoRows(err) {
		return 0, 0, nil
	}
	return now, told, err
}

// chunks are how many reservations one statement inserts: few statements.
var chunks = []int{32, 4, 1}

const columns = 8

// insertReservations adds rows of columns values each.
func insertReservations(ctx context.Context, tx *storage.Tx, args []any) error {
	for _, n := range chunks {
		if len(args) < n*columns {
			continue
		}
		var rows []string
		for r := range n {
			var row []string
			for c := range columns {
				row = append(row, fmt.Sprintf("$%d", r*columns+c+1))
			}
			rows = append(rows, "("+strings.Join(row, ", ")+")")
		}
		q := `INSERT INTO budget_reservations (call, budget, part, start, meter, amount, at, freed) VALUES ` + strings.Join(rows, ", ")
		for len(args) >= n*columns {
			if _, err := tx.Exec(ctx, q, args[:n*columns]...); err != nil {
				return err
			}
			args = args[n*columns:]
		}
	}
	return nil
}

// reservation is a row.
type reservation struct {
	key
	meter  string
	amount int64
	freed  bool
}

// takeReservations removes what is reserved for a call and returns it: whoever
// comes second gets none.
func takeReservations(ctx context.Context, tx *storage.Tx, call string) ([]reservation, error) {
	return gather(ctx, tx, scanReservation, `DELETE FROM budget_reservations WHERE call = $1 RETURNING budget, part, start, meter, amount, freed`, call)
}

// freeReservations marks what is reserved for a call as not held any more, and
// returns it: whoever comes second gets none.
func freeReservations(ctx context.Context, tx *storage.Tx, call string, now time.Time) ([]reservation, error) {
	return gather(ctx, tx, scanReservation, `UPDATE budget_reservations SET freed = $2 WHERE call = $1 AND freed = 0 RETURNING budget, part, start, meter, amount, 0`, call, storage.Micros(now))
}

func scanReservation(rows *sql.Rows, r *reservation) error {
	var freed int64
	err := rows.Scan(&r.budget, &r.part, &r.start, &r.meter, &r.amount, &freed)
	r.freed = freed != 0
	return err
}

// held is a call with something reserved, and since when.
type held struct {
	call string
	at   int64
}

func readHeld(ctx context.Context, q querier, before time.Time, most int) ([]held, error) {
	return gather(ctx, q, func(rows *sql.Rows, h *held) error { return rows.Scan(&h.call, &h.at) },
		`SELECT call, min(at) FROM budget_reservations WHERE at < $1 AND freed = 0 GROUP BY call ORDER BY min(at) LIMIT $2`, storage.Micros(before), most)
}

// Window is what was used of a budget in one period.
type Window struct {
	ID       string    `json:"id"`
	Part     string    `json:"part,omitempty" doc:"the agent or the run, where each has its own"`
	Start    time.Time `json:"start,omitzero"`
	Ends     time.Time `json:"ends,omitzero" doc:"never, if absent"`
	Spent    int64     `json:"spent" doc:"by calls that have ended"`
	Reserved int64     `json:"reserved" doc:"by calls under way: what they may use at most"`
	Left     int64     `json:"left,omitempty" doc:"until the hard limit"`
}

func readWindows(ctx context.Context, q querier, budget string, most int) ([]Window, error) {
	return gather(ctx, q, func(rows *sql.Rows, w *Window) error {
		var start, ends int64
		err := rows.Scan(&w.Part, &start, &ends, &w.Spent, &w.Reserved)
		w.Start, w.Ends = storage.Time(start), storage.Time(ends)
		return err
	}, `SELECT part, start, ends, spent, reserved FROM budget_windows WHERE budget = $1 ORDER BY start DESC, spent DESC, part LIMIT $2`, budget, most)
}

func readPrices(ctx context.Context, q querier) ([]Price, error) {
	return gather(ctx, q, func(rows *sql.Rows, p *Price) error {
		var in, cached, out int64
		err := rows.Scan(&p.Model, &in, &cached, &out, &p.MaxOutput, &p.Dated, &p.Source, &p.By)
		p.Input, p.Cached, p.Output = float64(in)/1e6, float64(cached)/1e6, float64(out)/1e6
		return err
	}, `SELECT model, input, cached, output, max_output, dated, source, set_by FROM budget_prices ORDER BY model`)
}

func putPrice(ctx context.Context, tx *audit.Tx, p Price) error {
	_, err := tx.Exec(ctx, `INSERT INTO budget_prices (model, input, cached, output, max_output, dated, source, set_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (model) DO UPDATE SET input = $2, cached = $3, output = $4, max_output = $5, dated = $6, source = $7, set_by = $8`,
		p.Model, micro(p.Input), micro(p.Cached), micro(p.Output), p.MaxOutput, p.Dated, p.Source, p.By)
	return err
}

func micro(v float64) int64 { return int64(math.Round(v * 1e6)) }

func dropPrice(ctx context.Context, tx *audit.Tx, model string) error {
	err := tx.ExecOne(ctx, `DELETE FROM budget_prices WHERE model = $1`, model)
	if errors.Is(err, storage.ErrNotFound) {
		return ErrNoPrice.Say("no price was set for the model %q", model)
	}
	return err
}
