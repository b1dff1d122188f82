package server

import (
	"context"
	"log/slog"
	"slices"

	"github.com/countersign/countersign/internal/flow"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/runs"
)

// instructs names what a text holds that addresses a model.
func (h *house) instructs(text []byte) []string {
	var rules []string
	for _, f := range h.scanner.Inspect(text, inspection.Injections) {
		if !slices.Contains(rules, f.Rule) {
			rules = append(rules, f.Rule)
		}
	}
	slices.Sort(rules)
	return rules
}

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
