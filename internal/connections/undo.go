package connections

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Undo says how a call of a tool is undone: by a call of another tool, whose
// arguments are taken from the call and its result. A source is call:/POINTER
// (its arguments) or result:/POINTER (what it answered; RFC 6901), or =JSON, a
// value as it is. The zero Undo says that it cannot be undone.
type Undo struct {
	Tool   string            `json:"tool,omitzero" yaml:"tool" doc:"that undoes it, CONNECTION/TOOL"`
	Args   map[string]string `json:"args,omitempty" yaml:"args,omitempty" doc:"its arguments: call:/POINTER, result:/POINTER or =JSON, by name"`
	Within string            `json:"within,omitzero" yaml:"within,omitempty" doc:"how long after the call it can be undone, such as 24h; without end if absent"`
	When   map[string]string `json:"when,omitempty" yaml:"when,omitempty" doc:"what must hold: JSON values, by call:/POINTER or result:/POINTER"`
	Check  Check             `json:"check,omitzero" yaml:"check,omitempty" doc:"a tool that only reads and shows whether it was undone"`
}

// Check is a read that shows whether a call was undone.
type Check struct {
	Tool string            `json:"tool,omitzero" yaml:"tool,omitempty" doc:"CONNECTION/TOOL; it must only read"`
	Args map[string]string `json:"args,omitempty" yaml:"args,omitempty" doc:"like those of the undoing tool"`
	Done map[string]string `json:"done,omitempty" yaml:"done,omitempty" doc:"what its answer holds when it was undone: JSON values, by /POINTER"`
}

// IsZero reports whether nothing is declared.
func (u Undo) IsZero() bool { return u.Equal(Undo{}) }

// Equal reports whether two declarations say the same.
func (u Undo) Equal(o Undo) bool {
	return u.Tool == o.Tool && maps.Equal(u.Args, o.Args) && u.Within == o.Within && maps.Equal(u.When, o.When) &&
		u.Check.Tool == o.Check.Tool && maps.Equal(u.Check.Args, o.Check.Args) && maps.Equal(u.Check.Done, o.Check.Done)
}

var toolName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}/.{1,128}$`)

// Window returns how long after a call it can be undone; 0: without end.
func (u Undo) Window() time.Duration {
	d, _ := time.ParseDuration(u.Within) // checked when it was declared
	return d
}

const maxUndo = 32 // arguments, conditions

func (u Undo) check() (field, wrong string) {
	switch {
	case reflect.ValueOf(u).IsZero() || u.IsZero():
		return "", ""
	case !toolName.MatchString(u.Tool):
		return "undo.tool", "names no tool: write CONNECTION/TOOL"
	case u.Check.Tool != "" && !toolName.MatchString(u.Check.Tool):
		return "undo.check.tool", "names no tool: write CONNECTION/TOOL"
	case u.Check.Tool != "" && len(u.Check.Done) == 0:
		return "undo.check.done", "says nothing: what does the answer hold when it was undone?"
	case len(u.Args) > maxUndo || len(u.When) > maxUndo || len(u.Check.Args) > maxUndo || len(u.Check.Done) > maxUndo:
		return "undo", "is too long"
	}
	if d, err := time.ParseDuration(u.Within); u.Within != "" && (err != nil || d <= 0 || d > 10*365*24*time.Hour) {
		return "undo.within", "is not a duration such as 24h"
	}
	for field, args := range map[string]map[string]string{"undo.args": u.Args, "undo.check.args": u.Check.Args} {
		for _, name := range slices.Sorted(maps.Keys(args)) {
			if _, _, ok := Source(args[name]); !ok || name == "" {
				return field, "holds a source that is not call:/POINTER, result:/POINTER or =JSON"
			}
		}
	}
	for at, want := range u.When {
		if from, _, ok := Source(at); !ok || from == "=" || !literal(want) {
			return "undo.when", "needs call:/POINTER or result:/POINTER, and a JSON value"
		}
	}
	for at, want := range u.Check.Done {
		if !strings.HasPrefix(at, "/") || !jsontext.Pointer(at).IsValid() || !literal(want) {
			return "undo.check.done", "needs a /POINTER into the answer, and a JSON value"
		}
	}
	return "", ""
}

func literal(text string) bool {
	var v any
	return len(text) <= 4096 && json.Unmarshal([]byte(text), &v) == nil
}

// Source reads where a value is from: "call" or "result" with a pointer, or "="
// with a JSON value.
func Source(text string) (from, rest string, ok bool) {
	if v, ok := strings.CutPrefix(text, "="); ok {
		return "=", v, literal(v)
	}
	from, rest, _ = strings.Cut(text, ":")
	return from, rest, (from == "call" || from == "result") && strings.HasPrefix(rest, "/") && len(rest) <= maxPath && jsontext.Pointer(rest).IsValid()
}
