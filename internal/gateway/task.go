package gateway

import (
	"context"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
)

// Keep keeps the answer to a call that nobody held, for a client that asked for
// it as a task: Ask and Collect know the result by its ID. The error is always a
// *Refusal.
func (g *Gateway) Keep(ctx context.Context, who identity.Caller, connection, tool string, k *approvals.Kept) (*Waiting, error) {
	if g.o.Approvals == nil {
		return nil, Refuse(ErrUnknownRequest)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ledgerWait) // the call was made, whoever leaves
	defer cancel()
	a, err := g.o.Approvals.Keep(ctx, approvals.Task{AgentID: who.Agent.ID, Chain: who.OnBehalfOf, Connection: connection, Tool: tool, Call: k.Call}, k)
	if err != nil {
		return nil, Refuse(err)
	}
	return madeTask(a), nil
}

func madeTask(a approvals.Task) *Waiting {
	return &Waiting{
		ID: a.ID, State: approvals.Executed, Why: "the call was made", Created: a.Created, Changed: a.Created, Until: a.Until,
		Server: true, Connection: a.Connection, Tool: a.Tool, Executed: a.Call,
	}
}

// askTask is Ask about such a call.
func (g *Gateway) askTask(ctx context.Context, who identity.Caller, task string) (*Waiting, error) {
	a, _, err := g.o.Approvals.Task(ctx, task)
	switch {
	case fault.KindOf(err) == fault.NotFound, err == nil && !a.Of(who.Agent.ID, who.OnBehalfOf):
		return nil, Refuse(ErrUnknownRequest)
	case err != nil:
		return nil, Refuse(err)
	}
	return madeTask(a), nil
}

// kept returns what Collect hands out.
func (g *Gateway) kept(ctx context.Context, request string) (*approvals.Kept, error) {
	if !id.Is(id.Task, request) {
		return g.o.Approvals.Collect(ctx, request)
	}
	_, k, err := g.o.Approvals.Task(ctx, request)
	return k, err
}
