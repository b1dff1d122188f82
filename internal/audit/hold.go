package audit

import (
	"context"
	"database/sql"
	"encoding/json/v2"
	"fmt"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
)

// holdID is the kind of identifiers of legal holds.
const holdID id.Kind = "hold"

// HoldSpec says what a legal hold covers: events of which all that is set is
// true. At least one is set.
type HoldSpec struct {
	Agent string    `json:"agent,omitzero"`
	Run   string    `json:"run,omitzero"`
	From  time.Time `json:"from,omitzero"` // included
	To    time.Time `json:"to,omitzero"`   // not included; zero: without end
}

// Hold is a legal hold: while it stands, no payload that it covers is erased or
// expires.
type Hold struct {
	HoldSpec
	ID            string
	Placed        time.Time
	By            string // who placed it
	Reason        string
	Released      time.Time // zero while it stands
	ReleasedBy    string
	ReleaseReason string
}

func (s HoldSpec) check() error {
	switch {
	case s == HoldSpec{}:
		return ErrHold
	case !s.To.IsZero() && !s.From.Before(s.To):
		return ErrHold.Say("the hold ends before it begins: give a time after %s", s.From.UTC().Format(time.RFC3339))
	}
	return nil
}

// Hold places a legal hold. A reason is required.
func (l *Log) Hold(ctx context.Context, by Actor, reason string, spec HoldSpec) (Hold, error) {
	reason = strings.TrimSpace(reason)
	if err := checkReason(reason); err != nil {
		return Hold{}, err
	}
	spec.Agent, spec.Run = clean(spec.Agent), clean(spec.Run)
	spec.From, spec.To = spec.From.UTC().Truncate(time.Microsecond), spec.To.UTC().Truncate(time.Microsecond)
	if err := spec.check(); err != nil {
		return Hold{}, err
	}
	detail, err := json.Marshal(spec)
	if err != nil {
		return Hold{}, ErrHold.With(err)
	}
	now := l.o.Now().UTC().Truncate(time.Microsecond)
	h := Hold{HoldSpec: spec, ID: id.At(holdID, now), Placed: now, By: by.Name, Reason: reason}
	err = l.Change(ctx, func(tx *Tx) error {
		if err := l.takeTurn(ctx, tx.Tx); err != nil {
			return err
		}
		tx.Record(Event{Type: "hold.placed", Actor: by, Agent: spec.Agent, Run: spec.Run, Object: h.ID, Reason: reason, Detail: detail})
		_, err := tx.Exec(ctx, `INSERT INTO payload_holds (id, agent, run, from_at, to_at, placed, placed_by, reason, released, released_by, release) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, '', '')`,
			h.ID, h.Agent, h.Run, storage.Micros(h.From), storage.Micros(h.To), storage.Micros(h.Placed), h.By, h.Reason)
		return err
	})
	if err != nil {
		return Hold{}, unavailable(err)
	}
	return h, nil
}

// Release ends a legal hold. What it kept past its time expires at the next
// pass. A reason is required.
func (l *Log) Release(ctx context.Context, by Actor, reason, hold string) error {
	reason = strings.TrimSpace(reason)
	if err := checkReason(reason); err != nil {
		return err
	}
	err := l.Change(ctx, func(tx *Tx) error {
		if err := l.takeTurn(ctx, tx.Tx); err != nil {
			return err
		}
		tx.Record(Event{Type: "hold.released", Actor: by, Object: hold, Reason: reason})
		res, err := tx.Exec(ctx, `UPDATE payload_holds SET released = $1, released_by = $2, release = $3 WHERE id = $4 AND released = 0`,
			storage.Micros(l.o.Now()), by.Name, reason, clean(hold))
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return ErrNoHold.With(err)
		}
		_, err = tx.Exec(ctx, `UPDATE payload_retention SET position = ''`) // expiry passed over what it held
		return err
	})
	return unavailable(err)
}

// Holds returns the legal holds that stand, the oldest first, or with released
// also those that do not any more.
func (l *Log) Holds(ctx context.Context, released bool) ([]Hold, error) {
	holds, err := holdsIn(ctx, l.db, released)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return holds, nil
}

type querier interface {
	rower
	Query(ctx context.Context, q string, args ...any) (*sql.Rows, error)
}

func holdsIn(ctx context.Context, db querier, released bool) ([]Hold, error) {
	cond := ` WHERE released = 0`
	if released {
		cond = ``
	}
	rows, err := db.Query(ctx, `SELECT id, agent, run, from_at, to_at, placed, placed_by, reason, released, released_by, release FROM payload_holds`+cond+` ORDER BY placed, id`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var holds []Hold
	for rows.Next() {
		var h Hold
		var from, to, placed, ended int64
		if err := rows.Scan(&h.ID, &h.Agent, &h.Run, &from, &to, &placed, &h.By, &h.Reason, &ended, &h.ReleasedBy, &h.ReleaseReason); err != nil {
			return nil, err
		}
		h.From, h.To, h.Placed, h.Released = storage.Time(from), storage.Time(to), storage.Time(placed), storage.Time(ended)
		holds = append(holds, h)
	}
	return holds, rows.Err()
}

// where returns the condition of what s covers, on events AS e, with
// parameters from $next on.
func (s HoldSpec) where(next int) (string, []any) {
	var conds []string
	var args []any
	add := func(cond string, arg any) {
		conds = append(conds, fmt.Sprintf(cond, next+len(args)))
		args = append(args, arg)
	}
	if s.Agent != "" {
		add("e.agent = $%d", s.Agent)
	}
	if s.Run != "" {
		add("e.run = $%d", s.Run)
	}
	if !s.From.IsZero() {
		add("e.at >= $%d", storage.Micros(s.From))
	}
	if !s.To.IsZero() {
		add("e.at < $%d", storage.Micros(s.To))
	}
	return strings.Join(conds, " AND "), args
}

// held returns ErrHeld if a hold covers a payload that would be erased.
func (e *eraser) held(ctx context.Context, db querier) error {
	holds, err := holdsIn(ctx, db, false)
	if err != nil {
		return err
	}
	for _, h := range holds {
		if (e.what.Agent != "" && h.Agent != "" && h.Agent != e.what.Agent) || (e.what.Run != "" && h.Run != "" && h.Run != e.what.Run) {
			continue
		}
		from, arg := `e.agent = $1`, e.what.Agent
		switch {
		case e.what.Subject != "":
			from, arg = `p.key IN (SELECT id FROM payload_keys WHERE kind = '`+kindSubject+`' AND name = $1 AND destroyed = 0)`, e.owner.name
		case e.what.Run != "":
			from, arg = `e.run <> '' AND e.run = $1`, e.what.Run
		}
		cond, args := h.where(2)
		var covered bool
		if err := db.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM events AS e JOIN payloads AS p ON p.lane = e.lane AND p.sn = e.sn WHERE `+from+` AND p.body IS NOT NULL AND `+cond+`)`,
			append([]any{arg}, args...)...).Scan(&covered); err != nil {
			return err
		}
		if covered {
			return ErrHeld.Say("legal hold %s, placed by %s, keeps some of this: nothing was erased; have the hold released first", h.ID, h.By)
		}
	}
	return nil
}

// takeTurn makes those who hold, release, erase and expire follow each other:
// the row stays locked until the transaction ends.
func (l *Log) takeTurn(ctx context.Context, tx *storage.Tx) error {
	return tx.ExecOne(ctx, `UPDATE payload_retention SET turn = turn + 1 WHERE name = $1`, retentionRow)
}
