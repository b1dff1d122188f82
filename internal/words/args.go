package words

import (
	"bytes"
	"encoding/json/jsontext"
	"strings"

	"github.com/countersign/countersign/internal/inert"
)

// Mark is in front of what stands in the place of a secret.
const Mark = "[redacted:"

// Argument is one value of a call's arguments, made inert.
type Argument struct {
	Name     string `json:"name"` // path, with dots between members; a dot that is part of a name is written \.
	Value    string `json:"value"`
	Odd      string `json:"odd,omitempty" doc:"what is unusual about the characters of it"`
	Redacted bool   `json:"redacted,omitempty" doc:"something of it is not shown because it looks like a secret"`

	text   bool // it is a string, or part of one that was cut
	number bool
}

// Number reports whether the argument is a number.
func (a Argument) Number() bool { return a.number }

const maxShown = 500 // arguments shown one by one

// Flatten returns the values of a JSON document by their paths. What was cut
// off is shown as far as it goes.
func Flatten(body []byte) []Argument {
	out := []Argument{}
	d := jsontext.NewDecoder(bytes.NewReader(body), jsontext.AllowDuplicateNames(true))
	for len(out) < maxShown {
		t, err := d.ReadToken()
		if err != nil {
			break // the end, or where the arguments were cut
		}
		switch t.Kind() {
		case '{', '[', '}', ']':
			continue
		case '"':
			if k, n := d.StackIndex(d.StackDepth()); k == '{' && n%2 == 1 {
				continue // a name; its value follows
			}
		}
		a := Argument{Name: inert.Text(pathOf(d.StackPointer())), Value: t.String(), text: t.Kind() == '"', number: t.Kind() == '0'}
		if a.text {
			a.Odd = Odd(a.Value)
			a.Value = inert.Text(a.Value)
		}
		a.Redacted = strings.Contains(a.Value, Mark)
		out = append(out, a)
	}
	return out
}

func pathOf(p jsontext.Pointer) string {
	var steps []string
	for step := range p.Tokens() {
		steps = append(steps, strings.ReplaceAll(step, ".", `\.`))
	}
	return strings.Join(steps, ".")
}

// Change is how one argument differs from an earlier call's.
type Change struct {
	Name string `json:"name"`
	Kind string `json:"kind" enum:"changed,new,gone"`
	Then string `json:"then,omitempty"`
	Now  string `json:"now,omitempty"`
}

// Changes returns what is different between then and now, field by field.
func Changes(then, now []Argument) []Change {
	old, seen := map[string]string{}, map[string]bool{}
	for _, a := range then {
		old[a.Name] = a.Value
	}
	out := []Change{}
	for _, a := range now {
		seen[a.Name] = true
		was, there := old[a.Name]
		switch {
		case !there:
			out = append(out, Change{a.Name, "new", "", Short(a.Value)})
		case was != a.Value:
			out = append(out, Change{a.Name, "changed", Short(was), Short(a.Value)})
		}
	}
	for _, a := range then {
		if !seen[a.Name] {
			out = append(out, Change{a.Name, "gone", Short(a.Value), ""})
		}
	}
	return out
}

// String says a change on one line.
func (c Change) String() string {
	switch c.Kind {
	case "new":
		return c.Name + ": new, " + c.Now
	case "gone":
		return c.Name + ": gone, was " + c.Then
	}
	return c.Name + ": " + c.Then + " -> " + c.Now
}
