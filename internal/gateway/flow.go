package gateway

import (
	"context"
	"encoding/json/jsontext"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
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
	Carries(ctx context.Context, run string) ([]string, error)
	Judge(ctx context.Context, run string, s flow.Spec, tool string, args jsontext.Value) (flow.Judgement, error)
}

// Said is what a model's request says in the words of a person.
type Said struct{ By, Words string } // By: flow.User or flow.Operator

// labelUntrusted is the label of a run that has read untrusted content, and of
// the calls that brought it.
const labelUntrusted = "untrusted"

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

// judge finds out where the values of a call come from.
func (g *Gateway) judge(call *Call) error {
	if !g.watched(call) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), ledgerWait)
	defer cancel()
	if call.Tool.Builtin && !call.documents() {
		var err error
		call.placed.carries, err = g.o.Flow.Carries(ctx, memory(call))
		return err
	}
	if g.runs.look(call.Who, call.Run, call.Started).unseen { // it did something before anybody asked
		if err := g.o.Flow.Lost(ctx, memory(call)); err != nil {
			return err
		}
	}
	j, err := g.o.Flow.Judge(ctx, memory(call), call.Tool.References.Flow, call.Tool.Name, call.Args)
	if err != nil {
		return err
	}
	call.judged = &j
	return nil
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
	p.Endorsed = len(p.Unendorsed) == 0
	return p, labels
}

// origins says where the values of a held call come from, for who decides.
func (c *Call) origins() string {
	if c.judged == nil || !c.judged.Untrusted {
		return ""
	}
	var said []string
	for _, v := range c.judged.Values {
		said = append(said, v.Arg+" "+origin(v))
	}
	if !c.judged.Asked {
		said = append(said, "the user's words do not ask for such an action")
	}
	if len(said) == 0 {
		return ""
	}
	return ". The run has read untrusted content: " + strings.Join(said, "; ")
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
		g.runs.unwatched(call.Who, call.Run)
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), ledgerWait)
	defer cancel()
	if call.Said != nil {
		for _, s := range call.Said() {
			if err := g.o.Flow.Words(ctx, memory(call), s.By, s.Words); err != nil {
				g.o.Logger.Warn("what a user said could not be remembered; it endorses nothing", "call", call.ID, "error", err)
			}
		}
	}
	if !call.conveys() {
		return nil
	}
	return g.o.Flow.Reads(ctx, memory(call), call.Tool.References.Flow)
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
	wrote := call.Tool.Effect != connections.Read
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
	if len(b.Labels) > 0 {
		if err := g.o.Flow.Labels(ctx, run, b.Labels); err != nil {
			return err
		}
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
}
