package reviews

import (
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/rest"
)

// Front is the front of approvals that are for a grant, Method that of their
// bindings, and Tool what they call what is asked for.
const (
	Front  = "grant"
	method = "GRANT"
	Tool   = "countersign.grant"
)

// Template says in words what is asked for.
const Template = "{agent} asks to use {tools} of {connection} for {for}: {reason}"

// Wish is a grant that somebody asks for.
type Wish struct {
	Agent      string   `json:"agent"`
	Connection string   `json:"connection"`
	Tools      []string `json:"tools" doc:"by name: * cannot be asked for"`
	When       string   `json:"when,omitzero" required:"false" doc:"a condition in Cedar"`
	For        string   `json:"for,omitzero" required:"false" doc:"how long, such as 2h; 1h if absent"`
}

// Asker is who asks: an agent, or a person for one.
type Asker struct {
	Actor      audit.Actor
	Chain      []audit.Actor // on whose behalf an agent acts
	Origin     approvals.Origin
	Run        string
	MayForeign bool // may ask for agents that are not theirs
}

// GrantRequest is a wish and how it stands.
type GrantRequest struct {
	ID       string    `json:"id" doc:"of the approval: countersign approve ID"`
	State    string    `json:"state" doc:"pending, approved, denied, expired, void; given: the grant is in force; ended: it was"`
	Agent    string    `json:"agent"`
	Wish     Wish      `json:"wish"`
	By       string    `json:"by" doc:"who asked"`
	Reason   string    `json:"reason"`
	Asked    time.Time `json:"asked"`
	DecideBy time.Time `json:"decide_by"`
	Why      string    `json:"why,omitzero"`
	Deciders []string  `json:"deciders,omitzero" doc:"groups that are asked"`
	Approved []string  `json:"approved_by,omitzero"`
	Override bool      `json:"override,omitzero" doc:"an administrator broke the glass"`
	Grant    string    `json:"grant,omitzero"`
	Expires  time.Time `json:"expires,omitzero"`
	URL      string    `json:"url,omitzero"`
}

// grantOf is the name of the grant that an approval gives: there is at most one.
func grantOf(approval string) string {
	_, rest, _ := strings.Cut(approval, "_")
	return "asked-" + rest
}

// Ask asks people to give an agent a grant for a time. It is given by itself when
// they have approved, and ends by itself. The same wish again is the same request
// while that is open. Refusals: ErrAsk, ErrNotFor, ErrNoApprovers, ErrReason and
// those of approvals (nobody could approve it).
func (s *Service) Ask(ctx context.Context, who Asker, reason string, w Wish) (GrantRequest, error) {
	if err := checkReason(reason, true); err != nil {
		return GrantRequest{}, err
	}
	rule, err := s.approversOf(ctx, w.Connection)
	if err != nil {
		return GrantRequest{}, err
	}
	a, err := s.wish(&w, who, rule)
	if err != nil {
		return GrantRequest{}, err
	}
	b := s.binding(a, who, rule, w)
	groups := make([]approvals.Group, len(rule.Groups))
	for i, g := range rule.Groups {
		groups[i].Name = g
	}
	answer, err := s.o.Approvals.Hold(ctx, approvals.Held{
		Binding: b, Call: id.New(id.Call), Run: who.Run, Effect: s.worst(w), Reason: cutText("asked by "+who.Actor.Name+": "+reason, 1000), Origin: who.Origin,
		Needs: []approvals.Need{{Policy: rule.rule().Name, Groups: groups, Quorum: rule.Quorum, ExcludeOwner: rule.Apart, Passkey: rule.Passkey, DecideWithin: askLife, ExecuteWithin: giveWithin, Server: true}},
		Args:  marshal(map[string]any{"connection": w.Connection, "tools": strings.Join(w.Tools, ", "), "when": w.When, "for": w.For, "reason": reason}),
		Wire:  &approvals.Wire{Front: Front}, Server: true,
	})
	if err != nil {
		return GrantRequest{}, err
	}
	return s.request(ctx, answer.Request.ID)
}

// wish checks what is asked for, and fills in what is left out.
func (s *Service) wish(w *Wish, who Asker, rule Approvers) (identity.Agent, error) {
	a, ok := s.o.Identity.Agent(w.Agent)
	if !ok || !a.Retired.IsZero() {
		return a, ErrAsk.Say("agent: there is no agent %q", w.Agent)
	}
	if own := who.Actor.Name == a.Owner || who.Actor.Name == a.Backup; who.Actor.Kind == audit.KindUser && !own && !who.MayForeign {
		return a, ErrNotFor
	}
	if w.For == "" {
		w.For = min(time.Hour, rule.longest()).String()
	}
	if d, err := time.ParseDuration(w.For); err != nil || d < time.Minute || d > rule.longest() {
		return a, ErrAsk.Say("for: a grant of %s can be asked for 1m to %s", w.Connection, rule.Longest)
	}
	if len(w.Tools) == 0 || slices.Contains(w.Tools, "*") {
		return a, ErrAsk.Say("tools: name them; everything cannot be asked for")
	}
	slices.Sort(w.Tools)
	w.Tools = slices.Compact(w.Tools)
	err := s.o.Policy.CheckGrant(policy.Grant{Name: "asked", Agent: w.Agent, Connection: w.Connection, Tools: w.Tools, When: w.When})
	return a, err
}

// worst is the gravest effect of the tools that are asked for.
func (s *Service) worst(w Wish) string {
	out := "read"
	for _, t := range s.toolsOf(w.Connection, w.Tools) {
		if t.Effect == "irreversible" || out == "read" {
			out = t.Effect
		}
	}
	return out
}

// binding is what an approval of a wish is for: all of it, and who may approve it.
func (s *Service) binding(a identity.Agent, who Asker, rule Approvers, w Wish) approvals.Binding {
	chain := who.Chain
	if who.Actor.Kind == audit.KindUser { // who asks does not approve
		chain = append(slices.Clone(chain), who.Actor)
	}
	text := marshal(w)
	return approvals.Binding{Agent: a.Name, AgentID: a.ID, Chain: chain, Connection: w.Connection, Tool: Tool, Method: method, Path: "/grants", Query: string(text),
		Rules: []approvals.Rule{rule.rule()}, Content: approvals.Digest(text)}
}

// Stale says why a binding of a wish is not current any more, "" if it is; ours is
// false for one of a call.
func (s *Service) Stale(b approvals.Binding) (why string, ours bool) {
	if b.Method != method || b.Tool != Tool {
		return "", false
	}
	a, ok := s.o.Identity.Agent(b.Agent)
	if !ok || a.ID != b.AgentID || !a.Retired.IsZero() {
		return "the agent is not there any more", true
	}
	if _, ok := s.o.Connections.Connection(b.Connection); !ok {
		return "the connection is not there any more", true
	}
	rule, err := s.approversOf(context.Background(), b.Connection)
	if err != nil || !slices.Equal(b.Rules, []approvals.Rule{rule.rule()}) {
		return "who may approve this changed", true
	}
	return "", true
}

// Give gives what was approved, in the change that uses the approval up: whoever is
// killed on the way leaves what another process gives. What cannot be given leaves
// the approval as it is.
func (s *Service) Give(ctx context.Context, r approvals.Request) error {
	var w Wish
	if err := json.Unmarshal([]byte(r.Binding.Query), &w); err != nil {
		return ErrStored.With(err)
	}
	if _, err := s.o.Approvals.Hold(ctx, approvals.Held{Binding: r.Binding, Call: id.New(id.Call), Run: r.Run, Needs: r.Needs, Only: r.ID,
		Do: func(ctx context.Context, tx *audit.Tx, r approvals.Request) error { return s.give(ctx, tx, r, w) }}); err != nil {
		return err
	}
	if err := s.o.Watch.Poll(ctx); err != nil {
		s.o.Logger.Warn("a grant was given, but the views could not be reloaded", "error", err)
	}
	return nil
}

func (s *Service) give(ctx context.Context, tx *audit.Tx, r approvals.Request, w Wish) error {
	life, err := time.ParseDuration(w.For)
	if err != nil {
		return ErrStored.With(err)
	}
	var asked, gave []Person
	for _, c := range r.Binding.Chain {
		if c.Kind == audit.KindUser {
			asked = append(asked, Person{c.ID, c.Name})
		}
	}
	for _, d := range r.Decisions {
		if d.Verdict == approvals.Approve {
			gave = append(gave, Person{d.ID, d.Name})
		}
	}
	by := audit.System
	if len(gave) > 0 {
		by = audit.Person(gave[len(gave)-1].ID, gave[len(gave)-1].Name)
	}
	g := policy.Grant{Name: grantOf(r.ID), Agent: w.Agent, Connection: w.Connection, Tools: w.Tools, When: w.When, Expires: s.now().Add(life)}
	if _, err := s.o.Policy.PutGrantTx(ctx, tx, by, cutText(r.ID+", "+r.Reason, 1000), g); err != nil {
		return err
	}
	given, err := s.o.Policy.GrantTx(ctx, tx, g.Name)
	if err != nil {
		return err
	}
	tx.Record(audit.Event{Type: "grant.requested", Actor: audit.System, Reason: cutText(r.Reason, 1000), Object: "grant/" + g.Name, Agent: g.Agent, Connection: g.Connection,
		Detail: marshal(map[string]any{"grant": given.ID, "approval": r.ID, "for": slices.Concat(asked, gave), "expires": g.Expires, "override": r.Override})})
	return s.step("giving")
}

// Requests lists what was asked for, the latest first: of the last thousand
// approvals. open leaves out what is over.
func (s *Service) Requests(ctx context.Context, agent string, open bool) ([]GrantRequest, error) {
	all, err := s.o.Approvals.List(ctx, approvals.Query{Agent: agent, Limit: 1000})
	if err != nil {
		return nil, err
	}
	out := []GrantRequest{}
	for _, r := range all {
		if r.Binding.Method != method || r.Binding.Tool != Tool {
			continue
		}
		g, err := s.request(ctx, r.ID)
		if err != nil {
			return nil, err
		}
		if !open || slices.Contains([]string{"pending", "approved", "given"}, g.State) {
			out = append(out, g)
		}
	}
	return out, nil
}

// request returns how a wish stands.
func (s *Service) request(ctx context.Context, approval string) (GrantRequest, error) {
	r, err := s.o.Approvals.Get(ctx, approval)
	if err != nil {
		return GrantRequest{}, err
	}
	if r.Binding.Method != method || r.Binding.Tool != Tool {
		return GrantRequest{}, ErrNoRequest
	}
	out := GrantRequest{ID: r.ID, State: string(r.State), Agent: r.Binding.Agent, Reason: r.Reason, Asked: r.Created, DecideBy: r.DecideBy, Why: r.Why, Approved: r.Approvers(), Override: r.Override,
		URL: s.o.Approvals.Link(r.ID), By: r.Binding.Agent}
	if n := len(r.Binding.Chain); n > 0 {
		out.By = r.Binding.Chain[n-1].Name
	}
	if err := json.Unmarshal([]byte(r.Binding.Query), &out.Wish); err != nil {
		return out, ErrStored.With(err)
	}
	for _, n := range r.Needs {
		for _, g := range n.Groups {
			out.Deciders = append(out.Deciders, g.Name)
		}
	}
	if r.State != approvals.Executed {
		return out, nil
	}
	g, err := s.o.Policy.Grant(ctx, grantOf(r.ID))
	switch {
	case errors.Is(err, policy.ErrNoGrant):
		out.State, out.Why = "ended", "the grant was revoked, or was not given: "+r.Why
		return out, nil
	case err != nil:
		return out, err
	}
	out.State, out.Grant, out.Expires, out.Why = "given", g.Name, g.Expires, ""
	if !g.Expires.After(s.now()) {
		out.State = "ended"
	}
	return out, nil
}

// AskFor is Ask for an agent that asks itself, by its tool; with the id of a
// request it says how that stands. It returns words for a model, and the request.
func (s *Service) AskFor(ctx context.Context, who identity.Caller, origin approvals.Origin, request, reason string, w Wish) (string, GrantRequest, error) {
	var g GrantRequest
	var err error
	if request != "" {
		if g, err = s.request(ctx, request); err == nil && g.Agent != who.Agent.Name {
			err = ErrNoRequest
		}
	} else {
		w.Agent = who.Agent.Name
		g, err = s.Ask(ctx, Asker{Actor: who.Agent.Actor(), Chain: who.OnBehalfOf, Origin: origin, Run: who.Run}, reason, w)
	}
	if err != nil {
		return "", g, err
	}
	switch g.State {
	case "pending":
		return fmt.Sprintf("Pending: %s decides about %s (%s) until %s. Ask again with this id.", strings.Join(g.Deciders, " or "), g.ID, g.URL, g.DecideBy.UTC().Format(time.RFC3339)), g, nil
	case "given":
		return fmt.Sprintf("Given: you may use %s of %s until %s.", strings.Join(g.Wish.Tools, ", "), g.Wish.Connection, g.Expires.UTC().Format(time.RFC3339)), g, nil
	case "approved", "executing":
		return "Approved: the grant is being given; ask again in a moment.", g, nil
	}
	return "Not given (" + g.State + "): " + g.Why, g, nil
}

// Offers reports whether there is anything that agents may ask for.
func (s *Service) Offers(ctx context.Context) bool {
	all, err := s.Approvers(ctx)
	return err == nil && len(all) > 0
}

// asker is the person who asks.
func asker(c rest.Caller) Asker {
	return Asker{Actor: audit.Person(c.ID, c.Name), MayForeign: c.May(rest.Write), Origin: approvals.Origin{Credential: c.Credential, Kind: "user", Remote: c.Remote, Front: Front}}
}
