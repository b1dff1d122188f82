package policy

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"
)

// Bound is what values an argument may have: those that it had.
type Bound struct {
	Argument
	Min, Max int64    // of numbers; of decimals in ten-thousandths
	Values   []string // of texts, booleans and sets of texts
	Never    bool     // it was never given
}

// Condition returns the Cedar expression that holds for calls of a tool whose
// arguments are within bounds, and for none whose arguments are not: an argument
// that may be absent is only bounded when it is there. What cannot be bounded
// as the tool's schema is now is left out; "" if nothing is left.
func (s *Service) Condition(act Action, bounds []Bound) string {
	e := s.engine.Load()
	if e == nil {
		return ""
	}
	return e.condition(toolKey{act.Connection, act.Tool}, bounds)
}

func (e *engine) condition(k toolKey, bounds []Bound) string {
	t := e.ts.tools[k]
	if t == nil {
		return ""
	}
	var all []string
	for _, b := range bounds {
		path := strings.Split(b.Path, ".")
		if kindAt(t.args, path) != b.Kind {
			continue
		}
		if c := b.within(t.args, path); c != "" {
			all = append(all, c)
		}
	}
	return strings.Join(all, " &&\n")
}

// within returns the bound's condition on the argument at path of typ.
func (b *Bound) within(typ *argType, path []string) string {
	here, text := "context.args", ""
	var tests []string // that it is there, from the outside in
	for _, name := range path {
		f := typ.fields[name]
		if !f.required || f.typ.nullable {
			tests = append(tests, here+" has "+attribute(name))
		}
		here, typ = here+access(name), f.typ
	}
	switch {
	case b.Never && len(tests) == 0:
		return ""
	case b.Never:
		text = "!(" + tests[len(tests)-1] + ")"
		tests = tests[:len(tests)-1]
	default:
		text = b.holds(here)
	}
	if text == "" {
		return ""
	}
	for _, has := range slices.Backward(tests) {
		text = "(if " + has + " then " + text + " else true)"
	}
	return text
}

// holds is "" for what cannot be said in Cedar: an empty set's type is not
// known, and the least long is no literal.
func (b *Bound) holds(here string) string {
	if b.Min == math.MinInt64 || len(b.Values) == 0 && b.Kind != KindLong && b.Kind != KindDecimal {
		return ""
	}
	switch b.Kind {
	case KindLong:
		if b.Min == b.Max {
			return fmt.Sprintf("%s == %d", here, b.Min)
		}
		return fmt.Sprintf("%s >= %d && %s <= %d", here, b.Min, here, b.Max)
	case KindDecimal:
		return fmt.Sprintf("%s.greaterThanOrEqual(decimal(%q)) && %s.lessThanOrEqual(decimal(%q))", here, decimalText(b.Min), here, decimalText(b.Max))
	case KindBool:
		if len(b.Values) == 1 {
			return here + " == " + b.Values[0]
		}
	case KindString:
		return fmt.Sprintf("[%s].contains(%s)", cedarStrings(b.Values), here)
	case KindStrings:
		return fmt.Sprintf("[%s].containsAll(%s)", cedarStrings(b.Values), here)
	}
	return ""
}

var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// words of Cedar that are no names of attributes without quotes.
var reserved = []string{"true", "false", "if", "then", "else", "in", "is", "like", "has", "__cedar"}

func attribute(name string) string {
	if identifier.MatchString(name) && !slices.Contains(reserved, name) {
		return name
	}
	return cedarString(name)
}

func access(name string) string {
	if a := attribute(name); a == name {
		return "." + a
	}
	return "[" + cedarString(name) + "]"
}

func cedarString(s string) string { return string(types.String(s).MarshalCedar()) }

func cedarStrings(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = cedarString(s)
	}
	return strings.Join(quoted, ", ")
}

// decimalText writes ten-thousandths as Cedar reads a decimal.
func decimalText(n int64) string {
	sign, whole, part := "", n/10000, n%10000
	if n < 0 {
		sign, whole, part = "-", -whole, -part
	}
	return fmt.Sprintf("%s%d.%04d", sign, whole, part)
}
