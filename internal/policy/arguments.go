package policy

import (
	"cmp"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// Argument is an argument of a tool that a rule asks for.
type Argument struct {
	Path string `json:"path" doc:"names from the outside in, joined by dots"`
	Kind string `json:"kind" enum:"long,decimal,string,bool,strings" doc:"as policy sees it; strings is a set of them"`
}

// The kinds of arguments whose values can be told apart.
const (
	KindLong    = "long"
	KindDecimal = "decimal"
	KindString  = "string"
	KindBool    = "bool"
	KindStrings = "strings"
)

// maxArguments bounds how many arguments of one tool are named.
const maxArguments = 32

// Arguments returns which arguments of a tool the policies and grants near an
// agent ask for, whether or not their conditions hold. An argument is left out
// if its values are records, or if one of its names has a dot.
func (s *Service) Arguments(a Agent, act Action) []Argument {
	e := s.engine.Load()
	if e == nil {
		return nil
	}
	t := e.ts.tools[toolKey{act.Connection, act.Tool}]
	if t == nil {
		return nil
	}
	var out []Argument
	var room [32]*rule
	w := e.worldOf(&a)
	for _, index := range []*index{e.forbids, e.permits} {
		for _, r := range index.candidates(room[:0], t, w.keys) {
			if r.needs&needArgs == 0 || !w.matches(r, t) {
				continue
			}
			for _, path := range argumentPaths(r) {
				if kind := kindAt(t.args, path); kind != "" {
					out = append(out, Argument{strings.Join(path, "."), kind})
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b Argument) int { return cmp.Compare(a.Path, b.Path) })
	out = slices.Compact(out)
	return out[:min(len(out), maxArguments)]
}

// argumentPaths returns the paths beneath context.args that a rule names.
func argumentPaths(r *rule) [][]string {
	var out [][]string
	add := func(n ast.IsNode, last string) {
		root, path, ok := pathOf(n)
		if ok && root == "context" && len(path) > 0 && path[0] == "args" {
			out = append(out, append(slices.Clone(path[1:]), last))
		}
	}
	inspect(r, func(n ast.IsNode) {
		switch v := n.(type) {
		case ast.NodeTypeAccess:
			add(v.Arg, string(v.Value))
		case ast.NodeTypeHas:
			add(v.Arg, string(v.Value))
		}
	})
	return out
}

// kindAt returns the kind of the argument at path, "" if its values cannot be
// told apart.
func kindAt(t *argType, path []string) string {
	for _, name := range path {
		f := t.fields[name]
		if t.kind != recordArg || f == nil || strings.Contains(name, ".") {
			return ""
		}
		t = f.typ
	}
	switch {
	case t.kind == longArg:
		return KindLong
	case t.kind == decimalArg:
		return KindDecimal
	case t.kind == stringArg:
		return KindString
	case t.kind == boolArg:
		return KindBool
	case t.kind == setArg && t.elem.kind == stringArg:
		return KindStrings
	}
	return ""
}

// Number returns a JSON number of an argument as policy counts it: a long as it
// is, a decimal in ten-thousandths. It never rounds: what does not fit is none.
func Number(kind, text string) (int64, bool) {
	if kind == KindDecimal {
		return exact(text, 4)
	}
	return exact(text, 0)
}
