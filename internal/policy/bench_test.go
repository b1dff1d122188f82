package policy_test

import (
	"encoding/json/jsontext"
	"fmt"
	"testing"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"

	"github.com/countersign/countersign/internal/policy"
)

const benchTools = 100

func benchSet(b *testing.B, n int) (*policy.Set, cedar.PolicyMap, []policy.ToolType, policy.Request) {
	b.Helper()
	var tts []policy.ToolType
	for i := range benchTools {
		tts = append(tts, policy.ToolType{Connection: fmt.Sprintf("conn%d", i/10), Tool: fmt.Sprintf("tool%d", i), Kind: "mcp", Effect: "write", InputSchema: jsontext.Value(paySchema)})
	}
	text := ""
	files := map[string]string{}
	linear := cedar.PolicyMap{}
	for i := range n {
		effect := "permit"
		if i%10 == 9 {
			effect = "forbid"
		}
		// The first two concern the call; the others are spread over agents,
		// teams and tools as a company's are.
		who, tool := fmt.Sprintf(`principal in Team::"team%d"`, i/10), i%benchTools
		if i < 2 {
			tool = 0
		}
		limit := map[bool]string{true: "<", false: ">="}[effect == "permit"]
		p := fmt.Sprintf("%s (%s, action == Action::\"conn%d/tool%d\", resource == Connection::\"conn%d\") when { context.args.amount_cents %s 500000 && context.args.invoice_id like \"inv-*\" && context.run.calls < 100 };\n", effect, who, tool/10, tool, tool/10, limit)
		var c cedar.Policy
		if err := c.UnmarshalCedar([]byte(p)); err != nil {
			b.Fatal(err)
		}
		linear[cedar.PolicyID(fmt.Sprint(i))] = &c
		if text += p; len(text) > 100<<10 {
			files[fmt.Sprintf("f%05d", i)], text = text, ""
		}
	}
	files["last"] = text
	set, problems, err := policy.Compile(files, nil, tts)
	if err != nil || len(problems) > 0 {
		b.Fatal(problems, err)
	}
	req := policy.Request{
		Agent:  policy.Agent{Name: "agent", Team: "team0", Stage: "production", Owner: "fiona", Labels: map[string]string{"tier": "gold", "region": "eu"}},
		Action: policy.Action{Connection: "conn0", Tool: "tool0", Effect: "write", Kind: "mcp"},
		Args:   jsontext.Value(`{"invoice_id":"inv-2026-000123","amount_cents":125000,"memo":"November hosting","tags":["hosting","cloud"],"to":{"iban":"DE02120300000000202051","name":"Hetzner"}}`),
		Run:    policy.Run{Labels: []string{"untrusted"}, Started: now, Calls: 5}, Caller: policy.Caller{Remote: "10.0.0.7", Credential: "run"}, OnBehalfOf: []string{"fiona"}, Now: now,
	}
	if d := set.Decide(req); d.Effect != policy.Allow {
		b.Fatal(d.Reason)
	}
	return set, linear, tts, req
}

// BenchmarkDecide measures a whole decision, arguments included, against plain
// Cedar's pass over every policy with everything prepared beforehand.
func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 100, 1000, 10000} {
		set, linear, tts, req := benchSet(b, n)
		b.Run(fmt.Sprintf("indexed/policies=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if set.Decide(req).Effect != policy.Allow {
					b.Fatal("denied")
				}
			}
		})
		b.Run(fmt.Sprintf("linear/policies=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			entities, creq := plainRequest(req, tts)
			full := creq.Context.Map()
			full["run"] = types.NewRecord(types.RecordMap{"calls": types.Long(req.Run.Calls)})
			creq.Context = types.NewRecord(full)
			for b.Loop() {
				if d, _ := cedar.Authorize(linear, entities, creq); d != cedar.Allow {
					b.Fatal("denied")
				}
			}
		})
	}
}

// BenchmarkArguments measures what reading the arguments adds: the same
// decision over arguments of several sizes.
func BenchmarkArguments(b *testing.B) {
	set, _, _, req := benchSet(b, 100)
	for name, args := range map[string]string{
		"required":  `{"invoice_id":"inv-1","amount_cents":1}`,
		"160-bytes": string(req.Args),
		"32-KiB":    `{"invoice_id":"inv-1","amount_cents":1,"memo":"` + string(make32k()) + `"}`,
	} {
		req.Args = jsontext.Value(args)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(args)))
			b.ReportAllocs()
			for b.Loop() {
				if set.Decide(req).Effect != policy.Allow {
					b.Fatal("denied")
				}
			}
		})
	}
}

func make32k() []byte {
	b := make([]byte, 32<<10)
	for i := range b {
		b[i] = 'a' + byte(i%26)
	}
	return b
}

func BenchmarkVisible(b *testing.B) {
	set, _, _, req := benchSet(b, 10000)
	for b.Loop() {
		set.Visible(req.Agent, req.Action, now)
	}
}
