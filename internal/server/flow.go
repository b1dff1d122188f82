package server

import (
	"context"
	"log/slog"

	"github.com/countersign/countersign/internal/flow"
	"github.com/countersign/countersign/internal/runs"
)

// buildFlow opens the memory of what runs were told and read, and of what
// models proposed in them.
func (h *house) buildFlow(_ context.Context, log *slog.Logger) error {
	var err error
	h.flow, err = flow.New(h.db, flow.Options{Derive: h.secrets.Derive, Logger: log})
	if err != nil {
		return err
	}
	if h.runs, err = runs.New(h.db, runs.Options{Derive: h.secrets.Derive, Logger: log}); err != nil {
		return err
	}
	h.onClose("runs", h.runs.Close)
	return nil
}
