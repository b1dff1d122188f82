package policy_test

import (
	"bytes"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"math/big"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/policy"
)

const everything = `{"type":"object","properties":{
	"s":{"type":"string"},"n":{"type":"integer"},"d":{"type":"number"},"b":{"type":"boolean"},
	"l":{"type":"array","items":{"type":"string"}},"o":{"type":"object","properties":{"s":{"type":"string"}}},"x":{}}}`

func typed(schema string) []policy.ToolType {
	return []policy.ToolType{{Connection: "c", Kind: "mcp", Tool: "t", Effect: "read", InputSchema: jsontext.Value(schema)}}
}

// sees reports whether, with these arguments, policy finds condition true.
func sees(t testing.TB, schema, args, condition string) policy.Decision {
	t.Helper()
	set, problems, err := policy.Compile(map[string]string{"p": "permit (principal, action == Action::\"c/t\", resource) when { " + condition + " };"}, nil, typed(schema))
	if err != nil || len(problems) > 0 {
		t.Fatalf("%s: %v %v", condition, err, problems)
	}
	return set.Decide(policy.Request{Agent: policy.Agent{Name: "a"}, Action: policy.Action{Connection: "c", Tool: "t"}, Args: jsontext.Value(args), Now: now})
}

func TestNumbers(t *testing.T) {
	for _, c := range []struct{ args, condition string }{
		{`{"n":5}`, `context.args.n == 5`}, {`{"n":5.0}`, `context.args.n == 5`}, {`{"n":5e2}`, `context.args.n == 500`},
		{`{"n":-0}`, `context.args.n == 0`}, {`{"n":1.50e1}`, `context.args.n == 15`}, {`{"n":0e999999999999}`, `context.args.n == 0`},
		{`{"n":9223372036854775807}`, `context.args.n == 9223372036854775807`}, {`{"n":-9223372036854775808}`, `context.args.n == -9223372036854775808`},
		{`{"d":5}`, `context.args.d == decimal("5.0")`}, {`{"d":0.0001}`, `context.args.d == decimal("0.0001")`}, {`{"d":-1.25}`, `context.args.d == decimal("-1.25")`},
		{`{"d":125e-2}`, `context.args.d == decimal("1.25")`}, {`{"d":922337203685477.5807}`, `context.args.d == decimal("922337203685477.5807")`},
		{`{"d":-922337203685477.5808}`, `context.args.d == decimal("-922337203685477.5808")`},
	} {
		guarded := "context.args has " + c.args[2:3] + " && " + c.condition
		if d := sees(t, everything, c.args, guarded); d.Effect != policy.Allow {
			t.Errorf("%s: %s not seen: %s", c.args, c.condition, d.Reason)
		}
	}
	for _, args := range []string{`{"n":1.5}`, `{"n":5e-1}`, `{"n":9223372036854775808}`, `{"n":-9223372036854775809}`, `{"n":1e400}`, `{"n":1e999999999999}`,
		`{"n":1e-999999999999}`, `{"d":0.00001}`, `{"d":922337203685477.5808}`, `{"d":1e15}`, `{"n":true}`, `{"n":"1"}`, `{"n":[1]}`, `{"s":1}`, `{"b":"true"}`, `{"l":"x"}`, `{"l":[1]}`, `{"l":[null]}`, `{"o":[]}`, `{"l":{}}`} {
		d := sees(t, everything, args, "true")
		if d.Effect != policy.Deny || !strings.Contains(d.Reason, `argument "`+args[2:3]+`"`) {
			t.Errorf("%s: %v %s", args, d.Effect, d.Reason)
		}
	}
}

func TestSchemas(t *testing.T) {
	for name, c := range map[string]struct{ schema, args, condition string }{
		"nullable by list":     {`{"type":"object","properties":{"a":{"type":["string","null"]}},"required":["a"]}`, `{"a":"x"}`, `context.args has a && context.args.a == "x"`},
		"nullable null":        {`{"type":"object","properties":{"a":{"type":["string","null"]}},"required":["a"]}`, `{"a":null}`, `!(context.args has a)`},
		"union with null":      {`{"type":"object","properties":{"a":{"anyOf":[{"type":"integer"},{"type":"null"}]}}}`, `{"a":1}`, `context.args has a && context.args.a == 1`},
		"same type twice":      {`{"type":"object","properties":{"a":{"oneOf":[{"type":"string","format":"uri"},{"type":"string"}]}}}`, `{"a":"x"}`, `context.args has a && context.args.a == "x"`},
		"enum":                 {`{"type":"object","properties":{"a":{"enum":["x","y"]}},"required":["a"]}`, `{"a":"x"}`, `context.args.a == "x"`},
		"const":                {`{"type":"object","properties":{"a":{"const":true}},"required":["a"]}`, `{"a":true}`, `context.args.a`},
		"reference":            {`{"type":"object","properties":{"a":{"$ref":"#/$defs/A~1b"}},"$defs":{"A/b":{"type":"object","properties":{"z":{"type":"integer"}},"required":["z"]}},"required":["a"]}`, `{"a":{"z":3}}`, `context.args.a.z == 3`},
		"one of allOf":         {`{"type":"object","properties":{"a":{"allOf":[{"type":"string"}]}},"required":["a"]}`, `{"a":"x"}`, `context.args.a == "x"`},
		"objects in an array":  {`{"type":"object","properties":{"a":{"type":"array","items":{"type":"object","properties":{"z":{"type":"integer"}},"required":["z"]}}},"required":["a"]}`, `{"a":[{"z":1},{"z":1}]}`, `context.args.a == [{"z":1}]`},
		"no schema":            {``, `{"a":1}`, `true`},
		"others are let pass":  {`{"type":"object","properties":{"a":{"type":"string"}}}`, `{"b":[{"c":1}],"a":"x"}`, `context.args has a && context.args.a == "x"`},
		"no arguments":         {everything, ``, `true`},
		"null arguments":       {everything, `null`, `true`},
		"an awkward name":      {`{"type":"object","properties":{"a b\"c":{"type":"string"}},"required":["a b\"c"]}`, `{"a b\"c":"x"}`, `context.args["a b\"c"] == "x"`},
		"an escaped name":      {everything, `{"\u0073":"x"}`, `context.args has s && context.args.s == "x"`},
		"a malformed required": {`{"type":"object","properties":{"a":{"type":"string","required":true}},"required":true}`, `{"a":"x"}`, `context.args has a && context.args.a == "x"`},
	} {
		if d := sees(t, c.schema, c.args, c.condition); d.Effect != policy.Allow {
			t.Errorf("%s: %s", name, d.Reason)
		}
	}
}

// What Cedar cannot express is absent and noted, never of a wrong type.
func TestOpaque(t *testing.T) {
	deep := strings.Repeat(`{"type":"object","properties":{"a":`, 40) + `{"type":"string"}` + strings.Repeat(`}}`, 40)
	bomb := `{"type":"object","properties":{"a":{"$ref":"#/$defs/a0"}},"$defs":{`
	for i := range 14 {
		n := string(rune('a' + i))
		bomb += `"` + n + `0":{"type":"object","properties":{"p":{"$ref":"#/$defs/` + string(rune('a'+i+1)) + `0"},"q":{"$ref":"#/$defs/` + string(rune('a'+i+1)) + `0"}}},`
	}
	bomb += `"o0":{"type":"string"}}}`
	for name, schema := range map[string]string{
		"union":       `{"type":"object","properties":{"a":{"type":["string","integer"]}}}`,
		"anyOf":       `{"type":"object","properties":{"a":{"anyOf":[{"type":"string"},{"type":"integer"}]}}}`,
		"no type":     `{"type":"object","properties":{"a":{}}}`,
		"true":        `{"type":"object","properties":{"a":true}}`,
		"mixed enum":  `{"type":"object","properties":{"a":{"enum":["x",1]}}}`,
		"numbers":     `{"type":"object","properties":{"a":{"enum":[1,2]}}}`,
		"tuple":       `{"type":"object","properties":{"a":{"type":"array","prefixItems":[{"type":"string"}],"items":{"type":"integer"}}}}`,
		"bare array":  `{"type":"object","properties":{"a":{"type":"array"}}}`,
		"cycle":       `{"type":"object","properties":{"a":{"$ref":"#/properties/a"}}}`,
		"elsewhere":   `{"type":"object","properties":{"a":{"$ref":"https://example.com/x"}}}`,
		"dangling":    `{"type":"object","properties":{"a":{"$ref":"#/$defs/none"}}}`,
		"strange":     `{"type":"object","properties":{"a":{"type":"blob"}}}`,
		"not a type":  `{"type":"object","properties":{"a":{"type":7}}}`,
		"a string":    `{"type":"string"}`,
		"not JSON":    `{"type":`,
		"duplicates":  `{"type":"object","type":"string"}`,
		"too deep":    deep,
		"exponential": bomb,
	} {
		set, problems, err := policy.Compile(map[string]string{"p": permitAll}, nil, typed(schema))
		if err != nil || len(problems) > 0 {
			t.Fatalf("%s: %v %v", name, err, problems)
		}
		if _, notes := set.Schema(); len(notes) == 0 {
			t.Errorf("%s: no note", name)
		}
		req := policy.Request{Agent: policy.Agent{Name: "a"}, Action: policy.Action{Connection: "c", Tool: "t"}, Now: now}
		if d := set.Decide(req); d.Effect != policy.Allow {
			t.Errorf("%s: %s", name, d.Reason)
		}
	}
}

func TestToolsThatCannotBeDescribed(t *testing.T) {
	bad := []policy.ToolType{
		{Connection: "a/b", Kind: "mcp", Tool: "t", Effect: "read"}, {Connection: "a", Kind: "mcp", Tool: "", Effect: "read"},
		{Connection: "a", Kind: "mcp", Tool: "t", Effect: "harmless"}, {Connection: "a", Kind: "ftp", Tool: "u", Effect: "read"},
		{Connection: "d", Kind: "mcp", Tool: "t", Effect: "read"}, {Connection: "d", Kind: "mcp", Tool: "t", Effect: "write"},
	}
	set, _, err := policy.Compile(map[string]string{"p": permitAll}, nil, bad)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range bad {
		if d := set.Decide(policy.Request{Agent: policy.Agent{Name: "a"}, Action: policy.Action{Connection: tt.Connection, Tool: tt.Tool}, Now: now}); d.Effect != policy.Deny {
			t.Errorf("%+v was allowed", tt)
		}
	}
	if _, notes := set.Schema(); len(notes) != 5 {
		t.Errorf("%q", notes)
	}
}

// What policy sees must be what encoding/json/v2 sees, and what one refuses as
// malformed the other must refuse too.
func FuzzArgs(f *testing.F) {
	for _, s := range []string{`{}`, `null`, `[]`, `{"s":"x","n":1,"d":1.5,"b":true,"l":["a","b"],"o":{"s":"y"},"x":{"a":[1]}}`, `{"s":"\ud83d\ude00"}`, `{"s":"\ud83d"}`,
		`{"n":1e2}`, `{"n":-0}`, `{"n":1.0}`, `{"n":1,"n":2}`, `{"x":{"a":1,"a":2}}`, ` {"s":null} `, `{"s":"a"}x`, "{\"s\":\"\xff\"}", `{"d":0.0001}`, `{"n":01}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		type object struct {
			S *string        `json:"s"`
			N jsontext.Value `json:"n"`
			B *bool          `json:"b"`
			O *struct {
				S *string `json:"s"`
			} `json:"o"`
			X jsontext.Value `json:"x"`
		}
		got := sees(t, everything, string(raw), "true")
		var v object
		err := json.Unmarshal(raw, &v)
		malformed := !jsontext.Value(raw).IsValid() && len(bytes.TrimSpace(raw)) > 0
		if got.Effect == policy.Allow && len(raw) > 0 && (err != nil || malformed) {
			t.Fatalf("%q: allowed what encoding/json/v2 refuses: %v", raw, err)
		}
		if got.Effect != policy.Allow {
			return
		}
		if v.S != nil {
			quoted := strings.TrimSpace(cedarString(*v.S))
			if d := sees(t, everything, string(raw), "context.args has s && context.args.s == "+quoted); d.Effect != policy.Allow {
				t.Fatalf("%q: s is not %s", raw, quoted)
			}
		}
		if d := sees(t, everything, string(raw), "context.args has s"); (d.Effect == policy.Allow) != (v.S != nil) {
			t.Fatalf("%q: s", raw)
		}
		if v.B != nil {
			if d := sees(t, everything, string(raw), "context.args has b && context.args.b"); (d.Effect == policy.Allow) != *v.B {
				t.Fatalf("%q: b", raw)
			}
		}
		if len(v.N) > 0 && v.N.Kind() == '0' {
			n, ok := new(big.Rat).SetString(string(v.N))
			if !ok || !n.IsInt() || !n.Num().IsInt64() {
				t.Fatalf("%q: allowed a number that is no 64-bit integer", raw)
			}
			if d := sees(t, everything, string(raw), "context.args has n && context.args.n == "+n.Num().String()); d.Effect != policy.Allow {
				t.Fatalf("%q: n is not %s", raw, n)
			}
		}
	})
}

func cedarString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		b.WriteString("\\u{" + big.NewInt(int64(r)).Text(16) + "}")
	}
	return b.String() + `"`
}

// A schema that allows further names does not let one pass that an upstream
// which ignores case would take for a name that policy reads.
func TestNamesThatDifferOnlyInCase(t *testing.T) {
	const open = `{"type":"object","properties":{"amount":{"type":"integer"},"kind":{"type":"string"},"to":{"type":"object","properties":{"iban":{"type":"string"}}}}}`
	for _, args := range []string{`{"Amount":5}`, `{"amount":1,"AMOUNT":5}`, `{"\u0041mount":5}`, "{\"\u212aind\":\"x\"}", `{"to":{"Iban":"x"}}`} {
		if d := sees(t, open, args, "true"); d.Effect != policy.Deny || !strings.Contains(d.Reason, "only in case") {
			t.Errorf("%s: %v %s", args, d.Effect, d.Reason)
		}
	}
	if d := sees(t, open, `{"note":"x","amounts":3}`, "true"); d.Effect != policy.Allow {
		t.Errorf("another name: %s", d.Reason)
	}
}
