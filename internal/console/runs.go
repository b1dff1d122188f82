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

type runsPage struct {
	*listing[client.RunSummary]
	With   []box // which runs
	Behind int64 // events yet to be counted
}

var runColumns = []column[client.RunSummary]{
	{Key: "last", Title: "Last call", By: "last", Value: func(r client.RunSummary) string { return exact(r.Last) }},
	{Key: "run", Title: "Run", Value: func(r client.RunSummary) string { return r.ID }},
	{Key: "agent", Title: "Agent", Value: func(r client.RunSummary) string { return r.Agent }},
	{Key: "first", Title: "Began", By: "first", Value: func(r client.RunSummary) string { return exact(r.First) }},
	{Key: "calls", Title: "Calls", By: "calls", Value: func(r client.RunSummary) string { return fmt.Sprint(r.Calls) }, Number: true},
	{Key: "refused", Title: "Refused", Value: func(r client.RunSummary) string { return fmt.Sprint(r.Refused) }, Number: true},
	{Key: "held", Title: "Held", Value: func(r client.RunSummary) string { return fmt.Sprint(r.Held) }, Number: true},
	{Key: "failed", Title: "Failed", Value: func(r client.RunSummary) string { return fmt.Sprint(r.Failed) }, Number: true},
	{Key: "labels", Title: "Labels", Value: func(r client.RunSummary) string { return strings.Join(r.Labels, " ") }},
}

func (c *Console) showRuns(v *visit) (any, error) {
	with := v.Query("with")
	d := runsPage{With: []box{{"", "All", -1, with == ""}, {"refused", "With refused calls", -1, with == "refused"}, {"held", "With held calls", -1, with == "held"}, {"failed", "With failed calls", -1, with == "failed"}}}
	var err error
	d.listing, err = paged(v, func(by string, rising bool, cursor string, limit int) ([]client.RunSummary, string, error) {
		p, err := v.API.Runs(v.ctx(), client.RunQuery{Text: v.Query("q"), With: with, Sort: by, Rising: rising, Cursor: cursor, Limit: limit})
		d.Behind = p.Behind
		return p.Runs, p.Next, err
	}, runColumns)
	return d, err
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
	Effects                     int // calls that went out and may have changed something
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
				if ev.Type == "call.intent" && ev.Effect != "" && ev.Effect != "read" {
					d.Effects++
				}
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
	case "allowed":
		if e := s.Entry.Effect; e != "" && e != "read" {
			d.Effects++
		}
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
