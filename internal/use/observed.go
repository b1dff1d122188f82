package use

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/policy"
)

// Limits on what is kept of an argument's values.
const (
	maxValues = 20  // different texts
	maxText   = 128 // bytes of one
)

// Observed is what values an argument had in calls that were allowed.
type Observed struct {
	Kind   string   `json:"kind" enum:"long,decimal,string,bool,strings" doc:"as policy sees it"`
	Looked int64    `json:"looked" doc:"allowed calls in which it was looked for"`
	Seen   int64    `json:"seen" doc:"of these, calls that had it"`
	Min    int64    `json:"min,omitzero" doc:"of numbers; of decimals in ten-thousandths"`
	Max    int64    `json:"max,omitzero"`
	Values []string `json:"values,omitempty" doc:"of texts and booleans, sorted; at most 20"`
	More   bool     `json:"more,omitempty" doc:"there were more, longer or redacted ones: the values are not all"`
}

// Whole reports whether every value is known: the argument was looked for in
// all of n calls, and nothing was left out.
func (o *Observed) Whole(n int64) bool { return o != nil && o.Looked == n && !o.More }

// add notes the argument's value in one call; none if absent is true.
func (o *Observed) add(v jsontext.Value, absent bool) {
	o.Looked++
	if absent {
		return
	}
	o.Seen++
	switch o.Kind {
	case policy.KindLong, policy.KindDecimal:
		n, ok := int64(0), v.Kind() == '0'
		if ok {
			n, ok = policy.Number(o.Kind, string(v))
		}
		if !ok {
			o.More = true
			return
		}
		o.span(n, n, o.Seen == 1)
	case policy.KindBool:
		o.value(string(v))
	case policy.KindString:
		o.text(v)
	case policy.KindStrings:
		var list []jsontext.Value
		if json.Unmarshal(v, &list) != nil {
			o.More = true
			return
		}
		for _, one := range list {
			o.text(one)
		}
	}
}

func (o *Observed) span(low, high int64, first bool) {
	if first {
		o.Min, o.Max = low, high
		return
	}
	o.Min, o.Max = min(o.Min, low), max(o.Max, high)
}

func (o *Observed) text(v jsontext.Value) {
	var s string
	if json.Unmarshal(v, &s) != nil || len(s) > maxText || strings.Contains(s, redacted) {
		o.More = true
		return
	}
	o.value(s)
}

// redacted begins what stands in the place of something that was redacted.
const redacted = "[redacted:"

func (o *Observed) value(s string) {
	at, there := slices.BinarySearch(o.Values, s)
	switch {
	case there:
	case len(o.Values) >= maxValues:
		o.More = true
	default:
		o.Values = slices.Insert(o.Values, at, s)
	}
}

// merge adds what other calls had.
func (o *Observed) merge(p *Observed) {
	if o.Kind != p.Kind { // the tool's schema changed
		o.Looked, o.Seen, o.More = o.Looked+p.Looked, o.Seen+p.Seen, true
		return
	}
	if p.Seen > 0 && (p.Kind == policy.KindLong || p.Kind == policy.KindDecimal) {
		o.span(p.Min, p.Max, o.Seen == 0)
	}
	for _, v := range p.Values {
		o.value(v)
	}
	o.Looked, o.Seen, o.More = o.Looked+p.Looked, o.Seen+p.Seen, o.More || p.More
}

// fieldsOf returns what an object holds; nothing if it is none.
func fieldsOf(v jsontext.Value) map[string]jsontext.Value {
	var fields map[string]jsontext.Value
	if v.Kind() != '{' || json.Unmarshal(v, &fields) != nil {
		return nil
	}
	return fields
}

// valueAt returns the value at a path of arguments, and whether there is one.
// Null is none.
func valueAt(fields map[string]jsontext.Value, path string) (jsontext.Value, bool) {
	name, rest, deeper := strings.Cut(path, ".")
	v, ok := fields[name]
	if !ok || !deeper {
		return v, ok && v.Kind() != 'n'
	}
	return valueAt(fieldsOf(v), rest)
}
