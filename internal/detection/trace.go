package detection

import (
	"encoding/json/v2"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
)

// A trace is a recorded or invented course of events as text, one line for each:
//
//	+2s call.intent agent=a credential=key_1 model=gpt-5 x3
//	=> fires credential/key_1
//
// or as the log was exported, a JSON object a line. A time is since the line before; xN repeats the line, each as much later. What
// must come of the events since the last "=>" follows it: "fires KEY/VALUE" of
// the rule that is tested, or "silent".

// traceStart is when a trace begins: a Monday morning.
var traceStart = time.Date(2026, 1, 5, 9, 0, 0, 0, time.UTC)

// maxTrace bounds the events of one trace.
const maxTrace = 200_000

// step is one line of a trace.
type step struct {
	events []audit.Event
	expect string // of a "=>" line
	line   int
}

// parseTrace reads a trace.
func parseTrace(source string) ([]step, error) {
	var steps []step
	at, total := traceStart, 0
	line := 0
	for raw := range strings.Lines(source) {
		line++
		text, _, _ := strings.Cut(strings.TrimSpace(raw), "#")
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		if expect, ok := strings.CutPrefix(text, "=>"); ok {
			steps = append(steps, step{expect: strings.TrimSpace(expect), line: line})
			continue
		}
		if strings.HasPrefix(text, "{") {
			ev, err := recorded(strings.TrimSpace(raw))
			if total++; err == nil && total > maxTrace {
				err = fmt.Errorf("the trace has more than %d events", maxTrace)
			}
			if err != nil {
				return nil, ErrTrace.Say("line %d: %s", line, err)
			}
			steps = append(steps, step{events: []audit.Event{ev}, line: line})
			continue
		}
		ev, times, after, err := parseEvent(text)
		if total += times; err == nil && total > maxTrace {
			err = fmt.Errorf("the trace has more than %d events", maxTrace)
		}
		if err != nil {
			return nil, ErrTrace.Say("line %d: %s", line, err)
		}
		s := step{line: line}
		for range times {
			at = at.Add(after)
			ev.Time, ev.ID = at, id.At(id.Event, at)
			s.events = append(s.events, ev)
		}
		steps = append(steps, s)
	}
	return steps, nil
}

// recorded reads a line of an exported log: an event, or an entry that holds one.
func recorded(text string) (audit.Event, error) {
	var entry struct {
		Event *audit.Event `json:"event"`
	}
	if err := json.Unmarshal([]byte(text), &entry); err == nil && entry.Event != nil {
		return *entry.Event, nil
	}
	ev, err := audit.DecodeRecord([]byte(text))
	if err == nil && (ev.Type == "" || ev.Time.IsZero()) {
		err = errors.New("is no event of the log; countersign log export --format jsonl writes them")
	}
	return ev, err
}

func parseEvent(text string) (ev audit.Event, times int, after time.Duration, err error) {
	words := strings.Fields(text)
	if t, ok := strings.CutPrefix(words[0], "+"); ok {
		if after, err = duration(t); err != nil {
			return ev, 0, 0, err
		}
		words = words[1:]
	}
	times = 1
	if n := len(words); n > 0 && len(words[n-1]) > 1 && words[n-1][0] == 'x' && !strings.Contains(words[n-1], "=") {
		if times, err = strconv.Atoi(words[n-1][1:]); err != nil || times < 1 || times > maxTrace {
			return ev, 0, 0, fmt.Errorf("%q is no number of times", words[n-1])
		}
		words = words[:n-1]
	}
	if len(words) == 0 || !typeForm.MatchString(words[0]) {
		return ev, 0, 0, fmt.Errorf("needs a type of events")
	}
	ev.Type, ev.Actor = audit.Type(words[0]), audit.Actor{Kind: audit.KindAgent}
	detail := map[string]any{}
	for _, w := range words[1:] {
		name, value, ok := strings.Cut(w, "=")
		if !ok {
			return ev, 0, 0, fmt.Errorf("%.40q is not name=value", w)
		}
		if err := setField(&ev, detail, name, value); err != nil {
			return ev, 0, 0, err
		}
	}
	if len(detail) > 0 {
		if ev.Detail, err = json.Marshal(detail, json.Deterministic(true)); err != nil {
			return ev, 0, 0, err
		}
	}
	return ev, times, after, nil
}

func setField(ev *audit.Event, detail map[string]any, name, value string) error {
	texts := map[string]*string{"agent": &ev.Agent, "owner": &ev.Owner, "team": &ev.Team, "stage": &ev.Stage, "credential": &ev.Credential, "connection": &ev.Connection,
		"tool": &ev.Tool, "run": &ev.Run, "effect": &ev.Effect, "remote": &ev.Remote, "client": &ev.Client, "object": &ev.Object, "actor": &ev.Actor.Name}
	if p := texts[name]; p != nil {
		*p = value
		return nil
	}
	switch name {
	case "labels":
		ev.Labels = strings.Split(value, ",")
	case "decision":
		ev.Decision = &audit.Decision{Effect: value}
	case "status":
		outcome(ev).Status = value
	case "canned", "proposed":
		detail[name] = value == "yes"
	case "code", "front", "model", "odd", "script", "rule":
		detail[name] = value
	case "http", "tokens", "cost", "times", "weight":
		v, err := strconv.ParseFloat(value, 64)
		if err != nil || v < 0 || v > 1e12 {
			return fmt.Errorf("%s: %.20q is no number", name, value)
		}
		setNumber(ev, detail, name, v)
	default:
		return fmt.Errorf("%.40q is no field of a trace", name)
	}
	return nil
}

func setNumber(ev *audit.Event, detail map[string]any, name string, v float64) {
	switch name {
	case "http":
		outcome(ev).Code = int(v)
	case "times":
		detail["count"] = int64(v)
	case "weight":
		detail["weight"] = v
	case "tokens":
		usage(ev).Output = int64(v)
	case "cost":
		usage(ev).Cost = int64(v * 1e6)
	}
}

func outcome(ev *audit.Event) *audit.Outcome {
	if ev.Outcome == nil {
		ev.Outcome = &audit.Outcome{Status: audit.Succeeded}
	}
	return ev.Outcome
}

func usage(ev *audit.Event) *audit.Usage {
	o := outcome(ev)
	if o.Usage == nil {
		o.Usage = &audit.Usage{}
	}
	return o.Usage
}

// Try is what came of one test case of a rule.
type Try struct {
	ID      string `json:"id" doc:"rule and case"`
	Rule    string `json:"rule"`
	Case    string `json:"case"`
	Passed  bool   `json:"passed"`
	Problem string `json:"problem,omitempty"`
}

// tryRule runs the test cases of a rule, each with the rule alone.
func tryRule(r *rule) []Try {
	var out []Try
	for _, name := range sortedKeys(r.Tests) {
		t := Try{ID: r.ID + ": " + name, Rule: r.ID, Case: name, Passed: true}
		if err := tryCase(r, r.Tests[name]); err != nil {
			t.Passed, t.Problem = false, err.Error()
		}
		out = append(out, t)
	}
	return out
}

func tryCase(r *rule, trace string) error {
	steps, err := parseTrace(trace)
	if err != nil {
		return err
	}
	alone := *r
	alone.mode = Observe
	e := newEngine([]*rule{&alone}, 1, nil)
	var fired []string
	expected := false
	for _, s := range steps {
		for i := range s.events {
			for _, sig := range e.Observe(&s.events[i]) {
				fired = append(fired, sig.Object())
			}
		}
		if s.expect == "" {
			continue
		}
		expected = true
		want, fires := strings.CutPrefix(s.expect, "fires ")
		switch {
		case fires && !slices.Contains(fired, strings.TrimSpace(want)):
			return fmt.Errorf("line %d: it should have fired for %s; it fired for %v", s.line, want, fired)
		case !fires && s.expect != "silent":
			return fmt.Errorf(`line %d: after => stands "fires KEY/VALUE" or "silent"`, s.line)
		case !fires && len(fired) > 0:
			return fmt.Errorf("line %d: it should have been silent; it fired for %v", s.line, fired)
		}
		fired = nil
	}
	if !expected {
		return fmt.Errorf("the case expects nothing: end it with => fires KEY/VALUE, or => silent")
	}
	return nil
}
