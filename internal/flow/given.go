package flow

import (
	"encoding/json/jsontext"
	"slices"
	"strings"
)

// Scope is what people said beforehand that a run may do: a tool with values of
// its arguments that matter. It never comes from the agent.
type Scope struct {
	Tool string              `json:"tool"` // CONNECTION/TOOL
	Args map[string][]string `json:"args"` // values, or with * for what may stand there; of an amount, the most
}

// Given is what people said beforehand about a call.
type Given struct {
	// Met reports whether people approved a call of the agent and tool to this
	// counterparty before. Nil: to none.
	Met func(value string) bool
	// Scopes of the run that are about the tool.
	Scopes []Scope
}

// With returns the judgement in the light of what people gave beforehand. A scope
// endorses all of a call that it covers, or nothing of it, and asks for it.
func (j Judgement) With(s Spec, g Given) Judgement {
	j.Values = slices.Clone(j.Values)
	for i, v := range j.Values {
		if v.Origin == "" && v.Value != "" && s.Counterparty != "" && v.Arg == s.Counterparty && g.Met != nil && g.Met(v.Value) {
			j.Values[i].Origin = ByCounterparty
		}
	}
	for _, scope := range g.Scopes {
		if !scope.covers(j.Values) {
			continue
		}
		j.Asked = true
		for i, v := range j.Values {
			if _, about := scope.Args[v.Arg]; about && v.Origin == "" {
				j.Values[i].Origin = ByScope
			}
		}
	}
	return j
}

// covers reports whether every value of every argument that the scope names is
// one that it allows, and the call has each of these arguments.
func (s Scope) covers(values []Value) bool {
	for arg, allowed := range s.Args {
		given := 0
		for _, v := range values {
			if v.Arg != arg {
				continue
			}
			given++
			if v.Value == "" || !slices.ContainsFunc(allowed, func(pattern string) bool { return fits(v, pattern) }) {
				return false
			}
		}
		if given == 0 {
			return false
		}
	}
	return len(s.Args) > 0
}

// Covers reports whether a call is inside the scope altogether: it has every
// argument that the scope names, and none that matters and is not named.
func (s Scope) Covers(values []Value) bool {
	return s.covers(values) && !slices.ContainsFunc(values, func(v Value) bool { return len(s.Args[v.Arg]) == 0 })
}

// Matters returns the values of a call that matter, wherever they come from. Of a
// call that cannot be read, or has too many of them, one is nothing that a scope
// could cover.
func Matters(s Spec, args jsontext.Value) []Value {
	values := (&Memory{}).Judge(s, "", args).Values
	for i := range values {
		values[i].Origin = ""
	}
	return values
}

func fits(v Value, pattern string) bool {
	if v.Role == Amount {
		n, ok := number(strings.TrimSpace(v.Value))
		most, known := number(strings.TrimSpace(pattern))
		return ok && known && n <= most
	}
	value := plain(v.Value)
	if !strings.Contains(pattern, "*") {
		return value == plain(pattern)
	}
	return !strings.Contains(value, "..") && matches(value, strings.Split(plain(pattern), "*"))
}

// matches reports whether a value is made of the parts in their order with
// something of one word between them: a list of addresses is no address.
func matches(value string, parts []string) bool {
	rest, ok := strings.CutPrefix(value, parts[0])
	if !ok {
		return false
	}
	for i, p := range parts[1:] {
		at := strings.Index(rest, p)
		if i == len(parts)-2 { // the last part ends the value
			at = len(rest) - len(p)
			if at < 0 || rest[at:] != p {
				return false
			}
		}
		if at <= 0 || strings.ContainsAny(rest[:at], " ,;:<>()@\"") {
			return false
		}
		rest = rest[at+len(p):]
	}
	return rest == ""
}

// CheckScope returns what is wrong with a scope for a tool with these roles of
// arguments; "" if nothing is.
func CheckScope(s Scope, roles map[string]string) string {
	if len(s.Args) == 0 {
		return s.Tool + ": name the arguments and their values, such as to=ann@example.com"
	}
	if len(s.Args) > maxEntries {
		return s.Tool + ": too many arguments"
	}
	for arg, values := range s.Args {
		if role := roles[arg]; role == "" || role == Content || role == Secret {
			return s.Tool + ": " + arg + " is not declared as a recipient, an object or an amount (countersign tool flow " + s.Tool + ")"
		}
		if len(values) == 0 || len(values) > maxEntries {
			return s.Tool + ": " + arg + " has no values, or too many"
		}
		for _, v := range values {
			if len(v) > maxLeaf || len(plain(strings.ReplaceAll(v, "*", ""))) == 0 || strings.Contains(v, "**") {
				return s.Tool + ": a value of " + arg + " names nobody and nothing"
			}
			if _, ok := number(strings.TrimSpace(v)); roles[arg] == Amount && !ok {
				return s.Tool + ": " + arg + " is an amount; its value is the most that it may be"
			}
		}
	}
	return ""
}

// Same returns a value as it is compared: without case, unseen characters and
// more than one space.
func Same(value string) string { return plain(value) }
