package policy

import (
	"fmt"
	"slices"
	"strings"
)

// Apart is two things that one agent may do and that must be apart.
type Apart struct {
	Policy string   `json:"policy" doc:"that says so"`
	Agent  string   `json:"agent"`
	One    string   `json:"one" doc:"connection/tool that the policy is about"`
	Other  string   `json:"other" doc:"connection/tool that @apart names"`
	By     []string `json:"by" doc:"the grants and policies that allow both"`
}

// String says it in a sentence.
func (a Apart) String() string {
	return fmt.Sprintf("%s may do both %s and %s (%s), which policy %s wants apart", a.Agent, a.One, a.Other, strings.Join(a.By, ", "), a.Policy)
}

// Conflicts returns who may do two things that @apart says must be apart, under
// some arguments and circumstances: conditions are not evaluated.
func (s *Service) Conflicts() []Apart {
	e := s.engine.Load()
	if e == nil || s.o.All == nil {
		return nil
	}
	l := &linter{e: e, agents: s.o.All(), now: s.o.Now()}
	return l.apart()
}

// Parts reports whether any policy wants duties apart.
func (s *Service) Parts() bool {
	e := s.engine.Load()
	return e != nil && slices.ContainsFunc(e.rules, func(r *rule) bool { return len(r.apart) > 0 })
}

func (l *linter) apart() []Apart {
	var out []Apart
	for _, r := range l.e.rules {
		if len(r.apart) == 0 {
			continue
		}
		tools := newChecker(l.e.ts, nil).inScope(r)
		for i := range l.agents {
			a, w := &l.agents[i], l.e.worldOf(&l.agents[i])
			ones := slices.DeleteFunc(slices.Clone(tools), func(t *tool) bool { return !w.matches(r, t) })
			if x, ok := l.both(r, a, ones); ok {
				out = append(out, x)
			}
		}
	}
	return out
}

// both looks for a tool of ones and one of those that r wants apart from them
// that a may call.
func (l *linter) both(r *rule, a *Agent, ones []*tool) (Apart, bool) {
	for _, t := range ones {
		one := l.e.reach(a, Action{Connection: t.connection, Tool: t.tool}, l.now)
		if !one.Possible {
			continue
		}
		for _, name := range r.apart {
			for _, u := range l.e.ts.groups[action(name)] {
				other := l.e.reach(a, Action{Connection: u.connection, Tool: u.tool}, l.now)
				if u != t && other.Possible {
					by := slices.Concat(one.By, other.By)
					slices.Sort(by)
					return Apart{r.id, a.Name, t.String(), u.String(), slices.Compact(by)}, true
				}
			}
		}
	}
	return Apart{}, false
}

func (l *linter) conflicts() {
	for _, x := range l.apart() {
		for _, r := range l.e.rules {
			if r.id == x.Policy {
				l.say(r, LintConflict, x.By, "%s", x.String())
				break
			}
		}
	}
}

// annotateApart reads @apart: the actions that whoever may do what the policy
// is about must not be able to do too.
func (r *rule) annotateApart(value string, bad func(key, format string, args ...any)) {
	for name := range strings.SplitSeq(value, ",") {
		name = strings.TrimSpace(name)
		if name == "" || hasControl(name) || slices.Contains(r.apart, name) {
			bad("apart", "must name one or more different tools (connection/tool), connections or groups (effect:irreversible), separated by commas")
			return
		}
		r.apart = append(r.apart, name)
	}
}

// unknownApart finds actions of @apart that do not exist.
func (c *checker) unknownApart(r *rule) []Problem {
	var problems []Problem
	for _, name := range r.apart {
		if len(c.ts.groups[action(name)]) == 0 {
			problems = append(problems, r.problem(r.find("@apart"), "@apart: there is no tool or group %q%s", name, didYouMean(name, c.actionNames())))
		}
	}
	return problems
}
