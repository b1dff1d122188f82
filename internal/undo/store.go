package undo

import (
	"context"
	"database/sql"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

// querier is a *storage.DB or a transaction.
type querier interface {
	Query(ctx context.Context, q string, args ...any) (*sql.Rows, error)
}

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
			return nil, fmt.Errorf("undo: read a row: %w", err)
		}
		out = append(out, v)
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return out, nil
}

func readUndos(ctx context.Context, q querier, where string, args ...any) ([]Undo, error) {
	return gather(ctx, q, func(rows *sql.Rows, u *Undo) error {
		var created, updated int64
		err := rows.Scan(&u.ID, &u.Object, &u.State, &u.byID, &u.By, &u.Reason, &created, &updated)
		u.Created, u.Updated = storage.Time(created), storage.Time(updated)
		return err
	}, `SELECT id, object, state, by_id, by_name, reason, created, updated FROM undos`+where, args...)
}

// secret is what a step keeps until it is settled.
type secret struct {
	Args  jsontext.Value `json:"args"`
	Check *check         `json:"check,omitempty"`
}

func (s *Service) readSteps(ctx context.Context, q querier, undo string) ([]Step, error) {
	return gather(ctx, q, func(rows *sql.Rows, st *Step) error {
		var at int64
		var sealed []byte
		if err := rows.Scan(&st.N, &st.Call, &st.Tool, &st.Agent, &st.ByTool, &st.State, &st.Made, &st.Attempts, &st.Approval, &st.Why, &at, &sealed); err != nil {
			return err
		}
		st.ID, st.At = fmt.Sprintf("%s/%d", undo, st.N), storage.Time(at)
		if len(sealed) == 0 {
			return nil
		}
		plain, err := s.aead.Open(nil, nil, sealed, []byte(st.ID))
		if err != nil {
			return err
		}
		var x secret
		if err := json.Unmarshal(plain, &x); err != nil {
			return err
		}
		st.Args, st.check = x.Args, x.Check
		return nil
	}, `SELECT n, call, tool, agent, by_tool, state, made, attempts, approval, why, at, sealed FROM undo_steps WHERE undo = $1 ORDER BY n`, undo)
}

func (s *Service) insert(ctx context.Context, tx *audit.Tx, u Undo) error {
	if _, err := tx.Exec(ctx, `INSERT INTO undos (id, object, state, by_id, by_name, reason, created, updated) VALUES ($1, $2, $3, $4, $5, $6, $7, $7)`,
		u.ID, u.Object, u.State, u.byID, u.By, u.Reason, storage.Micros(u.Created)); err != nil {
		return err
	}
	for _, st := range u.Steps {
		var claim any
		var sealed []byte
		if st.State == Planned {
			claim = st.Call
			plain, err := json.Marshal(secret{st.Args, st.check}, json.Deterministic(true))
			if err != nil {
				return err
			}
			sealed = s.aead.Seal(nil, nil, plain, fmt.Appendf(nil, "%s/%d", u.ID, st.N))
		}
		if _, err := tx.Exec(ctx, `INSERT INTO undo_steps (undo, n, call, tool, agent, by_tool, state, claim, made, attempts, approval, why, at, sealed)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, '', 0, $12, $9, $10, $11)`,
			u.ID, st.N, st.Call, st.Tool, st.Agent, st.ByTool, st.State, claim, st.Why, storage.Micros(st.At), sealed, st.Approval); err != nil {
			return err
		}
	}
	return nil
}

// putStep writes how a step stands, if it stands as was says; storage.ErrNotFound
// if another was faster. What is settled keeps no arguments.
func putStep(ctx context.Context, tx *audit.Tx, undo string, was, st Step) error {
	wipe := ``
	if st.settled() {
		wipe = `, sealed = NULL`
	}
	return tx.ExecOne(ctx, `UPDATE undo_steps SET state = $1, made = $2, attempts = $3, approval = $4, why = $5`+wipe+` WHERE undo = $6 AND n = $7 AND state = $8 AND made = $9`,
		st.State, st.Made, st.Attempts, st.Approval, st.Why, undo, st.N, was.State, was.Made)
}

func putState(ctx context.Context, tx *audit.Tx, u Undo, state string, now int64) error {
	return tx.ExecOne(ctx, `UPDATE undos SET state = $1, updated = $2 WHERE id = $3`, state, now, u.ID)
}

// claimedBy returns the undo that has undone a call, or is about to; "" if none.
func (s *Service) claimedBy(ctx context.Context, call string) (string, error) {
	found, err := gather(ctx, s.o.DB, func(rows *sql.Rows, id *string) error { return rows.Scan(id) }, `SELECT undo FROM undo_steps WHERE claim = $1`, call)
	if err != nil || len(found) == 0 {
		return "", err
	}
	return found[0], nil
}
