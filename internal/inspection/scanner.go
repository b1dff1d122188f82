package inspection

import (
	"bytes"
	"encoding/json/jsontext"
	"math"
	"slices"
)

// Kinds is a set of what to look for. Each kind is the label of what is found.
type Kinds uint8

// The kinds.
const (
	Secrets    Kinds = 1 << iota // credentials, public formats and known ones
	Personal                     // data of persons: cards, accounts, numbers, addresses
	Injections                   // text that addresses a model, hidden text, markup that fetches
	cards                        // payment cards alone, a part of Personal
	All        = Secrets | Personal | Injections
)

// The labels of the kinds, in their order.
const (
	Secret    = "secret"
	PII       = "pii"
	Injection = "injection"
)

// Labels returns the labels of k, in a fixed order.
func (k Kinds) Labels() []string {
	var out []string
	for i, label := range []string{Secret, PII, Injection} {
		if k&(1<<i) != 0 {
			out = append(out, label)
		}
	}
	return out
}

// KindOf returns the kind with a label.
func KindOf(label string) (Kinds, bool) {
	switch label {
	case Secret:
		return Secrets, true
	case PII:
		return Personal, true
	case Injection:
		return Injections, true
	}
	return 0, false
}

// KnownRule is the Rule of findings from the Known set.
const KnownRule = "known"

// Finding is one thing found: bytes Start to End (exclusive) of the input. It
// never holds the bytes themselves.
type Finding struct {
	Kind       Kinds  // of all that were found here
	Rule       string // "openai-key", "known", ...; what Redact writes
	Start, End int
	Name       string // of the known secret, else empty
}

// Scanner finds secrets. It is safe for concurrent use.
type Scanner struct {
	known *Known
}

// New returns a scanner with all rules and an empty Known set.
func New() *Scanner { return &Scanner{known: newKnown()} }

// Known returns the set of secrets that the scanner looks for by value.
func (s *Scanner) Known() *Known { return s.known }

// Scan returns the secrets that it finds in b: Inspect for one kind.
func (s *Scanner) Scan(b []byte) []Finding { return s.Inspect(b, Secrets) }

// Inspect returns what it finds of kinds in b, in order and without overlaps:
// findings that overlap are joined, and carry the rule of the known secret,
// else of the longest secret among them, else of the longest. A finding never
// lies within a marker that Redact wrote.
func (s *Scanner) Inspect(b []byte, kinds Kinds) []Finding {
	found := scanAll(b, s.known.current(), kinds)
	if len(found) == 0 {
		return nil
	}
	return settle(b, found)
}

// scanView appends what stands in b literally.
func scanView(b []byte, table *knownTable, kinds Kinds, found []Finding) []Finding {
	if kinds&(Secrets|Injections) != 0 {
		found = scanRules(b, kinds, found)
	}
	if kinds&Secrets != 0 {
		found = scanAzure(b, scanKnown(b, table, found))
	}
	if kinds&(Personal|cards) != 0 {
		found = scanNumbers(b, kinds, found)
	}
	if kinds&Personal != 0 {
		found = scanAddresses(b, found)
	}
	if kinds&Injections != 0 {
		found = scanHidden(b, found)
	}
	return found
}

// scanKnown appends where known values stand in b literally.
func scanKnown(b []byte, table *knownTable, found []Finding) []Finding {
	if table == nil {
		return found
	}
	return table.scan(b, found)
}

// settle sorts and joins findings, and drops those inside markers.
func settle(b []byte, found []Finding) []Finding {
	slices.SortStableFunc(found, func(x, y Finding) int {
		if x.Start != y.Start {
			return x.Start - y.Start
		}
		return y.End - x.End
	})
	marks := markers(b)
	out := found[:0]
	weight := 0 // of the part that gave the last of out its rule
	for _, f := range found {
		if f.Start >= f.End || within(marks, f) {
			continue
		}
		if n := len(out); n > 0 && f.Start < out[n-1].End {
			last := &out[n-1]
			last.End, last.Kind = max(last.End, f.End), last.Kind|f.Kind
			if w := f.weight(); w > weight {
				last.Rule, last.Name, weight = f.Rule, f.Name, w
			}
			continue
		}
		out, weight = append(out, f), f.weight()
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// weight orders findings that overlap: the heavier one gives its name.
func (f Finding) weight() int {
	n := f.End - f.Start
	switch {
	case f.Rule == KnownRule:
		return math.MaxInt
	case f.Kind&Secrets != 0:
		return n + math.MaxInt/2
	}
	return n
}

// within reports whether markers cover f whole.
func within(marks []Finding, f Finding) bool {
	at := f.Start
	for _, m := range marks {
		if m.Start <= at && at < m.End {
			at = m.End
		}
	}
	return at >= f.End
}

const markOpen = "[redacted:"

// Mark returns what stands for a finding of a rule in redacted text.
func Mark(rule string) string { return markOpen + rule + "]" }

// markLen returns the length of the marker that b begins with, 0 if it does
// not: only a marker that Redact itself could have written counts, or anyone
// could hide a secret in brackets.
func markLen(b []byte) int {
	if len(b) < len(markOpen) || string(b[:len(markOpen)]) != markOpen {
		return 0
	}
	rest := b[len(markOpen):]
	for n := range min(len(rest), maxRuleName+1) {
		if rest[n] == ']' {
			if ruleNames[string(rest[:n])] {
				return len(markOpen) + n + 1
			}
			return 0
		}
	}
	return 0
}

// markers returns where Redact's markers stand in b.
func markers(b []byte) []Finding {
	var out []Finding
	for at := 0; ; {
		i := bytes.Index(b[at:], []byte(markOpen))
		if i < 0 {
			return out
		}
		at += i
		if n := markLen(b[at:]); n > 0 {
			out = append(out, Finding{Start: at, End: at + n})
			at += n
		} else {
			at += len(markOpen)
		}
	}
}

// maxRounds bounds how often Redact looks again at its own result. Each round
// replaces bytes that were no marker, so it always ends; real input needs one.
const maxRounds = 16

// Redact returns b with every finding replaced by "[redacted:rule]". It
// returns b itself when there is nothing to hide and never changes b's bytes.
// If b is valid JSON, so is the result. If the result cannot be made safe, the
// whole is replaced.
func (s *Scanner) Redact(b []byte) []byte { return s.Replace(b, Secrets, nil) }

// Replace is Redact for kinds. Where with is not nil it says what stands for a
// finding, whose bytes it is shown, in place of a marker: what it returns must
// be found by nothing and be fit for the inside of a JSON string, or the
// marker is written in the next round.
func (s *Scanner) Replace(b []byte, kinds Kinds, with func(f Finding, b []byte) string) []byte {
	out := b
	for range maxRounds {
		found := s.Inspect(out, kinds)
		if len(found) == 0 {
			return out
		}
		next := splice(out, found, with)
		if isJSON(out) && !isJSON(next) {
			if next = redactJSON(out, found); !isJSON(next) {
				break
			}
		}
		out, with = next, nil
	}
	if isJSON(b) {
		return []byte(`"` + Mark(unsafeRule) + `"`)
	}
	return []byte(Mark(unsafeRule))
}

// unsafeRule marks content that was dropped whole.
const unsafeRule = "unsafe"

func splice(b []byte, found []Finding, with func(Finding, []byte) string) []byte {
	out := make([]byte, 0, len(b)+32*len(found))
	at := 0
	for _, f := range found {
		out = append(out, b[at:f.Start]...)
		if with != nil {
			out = append(out, with(f, b[f.Start:f.End])...)
		} else {
			out = append(out, Mark(f.Rule)...)
		}
		at = f.End
	}
	return append(out, b[at:]...)
}

func isJSON(b []byte) bool { return jsontext.Value(b).IsValid() }
