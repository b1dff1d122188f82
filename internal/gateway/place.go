package gateway

import (
	"context"
	"encoding/json/jsontext"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/runs"
)

// Runs knows to which run a call belongs, and what models proposed; runs.Service
// is one.
type Runs interface {
	Open(ctx context.Context, agent, credential, run string, now time.Time, gap time.Duration) (runs.Opened, error)
	Touch(agent, credential string, now time.Time)
	Continue(ctx context.Context, agent string, links []runs.Link, near bool) (runs.Thread, error)
	Match(ctx context.Context, q runs.Query) (runs.Match, bool, error)
	Release(ctx context.Context, m runs.Match, until time.Time) error
	Propose(x runs.Exchange, list []runs.Proposal, links []runs.Link) error
}

// Why a call belongs to its run, as its intent says.
const (
	byToken      = "token"      // the credential names it
	byHistory    = "history"    // the request continues an exchange of it
	byProposal   = "proposal"   // a model's answer in it proposed the call
	byCredential = "credential" // the same credential, without a long pause
)

// placed says to which run a call belongs and whether a model proposed it.
type placed struct {
	by      string
	known   bool // whether a model proposed it
	match   runs.Match
	matched bool
	carries []string // labels of the run, of a call whose values nobody asks about
}

// tooled reports whether the call is one of a tool that models are told about,
// rather than of a model or of a protocol.
func (c *Call) tooled() bool {
	return c.Connection.Kind != connections.LLM && c.Tool.Offered() && c.Connection.Dialect != connections.Git
}

// proposed is context.run.proposed: false for the call of a tool that no answer
// of a model is known to have proposed.
func (c *Call) proposed() bool { return c.placed.matched || !c.tooled() }

// place finds out to which run a call belongs: by its token, by what it
// continues, by who proposed it, or else by credential and time. What the runs
// have read that it leads to labels it, whichever it is.
func (g *Gateway) place(call *Call) error {
	base := g.runs.of(call.Who, call.Started)
	call.Run, call.placed.by = base.id, byCredential
	if call.Who.Run != "" {
		call.placed.by = byToken
	}
	if g.o.Runs == nil || call.Who.Agent.ID == "" {
		return nil
	}
	if g.runs.goesOn(call.Who, call.Started) {
		g.o.Runs.Touch(call.Who.Agent.ID, call.Who.Credential.ID, call.Started)
	}
	ctx, cancel := context.WithTimeout(context.Background(), ledgerWait)
	defer cancel()
	others, err := g.derive(ctx, call)
	if err != nil {
		if g.watched(call) { // a policy asks
			return err
		}
		g.o.Logger.Warn("to which run a call belongs could not be looked up; it goes by credential and time", "call", call.ID, "error", err)
		return nil
	}
	if call.Run != base.id {
		g.runs.in(call.Who, call.Run, call.Started)
	}
	if others = slices.DeleteFunc(others, func(o string) bool { return o == memory(call) }); len(others) > 0 && g.watched(call) {
		return g.o.Flow.Continues(ctx, memory(call), others)
	}
	return nil
}

// derive places a call by what models answered. It returns the memories of every
// run that this leads to.
func (g *Gateway) derive(ctx context.Context, call *Call) (others []string, err error) {
	if call.tooled() {
		return g.match(ctx, call)
	}
	if call.Continues == nil {
		return nil, nil
	}
	thread, err := g.o.Runs.Continue(ctx, call.Who.Agent.ID, call.Continues(), !g.watched(call))
	if err == nil && thread.Run != "" && call.Who.Run == "" {
		call.Run, call.placed.by = thread.Run, byHistory
	}
	return thread.Others, err
}

// match finds the answer that proposed a tool call. If a policy asks, the
// proposal is looked for on every replica, and a call with an effect uses it up;
// else only what this one remembers is told.
func (g *Gateway) match(ctx context.Context, call *Call) ([]string, error) {
	q := runs.Query{Agent: call.Who.Agent.ID, Run: call.Who.Run, Names: g.names(call), Args: call.Args, Near: !g.watched(call)}
	if call.given != nil { // a model knows the placeholders alone
		q.Args = call.given
	}
	if q.Args == nil {
		q.Args = noArgs
	}
	if call.Tool.Effect != connections.Read && !q.Near {
		q.Claim = call.ID
	}
	m, ok, err := g.o.Runs.Match(ctx, q)
	if err != nil {
		return nil, err
	}
	call.placed.known = ok || !q.Near
	if !ok {
		return nil, nil
	}
	call.placed.match, call.placed.matched = m, true
	if call.Who.Run == "" {
		call.Run, call.placed.by = m.Run, byProposal
	}
	return []string{m.Memory}, nil
}

// names returns under what names a model may know the tool: not those under
// which it may as well know another tool that the agent may use.
func (g *Gateway) names(call *Call) []string {
	all := connections.ModelNames(call.Connection.Name, call.Tool.Name)
	if g.o.Named == nil {
		return all
	}
	return slices.DeleteFunc(all, func(name string) bool {
		return slices.ContainsFunc(g.o.Named(name), func(n connections.Named) bool {
			same := n.Connection.Name == call.Connection.Name && n.Tool.Name == call.Tool.Name
			return !same && g.Visible(call.Who, n.Connection, n.Tool)
		})
	})
}

// unplace gives back the proposal of a call that is not made. One that waits for
// people waits, too.
func (g *Gateway) unplace(call *Call, v verdict) {
	if g.o.Runs == nil || !call.placed.matched || v.effect == policy.Allow && v.kept == nil {
		return
	}
	until := call.Started
	for _, h := range v.holds {
		if t := call.Started.Add(h.DecideWithin + h.ExecuteWithin); v.effect == policy.Hold && t.After(until) {
			until = t
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), ledgerWait)
	defer cancel()
	if err := g.o.Runs.Release(ctx, call.placed.match, until); err != nil {
		g.o.Logger.Warn("the proposal of a call that was not made is used up all the same", "call", call.ID, "error", err)
	}
}

// openRun opens the run of a credential on every replica alike.
func (g *Gateway) openRun(who identity.Caller, fresh string, now time.Time) (string, time.Time) {
	if g.o.Runs == nil || who.Agent.ID == "" {
		return fresh, now
	}
	ctx, cancel := context.WithTimeout(context.Background(), ledgerWait)
	defer cancel()
	o, err := g.o.Runs.Open(ctx, who.Agent.ID, who.Credential.ID, fresh, now, g.o.RunGap)
	if err != nil {
		g.o.Logger.Warn("a run could not be opened for every replica; here it is another", "error", err)
		return fresh, now
	}
	return o.Run, o.Started
}

// Proposed is what passed of a model's answer since it was last asked for.
type Proposed struct {
	Calls []runs.Proposal
	Links []runs.Link
}

// Proposer is an Observer that reads answers of models.
type Proposer interface {
	// Proposed returns what became complete of the answer; end says that
	// nothing follows.
	Proposed(end bool) Proposed
}

// propose remembers what a model's answer proposes before the agent sees the end
// of it. What cannot be remembered was not proposed.
func (a *answerBody) propose(end bool) {
	p, ok := a.call.Observer.(Proposer)
	if !ok || a.g.o.Runs == nil || a.call.Who.Agent.ID == "" || !a.observing {
		return
	}
	got := p.Proposed(end)
	if len(got.Calls)+len(got.Links) == 0 {
		return
	}
	x := runs.Exchange{Agent: a.call.Who.Agent.ID, Run: a.call.Run, Memory: memory(a.call), Call: a.call.ID}
	if err := a.g.o.Runs.Propose(x, got.Calls, got.Links); err != nil {
		a.g.o.Logger.Error("what a model proposed could not be remembered; it counts for nothing", "call", a.call.ID, "error", err)
	}
}

// intentDetail is what the event of a decided call says beside the decision.
type intentDetail struct {
	Approval   string         `json:"approval,omitzero"`
	Approvers  []string       `json:"approvers,omitzero"`
	Made       string         `json:"made_as,omitzero"`
	Model      string         `json:"model,omitzero"`       // asked for
	Odd        string         `json:"odd,omitzero"`         // the parameter that no client of a model sends
	Proposed   *bool          `json:"proposed,omitzero"`    // by a model, of a tool call; absent where nobody looked
	ProposedBy string         `json:"proposed_by,omitzero"` // the call to the model
	Release    int64          `json:"release,omitzero"`     // of the agent that bound it
	Canary     *bool          `json:"canary,omitzero"`      // whether that is tried by a share of the runs; absent without one
	Budget     *policy.Budget `json:"budget,omitzero"`      // what was left; absent where no policy asked
	Guard      []guardFact    `json:"guard,omitempty"`      // what the guardrail service said
	RunBy      string         `json:"run_by,omitzero"`      // why it belongs to its run, if not by its credential
}

// told adds to a detail how the call was placed.
func (p placed) told(d *intentDetail, tooled bool) {
	if p.by != byCredential && p.by != byToken {
		d.RunBy = p.by
	}
	if tooled && p.known {
		d.Proposed, d.ProposedBy = &p.matched, p.match.Call
	}
}

// placedDetail is the detail of a call's intent, nil if there is nothing to say.
func placedDetail(call *Call, v verdict) jsontext.Value {
	d := approvalDetail(call, v)
	d.Model, d.Odd = clip(call.Model, 100), call.Odd
	call.placed.told(&d, call.tooled())
	d.Release, d.Guard, d.Budget = call.release.Number, call.guarded, call.left
	if d.Release > 0 {
		d.Canary = &call.release.Canary
	}
	if d.Approval == "" && d.Proposed == nil && d.RunBy == "" && d.Release == 0 && d.Budget == nil && len(d.Guard) == 0 && d.Model == "" {
		return nil
	}
	return detail(d)
}
