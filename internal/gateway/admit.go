package gateway

import (
	"encoding/json/jsontext"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/policy"
)

// Admits reports whether policy lets a part of a call's answer through: a call
// of t with these arguments would not be refused or held, for the agent and for
// every agent that it acts through. What no policy or grant speaks about is
// admitted: the call itself was allowed.
func (g *Gateway) Admits(call *Call, t connections.Tool, args jsontext.Value) bool {
	part := &Call{Connection: call.Connection, Tool: t, Args: args, Who: call.Who, judged: call.judged, placed: call.placed, Run: call.Run, remote: call.remote}
	q := g.question(part, call.Started)
	for _, a := range append([]identity.Agent{call.Who.Agent}, call.Who.Behind...) {
		q.Agent = policyAgent(identity.Caller{Agent: a})
		if d := g.o.Decider.Decide(q); d.Effect != policy.Allow && !d.Unmatched {
			return false
		}
	}
	return true
}
