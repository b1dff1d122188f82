package policy

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"
)

// argKind is how policy sees a JSON value.
type argKind uint8

const (
	opaque     argKind = iota // policy cannot see it: read strictly, then dropped
	stringArg                 // String
	longArg                   // Long
	boolArg                   // Bool
	decimalArg                // decimal
	setArg                    // Set<elem>
	recordArg                 // record
)

// argType is what a tool's JSON Schema says about a value, as far as Cedar can
// express it.
type argType struct {
	kind     argKind
	nullable bool
	elem     *argType
	fields   map[string]*argField
	folded   map[string]string // names of fields by what they are without case
	required []string          // sorted names of fields that must be there
	closed   bool              // other names are refused
}

type argField struct {
	name     types.String
	typ      *argType
	required bool
}

// Limits on a tool's schema. What exceeds them is opaque, so a hostile
// upstream cannot make us build a tree without end.
const (
	maxSchemaNodes = 5000
	maxSchemaDepth = 16
)

// typer turns one JSON Schema (2020-12 and older drafts) into an argType.
type typer struct {
	root  jsontext.Value
	refs  []string // local references being resolved, against cycles
	nodes int
	notes []string
}

// typeOf returns the type of a tool's arguments, which is always a record, and
// notes on what of the schema policy cannot see.
func typeOf(schema jsontext.Value) (*argType, []string) {
	if len(schema) == 0 {
		return &argType{kind: recordArg}, nil
	}
	t := &typer{root: schema}
	typ := t.of(schema, "", 0)
	if typ.kind != recordArg {
		t.note("", "the schema does not describe an object")
		typ = &argType{kind: recordArg}
	}
	return typ, t.notes
}

func (t *typer) note(path, why string) {
	if len(t.notes) >= 100 {
		return
	}
	if path == "" {
		path = "arguments"
	}
	t.notes = append(t.notes, path+": "+why+"; policy cannot see it")
}

// keywords are those of a JSON Schema that bear on its type. All are read
// leniently: a malformed one makes the value opaque, never wrong.
type keywords struct {
	Type                 jsontext.Value   `json:"type"`
	Properties           jsontext.Value   `json:"properties"`
	Required             jsontext.Value   `json:"required"`
	Items                jsontext.Value   `json:"items"`
	PrefixItems          jsontext.Value   `json:"prefixItems"`
	AdditionalProperties jsontext.Value   `json:"additionalProperties"`
	PatternProperties    jsontext.Value   `json:"patternProperties"`
	AnyOf                []jsontext.Value `json:"anyOf"`
	OneOf                []jsontext.Value `json:"oneOf"`
	AllOf                []jsontext.Value `json:"allOf"`
	Enum                 []jsontext.Value `json:"enum"`
	Const                jsontext.Value   `json:"const"`
	Ref                  string           `json:"$ref"`
}

func (t *typer) of(schema jsontext.Value, path string, depth int) *argType {
	t.nodes++
	if t.nodes > maxSchemaNodes || depth > maxSchemaDepth {
		t.note(path, "the schema is too large or too deep")
		return &argType{}
	}
	if schema.Kind() != '{' {
		t.note(path, "the schema does not say a type")
		return &argType{}
	}
	var k keywords
	if err := json.Unmarshal(schema, &k); err != nil {
		t.note(path, "the schema is malformed")
		return &argType{}
	}
	return t.ofKeywords(&k, path, depth)
}

func (t *typer) ofKeywords(k *keywords, path string, depth int) *argType {
	name, nullable, ok := typeName(k.Type)
	switch {
	case !ok:
		t.note(path, "the schema allows several types")
		return &argType{}
	case name == "" && len(k.Properties) > 0:
		name = "object"
	case name == "" && k.Ref != "":
		return t.reference(k.Ref, path, depth)
	case name == "" && len(k.AllOf) == 1:
		return t.of(k.AllOf[0], path, depth+1)
	case name == "" && len(k.AnyOf) > 0:
		return t.union(k.AnyOf, path, depth)
	case name == "" && len(k.OneOf) > 0:
		return t.union(k.OneOf, path, depth)
	case name == "":
		return t.literals(k, path)
	}
	switch name {
	case "string":
		return &argType{kind: stringArg, nullable: nullable}
	case "integer":
		return &argType{kind: longArg, nullable: nullable}
	case "number":
		return &argType{kind: decimalArg, nullable: nullable}
	case "boolean":
		return &argType{kind: boolArg, nullable: nullable}
	case "array":
		return t.array(k, nullable, path, depth)
	case "object":
		return t.object(k, nullable, path, depth)
	}
	t.note(path, "the schema says a type that does not exist")
	return &argType{}
}

// typeName reads "type": a name, or a list of one name and perhaps "null".
// ok is false if several types remain.
func typeName(v jsontext.Value) (name string, nullable, ok bool) {
	if len(v) == 0 {
		return "", false, true
	}
	var names []string
	if json.Unmarshal(v, &name) == nil {
		return name, false, true
	}
	if json.Unmarshal(v, &names) != nil {
		return "", false, false
	}
	rest := slices.DeleteFunc(names, func(n string) bool { return n == "null" })
	nullable = len(rest) < len(names)
	if len(rest) != 1 {
		return "", nullable, false
	}
	return rest[0], nullable, true
}

// reference follows a reference into the same document.
func (t *typer) reference(ref, path string, depth int) *argType {
	pointer, ok := strings.CutPrefix(ref, "#/")
	if !ok || slices.Contains(t.refs, ref) {
		t.note(path, "the schema refers to itself or to another document")
		return &argType{}
	}
	target := t.root
	for step := range strings.SplitSeq(pointer, "/") {
		step = strings.NewReplacer("~1", "/", "~0", "~").Replace(step)
		var members map[string]jsontext.Value
		if json.Unmarshal(target, &members) != nil || members[step] == nil {
			t.note(path, "the schema refers to something that is not there")
			return &argType{}
		}
		target = members[step]
	}
	t.refs = append(t.refs, ref)
	typ := t.of(target, path, depth+1)
	t.refs = t.refs[:len(t.refs)-1]
	return typ
}

// union handles anyOf and oneOf: null makes the rest optional; one type, or
// the same simple type throughout, is that type.
func (t *typer) union(choices []jsontext.Value, path string, depth int) *argType {
	var found []*argType
	nullable := false
	for _, c := range choices {
		var k keywords
		if json.Unmarshal(c, &k) == nil && string(k.Type) == `"null"` {
			nullable = true
			continue
		}
		found = append(found, t.of(c, path, depth+1))
	}
	if len(found) == 0 {
		return &argType{}
	}
	first := *found[0]
	for _, f := range found[1:] {
		if f.kind != first.kind || f.kind >= setArg || f.kind == opaque {
			t.note(path, "the schema allows several types")
			return &argType{}
		}
		nullable = nullable || f.nullable
	}
	first.nullable = first.nullable || nullable
	return &first
}

// literals types a schema without a type by its enum or const.
func (t *typer) literals(k *keywords, path string) *argType {
	values := k.Enum
	if len(k.Const) > 0 {
		values = []jsontext.Value{k.Const}
	}
	var typ argType
	for _, v := range values {
		kind := opaque
		switch v.Kind() {
		case 'n':
			typ.nullable = true
			continue
		case '"':
			kind = stringArg
		case 't', 'f':
			kind = boolArg
		}
		if kind == opaque || (typ.kind != opaque && typ.kind != kind) {
			typ.kind = opaque
			break
		}
		typ.kind = kind
	}
	if typ.kind == opaque {
		t.note(path, "the schema does not say one type")
		return &argType{}
	}
	return &typ
}

func (t *typer) array(k *keywords, nullable bool, path string, depth int) *argType {
	if len(k.Items) == 0 || len(k.PrefixItems) > 0 || k.Items.Kind() != '{' {
		t.note(path, "the schema does not say one type for the array's elements")
		return &argType{}
	}
	elem := t.of(k.Items, path+"[]", depth+1)
	if elem.kind == opaque {
		return &argType{}
	}
	return &argType{kind: setArg, nullable: nullable, elem: elem}
}

func (t *typer) object(k *keywords, nullable bool, path string, depth int) *argType {
	var members map[string]jsontext.Value
	var required []string
	if len(k.Properties) > 0 && json.Unmarshal(k.Properties, &members) != nil {
		t.note(path, "the schema is malformed")
		return &argType{}
	}
	if len(k.Required) > 0 && json.Unmarshal(k.Required, &required) != nil {
		required = nil // draft 3 wrote booleans; the upstream will check
	}
	typ := &argType{kind: recordArg, nullable: nullable, fields: make(map[string]*argField, len(members)), folded: make(map[string]string, len(members))}
	// allOf, anyOf and the like may declare further names, so only a plain
	// object is closed; the upstream checks what we let pass.
	typ.closed = string(k.AdditionalProperties) == "false" && len(k.PatternProperties) == 0 &&
		len(k.AllOf) == 0 && len(k.AnyOf) == 0 && len(k.OneOf) == 0 && k.Ref == ""
	names := make([]string, 0, len(members))
	for name := range members {
		names = append(names, name)
	}
	slices.Sort(names) // notes and limits do not depend on the map's order
	for _, name := range names {
		at := name
		if path != "" {
			at = path + "." + name
		}
		f := &argField{name: types.String(name), typ: t.of(members[name], at, depth+1), required: slices.Contains(required, name)}
		if name == "__entity" || name == "__extn" { // Cedar's JSON form reserves them
			f.typ = &argType{}
		}
		typ.fields[name], typ.folded[fold(name)] = f, name
	}
	for _, name := range required {
		if f := typ.fields[name]; f != nil && !slices.Contains(typ.required, name) {
			typ.required = append(typ.required, name)
		}
	}
	slices.Sort(typ.required)
	return typ
}
