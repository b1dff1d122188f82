package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
)

// content is what the store holds: policy files by name and grants.
type content struct {
	files   map[string]string
	grants  []Grant
	shadows []shadow
}

// version is the digest that decisions carry.
func (c content) version() string {
	h := sha256.New()
	for _, name := range sortedKeys(c.files) {
		fmt.Fprintf(h, "policy %q %d\n%s\n", name, len(c.files[name]), c.files[name])
	}
	grants := slices.Clone(c.grants)
	slices.SortFunc(grants, func(a, b Grant) int { return strings.Compare(a.Name, b.Name) })
	for _, g := range grants {
		fmt.Fprintf(h, "grant %q %q %q %q %q %d\n", g.Name, g.Agent, g.Connection, g.Tools, g.When, g.Expires.UnixMicro())
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// build compiles c over ts. A file that does not parse was refused when it was
// saved; if it is there all the same (an older version wrote it), what it
// forbids is unknown, so the engine denies everything until it is mended.
func build(c content, ts *toolset, old verdicts) (*engine, verdicts) {
	var rules []*rule
	ids := map[string]string{}
	var problems []Problem
	broken := ""
	for _, name := range sortedKeys(c.files) {
		parsed, bad := parseFile(name, c.files[name])
		if len(bad) > 0 {
			problems = append(problems, bad...)
			broken = name
		}
		for _, r := range parsed {
			if other, ok := ids[r.id]; ok && other != name {
				problems = append(problems, r.problem(r.offset, "the id %q is also used in %s", r.id, other))
			}
			ids[r.id] = name
		}
		rules = append(rules, parsed...)
	}
	for _, g := range c.grants {
		r, bad := g.compile()
		problems = append(problems, bad...)
		if r != nil { // without it nothing is allowed that should not be
			rules = append(rules, r)
		}
	}
	check := newChecker(ts, old)
	for _, r := range rules {
		r.unfit = check.check(r)
	}
	e := newEngine(ts, rules, c.version())
	e.problems = append(problems, e.problems...)
	e.broken = broken
	return e, check.used
}

// Set is a compiled set of policies and grants without a store: for tests of
// policies before they are saved, and for measuring. It is safe for concurrent
// use.
type Set struct{ e *engine }

// Compile builds a set. Problems are those that saving would refuse; a set
// with a file that does not parse denies everything.
func Compile(files map[string]string, grants []Grant, tools []ToolType) (*Set, []Problem, error) {
	ts, err := newToolset(tools)
	if err != nil {
		return nil, nil, err
	}
	e, _ := build(content{files: files, grants: grants}, ts, nil)
	return &Set{e}, e.problems, nil
}

// Decide answers req, whose Now should be set.
func (s *Set) Decide(req Request) Decision { return s.e.decide(&req) }

// Visible reports whether a list shown to a should contain the tool: some
// permit's or grant's scope matches, whatever its conditions, and no plain
// forbid without conditions does.
func (s *Set) Visible(a Agent, act Action, now time.Time) bool { return s.e.visible(&a, act, now) }

// MayHold reports whether a call of the tool by a may have to wait for people.
func (s *Set) MayHold(a Agent, act Action) bool { return s.e.mayHold(&a, act) }

// Sees reports whether any tool of the connection is visible to a.
func (s *Set) Sees(a Agent, connection string, now time.Time) bool {
	return s.e.sees(&a, connection, now)
}

// Schema returns the generated schema in Cedar's schema language, and notes on
// what policy cannot see of the tools.
func (s *Set) Schema() (string, []string) { return s.e.ts.text(), s.e.ts.notes }

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
