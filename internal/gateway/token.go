package gateway

import (
	"slices"

	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/policy"
)

// CodeScope is the code of a refusal that a token with a wider scope would
// change: a client that can asks its person for one (step-up).
const CodeScope = "insufficient_scope"

// door returns the path of the resource that a request came in by. Fronts are
// called as their doors are.
func door(in Incoming) string {
	if in.Connection == "" {
		return "/" + in.Front
	}
	return "/" + in.Front + "/" + in.Connection
}

// atDoor refuses an access token that was issued for another resource
// (RFC 8707; MCP, authorization, token audience binding).
func atDoor(who identity.Caller, in Incoming) error {
	if who.At(door(in)) {
		return nil
	}
	return identity.ErrAudience
}

// inScope returns v for a call that the caller's access token covers, else a
// refusal that says which scope would.
func inScope(call *Call, v verdict) verdict {
	scope := call.Who.Scope
	if scope == nil || scope.Allows(call.Connection.Name, call.Tool.Name, call.Tool.Effect) {
		return v
	}
	needs := scope.With(call.Connection.Name, call.Tool.Name, call.Tool.Effect).String()
	out := verdict{effect: policy.Deny, code: CodeScope, needs: needs, record: v.record,
		reason: "the token's scope does not cover this call; get one with the scope: " + needs}
	out.record.Effect, out.record.Reason = policy.Deny.String(), out.reason
	return out
}

// shrink asks policy about every agent on whose behalf the caller acts:
// delegation never lets through what one of them might not do itself. The
// strictest answer counts, and approvals add up.
func (g *Gateway) shrink(call *Call, v verdict) verdict {
	for _, a := range call.Who.Behind {
		q := g.question(call, call.Started)
		q.Agent = policyAgent(identity.Caller{Agent: a})
		if at := slices.Index(q.OnBehalfOf, a.Name); at >= 0 {
			q.OnBehalfOf = q.OnBehalfOf[:at]
		}
		d := g.o.Decider.Decide(q)
		switch {
		case d.Effect == policy.Deny:
			v.effect, v.code, v.advice, v.holds = policy.Deny, CodeDenied, d.Advice, nil
			v.reason = "the agent " + a.Name + ", on whose behalf this is, may not make this call itself"
			v.record.Effect, v.record.Reason, v.record.Policies, v.record.Grants = d.Effect.String(), v.reason, d.Policies, d.Grants
			return v
		case d.Effect == policy.Hold:
			if v.effect == policy.Allow {
				v.effect, v.reason, v.advice = policy.Hold, d.Reason, d.Advice
				v.record.Effect, v.record.Reason = d.Effect.String(), d.Reason
			}
			for _, h := range d.Holds {
				if !slices.ContainsFunc(v.holds, func(o policy.Needed) bool { return o.Policy == h.Policy }) {
					v.holds = append(v.holds, h)
				}
			}
		}
		v.record.Policies, v.record.Grants = union(v.record.Policies, d.Policies), union(v.record.Grants, d.Grants)
		v.rules = append(v.rules, d.Rules...)
	}
	return v
}

// union returns what is in either of two sorted lists.
func union(a, b []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(slices.Concat(a, b))))
}
