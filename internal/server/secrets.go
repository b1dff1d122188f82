package server

import (
	"context"
	"log/slog"

	"github.com/countersign/countersign/internal/secrets/lease"
	"github.com/countersign/countersign/internal/secrets/provider/command"
	"github.com/countersign/countersign/internal/secrets/provider/postgres"
	"github.com/countersign/countersign/internal/secrets/rotation"
)

// buildCredentials builds what is done to secrets over their lives: leases that
// end, and rotation.
func (h *house) buildCredentials(_ context.Context, log *slog.Logger) error {
	h.leases = lease.New(lease.Options{DB: h.db, Log: h.log, Watch: h.watch, Secrets: h.secrets, Findings: h.findings, Logger: log,
		Makers: map[string]lease.Maker{"postgres": postgres.Maker{}}})
	h.rotation = rotation.New(rotation.Options{DB: h.db, Log: h.log, Watch: h.watch, Secrets: h.secrets, Findings: h.findings, Logger: log,
		Rotators: map[string]rotation.Rotator{
			"postgres": postgres.Rotator{},
			"command":  command.Rotator{Redact: h.scanner.Redact, Log: func(secret, line string) { log.Info("a rotation's command says", "secret", secret, "line", line) }},
		}})
	return nil
}

// startCredentials begins the work in the background.
func (h *house) startCredentials(ctx context.Context) error {
	if err := h.leases.Start(ctx); err != nil {
		return err
	}
	h.onClose("leases", h.leases.Stop)
	if err := h.rotation.Start(ctx); err != nil {
		return err
	}
	h.onClose("rotation", h.rotation.Stop)
	return nil
}

// settleLeases waits for what the secrets gave back when they closed.
func (h *house) settleLeases(ctx context.Context) error {
	if h.leases == nil {
		return nil
	}
	return h.leases.Settle(ctx)
}
