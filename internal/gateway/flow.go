package gateway

import (
	"context"
	"encoding/json/jsontext"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/endorsements"
	"github.com/countersign/countersign/internal/flow"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/policy"
)

// Flow knows what runs were told and read; flow.Service is one.
type Flow interface {
	Words(ctx context.Context, run, by, words string) error
	Reads(ctx context.Context, run string, s flow.Spec) error
	Lost(ctx context.Context, run string) error
	Result(ctx context.Context, run string, s flow.Spec, tool, call string, wrote bool, body []byte) error
	Labels(ctx context.Context, run string, labels []string) error
	Continues(ctx context.Context, run string, from []string) error
	Confidential(ctx context.Context, run string, readers []string) error
	Carries(ctx context.Context, run string) (flow.Carried, error)
	Judge(ctx context.Context, run string, s flow.Spec, tool string, args jsontext.Value) (flow.Judgement, error)
}

// Endorsements are what people endorsed beforehand; endorsements.Service is one.
type Endorsements interface {
	Given(ctx context.Context, t endorsements.Tool, counterparty string, values []string) (flow.Given, error)
	Held(ctx context.Context, t endorsements.Tool, approval string, values []flow.Value) error
	Lift(ctx context.Context, h endorsements.Hold) (*approvals.Request, error)
	Met(ctx context.Context, t endorsements.Tool, arg string, values []string, r approvals.Request, life time.Duration) error
}

// Said is what a model's request says in the words of a person.
type Said struct{ By, Words string } // By: flow.User or flow.Operator

// labelUntrusted is the label of a run that has read untrusted content, and of
// the calls that brought it.
const (
	labelUntrusted    = "untrusted"
	labelConfidential = "confidential"
)

// watched reports whether it matters where the call's values come from: a
// policy asks for it, and an agent calls.
func (g *Gateway) watched(call *Call) bool {
	return g.o.Flow != nil && call.Who.Agent.Name != "" && g.o.Decider.Provenance()
}

// memory names the run whose content may have shaped a call: the one of its run
// token or, for a client without one, everything of the last hours that came with
// the same key, or with any access token of the agent, on whichever replica.
func memory(call *Call) string {
	if call.Who.Run != "" {
		return call.Who.Run
	}
	if call.Who.Credential.Kind == identity.KindAccess { // an agent gets itself another token when it likes
		return call.Who.Agent.ID + "/" + identity.KindAccess
	}
	return call.Who.Agent.ID + "/" + call.Who.Credential.ID
}

// kin names where an agent's labels are kept whatever its credential: it gets
// itself other tokens and other runs when it likes, and must not leave behind by
// that what it has read.
func kin(call *Call) string { return call.Who.Agent.ID + "/" + identity.KindAccess }

// inherits reports whether a call is labelled by what its agent has read with any
// credential: all but one in a run that a person, or the application with a
// person's credentials, started for this agent.
func inherits(call *Call) bool {
	return memory(call) != kin(call) && (call.Who.Run == "" || call.Who.BeganItself() || len(call.Who.Behind) > 0)
}

// each calls fn with the memory of a call's run and with that of its agent.
func each(call *Call, fn func(memory string) error) error {
	if err := fn(memory(call)); err != nil || memory(call) == kin(call) {
		return err
	}
	return fn(kin(call))
}

// carries returns what labels a call by what its agent has read elsewhere.
func (g *Gateway) carries(ctx context.Context, call *Call) (flow.Carried, error) {
	if !inherits(call) {
		return flow.Carried{}, nil
	}
	return g.o.Flow.Carries(ctx, kin(call))
}

// judge finds out where the values of a call come from.
func (g *Gateway) judge(call *Call) error {
	if !g.watched(call) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), ledgerWait)
	defer cancel()
	if g.runs.look(call.Who, call.Run, call.Started).unseen || g.runs.unwatchedLately(call.Who, call.Started) && inherits(call) { // something was done while nobody asked
		if err := each(call, func(name string) error { return g.o.Flow.Lost(ctx, name) }); err != nil {
			return err
		}
	}
	brought, err := g.carries(ctx, call)
	if err != nil {
		return err
	}
	if call.Tool.Builtin && !call.documents() {
		own, err := g.o.Flow.Carries(ctx, memory(call))
		call.placed.carries = append(own.All(), brought.All()...)
		return err
	}
	j, err := g.o.Flow.Judge(ctx, memory(call), call.Tool.References.Flow, call.Tool.Name, call.Args)
	if err != nil {
		return err
	}
	j = j.Carrying(brought)
	if j, err = g.given(ctx, call, j); err != nil {
		return err
	}
	call.judged, call.cleared = &j, g.cleared(j)
	return nil
}

// given takes into account what people endorsed beforehand, where it matters.
func (g *Gateway) given(ctx context.Context, call *Call, j flow.Judgement) (flow.Judgement, error) {
	if g.o.Endorsements == nil || len(j.Values) == 0 || !j.Untrusted && len(j.Confidential) == 0 {
		return j, nil
	}
	spec := call.Tool.References.Flow
	given, err := g.o.Endorsements.Given(ctx, toolOf(call), spec.Counterparty, call.counterparties(j))
	if err != nil {
		return j, err
	}
	return j.With(spec, given), nil
}

// toolOf is the tool of a call, and whose call it is, as endorsements are bound to it.
func toolOf(call *Call) endorsements.Tool {
	return endorsements.Tool{AgentID: call.Who.Agent.ID, Agent: call.Who.Agent.Name, Run: call.Run, Connection: call.Connection.Name, Name: call.Tool.Name, Target: Target(call.Connection)}
}

// counterparties are the values of the argument that names them.
func (c *Call) counterparties(j flow.Judgement) []string {
	var out []string
	for _, v := range j.Values {
		if v.Arg == c.Tool.References.Flow.Counterparty && v.Value != "" {
			out = append(out, v.Value)
		}
	}
	return out
}

// met remembers whom people came to know by a call that they approved.
func (g *Gateway) met(ctx context.Context, call *Call, outcome string) {
	if g.o.Endorsements == nil || call.permit == nil || call.judged == nil || outcome != audit.Succeeded {
		return
	}
	spec := call.Tool.References.Flow
	values := call.counterparties(*call.judged)
	if len(values) == 0 {
		return
	}
	if err := g.o.Endorsements.Met(ctx, toolOf(call), spec.Counterparty, values, call.permit.Request(), spec.KnownFor()); err != nil {
		g.o.Logger.Warn("whom people approved could not be remembered; they are asked again", "call", call.ID, "error", err)
	}
}

// provenance is the judgement as policy sees it.
func (c *Call) provenance() (p policy.Provenance, labels []string) {
	j := c.judged
	if j == nil {
		return p, nil
	}
	labels = slices.Clone(j.Labels)
	if j.Untrusted {
		labels = append(labels, labelUntrusted)
	}
	p = policy.Provenance{Untrusted: j.Untrusted, Asked: j.Asked, External: j.External, Unendorsed: j.Unendorsed()}
	p.Endorsed, p.By = len(p.Unendorsed) == 0, j.Origins()
	p.Confidential, p.Cleared = len(j.Confidential) > 0, c.cleared
	return p, labels
}

// cleared reports whether everybody whom a call reaches may know what its run has
// read.
func (g *Gateway) cleared(j flow.Judgement) bool {
	return j.Cleared(func(recipient string) []string {
		if g.o.Readers == nil {
			return nil
		}
		return g.o.Readers(recipient)
	})
}

// origins says where the values of a held call come from, in a sentence that
// holds none of them. Who decides sees each value beside it (valued).
func (c *Call) origins() string {
	if c.judged == nil || !c.judged.Untrusted && len(c.judged.Confidential) == 0 {
		return ""
	}
	var said []string
	for _, v := range c.judged.Values {
		if one := v.Arg + " " + origin(v); !slices.Contains(said, one) {
			said = append(said, one)
		}
	}
	if !c.judged.Asked {
		said = append(said, "the user's words do not ask for such an action")
	}
	if !c.cleared {
		said = append(said, "somebody whom it reaches may not know what the run has read")
	}
	if len(said) == 0 {
		return ""
	}
	what := "untrusted"
	if !c.judged.Untrusted {
		what = "confidential"
	}
	return ". The run has read " + what + " content: " + strings.Join(said, "; ")
}

// valued says of each value of a held call where it comes from.
func (c *Call) valued() []approvals.Value {
	if c.judged == nil {
		return nil
	}
	out := make([]approvals.Value, len(c.judged.Values))
	for i, v := range c.judged.Values {
		out[i] = approvals.Value{Arg: v.Arg, Role: v.Role, Value: v.Value, Origin: v.Origin, Said: origin(v), Call: v.Call}
	}
	return out
}

func origin(v flow.Value) string {
	switch v.Origin {
	case flow.ByWords:
		return "is what the user said"
	case flow.ByTrusted:
		return "is from a trusted source"
	case flow.ByRecord:
		return "is from a record of " + v.Tool + " that the user named"
	case flow.ByMade:
		return "was made in this run"
	case flow.ByBound:
		return "is no more than what was known"
	case flow.ByCounterparty:
		return "was approved before"
	case flow.ByScope:
		return "is in what the run may do"
	}
	return "comes from nowhere that is trusted"
}

// conveys reports whether the agent reads something by the call that others may
// have written. Models' answers are made of what the run gave them, but for what
// tools of their providers brought.
func (c *Call) conveys() bool {
	if c.Connection.Kind == connections.LLM {
		return c.Fetches
	}
	switch c.Tool.Name {
	case "mcp:resources/read", "mcp:prompts/get", "mcp:subscriptions/listen":
		return true
	}
	return !c.Tool.Builtin // of a retrieval connection each document is told by itself: Bring
}

// remember makes durable, before the call goes out, what the run was told by it
// and that it will read something.
func (g *Gateway) remember(call *Call) error {
	if !g.watched(call) {
		g.runs.unwatched(call.Who, call.Run, call.Started)
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), ledgerWait)
	defer cancel()
	if call.Said != nil && !g.tainted(ctx, call) {
		for _, s := range call.Said() {
			if err := g.o.Flow.Words(ctx, memory(call), s.By, string(g.meant(ctx, call, []byte(s.Words)))); err != nil {
				g.o.Logger.Warn("what a user said could not be remembered; it endorses nothing", "call", call.ID, "error", err)
			}
		}
	}
	if !call.conveys() {
		return nil
	}
	spec := call.Tool.References.Flow
	return each(call, func(name string) error {
		if err := g.o.Flow.Reads(ctx, name, spec); err != nil || len(spec.Readers) == 0 {
			return err
		}
		return g.o.Flow.Confidential(ctx, name, spec.Readers)
	})
}

// tainted reports whether an agent has read untrusted content elsewhere that it
// could have its words for a new run from.
func (g *Gateway) tainted(ctx context.Context, call *Call) bool {
	c, err := g.carries(ctx, call)
	return err != nil || c.Untrusted
}

// Learns reports whether an answer may endorse anything later: it matters, and
// its source or its fields are declared.
func (g *Gateway) Learns(call *Call) bool {
	spec := call.Tool.References.Flow
	return (spec.Source == flow.Trusted || len(spec.Fields) > 0) && g.watched(call) && call.conveys()
}

// Learn remembers what a tool answered, before the agent sees it. If it cannot,
// the answer endorses nothing.
func (g *Gateway) Learn(call *Call, result []byte) {
	g.posed(call, result)
	if !g.watched(call) || !call.conveys() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), ledgerWait)
	defer cancel()
	wrote, result := call.Tool.Effect != connections.Read, g.meant(ctx, call, result)
	if err := g.o.Flow.Result(ctx, memory(call), call.Tool.References.Flow, call.Tool.Name, call.ID, wrote, result); err != nil {
		g.o.Logger.Warn("what a tool answered could not be remembered; it endorses nothing", "call", call.ID, "error", err)
	}
}

// documents reports whether what the call answers is told document by document
// (Bring), each by its own source.
func (c *Call) documents() bool {
	return c.Connection.Kind == connections.Retrieval && !c.Tool.Protocol()
}

// Bring remembers what a transport answers a call with, before the agent sees
// any of it: b for the outcome and the run's labels, content as what the run has
// read from a trusted or untrusted source. An error means that the agent must
// not see it.
func (g *Gateway) Bring(call *Call, b Brought, trusted, untrusted []byte) error {
	if len(untrusted) > 0 {
		b.Labels = append(b.Labels, labelUntrusted)
	}
	call.brought.Store(&b)
	g.posed(call, untrusted)
	if !g.watched(call) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), ledgerWait)
	defer cancel()
	run := memory(call)
	err := each(call, func(name string) error {
		for _, readers := range b.Readers {
			if err := g.o.Flow.Confidential(ctx, name, readers); err != nil {
				return err
			}
		}
		if len(b.Labels) == 0 {
			return nil
		}
		return g.o.Flow.Labels(ctx, name, b.Labels)
	})
	if err != nil {
		return err
	}
	for source, content := range map[string][]byte{flow.Trusted: trusted, flow.Untrusted: untrusted} {
		if len(content) == 0 {
			continue
		}
		spec := flow.Spec{Source: source}
		if err := g.o.Flow.Reads(ctx, run, spec); err != nil {
			return err
		}
		if err := g.o.Flow.Result(ctx, run, spec, call.Tool.Name, call.ID, false, content); err != nil {
			g.o.Logger.Warn("what was retrieved could not be remembered; it endorses nothing", "call", call.ID, "error", err)
		}
	}
	return nil
}

// labelled marks what a call brings into its run.
func (g *Gateway) labelled(ev *audit.Event, call *Call) {
	if b := call.brought.Load(); b != nil {
		ev.Labels, ev.Objects = append(ev.Labels, b.Labels...), append(ev.Objects[:len(ev.Objects):len(ev.Objects)], b.Objects...)
		return
	}
	if (call.judged != nil || call.Fetches && g.watched(call)) && call.conveys() && call.Tool.References.Flow.Source != flow.Trusted {
		ev.Labels = append(ev.Labels, labelUntrusted)
	}
	if len(call.Tool.References.Flow.Readers) > 0 && call.conveys() {
		ev.Labels = append(ev.Labels, labelConfidential)
	}
}
