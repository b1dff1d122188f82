package server

import (
	"context"
	"log/slog"

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
