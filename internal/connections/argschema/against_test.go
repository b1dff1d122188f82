package argschema_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/countersign/countersign/internal/connections/argschema"
)

// maker makes schemas and values that have something to do with each other.
type maker struct{ *rand.Rand }

func pick[T any](m maker, all ...T) T { return all[m.IntN(len(all))] }

func (m maker) name() string { return pick(m, "a", "b", "c", "ab", "") }

func (m maker) scalar() any {
	return pick[any](m, nil, true, false, "", "a", "ab", "xyz", "é\u00e9", 0, 1, -1, 2.5, 3, json.Number("1.0"), json.Number("1e1"), json.Number("0.1"), json.Number("9007199254740993"))
}

func (m maker) value(depth int) any {
	if depth <= 0 {
		return m.scalar()
	}
	switch m.IntN(4) {
	case 0:
		list := []any{}
		for range m.IntN(4) {
			list = append(list, m.value(depth-1))
		}
		return list
	case 1:
		return m.object(depth)
	}
	return m.scalar()
}

func (m maker) object(depth int) map[string]any {
	out := map[string]any{}
	for range m.IntN(4) {
		out[m.name()] = m.value(depth - 1)
	}
	return out
}

func (m maker) schemas(depth int) []any {
	out := []any{}
	for range 1 + m.IntN(2) {
		out = append(out, m.schema(depth-1))
	}
	return out
}

func (m maker) schemasByName(depth int) map[string]any {
	out := map[string]any{}
	for range 1 + m.IntN(3) {
		out[m.name()] = m.schema(depth - 1)
	}
	return out
}

func (m maker) names() []any {
	out := []any{}
	for _, n := range []string{"a", "b", "c"} {
		if m.IntN(3) == 0 {
			out = append(out, n)
		}
	}
	return out
}

// schema makes one of a few keywords.
func (m maker) schema(depth int) any {
	if depth <= 0 {
		return pick[any](m, true, map[string]any{}, map[string]any{"type": m.kind()}, map[string]any{"$ref": "#/$defs/x"})
	}
	if m.IntN(12) == 0 {
		return pick[any](m, true, false)
	}
	out := map[string]any{}
	for range 1 + m.IntN(3) {
		m.keyword(out, depth)
	}
	return out
}

func (m maker) kind() string {
	return pick(m, "object", "array", "string", "number", "integer", "boolean", "null")
}

func (m maker) keyword(out map[string]any, depth int) {
	small, pattern := m.IntN(3), pick(m, "^a", "b$", "^[a-c]+$", "x.z", "")
	switch m.IntN(27) {
	case 0:
		out["type"] = m.kind()
	case 1:
		out["type"] = []any{"string", pick(m, "null", "object", "integer")}
	case 2:
		out["enum"] = []any{m.value(1), m.value(0), m.value(0)}
	case 3:
		out["const"] = m.value(1)
	case 4:
		out[pick(m, "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")] = pick[any](m, 0, 1, 2.5, json.Number("9007199254740992"))
	case 5:
		out["multipleOf"] = pick[any](m, 1, 2, 0.5, json.Number("0.1"))
	case 6:
		out[pick(m, "minLength", "maxLength")] = small
	case 7:
		out["pattern"] = pattern
	case 8:
		out["required"] = m.names()
	case 9, 10, 11:
		out["properties"] = m.schemasByName(depth)
	case 12:
		out["patternProperties"] = map[string]any{pattern: m.schema(depth - 1)}
	case 13, 14:
		out["additionalProperties"] = m.schema(depth - 1)
	case 15:
		out["propertyNames"] = m.schema(depth - 1)
	case 16:
		out[pick(m, "minProperties", "maxProperties")] = small
	case 17:
		out["items"] = m.schema(depth - 1)
	case 18:
		out["prefixItems"] = m.schemas(depth)
	case 19:
		out["contains"] = m.schema(depth - 1)
		if m.IntN(2) == 0 {
			out[pick(m, "minContains", "maxContains")] = small
		}
	case 20:
		out["uniqueItems"] = true
	case 21:
		out[pick(m, "minItems", "maxItems")] = small
	case 22:
		out[pick(m, "allOf", "anyOf", "oneOf")] = m.schemas(depth)
	case 23:
		out["not"] = m.schema(depth - 1)
	case 24:
		out["if"], out[pick(m, "then", "else")] = m.schema(depth-1), m.schema(depth-1)
	case 25:
		out["dependentRequired"] = map[string]any{m.name(): m.names()}
	case 26:
		out[pick(m, "dependentSchemas", "dependencies")] = m.schemasByName(depth)
	}
}

// What is right and wrong is the same as by a library that passes the official
// test suite of JSON Schema (draft 2020-12).
func TestAgainstALibrary(t *testing.T) {
	fits, misfits := 0, 0
	for seed := range uint64(8_000) {
		m := maker{rand.New(rand.NewPCG(seed, 1))}
		schema := map[string]any{"$defs": map[string]any{"x": m.schema(1)}}
		for range 2 + m.IntN(3) {
			m.keyword(schema, 3)
		}
		raw, args := encode(t, schema), encode(t, m.object(3))
		want, err := byLibrary(raw, args)
		if err != nil {
			continue // a schema that refers to itself without end, or that the library does not take
		}
		got := argschema.New(raw).Check(args)
		if strings.HasSuffix(got, "within bounds") {
			continue // refused: the library knows that a schema goes round in a circle, we do not
		}
		if (got == "") != want {
			t.Errorf("seed %d: %s\n%s\nis %v here, %v there: %s", seed, raw, args, got == "", want, got)
			if misfits++; t.Failed() && misfits > 5 {
				return
			}
		}
		if want {
			fits++
		}
	}
	if fits < 800 || fits > 7_200 {
		t.Errorf("%d of 8,000 fit: they say little", fits)
	}
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func byLibrary(schema, args []byte) (fits bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	c := jsonschema.NewCompiler()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		return false, err
	}
	if err := c.AddResource("mem:///s.json", doc); err != nil {
		return false, err
	}
	s, err := c.Compile("mem:///s.json")
	if err != nil {
		return false, err
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(args))
	if err != nil {
		return false, err
	}
	return s.Validate(v) == nil, nil
}
