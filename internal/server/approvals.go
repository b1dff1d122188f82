package server

import (
	"context"
	"log/slog"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/gateway"
)

// buildApprovals builds the room where people decide about held calls.
func (h *house) buildApprovals(_ context.Context, log *slog.Logger) error {
	var err error
	h.approvals, err = approvals.New(h.db, h.log, h.watch, approvals.Options{
		Identity: h.identity, Findings: h.findings, Derive: h.secrets.Derive, Redactor: h.scanner, Stale: h.staleBinding, URL: h.cfg.URL, Logger: log,
	})
	return err
}

// startApprovals starts the clocks of requests.
func (h *house) startApprovals(ctx context.Context) error {
	if err := h.approvals.Start(ctx, nil); err != nil {
		return err
	}
	h.onClose("approvals", h.approvals.Stop)
	return nil
}

// staleBinding says what an approval is bound to that has changed.
func (h *house) staleBinding(b approvals.Binding) string {
	c, ok := h.connections.Connection(b.Connection)
	if !ok || gateway.Target(c) != b.Target {
		return "the connection changed"
	}
	t, ok := h.connections.Tool(b.Connection, b.Tool)
	if !ok || !t.Callable() || t.Digest != b.Definition {
		return "the tool's definition changed"
	}
	if h.policy.Version() != b.Policy {
		return "the policies changed"
	}
	return ""
}
