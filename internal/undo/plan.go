package undo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/connections/operation"
)

// made is one call as the log tells it.
type made struct {
	intent  audit.Record
	outcome *audit.Record
}

const mostEvents = 10_000

// Plan says how a call, or a run, would be undone: the last call first. as is the
// agent in whose name; the one that made the call if it is empty.
func (s *Service) Plan(ctx context.Context, call, run, as string) (Plan, error) {
	if (call == "") == (run == "") {
		return Plan{}, ErrWhat
	}
	p := Plan{Object: "call/" + call, Steps: []Step{}}
	if run != "" {
		p.Object = "run/" + run
	}
	call, err := s.waiting(ctx, &p, call, run, as)
	if err != nil {
		return p, err
	}
	all, err := s.calls(ctx, call, run)
	if err != nil {
		return p, err
	}
	for _, m := range slices.Backward(all) {
		st, effect, err := s.step(ctx, m, as)
		if err != nil {
			return p, err
		}
		if effect || call != "" {
			st.N = len(p.Steps) + 1
			st.ID = fmt.Sprintf("%s/%d", p.Object, st.N)
			p.Steps = append(p.Steps, st)
		}
	}
	if len(p.Steps) == 0 {
		return p, ErrNothing
	}
	b, err := json.Marshal(struct {
		Object string
		Steps  []Step
	}{p.Object, p.Steps}, json.Deterministic(true))
	if err != nil {
		return p, err
	}
	sum := sha256.Sum256(b)
	p.Digest = hex.EncodeToString(sum[:])
	return p, nil
}

// waiting adds what was not sent yet to a plan: it is cancelled. It returns as which
// call the call was sent.
func (s *Service) waiting(ctx context.Context, p *Plan, call, run, as string) (string, error) {
	if s.o.Prepared == nil {
		return call, nil
	}
	found, err := s.o.Prepared(ctx, call, run)
	if err != nil {
		return call, err
	}
	for _, w := range found {
		switch {
		case w.Waits:
			st := Step{N: len(p.Steps) + 1, Call: w.Call, At: w.At, Tool: w.Tool, Agent: w.Agent, State: Planned, Approval: w.Approval, SendAt: w.SendAt, Why: "it was not sent yet, and is cancelled"}
			if as != "" {
				st.Agent = as
			}
			st.ID = fmt.Sprintf("%s/%d", p.Object, st.N)
			p.Steps = append(p.Steps, st)
		case w.Sent != "" && call != "":
			call = w.Sent
		}
	}
	return call, nil
}

// calls reads the calls that went out, in their order.
func (s *Service) calls(ctx context.Context, call, run string) ([]made, error) {
	q := audit.Query{Call: call, Run: run, Types: []audit.Type{audit.CallIntent, audit.CallOutcome, audit.CallSettled}, Oldest: true, Limit: 1000, Payloads: true}
	var all []made
	place := map[string]int{}
	for read := 0; ; {
		recs, err := s.o.Log.List(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, r := range recs {
			i, known := place[r.Event.Call]
			switch {
			case r.Event.Type == audit.CallIntent && !known:
				place[r.Event.Call] = len(all)
				all = append(all, made{intent: r})
			case known && r.Event.Outcome != nil: // what became known later counts
				all[i].outcome = &r
			}
		}
		if read += len(recs); read > mostEvents {
			return nil, ErrLong
		}
		if len(recs) < q.Limit {
			return all, nil
		}
		q.After = recs[len(recs)-1].Event.ID
	}
}

// step says how one call is undone, and whether it had an effect at all.
func (s *Service) step(ctx context.Context, m made, as string) (st Step, effect bool, err error) {
	ev := m.intent.Event
	st = Step{Call: ev.Call, At: ev.Time, Tool: ev.Connection + "/" + ev.Tool, Agent: ev.Agent, State: Cannot}
	if as != "" {
		st.Agent = as
	}
	t, found := s.o.Tool(ev.Connection, ev.Tool)
	switch {
	case ev.Effect == connections.Read || ev.Agent == "" || found && t.Builtin:
		st.Why = "it had no effect: the tool only reads"
		return st, false, nil
	case m.outcome == nil:
		st.Why = "it is still under way; stop the agent or wait until it has ended"
	case m.outcome.Event.Outcome.Status == audit.Failed:
		st.Why = "it had no effect, as its upstream said: it failed"
		return st, false, nil
	case m.outcome.Event.Outcome.Status != audit.Succeeded:
		st.Why = "nobody knows whether it had its effect (" + m.outcome.Event.Outcome.Status + "): look at " + ev.Connection + ", and undo it there if it had"
	case !found:
		st.Why = "its tool is not there any more"
	case t.References.Undo.IsZero():
		st.Why = "its tool declares nothing that undoes it: countersign tool undo " + st.Tool
	default:
		st.Why, err = s.compensate(ctx, &st, t.References.Undo, m)
	}
	if st.Why == "" {
		st.State, st.Why = Planned, s.lacking(st)
	}
	return st, true, err
}

// lacking says what has to be given before a planned step can be made. It is told
// with the plan and is no obstacle: policy decides when the step is made.
func (s *Service) lacking(st Step) string {
	conn, tool, _ := strings.Cut(st.ByTool, "/")
	if s.o.May == nil || s.o.May(st.Agent, conn, tool) {
		return ""
	}
	return "nothing allows " + st.Agent + " to do this yet"
}

// compensate fills in how the call is undone, or says why it cannot be.
func (s *Service) compensate(ctx context.Context, st *Step, u connections.Undo, m made) (string, error) {
	by, err := s.claimedBy(ctx, st.Call)
	if err != nil || by != "" {
		return "it was undone, or is being undone, by " + by, err
	}
	if w := u.Window(); w > 0 && s.o.Now().Sub(m.intent.Event.Time) > w {
		return fmt.Sprintf("its time to be undone is over: %s, after %s", m.intent.Event.Time.Add(w).UTC().Format(time.RFC3339), u.Within), nil
	}
	if why := s.callable(u.Tool); why != "" {
		return why, nil
	}
	c := s.contentsOf(m)
	for _, cond := range slices.Sorted(keys(u.When)) {
		v, wrong := c.value(cond)
		if wrong != "" {
			return wrong, nil
		}
		if !holds(v, u.When[cond]) {
			return "it can be undone only when " + cond + " is " + u.When[cond], nil
		}
	}
	args, wrong := s.args(c, u.Tool, u.Args)
	if wrong != "" {
		return wrong, nil
	}
	st.ByTool, st.Args = u.Tool, args
	if u.Check.Tool != "" && s.callable(u.Check.Tool) == "" {
		if args, wrong := s.args(c, u.Check.Tool, u.Check.Args); wrong == "" {
			st.check = &check{Tool: u.Check.Tool, Args: args, Done: u.Check.Done}
		}
	}
	return "", nil
}

func keys(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// callable says why a tool cannot be called to undo something, "" if it can.
func (s *Service) callable(tool string) string {
	conn, name, _ := strings.Cut(tool, "/")
	t, found := s.o.Tool(conn, name)
	switch {
	case !found:
		return "what undoes it, " + tool + ", is not there"
	case !t.Callable():
		return "what undoes it, " + tool + ", is not accepted as it is now (" + t.Status + ")"
	case s.o.Kind(conn) != connections.MCP && !s.http(conn):
		return "what undoes it, " + tool + ", is not a tool of an MCP or HTTP connection"
	case s.http(conn) && !operable(t):
		return "what undoes it, " + tool + ", is no operation that a request could be made for"
	}
	return ""
}

// contentsOf reads what was kept of a call.
func (s *Service) contentsOf(m made) (c contents) {
	c.call, c.noCall = kept(m.intent, "arguments", "arguments")
	conn, name := m.intent.Event.Connection, "result"
	if s.http(conn) {
		name = "answer"
	}
	var body jsontext.Value
	body, c.noResult = kept(*m.outcome, name, "result")
	if c.noResult == "" {
		ok := false
		if c.result, ok = s.answer(conn, body); !ok {
			c.noResult = "its result cannot be read"
		}
	}
	return c
}

// operable reports whether a tool of an HTTP connection is one request.
func operable(t connections.Tool) bool {
	o, err := operation.Read(t.Definition)
	return err == nil && !o.WebSocket
}

// http reports whether a connection is an HTTP API.
func (s *Service) http(conn string) bool { return s.o.Kind(conn) == connections.HTTP }

// answer reads what a call was answered: of an HTTP API it is the body, if that is JSON.
func (s *Service) answer(conn string, body []byte) (jsontext.Value, bool) {
	if s.http(conn) {
		v := jsontext.Value(bytes.TrimSpace(body))
		return v, v.IsValid()
	}
	return answered(body)
}

// args makes the arguments of a tool. Those of an operation of an HTTP API stand in
// path, query, header and body: path.id, body.reason.
func (s *Service) args(c contents, tool string, sources map[string]string) (jsontext.Value, string) {
	conn, _, _ := strings.Cut(tool, "/")
	if !s.http(conn) {
		return c.args(sources)
	}
	parts := map[string]map[string]string{}
	for name, source := range sources {
		part, rest, ok := strings.Cut(name, ".")
		if !ok || !slices.Contains([]string{"path", "query", "header", "body"}, part) {
			return nil, "the argument " + name + " of " + tool + " is not of its path, query, header or body: write body." + name
		}
		if parts[part] == nil {
			parts[part] = map[string]string{}
		}
		parts[part][rest] = source
	}
	object := map[string]jsontext.Value{}
	for part, sources := range parts {
		v, wrong := c.args(sources)
		if wrong != "" {
			return nil, wrong
		}
		object[part] = v
	}
	b, err := json.Marshal(object, json.Deterministic(true))
	if err != nil {
		return nil, "its arguments cannot be made: they are not JSON"
	}
	return b, ""
}

// kept returns a payload that was kept whole, or why there is none.
func kept(r audit.Record, name, word string) (jsontext.Value, string) {
	for _, p := range r.Event.Payloads {
		if p.Name != name {
			continue
		}
		body, there := r.Payloads[name]
		switch {
		case p.Level == audit.Digest:
			return nil, "its " + word + " were not captured: the connection keeps digests alone"
		case !there:
			return nil, "its " + word + " are not there any more: erased, or their time to be kept is over"
		case p.Whole != "":
			return nil, "its " + word + " were kept in part only"
		}
		return body, ""
	}
	return nil, "its " + word + " were not captured"
}
