package server

import (
	"context"
	"encoding/json/v2"
	"net"
	"strings"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/endorsements"
	"github.com/countersign/countersign/internal/flow"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/mcp"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/policy"
)

// scopeAsks is where the scopes of runs that are stated wait for people.
func (h *house) scopeAsks() endorsements.Asks {
	return endorsements.Asks{Hold: h.approvals.Hold, Link: h.approvals.Link, Stands: h.approvals.Stands, Needs: h.mayHold, Rule: h.policy.Rule,
		Tool: func(connection, tool string) (target, definition, effect string, ok bool) {
			c, known := h.connections.Connection(connection)
			t, there := h.connections.Tool(connection, tool)
			return gateway.Target(c), t.Digest, t.Effect, known && there && t.Callable()
		}}
}

// mayHold returns whom calls of a tool by an agent may have to wait for, whatever
// their arguments, and the policies that say so.
func (h *house) mayHold(agent, connection, tool string) ([]approvals.Need, []approvals.Rule) {
	a, ok := h.policyAgent(agent)
	c, known := h.connections.Connection(connection)
	t, there := h.connections.Tool(connection, tool)
	if !ok || !known || !there {
		return nil, nil
	}
	holds := h.policy.Holds(a, policy.Action{Connection: connection, Tool: tool, Effect: t.Effect, Kind: c.Kind})
	rules := make([]approvals.Rule, len(holds))
	for i, x := range holds {
		rules[i] = approvals.Rule{Name: x.Policy, Digest: h.policy.Rule(x.Policy)}
	}
	return gateway.Needs(holds), rules
}

// statements are the scopes that agents state for their runs, by their tool.
type statements struct{ h *house }

// State implements mcp.Scopes.
func (x statements) State(ctx context.Context, who identity.Caller, in gateway.Incoming, ask mcp.ScopeAsk) (string, []byte, error) {
	host, _, err := net.SplitHostPort(in.Remote)
	if err != nil {
		host = in.Remote
	}
	asker := endorsements.Asker{Actor: who.Agent.Actor(), Chain: who.OnBehalfOf, Run: who.Run,
		Origin: approvals.Origin{Credential: who.Credential.ID, Kind: who.Credential.Kind, Lineage: who.Lineage, Remote: host, Client: in.Client, Front: endorsements.Front}}
	st := endorsements.Statement{For: ask.For}
	for _, s := range ask.Scopes {
		name := s.Tool
		if !strings.Contains(name, "/") { // as tools of all connections are listed
			name = strings.Replace(name, "__", "/", 1)
		}
		st.Scopes = append(st.Scopes, endorsements.Stating{Scope: flow.Scope{Tool: name, Args: s.Args}, Calls: s.Calls})
	}
	text, a, err := x.h.endorsed.AskFor(ctx, asker, ask.ID, ask.Reason, st)
	if err != nil {
		return "", nil, err
	}
	// Who approves, and what others said, is not the agent's to know.
	b, err := json.Marshal(map[string]any{"id": a.ID, "state": a.State, "url": a.URL, "expires": a.Expires, "decide_by": a.DecideBy}, json.Deterministic(true))
	return text, b, err
}
