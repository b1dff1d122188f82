package gateway

import (
	"context"
	"encoding/json/v2"
	"errors"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/budget"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/policy"
)

// Budgets reserves what calls may use; budget.Service is one.
type Budgets interface {
	Any() bool
	Reserve(ctx context.Context, c *budget.Call) (*budget.Reservation, error)
	Left(ctx context.Context, c *budget.Call) (budget.Left, error)
	Prices() *budget.Prices
}

// CodeBudget is the code of a refusal by a hard limit.
const CodeBudget = "budget_exceeded"

// budgeted reserves what an allowed call may use. One that does not fit is
// refused; one that is not allowed any more gives back what an approval reserved.
func (g *Gateway) budgeted(ctx context.Context, in Incoming, call *Call, v verdict) verdict {
	if v.effect != policy.Allow {
		call.reserved.Release()
		return v
	}
	if err := g.reserve(ctx, call); err != nil {
		return g.overBudget(in, call, v, err)
	}
	return v
}

// reserve reserves what the call may use, once. What is only the plumbing of a
// protocol uses nothing.
func (g *Gateway) reserve(ctx context.Context, call *Call) error {
	if g.o.Budgets == nil || call.reserved != nil || call.Implied != nil || !g.o.Budgets.Any() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ledgerWait)
	defer cancel()
	var err error
	call.reserved, err = g.o.Budgets.Reserve(ctx, call.budgeted())
	return err
}

// budgeted is the call as budgets see it.
func (c *Call) budgeted() *budget.Call {
	b := &budget.Call{ID: c.ID, Run: c.Run, Connection: c.Connection.Name, Tool: c.Tool.Name, Effect: c.Tool.Effect != connections.Read}
	b.Chain = append(make([]budget.Member, 0, 1+len(c.Who.Behind)), budget.Member{Agent: c.Who.Agent.Name, Team: c.Who.Agent.Team})
	for _, a := range c.Who.Behind {
		b.Chain = append(b.Chain, budget.Member{Agent: a.Name, Team: a.Team})
	}
	if c.Connection.Kind == connections.LLM {
		b.Model = c.use
	}
	return b
}

// reckon finds out what is left of the call's budgets, if a policy asks. What
// cannot be told refuses.
func (g *Gateway) reckon(call *Call) error {
	if g.o.Budgets == nil || call.Who.Agent.Name == "" || call.Implied != nil || !g.o.Decider.Budget() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), ledgerWait)
	defer cancel()
	left, err := g.o.Budgets.Left(ctx, call.budgeted())
	if err != nil {
		return err
	}
	call.left = &policy.Budget{Left: left.Percent, Limited: left.Limited, Soft: left.Soft}
	return nil
}

// silent are the endpoints of models whose answers have no tokens.
var silent = []string{"embeddings", "moderations", "count_tokens"}

// use is what a call of a model may use at most, by what its request says.
func (c *Call) use() budget.Use {
	var asked struct {
		Model string `json:"model"`
		Most  int64  `json:"max_tokens"`
		N     int64  `json:"n"`
	}
	_ = json.Unmarshal(c.Args, &asked) // arguments that are no numbers say nothing: the model's own most counts
	u := budget.Use{Model: asked.Model, Input: max(int64(len(c.Request.Body)), c.Request.Length), Output: max(asked.Most, 0)}
	if asked.N > 1 && u.Output > 0 {
		u.Output *= min(asked.N, 1<<20)
	}
	u.Silent = silentTool(c.Tool.Name)
	return u
}

func silentTool(name string) bool {
	return slices.ContainsFunc(silent, func(s string) bool { return strings.HasSuffix(name, s) })
}

// overBudget refuses a call for which nothing could be reserved.
func (g *Gateway) overBudget(in Incoming, call *Call, v verdict, err error) verdict {
	public := fault.Public(err)
	v.effect, v.code, v.reason, v.kind, v.advice, v.retry = policy.Deny, public.Code, public.Message, public.Kind, nil, retryLedger
	v.record.Effect, v.record.Reason = policy.Deny.String(), v.reason
	if in.Resume != nil {
		in.Resume.later = true
	}
	if e, ok := errors.AsType[*budget.Exceeded](err); ok {
		v.retry = e.Retry
		return v
	}
	g.o.Logger.Error("what a call may use could not be reserved; it is refused", "call", call.ID, "error", err)
	return v
}

// Later reports whether an approved call was not made only because its budget
// had no room: it may be made later.
func (r *Resumed) Later() bool { return r.later }

// spent settles what the call used.
func (g *Gateway) spent(call *Call, o audit.Outcome, err error) {
	r, refused := errors.AsType[*Refusal](err)
	call.reserved.Settle(o, !refused || r.Sent)
}

// price says what a call of a model cost.
func (g *Gateway) price(o *audit.Outcome) {
	if o.Usage == nil || g.o.Budgets == nil {
		return
	}
	u := *o.Usage
	c := g.o.Budgets.Prices().Cost(u.Model, u.Input, u.Cached, u.Output)
	u.Cost, u.Currency, u.Priced = c.Amount, c.Currency, c.Priced
	o.Usage = &u
}
