package argschema_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/connections/argschema"
)

func TestArguments(t *testing.T) {
	deep := func(open, inner, end string, n int) string {
		return strings.Repeat(open, n) + inner + strings.Repeat(end, n)
	}
	for _, c := range []struct{ schema, args, want string }{
		{`{"type":"object"}`, `{}`, ""},
		{`true`, `{"a":1}`, ""},
		{`{"type":"object","properties":{"a":{"type":"integer"}}}`, `{"a":1.0}`, ""},
		{`{"type":"object","properties":{"a":{"type":"integer"}}}`, `{"a":1.5}`, `argument "a" must be of type integer`},
		{`{"type":"object","properties":{"a":{"type":["string","null"]}}}`, `{"a":null}`, ""},
		{`{"type":"object","properties":{"a":{"type":"string","nullable":true}}}`, `{"a":null}`, ""},
		{`{"type":"object","properties":{"a":{"type":"string"}}}`, `{"a":null}`, `argument "a" must be of type string`},
		{`{"properties":{"a":{"properties":{"b":{"items":{"type":"string"}}}}}}`, `{"a":{"b":["x",2]}}`, `argument "a.b[1]" must be of type string`},
		{`{"required":["a"]}`, `{}`, `the arguments lacks the member "a"`},
		{`{"properties":{"a":{}},"additionalProperties":false}`, `{"a":1,"A":2}`, `has a member that is not allowed: "A"`},
		{`{"properties":{"a":{}},"additionalProperties":false}`, `{"\u0061":1}`, ""},
		{`{"properties":{"a":{}},"additionalProperties":{"type":"string"}}`, `{"b":2}`, `argument "b" must be of type string`},
		{`{"patternProperties":{"^x-":{"type":"string"}},"additionalProperties":false}`, `{"x-a":"1"}`, ""},
		{`{"patternProperties":{"^x-":{"type":"string"}},"additionalProperties":false}`, `{"x-a":1}`, `argument "x-a" must be of type string`},
		{`{"propertyNames":{"maxLength":2}}`, `{"abc":1}`, "whose name is not allowed"},
		{`{"dependentRequired":{"a":["b"]}}`, `{"a":1}`, `lacks the member "b"`},
		{`{"minProperties":1}`, `{}`, "fewer than 1 members"},
		{`{"properties":{"a":{"enum":["x","y"]}}}`, `{"a":"z"}`, `one of the values that are allowed ("x", "y")`},
		{`{"properties":{"a":{"enum":[1,{"b":[1]}]}}}`, `{"a":{"b":[1.0]}}`, ""},
		{`{"properties":{"a":{"const":10}}}`, `{"a":1e1}`, ""},
		{`{"properties":{"a":{"const":10}}}`, `{"a":"10"}`, "the one value"},
		{`{"properties":{"a":{"minimum":9007199254740993}}}`, `{"a":9007199254740992}`, `argument "a" is too small`},
		{`{"properties":{"a":{"maximum":0.3}}}`, `{"a":0.30000000000000001}`, "too large"},
		{`{"properties":{"a":{"exclusiveMaximum":5}}}`, `{"a":5}`, "too large"},
		{`{"properties":{"a":{"minimum":5,"exclusiveMinimum":true}}}`, `{"a":5}`, "too small"},
		{`{"properties":{"a":{"multipleOf":0.01}}}`, `{"a":4.35}`, ""},
		{`{"properties":{"a":{"multipleOf":2}}}`, `{"a":3}`, "not a multiple"},
		{`{"properties":{"a":{"maximum":5}}}`, `{"a":1e999999999}`, "out of all bounds"},
		{`{"properties":{"a":{"maximum":1e999999999}}}`, `{"a":1}`, "out of all bounds"},
		{`{"properties":{"a":{"type":"integer"}}}`, `{"a":1e999999999}`, "must be of type integer"},
		{`{"properties":{"a":{"maxLength":2}}}`, `{"a":"éé"}`, ""},
		{`{"properties":{"a":{"maxLength":2}}}`, `{"a":"eee"}`, "more than 2 characters"},
		{`{"properties":{"a":{"pattern":"^[A-Z]{2}$"}}}`, `{"a":"AB\n"}`, "does not match"},
		{`{"properties":{"a":{"pattern":"^\\u0041$"}}}`, `{"a":"A"}`, ""},
		{`{"properties":{"a":{"pattern":"^(?=x)"}}}`, `{"a":"y"}`, ""}, // Unchecked
		{`{"properties":{"a":{"pattern":"a"}}}`, `{"a":"` + strings.Repeat("x", 70_000) + `"}`, "too long to be checked"},
		{`{"properties":{"a":{"uniqueItems":true}}}`, `{"a":[1,1.0]}`, "an element twice"},
		{`{"properties":{"a":{"prefixItems":[{"type":"string"}],"items":false}}}`, `{"a":["x",1]}`, `argument "a[1]" may not be given`},
		{`{"properties":{"a":{"items":[{"type":"string"}],"additionalItems":false}}}`, `{"a":["x",1]}`, `argument "a[1]" may not be given`},
		{`{"properties":{"a":{"contains":{"type":"string"}}}}`, `{"a":[1]}`, "no element of the kind"},
		{`{"properties":{"a":{"contains":{"type":"string"},"maxContains":1}}}`, `{"a":["x","y"]}`, "more than 1"},
		{`{"properties":{"a":{"anyOf":[{"type":"string"},{"type":"integer"}]}}}`, `{"a":true}`, "none of the forms"},
		{`{"properties":{"a":{"oneOf":[{"minimum":1},{"minimum":2}]}}}`, `{"a":3}`, "exactly one"},
		{`{"not":{"required":["a"]}}`, `{"a":1}`, "not allowed"},
		{`{"allOf":[{"required":["a"]},{"properties":{"a":false}}]}`, `{"a":1}`, "may not be given"},
		{`{"if":{"required":["a"]},"then":{"required":["b"]},"else":{"required":["c"]}}`, `{"a":1}`, `"b"`},
		{`{"if":{"required":["a"]},"then":{"required":["b"]},"else":{"required":["c"]}}`, `{}`, `"c"`},
		{`{"$defs":{"n":{"type":"integer"}},"properties":{"a":{"$ref":"#/$defs/n"}}}`, `{"a":"x"}`, `argument "a" must be of type integer`},
		{`{"$defs":{"n":{"$anchor":"here","type":"integer"}},"properties":{"a":{"$ref":"#here"}}}`, `{"a":"x"}`, "integer"},
		{`{"properties":{"a":{"$ref":"#/$defs/none"}}}`, `{"a":1}`, "refers to nothing"},
		{`{"type":"object","properties":{"next":{"$ref":"#"}},"additionalProperties":false}`, `{"next":{"next":{}}}`, ""},
		{`{"$ref":"#"}`, `{}`, "within bounds"},
		{`{"allOf":[{"$ref":"#"},{"$ref":"#"}]}`, `{}`, "within bounds"},
		{`{"properties":{"a":{"$ref":"https://evil.test/schema"}}}`, `{}`, "refers to another document"},
		{`{"properties":{"a":{"$ref":"other.json#/a"}}}`, `{}`, "refers to another document"},
		{`{"type":"object","type":"string"}`, `{}`, "cannot be read"},
		{`[]`, `{}`, "is not a schema"},
		{`{"properties":{"a":7}}`, `{"a":1}`, "the schema is not one"},
		{`{"type":"object"}`, `{"a":1,"a":2}`, "cannot be read"},
		{`{"type":"object"}`, `{} {}`, "cannot be read"},
		{`{"type":"object"}`, `{"a":` + deep("[", "1", "]", 100) + `}`, "cannot be read"},
		{deep(`{"properties":{"a":`, "true", "}}", 100), `{}`, "cannot be read"},
		{`{"properties":{"a":{"format":"date"}}}`, `{"a":"2026-02-30"}`, "format date"},
		{`{"properties":{"a":{"format":"date-time"}}}`, `{"a":"2026-02-03t10:00:00z"}`, ""},
		{`{"properties":{"a":{"format":"email"}}}`, `{"a":"Ann <ann@example.com>"}`, "format email"},
		{`{"properties":{"a":{"format":"email"}}}`, `{"a":"ann@example.com"}`, ""},
		{`{"properties":{"a":{"format":"uri"}}}`, `{"a":"/x"}`, "format uri"},
		{`{"properties":{"a":{"format":"uuid"}}}`, `{"a":"x"}`, "format uuid"},
		{`{"properties":{"a":{"format":"ipv4"}}}`, `{"a":"1.2.3"}`, "format ipv4"},
		{`{"properties":{"a":{"format":"ipv6"}}}`, `{"a":"::1"}`, ""},
		{`{"properties":{"a":{"format":"hostname"}}}`, `{"a":"a..b"}`, "format hostname"},
		{`{"properties":{"a":{"format":"whatever"}}}`, `{"a":"x"}`, ""},
	} {
		got := argschema.New([]byte(c.schema)).Check([]byte(c.args))
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%.120s\n\t%.80s: %q, want %q", c.schema, c.args, got, c.want)
		}
	}
}

func TestNothingIsSaidOfValues(t *testing.T) {
	got := argschema.New([]byte(`{"properties":{"key":{"enum":[1]}}}`)).Check([]byte(`{"key":"hunter2"}`))
	if got == "" || strings.Contains(got, "hunter2") {
		t.Errorf("%q", got)
	}
}

func TestWhatIsNotChecked(t *testing.T) {
	s := argschema.New([]byte(`{"properties":{"a":{"pattern":"(?=x)"},"b":{"pattern":"((a{100}){10}){10}"}},"unevaluatedProperties":false}`))
	if len(s.Unchecked()) != 3 || s.Unusable() != "" {
		t.Errorf("%q %q", s.Unchecked(), s.Unusable())
	}
}

// hostile schemas and arguments end within bounds.
func hostile() map[string][2]string {
	wide := func(n int, f func(i int) string) string {
		parts := make([]string, n)
		for i := range parts {
			parts[i] = f(i)
		}
		return strings.Join(parts, ",")
	}
	return map[string][2]string{
		"forms within forms": {`{"$defs":{` + wide(30, func(i int) string {
			return fmt.Sprintf(`"d%d":{"anyOf":[{"$ref":"#/$defs/d%d"},{"$ref":"#/$defs/d%d"}]}`, i, i+1, i+1)
		}) + `,"d30":false},"$ref":"#/$defs/d0"}`, `{}`},
		"a heavy pattern":        {`{"properties":{"a":{"pattern":"(x+x+)+y"}}}`, `{"a":"` + strings.Repeat("x", 60_000) + `"}`},
		"a heavy pattern, often": {`{"items":{"pattern":"^(([a-z])+.)+[A-Z]([a-z])+$"}}`, `[` + wide(300, func(int) string { return `"` + strings.Repeat("a", 800) + `"` }) + `]`},
		"many values to compare": {`{"items":{"enum":[` + wide(5_000, func(i int) string { return fmt.Sprintf(`{"a":%d}`, i) }) + `]}}`, `[` + wide(5_000, func(int) string { return `{"a":-1}` }) + `]`},
		"unique":                 {`{"uniqueItems":true}`, `[` + wide(50_000, func(i int) string { return fmt.Sprint(i) }) + `]`},
		"long references":        {`{"items":{"$ref":"#/` + strings.Repeat("a/", 50_000) + `"}}`, `[` + wide(50_000, func(int) string { return "1" }) + `]`},
		"many patterns of names": {`{"patternProperties":{` + wide(2_000, func(i int) string { return fmt.Sprintf(`"^a%d.*b":{}`, i) }) + `}}`, `{` + wide(2_000, func(i int) string { return fmt.Sprintf(`"a%d":1`, i) }) + `}`},
	}
}

func TestHostileSchemasEnd(t *testing.T) {
	for name, c := range hostile() {
		began := time.Now()
		got := argschema.New([]byte(c[0])).Check([]byte(c[1]))
		if name == "forms within forms" && !strings.Contains(got, "within bounds") {
			t.Errorf("%s: %q", name, got)
		}
		t.Logf("%s: %s", name, time.Since(began))
	}
}

func FuzzCheck(f *testing.F) {
	f.Add(`{"type":"object","properties":{"a":{"$ref":"#/properties/a"}}}`, `{"a":1}`)
	f.Add(`{"items":[{"pattern":"a*"}],"uniqueItems":true}`, `["a",1e5]`)
	f.Add(`{"oneOf":[{"const":1},{"enum":[[]]}],"if":true,"else":false}`, `{}`)
	f.Fuzz(func(t *testing.T, schema, args string) {
		s := argschema.New([]byte(schema))
		got := s.Check([]byte(args))
		if again := s.Check([]byte(args)); got != again {
			t.Errorf("%q and then %q", got, again)
		}
		if s.Unusable() != "" && got == "" {
			t.Error("checked against a schema that cannot be used")
		}
	})
}
