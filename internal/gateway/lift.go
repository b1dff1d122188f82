package gateway

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/budget"
	"github.com/countersign/countersign/internal/endorsements"
	"github.com/countersign/countersign/internal/flow"
	"github.com/countersign/countersign/internal/policy"
)

// lift lets a held call through that is inside a scope which people approved for
// its run beforehand. One that waits before it is sent, is resumed, or is held by
// something other than policies is not: people are asked as before. So they are if
// that cannot be looked up.
func (g *Gateway) lift(ctx context.Context, call *Call, v verdict, resumed bool) (verdict, bool) {
	if g.o.Endorsements == nil || v.effect != policy.Hold || v.window > 0 || resumed || call.Who.Run == "" || len(v.holds) == 0 {
		return v, false
	}
	rules, ok := holding(v)
	if !ok {
		return v, false
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ledgerWait)
	defer cancel()
	t := toolOf(call)
	t.Run = call.Who.Run
	r, err := g.o.Endorsements.Lift(ctx, endorsements.Hold{Tool: t, Definition: call.Tool.Digest, Call: call.ID, Chain: call.Who.OnBehalfOf, Rules: rules,
		Values: flow.Matters(call.Tool.References.Flow, call.Args),
		Ready: func(ctx context.Context) error { // before it is used up
			if err := g.granted(ctx, call); err != nil {
				return err
			}
			return g.reserve(ctx, call)
		}})
	switch {
	case err != nil && r != nil: // what it would use is used up already
		if errors.Is(err, budget.ErrExceeded) || errors.Is(err, budget.ErrUnavailable) {
			return g.overBudget(Incoming{}, call, v, err), true
		}
		return g.notHeld(call, v, err), true
	case err != nil:
		g.o.Logger.Warn("what people approved for a run could not be looked up; they are asked", "call", call.ID, "error", err)
		return v, false
	case r == nil:
		return v, false
	}
	v.approval, v.effect = r, policy.Allow
	v.record.Effect = policy.Allow.String()
	v.record.Reason = "inside the scope of its run, " + approvedBy(r) + " (" + r.ID + "); " + v.record.Reason
	return v, true
}

// holding are the policies that hold a call; false if something else does.
func holding(v verdict) ([]approvals.Rule, bool) {
	var out []approvals.Rule
	for _, h := range v.holds {
		for name := range strings.SplitSeq(h.Policy, ", ") {
			i := slices.IndexFunc(v.rules, func(r policy.Rule) bool { return r.Name == name })
			if i < 0 {
				return nil, false
			}
			out = append(out, approvals.Rule(v.rules[i]))
		}
	}
	return out, true
}
