package releases

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"

	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/policy"
)

// Question is a call as releases see it.
type Question struct {
	Agent, Stage, Run string
	Connection, Tool  string
	Digest, Effect    string // of the tool's accepted definition, and what it does
	Plumbing          bool   // it is only part of a protocol: allowed with anything on the connection
	Free              bool   // it takes back what a call did: no release stops that
	Model             string // the model that the request names; empty if it names none
	// Prompt returns the system prompt that a model is given. Nil for what gives
	// a model none. ok is false if it cannot be known.
	Prompt func() (text string, ok bool)
}

// pin is a release's content as the line asks it.
type pin struct {
	number  int64
	models  map[string]bool
	prompts map[string]bool
	tools   map[string]Tool
	conns   map[string]bool
}

func newPin(r Release) *pin {
	p := &pin{number: r.Number, models: map[string]bool{}, prompts: map[string]bool{}, tools: map[string]Tool{}, conns: map[string]bool{}}
	for _, m := range r.Models {
		p.models[m] = true
	}
	for _, d := range r.Prompts {
		p.prompts[d] = true
	}
	for _, t := range r.Tools {
		p.tools[t.path()] = t
		p.conns[t.Connection] = true
	}
	return p
}

// standing is an agent's releases in force.
type standing struct {
	State
	active, canary *pin
}

// chosen returns the pin that a run is bound by.
func (s *standing) chosen(run string) *pin {
	if s.canary != nil && Chosen(s.Agent, s.Canary, s.Percent, run) {
		return s.canary
	}
	return s.active
}

// Chosen reports whether a run is among the percent that try a release: the same
// on every replica and for as long as the canary lasts.
func Chosen(agent string, number, percent int64, run string) bool {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint64([]byte(agent+"\x00"+run+"\x00"), uint64(number))) //nolint:gosec // a number's bits
	return binary.BigEndian.Uint64(h.Sum(nil))%100 < uint64(max(percent, 0))                //nolint:gosec // not negative
}

// Bound is by which release a call is bound, and since when.
type Bound struct {
	policy.Release
	revision int64 // of the agent's state
}

// Check returns by which release a call is bound, of number 0 if by none, and
// ErrOutside or ErrStage if that does not include it, or ErrRequired if it must be
// bound by one. It works in memory.
func (s *Service) Check(q *Question) (Bound, error) {
	var bound Bound
	st := (*s.view.Load())[q.Agent]
	if st == nil || st.Active == 0 && st.Canary == 0 {
		return bound, s.required(q)
	}
	p := st.chosen(q.Run)
	if p != nil {
		bound = Bound{Release: policy.Release{Number: p.number, Stage: st.Stage, Canary: p == st.canary}, revision: st.revision}
	}
	switch {
	case q.Free:
		bound.revision = math.MaxInt64
		return bound, nil
	case st.Stage != q.Stage:
		return bound, ErrStage.Say("release %d of %s was promoted to %s and the agent is in %s; countersign release promote %s --to %s", max(st.Active, bound.Number), q.Agent, st.Stage, q.Stage, q.Agent, q.Stage)
	case p == nil:
		return bound, s.required(q)
	}
	return bound, p.check(q)
}

// Stands returns ErrRolled if the release that bound a call was rolled back since.
// It works in memory.
func (s *Service) Stands(agent string, b Bound) error {
	st := (*s.view.Load())[agent]
	if b.Number == 0 || st == nil || st.rolled[b.Number] <= b.revision {
		return nil
	}
	return ErrRolled.Say("the call was cut: release %d of %s, which bound it, was rolled back", b.Number, agent)
}

// required refuses a call that no release binds, if one must.
func (s *Service) required(q *Question) error {
	if !s.o.Required || q.Free || q.Stage != identity.Production {
		return nil
	}
	return ErrRequired.Say("the agent %s is in production, where calls need a promoted release, and none binds this one; countersign release create %s --reason … makes one, countersign release promote %s --to production --reason … asks for it to be put in force", q.Agent, q.Agent, q.Agent)
}

// Shows reports whether a tool may be in a list that an agent sees: one of the
// releases in force includes it.
func (s *Service) Shows(agent, connection, tool string) bool {
	st := (*s.view.Load())[agent]
	if st == nil || st.active == nil {
		if a, _ := s.o.Identity.Agent(agent); !s.o.Required || a.Stage != identity.Production {
			return true
		}
	}
	if st == nil {
		return false
	}
	for _, p := range []*pin{st.active, st.canary} {
		if p == nil {
			continue
		}
		if _, ok := p.tools[connection+"/"+tool]; ok {
			return true
		}
	}
	return false
}

func (p *pin) check(q *Question) error {
	if q.Plumbing && p.conns[q.Connection] {
		return nil
	}
	t, ok := p.tools[q.Connection+"/"+q.Tool]
	switch {
	case !ok:
		return ErrOutside.Say("release %d of this agent does not include the tool %s/%s", p.number, q.Connection, q.Tool)
	case t.Digest != q.Digest || t.Effect != q.Effect:
		return ErrOutside.Say("the tool %s/%s is not as release %d of this agent pins it: its definition or effect changed since", q.Connection, q.Tool, p.number)
	case q.Model != "" && len(p.models) > 0 && !p.models[q.Connection+"/"+q.Model]:
		return ErrOutside.Say("release %d of this agent does not include the model %.80q on %s", p.number, q.Model, q.Connection)
	case q.Prompt != nil && len(p.prompts) > 0:
		return p.checkPrompt(q)
	}
	return nil
}

func (p *pin) checkPrompt(q *Question) error {
	text, ok := q.Prompt()
	if !ok {
		return ErrOutside.Say("release %d of this agent pins its system prompt, and the request brings instructions that the provider keeps", p.number)
	}
	if d := PromptDigest(text); !p.prompts[d] {
		return ErrOutside.Say("release %d of this agent does not include the system prompt of this request (sha256:%s)", p.number, d)
	}
	return nil
}

// Standing returns the releases in force of an agent, as this replica sees them.
func (s *Service) Standing(agent string) (State, bool) {
	st := (*s.view.Load())[agent]
	if st == nil {
		return State{Agent: agent}, false
	}
	return st.State, true
}

// Of returns the release that binds a run of an agent; 0 if none does.
func (s *Service) Of(agent, run string) int64 {
	st := (*s.view.Load())[agent]
	if st == nil {
		return 0
	}
	if p := st.chosen(run); p != nil {
		return p.number
	}
	return 0
}

// canaries lists the agents that try a release, by name.
func (s *Service) canaries() []State {
	var out []State
	for _, st := range *s.view.Load() {
		if st.Canary > 0 {
			out = append(out, st.State)
		}
	}
	slices.SortFunc(out, func(a, b State) int {
		if a.Agent < b.Agent {
			return -1
		}
		return 1
	})
	return out
}
