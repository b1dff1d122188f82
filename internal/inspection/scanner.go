package inspection

import (
	"bytes"
	"encoding/json/jsontext"
	"slices"
)

// Secret is the Kind of a finding that must not be written anywhere.
const Secret = "secret"

// KnownRule is the Rule of findings from the Known set.
const KnownRule = "known"

// Finding is one thing found: bytes Start to End (exclusive) of the input.
type Finding struct {
	Kind       string // Secret, or "personal"
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

// Scan returns what it finds in b, in order and without overlaps: findings
// that overlap are joined, and carry the rule of the known secret, else of the
// longest among them. A finding never lies within a marker that Redact wrote.
func (s *Scanner) Scan(b []byte) []Finding { return s.scan(b, scanView) }

// look is a way to look at one view of the input.
type look func(b []byte, table *knownTable, found []Finding) []Finding

func (s *Scanner) scan(b []byte, look look) []Finding {
	table := s.known.current()
	found := look(b, table, nil)
	if hasEscapes(b) {
		found = scanDecoded(b, table, found, look)
	}
	if len(found) == 0 {
		return nil
	}
	return settle(b, found)
}

// scanView appends what stands in b literally.
func scanView(b []byte, table *knownTable, found []Finding) []Finding {
	return scanKnown(b, table, scanRules(b, found))
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
	slices.SortFunc(found, func(x, y Finding) int {
		if x.Start != y.Start {
			return x.Start - y.Start
		}
		return y.End - x.End
	})
	marks := markers(b)
	out := found[:0]
	longest := 0 // length of the part that gave the last of out its rule
	for _, f := range found {
		if f.Start >= f.End || within(marks, f) {
			continue
		}
		if n := len(out); n > 0 && f.Start < out[n-1].End {
			last := &out[n-1]
			last.End = max(last.End, f.End)
			if last.Rule != KnownRule && (f.Rule == KnownRule || f.End-f.Start > longest) {
				last.Rule, last.Name, longest = f.Rule, f.Name, f.End-f.Start
			}
			continue
		}
		out, longest = append(out, f), f.End-f.Start
	}
	if len(out) == 0 {
		return nil
	}
	return out
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

// mark returns what stands for a finding in redacted text.
func mark(rule string) string { return markOpen + rule + "]" }

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
func (s *Scanner) Redact(b []byte) []byte { return s.redact(b, scanView) }

func (s *Scanner) redact(b []byte, look look) []byte {
	out := b
	for range maxRounds {
		found := s.scan(out, look)
		if len(found) == 0 {
			return out
		}
		next := splice(out, found)
		if isJSON(out) && !isJSON(next) {
			if next = redactJSON(out, found); !isJSON(next) {
				break
			}
		}
		out = next
	}
	if isJSON(b) {
		return []byte(`"` + mark(unsafeRule) + `"`)
	}
	return []byte(mark(unsafeRule))
}

// unsafeRule marks content that was dropped whole.
const unsafeRule = "unsafe"

func splice(b []byte, found []Finding) []byte {
	out := make([]byte, 0, len(b)+32*len(found))
	at := 0
	for _, f := range found {
		out = append(out, b[at:f.Start]...)
		out = append(out, mark(f.Rule)...)
		at = f.End
	}
	return append(out, b[at:]...)
}

func isJSON(b []byte) bool { return jsontext.Value(b).IsValid() }
