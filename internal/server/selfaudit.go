package server

import (
	"context"
	"log/slog"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/selfaudit"
	"github.com/countersign/countersign/internal/findings"
)

// startSelfAudit has the ledger look at a part of itself once an hour.
func (h *house) startSelfAudit(ctx context.Context, log *slog.Logger) error {
	h.selfaudit = selfaudit.New(h.db, h.log, h.seal, h.search, selfaudit.Options{Alert: h.mismatch, Logger: log})
	if err := h.selfaudit.Start(ctx); err != nil {
		return err
	}
	h.onClose("self-audit", h.selfaudit.Stop)
	return nil
}

// mismatch makes a finding of a place where the ledger does not match itself.
func (h *house) mismatch(ctx context.Context, tx *audit.Tx, p selfaudit.Problem) error {
	return h.findings.OpenTx(ctx, tx, findings.Finding{
		Rule: "log.mismatch", Severity: findings.Critical, Object: "log/" + p.Part + "/" + p.Where, Title: "The log does not match itself: " + p.Part,
		Detail: p.Where + ": " + p.Message + ". Keep the database as evidence; countersign doctor --deep looks at the rest.",
	})
}
