package flow

import (
	"slices"
	"strconv"
	"strings"
)

// Who said something.
const (
	User     = "user"
	Operator = "operator" // the system prompt: it endorses values, but asks for nothing
)

// Memory is what one run gathered. It is not safe for concurrent use; the zero
// Memory is a run that read nothing.
type Memory struct {
	untrusted bool
	lost      bool // something could not be read back: nothing is endorsed by records
	labels    []string
	secret    [][]string // who may know each confidential thing that it read
	from      []string   // other runs that it continues
	told      int        // bytes of all words
	user, all text
	trusted   map[string]bool // whole values of trusted results
	made      map[string]bool // ids of what the run made
	amounts   []float64
	records   []known
}

// known is a record with what its fields are.
type known struct {
	spec   Spec
	record record
	call   string
	tool   string
}

const maxKnown = 8_000 // records of a run: what comes later endorses nothing

// Words adds what the user or the operator said.
func (m *Memory) Words(by, s string) {
	if m.told += len(s); m.told > maxText {
		return
	}
	if by == User {
		m.user.add(s)
		for _, w := range lexemes(s) {
			if n, ok := number(w); ok {
				m.amounts = append(m.amounts, n)
			}
		}
	}
	m.all.add(s)
}

// Reads notes that the run is about to read what a tool answers. It must be
// called before the answer can be seen.
func (m *Memory) Reads(s Spec) {
	if s.Source != Trusted {
		m.untrusted = true
	}
}

// Label notes that the run is about to read content that carries labels.
func (m *Memory) Label(labels ...string) {
	for _, l := range labels {
		if l == Untrusted {
			m.untrusted = true
		} else if !slices.Contains(m.labels, l) {
			m.labels = append(m.labels, l)
			slices.Sort(m.labels)
		}
	}
}

// mostSecret is how many different sets of readers a run remembers. Beyond them
// nobody counts as a reader.
const mostSecret = 64

// Confidential notes that the run is about to read what only these may know.
func (m *Memory) Confidential(readers []string) {
	if m.knows(readers) {
		return
	}
	if len(m.secret) >= mostSecret {
		readers = []string{}
	}
	m.secret = append(m.secret, readers)
	m.Label(labelConfidential)
}

// knows reports whether the run has read what the same people may know, or has
// read what nobody may.
func (m *Memory) knows(readers []string) bool {
	return slices.ContainsFunc(m.secret, func(r []string) bool { return len(r) == 0 || slices.Equal(r, readers) })
}

const labelConfidential = "confidential"

// labelled reports whether the run has read content with all of the labels.
func (m *Memory) labelled(labels []string) bool {
	return !slices.ContainsFunc(labels, func(l string) bool { return !slices.Contains(m.labels, l) && !(l == Untrusted && m.untrusted) })
}

// Untrusted reports whether the run may have read untrusted content.
func (m *Memory) Untrusted() bool { return m.untrusted }

// Lost says that part of what the run gathered cannot be read.
func (m *Memory) Lost() { m.untrusted, m.lost = true, true }

// Result adds what a tool answered to a call. wrote says that the call had an
// effect: then only the ids of what it made count.
func (m *Memory) Result(s Spec, tool, call string, wrote bool, result []byte) {
	if m.trusted == nil {
		m.trusted, m.made = map[string]bool{}, map[string]bool{}
	}
	for _, r := range records(result) {
		for _, l := range r.leaves {
			switch kind := s.kindOf(l); {
			case wrote && kind == FieldID:
				m.made[plain(l.value)] = true
			case wrote:
			case kind == FieldAmount:
				if n, ok := number(l.value); ok {
					m.amounts = append(m.amounts, n)
				}
			}
			if !wrote && s.Source == Trusted && len(l.value) <= maxLeaf {
				m.trusted[plain(l.value)] = true
			}
		}
		if !wrote && len(m.records) < maxKnown {
			m.records = append(m.records, known{s, r, call, tool})
		}
	}
}

func plain(s string) string { return strings.Join(strings.Fields(fold(s)), " ") }

func number(s string) (float64, bool) {
	n, err := strconv.ParseFloat(strings.ReplaceAll(strings.TrimLeft(s, "$€£"), ",", ""), 64)
	return n, err == nil && n > 0 && n < 1e15
}

// named reports whether the user's words name the record: a short value of it
// that is neither free text nor an id or a number stands in them. A single word
// must be of some length and tell the record from the others like it.
func (m *Memory) named(k known) bool {
	return slices.ContainsFunc(k.record.leaves, func(l leaf) bool {
		if !l.text || k.spec.kindOf(l) != FieldService {
			return false
		}
		if m.user.says(l.value) && strings.ContainsAny(l.value, "@./") {
			return true
		}
		words := trimmed(tokens(l.value))
		for _, w := range [][]string{words, trimmed(tokens(stem(l.value)))} {
			if telling(w) && m.user.names(w) && (len(w) > 1 || m.alone(k, l)) {
				return true
			}
		}
		return false
	})
}

// stem takes the ending off the name of a file.
func stem(s string) string {
	if i := strings.LastIndexByte(s, '.'); i > 0 && len(s)-i <= 6 && !strings.ContainsAny(s[i:], " /") {
		return s[:i]
	}
	return s
}

// trimmed takes off what mail programs put before a subject.
func trimmed(words []string) []string {
	for len(words) > 1 && (words[0] == "re" || words[0] == "fw" || words[0] == "fwd") {
		words = words[1:]
	}
	return words
}

// telling reports whether words are more than numbers, dates and particles.
func telling(words []string) bool {
	return slices.ContainsFunc(words, func(w string) bool {
		return len(w) >= 4 && strings.IndexFunc(w, func(r rune) bool { return r >= '0' && r <= '9' }) < 0
	})
}

// alone reports whether no other record of the same answer says the same there.
func (m *Memory) alone(k known, l leaf) bool {
	same := 0
	for _, o := range m.records {
		if o.call != k.call {
			continue
		}
		if slices.ContainsFunc(o.record.leaves, func(x leaf) bool { return x.key == l.key && plain(x.value) == plain(l.value) }) {
			same++
		}
	}
	return same == 1
}
