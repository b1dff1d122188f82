package tokens

import (
	"context"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/storage"
)

// RetireTx is this room's part of the decommission of an agent: its client keys
// are revoked, trust in issuers that vouch for it ends, consents of people end,
// programs registered for it go, and enrolments that wait are dropped. What was
// had by any of them is dead. It returns how many of what ended.
func (s *Service) RetireTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, a identity.Agent) (map[string]int, error) {
	ended := map[string]int{}
	keys, err := readClientKeys(ctx, tx, a.Name)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		if k.Status(s.now()) != identity.Active {
			continue
		}
		if _, err := tx.Exec(ctx, `UPDATE client_keys SET revoked = $1 WHERE id = $2`, storage.Micros(s.now()), k.ID); err != nil {
			return nil, err
		}
		ev := about(event("agent.client_key_revoked", by, reason, "agent/"+a.Name, map[string]any{"client_key": k.ID}), a)
		ev.Credential = k.ID
		tx.Record(ev)
		if err := s.endOrigin(ctx, tx, by, reason, k.ID, "client-key/"+k.ID); err != nil {
			return nil, err
		}
		ended["client_keys"]++
	}
	rules, err := readRules(ctx, tx, "")
	if err != nil {
		return nil, err
	}
	for _, r := range rules {
		if r.Agent != a.Name {
			continue
		}
		if err := s.DeleteRuleTx(ctx, tx, by, reason, r.Name); err != nil {
			return nil, err
		}
		ended["trust_rules"]++
	}
	sessions, err := readSessions(ctx, tx, sessionFilter{})
	if err != nil {
		return nil, err
	}
	for _, x := range sessions {
		if x.Agent != a.Name || !x.Ended.IsZero() {
			continue
		}
		if err := s.endSessionTx(ctx, tx, by, reason, x); err != nil {
			return nil, err
		}
		ended["consents"]++
	}
	for what, q := range map[string]string{"programs": `DELETE FROM oauth_clients WHERE agent = $1`, "enrolments": `DELETE FROM enrolments WHERE agent = $1 AND state = 'pending'`} {
		res, err := tx.Exec(ctx, q, a.Name)
		if err != nil {
			return nil, err
		}
		if n, err := res.RowsAffected(); err == nil && n > 0 {
			ended[what] = int(n)
		}
	}
	return ended, storage.Bump(ctx, tx.Tx, Version)
}
