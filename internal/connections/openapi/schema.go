package openapi

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"slices"
)

// Limits of the schema of one body. What exceeds them says nothing, so that
// policy sees nothing there.
const (
	maxSchemaNodes = 400
	maxSchemaDepth = 6
)

// shaper writes a schema anew with only what policy reads of it, types, names
// and what must be there, and what the gateway holds values to. References are replaced by what they refer to.
type shaper struct {
	d     *document
	nodes int
}

// shape is the part of JSON Schema that is kept.
type shape struct {
	Type       any              `json:"type,omitzero"` // a name, or a name and "null"
	Properties map[string]shape `json:"properties,omitzero"`
	Required   []string         `json:"required,omitzero"`
	Items      *shape           `json:"items,omitzero"`
	Closed     *bool            `json:"additionalProperties,omitzero"`
	OneOf      []shape          `json:"anyOf,omitzero"`
	// What else is said of a value, as it is said: the gateway holds calls to it.
	Enum     jsontext.Value `json:"enum,omitzero"`
	Const    jsontext.Value `json:"const,omitzero"`
	Pattern  jsontext.Value `json:"pattern,omitzero"`
	Least    jsontext.Value `json:"minimum,omitzero"`
	Most     jsontext.Value `json:"maximum,omitzero"`
	Above    jsontext.Value `json:"exclusiveMinimum,omitzero"`
	Below    jsontext.Value `json:"exclusiveMaximum,omitzero"`
	Shortest jsontext.Value `json:"minLength,omitzero"`
	Longest  jsontext.Value `json:"maxLength,omitzero"`
	Fewest   jsontext.Value `json:"minItems,omitzero"`
	Greatest jsontext.Value `json:"maxItems,omitzero"`

	file bool // the content of a file, not text
}

// schema returns the schema v in its plain form as JSON; nil if it says
// nothing. That of a form is about its fields: files are no part of it.
func (d *document) schema(v jsontext.Value, form bool) (jsontext.Value, error) {
	if len(v) == 0 {
		return nil, nil
	}
	s := &shaper{d: d}
	sh, err := s.of(v, 0)
	if err != nil {
		return nil, err
	}
	if form {
		sh.fields()
	}
	return json.Marshal(sh, json.Deterministic(true))
}

// fields keeps of the schema of a form what its fields say as text.
func (s *shape) fields() {
	for name, p := range s.Properties {
		switch {
		case p.file, p.Type == "array" && p.Items != nil && p.Items.file:
			delete(s.Properties, name)
			s.Required = slices.DeleteFunc(s.Required, func(r string) bool { return r == name })
		case p.Type == "object":
			s.Properties[name] = shape{}
		}
	}
	s.Closed = nil
}

func (s *shaper) of(v jsontext.Value, depth int) (shape, error) {
	s.nodes++
	if s.nodes > maxSchemaNodes || depth > maxSchemaDepth {
		return shape{}, nil
	}
	o, err := s.d.resolve(v)
	if err != nil || o == nil {
		return shape{}, err
	}
	if all, ok := list(o["allOf"]); ok {
		return s.merged(o, all, depth)
	}
	for _, word := range []string{"oneOf", "anyOf"} {
		if choices, ok := list(o[word]); ok {
			return s.choice(choices, depth)
		}
	}
	name, nullable := typeOf(o)
	out := shape{}
	switch name {
	case "object":
		if err := s.object(&out, o, depth); err != nil {
			return shape{}, err
		}
	case "array":
		if len(o["items"]) > 0 {
			items, err := s.of(o["items"], depth+1)
			if err != nil {
				return shape{}, err
			}
			out.Items = &items
		}
	case "string":
		out.file = o.text("format") == "binary" || len(o["contentMediaType"]) > 0
	case "":
		return shape{}, nil
	}
	out.Type = name
	if nullable {
		out.Type = []string{name, "null"}
	}
	out.bound(o, nullable)
	return out, nil
}

// maxEnum is how many bytes of a list of values are kept.
const maxEnum = 2 << 10

// bound keeps what a schema says of values beside their type, where it is what
// JSON Schema has for it.
func (s *shape) bound(o object, nullable bool) {
	keep := func(name string, kind jsontext.Kind) jsontext.Value {
		if v := o[name]; v.Kind() == kind && len(v) <= maxEnum {
			return v
		}
		return nil
	}
	if !nullable { // OpenAPI 3.0 leaves open whether null must be listed then
		s.Enum, s.Const = keep("enum", '['), o["const"]
	}
	s.Pattern = keep("pattern", '"')
	s.Least, s.Most, s.Above, s.Below = keep("minimum", '0'), keep("maximum", '0'), keep("exclusiveMinimum", '0'), keep("exclusiveMaximum", '0')
	s.Shortest, s.Longest, s.Fewest, s.Greatest = keep("minLength", '0'), keep("maxLength", '0'), keep("minItems", '0'), keep("maxItems", '0')
	if string(o["exclusiveMinimum"]) == "true" { // as OpenAPI 3.0 says it
		s.Least, s.Above = nil, s.Least
	}
	if string(o["exclusiveMaximum"]) == "true" {
		s.Most, s.Below = nil, s.Most
	}
}

func (s *shaper) object(out *shape, o object, depth int) error {
	members := open(o["properties"])
	out.Properties = make(map[string]shape, len(members))
	names := make([]string, 0, len(members))
	for name := range members {
		names = append(names, name)
	}
	slices.Sort(names) // what falls to the limit does not depend on the map's order
	for _, name := range names {
		p, err := s.of(members[name], depth+1)
		if err != nil {
			return err
		}
		out.Properties[name] = p
	}
	if req, ok := list(o["required"]); ok {
		for _, r := range req {
			var name string
			if json.Unmarshal(r, &name) == nil {
				out.Required = append(out.Required, name)
			}
		}
	}
	if string(o["additionalProperties"]) == "false" {
		no := false
		out.Closed = &no
	}
	return nil
}

// merged joins the objects of an allOf: what all of them say holds.
func (s *shaper) merged(o object, all []jsontext.Value, depth int) (shape, error) {
	out := shape{Type: "object", Properties: map[string]shape{}}
	if len(o["properties"]) > 0 {
		if err := s.object(&out, o, depth); err != nil {
			return shape{}, err
		}
	}
	if len(all) == 1 && len(o["properties"]) == 0 {
		return s.of(all[0], depth+1)
	}
	for _, v := range all {
		part, err := s.of(v, depth+1)
		if err != nil {
			return shape{}, err
		}
		if part.Type != "object" {
			return shape{}, nil
		}
		for name, p := range part.Properties {
			if _, twice := out.Properties[name]; twice {
				p = shape{} // said twice: policy sees neither
			}
			out.Properties[name] = p
		}
		out.Required = append(out.Required, part.Required...)
	}
	out.Closed = nil
	slices.Sort(out.Required)
	out.Required = slices.Compact(out.Required)
	return out, nil
}

func (s *shaper) choice(choices []jsontext.Value, depth int) (shape, error) {
	var out shape
	if len(choices) > 8 {
		return out, nil
	}
	for _, c := range choices {
		if o := open(c); o.text("type") == "null" {
			out.OneOf = append(out.OneOf, shape{Type: "null"})
			continue
		}
		sh, err := s.of(c, depth+1)
		if err != nil {
			return shape{}, err
		}
		out.OneOf = append(out.OneOf, sh)
	}
	return out, nil
}

// typeOf returns the type of a schema and whether it may be null: "nullable" in
// 3.0, a list of types in 3.1. Several types are none.
func typeOf(o object) (name string, nullable bool) {
	nullable = o.flag("nullable")
	if types, ok := list(o["type"]); ok {
		for _, t := range types {
			switch {
			case string(t) == `"null"`:
				nullable = true
			case name != "":
				return "", false
			default:
				_ = json.Unmarshal(t, &name) // anything else is no type
			}
		}
	} else {
		name = o.text("type")
	}
	if name == "" && len(o["properties"]) > 0 {
		name = "object"
	}
	if !slices.Contains([]string{"string", "integer", "number", "boolean", "object", "array"}, name) {
		return "", false
	}
	return name, nullable
}

func list(v jsontext.Value) ([]jsontext.Value, bool) {
	var l []jsontext.Value
	if v.Kind() != '[' || json.Unmarshal(v, &l) != nil {
		return nil, false
	}
	return l, true
}
