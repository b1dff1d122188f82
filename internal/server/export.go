package server

import (
	"context"
	"log/slog"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/export"
	"github.com/countersign/countersign/internal/config"
	"github.com/countersign/countersign/internal/findings"
)

// startExport sends the log to the systems of others, as configured.
func (h *house) startExport(ctx context.Context, log *slog.Logger) error {
	targets, err := exportTargets(h.cfg.Export)
	if err != nil {
		return err
	}
	h.export, err = export.New(ctx, h.db, h.log, export.Options{
		Targets: targets, Version: h.version, Kind: h.connectionKind, Redact: h.scanner.Redact, Alert: h.exportAlert, Logger: log,
	})
	if err != nil {
		return err
	}
	if err := h.export.Start(ctx); err != nil {
		return err
	}
	h.onClose("exports", h.export.Stop)
	return nil
}

func exportTargets(c config.Export) ([]export.Target, error) {
	var out []export.Target
	for _, o := range c.OTLPTargets() {
		headers, err := o.All()
		if err != nil {
			return nil, err
		}
		out = append(out, export.Target{
			Name: o.Name, Kind: export.OTLP, URL: o.URL, Protocol: o.Protocol, Headers: headers, Plain: o.Compression == "none", Insecure: o.Insecure,
			CA: o.CA, NoLogs: !o.Has("logs"), NoTraces: !o.Has("traces"), Timeout: o.Timeout, Payloads: o.Payloads, FromNow: o.From == "now",
		})
	}
	for _, o := range c.OCSFTargets() {
		out = append(out, export.Target{
			Name: o.Name, Kind: export.OCSF, Dir: o.Dir, RotateBytes: o.RotateBytes, RotateAfter: o.RotateAfter, Payloads: o.Payloads, FromNow: o.From == "now",
		})
	}
	return out, nil
}

func (h *house) connectionKind(name string) string {
	c, ok := h.connections.Connection(name)
	if !ok {
		return ""
	}
	return c.Kind
}

// exportAlert opens a finding about an export, or closes it when it is over.
func (h *house) exportAlert(ctx context.Context, tx *audit.Tx, a export.Alert) error {
	if a.Over {
		return h.findings.CloseObjectTx(ctx, tx, audit.System, a.Object, a.Detail, a.Rule)
	}
	return h.findings.OpenTx(ctx, tx, findings.Finding{Rule: a.Rule, Severity: findings.High, Object: a.Object, Title: a.Title, Detail: a.Detail})
}
