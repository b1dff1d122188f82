package endorsements

import (
	"context"
	"errors"
	"slices"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/flow"
	"github.com/countersign/countersign/internal/storage"
)

// Hold is a held call as a stated scope has to cover it.
type Hold struct {
	Tool       Tool
	Definition string // of the tool, as it was accepted
	Call       string
	Chain      []audit.Actor    // on whose behalf it is made
	Rules      []approvals.Rule // that hold it
	Values     []flow.Value     // that matter
	// Ready is asked before a call of the scope is used up; an error leaves it.
	Ready func(ctx context.Context) error
}

// Lift uses up one call of a scope that people approved for the call's run and that
// covers it altogether, and returns what they approved; nil if there is none: the
// call stays held. Covered is a call of the same agent, run, tool and server, with
// nothing that matters outside the stated values, held by rules that are the same
// and whose people all approved, of whom none takes part in the call and each is
// entitled still, within the number of calls and the time.
func (s *Service) Lift(ctx context.Context, h Hold) (*approvals.Request, error) {
	if h.Tool.Run == "" || h.Tool.AgentID == "" || len(h.Rules) == 0 || s.o.Asks.Stands == nil {
		return nil, nil
	}
	now := s.o.Now()
	found, err := s.read(ctx, s.db, ` WHERE run = $1 AND kind = $2 AND connection = $3 AND tool = $4 AND ended = 0 AND expires > $5 AND used < most ORDER BY id`,
		h.Tool.Run, Stated, h.Tool.Connection, h.Tool.Name, storage.Micros(now))
	if err != nil {
		return nil, err
	}
	for _, e := range found {
		if !e.covers(h) {
			continue
		}
		r, err := s.o.Approval(ctx, e.Approval)
		if err != nil {
			return nil, err
		}
		why, err := s.approves(ctx, r, h)
		if err != nil {
			return nil, err
		}
		if why != "" {
			s.o.Logger.Info("a stated scope covers a call and does not let it through", "call", h.Call, "approval", e.Approval, "why", why)
			continue
		}
		if h.Ready != nil {
			if err := h.Ready(ctx); err != nil {
				return &r, err
			}
		}
		switch err := s.use(ctx, e, h); {
		case errors.Is(err, storage.ErrNotFound): // the last call was another's
			continue
		case err != nil:
			return nil, err
		}
		return &r, nil
	}
	return nil, nil
}

// covers reports whether a stated scope is as it was approved, and about the call.
func (e Endorsement) covers(h Hold) bool {
	return e.Scope != nil && e.bound == e.boundOf(h.Tool.Target, h.Definition) && e.agentID == h.Tool.AgentID && e.Scope.Tool == h.Tool.Connection+"/"+h.Tool.Name && e.Scope.Covers(h.Values)
}

// approves says why the approval of a scope is none of the call, "" if it is.
func (s *Service) approves(ctx context.Context, r approvals.Request, h Hold) (string, error) {
	b := r.Binding
	if r.State != approvals.Executed || r.Override || b.Method != method || b.Tool != Asking || b.AgentID != h.Tool.AgentID || r.Run != h.Tool.Run {
		return "it is not an approval of this run's scope", nil
	}
	for _, rule := range h.Rules {
		if !slices.Contains(b.Rules, rule) {
			return "it is held by " + rule.Name + ", about which nobody was asked in these words", nil
		}
	}
	for _, d := range r.Decisions {
		if d.Verdict == approvals.Approve && slices.ContainsFunc(h.Chain, func(a audit.Actor) bool { return a.Kind == audit.KindUser && a.ID == d.ID }) {
			return "who approved takes part in the call", nil
		}
	}
	return s.o.Asks.Stands(ctx, r)
}

// use counts a call, durably, before it is made.
func (s *Service) use(ctx context.Context, e Endorsement, h Hold) error {
	return s.log.Change(ctx, func(tx *audit.Tx) error {
		if err := tx.ExecOne(ctx, `UPDATE endorsements SET used = used + 1 WHERE id = $1 AND used < most AND ended = 0 AND expires > $2`, e.ID, storage.Micros(s.o.Now())); err != nil {
			return err
		}
		ev := s.event("run.scope_used", audit.Actor{Kind: audit.KindAgent, ID: e.agentID, Name: e.Agent}, "", e, map[string]any{"approval": e.Approval, "calls": e.Calls})
		ev.Call = h.Call
		tx.Record(ev)
		return nil
	})
}
