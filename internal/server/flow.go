package server

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections/mapping"
	"github.com/countersign/countersign/internal/endorsements"
	"github.com/countersign/countersign/internal/flow"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/pseudonyms"
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
	if h.endorsed, err = endorsements.New(h.db, h.log, endorsements.Options{Derive: h.secrets.Derive, Roles: h.roles, Run: h.runOf, Approval: h.approvals.Get, Asks: h.scopeAsks(), Logger: log}); err != nil {
		return err
	}
	if h.stand, err = pseudonyms.New(h.db, h.log, pseudonyms.Options{Derive: h.secrets.Derive, Logger: log}); err != nil {
		return err
	}
	if h.runs, err = runs.New(h.db, runs.Options{Derive: h.secrets.Derive, Logger: log}); err != nil {
		return err
	}
	h.onClose("runs", h.runs.Close)
	return nil
}

// roles returns the declared roles of a tool's arguments.
func (h *house) roles(connection, tool string) (map[string]string, bool) {
	t, ok := h.connections.Tool(connection, tool)
	return t.References.Flow.Args, ok
}

// runOf returns whose a run is, and until when it lasts.
func (h *house) runOf(ctx context.Context, run string) (agent, agentID string, expires time.Time, err error) {
	r, err := h.identity.RunOf(ctx, run)
	if err != nil {
		return "", "", time.Time{}, err
	}
	a, _ := h.identity.Agent(r.Agent)
	if !r.Ended.IsZero() {
		r.Expires = r.Ended
	}
	return r.Agent, a.ID, r.Expires, nil
}

// readers returns the names that a recipient has as a reader of documents: of a
// user, by login or mail address.
func (h *house) readers(recipient string) []string {
	same := flow.Same(recipient)
	if same == "" {
		return nil
	}
	for _, u := range h.identity.Users() {
		if u.Disabled || flow.Same(u.Name) != same && flow.Same(u.Email) != same {
			continue
		}
		p, ok := h.identity.Person(audit.Person(u.ID, u.Name))
		if !ok {
			return nil
		}
		out := []string{mapping.Everyone, "user:" + u.Name}
		for _, g := range p.Groups {
			out = append(out, "group:"+g)
		}
		for _, t := range p.Teams {
			out = append(out, "team:"+t)
		}
		return out
	}
	return nil
}
