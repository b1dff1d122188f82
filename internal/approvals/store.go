package approvals

import (
	"context"
	"database/sql"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

type querier interface {
	Query(ctx context.Context, q string, args ...any) (*sql.Rows, error)
}

const columns = `id, digest, state, open, revision, binding, call, run, event, effect, needs, excluded, labels, reason, origin, server,
	created, decide_by, decided, execute_by, settled, why, outcome, exec_call, holder, escalated, overridden, updated, undo_window, send_at`

// read returns requests without what is sealed and without their decisions.
func read(ctx context.Context, q querier, where string, args ...any) ([]Request, error) {
	rows, err := q.Query(ctx, `SELECT `+columns+` FROM approvals`+where, args...)
	if err != nil {
		return nil, unavailable(err)
	}
	defer rows.Close()
	var out []Request
	for rows.Next() {
		r, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, unavailable(rows.Err())
}

func scan(rows *sql.Rows) (r Request, err error) {
	var binding, needs, excluded, labels, origin string
	var created, decideBy, decided, executeBy, settled, updated, window, sendAt int64
	err = rows.Scan(&r.ID, &r.Digest, &r.State, &r.open, &r.revision, &binding, &r.Call, &r.Run, &r.Event, &r.Effect, &needs, &excluded, &labels,
		&r.Reason, &origin, &r.Server, &created, &decideBy, &decided, &executeBy, &settled, &r.Why, &r.Outcome, &r.ExecCall, &r.holder, &r.Escalated, &r.Override, &updated, &window, &sendAt)
	if err != nil {
		return r, unavailable(err)
	}
	r.Created, r.DecideBy, r.Decided = storage.Time(created), storage.Time(decideBy), storage.Time(decided)
	r.Window, r.SendAt = time.Duration(window)*time.Microsecond, storage.Time(sendAt)
	r.ExecuteBy, r.Settled, r.updated = storage.Time(executeBy), storage.Time(settled), storage.Time(updated)
	for _, f := range []struct {
		text string
		into any
	}{{binding, &r.Binding}, {needs, &r.Needs}, {excluded, &r.Excluded}, {labels, &r.Labels}, {origin, &r.Origin}} {
		if err := json.Unmarshal([]byte(f.text), f.into, durations); err != nil {
			return r, ErrStored.With(err)
		}
	}
	return r, nil
}

// get returns a request with its decisions.
func get(ctx context.Context, q querier, id string) (Request, error) {
	found, err := read(ctx, q, ` WHERE id = $1`, id)
	if err != nil {
		return Request{}, err
	}
	if len(found) == 0 {
		return Request{}, ErrNotFound
	}
	r := found[0]
	r.Decisions, err = decisions(ctx, q, id)
	return r, err
}

func decisions(ctx context.Context, q querier, id string) ([]Decision, error) {
	rows, err := q.Query(ctx, `SELECT person, name, verdict, reason, at, for_person, for_name, channel, credential, statement, signature
		FROM approval_decisions WHERE approval = $1 ORDER BY at, person`, id)
	if err != nil {
		return nil, unavailable(err)
	}
	defer rows.Close()
	var out []Decision
	for rows.Next() {
		var d Decision
		var at int64
		if err := rows.Scan(&d.ID, &d.Name, &d.Verdict, &d.Reason, &at, &d.For.ID, &d.For.Name, &d.Channel, &d.Credential, &d.Statement, &d.Signature); err != nil {
			return nil, unavailable(err)
		}
		d.At = storage.Time(at)
		out = append(out, d)
	}
	return out, unavailable(rows.Err())
}

// openOf returns the request that an identical call attaches to.
func openOf(ctx context.Context, q querier, same string) (Request, bool, error) {
	found, err := read(ctx, q, ` WHERE same = $1 AND open`, same)
	if err != nil || len(found) == 0 {
		return Request{}, false, err
	}
	r := found[0]
	r.Decisions, err = decisions(ctx, q, r.ID)
	return r, true, err
}

func insert(ctx context.Context, tx *audit.Tx, r *Request) error {
	_, err := tx.Exec(ctx, `INSERT INTO approvals (id, digest, same, state, open, revision, agent, policies, binding, call, run, event, effect, needs, excluded, labels,
		reason, origin, server, created, decide_by, decided, execute_by, settled, updated, due, why, outcome, exec_call, holder, escalated, overridden, wire, kept, connection, tool, undo_window, send_at)
		VALUES ($1, $2, $23, $3, $4, 1, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $26, $27, 0, $18, $20, $28, '', '', '', 0, $21, $22, NULL, $24, $25, $29, $30)`,
		r.ID, r.Digest, string(r.State), true, r.Binding.Agent, policiesOf(r.Needs), text(r.Binding), r.Call, r.Run, r.Event, r.Effect, text(r.Needs),
		text(r.Excluded), text(r.Labels), r.Reason, text(r.Origin), r.Server, storage.Micros(r.Created), storage.Micros(r.DecideBy), storage.Micros(r.due()), false, r.wire, r.same, r.Binding.Connection, r.Binding.Tool,
		storage.Micros(r.Decided), storage.Micros(r.ExecuteBy), r.Why, r.Window.Microseconds(), storage.Micros(r.SendAt))
	return err
}

// advance is the only way to another state: it refuses what state.go does not
// list, and does nothing unless the request is still as it was read (ErrRaced).
// What is sealed goes when nothing can need it any more.
func advance(ctx context.Context, tx *audit.Tx, r *Request, next State, now time.Time) error {
	if !r.State.may(next) {
		return ErrSettled.Say("the request is %s and cannot become %s", r.State, next)
	}
	r.State = next
	if next.Settled() {
		r.Settled, r.wire = now, nil
	}
	return save(ctx, tx, r, now)
}

// save writes what may change of a request, if it is still as it was read.
func save(ctx context.Context, tx *audit.Tx, r *Request, now time.Time) error {
	wire := "wire"
	if r.State.Settled() || r.State == Executing {
		wire = "NULL"
	}
	err := tx.ExecOne(ctx, `UPDATE approvals SET state = $1, open = $2, decided = $3, execute_by = $4, settled = $5, updated = $6, why = $7, outcome = $8, exec_call = $9,
		holder = $10, escalated = $11, overridden = $12, kept = $13, due = $14, send_at = $15, wire = `+wire+`, revision = revision + 1 WHERE id = $16 AND revision = $17`,
		string(r.State), r.open, storage.Micros(r.Decided), storage.Micros(r.ExecuteBy), storage.Micros(r.Settled), storage.Micros(now), r.Why, r.Outcome, r.ExecCall,
		r.holder, r.Escalated, r.Override, r.kept, storage.Micros(r.due()), storage.Micros(r.SendAt), r.ID, r.revision)
	if errors.Is(err, storage.ErrNotFound) {
		return ErrRaced
	}
	if err != nil {
		return err
	}
	r.revision++
	return storage.Bump(ctx, tx.Tx, version)
}

func insertDecision(ctx context.Context, tx *audit.Tx, id string, d Decision) error {
	_, err := tx.Exec(ctx, `INSERT INTO approval_decisions (approval, person, name, verdict, reason, at, for_person, for_name, channel, credential, statement, signature)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`,
		id, d.ID, d.Name, string(d.Verdict), d.Reason, storage.Micros(d.At), d.For.ID, d.For.Name, d.Channel, d.Credential, d.Statement, d.Signature)
	return err
}

// blob reads one of the sealed columns.
func blob(ctx context.Context, db *storage.DB, column, id string) ([]byte, error) {
	var b []byte
	err := db.QueryRow(ctx, `SELECT `+column+` FROM approvals WHERE id = $1`, id).Scan(&b)
	if storage.NoRows(err) {
		return nil, ErrNotFound
	}
	return b, unavailable(err)
}

func count(ctx context.Context, db *storage.DB, where string, args ...any) (n int64, err error) {
	err = db.QueryRow(ctx, `SELECT count(*) FROM approvals WHERE `+where, args...).Scan(&n)
	return n, unavailable(err)
}

func policiesOf(needs []Need) string {
	var all []string
	for _, n := range needs {
		all = append(all, n.Policy)
	}
	return text(all)
}

func text(v any) string { return string(marshal(v)) }

// marshal writes plain values of ours. What a name from outside holds that is
// not UTF-8 is replaced: it is for people to read.
func marshal(v any) jsontext.Value {
	b, err := json.Marshal(v, json.Deterministic(true), jsontext.AllowInvalidUTF8(true), json.FormatNilSliceAsNull(false), durations)
	if err != nil {
		panic(fmt.Sprintf("approvals: a plain value cannot be marshalled: %v", err))
	}
	return b
}

func unavailable(err error) error {
	if err == nil {
		return nil
	}
	return storage.ErrUnavailable.With(err)
}

// durations writes and reads durations as people do, such as "4h0m0s".
var durations = json.JoinOptions(
	json.WithMarshalers(json.MarshalFunc(func(d time.Duration) ([]byte, error) { return []byte(`"` + d.String() + `"`), nil })),
	json.WithUnmarshalers(json.UnmarshalFunc(func(b []byte, d *time.Duration) error {
		text, err := jsontext.AppendUnquote(nil, b)
		if err != nil {
			return err
		}
		*d, err = time.ParseDuration(string(text))
		return err
	})))
