package manifest

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/connections/mapping"
	"github.com/countersign/countersign/internal/flow"
)

// yaml reads the documents of a file.
func (p *parser) yaml(f File) {
	at := place{file: f.Name}
	defer func() {
		// The YAML reader is foreign code on foreign bytes.
		if r := recover(); r != nil {
			p.problem(at, "", "the file cannot be read as YAML")
		}
	}()
	dec := yaml.NewDecoder(strings.NewReader(f.Text))
	for range MaxResources {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			at.line, at.column = errorLine(err), 0
			p.problem(at, "", "%s", strings.TrimPrefix(lineForm.ReplaceAllString(err.Error(), ""), "yaml: "))
			return
		}
		if len(doc.Content) == 1 && !blank(doc.Content[0]) {
			p.document(f.Name, doc.Content[0])
		}
	}
	p.problem(at, "", "more than %d documents", MaxResources)
}

var lineForm = regexp.MustCompile(`^yaml: line (\d+): `)

func errorLine(err error) int {
	m := lineForm.FindStringSubmatch(err.Error())
	if m == nil {
		return 0
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

func blank(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" && n.Value == "" }

// reader reads one document.
type reader struct {
	*parser
	file   string
	fields map[string]place
	failed bool
}

func (r *reader) fail(n *yaml.Node, field, format string, args ...any) {
	r.failed = true
	r.problem(r.place(n), field, format, args...)
}

func (r *reader) place(n *yaml.Node) place { return place{r.file, n.Line, n.Column} }

func (p *parser) document(file string, n *yaml.Node) {
	r := &reader{parser: p, file: file, fields: map[string]place{}}
	if !r.plain(n, "", 0) {
		return
	}
	top := r.mapping(n, "")
	if top == nil {
		return
	}
	res := Resource{at: r.place(n), fields: r.fields}
	for _, m := range top {
		r.fields[m.key.Value] = r.place(m.value)
		switch m.key.Value {
		case "kind":
			res.Kind = r.text(m.value, "kind")
		case "name":
			res.Name = r.text(m.value, "name")
		case "state":
			if res.Absent = r.text(m.value, "state") == "absent"; !res.Absent && !r.failed {
				r.fail(m.value, "state", `must be "absent" or left out`)
			}
		case "spec":
		default:
			r.fail(m.key, m.key.Value, "unknown key; a document has kind, name, spec and state%s", near(m.key.Value, []string{"kind", "name", "spec", "state"}))
		}
	}
	r.head(n, top, &res)
	if !r.failed {
		p.add(res)
	}
}

// head checks kind and name, and reads the spec.
func (r *reader) head(n *yaml.Node, top []member, res *Resource) {
	at := func(key string) *yaml.Node {
		for _, m := range top {
			if m.key.Value == key {
				return m.value
			}
		}
		return nil
	}
	kind, name, spec := at("kind"), at("name"), at("spec")
	switch {
	case kind == nil:
		r.fail(n, "kind", "is missing")
		return
	case r.failed:
		return
	case !slices.Contains(Kinds, res.Kind):
		r.fail(kind, "kind", "%q is not a kind; the kinds are %s%s", cut(res.Kind), strings.Join(Kinds, ", "), near(res.Kind, Kinds))
		return
	case name == nil:
		r.fail(n, "name", "is missing")
		return
	case !nameForms[res.Kind].MatchString(res.Name):
		r.fail(name, "name", "%q is not a valid %s name; %s", cut(res.Name), strings.ToLower(res.Kind), nameHelp(res.Kind))
		return
	}
	switch {
	case res.Absent && res.Kind == KindTool:
		r.fail(n, "state", "tools come from their upstream and cannot be deleted")
	case res.Absent && spec != nil:
		r.fail(spec, "spec", "what is absent has no spec")
	case res.Absent:
	case res.Kind == KindPolicy:
		r.fail(n, "kind", "policies are written in .cedar files; a document can only say state: absent")
	case spec == nil:
		r.fail(n, "spec", "is missing")
	default:
		res.Spec = newSpec(res.Kind)
		r.object(spec, "spec", reflect.ValueOf(res.Spec).Elem())
		if !r.failed {
			r.specRules(spec, res)
		}
	}
}

func nameHelp(kind string) string {
	switch kind {
	case KindTool:
		return "write connection/tool"
	case KindConnection:
		return "use lower-case letters, digits and hyphens"
	}
	return "use lower-case letters, digits, dots, hyphens and underscores"
}

// specRules checks what one spec says against itself.
func (r *reader) specRules(n *yaml.Node, res *Resource) {
	switch s := res.Spec.(type) {
	case *ToolSpec:
		conn, _, _ := strings.Cut(res.Name, "/")
		if s.Connection == "" {
			s.Connection = conn
		} else if s.Connection != conn {
			r.problemAt(res.where("spec.connection"), "spec.connection", "the name says connection %q", conn)
		}
	case *SecretSpec:
		if s.From != nil && (s.From.Env == "") == (s.From.File == "") {
			r.problemAt(res.where("spec.from"), "spec.from", "give either env or file")
		}
	case *ConnectionSpec:
		switch o := s.OpenAPI; {
		case o == nil:
		case (o.File == "") == (o.Document == ""):
			r.problemAt(res.where("spec.openapi"), "spec.openapi", "give either file or document")
		case o.File != "" && (!filepath.IsLocal(filepath.FromSlash(o.File)) || strings.Contains(o.File, `\`)):
			r.problemAt(res.where("spec.openapi.file"), "spec.openapi.file", "must be a path beneath the directory of this file, with slashes")
		}
	case *GrantSpec:
		if len(s.Tools) == 0 {
			r.problemAt(res.where("spec.tools"), "spec.tools", `names no tool; "*" means all of the connection`)
		}
	}
}

func (r *reader) problemAt(at place, field, format string, args ...any) {
	r.failed = true
	r.problem(at, field, format, args...)
}

// plain refuses what makes YAML mean something else than it shows: anchors,
// aliases, merge keys, tags, and nesting without end.
func (r *reader) plain(n *yaml.Node, field string, depth int) bool {
	switch {
	case depth > maxDepth:
		r.fail(n, field, "nested more than %d levels", maxDepth)
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		r.fail(n, field, "anchors and aliases are not allowed; write it out")
	case n.Tag == "!!merge":
		r.fail(n, field, "merge keys are not allowed; write it out")
	case n.Style&yaml.TaggedStyle != 0:
		r.fail(n, field, "tags are not allowed")
	default:
		for _, c := range n.Content {
			if !r.plain(c, field, depth+1) {
				return false
			}
		}
		return true
	}
	return false
}

type member struct{ key, value *yaml.Node }

// mapping returns the members of a mapping in order, nil if it is none.
func (r *reader) mapping(n *yaml.Node, field string) []member {
	if n.Kind != yaml.MappingNode {
		r.fail(n, field, "must be a mapping (key: value), not %s", what(n))
		return nil
	}
	members := make([]member, 0, len(n.Content)/2)
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind != yaml.ScalarNode || key.Tag != "!!str" {
			r.fail(key, field, "keys must be strings; quote it")
			return nil
		}
		if line, twice := seen[key.Value]; twice {
			r.fail(key, join(field, key.Value), "the key is already in line %d", line)
			return nil
		}
		seen[key.Value] = key.Line
		members = append(members, member{key, n.Content[i+1]})
	}
	return members
}

// object reads a mapping into a struct by its yaml tags.
func (r *reader) object(n *yaml.Node, field string, into reflect.Value) {
	r.fields[field] = r.place(n)
	byKey, needed := fieldsOf(into)
	members := r.mapping(n, field)
	if members == nil && r.failed {
		return
	}
	for _, m := range members {
		path := join(field, m.key.Value)
		target, ok := byKey[m.key.Value]
		if !ok {
			known := slices.Sorted(maps.Keys(byKey))
			r.fail(m.key, path, "unknown key; known are %s%s", strings.Join(known, ", "), near(m.key.Value, known))
			continue
		}
		r.fields[path] = r.place(m.value)
		delete(needed, m.key.Value)
		r.value(m.value, path, target)
	}
	for _, key := range slices.Sorted(maps.Keys(needed)) {
		r.fail(n, join(field, key), "is missing")
	}
}

func fieldsOf(v reflect.Value) (byKey map[string]reflect.Value, needed map[string]bool) {
	byKey, needed = map[string]reflect.Value{}, map[string]bool{}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if !f.IsExported() {
			continue
		}
		key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		byKey[key] = v.Field(i)
		if f.Tag.Get("need") != "" {
			needed[key] = true
		}
	}
	return byKey, needed
}

// value reads n into one field of a spec.
func (r *reader) value(n *yaml.Node, field string, into reflect.Value) {
	switch target := into.Addr().Interface().(type) {
	case *string:
		*target = r.text(n, field)
	case *bool:
		if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" {
			r.fail(n, field, "must be true or false, not %s", what(n))
			return
		}
		*target = strings.EqualFold(n.Value, "true")
	case *[]string:
		*target = r.list(n, field)
	case *map[string]string:
		*target = r.table(n, field)
	case *Duration:
		d, ok := parseDuration(r.text(n, field))
		if !ok && !r.failed {
			r.fail(n, field, "%q is not a duration such as 30s, 36h or 90d", cut(n.Value))
		}
		*target = Duration(d)
	case *Quantity:
		*target = r.quantity(n, field)
	case *Expiry:
		r.expiry(n, field, target)
	case **ExceptionSpec:
		*target = &ExceptionSpec{}
		r.object(n, field, reflect.ValueOf(*target).Elem())
	case **flow.Spec:
		*target = &flow.Spec{}
		r.object(n, field, reflect.ValueOf(*target).Elem())
	case **connections.Undo:
		*target = &connections.Undo{}
		r.object(n, field, reflect.ValueOf(*target).Elem())
	case *connections.Check:
		r.object(n, field, reflect.ValueOf(target).Elem())
	case **From:
		*target = &From{}
		r.object(n, field, reflect.ValueOf(*target).Elem())
	case **OpenAPISpec:
		*target = &OpenAPISpec{}
		r.object(n, field, reflect.ValueOf(*target).Elem())
	case **mapping.Mapping:
		*target = &mapping.Mapping{}
		r.object(n, field, reflect.ValueOf(*target).Elem())
	case **mapping.Request:
		*target = &mapping.Request{}
		r.object(n, field, reflect.ValueOf(*target).Elem())
	case *mapping.Fields:
		r.object(n, field, reflect.ValueOf(target).Elem())
	default:
		panic(fmt.Sprintf("manifest: no reader for %T", target))
	}
}

func (r *reader) text(n *yaml.Node, field string) string {
	switch {
	case n.Kind != yaml.ScalarNode || n.Tag == "!!null":
		r.fail(n, field, "must be a string, not %s", what(n))
	case n.Tag != "!!str":
		r.fail(n, field, `must be a string; write it as "%s"`, cut(n.Value))
	default:
		return n.Value
	}
	return ""
}

func (r *reader) list(n *yaml.Node, field string) []string {
	if n.Kind != yaml.SequenceNode {
		r.fail(n, field, "must be a list, not %s", what(n))
		return nil
	}
	list := make([]string, 0, len(n.Content))
	for i, c := range n.Content {
		path := fmt.Sprintf("%s[%d]", field, i)
		r.fields[path] = r.place(c)
		list = append(list, r.text(c, path))
	}
	return list
}

func (r *reader) table(n *yaml.Node, field string) map[string]string {
	members := r.mapping(n, field)
	table := make(map[string]string, len(members))
	for _, m := range members {
		path := join(field, m.key.Value)
		r.fields[path] = r.place(m.value)
		table[m.key.Value] = r.text(m.value, path)
	}
	return table
}

func (r *reader) expiry(n *yaml.Node, field string, into *Expiry) {
	if n.Kind != yaml.ScalarNode || (n.Tag != "!!timestamp" && n.Tag != "!!str") {
		r.fail(n, field, "must be a time or a duration, not %s", what(n))
		return
	}
	if t, err := time.Parse(time.RFC3339Nano, n.Value); err == nil {
		into.At = t.UTC().Truncate(time.Microsecond)
		return
	}
	d, ok := parseDuration(n.Value)
	if !ok {
		r.fail(n, field, "%q is neither a time (2027-01-31T12:00:00Z) nor a duration (36h, 90d)", cut(n.Value))
		return
	}
	into.After = d
}

func what(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Tag == "!!null":
		return "nothing"
	}
	return fmt.Sprintf("%q", cut(n.Value))
}

func join(field, key string) string {
	if field == "" {
		return key
	}
	return field + "." + key
}

func cut(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}

// near suggests the known word that a misspelt one is closest to.
func near(word string, known []string) string {
	best, distance := "", 3
	for _, k := range known {
		if d := edits(strings.ToLower(word), strings.ToLower(k)); d < distance {
			best, distance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %s?", best)
}

// edits returns the Levenshtein distance, at least 3 when lengths differ by 3.
func edits(a, b string) int {
	if len(a)-len(b) > 2 || len(b)-len(a) > 2 {
		return 3
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
