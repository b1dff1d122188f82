package identity

import (
	"context"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

// AgentTx reads an agent inside a change.
func (s *Service) AgentTx(ctx context.Context, tx *audit.Tx, name string) (Agent, error) {
	return readAgent(ctx, tx, name)
}

// UserTx reads a user inside a change.
func (s *Service) UserTx(ctx context.Context, tx *audit.Tx, name string) (User, error) {
	return readUser(ctx, tx, name)
}

// ListAgents returns every agent from the store, last calls included, which the
// view does not follow.
func (s *Service) ListAgents(ctx context.Context) ([]Agent, error) { return readAgents(ctx, s.db, "") }

// RetireTx is this room's part of a decommission: the agent is suspended for
// good, its keys are revoked and its runs end. Its name stays taken and its
// credentials stay known, so that the log can say whose they were. It returns
// how many of what ended. ErrRetired if that was done already.
func (s *Service) RetireTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, agent string) (map[string]int, error) {
	if err := checkReason(reason, true); err != nil {
		return nil, err
	}
	a, err := readAgent(ctx, tx, agent)
	switch {
	case err != nil:
		return nil, err
	case !a.Retired.IsZero():
		return nil, ErrRetired
	}
	ended := map[string]int{}
	keys, err := readKeys(ctx, tx, keyFilter{agent: agent, after: s.now()})
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		if !k.Revoked.IsZero() {
			continue
		}
		if err := s.RevokeKeyTx(ctx, tx, by, reason, k.ID); err != nil {
			return nil, err
		}
		ended["keys"]++
	}
	runs, err := readNames(ctx, tx, `SELECT run FROM agent_runs WHERE agent = $1 AND ended = 0 AND expires > $2 ORDER BY run`, agent, storage.Micros(s.now().Add(-skew)))
	if err != nil {
		return nil, err
	}
	for _, run := range runs {
		if err := s.EndRunTx(ctx, tx, by, reason, run); err != nil {
			return nil, err
		}
		ended["runs"]++
	}
	if err := swap(ctx, tx, `UPDATE agents SET suspended = $1, retired = $2, revision = revision + 1 WHERE name = $3 AND retired = 0`, true, storage.Micros(s.now()), agent); err != nil {
		return nil, err
	}
	return ended, record(ctx, tx, agentEvent("agent.decommissioned", by, reason, a, map[string]any{"id": a.ID, "ended": ended}))
}
