package policy

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// engine is a compiled set of policies and grants over a toolset. It does not
// change; a new one replaces it.
type engine struct {
	ts         *toolset
	rules      []*rule
	forbids    *index
	permits    *index
	version    string
	digests    map[string]string // of rules, by their names
	provenance bool              // a rule asks where values come from, or what the run has read
	budget     bool              // a rule asks what is left of budgets
	problems   []Problem
	broken     string // a file that does not parse: everything is denied

	shadow *engine  // with what is tried in place of some grants; nil: nothing is
	tried  []string // the names of these

	worlds     sync.Map // *world by the agent's name
	remembered atomic.Int64
}

// newEngine numbers and indexes rules, which must not be in another engine.
func newEngine(ts *toolset, rules []*rule, version string) *engine {
	e := &engine{ts: ts, rules: rules, version: version, digests: make(map[string]string, len(rules)), provenance: needsOfAll(rules)&(needProvenance|needRun) != 0, budget: needsOfAll(rules)&needBudget != 0}
	var forbids, permits []*rule
	for i, r := range rules {
		r.number(i)
		r.digest = digest(e.digests[r.id] + r.says()) // of all that bear the name, should several
		e.digests[r.id] = r.digest
		if r.forbid {
			forbids = append(forbids, r)
		} else {
			permits = append(permits, r)
		}
		if r.unfit != nil {
			e.problems = append(e.problems, r.unfit.problems...)
		}
	}
	e.forbids, e.permits = newIndex(forbids), newIndex(permits)
	return e
}

// matches reports whether r's scope matches, as Cedar would.
func (w *world) matches(r *rule, t *tool) bool {
	switch s := r.ast.Principal.(type) {
	case ast.ScopeTypeEq:
		if s.Entity != w.uid {
			return false
		}
	case ast.ScopeTypeIn:
		if !slices.Contains(w.keys, s.Entity) {
			return false
		}
	case ast.ScopeTypeIs:
		if s.Type != typeAgent {
			return false
		}
	case ast.ScopeTypeIsIn:
		if s.Type != typeAgent || !slices.Contains(w.keys, s.Entity) {
			return false
		}
	}
	return actionMatches(r, t) && resourceMatches(r, t)
}

func actionMatches(r *rule, t *tool) bool {
	switch s := r.ast.Action.(type) {
	case ast.ScopeTypeEq:
		return s.Entity == t.uid
	case ast.ScopeTypeIn:
		return slices.Contains(t.keys, s.Entity)
	case ast.ScopeTypeInSet:
		return slices.ContainsFunc(s.Entities, func(u types.EntityUID) bool { return slices.Contains(t.keys, u) })
	}
	return true
}

func resourceMatches(r *rule, t *tool) bool {
	switch s := r.ast.Resource.(type) {
	case ast.ScopeTypeEq:
		return s.Entity == t.resource
	case ast.ScopeTypeIn:
		return s.Entity == t.resource
	case ast.ScopeTypeIs:
		return s.Type == typeConnection
	case ast.ScopeTypeIsIn:
		return s.Type == typeConnection && s.Entity == t.resource
	}
	return true
}

// question is a request made ready for Cedar.
type question struct {
	tool  *tool
	world *world
	args  types.Record
	cedar cedar.Request // its context is still empty, see ask
}

// ask fills in the parts of the context that are needed.
func (q *question) ask(req *Request, need parts) { q.cedar.Context = contextOf(req, q.args, need) }

// prepare returns why the request cannot be decided, or "".
func (e *engine) prepare(req *Request) (question, string) {
	if e.broken != "" {
		return question{}, fmt.Sprintf("the policy file %s cannot be read, so everything is denied until it is mended", e.broken)
	}
	t := e.ts.tools[toolKey{req.Action.Connection, req.Action.Tool}]
	if t == nil {
		return question{}, fmt.Sprintf("the tool %s is not registered, or its definition cannot be read", quote(req.Action.Connection+"/"+req.Action.Tool))
	}
	if req.Action.Effect != "" && req.Action.Effect != t.effect || req.Action.Kind != "" && req.Action.Kind != t.kind {
		return question{}, fmt.Sprintf("the tool %s has just changed; try again", t)
	}
	if req.Agent.Name == "" {
		return question{}, "nobody is named as the caller"
	}
	args := emptyRecord
	if !req.unread {
		read, err := readArgs(t.args, req.Args)
		if err != nil {
			return question{}, err.Error()
		}
		args = read
	}
	w := e.worldOf(&req.Agent)
	return question{tool: t, world: w, args: args, cedar: cedar.Request{Principal: w.uid, Action: t.uid, Resource: t.resource}}, ""
}

// decide answers. req.Now must be set.
func (e *engine) decide(req *Request) (d Decision) {
	d.Version = e.version
	defer func() {
		if p := recover(); p != nil { // the evaluator is not ours; a defect in it must not open anything
			d = Decision{Version: e.version, Reason: "the policies could not be evaluated", Errors: []string{fmt.Sprint("panic: ", p)}}
		}
	}()
	q, why := e.prepare(req)
	if why != "" {
		d.Reason = why
		return d
	}
	var room, more [32]*rule
	forbids := e.forbids.candidates(room[:0], q.tool, q.world.keys)
	candidates := e.permits.candidates(more[:0], q.tool, q.world.keys)
	q.ask(req, needsOfAll(forbids)|needsOfAll(candidates))
	if e.forbidden(&d, q, forbids) {
		return d
	}
	candidates = slices.DeleteFunc(candidates, func(r *rule) bool {
		if r.unfitFor(q.tool) && !r.expired(req.Now) && q.world.matches(r, q.tool) {
			d.Errors = append(d.Errors, r.id+misfit+q.tool.String())
		}
		return r.expired(req.Now) || r.unfitFor(q.tool)
	})
	_, diag := cedar.Authorize(set(candidates), q.world, q.cedar)
	for _, x := range diag.Errors {
		d.Errors = append(d.Errors, e.rule(x.PolicyID).id+": "+x.Message)
	}
	if len(diag.Reasons) == 0 {
		d.Unmatched = len(d.Holds) == 0
		d.Holds, d.Policies, d.Advice, d.Rules = nil, nil, nil, nil
		d.sort()
		d.Reason = e.nothing(q, candidates)
		return d
	}
	for _, x := range diag.Reasons {
		d.determinedBy(e.rule(x.PolicyID))
	}
	d.Effect = Allow
	if len(d.Holds) > 0 {
		d.Effect = Hold
	}
	d.finish()
	return d
}

const misfit = ": no longer fits the schema of "

// forbidden evaluates the forbids among which all that match are. It returns true if the call is denied, and
// fills in the holds if it is to be held.
func (e *engine) forbidden(d *Decision, q question, candidates []*rule) bool {
	var unfit, failed, plain, holds []*rule
	candidates = slices.DeleteFunc(candidates, func(r *rule) bool {
		if !r.unfitFor(q.tool) {
			return false
		}
		if q.world.matches(r, q.tool) {
			unfit = append(unfit, r)
		}
		return true
	})
	_, diag := cedar.Authorize(set(candidates), q.world, q.cedar)
	for _, x := range diag.Errors {
		r := e.rule(x.PolicyID)
		failed = append(failed, r)
		d.Errors = append(d.Errors, r.id+": "+x.Message)
	}
	for _, x := range diag.Reasons {
		if r := e.rule(x.PolicyID); r.hold != nil {
			holds = append(holds, r)
		} else {
			plain = append(plain, r)
		}
	}
	switch {
	case len(plain) > 0:
		d.deniedBy(plain, "denied by ")
	case len(failed) > 0:
		d.deniedBy(failed, "could not be evaluated, so the call is denied: ")
	case len(unfit) > 0:
		for _, r := range unfit {
			d.Errors = append(d.Errors, r.id+misfit+q.tool.String())
		}
		d.deniedBy(unfit, "no longer fits the tool's schema and must be revised, so the call is denied: ")
	default:
		for _, r := range holds {
			d.Holds = append(d.Holds, *r.hold)
			d.determinedBy(r)
		}
		return false
	}
	return true
}

func (e *engine) rule(k cedar.PolicyID) *rule { return e.rules[numberOf(k)] }

func (d *Decision) determinedBy(r *rule) {
	d.Rules = append(d.Rules, Rule{r.id, r.digest})
	if r.grant != "" {
		d.Grants = append(d.Grants, r.grant)
	} else {
		d.Policies = append(d.Policies, r.id)
	}
	if r.forbid && r.advice != "" {
		d.Advice = append(d.Advice, r.advice)
	}
}

func (d *Decision) deniedBy(rules []*rule, reason string) {
	for _, r := range rules {
		d.determinedBy(r)
	}
	d.sort()
	d.Reason = reason + "policy " + join(d.Policies) + withAdvice(d.Advice)
}

func (d *Decision) sort() {
	slices.Sort(d.Policies)
	slices.Sort(d.Grants)
	slices.Sort(d.Errors)
	slices.Sort(d.Advice)
	d.Advice = slices.Compact(d.Advice)
	slices.SortFunc(d.Rules, func(a, b Rule) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(d.Holds, func(a, b Needed) int { return strings.Compare(a.Policy, b.Policy) })
}

// finish says why a call is allowed or held.
func (d *Decision) finish() {
	d.sort()
	if d.Effect == Allow {
		d.Reason = "allowed by " + both(d.Policies, d.Grants)
		return
	}
	var needs []string
	for _, h := range d.Holds {
		who := "approval by " + join(h.Groups)
		if h.Quorum > 1 {
			who = fmt.Sprintf("approval by %d people of %s", h.Quorum, join(h.Groups))
		}
		needs = append(needs, who+" (policy "+h.Policy+")")
	}
	d.Reason = "needs " + strings.Join(needs, " and ") + withAdvice(d.Advice)
}

// nothing says that nothing allows the call, and what nearly did.
func (e *engine) nothing(q question, candidates []*rule) string {
	var policies, grants []string
	for _, r := range candidates {
		if !q.world.matches(r, q.tool) {
			continue
		}
		if r.grant != "" {
			grants = append(grants, r.grant)
		} else {
			policies = append(policies, r.id)
		}
	}
	slices.Sort(policies)
	slices.Sort(grants)
	reason := fmt.Sprintf("no grant or policy allows %s to call %s (%s)", quote(q.world.agent.Name), quote(q.tool.String()), q.tool.effect)
	if len(policies)+len(grants) > 0 {
		return reason + " like this: " + both(policies, grants) + " would, but the conditions do not hold for these arguments and circumstances"
	}
	return reason + "; a grant of this tool to the agent would"
}

func (e *engine) visible(a *Agent, act Action, now time.Time) bool {
	t := e.ts.tools[toolKey{act.Connection, act.Tool}]
	return t != nil && e.shown(e.worldOf(a), t, now)
}

func (e *engine) mayHold(a *Agent, act Action) bool {
	t := e.ts.tools[toolKey{act.Connection, act.Tool}]
	if t == nil {
		return false
	}
	var room [32]*rule
	w := e.worldOf(a)
	return slices.ContainsFunc(e.forbids.candidates(room[:0], t, w.keys), func(r *rule) bool { return r.hold != nil && w.matches(r, t) })
}

func (e *engine) sees(a *Agent, conn string, now time.Time) bool {
	w := e.worldOf(a)
	return slices.ContainsFunc(e.ts.groups[action(conn)], func(t *tool) bool { return e.shown(w, t, now) })
}

func (e *engine) shown(w *world, t *tool, now time.Time) bool {
	if e.broken != "" || w.agent.Name == "" {
		return false
	}
	var room [32]*rule
	for _, r := range e.forbids.candidates(room[:0], t, w.keys) {
		if r.hold == nil && (r.unconditional() || r.unfitFor(t)) && w.matches(r, t) {
			return false
		}
	}
	for _, r := range e.permits.candidates(room[:0], t, w.keys) {
		if !r.expired(now) && !r.unfitFor(t) && w.matches(r, t) {
			return true
		}
	}
	return false
}

func both(policies, grants []string) string {
	var parts []string
	if len(policies) > 0 {
		parts = append(parts, "policy "+join(policies))
	}
	if len(grants) > 0 {
		parts = append(parts, "grant "+join(grants))
	}
	return strings.Join(parts, " and ")
}

// join lists names, not too many.
func join(names []string) string {
	const most = 8
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}

func withAdvice(advice []string) string {
	if len(advice) == 0 {
		return ""
	}
	return ": " + strings.Join(advice, "; ")
}

// quote shows a name from outside, shortened.
func quote(s string) string {
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "…"
	}
	return fmt.Sprintf("%q", s)
}
