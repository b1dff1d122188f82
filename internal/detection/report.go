package detection

import (
	"context"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

// Found is what a rule found in a test.
type Found struct {
	ID     string    `json:"id" doc:"rule, object and time"`
	Rule   string    `json:"rule"`
	Mode   string    `json:"mode"`
	Object string    `json:"object"`
	Agent  string    `json:"agent,omitempty"`
	At     time.Time `json:"at"`
	Event  string    `json:"event,omitempty"`
	Seen   string    `json:"seen"`
	Normal string    `json:"normal,omitempty"`
	Would  string    `json:"would" doc:"what the rule would do if it enforced"`
}

// mostFound bounds the answer of a test.
const mostFound = 1000

// Test runs the rules in use, or one of them, over a trace or an exported log, with an
// engine of its own: nothing is counted, found or done. Without one it runs
// the rules' own test cases.
func (s *Service) Test(ctx context.Context, name, trace string) (*Tested, error) {
	rules := *s.rules.Load()
	if name != "" {
		r, ok := s.rule(name)
		if !ok {
			return nil, ErrNoRule
		}
		rules = []*rule{r}
	}
	out := &Tested{Found: []Found{}, Cases: []Try{}}
	if trace == "" {
		for _, r := range rules {
			out.Cases = append(out.Cases, tryRule(r)...)
		}
		return out, nil
	}
	steps, err := parseTrace(trace)
	if err != nil {
		return nil, err
	}
	var events []audit.Event
	for _, st := range steps {
		events = append(events, st.events...)
	}
	slices.SortStableFunc(events, func(a, b audit.Event) int { return a.Time.Compare(b.Time) })
	e := newEngine(rules, s.o.Seed, s.o.Labels)
	for i := range events {
		if i%1024 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		for _, sig := range e.Observe(&events[i]) {
			if len(out.Found) < mostFound {
				out.Found = append(out.Found, sig.found())
			}
		}
	}
	out.Events = len(events)
	return out, nil
}

func (s *Signal) found() Found {
	at := time.UnixMicro(s.At).UTC()
	return Found{ID: s.Rule + " " + s.Object() + " " + at.Format(time.RFC3339Nano), Rule: s.Rule, Mode: s.rule.mode, Object: s.Object(), Agent: s.Agent, At: at, Event: s.Event, Seen: s.Seen, Normal: s.Normal, Would: s.rule.Response}
}

// Normal is what is normal of one measure of one agent, as learned.
type Normal struct {
	ID       string    `json:"id" doc:"rule and measure"`
	Rule     string    `json:"rule"`
	Measure  string    `json:"measure"`
	Normal   float64   `json:"normal" doc:"the most in a period"`
	Known    int       `json:"known,omitempty" doc:"values that were seen: models, networks, clients, hours"`
	Learning time.Time `json:"learning,omitzero" doc:"until then it is learned, and the rule allows more"`
}

// Status returns how detection goes, and what is normal of an agent.
func (s *Service) Status(ctx context.Context, agent string) (*Status, error) {
	rules := *s.rules.Load()
	st := &Status{Rules: len(rules), Baselines: []Normal{}, Overridden: []string{}}
	for _, r := range rules {
		if r.mode == Enforce {
			st.Enforcing++
		}
		if r.custom {
			st.Overridden = append(st.Overridden, r.ID)
		}
	}
	at, err := readPositions(ctx, s.db)
	if err != nil {
		return nil, err
	}
	head, err := s.log.Head(ctx)
	if err != nil {
		return nil, err
	}
	for lane, sn := range head {
		st.Behind += max(0, sn-at[lane])
	}
	since, err := readSince(ctx, s.db)
	if err != nil {
		return nil, err
	}
	st.ActsSince = storage.Time(since)
	active, err := readDetections(ctx, s.db, ` WHERE ended = 0 AND state = 'active'`)
	if err != nil {
		return nil, err
	}
	st.Active = len(active)
	if agent != "" {
		st.Baselines, err = s.baselines(ctx, rules, agent)
	}
	return st, err
}

func (s *Service) baselines(ctx context.Context, rules []*rule, agent string) ([]Normal, error) {
	rows, err := readStates(ctx, s.db, ` WHERE kind = 'agent' AND value = $1`, agent)
	out := []Normal{}
	if err != nil || len(rows) == 0 {
		return out, err
	}
	e := newEngine(rules, s.o.Seed, nil)
	if err := e.decode(byAgent, agent, rows[0].body); err != nil {
		return nil, err
	}
	for i, rs := range e.keys[byAgent][agent].rules {
		if rs == nil || len(rs.Known) == 0 {
			continue
		}
		r := rules[i]
		for j, m := range r.measures {
			t := rs.Known[j]
			if !m.learned && m.op != opFresh {
				continue
			}
			n := Normal{ID: r.ID + "/" + m.name, Rule: r.ID, Measure: m.name, Normal: max(t.Peak, 0), Known: len(t.Set)}
			if until := time.UnixMicro(rs.First + r.learning).UTC(); until.After(s.o.Now()) {
				n.Learning = until
			}
			out = append(out, n)
		}
	}
	return out, nil
}
