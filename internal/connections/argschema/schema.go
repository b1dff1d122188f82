package argschema

import (
	"encoding/json/jsontext"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
)

// Limits of a check.
const (
	maxSteps   = 100_000   // schemas applied to values, and values compared
	maxNested  = 200       // schemas within schemas, references followed
	maxPattern = 1_000     // bytes of a pattern
	maxMatched = 64 << 10  // bytes of a text that a pattern is about
	maxWeight  = 5_000     // instructions of a pattern
	maxText    = 256 << 10 // bytes of a schema
)

// Schema is a tool's schema, ready to check arguments. It is safe for
// concurrent use.
type Schema struct {
	root      *value
	broken    string // why nothing can be checked against it
	patterns  map[string]pattern
	anchors   map[string]*value
	unchecked []string
}

// pattern is a regular expression; the zero pattern is not checked.
type pattern struct {
	*regexp.Regexp
	weight int // instructions: what a byte may cost
}

// Unusable says why no arguments can be checked against a schema: calls of its
// tool are refused. Empty: they can.
func (s *Schema) Unusable() string { return s.broken }

// Unchecked names what a schema demands that is not checked.
func (s *Schema) Unchecked() []string { return s.unchecked }

// New reads a schema. One that cannot be read is a Schema too, against which
// nothing is right.
func New(raw []byte) *Schema {
	s := &Schema{patterns: map[string]pattern{}, anchors: map[string]*value{}}
	if len(raw) > maxText {
		s.broken = "it is too long"
		return s
	}
	root, err := parse(raw)
	switch {
	case err != nil:
		s.broken = "it cannot be read"
		return s
	case root.kind != '{' && root.kind != 't' && root.kind != 'f':
		s.broken = "it is not a schema"
		return s
	}
	s.root = root
	s.prepare(root)
	slices.Sort(s.unchecked)
	s.unchecked = slices.Compact(s.unchecked)
	return s
}

// beyond are keywords that say more of arguments than is checked.
var beyond = map[string]bool{"unevaluatedProperties": true, "unevaluatedItems": true, "$dynamicRef": true, "$recursiveRef": true, "contentSchema": true}

// prepare finds, anywhere in a schema, references that lead out of it, patterns,
// and what is not checked.
func (s *Schema) prepare(v *value) {
	for _, x := range v.list {
		s.prepare(x)
	}
	for _, m := range v.members {
		switch {
		case m.name == "$ref" && m.kind == '"' && !strings.HasPrefix(m.text, "#") && s.broken == "":
			s.broken = "it refers to another document"
		case m.name == "pattern" && m.kind == '"':
			s.pattern(m.text)
		case m.name == "patternProperties" && m.kind == '{':
			for _, p := range m.members {
				s.pattern(p.name)
			}
		case m.name == "$anchor" && m.kind == '"':
			s.anchors[m.text] = v
		case beyond[m.name]:
			s.unchecked = append(s.unchecked, m.name)
		}
		s.prepare(m.value)
	}
}

var unicodeEscape = regexp.MustCompile(`\\u\{?([0-9a-fA-F]{4})\}?`)

// pattern makes a pattern ready.
func (s *Schema) pattern(text string) {
	if _, known := s.patterns[text]; known {
		return
	}
	s.patterns[text] = pattern{}
	if len(text) <= maxPattern {
		ours := unicodeEscape.ReplaceAllString(text, `\x{$1}`)
		if re, err := regexp.Compile(ours); err == nil {
			if w := weight(ours); w <= maxWeight {
				s.patterns[text] = pattern{re, w}
				return
			}
		}
	}
	s.unchecked = append(s.unchecked, fmt.Sprintf("pattern %.60q", text))
}

// weight is how many instructions a pattern has.
func weight(text string) int {
	re, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return maxWeight + 1
	}
	prog, err := syntax.Compile(re.Simplify())
	if err != nil {
		return maxWeight + 1
	}
	return len(prog.Inst)
}

// Check returns what is wrong with arguments, a JSON object, as a sentence
// without values; empty if nothing is.
func (s *Schema) Check(args []byte) string {
	if s.broken != "" {
		return "the tool's schema cannot be used (" + s.broken + "), so no arguments can be checked against it"
	}
	v, err := parse(args)
	if err != nil {
		return "the arguments cannot be read: not strict JSON, nested too deeply or too many values"
	}
	c := checker{s: s}
	if ok := c.check(s.root, v); !ok || c.spent {
		return c.wrong()
	}
	return ""
}

// checker is one check.
type checker struct {
	s      *Schema
	steps  int
	nested int
	spent  bool   // over a limit: nothing more is known
	silent int    // what is wrong is not told: it is one of several ways
	where  []step // the place in the arguments
	at     string // of what is wrong
	why    string
}

type step struct {
	name  string
	index int
}

func (c *checker) wrong() string {
	switch {
	case c.spent:
		return "the arguments cannot be checked against the tool's schema within bounds"
	case c.at == "":
		return "the arguments " + c.why + ", by the tool's schema"
	}
	return "argument " + strconv.Quote(c.at) + " " + c.why + ", by the tool's schema"
}

// fail notes what is wrong, if it is to be told.
func (c *checker) fail(why string) bool {
	if c.silent == 0 && c.why == "" {
		var b strings.Builder
		for _, s := range c.where {
			if s.name == "" {
				fmt.Fprintf(&b, "[%d]", s.index)
				continue
			}
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			b.WriteString(clip(s.name))
		}
		c.at, c.why = clip(b.String()), why
	}
	return false
}

// spend counts a step.
func (c *checker) spend(n int) bool {
	if c.steps += n; c.steps > maxSteps {
		c.spent = true
	}
	return !c.spent
}

// in goes on with a part of a value.
func (c *checker) in(s step, schema, v *value) bool {
	c.where = append(c.where, s)
	ok := c.check(schema, v)
	c.where = c.where[:len(c.where)-1]
	return ok
}

// try checks without telling what is wrong.
func (c *checker) try(schema, v *value) bool {
	c.silent++
	ok := c.check(schema, v)
	c.silent--
	return ok && !c.spent
}

// check reports whether a value is as a schema says.
func (c *checker) check(schema, v *value) bool {
	if !c.spend(1) {
		return false
	}
	switch schema.kind {
	case 't':
		return true
	case 'f':
		return c.fail("may not be given")
	case '{':
	default:
		return c.fail("cannot be checked: the schema is not one")
	}
	if c.nested++; c.nested > maxNested {
		c.spent = true
		return false
	}
	defer func() { c.nested-- }()
	if n := schema.get("nullable"); v.kind == 'n' && n != nil && n.kind == 't' { // as OpenAPI 3.0 has it
		return true
	}
	return c.referred(schema, v) && c.typed(schema, v) && c.valued(schema, v) && c.byKind(schema, v) && c.combined(schema, v)
}

func (c *checker) byKind(schema, v *value) bool {
	switch v.kind {
	case '{':
		return c.object(schema, v)
	case '[':
		return c.array(schema, v)
	case '"':
		return c.text(schema, v)
	case '0':
		return c.number(schema, v)
	}
	return true
}

// referred follows $ref, within the document.
func (c *checker) referred(schema, v *value) bool {
	ref := schema.get("$ref")
	if ref == nil {
		return true
	}
	to := c.resolve(ref.text)
	if ref.kind != '"' || to == nil {
		return c.fail("cannot be checked: the schema refers to nothing")
	}
	return c.check(to, v)
}

func (c *checker) resolve(ref string) *value {
	path, ok := strings.CutPrefix(ref, "#")
	if !ok || !c.spend(len(ref)/8) {
		return nil
	}
	at := c.s.root
	for i, part := range strings.Split(path, "/") {
		if i == 0 {
			if part != "" {
				return c.s.anchors[part]
			}
			continue
		}
		part = strings.NewReplacer("~1", "/", "~0", "~").Replace(part)
		switch at.kind {
		case '{':
			at = at.get(part)
		case '[':
			n, err := strconv.Atoi(part)
			if err != nil || n < 0 || n >= len(at.list) {
				return nil
			}
			at = at.list[n]
		default:
			return nil
		}
		if at == nil {
			return nil
		}
	}
	return at
}

var kinds = map[jsontext.Kind]string{'{': "object", '[': "array", '"': "string", '0': "number", 't': "boolean", 'f': "boolean", 'n': "null"}

func (c *checker) typed(schema, v *value) bool {
	t := schema.get("type")
	if t == nil {
		return true
	}
	names := []*value{t}
	if t.kind == '[' {
		names = t.list
	}
	var want []string
	for _, n := range names {
		if n.kind != '"' {
			continue
		}
		if n.text == kinds[v.kind] || n.text == "integer" && v.kind == '0' && integer(v) {
			return true
		}
		want = append(want, clip(n.text))
	}
	return c.fail("must be of type " + strings.Join(want, " or "))
}

func integer(v *value) bool {
	n, ok := v.number()
	return ok && n.IsInt()
}

func (c *checker) valued(schema, v *value) bool {
	if k := schema.get("const"); k != nil && !(c.spend(size(v)) && v.equal(k)) {
		return c.fail("must have the one value that is allowed")
	}
	e := schema.get("enum")
	if e == nil || e.kind != '[' {
		return true
	}
	each := size(v)
	for _, x := range e.list {
		if !c.spend(each) {
			return false
		}
		if x.kind == v.kind && v.equal(x) {
			return true
		}
	}
	return c.fail("must be one of the values that are allowed" + listed(e.list))
}

// listed names the texts that are allowed: the schema's own words, for the model.
func listed(all []*value) string {
	var names []string
	for _, x := range all {
		if x.kind != '"' || len(names) == 10 || len(x.text) > 40 {
			return ""
		}
		names = append(names, strconv.Quote(x.text))
	}
	return " (" + strings.Join(names, ", ") + ")"
}

// combined checks allOf, anyOf, oneOf, not and if.
func (c *checker) combined(schema, v *value) bool {
	if all := schema.get("allOf"); all != nil {
		for _, s := range all.list {
			if !c.check(s, v) {
				return false
			}
		}
	}
	if some := schema.get("anyOf"); some != nil && some.kind == '[' && !slices.ContainsFunc(some.list, func(s *value) bool { return c.try(s, v) }) {
		return c.fail("fits none of the forms that are allowed")
	}
	if one := schema.get("oneOf"); one != nil && one.kind == '[' {
		n := 0
		for _, s := range one.list {
			if c.try(s, v) {
				n++
			}
		}
		if n != 1 {
			return c.fail("must fit exactly one of the forms that are allowed")
		}
	}
	if not := schema.get("not"); not != nil && (c.try(not, v) || c.spent) {
		return c.fail("has a form that is not allowed")
	}
	cond := schema.get("if")
	if cond == nil {
		return !c.spent
	}
	branch := "else"
	if c.try(cond, v) {
		branch = "then"
	}
	if s := schema.get(branch); s != nil && !c.spent {
		return c.check(s, v)
	}
	return !c.spent
}

func clip(s string) string {
	if len(s) > 100 {
		return strings.ToValidUTF8(s[:100], "") + "…"
	}
	return s
}
