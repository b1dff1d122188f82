package flow

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Sources of what a tool answers.
const (
	Trusted   = "trusted"   // the service's own words, which nobody outside can choose
	Untrusted = "untrusted" // it may hold what anybody wrote; also what is not declared
)

// Roles of arguments.
const (
	Recipient = "recipient" // who receives something or gets access: an address, an account, a person
	Object    = "object"    // the id of what is acted on
	Amount    = "amount"    // how much
	Secret    = "secret"    // a password to be set and the like
	Content   = "content"   // text that is written; also what is not declared
)

// Kinds of fields of a result. What is not declared goes by its form.
const (
	FieldText    = "text"    // free text by anybody: it neither names a record nor endorses a value
	FieldID      = "id"      // the id of the record
	FieldAmount  = "amount"  // a quantity
	FieldService = "service" // written by the service itself: it may endorse
)

// Limits of a Spec.
const (
	maxEntries = 64
	maxName    = 128 // bytes
)

// Spec is what a person declared of a tool, for knowing where values come from.
// The zero Spec is the cautious one: what the tool answers is untrusted, and its
// arguments are content.
type Spec struct {
	// Source says who writes what the tool answers: Trusted or Untrusted.
	Source string `json:"source,omitzero" yaml:"source,omitempty"`
	// Args gives arguments their roles, by the name of the top-level argument.
	Args map[string]string `json:"args,omitempty" yaml:"args,omitempty"`
	// Fields says what fields of the result are, by their names at any depth.
	Fields map[string]string `json:"fields,omitempty" yaml:"fields,omitempty"`
	// Asked are words with which a person asks for such an action. Empty: those
	// of the tool's name, and what means the same.
	Asked []string `json:"asked,omitempty" yaml:"asked,omitempty"`
	// Counterparty names the argument whose values people come to know: when they
	// approved a call of an agent and it succeeded, its values endorse later calls
	// of that agent and tool. Empty: none.
	Counterparty string `json:"counterparty,omitzero" yaml:"counterparty,omitempty"`
	// Known is for how long, such as "720h"; empty means UsuallyKnown.
	Known string `json:"known,omitzero" yaml:"known,omitempty"`
	// Readers says who may know what the tool answers, as documents name their
	// readers (user:NAME, group:NAME, team:NAME) or by an address: its answers are
	// confidential. Empty: they are not.
	Readers []string `json:"readers,omitempty" yaml:"readers,omitempty"`
	// Reveal are the labels of inspection whose values the tool may have in place of
	// placeholders.
	Reveal []string `json:"reveal,omitempty" yaml:"reveal,omitempty"`
	// Expand are the arguments in which references to untrusted text become the text.
	Expand []string `json:"expand,omitempty" yaml:"expand,omitempty"`
}

// revealed are the labels of which there are placeholders.
var revealed = []string{"secret", "pii", "injection"}

// How long a counterparty is known, and at most.
const (
	UsuallyKnown = 30 * 24 * time.Hour
	MostKnown    = 366 * 24 * time.Hour
)

// KnownFor is for how long a counterparty is known.
func (s Spec) KnownFor() time.Duration {
	d, err := time.ParseDuration(s.Known)
	if err != nil || d <= 0 {
		return UsuallyKnown
	}
	return min(d, MostKnown)
}

// IsZero reports whether nothing is declared.
func (s Spec) IsZero() bool { return s.Equal(Spec{}) }

// Equal reports whether two declarations say the same.
func (s Spec) Equal(o Spec) bool {
	return s.Source == o.Source && maps.Equal(s.Args, o.Args) && maps.Equal(s.Fields, o.Fields) && slices.Equal(s.Asked, o.Asked) &&
		s.Counterparty == o.Counterparty && s.Known == o.Known && slices.Equal(s.Readers, o.Readers) && slices.Equal(s.Reveal, o.Reveal) && slices.Equal(s.Expand, o.Expand)
}

var (
	roles  = []string{Recipient, Object, Amount, Secret, Content}
	fields = []string{FieldText, FieldID, FieldAmount, FieldService}
)

// Check returns which field of a declaration is wrong, and why; "" if none is.
// args are the names of the tool's arguments, empty if it does not list them.
func (s Spec) Check(args []string) (field, wrong string) {
	if s.Source != "" && s.Source != Trusted && s.Source != Untrusted {
		return "source", fmt.Sprintf("%q is neither %s nor %s", s.Source, Trusted, Untrusted)
	}
	if len(s.Args) > maxEntries || len(s.Fields) > maxEntries || len(s.Asked) > maxEntries {
		return "", fmt.Sprintf("a tool declares at most %d arguments, fields and words", maxEntries)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Args)) {
		switch {
		case !slices.Contains(roles, s.Args[name]):
			return "args." + name, fmt.Sprintf("%q is not the role of an argument: one of %s", s.Args[name], strings.Join(roles, ", "))
		case len(args) > 0 && !slices.Contains(args, name):
			return "args." + name, "the tool has no such argument; it has " + strings.Join(args, ", ")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Fields)) {
		if name == "" || len(name) > maxName || !slices.Contains(fields, s.Fields[name]) {
			return "fields." + name, fmt.Sprintf("%q is not a kind of fields: one of %s", s.Fields[name], strings.Join(fields, ", "))
		}
	}
	for _, w := range s.Asked {
		if w == "" || len(w) > maxName || strings.ContainsFunc(w, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
			return "asked", fmt.Sprintf("%q is not a single word", w)
		}
	}
	for _, name := range s.Expand {
		switch {
		case name == "" || len(name) > maxName || len(s.Expand) > maxEntries:
			return "expand", fmt.Sprintf("%q is not the name of an argument", name)
		case len(args) > 0 && !slices.Contains(args, name):
			return "expand", "the tool has no argument " + name + "; it has " + strings.Join(args, ", ")
		}
	}
	return s.checkPeople()
}

// checkPeople checks what is declared about people.
func (s Spec) checkPeople() (field, wrong string) {
	if s.Counterparty != "" && s.Args[s.Counterparty] != Recipient {
		return "counterparty", fmt.Sprintf("%q is not declared as a recipient; a counterparty is one (args: {%s: recipient})", s.Counterparty, s.Counterparty)
	}
	if s.Known != "" {
		d, err := time.ParseDuration(s.Known)
		switch {
		case s.Counterparty == "":
			return "known", "says how long a counterparty is known, and none is declared"
		case err != nil || d < time.Minute || d > MostKnown:
			return "known", fmt.Sprintf("%q is not a time between 1m and %s, such as 720h", s.Known, MostKnown)
		}
	}
	for _, l := range s.Reveal {
		if !slices.Contains(revealed, l) {
			return "reveal", fmt.Sprintf("%q is no label of inspection: one of %s", l, strings.Join(revealed, ", "))
		}
	}
	if len(s.Readers) > maxEntries {
		return "readers", fmt.Sprintf("a tool declares at most %d readers", maxEntries)
	}
	for _, r := range s.Readers {
		if r == "" || len(r) > 2*maxName || strings.ContainsFunc(r, func(c rune) bool { return unicode.IsSpace(c) || unicode.IsControl(c) }) {
			return "readers", fmt.Sprintf("%q is not a reader: user:NAME, group:NAME, team:NAME, agent:NAME, everyone or an address", r)
		}
	}
	return "", ""
}
