package policy_test

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// The least that would have allowed what was done allows all of it, whatever it
// was, and no tool that was not called.
func TestSynthAllowsWhatWasDone(t *testing.T) {
	w := open(t, storagetest.Open(t, storagetest.SQLite(t)))
	const schema = `{"type":"object","properties":{"id":{"type":"string"},"n":{"type":"integer"},"odd name":{"type":"number"},"if":{"type":"boolean"},
		"tags":{"type":"array","items":{"type":"string"}},"to":{"type":"object","properties":{"iban":{"type":"string"},"x.y":{"type":"string"}},"required":["iban"]},"never":{"type":"string"}},"required":["id"]}`
	var tts []policy.ToolType
	for i := range 4 {
		tts = append(tts, policy.ToolType{Connection: []string{"c0", "c1"}[i%2], Kind: "mcp", Tool: fmt.Sprintf("Tool %d", i), Effect: "write", InputSchema: jsontext.Value(schema)})
	}
	w.tools.set(tts)
	w.announce(t)
	w.put(t, "all", permitAll)
	r := rand.New(rand.NewPCG(5, 6))
	bounded := 0
	for round := range 12 {
		agent := fmt.Sprintf("Agent %d", round)
		var calls []policy.Request
		called := map[string]bool{}
		for i := range 1 + r.IntN(25) {
			tt := tts[r.IntN(3)]
			called[tt.Tool] = true
			args := map[string]any{"id": fmt.Sprint("é\"\\", r.IntN(1+round*3))}
			for name, v := range map[string]any{"n": r.Int64() - r.Int64(), "odd name": float64(r.IntN(2e6)-1e6) / 1e4, "if": r.IntN(2+round) == 0, "tags": []string{"a", "b\n", "c"}[:r.IntN(4)],
				"to": map[string]any{"iban": fmt.Sprint(r.IntN(4))}} {
				if r.IntN(3) > 0 {
					args[name] = v
				}
			}
			b, err := json.Marshal(args)
			if err != nil {
				t.Fatal(err)
			}
			level := audit.Full
			if r.IntN(40) == 0 {
				level = audit.Digest
			}
			at := now.Add(time.Duration(i-100) * time.Minute)
			w.made(t, at, audit.CallIntent, agent, tt.Connection+"/"+tt.Tool, string(b), level)
			calls = append(calls, policy.Request{Agent: policy.Agent{Name: agent, Team: "finance"}, Action: policy.Action{Connection: tt.Connection, Tool: tt.Tool}, Args: b, Now: at})
		}
		x, err := w.Synth(ctx, fiona, agent, policy.Window{})
		if err != nil || len(x.Loose) > 0 || x.Calls != int64(len(calls)) || x.Tools != len(called) {
			t.Fatalf("%+v %v", x, err)
		}
		as, problems, err := policy.Compile(nil, x.Grants, tts)
		if err != nil || len(problems) > 0 {
			t.Fatalf("%v %v\n%s", problems, err, x.Cedar)
		}
		asCedar, problems, err := policy.Compile(map[string]string{"synth": x.Cedar}, nil, tts)
		if err != nil || len(problems) > 0 {
			t.Fatalf("%v %v\n%s", problems, err, x.Cedar)
		}
		for _, c := range calls {
			if a, b := as.Decide(c), asCedar.Decide(c); a.Effect != policy.Allow || b.Effect != policy.Allow {
				t.Fatalf("%s\nrefuses %s %s: %s", x.Cedar, c.Action.Tool, c.Args, a.Reason)
			}
		}
		for _, tt := range tts {
			if as.Visible(policy.Agent{Name: agent}, policy.Action{Connection: tt.Connection, Tool: tt.Tool}, now) != called[tt.Tool] {
				t.Errorf("%s: called %v", tt.Tool, called[tt.Tool])
			}
		}
		if strings.Contains(x.Cedar, "when") {
			bounded++
		}
		for _, c := range x.Trial.Changes {
			if c.To != "allow" {
				t.Errorf("in place of what is in force: %+v", c)
			}
		}
	}
	if bounded < 6 {
		t.Errorf("hardly anything was bounded: %d", bounded)
	}
}

func TestSynthSaysWhatIsLeast(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.put(t, "all", permitAll)
		if _, err := w.PutGrant(ctx, fiona, "", policy.Grant{Name: "wide", Agent: "invoice-checker", Connection: "ledger", Tools: []string{"*"}}); err != nil {
			t.Fatal(err)
		}
		for i, cents := range []int{300, 100, 200} {
			w.made(t, now.Add(time.Duration(i-9)*time.Minute), audit.CallIntent, "invoice-checker", "ledger/pay_invoice", fmt.Sprintf(`{"invoice_id":"i","amount_cents":%d}`, cents), audit.Full)
		}
		w.made(t, now.Add(-time.Minute), audit.CallDenied, "invoice-checker", "helpdesk/send_email", `{"to":"x"}`, audit.Full)
		w.made(t, now.Add(-time.Minute), audit.CallIntent, "invoice-checker", "ledger/gone", `{}`, audit.Full)
		x, err := w.Synth(ctx, fiona, "invoice-checker", policy.Window{Since: now.Add(-time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		if len(x.Grants) != 1 || x.Grants[0].Name != "invoice-checker-ledger-pay_invoice" || !strings.Contains(x.Grants[0].When, "context.args.amount_cents >= 100 && context.args.amount_cents <= 300") ||
			!strings.Contains(x.Grants[0].When, `["i"].contains(context.args.invoice_id)`) || x.Gone != 1 || x.Calls != 4 {
			t.Errorf("%+v", x)
		}
		if _, err := w.Synth(ctx, fiona, "nobody", policy.Window{}); !errors.Is(err, policy.ErrNothing) {
			t.Errorf("%v", err)
		}
		if got := w.recorded(t, "policy"); len(got) != 1 {
			t.Errorf("recorded: %v", got)
		}
	})
}
