package server

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
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
		May:  h.mayUndo, Prepared: h.preparedCalls, Cancel: h.cancelPrepared,
		Approval: func(ctx context.Context, id string) (string, string, error) {
			r, err := h.approvals.Get(ctx, id)
			return string(r.State), r.Why, err
		},
	})
	return err
}

// preparedCalls returns the calls that wait to be sent, of a call or of a run, and
// those of the call that were.
func (h *house) preparedCalls(ctx context.Context, call, run string) ([]undo.Prepared, error) {
	found, err := h.approvals.Windowed(ctx, call, run)
	out := make([]undo.Prepared, len(found))
	for i, r := range found {
		out[i] = undo.Prepared{Approval: r.ID, Call: r.Call, Tool: r.Binding.Connection + "/" + r.Binding.Tool, Agent: r.Binding.Agent, At: r.Created, SendAt: r.SendAt,
			Waits: r.State == approvals.Approved, Sent: r.ExecCall}
	}
	return out, err
}

// cancelPrepared cancels a call that waits to be sent, or says as which call it was.
func (h *house) cancelPrepared(ctx context.Context, by audit.Actor, approval, reason string) (string, error) {
	_, err := h.approvals.Withdraw(ctx, by, approval, reason)
	if err == nil {
		return "", nil
	}
	r, gerr := h.approvals.Get(ctx, approval)
	switch {
	case gerr != nil:
		return "", gerr
	case r.ExecCall != "":
		return r.ExecCall, nil
	case r.State.Settled():
		return "", nil // it was withdrawn before, or its time is over
	}
	return "", err
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
	send := h.mcp.Make
	if c, _ := h.connections.Connection(a.Connection); c.Kind == connections.HTTP {
		send = h.http.Make
	}
	if err := send(ctx, out, resume, a.Connection, a.Tool, a.Args); err != nil || out.status >= 400 {
		return nil, err
	}
	return out.body.Bytes(), nil
}

// keeper takes an answer and keeps its beginning.
type keeper struct {
	header http.Header
	status int
	body   bytes.Buffer
}

const keepMost = 1 << 20

func (k *keeper) Header() http.Header { return k.header }
func (k *keeper) WriteHeader(s int)   { k.status = s }
func (k *keeper) Write(b []byte) (int, error) {
	if room := keepMost - k.body.Len(); room > 0 {
		k.body.Write(b[:min(room, len(b))])
	}
	return len(b), nil
}
