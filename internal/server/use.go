package server

import (
	"context"
	"log/slog"
	"time"

	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/use"
)

// startUse follows what agents use.
func (h *house) startUse(ctx context.Context, log *slog.Logger) error {
	var err error
	if h.use, err = use.New(h.db, h.log, use.Options{Policy: h.policy, Agents: h.policyAgent, Owns: h.owns, Findings: h.findings, Logger: log}); err != nil {
		return err
	}
	if err := h.use.Start(ctx); err != nil {
		return err
	}
	h.onClose("use", h.use.Stop)
	return nil
}

// policyAgents lists the registered agents, as policies see them.
func (h *house) policyAgents() []policy.Agent {
	var out []policy.Agent
	for _, a := range h.identity.Agents() {
		if a.Retired.IsZero() {
			out = append(out, policy.Agent{Name: a.Name, Team: a.Team, Stage: a.Stage, Owner: a.Owner, Labels: a.Labels})
		}
	}
	return out
}

// matched says which rules determined calls since a time.
func (h *house) matched(ctx context.Context, since time.Time) (policy.Matched, error) {
	return h.use.Matched(ctx, since)
}

// uses returns what agents used.
func (h *house) uses(ctx context.Context, q use.Query) ([]use.Use, use.Watched, error) {
	return h.use.Uses(ctx, q)
}
