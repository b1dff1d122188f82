package detection

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/conf"
	"github.com/expr-lang/expr/parser"
)

// Bounds of one expression.
const (
	maxNodes = 200
	maxText  = 2000
)

// sort is the type of an expression.
type sort int

const (
	number sort = iota
	text
	truth
)

func (s sort) String() string { return [...]string{"a number", "a text", "true or false"}[s] }

// compiled is an expression as functions: expr-lang reads it, and what it may say
// is so little (no loops, no lists but literal ones, no calls but ours) that it is
// run without an interpreter and without allocating.
type compiled struct {
	sort sort
	num  func(*moment) float64
	str  func(*moment) string
	yes  func(*moment) bool
	lit  ast.Node // the literal it is, or nil
}

// moment is what an expression is about: one event, under one rule.
type moment struct {
	engine *Engine
	fact   *Fact
	at     int64 // microseconds; what the event's time counts as
	own    *ruleState
	base   *ruleState // of the agent: what is normal
	values [maxMeasures]float64
}

// scope is what names mean where an expression stands.
type scope struct {
	rule     *rule
	measures []string // that have values
}

// parse reads an expression with the standard functions of the language switched
// off.
func parse(source string) (ast.Node, error) {
	if len(source) > maxText {
		return nil, fmt.Errorf("is longer than %d bytes", maxText)
	}
	c := conf.CreateNew()
	c.MaxNodes = maxNodes
	for name := range c.Builtins {
		c.Disabled[name] = true
	}
	for _, name := range []string{"count", "sum"} { // predicates of the language, words of ours
		c.Functions[name] = c.Builtins["len"]
	}
	tree, err := parser.ParseWithConfig(source, c)
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %s", strings.ReplaceAll(err.Error(), "\n", " "))
	}
	return tree.Node, nil
}

// compile turns source into functions, of the sort wanted.
func (s scope) compile(source string, want sort) (compiled, error) {
	n, err := parse(source)
	if err != nil {
		return compiled{}, err
	}
	c, err := s.node(n)
	if err == nil && c.sort != want {
		err = fmt.Errorf("is %s where it must be %s", c.sort, want)
	}
	return c, err
}

func (s scope) node(n ast.Node) (compiled, error) {
	switch n := n.(type) {
	case *ast.IntegerNode:
		v := float64(n.Value)
		return compiled{sort: number, num: func(*moment) float64 { return v }, lit: n}, nil
	case *ast.FloatNode:
		v := n.Value
		return compiled{sort: number, num: func(*moment) float64 { return v }, lit: n}, nil
	case *ast.StringNode:
		v := n.Value
		return compiled{sort: text, str: func(*moment) string { return v }, lit: n}, nil
	case *ast.BoolNode:
		v := n.Value
		return compiled{sort: truth, yes: func(*moment) bool { return v }, lit: n}, nil
	case *ast.IdentifierNode:
		return s.name(n.Value)
	case *ast.UnaryNode:
		return s.unary(n)
	case *ast.BinaryNode:
		return s.binary(n)
	case *ast.CallNode:
		return s.call(n)
	}
	return compiled{}, fmt.Errorf("uses %T, which rules do not have", n)
}

// name is a fact of the event, or a measure of the rule.
func (s scope) name(name string) (compiled, error) {
	if i := slices.Index(s.measures, name); i >= 0 {
		return compiled{sort: number, num: func(m *moment) float64 { return m.values[i] }}, nil
	}
	if f, ok := textFacts[name]; ok {
		return compiled{sort: text, str: func(m *moment) string { return *f(m.fact) }}, nil
	}
	if f, ok := numberFacts[name]; ok {
		return compiled{sort: number, num: func(m *moment) float64 { return f(m.fact) }}, nil
	}
	if name == "learning" {
		return compiled{sort: truth, yes: func(m *moment) bool { return m.learning(s.rule) }}, nil
	}
	return compiled{}, fmt.Errorf("%q is no fact of events and no measure of the rule", name)
}

func (s scope) unary(n *ast.UnaryNode) (compiled, error) {
	c, err := s.node(n.Node)
	switch {
	case err != nil:
		return c, err
	case (n.Operator == "!" || n.Operator == "not") && c.sort == truth:
		yes := c.yes
		return compiled{sort: truth, yes: func(m *moment) bool { return !yes(m) }}, nil
	case n.Operator == "-" && c.sort == number:
		num := c.num
		return compiled{sort: number, num: func(m *moment) float64 { return -num(m) }}, nil
	}
	return c, fmt.Errorf("%q cannot stand before %s", n.Operator, c.sort)
}

func (s scope) binary(n *ast.BinaryNode) (compiled, error) {
	l, err := s.node(n.Left)
	if err != nil {
		return l, err
	}
	if n.Operator == "in" {
		return s.in(l, n.Right)
	}
	r, err := s.node(n.Right)
	switch {
	case err != nil:
		return r, err
	case l.sort != r.sort:
		return l, fmt.Errorf("%q is between %s and %s", n.Operator, l.sort, r.sort)
	case l.sort == truth:
		return logic(n.Operator, l.yes, r.yes)
	case l.sort == text:
		return texts(n.Operator, l.str, r.str)
	}
	return numbers(n.Operator, l.num, r.num)
}

func (s scope) in(l compiled, list ast.Node) (compiled, error) {
	a, ok := list.(*ast.ArrayNode)
	if !ok || l.sort != text {
		return l, fmt.Errorf(`"in" is for a text and a list of texts`)
	}
	var words []string
	for _, n := range a.Nodes {
		w, ok := n.(*ast.StringNode)
		if !ok {
			return l, fmt.Errorf(`a list after "in" has texts only`)
		}
		words = append(words, w.Value)
	}
	str := l.str
	return compiled{sort: truth, yes: func(m *moment) bool { return slices.Contains(words, str(m)) }}, nil
}

func logic(op string, l, r func(*moment) bool) (compiled, error) {
	out := compiled{sort: truth}
	switch op {
	case "&&", "and":
		out.yes = func(m *moment) bool { return l(m) && r(m) }
	case "||", "or":
		out.yes = func(m *moment) bool { return l(m) || r(m) }
	case "==":
		out.yes = func(m *moment) bool { return l(m) == r(m) }
	case "!=":
		out.yes = func(m *moment) bool { return l(m) != r(m) }
	default:
		return out, fmt.Errorf("%q is not for true and false", op)
	}
	return out, nil
}

func texts(op string, l, r func(*moment) string) (compiled, error) {
	out := compiled{sort: truth}
	switch op {
	case "==":
		out.yes = func(m *moment) bool { return l(m) == r(m) }
	case "!=":
		out.yes = func(m *moment) bool { return l(m) != r(m) }
	case "startsWith":
		out.yes = func(m *moment) bool { return strings.HasPrefix(l(m), r(m)) }
	case "endsWith":
		out.yes = func(m *moment) bool { return strings.HasSuffix(l(m), r(m)) }
	case "contains":
		out.yes = func(m *moment) bool { return strings.Contains(l(m), r(m)) }
	default:
		return out, fmt.Errorf("%q is not for texts", op)
	}
	return out, nil
}

func numbers(op string, l, r func(*moment) float64) (compiled, error) {
	c := func(f func(*moment) bool) (compiled, error) { return compiled{sort: truth, yes: f}, nil }
	v := func(f func(*moment) float64) (compiled, error) { return compiled{sort: number, num: f}, nil }
	switch op {
	case "==":
		return c(func(m *moment) bool { return l(m) == r(m) })
	case "!=":
		return c(func(m *moment) bool { return l(m) != r(m) })
	case "<":
		return c(func(m *moment) bool { return l(m) < r(m) })
	case "<=":
		return c(func(m *moment) bool { return l(m) <= r(m) })
	case ">":
		return c(func(m *moment) bool { return l(m) > r(m) })
	case ">=":
		return c(func(m *moment) bool { return l(m) >= r(m) })
	case "+":
		return v(func(m *moment) float64 { return l(m) + r(m) })
	case "-":
		return v(func(m *moment) float64 { return l(m) - r(m) })
	case "*":
		return v(func(m *moment) float64 { return l(m) * r(m) })
	case "/":
		return v(func(m *moment) float64 { return ratio(l(m), r(m)) })
	}
	return compiled{}, fmt.Errorf("%q is not for numbers", op)
}

// ratio is 0 where there is nothing to divide by: a comparison with it is false
// rather than true by accident.
func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// call is limit("x"), normal("x") or has("label").
func (s scope) call(n *ast.CallNode) (compiled, error) {
	callee, ok := n.Callee.(*ast.IdentifierNode)
	if !ok || len(n.Arguments) != 1 {
		return compiled{}, fmt.Errorf(`the functions are limit("name"), normal("measure") and has("label")`)
	}
	arg, ok := n.Arguments[0].(*ast.StringNode)
	if !ok {
		return compiled{}, fmt.Errorf("%s takes a name in quotes", callee.Value)
	}
	switch callee.Value {
	case "limit":
		return s.limit(arg.Value)
	case "normal":
		return s.normal(arg.Value)
	case "has":
		label := arg.Value
		return compiled{sort: truth, yes: func(m *moment) bool { return slices.Contains(m.fact.Labels, label) }}, nil
	}
	return compiled{}, fmt.Errorf("there is no function %q here", callee.Value)
}

func (s scope) limit(name string) (compiled, error) {
	l := s.rule.limit(name)
	if l == nil {
		return compiled{}, fmt.Errorf("the rule has no limit %q", name)
	}
	return compiled{sort: number, num: func(m *moment) float64 { return l.of(m) }}, nil
}

func (s scope) normal(name string) (compiled, error) {
	i := slices.Index(s.measures, name)
	if i < 0 || !s.rule.measures[i].windowed() {
		return compiled{}, fmt.Errorf("%q is no measure over a time, so nothing of it is normal", name)
	}
	s.rule.measures[i].learned = true
	l := s.rule.limit(name)
	return compiled{sort: number, num: func(m *moment) float64 { return m.normal(s.rule, i, l) }}, nil
}

// duration reads "90s", "10m", "12h" or "30d".
func duration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if d, err = time.ParseDuration(days + "h"); err == nil {
			d *= 24
		}
	}
	if err != nil || d <= 0 || d > 400*24*time.Hour {
		return 0, fmt.Errorf("%.20q is not a duration such as 90s, 10m, 12h or 30d", s)
	}
	return d, nil
}
