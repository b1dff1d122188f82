package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema/resolved"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"
)

// verdict says whether a rule fits the tools' schemas.
type verdict struct {
	problems []Problem
	all      bool             // it fits no tool in its scope
	tools    map[toolKey]bool // it does not fit these
}

// unfitFor reports whether r cannot be trusted to be evaluated for t.
func (r *rule) unfitFor(t *tool) bool {
	return r.unfit != nil && (r.unfit.all || r.unfit.tools[t.toolKey])
}

// verdicts remembers what was found, so that a change re-examines only what it
// concerns.
type verdicts map[string]*verdict

// checker validates rules against one toolset.
type checker struct {
	ts         *toolset
	old, used  verdicts
	validators map[string]*validate.Validator // by scope
	full       *validate.Validator
}

func newChecker(ts *toolset, old verdicts) *checker {
	return &checker{ts: ts, old: old, used: verdicts{}, validators: map[string]*validate.Validator{}, full: validate.New(ts.resolved)}
}

// check returns nil if r fits every tool in its scope.
func (c *checker) check(r *rule) *verdict {
	tools := c.inScope(r)
	scope := c.scopeKey(r, tools)
	// What a rule says about things outside its scope depends on everything.
	key := r.file + "\x00" + r.id + "\x00" + r.text + "\x00" + scope
	if len(mentioned(r)) > 0 || len(r.apart) > 0 || len(tools) == 0 {
		key += c.ts.digest
	}
	v, ok := c.old[key]
	if !ok {
		v = c.examine(r, tools, scope)
	}
	c.used[key] = v
	return v
}

// inScope returns the tools whose calls r's action and resource scope match.
func (c *checker) inScope(r *rule) []*tool {
	uids, all := r.actions()
	if all {
		uids = []types.EntityUID{{}}
		if conn, ok := scopeConnection(r); ok {
			return slices.DeleteFunc(slices.Clone(c.ts.groups[uids[0]]), func(t *tool) bool { return t.resource != conn })
		}
	}
	if len(uids) == 1 {
		return c.ts.groups[uids[0]]
	}
	seen := map[*tool]bool{}
	var tools []*tool
	for _, uid := range uids {
		for _, t := range c.ts.groups[uid] {
			if !seen[t] {
				seen[t] = true
				tools = append(tools, t)
			}
		}
	}
	return tools
}

// scopeConnection returns the one connection that the resource scope names.
func scopeConnection(r *rule) (types.EntityUID, bool) {
	switch s := r.ast.Resource.(type) {
	case ast.ScopeTypeEq:
		return s.Entity, s.Entity.Type == typeConnection
	case ast.ScopeTypeIn:
		return s.Entity, s.Entity.Type == typeConnection
	case ast.ScopeTypeIsIn:
		return s.Entity, s.Entity.Type == typeConnection
	}
	return types.EntityUID{}, false
}

func (c *checker) scopeKey(r *rule, tools []*tool) string {
	if len(tools) == len(c.ts.sorted) {
		return c.ts.digest
	}
	h := sha256.New()
	for _, t := range tools {
		h.Write([]byte(t.digest))
	}
	return hex.EncodeToString(h.Sum(nil))
}

func (c *checker) examine(r *rule, tools []*tool, scope string) *verdict {
	v := &verdict{}
	missing := c.unseen(r, tools)
	v.problems = append(v.problems, missing...)
	v.all = len(missing) > 0
	v.problems = append(v.problems, c.unknownNames(r)...)
	v.problems = append(v.problems, c.unknownApart(r)...)
	errs := c.typecheck(r, tools, scope)
	for _, e := range errs {
		if p := c.explain(r, tools, e); !slices.ContainsFunc(v.problems, func(q Problem) bool { return q.Line == p.Line && q.Column == p.Column }) {
			v.problems = append(v.problems, p)
		}
	}
	if len(errs) > 0 && !v.all {
		v.tools = c.unfitTools(r, tools)
	}
	if len(v.problems) == 0 {
		return nil
	}
	if r.grant != "" { // places in the generated text mean nothing to a person
		for i := range v.problems {
			v.problems[i].Line, v.problems[i].Column = 0, 0
		}
	}
	return v
}

// typecheck runs Cedar's validator, first against the scope's part of the
// schema, which is enough for nearly every policy and much smaller.
func (c *checker) typecheck(r *rule, tools []*tool, scope string) []string {
	part := c.validators[scope]
	if part == nil {
		part = validate.New(c.ts.part(tools, nil))
		c.validators[scope] = part
	}
	if len(tools) > 0 && validatePolicy(part, r) == nil {
		return nil
	}
	messages := validatePolicy(c.full, r)
	const consequence = "unable to find an applicable action given the policy scope constraints"
	if len(messages) > 1 {
		messages = slices.DeleteFunc(messages, func(m string) bool { return m == consequence })
	}
	return messages
}

// validatePolicy returns the validator's messages. The validator is
// experimental: if it fails itself, the policy does not pass.
func validatePolicy(v *validate.Validator, r *rule) (messages []string) {
	defer func() {
		if p := recover(); p != nil {
			messages = []string{"the validator cannot read this policy; simplify it"}
		}
	}()
	err := v.Policy("", r.ast)
	if err == nil {
		return nil
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if line != "" && !slices.Contains(messages, line) {
			messages = append(messages, line)
		}
	}
	return messages
}

// unfitTools finds which tools in scope the conditions do not fit. Actions that
// the conditions mention are taken as known: one that is gone cannot be called.
func (c *checker) unfitTools(r *rule, tools []*tool) map[toolKey]bool {
	unfit := map[toolKey]bool{}
	names := mentioned(r)
	anyAction := *r.ast
	anyAction.Action = ast.Scope{}.All()
	only := *r
	only.ast = &anyAction
	for _, t := range tools {
		if validatePolicy(validate.New(c.ts.part([]*tool{t}, names)), &only) != nil {
			unfit[t.toolKey] = true
		}
	}
	return unfit
}

// mentioned returns the actions that the conditions name.
func mentioned(r *rule) []types.EntityUID {
	var uids []types.EntityUID
	inspect(r, func(n ast.IsNode) {
		if v, ok := n.(ast.NodeValue); ok {
			if uid, ok := v.Value.(types.EntityUID); ok && uid.Type == typeAction {
				uids = append(uids, uid)
			}
		}
	})
	return uids
}

func inspect(r *rule, fn func(ast.IsNode)) {
	for _, cond := range r.ast.Conditions {
		ast.Inspect(ast.NewNode(cond.Body), func(n ast.IsNode) bool {
			fn(n)
			return true
		})
	}
}

// unseen finds attributes asked for with has that nothing in scope has.
// Cedar's validator takes such a test as simply false, so a typo in it would
// switch the policy off without a word.
func (c *checker) unseen(r *rule, tools []*tool) []Problem {
	var problems []Problem
	inspect(r, func(n ast.IsNode) {
		has, ok := n.(ast.NodeTypeHas)
		if !ok {
			return
		}
		root, path, ok := pathOf(has.Arg)
		if !ok {
			return
		}
		names := map[string]bool{}
		known := false
		for _, shape := range c.shapes(root, tools) {
			if rec, ok := follow(shape, path); ok {
				known = true
				for name := range rec {
					names[string(name)] = true
				}
			}
		}
		if (known || len(tools) > 0) && !names[string(has.Value)] {
			problems = append(problems, r.problem(r.find(string(has.Value)), "nothing in this policy's scope has %s.%s%s",
				strings.Join(append([]string{root}, path...), "."), has.Value, didYouMean(string(has.Value), maps.Keys(names))))
		}
	})
	return problems
}

// pathOf reads n as variable.name.name.
func pathOf(n ast.IsNode) (root string, path []string, ok bool) {
	for {
		switch v := n.(type) {
		case ast.NodeTypeVariable:
			slices.Reverse(path)
			return string(v.Name), path, true
		case ast.NodeTypeAccess:
			path = append(path, string(v.Value))
			n = v.Arg
		default:
			return "", nil, false
		}
	}
}

// Check parses text as the policy file called name and validates it against the
// set's tools. It returns what saving would refuse; nothing means it is good.
func (s *Set) Check(name, text string) []Problem { return s.e.check(name, text) }

// check also looks for ids that other files use.
func (e *engine) check(name, text string) []Problem {
	rules, problems := parseFile(name, text)
	checker := newChecker(e.ts, nil)
	for _, r := range rules {
		if v := checker.check(r); v != nil {
			problems = append(problems, v.problems...)
		}
		for _, other := range e.rules {
			if other.id == r.id && other.file != name {
				problems = append(problems, r.problem(r.offset, "the id %q is also used in %s", r.id, other.file))
				break
			}
		}
	}
	slices.SortStableFunc(problems, func(a, b Problem) int { return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column)) })
	return problems
}

// shapes returns what the variable root can be.
func (c *checker) shapes(root string, tools []*tool) []resolved.RecordType {
	switch root {
	case "principal":
		return []resolved.RecordType{c.ts.resolved.Entities[typeAgent].Shape}
	case "resource":
		return []resolved.RecordType{c.ts.resolved.Entities[typeConnection].Shape}
	case "context":
		var all []resolved.RecordType
		for _, t := range tools {
			all = append(all, c.ts.resolved.Actions[t.uid].AppliesTo.Context)
		}
		return all
	}
	return nil
}

func follow(rec resolved.RecordType, path []string) (resolved.RecordType, bool) {
	for _, name := range path {
		next, ok := rec[types.String(name)].Type.(resolved.RecordType)
		if !ok {
			return nil, false
		}
		rec = next
	}
	return rec, true
}

// unknownNames finds connections and stages that do not exist. Cedar accepts
// any identifier there, and the policy would never match.
func (c *checker) unknownNames(r *rule) []Problem {
	var problems []Problem
	look := func(uid types.EntityUID) {
		var known []string
		var what string
		switch uid.Type {
		case typeConnection:
			what, known = "connection", c.ts.connections()
		case typeStage:
			what, known = "stage", stages
		default:
			return
		}
		if name := string(uid.ID); !slices.Contains(known, name) {
			problems = append(problems, r.problem(r.find(name), "there is no %s %q with tools%s", what, name, didYouMean(name, slices.Values(known))))
		}
	}
	for _, uid := range scopeEntities(r) {
		look(uid)
	}
	inspect(r, func(n ast.IsNode) {
		if v, ok := n.(ast.NodeValue); ok {
			if uid, ok := v.Value.(types.EntityUID); ok {
				look(uid)
			}
		}
	})
	return problems
}

// scopeEntities returns the entities of the principal and resource scope.
func scopeEntities(r *rule) []types.EntityUID {
	var uids []types.EntityUID
	for _, s := range []ast.IsScopeNode{r.ast.Principal, r.ast.Resource} {
		switch s := s.(type) {
		case ast.ScopeTypeEq:
			uids = append(uids, s.Entity)
		case ast.ScopeTypeIn:
			uids = append(uids, s.Entity)
		case ast.ScopeTypeIsIn:
			uids = append(uids, s.Entity)
		}
	}
	return uids
}

var quoted = regexp.MustCompile("`([^`]*)`")

// explain turns a validator's message into a problem with a place and, where
// something near exists, a suggestion.
func (c *checker) explain(r *rule, tools []*tool, message string) Problem {
	m := quoted.FindStringSubmatch(message)
	if m == nil {
		return r.problem(r.offset, "%s", message)
	}
	word := m[1]
	switch {
	case strings.HasPrefix(message, "unrecognized action"):
		name := strings.TrimSuffix(strings.TrimPrefix(word, `Action::"`), `"`)
		return r.problem(r.find(name), "there is no tool or group %q%s", name, didYouMean(name, c.actionNames()))
	case strings.HasPrefix(message, "unrecognized entity type"):
		return r.problem(r.find(word), "there is no entity type %s%s", word, didYouMean(word, c.typeNames()))
	case strings.HasPrefix(message, "attribute") && strings.HasSuffix(message, "not found"):
		last := word[strings.LastIndexByte(word, '.')+1:]
		return r.problem(r.find(last), "%s%s", message, didYouMean(last, c.attributes(tools)))
	case strings.HasPrefix(message, "unable to guarantee safety of access to optional attribute"):
		last := word[strings.LastIndexByte(word, '.')+1:]
		at := r.find(last)
		return r.problem(at, "%s: it may be absent, so test it first: %s", message, guard(word))
	}
	return r.problem(r.find(word), "%s", message)
}

func guard(path string) string {
	i := strings.LastIndexByte(path, '.')
	if i < 0 {
		return fmt.Sprintf("context has %s && …", path)
	}
	return fmt.Sprintf("context.%s has %s && …", path[:i], path[i+1:])
}

func (c *checker) actionNames() iter.Seq[string] {
	return func(yield func(string) bool) {
		for uid := range c.ts.resolved.Actions {
			if !yield(string(uid.ID)) {
				return
			}
		}
	}
}

func (c *checker) typeNames() iter.Seq[string] {
	return func(yield func(string) bool) {
		for t := range c.ts.resolved.Entities {
			if !yield(string(t)) {
				return
			}
		}
	}
}

// attributes returns every attribute's name that the tools in scope know.
func (c *checker) attributes(tools []*tool) iter.Seq[string] {
	names := map[string]bool{}
	var walk func(resolved.RecordType)
	walk = func(rec resolved.RecordType) {
		for name, a := range rec {
			names[string(name)] = true
			if inner, ok := a.Type.(resolved.RecordType); ok {
				walk(inner)
			}
		}
	}
	for _, root := range []string{"context", "principal", "resource"} {
		for _, shape := range c.shapes(root, tools) {
			walk(shape)
		}
	}
	return maps.Keys(names)
}
