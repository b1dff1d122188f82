package gateway

import (
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
