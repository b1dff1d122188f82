package server

import (
	"context"
	"log/slog"

	"github.com/countersign/countersign/internal/audit/search"
	"github.com/countersign/countersign/internal/incident"
	"github.com/countersign/countersign/internal/undo"
)

// buildIncident builds the room of incidents, which reads what others keep.
func (h *house) buildIncident(context.Context, *slog.Logger) error {
	var err error
	h.incident, err = incident.New(incident.Options{
		DB: h.db, Log: h.log, Finding: h.findings.Get, Reach: h.inventory.Tree, Prove: h.posture.Proof, Bundle: h.posture.Bundle, Owns: h.owns, Version: h.version,
		Search: func(ctx context.Context, q search.Query, p search.Page) (search.Result, error) {
			if err := h.search.Fresh(ctx); err != nil {
				return search.Result{}, err
			}
			return h.search.Find(ctx, q, p)
		},
		Plan: func(ctx context.Context, run string) (undo.Plan, error) { return h.undo.Plan(ctx, "", run, "") },
	})
	return err
}
