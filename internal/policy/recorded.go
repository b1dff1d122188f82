package policy

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"slices"

	"github.com/countersign/countersign/internal/audit"
)

// seen reports whether the arguments of a recorded call are there as policy
// saw them, but for what was redacted.
func seen(rec *audit.Record) bool {
	for _, c := range rec.Event.Payloads {
		if c.Name != arguments {
			continue
		}
		body, had := rec.Payloads[arguments]
		return had && jsontext.Value(body).IsValid() && c.Whole == ""
	}
	return true // it had none
}

// arguments is the name of the payload that holds what policy read.
const arguments = "arguments"

// recorded puts a recorded call as policy saw it: first for its agent, then
// for every agent on whose behalf it was made.
func (s *Service) recorded(rec *audit.Record) []Request {
	ev := &rec.Event
	req := Request{Agent: s.recordedAgent(ev), Action: Action{Connection: ev.Connection, Tool: ev.Tool}, Args: jsontext.Value(rec.Payloads[arguments]),
		Run: Run{ID: ev.Run, Labels: ev.Labels, Started: ev.Time, Proposed: wasProposed(ev)}, Caller: Caller{Remote: ev.Remote}, Now: ev.Time}
	req.Release, req.Budget = bounded(ev)
	for _, a := range ev.OnBehalfOf {
		req.OnBehalfOf = append(req.OnBehalfOf, a.Name)
	}
	if len(ev.OnBehalfOf) > 0 && ev.OnBehalfOf[0].Kind == audit.KindUser && s.o.People != nil {
		if u, ok := s.o.People(ev.OnBehalfOf[0]); ok {
			req.User = &u
		}
	}
	reqs, chain := []Request{req}, req.OnBehalfOf
	for _, a := range s.behind(ev) {
		req.Agent, req.OnBehalfOf = a, chain[:slices.Index(chain, a.Name)]
		reqs = append(reqs, req)
	}
	return reqs
}

// wasProposed reports whether a model's answer proposed a recorded call; where
// nobody looked it counts as proposed.
func wasProposed(ev *audit.Event) bool {
	var d struct {
		Proposed *bool `json:"proposed"`
	}
	return len(ev.Detail) == 0 || json.Unmarshal(ev.Detail, &d) != nil || d.Proposed == nil || *d.Proposed
}

// boundBy is what a call's event says about its release and its budgets.
type boundBy struct {
	Release int64   `json:"release"`
	Canary  *bool   `json:"canary"` // absent if it has no release, or was recorded before that was
	Budget  *Budget `json:"budget"` // absent where no policy asked
}

func boundOf(ev *audit.Event) (d boundBy) {
	if len(ev.Detail) > 0 {
		_ = json.Unmarshal(ev.Detail, &d) // another form says nothing
	}
	return d
}

// bounded returns the release and budget of a recorded call. A release that bound
// a call was promoted to the agent's stage: the line refuses others.
func bounded(ev *audit.Event) (r Release, b *Budget) {
	d := boundOf(ev)
	if d.Release > 0 {
		r = Release{Number: d.Release, Stage: ev.Stage, Canary: d.Canary != nil && *d.Canary}
	}
	return r, d.Budget
}

// assumes reports whether a rule that needs these parts asks what is not recorded
// of a call.
func assumes(ev *audit.Event, need parts) bool {
	if need&(needRelease|needBudget) == 0 || need&unrecorded != 0 {
		return need&unrecorded != 0
	}
	d := boundOf(ev)
	return need&needBudget != 0 && d.Budget == nil || need&needRelease != 0 && d.Release > 0 && d.Canary == nil
}

// recordedAgent is the agent of a recorded call, with the labels it has now.
func (s *Service) recordedAgent(ev *audit.Event) Agent {
	a := Agent{Name: ev.Agent, Team: ev.Team, Stage: ev.Stage, Owner: ev.Owner}
	if s.o.Agents != nil {
		if now, ok := s.o.Agents(ev.Agent); ok {
			a.Labels = now.Labels
		}
	}
	return a
}

// behind is the agents on whose behalf a recorded call was made, as they are
// now; one that is gone has a name alone.
func (s *Service) behind(ev *audit.Event) []Agent {
	var out []Agent
	for _, a := range ev.OnBehalfOf {
		if a.Kind != audit.KindAgent {
			continue
		}
		one := Agent{Name: a.Name}
		if s.o.Agents != nil {
			if now, ok := s.o.Agents(a.Name); ok {
				one = now
			}
		}
		out = append(out, one)
	}
	return out
}
