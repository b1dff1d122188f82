package console

import (
	"cmp"
	"encoding/json/v2"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/client"
)

var runPages = []page{
	{"/runs", "runs", "Runs", "runs", (*Console).showRuns},
	{"/runs/{id}", "run", "Run", "runs", (*Console).showRun},
}

var runActions = []action{{"/runs/{id}/end", "run", (*Console).endRun}}

// runRow is a run as its last calls tell.
type runRow struct {
	ID, Agent, Stage     string
	Calls, Refused, Held int
	First, Last          time.Time
	Labels               []string
	Started              bool // its start is among the events that were looked at
	Tools                []string
}

// runsOf gathers events into the runs they belong to, the newest first.
func runsOf(events []client.Event, most int) []runRow {
	var out []*runRow
	by := map[string]*runRow{}
	for _, ev := range events {
		if ev.Run == "" {
			continue
		}
		r := by[ev.Run]
		if r == nil {
			r = &runRow{ID: ev.Run, Agent: ev.Agent, Stage: ev.Stage, Last: ev.Time}
			by[ev.Run] = r
			out = append(out, r)
		}
		r.First = ev.Time
		switch ev.Type {
		case "call.denied", "call.refused":
			r.Refused++
		case "call.held":
			r.Held++
		case "call.intent":
		default:
			r.Started = r.Started || ev.Type == "run.started"
			continue
		}
		r.Calls++
		for _, l := range ev.Labels {
			if !slices.Contains(r.Labels, l) {
				r.Labels = append(r.Labels, l)
			}
		}
	}
	rows := make([]runRow, 0, min(most, len(out)))
	for _, r := range out[:min(most, len(out))] {
		rows = append(rows, *r)
	}
	return rows
}

type runsPage struct {
	*listing[runRow]
	Older string // where older runs begin
}

var runColumns = []column[runRow]{
	{Key: "last", Title: "Last call", Value: func(r runRow) string { return exact(r.Last) }, Less: func(a, b runRow) int { return b.Last.Compare(a.Last) }},
	{Key: "run", Title: "Run", Value: func(r runRow) string { return r.ID }},
	{Key: "agent", Title: "Agent", Value: func(r runRow) string { return r.Agent }},
	{Key: "calls", Title: "Calls", Value: func(r runRow) string { return fmt.Sprint(r.Calls) }, Less: func(a, b runRow) int { return cmp.Compare(b.Calls, a.Calls) }, Number: true},
	{Key: "refused", Title: "Refused", Value: func(r runRow) string { return fmt.Sprint(r.Refused) }, Less: func(a, b runRow) int { return cmp.Compare(b.Refused, a.Refused) }, Number: true},
	{Key: "held", Title: "Held", Value: func(r runRow) string { return fmt.Sprint(r.Held) }, Less: func(a, b runRow) int { return cmp.Compare(b.Held, a.Held) }, Number: true},
	{Key: "labels", Title: "Labels", Value: func(r runRow) string { return strings.Join(r.Labels, " ") }},
}

func (c *Console) showRuns(v *visit) (any, error) {
	found, err := v.API.SearchLog(v.ctx(), "type:call.intent,call.denied,call.held,call.refused,run.started", v.Query("before"), mostHour, false)
	if err != nil {
		return nil, err
	}
	rows := runsOf(found.Events, mostHour)
	return runsPage{arrange(v, rows, func(r runRow) string { return r.ID }, runColumns), found.Next}, nil
}

// step is one call of a run. The calls that followed a model's answer are its steps.
type step struct {
	Entry   client.Event
	Kind    string // model, tool, protocol
	State   string
	Outcome *client.Outcome
	Answer  string // event that holds the answer's payloads
	Asked   asked
	Offset  time.Duration // since the run began
	Share   int           // its time, in hundredths of the run's
	At      int           // its beginning, likewise
	Gained  []string      // labels that the run has from here on
	Steps   []*step
}

// asked is what people were asked about a call, and who approved.
type asked struct {
	Approval  string   `json:"approval"`
	Approvers []string `json:"approvers"`
}

// note takes what an event of the call says of people.
func (s *step) note(ev client.Event) {
	var a asked
	if len(ev.Detail) == 0 || json.Unmarshal(ev.Detail, &a) != nil || a.Approval == "" {
		return
	}
	s.Asked.Approval = a.Approval
	if len(a.Approvers) > 0 {
		s.Asked.Approvers = a.Approvers
	}
}

// runPage is a run as a tree.
type runPage struct {
	ID, Agent, Owner, Stage, By string
	Began, Ended                time.Time
	Calls, Refused, Held        int
	Labels                      []gained
	Steps                       []*step
	Protocol                    []*step
	Other                       []client.Event
	Complete                    bool
	Reveal                      bool // contents may be asked for
	Over                        bool
	Mine                        bool
}

// gained is a label and the call by which it came in.
type gained struct {
	Label string
	Step  *step
	After int // calls that followed under it
}

func (c *Console) showRun(v *visit) (any, error) {
	id := v.Request.PathValue("id")
	entries, complete, err := v.API.BareRun(v.ctx(), id)
	if err != nil {
		return nil, err
	}
	d := runPage{ID: id, Complete: complete}
	d.build(entries)
	d.time()
	d.Reveal = v.May("inspect") || d.Owner == v.Me.Name
	d.Mine = v.May("write") || v.May("own") && d.Owner == v.Me.Name
	v.Title = "Run " + shortID(id)
	return d, nil
}

// generating are the tools by which a model answers, plumbing those that only prepare others.
var (
	generating = []string{"chat.completions", "responses", "messages", "embeddings"}
	plumbing   = []string{"models", "messages.count_tokens", ""}
)

func kindOf(ev client.Event) string {
	switch {
	case slices.Contains(generating, ev.Tool):
		return "model"
	case strings.HasPrefix(ev.Tool, "mcp:"), slices.Contains(plumbing, ev.Tool):
		return "protocol"
	}
	return "tool"
}

// build orders a run's events, the oldest first, into a tree.
func (d *runPage) build(entries []client.Entry) {
	byCall := map[string]*step{}
	var model *step // whose answer the calls now follow
	have := map[string]bool{}
	for _, e := range entries {
		ev := e.Event
		d.frame(ev)
		switch ev.Type {
		case "call.intent", "call.denied", "call.held", "call.refused":
			s := byCall[ev.Call]
			if s != nil && ev.Call != "" { // a held call that was made after all
				s.State = callOf(ev).State
				s.note(ev)
				continue
			}
			s = &step{Entry: ev, Kind: kindOf(ev), State: callOf(ev).State}
			s.note(ev)
			byCall[ev.Call] = s
			d.gain(s, ev.Labels, have)
			d.place(s, &model)
		case "call.outcome", "call.settled":
			if s := byCall[ev.Call]; s != nil {
				s.Outcome, s.Answer = ev.Outcome, ev.ID
				if ev.Outcome != nil {
					s.State = ev.Outcome.Status
				}
				d.gain(s, ev.Labels, have)
			}
		case "run.started", "run.ended":
			d.Over = d.Over || ev.Type == "run.ended"
			if ev.Type == "run.started" {
				d.By = ev.Actor.Name
			}
			d.Other = append(d.Other, ev)
		default:
			d.Other = append(d.Other, ev)
		}
	}
}

func (d *runPage) frame(ev client.Event) {
	if d.Began.IsZero() {
		d.Began = ev.Time
	}
	d.Ended = ev.Time
	d.Agent, d.Owner, d.Stage = cmp.Or(d.Agent, ev.Agent), cmp.Or(d.Owner, ev.Owner), cmp.Or(d.Stage, ev.Stage)
}

// place puts a call beneath the model's answer that it follows.
func (d *runPage) place(s *step, model **step) {
	d.Calls++
	switch s.State {
	case "denied", "refused":
		d.Refused++
	case "held":
		d.Held++
	}
	for i := range d.Labels {
		if d.Labels[i].Step != s {
			d.Labels[i].After++
		}
	}
	switch {
	case s.Kind == "protocol" && s.State == "allowed":
		d.Protocol = append(d.Protocol, s)
	case s.Kind == "model":
		d.Steps = append(d.Steps, s)
		*model = s
	case *model != nil:
		(*model).Steps = append((*model).Steps, s)
	default:
		d.Steps = append(d.Steps, s)
	}
}

// gain notes the labels that come in with a call.
func (d *runPage) gain(s *step, labels []string, have map[string]bool) {
	for _, l := range labels {
		if !have[l] {
			have[l] = true
			s.Gained = append(s.Gained, l)
			d.Labels = append(d.Labels, gained{Label: l, Step: s})
		}
	}
}

// time says when each call began and how long it took, against the whole run.
func (d *runPage) time() {
	whole := max(d.Ended.Sub(d.Began), time.Millisecond)
	var each func([]*step)
	each = func(steps []*step) {
		for _, s := range steps {
			s.Offset = s.Entry.Time.Sub(d.Began)
			s.At = int(min(99, 100*s.Offset/whole))
			if s.Outcome != nil {
				s.Share = int(100 * time.Duration(s.Outcome.Micros) * time.Microsecond / whole)
			}
			s.Share = max(1, min(s.Share, 100-s.At))
			each(s.Steps)
		}
	}
	each(d.Steps)
	each(d.Protocol)
}

// Since says how long after the run's begin a call was made.
func (s *step) Since() string { return "+" + micros(s.Offset.Microseconds()) }

func (c *Console) endRun(v *visit) (done, error) {
	id := v.Request.PathValue("id")
	return done{to: string(pathOf("/runs", id)), said: "The run is ended and its credential revoked."}, v.reason().EndRun(v.ctx(), id)
}
