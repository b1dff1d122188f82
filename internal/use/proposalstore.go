package use

import (
	"context"
	"database/sql"
	"encoding/json/v2"
	"errors"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

// rightsizings reads proposals that a condition selects, the newest first.
func (s *Service) rightsizings(ctx context.Context, where string, args ...any) ([]Proposal, error) {
	out := []Proposal{}
	err := each(ctx, s.db, func(r *sql.Rows) error {
		var p Proposal
		var body string
		var made, changed int64
		if err := r.Scan(&body, &p.State, &made, &changed, &p.By, &p.Reason, &p.noticed); err != nil {
			return err
		}
		state, by, reason, noticed := p.State, p.By, p.Reason, p.noticed
		if err := json.Unmarshal([]byte(body), &p); err != nil {
			return err
		}
		p.State, p.By, p.Reason, p.noticed, p.Made, p.Changed = state, by, reason, noticed, storage.Time(made), storage.Time(changed)
		out = append(out, p)
		return nil
	}, `SELECT body, state, made, changed, actor, reason, noticed FROM use_rightsizings WHERE `+where+` ORDER BY changed DESC, grant_name, id`, args...)
	return out, err
}

// replaceProposed keeps proposals in place of those about the agent that nobody
// decided about.
func (s store) replaceProposed(ctx context.Context, tx *audit.Tx, agent string, made []Proposal) error {
	if _, err := tx.Exec(ctx, `DELETE FROM use_rightsizings WHERE agent = $1 AND state = $2`, agent, Proposed); err != nil {
		return err
	}
	for i := range made {
		p := &made[i]
		body, err := json.Marshal(p, json.Deterministic(true))
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO use_rightsizings (grant_name, id, agent, kind, state, body, made, changed, actor, reason, noticed)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $7, '', '', 0)
			ON CONFLICT (grant_name, id) DO UPDATE SET state = excluded.state, body = excluded.body, made = excluded.made, changed = excluded.changed, actor = '', reason = ''`,
			p.Grant, p.ID, p.Agent, p.Kind, Proposed, string(body), storage.Micros(p.Made)); err != nil {
			return err
		}
	}
	return nil
}

// move brings a proposal into another state, if it is still in the one it was
// read in.
func (s store) move(ctx context.Context, tx *audit.Tx, p *Proposal, to string, now time.Time, by, reason string) error {
	err := tx.ExecOne(ctx, `UPDATE use_rightsizings SET state = $1, changed = $2, actor = $3, reason = $4, noticed = 0 WHERE grant_name = $5 AND id = $6 AND state = $7`,
		to, storage.Micros(now), by, reason, p.Grant, p.ID, p.State)
	if errors.Is(err, storage.ErrNotFound) {
		return ErrState.Say("somebody else decided about the proposal %s meanwhile", p.ID)
	}
	return err
}
