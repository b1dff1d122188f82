package flow

import (
	"encoding/json/jsontext"
	"slices"
	"strings"
)

// Origins of a value that is endorsed.
const (
	ByWords   = "words"   // the user or the operator said it
	ByTrusted = "trusted" // a trusted source answered it
	ByRecord  = "record"  // the service wrote it into a record that the user named
	ByMade    = "made"    // this run made it
	ByBound   = "bound"   // no more than what the user said or the service wrote

	ByCounterparty = "counterparty" // people approved it before, for this agent and tool
	ByScope        = "scope"        // people said before that the run may
)

// Value is an argument that matters and where it comes from.
type Value struct {
	Arg    string `json:"arg"`
	Role   string `json:"role"`
	Value  string `json:"value"`
	Origin string `json:"origin,omitzero"` // By…; empty: not endorsed
	Call   string `json:"call,omitzero"`   // that brought the record
	Tool   string `json:"tool,omitzero"`   // of that call
}

// Judgement says where a call's values come from.
type Judgement struct {
	Untrusted bool     // the run has read untrusted content
	Labels    []string // other labels of what it has read
	External  bool     // somebody receives something or gets access
	Asked     bool     // the user's words ask for such an action
	Values    []Value  // that matter
	// Confidential is who may know each confidential thing that the run has read.
	Confidential [][]string
}

// Origins returns by what the values are endorsed, each once, in order.
func (j Judgement) Origins() []string {
	var out []string
	for _, v := range j.Values {
		if v.Origin != "" && !slices.Contains(out, v.Origin) {
			out = append(out, v.Origin)
		}
	}
	slices.Sort(out)
	return out
}

// Cleared reports whether everybody whom the call reaches may know everything
// confidential that the run has read, or was named by the user. names returns
// the names that a recipient has as a reader.
func (j Judgement) Cleared(names func(recipient string) []string) bool {
	for _, v := range j.Values {
		if v.Role != Recipient || v.Origin == ByWords || v.Origin == ByScope {
			continue
		}
		as := append(names(v.Value), plain(v.Value))
		for _, readers := range j.Confidential {
			if v.Value == "" || !slices.ContainsFunc(readers, func(r string) bool { return slices.Contains(as, r) || slices.Contains(as, plain(r)) }) {
				return false
			}
		}
	}
	return true
}

// Unendorsed returns the names of the arguments that nothing endorses, each once.
func (j Judgement) Unendorsed() []string {
	var out []string
	for _, v := range j.Values {
		if v.Origin == "" && !slices.Contains(out, v.Arg) {
			out = append(out, v.Arg)
		}
	}
	return out
}

// maxJudged bounds the values of one call. A call with more is not endorsed.
const maxJudged = 256

// Judge says where the values of a call come from. args is a JSON object.
func (m *Memory) Judge(s Spec, tool string, args jsontext.Value) Judgement {
	j := Judgement{Untrusted: m.untrusted, Labels: slices.Clone(m.labels), Asked: s.asks(tool, &m.user), Confidential: slices.Clone(m.secret)}
	v, ok := fromJSON(args)
	if !ok || v.kind != '{' {
		return Judgement{Untrusted: m.untrusted, Labels: slices.Clone(m.labels), External: true, Values: []Value{{Arg: "arguments", Role: Recipient}}, Confidential: slices.Clone(m.secret)}
	}
	named := m.selected()
	for _, a := range v.members {
		role := s.Args[a.name]
		if role == "" || role == Content {
			continue
		}
		for _, l := range valuesOf(a.value, role) {
			if len(j.Values) == maxJudged {
				j.Values = append(j.Values, Value{Arg: a.name, Role: role})
				return j
			}
			j.External = j.External || role == Recipient
			j.Values = append(j.Values, m.origin(named, Value{Arg: a.name, Role: role, Value: l}))
		}
	}
	return j
}

// valuesOf are the values of an argument that matter in its role: of a list of
// objects as the object of an action, their ids if they have any.
func valuesOf(v value, role string) []string {
	switch v.kind {
	case '{':
		var out []string
		ids := role == Object && hasID(v)
		for _, m := range v.members {
			if !ids || idKey.MatchString(m.name) {
				out = append(out, valuesOf(m.value, role)...)
			}
		}
		return out
	case '[':
		var out []string
		for _, x := range v.list {
			out = append(out, valuesOf(x, role)...)
		}
		return out
	}
	if v.kind == 'v' && v.scalar == "" { // null: not given
		return nil
	}
	return []string{v.scalar}
}

// selected are the records that the user's words name.
func (m *Memory) selected() []known {
	if m.lost {
		return nil
	}
	var out []known
	for _, k := range m.records {
		if m.named(k) {
			out = append(out, k)
		}
	}
	return out
}

func (m *Memory) origin(named []known, v Value) Value {
	switch v.Role {
	case Amount:
		v.Origin = m.quantity(v.Value)
		return v
	case Secret:
		if m.user.says(v.Value) {
			v.Origin = ByWords
		}
		return v
	case Object: // a number in a sentence is no id
		if m.made[plain(v.Value)] {
			v.Origin = ByMade
			return v
		}
	case Recipient:
		if len([]rune(v.Value)) > 2 && m.all.says(v.Value) {
			v.Origin = ByWords
			return v
		}
		if m.trusted[plain(v.Value)] {
			v.Origin = ByTrusted
			return v
		}
	}
	for _, k := range named {
		if holds(k, v) {
			v.Origin, v.Call, v.Tool = ByRecord, k.call, k.tool
			return v
		}
	}
	return v
}

// holds reports whether the record has the value in a field of the right kind.
func holds(k known, v Value) bool {
	return slices.ContainsFunc(k.record.leaves, func(l leaf) bool {
		kind := k.spec.kindOf(l)
		if v.Role == Object && kind != FieldID || v.Role == Recipient && kind != FieldService && kind != FieldID {
			return false
		}
		return plain(l.value) == plain(v.Value)
	})
}

// quantity reports whether an amount is known, or at least no more than the
// largest that the user said or a service wrote.
func (m *Memory) quantity(s string) string {
	n, ok := number(strings.TrimSpace(s))
	switch {
	case !ok:
		return ""
	case slices.Contains(m.amounts, n):
		return ByWords
	case len(m.amounts) > 0 && n <= slices.Max(m.amounts):
		return ByBound
	}
	return ""
}
