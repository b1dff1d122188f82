package approvals

import (
	"context"
	"slices"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/inert"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/words"
)

// View is what people see of a held call. Everything in it that came from the
// agent is made inert: no character of it can change how the rest is shown.
type View struct {
	Summary   string           `json:"summary" doc:"the call in plain words"`
	Parts     []words.Part     `json:"parts,omitempty" doc:"the summary in pieces: those with a name are the call's own words"`
	Template  string           `json:"template,omitempty" doc:"the tool's template that made the summary; empty: it was made of the arguments"`
	Arguments []words.Argument `json:"arguments"`
	Values    []Value          `json:"values,omitempty" doc:"of the arguments that matter, and where each comes from"`
	Redacted  []string         `json:"redacted,omitempty" doc:"arguments of which something is not shown because it looks like a secret"`
	Cut       int64            `json:"cut,omitempty" doc:"bytes of the arguments that are not shown"`
	Missing   string           `json:"missing,omitempty" doc:"why the arguments cannot be shown"`
	Agent     AgentView        `json:"agent"`
	Undo      Undo             `json:"undo"`
	Before    []Step           `json:"before,omitempty" doc:"what the run did before, oldest first"`
	More      int              `json:"before_more,omitempty" doc:"calls of the run before those"`
	Read      []Source         `json:"read,omitempty" doc:"what the run read from elsewhere before it asked for this, newest first"`
	Last      []Compared       `json:"last_approved,omitempty" doc:"how the call differs from the last ones that were approved, newest first"`
	Proposals []Proposed       `json:"proposals,omitempty" doc:"decision support that the call follows"`
}

// AgentView says who asks and who answers for it.
type AgentView struct {
	Name    string `json:"name"`
	Owner   string `json:"owner,omitempty"`
	Backup  string `json:"backup,omitempty"`
	Team    string `json:"team,omitempty"`
	Stage   string `json:"stage,omitempty"`
	Purpose string `json:"purpose,omitempty"`
	Process string `json:"business_process,omitempty"`
}

// rows returns requests as a listing shows them.
func (s *Service) rows(ctx context.Context, c rest.Caller, found []Request) ([]Row, error) {
	args, err := s.arguments(ctx, found)
	if err != nil {
		return nil, err
	}
	in, err := standIns(ctx, s.db, s.o.Now())
	if err != nil {
		return nil, err
	}
	rows := make([]Row, len(found))
	for i := range found {
		sh := args[found[i].Event]
		if !s.maySee(c, &found[i], in) {
			sh = shown{}
		}
		parts, _ := s.summary(&found[i], words.Flatten(sh.body))
		rows[i] = s.row(c, &found[i], in, words.Join(parts))
	}
	return rows, nil
}

func (s *Service) row(c rest.Caller, r *Request, in []Delegation, summary string) Row {
	waited := s.o.Now().Sub(r.Created)
	row := Row{
		ID: r.ID, State: r.State, Summary: summary, Agent: r.Binding.Agent, Connection: r.Binding.Connection, Tool: r.Binding.Tool, Effect: r.Effect, Groups: []string{},
		Created: r.Created, DecideBy: r.DecideBy, ExecuteBy: r.ExecuteBy, SendAt: r.SendAt, Why: r.Why, Outcome: r.Outcome, Override: r.Override,
	}
	for _, n := range r.Needs {
		for _, g := range n.groupsAt(waited) {
			if !slices.Contains(row.Groups, g.Name) {
				row.Groups = append(row.Groups, g.Name)
			}
		}
	}
	if r.State == Pending {
		_, err := s.entitled(r, Person{ID: c.ID, Name: c.Name}, waited, in)
		row.Mine = err == nil
	}
	return row
}

// maySee reports whether a person sees what is in a call: whoever may inspect,
// who may decide about it at any time or has, and the agent's owner.
func (s *Service) maySee(c rest.Caller, r *Request, in []Delegation) bool {
	if c.May(rest.Inspect) {
		return true
	}
	if a, ok := s.identity.Agent(r.Binding.Agent); ok && a.Owner == c.Name {
		return true
	}
	me := Person{ID: c.ID, Name: c.Name}
	for _, d := range r.Decisions {
		if d.ID == me.ID {
			return true
		}
	}
	_, err := s.entitled(r, me, r.DecideBy.Sub(r.Created), in)
	return err == nil
}

func (s *Service) detail(ctx context.Context, c rest.Caller, id string) (*Detail, error) {
	r, err := s.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	in, err := standIns(ctx, s.db, s.o.Now())
	if err != nil {
		return nil, err
	}
	view := s.closed(&r)
	if s.maySee(c, &r, in) {
		if view, err = s.view(ctx, &r); err != nil {
			return nil, err
		}
	}
	comments, err := s.comments(ctx, &r)
	if err != nil {
		return nil, err
	}
	d := &Detail{
		Row: s.row(c, &r, in, view.Summary), Digest: r.Digest, Binding: r.Binding, Call: r.Call, Run: r.Run, Event: r.Event, Reason: r.Reason, Executed: r.ExecCall,
		Server: r.Server, Passkey: r.needsPasskey(), View: view, Comments: comments, Needs: []NeedView{}, Decisions: []VoteView{},
	}
	for _, n := range r.Needs {
		v := NeedView{Policy: n.Policy, Quorum: n.Quorum, Advice: n.Advice, ExcludeOwner: n.ExcludeOwner, Text: s.policyText(n.Policy)}
		for _, g := range n.Groups {
			v.Groups = append(v.Groups, g.Name)
		}
		for _, t := range n.Tiers {
			v.Tiers = append(v.Tiers, t.Name+" after "+t.After.String())
		}
		d.Needs = append(d.Needs, v)
	}
	for _, x := range r.Decisions {
		d.Decisions = append(d.Decisions, VoteView{Person: x.Name, PersonID: x.ID, Verdict: x.Verdict, Reason: x.Reason, At: x.At, For: x.For.Name, Channel: x.Channel, Passkey: x.byPasskey(), Statement: x.Statement, Signature: x.Signature})
	}
	for _, p := range r.Excluded {
		d.Excluded = append(d.Excluded, p.Name)
	}
	return d, nil
}

// comments reads the remarks from the log, where they are.
func (s *Service) comments(ctx context.Context, r *Request) ([]CommentView, error) {
	recs, err := s.log.List(ctx, audit.Query{Call: r.Call, Types: []audit.Type{"approval.commented", "approval.asked"}, Oldest: true, Limit: 200})
	if err != nil {
		return nil, err
	}
	var out []CommentView
	for _, rec := range recs {
		ev := rec.Event
		if ev.Object != "approval/"+r.ID {
			continue
		}
		v := CommentView{Person: ev.Actor.Name, Text: inert.Text(ev.Reason), At: ev.Time}
		if ev.Type == "approval.asked" {
			if a, ok := s.identity.Agent(r.Binding.Agent); ok {
				v.Asked = a.Owner
			}
		}
		out = append(out, v)
	}
	return out, nil
}

// shown is what the log keeps of a request's arguments.
type shown struct {
	body  []byte // redacted; nil if it is not there
	size  int64  // of the whole, before redaction
	state string // why it is not there

	origins []byte // where its values come from, redacted
}

// arguments reads the arguments of requests from the log: encrypted there, and
// erased there with the rest of an agent's or a person's data.
func (s *Service) arguments(ctx context.Context, found []Request) (map[string]shown, error) {
	out := map[string]shown{}
	for len(found) > 0 {
		n := min(len(found), 500)
		events := make([]string, n)
		for i := range n {
			events[i] = found[i].Event
		}
		found = found[n:]
		recs, err := s.log.GetMany(ctx, events)
		if err != nil {
			return nil, err
		}
		if err := s.log.LoadPayloads(ctx, recs); err != nil {
			return nil, err
		}
		for _, rec := range recs {
			sh := shown{state: "they were erased"}
			if body, ok := rec.Payloads["arguments"]; ok {
				sh = shown{body: body, origins: rec.Payloads["origins"]}
			}
			if slices.Contains(rec.Damaged, "arguments") {
				sh = shown{state: "they were altered in the database; run countersign log verify"}
			}
			for _, c := range rec.Event.Payloads {
				if c.Name == "arguments" {
					sh.size = c.Size
				}
			}
			out[rec.Event.ID] = sh
		}
	}
	return out, nil
}
