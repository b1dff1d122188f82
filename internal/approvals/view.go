package approvals

import (
	"bytes"
	"context"
	"encoding/json/jsontext"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/rest"
)

// View is what people see of a held call. Everything in it that came from the
// agent is made inert: no character of it can change how the rest is shown.
type View struct {
	Summary   string     `json:"summary"`
	Arguments []Argument `json:"arguments"`
	Redacted  []string   `json:"redacted,omitempty" doc:"arguments of which something is not shown because it looks like a secret"`
	Cut       int64      `json:"cut,omitempty" doc:"bytes of the arguments that are not shown"`
	Missing   string     `json:"missing,omitempty" doc:"why the arguments cannot be shown"`
	Purpose   string     `json:"purpose,omitempty" doc:"what the agent is for"`
	Owner     string     `json:"owner,omitempty"`
	Process   string     `json:"business_process,omitempty"`
	Before    []Step     `json:"before,omitempty" doc:"what the run did before"`
	Last      []Compared `json:"last_approved,omitempty" doc:"how the call differs from the last ones that were approved"`
}

// Argument is one argument, by its path.
type Argument struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	Odd   string `json:"odd,omitempty" doc:"what is unusual about the characters of it"`
}

// Step is one call of the run.
type Step struct {
	Call    string    `json:"call"`
	Tool    string    `json:"tool"`
	What    string    `json:"what" doc:"allowed, denied, held, and how it ended"`
	At      time.Time `json:"at"`
	Labels  []string  `json:"labels,omitempty"`
	Effect  string    `json:"effect,omitempty"`
	Outcome string    `json:"outcome,omitempty"`
}

// Compared is an earlier approved call of the same tool and what is different.
type Compared struct {
	ID        string    `json:"id"`
	At        time.Time `json:"at"`
	Approvers []string  `json:"approvers"`
	Differs   []string  `json:"differs" doc:"argument: then -> now"`
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
		rows[i] = s.row(c, &found[i], in, s.summary(&found[i], sh))
	}
	return rows, nil
}

func (s *Service) row(c rest.Caller, r *Request, in []Delegation, summary string) Row {
	waited := s.o.Now().Sub(r.Created)
	row := Row{
		ID: r.ID, State: r.State, Summary: summary, Agent: r.Binding.Agent, Connection: r.Binding.Connection, Tool: r.Binding.Tool, Effect: r.Effect, Groups: []string{},
		Created: r.Created, DecideBy: r.DecideBy, ExecuteBy: r.ExecuteBy, Why: r.Why, Outcome: r.Outcome, Override: r.Override,
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
	view := &View{Summary: s.summary(&r, shown{}), Arguments: []Argument{}, Missing: "your role does not show contents of calls"}
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
		Server: r.Server, View: view, Comments: comments, Needs: []NeedView{}, Decisions: []VoteView{},
	}
	for _, n := range r.Needs {
		v := NeedView{Policy: n.Policy, Quorum: n.Quorum, Advice: n.Advice, ExcludeOwner: n.ExcludeOwner}
		for _, g := range n.Groups {
			v.Groups = append(v.Groups, g.Name)
		}
		for _, t := range n.Tiers {
			v.Tiers = append(v.Tiers, t.Name+" after "+t.After.String())
		}
		d.Needs = append(d.Needs, v)
	}
	for _, x := range r.Decisions {
		d.Decisions = append(d.Decisions, VoteView{Person: x.Name, PersonID: x.ID, Verdict: x.Verdict, Reason: x.Reason, At: x.At, For: x.For.Name, Channel: x.Channel, Statement: x.Statement, Signature: x.Signature})
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
		v := CommentView{Person: ev.Actor.Name, Text: Inert(ev.Reason), At: ev.Time}
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
				sh = shown{body: body}
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

// view puts together what people see of a request.
func (s *Service) view(ctx context.Context, r *Request) (*View, error) {
	args, err := s.arguments(ctx, []Request{*r})
	if err != nil {
		return nil, err
	}
	sh := args[r.Event]
	v := &View{Summary: s.summary(r, sh), Arguments: []Argument{}, Missing: sh.state}
	if sh.body != nil {
		v.Arguments, v.Redacted = flatten(sh.body)
		if !jsontext.Value(sh.body).IsValid() {
			v.Cut = max(0, sh.size-int64(len(sh.body)))
		}
	}
	if a, ok := s.identity.Agent(r.Binding.Agent); ok {
		v.Purpose, v.Owner, v.Process = a.Purpose, a.Owner, a.BusinessProcess
	}
	if v.Before, err = s.before(ctx, r); err != nil {
		return nil, err
	}
	v.Last, err = s.lastApproved(ctx, r, v.Arguments)
	return v, err
}

const maxShown = 500 // arguments shown one by one

// flatten returns the values of a JSON object by their paths, made inert.
func flatten(body []byte) (out []Argument, redacted []string) {
	out = []Argument{}
	d := jsontext.NewDecoder(bytes.NewReader(body), jsontext.AllowDuplicateNames(true))
	for len(out) < maxShown {
		t, err := d.ReadToken()
		if err != nil {
			break // the end, or where the arguments were cut
		}
		switch t.Kind() {
		case '{', '[', '}', ']':
			continue
		case '"':
			if k, n := d.StackIndex(d.StackDepth()); k == '{' && n%2 == 1 {
				continue // a name; its value follows
			}
		}
		name := strings.ReplaceAll(strings.TrimPrefix(string(d.StackPointer()), "/"), "/", ".")
		a := Argument{Name: Inert(name), Value: t.String()}
		if t.Kind() == '"' {
			a.Odd = odd(a.Value)
			a.Value = Inert(a.Value)
		}
		if strings.Contains(a.Value, "[redacted:") {
			redacted = append(redacted, a.Name)
		}
		out = append(out, a)
	}
	return out, redacted
}

// before lists what the run did before the call was held.
func (s *Service) before(ctx context.Context, r *Request) ([]Step, error) {
	if r.Run == "" {
		return nil, nil
	}
	recs, err := s.log.List(ctx, audit.Query{Run: r.Run, Until: r.Created, Limit: 200,
		Types: []audit.Type{audit.CallIntent, audit.CallDenied, audit.CallRefused, audit.CallOutcome}})
	if err != nil {
		return nil, err
	}
	outcomes := map[string]string{}
	var out []Step
	for _, rec := range recs { // newest first: an outcome comes before its intent
		ev := rec.Event
		if ev.Type == audit.CallOutcome {
			if ev.Outcome != nil {
				outcomes[ev.Call] = ev.Outcome.Status
			}
			continue
		}
		if strings.HasPrefix(ev.Tool, "mcp:") || ev.Call == r.Call || len(out) == 20 {
			continue
		}
		st := Step{Call: ev.Call, Tool: Inert(ev.Connection + "/" + ev.Tool), At: ev.Time, Labels: ev.Labels, Effect: ev.Effect, Outcome: outcomes[ev.Call]}
		switch ev.Type {
		case audit.CallIntent:
			st.What = "made"
		case audit.CallDenied:
			st.What = "denied"
		default:
			st.What = "refused"
		}
		out = append(out, st)
	}
	slices.Reverse(out)
	return out, nil
}

// lastApproved compares the call with the last ones of the same tool and agent
// that were executed.
func (s *Service) lastApproved(ctx context.Context, r *Request, now []Argument) ([]Compared, error) {
	found, err := read(ctx, s.db, ` WHERE agent = $1 AND state = 'executed' AND id < $2 ORDER BY id DESC LIMIT 50`, r.Binding.Agent, r.ID)
	if err != nil {
		return nil, err
	}
	found = slices.DeleteFunc(found, func(x Request) bool {
		return x.Binding.Connection != r.Binding.Connection || x.Binding.Tool != r.Binding.Tool
	})
	found = found[:min(3, len(found))]
	args, err := s.arguments(ctx, found)
	if err != nil {
		return nil, err
	}
	var out []Compared
	for _, x := range found {
		x.Decisions, err = decisions(ctx, s.db, x.ID)
		if err != nil {
			return nil, err
		}
		c := Compared{ID: x.ID, At: x.Decided, Approvers: x.Approvers(), Differs: []string{}}
		if body := args[x.Event].body; body != nil {
			then, _ := flatten(body)
			c.Differs = differences(then, now)
		}
		out = append(out, c)
	}
	return out, nil
}

func differences(then, now []Argument) []string {
	old, seen := map[string]string{}, map[string]bool{}
	for _, a := range then {
		old[a.Name] = a.Value
	}
	out := []string{}
	for _, a := range now {
		seen[a.Name] = true
		was, there := old[a.Name]
		switch {
		case !there:
			out = append(out, a.Name+": new, "+short(a.Value))
		case was != a.Value:
			out = append(out, fmt.Sprintf("%s: %s -> %s", a.Name, short(was), short(a.Value)))
		}
	}
	for _, a := range then {
		if !seen[a.Name] {
			out = append(out, a.Name+": gone, was "+short(a.Value))
		}
	}
	return out
}

func short(s string) string {
	const most = 120
	r := []rune(s)
	if len(r) <= most {
		return s
	}
	return string(r[:most]) + "…"
}
