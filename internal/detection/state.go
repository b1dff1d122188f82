package detection

import (
	"encoding/json/v2"
)

// maxEvidence is how many events a rule remembers for a finding.
const maxEvidence = 6

// ruleState is what one rule keeps about one key.
type ruleState struct {
	First   int64    `json:"f,omitzero"` // first event; learning begins with it
	Fired   int64    `json:"d,omitzero"` // when it last fired
	Muted   int64    `json:"m,omitzero"` // times it would have fired since
	Streak  int64    `json:"s,omitzero"` // of the agent: since when it fires, with no pause as long as the learning
	Last    int64    `json:"l,omitzero"` // of the agent: when it last would have fired
	Tallies []tally  `json:"t,omitzero"`
	Known   []tally  `json:"k,omitzero"` // of the agent: values seen, and what is normal
	Events  []string `json:"e,omitzero"`
}

// keyState is what all rules keep about one key: a credential, an agent, a network.
type keyState struct {
	kind  keyKind
	value string
	seen  int64 // the newest event
	rules []*ruleState
	dirty bool
}

// learning reports whether what is normal for the agent is still learned.
func (m *moment) learning(r *rule) bool { return m.at-m.base.First < r.learning }

// normal is the most of a measure in a period, as learned. While that is being
// learned, it is at least the rule's limit of the same name: a new agent has as
// much freedom as an unknown one may have.
func (m *moment) normal(r *rule, i int, l *limit) float64 {
	t := &m.base.Known[i]
	n := t.Peak
	if l != nil && m.learning(r) {
		n = max(n, l.of(m))
	}
	return n
}

// spoil keeps what the rule fires at from being learned, for as long as learning
// takes: people have had that time to say that it is not normal.
func (m *moment) spoil(r *rule) {
	if m.base.Streak == 0 || m.at-m.base.Last > r.learning {
		m.base.Streak = m.at
	}
	m.base.Last = m.at
	if m.at-m.base.Streak > r.learning {
		return
	}
	for j := range m.base.Known {
		m.base.Known[j].spoil()
	}
}

// note remembers an event as evidence, the newest ones.
func (s *ruleState) note(event string) {
	if len(s.Events) < maxEvidence {
		s.Events = append(s.Events, event)
		return
	}
	copy(s.Events, s.Events[1:])
	s.Events[maxEvidence-1] = event
}

// stored is a keyState as it is saved: by the rules' names and forms, so that
// what a changed rule kept is dropped, and what another kept is not.
type stored struct {
	Seen  int64                 `json:"seen"`
	Rules map[string]*ruleState `json:"rules"`
}

func (e *Engine) encode(k *keyState) ([]byte, error) {
	s := stored{Seen: k.seen, Rules: map[string]*ruleState{}}
	for i, rs := range k.rules {
		if rs != nil {
			s.Rules[e.rules[i].form] = rs
		}
	}
	return json.Marshal(s, json.Deterministic(true))
}

// decode puts a saved state into the engine.
func (e *Engine) decode(kind keyKind, value string, body []byte) error {
	var s stored
	if err := json.Unmarshal(body, &s); err != nil {
		return err
	}
	k := &keyState{kind: kind, value: value, seen: s.Seen, rules: make([]*ruleState, len(e.rules))}
	for form, rs := range s.Rules {
		i, ok := e.byForm[form]
		if !ok || rs == nil || len(rs.Tallies) > 0 && len(rs.Tallies) != len(e.rules[i].measures) || len(rs.Known) > 0 && len(rs.Known) != len(e.rules[i].measures) {
			continue
		}
		k.rules[i] = rs
	}
	e.keys[kind][value] = k
	return nil
}
