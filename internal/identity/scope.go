package identity

import (
	"slices"
	"strings"
)

// toolScope is the prefix of a scope value that names one tool.
const toolScope = "tool:"

// effectScopes are the scope values that name an effect, the mildest first.
var effectScopes = []string{"read", "write", "irreversible"}

// maxScope bounds a scope, in values and in bytes.
const (
	maxScopeValues = 64
	maxScopeBytes  = 2048
)

// Scope is what an access token is good for at its audience: calls of the
// effects it names and, if it names tools, of these tools alone. It narrows
// what grants and policies allow and never widens it. Its text (RFC 6749
// section 3.3) is a list of "read", "write", "irreversible" and
// "tool:CONNECTION/TOOL", divided by spaces.
type Scope struct {
	Effects []string // in the order of EffectScopes
	Tools   []string // "connection/tool", sorted; none means every tool
}

// EffectScopes returns every scope value that names an effect.
func EffectScopes() []string { return slices.Clone(effectScopes) }

// FullScope returns the scope of everything.
func FullScope() Scope { return Scope{Effects: EffectScopes()} }

// ParseScope reads a scope. Values that are unknown are refused, except those
// of OpenID Connect that clients ask for by habit, which mean nothing here.
func ParseScope(text string) (Scope, error) {
	if len(text) > maxScopeBytes {
		return Scope{}, ErrInvalid.Say("a scope is at most %d bytes long", maxScopeBytes)
	}
	var s Scope
	values := strings.Fields(text)
	if len(values) > maxScopeValues {
		return Scope{}, ErrInvalid.Say("a scope has at most %d values", maxScopeValues)
	}
	for _, v := range values {
		tool, named := strings.CutPrefix(v, toolScope)
		connection, name, _ := strings.Cut(tool, "/")
		switch {
		case slices.Contains(effectScopes, v):
			s.Effects = append(s.Effects, v)
		case v == "openid" || v == "offline_access":
		case named && connection != "" && name != "" && printable(tool):
			s.Tools = append(s.Tools, tool)
		default:
			return Scope{}, ErrInvalid.Say("the scope %.60q is unknown; there are read, write, irreversible and tool:CONNECTION/TOOL", v)
		}
	}
	return s.tidy(), nil
}

// printable reports whether s holds only what RFC 6749 allows in a scope value.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < 0x21 || r > 0x7e || r == '"' || r == '\\' })
}

func (s Scope) tidy() Scope {
	var effects []string
	for _, e := range effectScopes {
		if slices.Contains(s.Effects, e) {
			effects = append(effects, e)
		}
	}
	return Scope{Effects: effects, Tools: slices.Compact(slices.Sorted(slices.Values(s.Tools)))}
}

// String returns the scope's text.
func (s Scope) String() string {
	out := slices.Clone(s.Effects)
	for _, t := range s.Tools {
		out = append(out, toolScope+t)
	}
	return strings.Join(out, " ")
}

// IsZero reports whether the scope allows nothing.
func (s Scope) IsZero() bool { return len(s.Effects) == 0 }

// Allows reports whether a call of the tool with the effect is in scope.
// Protocol steps, which are no tool of their own ("mcp:ping"), need only the
// effect.
func (s Scope) Allows(connection, tool, effect string) bool {
	if !slices.Contains(s.Effects, effect) {
		return false
	}
	if len(s.Tools) == 0 || strings.HasPrefix(tool, "mcp:") {
		return true
	}
	_, found := slices.BinarySearch(s.Tools, connection+"/"+tool)
	return found
}

// With returns s with what a call of the tool with the effect needs: what a
// client asks for in a step-up.
func (s Scope) With(connection, tool, effect string) Scope {
	more := Scope{Effects: append(slices.Clone(s.Effects), effect), Tools: slices.Clone(s.Tools)}
	if len(more.Tools) > 0 && !strings.HasPrefix(tool, "mcp:") {
		more.Tools = append(more.Tools, connection+"/"+tool)
	}
	return more.tidy()
}

// Within reports whether s allows nothing that outer does not.
func (s Scope) Within(outer Scope) bool {
	for _, e := range s.Effects {
		if !slices.Contains(outer.Effects, e) {
			return false
		}
	}
	if len(outer.Tools) == 0 {
		return true
	}
	for _, t := range s.Tools {
		if !slices.Contains(outer.Tools, t) {
			return false
		}
	}
	return len(s.Tools) > 0
}
