package policy

import (
	"context"
	"database/sql"
	"encoding/json/v2"
	"slices"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

// shadow is grants that are tried in place of the one called grant.
type shadow struct {
	grant  string
	grants []Grant
}

// ShadowTx tries grants in place of the one called grant, which stays in force:
// decisions that rest on it say in Decision.Shadow when the others would have
// refused. Tried before, they are replaced. No grants: it is tried without any.
// Whoever commits it polls the watcher (Change does).
func (s *Service) ShadowTx(ctx context.Context, tx *audit.Tx, grant string, grants []Grant) error {
	for _, g := range grants {
		if err := s.checkGrant(g, ""); err != nil {
			return err
		}
	}
	body, err := json.Marshal(grants, json.Deterministic(true))
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `INSERT INTO grant_shadows (grant_name, body) VALUES ($1, $2) ON CONFLICT (grant_name) DO UPDATE SET body = excluded.body`, grant, string(body)); err != nil {
		return err
	}
	return storage.Bump(ctx, tx.Tx, version)
}

// UnshadowTx ends what ShadowTx began; nothing if nothing is tried.
func (s *Service) UnshadowTx(ctx context.Context, tx *audit.Tx, grant string) error {
	if _, err := tx.Exec(ctx, `DELETE FROM grant_shadows WHERE grant_name = $1`, grant); err != nil {
		return err
	}
	return storage.Bump(ctx, tx.Tx, version)
}

// Change commits fn, and what it changes of policies and grants is in force
// here when it returns.
func (s *Service) Change(ctx context.Context, fn func(tx *audit.Tx) error) error {
	return s.change(ctx, fn)
}

func readShadows(ctx context.Context, q querier) ([]shadow, error) {
	return collect(ctx, q, func(rows *sql.Rows) (shadow, error) {
		var x shadow
		var body string
		if err := rows.Scan(&x.grant, &body); err != nil {
			return x, err
		}
		return x, json.Unmarshal([]byte(body), &x.grants)
	}, `SELECT grant_name, body FROM grant_shadows ORDER BY grant_name`)
}

// shadowed returns e with what is tried beside it: one engine for all, since
// a call that two grants would allow is refused only without both.
func (s *Service) shadowed(e *engine, c content) {
	var t Trial
	for _, x := range c.shadows {
		if slices.ContainsFunc(c.grants, func(g Grant) bool { return g.Name == x.grant }) {
			e.tried = append(e.tried, x.grant)
			t.Revoke, t.Grants = append(t.Revoke, x.grant), append(t.Grants, x.grants...)
		}
	}
	if len(e.tried) == 0 {
		return
	}
	trial := content{files: c.files, grants: slices.Clone(c.grants)}
	t.apply(&trial)
	e.shadow, _ = build(trial, e.ts, s.verdicts)
}

// observe notes on a decision which of the grants that it rests on would not
// have been enough as they are tried.
func (e *engine) observe(req *Request, d *Decision) {
	if e.shadow == nil || d.Effect == Deny {
		return
	}
	var on []string
	for _, g := range d.Grants {
		if slices.Contains(e.tried, g) {
			on = append(on, g)
		}
	}
	if len(on) > 0 && e.shadow.decide(req).Effect == Deny {
		d.Shadow = on
	}
}

// Gave reports whether a grant alone would have given what a recorded call
// asked for.
func (s *Service) Gave(g Grant, rec *audit.Record) bool {
	e := s.engine.Load()
	if e == nil {
		return false
	}
	alone, _ := build(content{grants: []Grant{g}}, e.ts, nil)
	req := s.recorded(rec)[0]
	if !seen(rec) {
		if len(alone.rules) != 1 || alone.rules[0].needs&needArgs != 0 {
			return false
		}
		req.unread = true
	}
	return alone.decide(&req).Effect == Allow
}

// Shows reports whether an agent that asked for what does not exist for it, a tool or
// a connection, would see it with a grant beside those there are.
func (s *Service) Shows(g Grant, ev *audit.Event) bool {
	now, c, old, err := s.tried(Trial{Grants: []Grant{g}})
	if err != nil {
		return false
	}
	e, _ := build(c, now.ts, old)
	a := s.recordedAgent(ev)
	if ev.Tool == "" {
		return e.sees(&a, ev.Connection, s.o.Now())
	}
	return e.visible(&a, Action{Connection: ev.Connection, Tool: ev.Tool}, s.o.Now())
}

// Effect returns the effect of a registered tool: read, write, irreversible; ""
// if there is no such tool.
func (s *Service) Effect(act Action) string {
	if e := s.engine.Load(); e != nil && e.ts.tools[toolKey{act.Connection, act.Tool}] != nil {
		return e.ts.tools[toolKey{act.Connection, act.Tool}].effect
	}
	return ""
}

// Same reports whether two grants give the same.
func (g Grant) Same(o Grant) bool { return g.Name == o.Name && g.same(o) }
