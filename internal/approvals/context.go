package approvals

import (
	"bytes"
	"context"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/inert"
	"github.com/countersign/countersign/internal/words"
)

// Step is one call of the run.
type Step struct {
	Call    string    `json:"call"`
	Tool    string    `json:"tool"`
	What    string    `json:"what" doc:"made, denied, held or refused"`
	At      time.Time `json:"at"`
	Labels  []string  `json:"labels,omitempty"`
	Effect  string    `json:"effect,omitempty"`
	Outcome string    `json:"outcome,omitempty"`
	Objects []string  `json:"objects,omitempty" doc:"business objects that it touched"`
}

// Source is content that came into the run from elsewhere: whoever wrote it may
// have meant the agent to do what it now asks for.
type Source struct {
	Call      string    `json:"call"`
	Tool      string    `json:"tool"`
	At        time.Time `json:"at"`
	Labels    []string  `json:"labels,omitempty"`
	Untrusted bool      `json:"untrusted" doc:"it is labelled untrusted or as an injection; false: nothing said so, which is no proof of the contrary"`
	Excerpt   string    `json:"excerpt,omitempty" doc:"its beginning, redacted and inert"`
	Missing   string    `json:"missing,omitempty" doc:"why there is no excerpt"`
}

// Compared is an earlier approved call of the same agent and tool and what is
// different.
type Compared struct {
	ID        string         `json:"id"`
	At        time.Time      `json:"at"`
	Approvers []string       `json:"approvers"`
	State     State          `json:"state"`
	Outcome   string         `json:"outcome,omitempty"`
	Changes   []words.Change `json:"changes" doc:"field by field; empty: the same arguments"`
	Missing   string         `json:"missing,omitempty" doc:"why it cannot be compared"`
}

// Undo says what can be taken back.
type Undo struct {
	Effect string `json:"effect"`
	Text   string `json:"text"`
}

// Proposed is a proposal that the run of a held call got before: decision
// support, as the tool or connection that answered declares.
type Proposed struct {
	ID     string    `json:"id" doc:"of the call that answered with it"`
	Kind   string    `json:"kind" doc:"such as anomaly"`
	Source string    `json:"source" doc:"connection/tool"`
	At     time.Time `json:"at"`
}

// proposal returns what kind of proposal a call was answered with, "" if none.
func proposal(labels ...[]string) string {
	for _, l := range slices.Concat(labels...) {
		if kind, ok := strings.CutPrefix(l, audit.LabelProposal); ok {
			return kind
		}
	}
	return ""
}

// Value is one value of an argument that matters, and where it comes from.
type Value struct {
	Arg    string `json:"arg"`
	Role   string `json:"role" doc:"recipient, object, amount or secret"`
	Value  string `json:"value" doc:"redacted and inert"`
	Origin string `json:"origin,omitzero" doc:"words, trusted, record, made, bound, counterparty or scope; empty: nothing endorses it"`
	Said   string `json:"said" doc:"the same in words"`
	Call   string `json:"call,omitzero" doc:"that brought the record"`
}

// valuesOf reads what the log keeps of where values come from.
func valuesOf(body []byte) []Value {
	var all []Value
	if len(body) == 0 || json.Unmarshal(body, &all) != nil {
		return nil
	}
	for i := range all {
		v := &all[i]
		v.Arg, v.Value, v.Said = inert.Text(v.Arg), inert.Text(v.Value), inert.Text(v.Said)
		if v.Role == "secret" {
			v.Value = "(not shown)"
		}
	}
	return all
}

// Limits of what is shown of what came before.
const (
	maxSteps   = 20
	maxSources = 8
	maxExcerpt = 300 // characters
	maxLast    = 3
)

// view puts together what people see of a request.
func (s *Service) view(ctx context.Context, r *Request) (*View, error) {
	args, err := s.arguments(ctx, []Request{*r})
	if err != nil {
		return nil, err
	}
	sh := args[r.Event]
	v := s.closed(r)
	v.Missing, v.Arguments, v.Values = sh.state, words.Flatten(sh.body), valuesOf(sh.origins)
	v.Parts, v.Template = s.summary(r, v.Arguments)
	v.Summary = words.Join(v.Parts)
	for _, a := range v.Arguments {
		if a.Redacted {
			v.Redacted = append(v.Redacted, a.Name)
		}
	}
	if sh.body != nil && !jsontext.Value(sh.body).IsValid() {
		v.Cut = max(0, sh.size-int64(len(sh.body)))
	}
	if err := s.before(ctx, r, v); err != nil {
		return nil, err
	}
	if v.Last, err = s.lastApproved(ctx, r, v.Arguments); err != nil {
		return nil, err
	}
	return v, nil
}

// Told returns a request and all that people see of it, for who tells it on:
// redacted and inert, but with what is in the call.
func (s *Service) Told(ctx context.Context, id string) (Request, *View, error) {
	r, err := s.Get(ctx, id)
	if err != nil {
		return r, nil, err
	}
	v, err := s.view(ctx, &r)
	return r, v, err
}

// closed is a view without anything that is in the call.
func (s *Service) closed(r *Request) *View {
	parts := words.Plain(r.Binding.Agent, r.Binding.Connection, r.Binding.Tool, nil)
	v := &View{Summary: words.Join(parts), Parts: parts, Arguments: []words.Argument{}, Missing: "your role does not show contents of calls",
		Agent: AgentView{Name: r.Binding.Agent}, Undo: s.undo(r)}
	if a, ok := s.identity.Agent(r.Binding.Agent); ok {
		v.Agent = AgentView{a.Name, a.Owner, a.Backup, a.Team, a.Stage, a.Purpose, a.BusinessProcess}
	}
	return v
}

// summary says in plain words what a call is about: by the tool's own template,
// or by its name and first arguments.
func (s *Service) summary(r *Request, args []words.Argument) (parts []words.Part, template string) {
	if s.o.Template != nil && len(args) > 0 {
		if t := s.o.Template(r.Binding.Connection, r.Binding.Tool); t != "" {
			if parts, ok := words.Render(t, r.Binding.Agent, args); ok {
				return parts, t
			}
		}
	}
	return words.Plain(r.Binding.Agent, r.Binding.Connection, r.Binding.Tool, args), ""
}

// undo says what is known about taking a call back: its tool's effect and what
// undoes it, as a person declared them.
func (s *Service) undo(r *Request) Undo {
	if s.o.Undone != nil && r.Effect != "read" {
		if by := s.o.Undone(r.Binding.Connection, r.Binding.Tool); by != "" {
			return Undo{r.Effect, "it can be taken back by " + by}
		}
	}
	switch r.Effect {
	case "read":
		return Undo{r.Effect, "it changes nothing, so there is nothing to undo"}
	case "write":
		return Undo{r.Effect, "what it changes can be changed back, by another call"}
	}
	return Undo{r.Effect, "it cannot be taken back, or nobody has said that it can"}
}

// policyText returns the policies of a need as they are in force.
func (s *Service) policyText(ids string) string {
	if s.o.Policy == nil {
		return ""
	}
	var out []string
	for id := range strings.SplitSeq(ids, ", ") {
		if t := s.o.Policy(id); t != "" {
			out = append(out, t)
		}
	}
	return strings.Join(out, "\n\n")
}

// before lists what the run did before the call was held, and what it read.
func (s *Service) before(ctx context.Context, r *Request, v *View) error {
	if r.Run == "" {
		return nil
	}
	recs, err := s.log.List(ctx, audit.Query{Run: r.Run, Until: r.Created, Limit: 400,
		Types: []audit.Type{audit.CallIntent, audit.CallDenied, audit.CallHeld, audit.CallRefused, audit.CallOutcome}})
	if err != nil {
		return err
	}
	outcomes := map[string]audit.Record{}
	var read []audit.Record
	for _, rec := range recs { // newest first: an outcome comes before its intent
		ev := rec.Event
		if ev.Type == audit.CallOutcome {
			outcomes[ev.Call] = rec
			continue
		}
		if strings.HasPrefix(ev.Tool, "mcp:") || ev.Call == r.Call {
			continue
		}
		end := outcomes[ev.Call].Event
		if kind := proposal(ev.Labels, end.Labels); kind != "" && end.Outcome != nil && end.Outcome.Status == audit.Succeeded {
			v.Proposals = append(v.Proposals, Proposed{ev.Call, inert.Text(kind), toolOf(ev), end.Time})
		}
		if ev.Type == audit.CallIntent && end.Outcome != nil && end.Outcome.Bytes > 0 && len(read) < maxSources {
			answer := outcomes[ev.Call]
			answer.Event.Labels = append(slices.Clone(ev.Labels), answer.Event.Labels...)
			read = append(read, answer)
		}
		if len(v.Before) == maxSteps {
			v.More++
			continue
		}
		v.Before = append(v.Before, step(ev, end))
	}
	slices.Reverse(v.Before)
	return s.sources(ctx, read, v)
}

func step(ev, end audit.Event) Step {
	st := Step{Call: ev.Call, Tool: toolOf(ev), At: ev.Time, Labels: ev.Labels, Effect: ev.Effect}
	for _, o := range ev.Objects {
		st.Objects = append(st.Objects, inert.Text(o))
	}
	if end.Outcome != nil {
		st.Outcome = end.Outcome.Status
	}
	switch ev.Type {
	case audit.CallIntent:
		st.What = "made"
	case audit.CallDenied:
		st.What = "denied"
	case audit.CallHeld:
		st.What = "held"
	default:
		st.What = "refused"
	}
	return st
}

func toolOf(ev audit.Event) string { return inert.Text(ev.Connection + "/" + ev.Tool) }

// sources shows the beginnings of what calls of the run were answered.
func (s *Service) sources(ctx context.Context, read []audit.Record, v *View) error {
	if err := s.log.LoadPayloads(ctx, read); err != nil {
		return err
	}
	for _, rec := range read {
		ev := rec.Event
		src := Source{Call: ev.Call, Tool: toolOf(ev), At: ev.Time, Labels: slices.Compact(slices.Sorted(slices.Values(ev.Labels))),
			Untrusted: slices.Contains(ev.Labels, "untrusted") || slices.Contains(ev.Labels, "injection")}
		body, kept := rec.Payloads["result"]
		if !kept {
			body, kept = rec.Payloads["answer"]
		}
		switch {
		case kept:
			src.Excerpt = excerpt(body)
		case len(ev.Payloads) == 0:
			src.Missing = "the connection keeps no answers"
		default:
			src.Missing = "it was erased"
		}
		v.Read = append(v.Read, src)
	}
	return nil
}

// excerpt returns the beginning of the text of an answer. Of one that is a tool's
// result (MCP), that of its content.
func excerpt(body []byte) string {
	for line := range bytes.Lines(body) { // the last message of an event stream
		if data, ok := bytes.CutPrefix(line, []byte("data:")); ok {
			body = data
		}
	}
	text := string(body)
	var result struct {
		Result struct {
			Content []struct {
				Text string `json:"text"`
			} `json:"content"`
		} `json:"result"`
	}
	if json.Unmarshal(body, &result) == nil && len(result.Result.Content) > 0 {
		var all []string
		for _, c := range result.Result.Content {
			all = append(all, c.Text)
		}
		text = strings.Join(all, " ")
	}
	text = strings.Join(strings.Fields(text), " ")
	if r := []rune(text); len(r) > maxExcerpt {
		text = string(r[:maxExcerpt]) + "…"
	}
	return inert.Text(text)
}

// lastApproved compares the call with the last ones of the same agent and tool
// that people approved.
func (s *Service) lastApproved(ctx context.Context, r *Request, now []words.Argument) ([]Compared, error) {
	found, err := read(ctx, s.db, ` WHERE agent = $1 AND connection = $2 AND tool = $3 AND state IN ('approved', 'executing', 'executed') AND id < $4 ORDER BY id DESC LIMIT $5`,
		r.Binding.Agent, r.Binding.Connection, r.Binding.Tool, r.ID, maxLast)
	if err != nil {
		return nil, err
	}
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
		c := Compared{ID: x.ID, At: x.Decided, Approvers: x.Approvers(), State: x.State, Outcome: x.Outcome, Changes: []words.Change{}, Missing: args[x.Event].state}
		if body := args[x.Event].body; body != nil {
			c.Changes = words.Changes(words.Flatten(body), now)
		}
		out = append(out, c)
	}
	return out, nil
}
