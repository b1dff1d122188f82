package policy

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// The kinds of what lint finds.
const (
	LintInvalid     = "invalid"     // it has problems (check says the same)
	LintUnreachable = "unreachable" // it can have no effect
	LintShadowed    = "shadowed"    // another says all that it says
	LintWide        = "wide"        // it gives more than anybody can mean
	LintConflict    = "conflict"    // an agent may do two things that must be apart
	LintUnmatched   = "unmatched"   // it determined no call in the window
)

// LintKinds lists them.
var LintKinds = []string{LintInvalid, LintConflict, LintUnreachable, LintShadowed, LintWide, LintUnmatched}

// Lint is something in policies and grants that is probably not meant.
type Lint struct {
	Problem
	Kind string   `json:"kind" enum:"invalid,conflict,unreachable,shadowed,wide,unmatched"`
	By   []string `json:"by,omitempty" doc:"what it is because of: the policies and grants that shadow it, forbid it, or let the agent do both"`
}

// Matched are the rules that determined calls since a time: grant:NAME and
// policies. Known is since when that is known.
type Matched struct {
	Rules map[string]bool
	Known time.Time
}

// Lint looks for what is probably not meant in policies and grants as they
// would be with a trial. Only what the trial brings is looked at, unless it
// brings nothing. What never determined a call since is found if that is known
// for as long, and if it is as old.
func (s *Service) Lint(ctx context.Context, t Trial, since time.Time) ([]Lint, error) {
	now, c, old, err := s.tried(t)
	if err != nil {
		return nil, err
	}
	trial, _ := build(c, now.ts, old)
	l := &linter{e: trial, now: s.o.Now(), found: []Lint{}}
	if s.o.All != nil {
		l.agents = s.o.All()
	}
	if s.meant != nil {
		is, err := s.meant(ctx)
		if err != nil {
			return nil, err
		}
		for _, g := range c.grants {
			if is(g) {
				l.meant = append(l.meant, g.Name)
			}
		}
	}
	for _, r := range trial.rules {
		l.rule(r)
	}
	for _, p := range trial.problems {
		l.found = append(l.found, Lint{Problem: p, Kind: LintInvalid})
	}
	l.conflicts()
	if err := s.unmatched(ctx, l, since); err != nil {
		return nil, err
	}
	if len(t.Files)+len(t.Grants) > 0 {
		l.found = slices.DeleteFunc(l.found, func(x Lint) bool { return len(t.problems([]Problem{x.Problem})) == 0 })
	}
	slices.SortStableFunc(l.found, func(a, b Lint) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), strings.Compare(a.Policy, b.Policy), cmp.Compare(slices.Index(LintKinds, a.Kind), slices.Index(LintKinds, b.Kind)))
	})
	return l.found, nil
}

// linter looks at an engine's rules over the registered agents and tools.
type linter struct {
	e      *engine
	agents []Agent
	now    time.Time
	meant  []string // grants without an end for which somebody answers
	found  []Lint
}

func (l *linter) say(r *rule, kind string, by []string, format string, args ...any) {
	p := r.problem(r.offset, format, args...)
	if r.grant != "" {
		p = Problem{File: r.file, Policy: r.id, Message: p.Message}
	}
	l.found = append(l.found, Lint{Problem: p, Kind: kind, By: by})
}

// spot is a call that a rule may be about.
type spot struct {
	w *world
	t *tool
}

// spots returns the calls that r's scope matches, of registered agents.
func (l *linter) spots(r *rule) []spot {
	var out []spot
	tools := newChecker(l.e.ts, nil).inScope(r)
	for i := range l.agents {
		w := l.e.worldOf(&l.agents[i])
		for _, t := range tools {
			if w.matches(r, t) {
				out = append(out, spot{w, t})
			}
		}
	}
	return out
}

func (l *linter) rule(r *rule) {
	if r.expired(l.now) {
		l.say(r, LintUnreachable, nil, "it expired on %s; revoke it", r.expires.UTC().Format(time.DateOnly))
		return
	}
	if len(r.apart) > 0 {
		return // it says what must be apart, and need do no more
	}
	if never(r) {
		l.say(r, LintUnreachable, nil, "its conditions never hold")
		return
	}
	spots := l.spots(r)
	switch {
	case len(l.agents) > 0 && len(spots) == 0:
		l.say(r, LintUnreachable, nil, "it is about no agent and tool that there are")
	case len(spots) > 0 && !l.shadow(r, spots):
		l.wide(r)
	}
}

// never reports whether a condition is false as it stands.
func never(r *rule) bool {
	return slices.ContainsFunc(r.ast.Conditions, func(c ast.ConditionType) bool {
		v, ok := c.Body.(ast.NodeValue)
		return ok && v.Value == types.Boolean(c.Condition != ast.ConditionWhen)
	})
}

// shadow looks for rules that leave r without effect. It reports whether there are.
func (l *linter) shadow(r *rule, spots []spot) bool {
	var forbids, same []string
	for _, q := range l.e.rules {
		if q == r || q.expired(l.now) || q.unfit != nil || len(q.apart) > 0 || !l.covers(q, spots) {
			continue
		}
		switch {
		case q.forbid && q.hold == nil && q.unconditional() && (!r.forbid || r.hold != nil):
			forbids = append(forbids, q.named())
		case q.forbid == r.forbid && (q.hold == nil) == (r.hold == nil) && l.saysAsMuch(q, r, spots):
			same = append(same, q.named())
		}
	}
	switch {
	case len(forbids) > 0:
		l.say(r, LintUnreachable, forbids, "%s always forbids what it is about", join(forbids))
	case len(same) > 0:
		l.say(r, LintShadowed, same, "%s says all that it says, so it changes nothing", join(same))
	}
	return len(forbids)+len(same) > 0
}

func (l *linter) covers(q *rule, spots []spot) bool {
	for _, s := range spots {
		if !s.w.matches(q, s.t) {
			return false
		}
	}
	return true
}

// saysAsMuch reports whether q, which covers r, has its effect whenever r has,
// and for as long. Of two that say the same the later one is shadowed.
func (l *linter) saysAsMuch(q, r *rule, spots []spot) bool {
	if !q.expires.IsZero() && (r.expires.IsZero() || r.expires.After(q.expires)) {
		return false
	}
	if r.hold != nil && !sameHold(*q.hold, *r.hold) {
		return false // other people, or more of them
	}
	if !q.unconditional() && conditions(q) != conditions(r) {
		return false
	}
	mutual := (r.unconditional() || conditions(q) == conditions(r)) && len(l.spots(q)) == len(spots) && q.expires.Equal(r.expires)
	return !mutual || numberOf(q.key) < numberOf(r.key)
}

func sameHold(a, b Needed) bool {
	a.Policy, b.Policy, a.Advice, b.Advice = "", "", "", ""
	return fmt.Sprint(a) == fmt.Sprint(b)
}

// conditions are a rule's, as Cedar writes them.
func conditions(r *rule) string {
	text := string(r.policy.MarshalCedar())
	if i := strings.Index(text, "\n)"); i >= 0 {
		return text[i:]
	}
	return text
}

// wide looks for what gives more than anybody can mean.
func (l *linter) wide(r *rule) {
	if r.forbid || !r.unconditional() {
		return
	}
	worst := ""
	for _, t := range newChecker(l.e.ts, nil).inScope(r) {
		if slices.Index(effects, t.effect) > slices.Index(effects, worst) {
			worst = t.effect
		}
	}
	_, one := r.ast.Principal.(ast.ScopeTypeEq)
	_, any := r.ast.Principal.(ast.ScopeTypeAll)
	group, all := r.ast.Action.(ast.ScopeTypeIn)
	_, every := r.actions()
	switch {
	case r.grant != "" && all && group.Entity == action(connectionOf(r)):
		l.say(r, LintWide, nil, "it gives every tool of %s, those that come later too; name the tools", connectionOf(r))
	case every && !one:
		l.say(r, LintWide, nil, "it allows every tool, without a condition, to more than one agent; name the tools or the agent")
	case any && worst != "read":
		l.say(r, LintWide, nil, "it allows every agent, those that come later too, something with the effect %s, without a condition; name the agents, or say when", worst)
	case r.grant != "" && worst == "irreversible" && r.expires.IsZero() && !slices.Contains(l.meant, r.grant):
		l.say(r, LintWide, nil, "it gives something that cannot be undone, without a condition and for ever; give it an end (--expires) or a condition (--when)")
	}
}

// connectionOf returns the connection of a grant.
func connectionOf(r *rule) string {
	c, _ := scopeConnection(r)
	return string(c.ID)
}

// unmatched finds rules that determined no call since a time, if that is known.
func (s *Service) unmatched(ctx context.Context, l *linter, since time.Time) error {
	if s.o.Matched == nil || since.IsZero() {
		return nil
	}
	m, err := s.o.Matched(ctx, since)
	if err != nil || m.Known.IsZero() || m.Known.After(since) {
		return err
	}
	files, err := s.Files(ctx)
	if err != nil {
		return err
	}
	grants, err := s.Grants(ctx, "")
	if err != nil {
		return err
	}
	old := map[string]bool{}
	for _, f := range files {
		old[f.Name] = !f.Saved.After(since)
	}
	for _, g := range grants {
		old[g.file()] = !g.Created.After(since)
	}
	for _, r := range l.e.rules {
		if old[r.file] && !m.Rules[r.id] && len(r.apart) == 0 && !r.expired(l.now) {
			l.say(r, LintUnmatched, nil, "it determined no call since %s", since.UTC().Format(time.DateOnly))
		}
	}
	return nil
}
