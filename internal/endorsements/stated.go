package endorsements

import (
	"context"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/flow"
	"github.com/countersign/countersign/internal/id"
)

// Front is the front of approvals that are for the scope of a run, Method that of
// their bindings, and Asking what they call what is asked for.
const (
	Front  = "scope"
	method = "SCOPE"
	Asking = "countersign.scope"
)

// Template says in words what is asked for.
const Template = "{agent} asks to make calls of {connection} in one run without asking again, for {for}: {calls}. Why: {reason}"

// Limits of a statement.
const (
	mostStated  = 16 // tools
	mostCalls   = 1000
	shortest    = time.Minute
	askedWithin = 15 * time.Minute // for the server to put into force what was approved
)

// Stating is what a run may do of one tool.
type Stating struct {
	flow.Scope
	Calls int64 `json:"calls" minimum:"1" maximum:"1000" doc:"how many calls, at most"`
}

// Statement is the scope of a run, as the application or the agent states it.
type Statement struct {
	Scopes []Stating `json:"scopes" doc:"tools of one connection, each with values of all its arguments that matter; * stands for a part of one word; of an amount, the most"`
	For    string    `json:"for,omitempty" doc:"how long from when it is approved, such as 1h, which is what it is if absent; it ends with the run"`
}

// Asks is where stated scopes wait for people.
type Asks struct {
	Hold func(ctx context.Context, h approvals.Held) (approvals.Answer, error)
	Link func(id string) string
	// Stands says why what people said about a request is good no more, "" if it is.
	Stands func(ctx context.Context, r approvals.Request) (string, error)
	// Needs returns whom calls of a tool by an agent may have to wait for, and the
	// rules that say so.
	Needs func(agent, connection, tool string) ([]approvals.Need, []approvals.Rule)
	// Rule is the digest of a rule that is in force.
	Rule func(name string) string
	// Tool returns how a tool's connection is reached, its accepted definition and
	// its effect; false if it cannot be called.
	Tool func(connection, tool string) (target, definition, effect string, ok bool)
}

// Asker is who states a scope: an agent for its own run, or a person for one.
type Asker struct {
	Actor  audit.Actor
	Chain  []audit.Actor // on whose behalf an agent acts
	Run    string
	Origin approvals.Origin
}

// Asked is a stated scope and how it stands.
type Asked struct {
	ID       string    `json:"id" doc:"of the approval: countersign approve ID"`
	State    string    `json:"state" doc:"pending, approved, denied, expired, void; given: it is in force; ended: it was"`
	Agent    string    `json:"agent"`
	Run      string    `json:"run"`
	Asked    time.Time `json:"asked"`
	DecideBy time.Time `json:"decide_by"`
	Why      string    `json:"why,omitempty"`
	Deciders []string  `json:"deciders" doc:"groups that are asked"`
	Expires  time.Time `json:"expires,omitzero"`
	URL      string    `json:"url,omitempty"`
}

// Ask asks those who would be asked about the calls one by one whether a run may
// make them. Approved, it comes into force by itself, once, and ends with the run. The same
// statement again is the same request while that is open.
func (s *Service) Ask(ctx context.Context, who Asker, reason string, st Statement) (Asked, error) {
	if s.o.Asks.Hold == nil {
		return Asked{}, ErrScope.Say("no scope can be asked for here")
	}
	if err := checkReason(reason); err != nil {
		return Asked{}, err
	}
	agent, agentID, expires, err := s.o.Run(ctx, who.Run)
	switch {
	case err != nil:
		return Asked{}, err
	case who.Actor.Kind == audit.KindAgent && who.Actor.ID != agentID:
		return Asked{}, ErrRun.Say("this run is not the agent's own")
	case !s.o.Now().Before(expires):
		return Asked{}, ErrRun
	}
	connection, err := s.stated(&st)
	if err != nil {
		return Asked{}, err
	}
	b, needs, effect, err := s.asking(agent, agentID, who, connection, st)
	if err != nil {
		return Asked{}, err
	}
	text := marshal(st)
	answer, err := s.o.Asks.Hold(ctx, approvals.Held{
		Binding: b, Call: id.New(id.Call), Run: who.Run, Effect: effect, Needs: needs, Reason: short("stated by " + who.Actor.Name + ": " + reason), Origin: who.Origin,
		Args: marshal(map[string]any{"connection": connection, "for": st.For, "calls": st.said(), "reason": reason, "run": who.Run}), Wire: &approvals.Wire{Front: Front, Body: text}, Server: true,
	})
	if err != nil {
		return Asked{}, err
	}
	return s.asked(ctx, answer.Request.ID, func(approvals.Request) bool { return true })
}

// said is what people read of it: all of it.
func (st Statement) said() []string {
	out := make([]string, len(st.Scopes))
	for i, x := range st.Scopes {
		var values []string
		for _, arg := range args(x.Scope) {
			values = append(values, arg+" = "+strings.Join(x.Args[arg], " or "))
		}
		_, tool, _ := strings.Cut(x.Tool, "/")
		out[i] = fmt.Sprintf("%s with %s, %d times at most", tool, strings.Join(values, " and "), x.Calls)
	}
	return out
}

// stated checks a statement, fills in what is left out, and returns its connection.
func (s *Service) stated(st *Statement) (connection string, err error) {
	if len(st.Scopes) == 0 || len(st.Scopes) > mostStated {
		return "", ErrScope.Say("say what the run may do: 1 to %d tools", mostStated)
	}
	if st.For == "" {
		st.For = time.Hour.String()
	}
	if d, err := time.ParseDuration(st.For); err != nil || d < shortest || d > runLife {
		return "", ErrScope.Say("for: %s to %s, such as 1h", shortest, runLife)
	}
	slices.SortFunc(st.Scopes, func(a, b Stating) int { return strings.Compare(a.Tool, b.Tool) })
	for i, x := range st.Scopes {
		c, _, _ := strings.Cut(x.Tool, "/")
		switch {
		case connection != "" && c != connection:
			return "", ErrScope.Say("state the tools of one connection at a time: %s is not of %s", x.Tool, connection)
		case i > 0 && x.Tool == st.Scopes[i-1].Tool:
			return "", ErrScope.Say("%s is there twice", x.Tool)
		case x.Calls < 1 || x.Calls > mostCalls:
			return "", ErrScope.Say("%s: calls: 1 to %d", x.Tool, mostCalls)
		}
		if err := s.check(x.Scope); err != nil {
			return "", err
		}
		connection = c
	}
	return connection, nil
}

// asking returns what an approval of a statement is for, whom it needs and the
// gravest effect of its tools.
func (s *Service) asking(agent, agentID string, who Asker, connection string, st Statement) (b approvals.Binding, needs []approvals.Need, effect string, err error) {
	var tools []string
	for _, x := range st.Scopes {
		_, tool, _ := strings.Cut(x.Tool, "/")
		_, _, e, ok := s.o.Asks.Tool(connection, tool)
		if !ok {
			return b, nil, "", ErrScope.Say("%s cannot be called now: its definition waits to be accepted", x.Tool)
		}
		n, rules := s.o.Asks.Needs(agent, connection, tool)
		if len(n) == 0 {
			return b, nil, "", ErrNotHeld.Say("no policy holds calls of %s by %s; leave it out", x.Tool, agent)
		}
		needs, b.Rules, tools = append(needs, n...), append(b.Rules, rules...), append(tools, tool)
		if effect == "" || e == "irreversible" || effect == "read" {
			effect = e
		}
	}
	slices.SortFunc(b.Rules, func(a, b approvals.Rule) int { return strings.Compare(a.Name, b.Name) })
	b.Rules = slices.Compact(b.Rules)
	for i := range needs {
		needs[i].Server, needs[i].ExecuteWithin = true, askedWithin
	}
	b.Agent, b.AgentID, b.Chain, b.Connection, b.Tool, b.Method = agent, agentID, slices.Clone(who.Chain), connection, Asking, method
	if who.Actor.Kind == audit.KindUser { // who asks does not approve
		b.Chain = append(b.Chain, who.Actor)
	}
	b.Path = "/" + who.Run
	b.Query = strings.Join(tools, " ")
	b.Target, b.Definition = s.standing(connection, tools)
	b.Content = approvals.Digest(marshal(st))
	return b, needs, effect, nil
}

// standing are the digests of how a connection is reached and of what its tools are.
func (s *Service) standing(connection string, tools []string) (target, definition string) {
	var all [][]byte
	for _, tool := range tools {
		var d string
		target, d, _, _ = s.o.Asks.Tool(connection, tool)
		all = append(all, []byte(tool), []byte(d))
	}
	return target, approvals.Digest(all...)
}

// Stale says why a binding of a stated scope is not current any more, "" if it is;
// ours is false for one of a call.
func (s *Service) Stale(b approvals.Binding) (why string, ours bool) {
	if b.Method != method || b.Tool != Asking {
		return "", false
	}
	agent, agentID, expires, err := s.o.Run(context.Background(), strings.TrimPrefix(b.Path, "/"))
	if err != nil || agent != b.Agent || agentID != b.AgentID || !s.o.Now().Before(expires) {
		return "the run is over", true
	}
	if target, definition := s.standing(b.Connection, strings.Fields(b.Query)); target != b.Target || definition != b.Definition {
		return "the connection, or the definition of a tool, changed", true
	}
	for _, r := range b.Rules {
		if s.o.Asks.Rule(r.Name) != r.Digest {
			return "the policy " + r.Name + " changed", true
		}
	}
	return "", true
}

// Give puts into force what was approved, in the change that uses the approval up.
// text is the statement, as it was sealed when it was asked for.
func (s *Service) Give(ctx context.Context, r approvals.Request, text []byte) error {
	if why, ours := s.Stale(r.Binding); why != "" || !ours {
		return ErrScope.Say("the scope cannot be given any more: %s", why)
	}
	var st Statement
	if r.Binding.Content != approvals.Digest(text) || json.Unmarshal(text, &st) != nil {
		return ErrScope.Say("the scope is not the one that was approved")
	}
	_, err := s.o.Asks.Hold(ctx, approvals.Held{Binding: r.Binding, Call: id.New(id.Call), Run: r.Run, Needs: r.Needs, Only: r.ID, Labels: r.Labels,
		Do: func(ctx context.Context, tx *audit.Tx, r approvals.Request) error { return s.give(ctx, tx, r, st) }})
	return err
}

func (s *Service) give(ctx context.Context, tx *audit.Tx, r approvals.Request, st Statement) error {
	if r.Override {
		return ErrApproval.Say("a broken glass is for one call, not for a run")
	}
	agent, agentID, expires, err := s.o.Run(ctx, r.Run)
	if err != nil {
		return err
	}
	life, err := time.ParseDuration(st.For)
	if err != nil {
		return ErrStored.With(err)
	}
	now := s.o.Now().UTC().Truncate(time.Microsecond)
	if until := now.Add(life); until.Before(expires) {
		expires = until
	}
	by := audit.System
	if n := len(r.Decisions); n > 0 {
		by = audit.Person(r.Decisions[n-1].ID, r.Decisions[n-1].Name)
	}
	for _, x := range st.Scopes {
		e := Endorsement{ID: id.At(kind, now), Kind: Stated, Agent: agent, agentID: agentID, Run: r.Run, Scope: &x.Scope, Calls: x.Calls, Approval: r.ID, People: r.Approvers(), Reason: r.Reason,
			Created: now, Expires: expires.UTC().Truncate(time.Microsecond)}
		e.Connection, e.Tool, _ = strings.Cut(x.Tool, "/")
		target, definition, _, _ := s.o.Asks.Tool(e.Connection, e.Tool)
		e.bound = e.boundOf(target, definition)
		if err := s.insert(ctx, tx, e); err != nil {
			return err
		}
		tx.Record(s.event("run.scope_granted", by, short(r.Reason), e, map[string]any{"arguments": args(x.Scope), "approval": r.ID, "calls": e.Calls, "expires": e.Expires}))
	}
	return nil
}

// asked returns how a stated scope stands, if mine says that it is the caller's.
func (s *Service) asked(ctx context.Context, approval string, mine func(approvals.Request) bool) (Asked, error) {
	r, err := s.o.Approval(ctx, approval)
	if err != nil {
		return Asked{}, err
	}
	if r.Binding.Method != method || r.Binding.Tool != Asking || !mine(r) {
		return Asked{}, ErrAsked
	}
	out := Asked{ID: r.ID, State: string(r.State), Agent: r.Binding.Agent, Run: r.Run, Asked: r.Created, DecideBy: r.DecideBy, Why: r.Why, Deciders: []string{}, URL: s.o.Asks.Link(r.ID)}
	for _, n := range r.Needs {
		for _, g := range n.Groups {
			if !slices.Contains(out.Deciders, g.Name) {
				out.Deciders = append(out.Deciders, g.Name)
			}
		}
	}
	if r.State != approvals.Executed {
		return out, nil
	}
	found, err := s.read(ctx, s.db, ` WHERE approval = $1 AND kind = $2`, approval, Stated)
	if err != nil {
		return out, err
	}
	out.State, out.Why = "ended", ""
	for _, e := range found {
		out.Expires = e.Expires
		if e.Ended.IsZero() && s.o.Now().Before(e.Expires) && e.Used < e.Calls {
			out.State = "given"
		}
	}
	return out, nil
}

// AskFor is Ask for an agent that asks itself, by its tool; with the id of a
// request it says how that stands. It returns words for a model, and the request.
func (s *Service) AskFor(ctx context.Context, who Asker, request, reason string, st Statement) (string, Asked, error) {
	var a Asked
	var err error
	switch {
	case who.Run == "":
		err = ErrRun.Say("only a run with a token of its own can state its scope")
	case request != "":
		a, err = s.asked(ctx, request, func(r approvals.Request) bool {
			return r.Run == who.Run && r.Binding.AgentID == who.Actor.ID
		})
	default:
		a, err = s.Ask(ctx, who, reason, st)
	}
	if err != nil {
		return "", a, err
	}
	switch a.State {
	case "pending":
		return fmt.Sprintf("Pending: %s decides about %s (%s) until %s. Ask again with this id.", strings.Join(a.Deciders, " or "), a.ID, a.URL, a.DecideBy.UTC().Format(time.RFC3339)), a, nil
	case "given":
		return "Given: calls inside the scope are made without asking until " + a.Expires.UTC().Format(time.RFC3339) + ".", a, nil
	case "approved", "executing":
		return "Approved: it is coming into force; ask again in a moment.", a, nil
	}
	return "Not in force (" + a.State + "): " + a.Why, a, nil
}

func short(s string) string {
	if utf8.RuneCountInString(s) <= 1000 {
		return s
	}
	return string([]rune(s)[:999]) + "…"
}

func marshal(v any) jsontext.Value {
	b, err := json.Marshal(v, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
	if err != nil {
		panic(fmt.Sprintf("endorsements: a plain value cannot be marshalled: %v", err))
	}
	return b
}
