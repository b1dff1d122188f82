package cli

import (
	"encoding/json/v2"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/client"
)

// step is one call of a run as the trace shows it. The calls that followed a
// model's answer are its steps.
type step struct {
	ID        string           `json:"id"`   // the call
	Kind      string           `json:"kind"` // model, tool, protocol
	Event     string           `json:"event"`
	Type      string           `json:"type"` // call.intent, call.denied, call.held, call.refused
	Time      time.Time        `json:"time"`
	Agent     string           `json:"agent,omitzero"`
	Tool      string           `json:"tool"`
	Effect    string           `json:"effect,omitzero"`
	Prompt    string           `json:"prompt,omitzero"`
	Arguments string           `json:"arguments,omitzero"`
	Decision  *client.Decision `json:"decision,omitzero"`
	Refusal   string           `json:"refusal,omitzero"` // of a call that could not be understood
	Outcome   *client.Outcome  `json:"outcome,omitzero"`
	Answer    string           `json:"answer,omitzero"`
	Result    string           `json:"result,omitzero"`
	// Proposed says whether a model's answer proposed it, and ProposedBy which;
	// nil where nobody looked.
	Proposed   *bool   `json:"proposed,omitzero"`
	ProposedBy string  `json:"proposed_by,omitzero"`
	Steps      []*step `json:"steps,omitzero"`
}

// refused reports whether the call was not made.
func (s *step) refused() bool { return s.Type != "call.intent" }

// trace is a run as a tree.
type trace struct {
	Run      string         `json:"id"`
	Agent    string         `json:"agent"`
	Owner    string         `json:"owner,omitzero"`
	Stage    string         `json:"stage,omitzero"`
	By       string         `json:"by,omitzero"` // who started the run
	Started  time.Time      `json:"started"`
	Ended    time.Time      `json:"ended"`
	Calls    int            `json:"calls"`
	Refused  int            `json:"refused"`
	Tokens   int64          `json:"tokens,omitzero"`   // of models, in and out
	Cost     int64          `json:"cost,omitzero"`     // of models, in millionths of Currency
	Currency string         `json:"currency,omitzero"` // such as USD
	Dearest  int            `json:"dearest,omitzero"`  // calls of models without a known price, counted at the dearest
	Steps    []*step        `json:"steps"`
	Protocol []*step        `json:"protocol,omitzero"` // plumbing that went well
	Other    []client.Event `json:"other,omitzero"`    // what belongs to the run and is no call
}

// generating are the tools by which a model answers.
var generating = map[string]bool{"chat.completions": true, "responses": true, "messages": true, "embeddings": true}

// plumbing are the tools that only prepare others.
var plumbing = map[string]bool{"models": true, "messages.count_tokens": true}

func kindOf(e client.Entry) string {
	switch tool := e.Event.Tool; {
	case e.Payload("prompt") != "" || generating[tool]:
		return "model"
	case strings.HasPrefix(tool, "mcp:") || plumbing[tool] || tool == "":
		return "protocol"
	}
	return "tool"
}

// traceOf orders a run's entries, the oldest first, into a tree.
func traceOf(run string, entries []client.Entry) *trace {
	t := &trace{Run: run, Steps: []*step{}}
	byCall := map[string]*step{}
	var model *step // the answer that the calls now follow
	for _, e := range entries {
		t.frame(e.Event)
		switch e.Event.Type {
		case "call.intent", "call.denied", "call.held", "call.refused":
			s := stepOf(e)
			t.Calls++
			if s.refused() {
				t.Refused++
			}
			if s.ID != "" {
				byCall[s.ID] = s
			}
			switch {
			case s.Kind == "protocol" && !s.refused():
				t.Protocol = append(t.Protocol, s)
			case s.Kind == "model":
				t.Steps = append(t.Steps, s)
				model = s
			case byCall[s.ProposedBy] != nil:
				by := byCall[s.ProposedBy]
				by.Steps = append(by.Steps, s)
			case model != nil:
				model.Steps = append(model.Steps, s)
			default:
				t.Steps = append(t.Steps, s)
			}
		case "call.outcome", "call.settled":
			if s := byCall[e.Event.Call]; s != nil {
				s.ended(e)
			}
			t.used(e.Event)
		case "run.started", "run.ended": // in the head
		default:
			t.Other = append(t.Other, e.Event)
		}
	}
	t.surface()
	return t
}

// frame keeps what the whole run has in common.
func (t *trace) frame(ev client.Event) {
	if t.Started.IsZero() || ev.Time.Before(t.Started) {
		t.Started = ev.Time
	}
	if ev.Time.After(t.Ended) {
		t.Ended = ev.Time
	}
	if ev.Type == "run.started" {
		t.By = ev.Actor.Name
	}
	for _, f := range []struct {
		to   *string
		from string
	}{{&t.Agent, ev.Agent}, {&t.Owner, ev.Owner}, {&t.Stage, ev.Stage}} {
		if *f.to == "" {
			*f.to = f.from
		}
	}
}

// used adds what a call of a model used.
func (t *trace) used(ev client.Event) {
	if ev.Outcome == nil || ev.Outcome.Usage == nil {
		return
	}
	u := ev.Outcome.Usage
	t.Tokens, t.Cost = t.Tokens+u.Input+u.Output, t.Cost+u.Cost
	if u.Currency != "" {
		t.Currency = u.Currency
	}
	if strings.HasPrefix(u.Priced, "dearest") {
		t.Dearest++
	}
}

// spent says what the run used.
func (t *trace) spent() string {
	if t.Tokens == 0 {
		return ""
	}
	text := fmt.Sprintf("; %d tokens", t.Tokens)
	if t.Currency != "" {
		text += ", " + amount("money", t.Cost) + " " + t.Currency
	}
	if t.Dearest > 0 {
		text += fmt.Sprintf(" (%d calls of models without a known price count at the dearest)", t.Dearest)
	}
	return text
}

// surface brings plumbing that failed into view.
func (t *trace) surface() {
	var quiet []*step
	for _, s := range t.Protocol {
		if s.Outcome != nil && s.Outcome.Status != "succeeded" && s.Outcome.Status != "cancelled" {
			t.Steps = append(t.Steps, s)
			continue
		}
		quiet = append(quiet, s)
	}
	t.Protocol = quiet
	slices.SortStableFunc(t.Steps, func(x, y *step) int { return x.Time.Compare(y.Time) })
}

func stepOf(e client.Entry) *step {
	ev := e.Event
	s := &step{ID: ev.Call, Kind: kindOf(e), Event: ev.ID, Type: ev.Type, Time: ev.Time, Agent: ev.Agent, Tool: toolName(ev), Effect: ev.Effect,
		Decision: ev.Decision, Prompt: e.Payload("prompt"), Arguments: e.Payload("arguments")}
	s.placed(ev)
	if code, reason := refusal(ev.Detail); ev.Type == "call.refused" {
		s.Refusal = strings.TrimPrefix(code+": "+reason, ": ")
	}
	return s
}

// placed reads whether a model proposed the call.
func (s *step) placed(ev client.Event) {
	var d struct {
		Proposed   *bool  `json:"proposed"`
		ProposedBy string `json:"proposed_by"`
	}
	if len(ev.Detail) > 0 && json.Unmarshal(ev.Detail, &d) == nil {
		s.Proposed, s.ProposedBy = d.Proposed, d.ProposedBy
	}
}

func (s *step) ended(e client.Entry) {
	if e.Event.Outcome != nil {
		s.Outcome = e.Event.Outcome
	}
	if v := e.Payload("answer"); v != "" {
		s.Answer = v
	}
	if v := e.Payload("result"); v != "" {
		s.Result = v
	}
}
