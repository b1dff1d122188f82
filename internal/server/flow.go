package server

import (
	"context"
	"log/slog"

	"github.com/countersign/countersign/internal/flow"
)

// buildFlow opens the memory of what runs were told and read.
func (h *house) buildFlow(_ context.Context, log *slog.Logger) error {
	var err error
	h.flow, err = flow.New(h.db, flow.Options{Derive: h.secrets.Derive, Logger: log})
	return err
}
