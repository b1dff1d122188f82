package server

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/undo"
)

// buildUndo builds the room that takes back what calls did.
func (h *house) buildUndo(_ context.Context, log *slog.Logger) error {
	var err error
	h.undo, err = undo.New(undo.Options{
		DB: h.db, Log: h.log, Tool: h.connections.Tool, Derive: h.secrets.Derive, Make: h.makeUndo, Logger: log,
		Kind: func(name string) string { c, _ := h.connections.Connection(name); return c.Kind },
		May:  h.mayUndo,
		Approval: func(ctx context.Context, id string) (string, string, error) {
			r, err := h.approvals.Get(ctx, id)
			return string(r.State), r.Why, err
		},
	})
	return err
}

// mayUndo reports whether any grant or policy could let an agent call a tool.
func (h *house) mayUndo(agent, connection, tool string) bool {
	a, known := h.identity.Agent(agent)
	c, found := h.connections.Connection(connection)
	t, there := h.connections.Tool(connection, tool)
	return known && found && there && h.policy.Reach(policy.Agent{Name: a.Name, Team: a.Team, Stage: a.Stage, Owner: a.Owner, Labels: a.Labels},
		policy.Action{Connection: connection, Tool: tool, Effect: t.Effect, Kind: c.Kind}).Possible
}

// errNoAgent is for an undo in the name of an agent that is not there.
var errNoAgent = fault.New(fault.NotFound, "agent_not_found", "the agent in whose name it is undone is not there any more; name another")

// makeUndo makes a compensating call in the name of an agent, on behalf of the
// person who undoes. It goes the way of every call.
func (h *house) makeUndo(ctx context.Context, a undo.Act) ([]byte, error) {
	agent, ok := h.identity.Agent(a.Agent)
	if !ok {
		return nil, errNoAgent
	}
	resume := &gateway.Resumed{Call: a.Call, Before: a.Before, Resumed: identity.Resumed{
		Agent: agent.Name, AgentID: agent.ID, Credential: a.Undo, Kind: "undo", OnBehalfOf: []audit.Actor{a.By},
	}}
	out := &keeper{header: http.Header{}}
	err := h.mcp.Make(ctx, out, resume, a.Connection, a.Tool, a.Args)
	return out.body.Bytes(), err
}

// keeper takes an answer and keeps its beginning.
type keeper struct {
	header http.Header
	body   bytes.Buffer
}

const keepMost = 1 << 20

func (k *keeper) Header() http.Header { return k.header }
func (k *keeper) WriteHeader(int)     {}
func (k *keeper) Write(b []byte) (int, error) {
	if room := keepMost - k.body.Len(); room > 0 {
		k.body.Write(b[:min(room, len(b))])
	}
	return len(b), nil
}
