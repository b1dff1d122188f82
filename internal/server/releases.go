package server

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/budget"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/releases"
)

// buildReleases builds the room that keeps what agents are made of.
func (h *house) buildReleases(log *slog.Logger) {
	h.releases = releases.New(releases.Options{
		DB: h.db, Log: h.log, Watch: h.watch, Identity: h.identity, Connections: h.connections, Policy: h.policy, Locks: h.locks, Findings: h.findings, Logger: log,
		Required: h.cfg.Releases.Required,
		Rooms:    releases.Rooms{Secret: h.secretState, Budgeted: h.budgeted, Reviewed: h.lastReviewed, Withheld: h.withheld},
	})
	h.identity.OnDelete(h.releases.BeforeDelete)
}

// secretState says who owns a secret and whether it is rotated, or made anew for
// each use.
func (h *house) secretState(name string) (owner string, rotated, known bool) {
	s, ok := h.secrets.Secret(name)
	return s.Owner, len(s.Rotation) > 0 || s.Source != "", ok
}

// budgeted reports whether a hard limit bounds what an agent uses.
func (h *house) budgeted(a identity.Agent) bool {
	return slices.ContainsFunc(h.budgets.Budgets(), func(b budget.Budget) bool {
		return b.Hard > 0 && (b.Agent == a.Name || b.Agent == "" && (b.Team == "" || b.Team == a.Team))
	})
}

// withheld are the grants of an agent that a review revoked last.
func (h *house) withheld(ctx context.Context, tx *audit.Tx, agent string) (map[string]bool, error) {
	return h.reviews.RevokedTx(ctx, tx, agent)
}

// lastReviewed says when each grant was last kept by a reviewer.
func (h *house) lastReviewed(ctx context.Context) (map[string]time.Time, error) {
	kept, err := h.reviews.LastKept(ctx)
	if err != nil {
		return nil, err
	}
	grants, err := h.policy.Grants(ctx, "")
	out := map[string]time.Time{}
	for _, g := range grants {
		out[g.Name] = kept[g.ID]
	}
	return out, err
}
