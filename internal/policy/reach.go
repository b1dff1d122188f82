package policy

import (
	"slices"
	"time"
)

// Reach says whether calls of a tool may be allowed to an agent, under some
// arguments and circumstances. It is an over-approximation: conditions are not
// evaluated. What it denies is denied whatever is sent; what it gives may still
// be refused.
type Reach struct {
	Possible    bool     `json:"possible"`
	Conditional bool     `json:"conditional" doc:"only under conditions: of every rule that allows it, or of one that forbids it"`
	Held        bool     `json:"held" doc:"every call waits for people"`
	MayHold     bool     `json:"may_hold" doc:"some calls wait for people"`
	By          []string `json:"by" doc:"the grants and policies that allow it"`
	Against     []string `json:"against" doc:"the policies that may forbid or hold it"`
}

// Reach returns what policy says of an agent and a tool without knowing
// arguments; nothing is possible while the present policies cannot be seen.
func (s *Service) Reach(a Agent, act Action) Reach {
	e := s.engine.Load()
	if e == nil || !s.watch.Fresh() {
		return Reach{}
	}
	return e.reach(&a, act, s.o.Now())
}

// Reach is the Service's.
func (s *Set) Reach(a Agent, act Action, now time.Time) Reach { return s.e.reach(&a, act, now) }

func (e *engine) reach(a *Agent, act Action, now time.Time) Reach {
	r := Reach{By: []string{}, Against: []string{}}
	t := e.ts.tools[toolKey{act.Connection, act.Tool}]
	w := e.worldOf(a)
	if t == nil || !e.shown(w, t, now) {
		return r
	}
	r.Possible, r.Conditional = true, true
	var room [32]*rule
	for _, p := range e.permits.candidates(room[:0], t, w.keys) {
		if !p.expired(now) && !p.unfitFor(t) && w.matches(p, t) {
			r.Conditional = r.Conditional && !p.unconditional()
			r.By = append(r.By, p.named())
		}
	}
	for _, f := range e.forbids.candidates(room[:0], t, w.keys) {
		if !w.matches(f, t) {
			continue
		}
		r.Against = append(r.Against, f.named())
		switch {
		case f.hold == nil:
			r.Conditional = true
		case f.unconditional():
			r.Held, r.MayHold = true, true
		default:
			r.MayHold = true
		}
	}
	slices.Sort(r.By)
	slices.Sort(r.Against)
	return r
}

func (r *rule) named() string {
	if r.grant != "" {
		return "grant " + r.grant
	}
	return "policy " + r.id
}

// Holds returns whom calls of a tool by an agent may have to wait for, whatever
// the arguments: conditions are not evaluated.
func (s *Service) Holds(a Agent, act Action) []Needed {
	e := s.engine.Load()
	if e == nil {
		return nil
	}
	t := e.ts.tools[toolKey{act.Connection, act.Tool}]
	if t == nil {
		return nil
	}
	var out []Needed
	w := e.worldOf(&a)
	for _, f := range e.forbids.candidates(nil, t, w.keys) {
		if f.hold != nil && w.matches(f, t) {
			out = append(out, *f.hold)
		}
	}
	return out
}
