package detection

import (
	"context"
	"database/sql"
	"encoding/json/v2"
	"fmt"
	"time"

	"github.com/countersign/countersign/internal/audit"
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
			return nil, fmt.Errorf("detection: read a row: %w", err)
		}
		out = append(out, v)
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return out, nil
}

func readPositions(ctx context.Context, q querier) (audit.Cursor, error) {
	type row struct{ lane, sn int64 }
	rows, err := gather(ctx, q, func(rows *sql.Rows, r *row) error { return rows.Scan(&r.lane, &r.sn) }, `SELECT lane, sn FROM detection_positions`)
	c := audit.Cursor{}
	for _, r := range rows {
		c[r.lane] = r.sn
	}
	return c, err
}

// movePosition moves a lane's position and reports whether it was at from: if
// not, somebody else has moved it, and what was computed is void.
func movePosition(ctx context.Context, tx *storage.Tx, lane, from, to int64) (bool, error) {
	if from == 0 {
		res, err := tx.Exec(ctx, `INSERT INTO detection_positions (lane, sn) VALUES ($1, $2) ON CONFLICT (lane) DO NOTHING`, lane, to)
		if err != nil {
			return false, err
		}
		n, err := res.RowsAffected()
		return n == 1, err
	}
	res, err := tx.Exec(ctx, `UPDATE detection_positions SET sn = $1 WHERE lane = $2 AND sn = $3`, to, lane, from)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

// stateRow is a saved keyState.
type stateRow struct {
	kind, value string
	seen        int64
	body        []byte
}

func readStates(ctx context.Context, q querier, where string, args ...any) ([]stateRow, error) {
	return gather(ctx, q, func(rows *sql.Rows, r *stateRow) error { return rows.Scan(&r.kind, &r.value, &r.seen, &r.body) },
		`SELECT kind, value, seen, body FROM detection_states`+where, args...)
}

func putState(ctx context.Context, tx *storage.Tx, r stateRow) error {
	_, err := tx.Exec(ctx, `INSERT INTO detection_states (kind, value, seen, body) VALUES ($1, $2, $3, $4)
		ON CONFLICT (kind, value) DO UPDATE SET seen = $3, body = $4`, r.kind, r.value, r.seen, string(r.body))
	return err
}

func dropState(ctx context.Context, tx *storage.Tx, kind, value string) error {
	_, err := tx.Exec(ctx, `DELETE FROM detection_states WHERE kind = $1 AND value = $2`, kind, value)
	return err
}

// clear forgets everything that was counted.
func clearAll(ctx context.Context, tx *storage.Tx) error {
	for _, q := range []string{`DELETE FROM detection_states`, `DELETE FROM detection_positions`, `DELETE FROM detection_usage`} {
		if _, err := tx.Exec(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

// since returns from when on what is found is acted upon.
func readSince(ctx context.Context, q querier) (int64, error) {
	at, err := gather(ctx, q, func(rows *sql.Rows, v *int64) error { return rows.Scan(v) }, `SELECT at FROM detection_since WHERE name = 'acts'`)
	if err != nil || len(at) == 0 {
		return 0, err
	}
	return at[0], nil
}

func putSince(ctx context.Context, tx *storage.Tx, at int64, again bool) error {
	q := `INSERT INTO detection_since (name, at) VALUES ('acts', $1) ON CONFLICT (name) DO NOTHING`
	if again {
		q = `INSERT INTO detection_since (name, at) VALUES ('acts', $1) ON CONFLICT (name) DO UPDATE SET at = $1`
	}
	_, err := tx.Exec(ctx, q, at)
	return err
}

// ruleRow is a rule that a person wrote.
type ruleRow struct {
	spec   Spec
	reason string
	by     string
	at     time.Time
}

func readRules(ctx context.Context, q querier) ([]ruleRow, error) {
	return gather(ctx, q, func(rows *sql.Rows, r *ruleRow) error {
		var name string
		var body []byte
		var at int64
		if err := rows.Scan(&name, &body, &r.reason, &r.by, &at); err != nil {
			return err
		}
		r.at = storage.Time(at)
		err := json.Unmarshal(body, &r.spec)
		r.spec.ID = name
		return err
	}, `SELECT name, body, reason, set_by, updated FROM detection_rules ORDER BY name`)
}

func putRule(ctx context.Context, tx *storage.Tx, s Spec, reason, by string, at time.Time) error {
	body, err := json.Marshal(s, json.Deterministic(true))
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO detection_rules (name, body, reason, set_by, updated) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (name) DO UPDATE SET body = $2, reason = $3, set_by = $4, updated = $5`, s.ID, string(body), reason, by, storage.Micros(at))
	return err
}

// modeRow is the mode that a person gave a rule.
type modeRow struct{ rule, mode string }

func readModes(ctx context.Context, q querier) (map[string]string, error) {
	rows, err := gather(ctx, q, func(rows *sql.Rows, r *modeRow) error { return rows.Scan(&r.rule, &r.mode) }, `SELECT rule, mode FROM detection_modes`)
	out := map[string]string{}
	for _, r := range rows {
		out[r.rule] = r.mode
	}
	return out, err
}

func putMode(ctx context.Context, tx *storage.Tx, rule, mode, reason, by string, at time.Time) error {
	_, err := tx.Exec(ctx, `INSERT INTO detection_modes (rule, mode, reason, set_by, updated) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (rule) DO UPDATE SET mode = $2, reason = $3, set_by = $4, updated = $5`, rule, mode, reason, by, storage.Micros(at))
	return err
}

const columns = `id, rule, version, title, severity, keyed, value, object, agent, credential, connection, response, mode, state, seen, normal, event, events, times,
	happened, decided, updated, expires, lock_id, approvers, rate, contained, cut, passed, error, ended, ended_by, end_reason`

func readDetections(ctx context.Context, q querier, where string, args ...any) ([]Detection, error) {
	return gather(ctx, q, func(rows *sql.Rows, d *Detection) error {
		var events []byte
		var happened, decided, updated, expires, contained, passed, ended int64
		if err := rows.Scan(&d.ID, &d.Rule, &d.Version, &d.Title, &d.Severity, &d.key, &d.value, &d.Object, &d.Agent, &d.Credential, &d.Connection, &d.Response, &d.Mode, &d.State,
			&d.Seen, &d.Normal, &d.Event, &events, &d.Times, &happened, &decided, &updated, &expires, &d.Lock, &d.approvers, &d.rate, &contained, &d.Cut, &passed, &d.Error, &ended, &d.EndedBy, &d.EndReason); err != nil {
			return err
		}
		d.Happened, d.Decided, d.Updated, d.Expires, d.Ended = storage.Time(happened), storage.Time(decided), storage.Time(updated), storage.Time(expires), storage.Time(ended)
		d.Contained = float64(contained) / 1000
		if passed >= 0 {
			d.Passed = &passed
		}
		return json.Unmarshal(events, &d.Events)
	}, `SELECT `+columns+` FROM detections`+where, args...)
}

func insertDetection(ctx context.Context, tx *storage.Tx, d *Detection) error {
	events, err := json.Marshal(d.Events)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO detections (`+columns+`, forgiven) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, 0)`,
		d.ID, d.Rule, d.Version, d.Title, d.Severity, d.key, d.value, d.Object, d.Agent, d.Credential, d.Connection, d.Response, d.Mode, d.State, d.Seen, d.Normal, d.Event, string(events), d.Times,
		storage.Micros(d.Happened), storage.Micros(d.Decided), storage.Micros(d.Updated), storage.Micros(d.Expires), d.Lock, d.approvers, d.rate, int64(d.Contained*1000), d.Cut, -1, d.Error,
		storage.Micros(d.Ended), d.EndedBy, d.EndReason)
	return err
}

// again notes that an open detection was seen again.
func seenAgain(ctx context.Context, tx *storage.Tx, d *Detection) error {
	events, err := json.Marshal(d.Events)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `UPDATE detections SET times = $1, seen = $2, normal = $3, events = $4, updated = $5 WHERE id = $6`,
		d.Times, d.Seen, d.Normal, string(events), storage.Micros(d.Updated), d.ID)
	return err
}

// endDetection ends an open one and reports whether it was open.
func endDetection(ctx context.Context, tx *storage.Tx, id, state, by, reason string, at time.Time) (bool, error) {
	res, err := tx.Exec(ctx, `UPDATE detections SET state = $1, ended = $2, ended_by = $3, end_reason = $4 WHERE id = $5 AND ended = 0`, state, storage.Micros(at), by, reason, id)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

func setContained(ctx context.Context, tx *storage.Tx, d *Detection) error {
	_, err := tx.Exec(ctx, `UPDATE detections SET contained = $1, cut = $2, passed = $3 WHERE id = $4`, int64(d.Contained*1000), d.Cut, *d.Passed, d.ID)
	return err
}

func addUsage(ctx context.Context, tx *storage.Tx, k usageKey, v usageSum) error {
	_, err := tx.Exec(ctx, `INSERT INTO detection_usage (connection, model, hour, tokens, calls) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (connection, model, hour) DO UPDATE SET tokens = detection_usage.tokens + $4, calls = detection_usage.calls + $5`,
		k.connection, k.model, k.hour, v.tokens, v.calls)
	return err
}

// usedTokens returns what the log knows of a model's use between two hours.
func usedTokens(ctx context.Context, q querier, connection, model string, from, to int64) (int64, error) {
	n, err := gather(ctx, q, func(rows *sql.Rows, v *int64) error { return rows.Scan(v) },
		`SELECT CAST(coalesce(sum(tokens), 0) AS BIGINT) FROM detection_usage WHERE connection = $1 AND model = $2 AND hour >= $3 AND hour <= $4`, connection, model, from, to)
	if err != nil || len(n) == 0 {
		return 0, err
	}
	return n[0], nil
}
