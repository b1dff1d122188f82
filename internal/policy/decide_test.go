package policy_test

import (
	"encoding/json/jsontext"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/policy"
)

var now = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

const paySchema = `{"type":"object","properties":{
	"invoice_id":{"type":"string"},"amount_cents":{"type":"integer"},"rate":{"type":"number"},
	"memo":{"anyOf":[{"type":"string"},{"type":"null"}]},"tags":{"type":"array","items":{"type":"string"}},
	"to":{"type":"object","properties":{"iban":{"type":"string"},"name":{"type":"string"}},"required":["iban"]},
	"anything":{}},
	"required":["invoice_id","amount_cents"],"additionalProperties":false}`

func tools() []policy.ToolType {
	return []policy.ToolType{
		{Connection: "ledger", Kind: "mcp", Tool: "pay_invoice", Effect: "irreversible", InputSchema: jsontext.Value(paySchema)},
		{Connection: "ledger", Kind: "mcp", Tool: "list_invoices", Effect: "read", InputSchema: jsontext.Value(`{"type":"object","properties":{"status":{"type":"string"}}}`)},
		{Connection: "helpdesk", Kind: "mcp", Tool: "send_email", Effect: "write", InputSchema: jsontext.Value(`{"type":"object","properties":{"to":{"type":"string"}},"required":["to"]}`)},
		{Connection: "openai", Kind: "llm", Tool: "chat.completions", Effect: "read", InputSchema: jsontext.Value(`{"type":"object","properties":{"model":{"type":"string"},"max_tokens":{"type":"integer"},"stream":{"type":"boolean"},"tools":{"type":"array","items":{"type":"string"}}},"required":["model","stream"]}`)},
	}
}

// pay is a request that names a tool of the ledger.
func pay(args string) policy.Request {
	return policy.Request{
		Agent:  policy.Agent{Name: "invoice-checker", Team: "finance", Stage: "production", Owner: "fiona", Labels: map[string]string{"tier": "gold"}},
		Action: policy.Action{Connection: "ledger", Tool: "pay_invoice", Effect: "irreversible", Kind: "mcp"},
		Args:   jsontext.Value(args), Run: policy.Run{Labels: []string{"untrusted"}, Started: now.Add(-time.Minute), Calls: 3},
		Caller: policy.Caller{Remote: "10.0.0.7", Credential: "run"}, OnBehalfOf: []string{"fiona"}, Now: now,
		Release: policy.Release{Number: 4, Stage: "production", Canary: true}, Budget: &policy.Budget{Left: 12, Limited: true, Soft: true},
	}
}

func compile(t testing.TB, text string, grants ...policy.Grant) *policy.Set {
	t.Helper()
	set, problems, err := policy.Compile(map[string]string{"test": text}, grants, tools())
	if err != nil || len(problems) > 0 {
		t.Fatalf("compile: %v %v", err, problems)
	}
	return set
}

const permitAll = `@id("all") permit (principal, action, resource);`

func TestDecide(t *testing.T) {
	const args = `{"invoice_id":"i-1","amount_cents":600000}`
	grant := func(g policy.Grant) []policy.Grant {
		g.Name, g.Connection = "pay", "ledger"
		if g.Agent == "" {
			g.Agent = "invoice-checker"
		}
		if g.Tools == nil {
			g.Tools = []string{"pay_invoice"}
		}
		return []policy.Grant{g}
	}
	for name, c := range map[string]struct {
		policies string
		grants   []policy.Grant
		args     string
		want     policy.Effect
		policy   []string
		grant    []string
		reason   string
	}{
		"nothing matches: deny":                 {want: policy.Deny, reason: "no grant or policy allows"},
		"a permit allows":                       {policies: permitAll, want: policy.Allow, policy: []string{"all"}},
		"a permit for another agent does not":   {policies: `permit (principal == Agent::"other", action, resource);`, want: policy.Deny},
		"a grant allows":                        {grants: grant(policy.Grant{}), want: policy.Allow, grant: []string{"pay"}},
		"a grant of all tools allows":           {grants: grant(policy.Grant{Tools: []string{"*"}}), want: policy.Allow, grant: []string{"pay"}},
		"a grant of another tool does not":      {grants: grant(policy.Grant{Tools: []string{"list_invoices"}}), want: policy.Deny},
		"a grant to another agent does not":     {grants: grant(policy.Grant{Agent: "other"}), want: policy.Deny},
		"a grant's condition holds":             {grants: grant(policy.Grant{When: "context.args.amount_cents < 1000000"}), want: policy.Allow, grant: []string{"pay"}},
		"a grant's condition does not hold":     {grants: grant(policy.Grant{When: "context.args.amount_cents < 1000"}), want: policy.Deny, reason: "grant pay would, but the conditions do not hold"},
		"a grant that expires later counts":     {grants: grant(policy.Grant{Expires: now.Add(time.Second)}), want: policy.Allow, grant: []string{"pay"}},
		"a grant that expires now counts not":   {grants: grant(policy.Grant{Expires: now}), want: policy.Deny},
		"a forbid beats a permit":               {policies: permitAll + `@id("no") @advice("ask Fiona") forbid (principal, action == Action::"ledger/pay_invoice", resource);`, want: policy.Deny, policy: []string{"no"}, reason: "ask Fiona"},
		"an approval-forbid holds":              {policies: permitAll + `@id("big") @approval("finance-controllers") forbid (principal, action == Action::"ledger/pay_invoice", resource) when { context.args.amount_cents >= 500000 };`, want: policy.Hold, policy: []string{"all", "big"}, reason: "needs approval by finance-controllers (policy big)"},
		"below the limit it does not":           {policies: permitAll + `@id("big") @approval("finance-controllers") forbid (principal, action == Action::"ledger/pay_invoice", resource) when { context.args.amount_cents >= 500000 };`, args: `{"invoice_id":"i-1","amount_cents":499999}`, want: policy.Allow, policy: []string{"all"}},
		"approval cannot replace a permit":      {policies: `@approval("finance-controllers") forbid (principal, action, resource);`, want: policy.Deny, reason: "no grant or policy allows"},
		"a plain forbid beats a hold":           {policies: permitAll + `@approval("a") forbid (principal, action, resource); @id("no") forbid (principal, action, resource);`, want: policy.Deny, policy: []string{"no"}},
		"an error in a forbid denies":           {policies: permitAll + `@id("sum") forbid (principal, action == Action::"ledger/pay_invoice", resource) when { context.args.amount_cents + 9223372036854775807 > 0 };`, want: policy.Deny, policy: []string{"sum"}, reason: "could not be evaluated"},
		"an error in an approval-forbid denies": {policies: permitAll + `@id("sum") @approval("a") forbid (principal, action == Action::"ledger/pay_invoice", resource) when { context.args.amount_cents + 9223372036854775807 > 0 };`, want: policy.Deny, policy: []string{"sum"}},
		"a forbid out of scope does not err":    {policies: permitAll + `forbid (principal == Agent::"other", action == Action::"ledger/pay_invoice", resource) when { context.args.amount_cents + 9223372036854775807 > 0 };`, want: policy.Allow, policy: []string{"all"}},
		"an error in a permit does not allow":   {policies: `@id("sum") permit (principal, action == Action::"ledger/pay_invoice", resource) when { context.args.amount_cents + 9223372036854775807 > 0 };`, want: policy.Deny},
		"nor does it stop another":              {policies: permitAll + `@id("sum") permit (principal, action == Action::"ledger/pay_invoice", resource) when { context.args.amount_cents + 9223372036854775807 > 0 };`, want: policy.Allow, policy: []string{"all"}},
		"the connection is a group":             {policies: `permit (principal, action in Action::"ledger", resource);`, want: policy.Allow, policy: []string{"test#1"}},
		"another connection is another group":   {policies: `permit (principal, action in Action::"helpdesk", resource);`, want: policy.Deny},
		"the effect is a group":                 {policies: permitAll + `@id("irr") forbid (principal, action in Action::"effect:irreversible", resource);`, want: policy.Deny, policy: []string{"irr"}},
		"the kind is a group":                   {policies: `@id("k") permit (principal, action in [Action::"kind:llm", Action::"kind:mcp"], resource);`, want: policy.Allow, policy: []string{"k"}},
		"the resource is the connection":        {policies: `@id("r") permit (principal, action, resource == Connection::"ledger");`, want: policy.Allow, policy: []string{"r"}},
		"in several groups counts once":         {policies: `@id("k") permit (principal, action in [Action::"kind:mcp", Action::"ledger", Action::"effect:irreversible", Action::"ledger/pay_invoice"], resource);`, want: policy.Allow, policy: []string{"k"}},
		"the team is a parent":                  {policies: `@id("t") permit (principal in Team::"finance", action, resource);`, want: policy.Allow, policy: []string{"t"}},
		"the stage is a parent":                 {policies: `@id("t") permit (principal in Stage::"production", action, resource);`, want: policy.Allow, policy: []string{"t"}},
		"another stage is not":                  {policies: `@id("t") permit (principal in Stage::"staging", action, resource);`, want: policy.Deny},
		"a label is a parent":                   {policies: `@id("t") permit (principal in Label::"tier", action, resource);`, want: policy.Allow, policy: []string{"t"}},
		"a label with its value is a parent":    {policies: `@id("t") permit (principal in Label::"tier=gold", action, resource);`, want: policy.Allow, policy: []string{"t"}},
		"a label is a tag":                      {policies: `@id("t") permit (principal, action, resource) when { principal.hasTag("tier") && principal.getTag("tier") == "gold" };`, want: policy.Allow, policy: []string{"t"}},
		"the agent has attributes":              {policies: `@id("t") permit (principal, action, resource) when { principal.owner == "fiona" && principal.team == "finance" && principal.stage == "production" && principal.name like "invoice-*" && resource.kind == "mcp" && resource.name == "ledger" };`, want: policy.Allow, policy: []string{"t"}},
		"the run is context":                    {policies: `@id("t") permit (principal, action, resource) when { context.run.labels.contains("untrusted") && context.run.age_seconds == 60 && context.run.calls == 3 };`, want: policy.Allow, policy: []string{"t"}},
		"the caller is context":                 {policies: `@id("t") permit (principal, action, resource) when { context.caller.remote == "10.0.0.7" && context.caller.credential == "run" && context.on_behalf_of.contains("fiona") };`, want: policy.Allow, policy: []string{"t"}},
		"the release is context":                {policies: `@id("t") permit (principal, action, resource) when { context.release.number == 4 && context.release.stage == "production" && context.release.canary && context.release.pinned };`, want: policy.Allow, policy: []string{"t"}},
		"what is left of budgets is context":    {policies: `@id("t") permit (principal, action, resource) when { context.budget.left_percent == 12 && context.budget.limited && context.budget.soft_passed };`, want: policy.Allow, policy: []string{"t"}},
		"a budget that runs low holds":          {policies: permitAll + `@id("low") @approval("a") forbid (principal, action, resource) when { context.budget.left_percent < 20 };`, want: policy.Hold, policy: []string{"all", "low"}},
		"no person, no user":                    {policies: `@id("t") permit (principal, action, resource) when { context has user };`, want: policy.Deny},
		"the context as a whole":                {policies: `@id("t") permit (principal, action, resource) when { (if principal.name == "x" then context else context).caller.remote == "10.0.0.7" };`, want: policy.Allow, policy: []string{"t"}},
		"the time is context":                   {policies: `@id("t") permit (principal, action, resource) when { context.now > datetime("2026-11-20") && context.now.toTime() == duration("12h") };`, want: policy.Allow, policy: []string{"t"}},
		"nested arguments are seen":             {policies: `@id("t") permit (principal, action == Action::"ledger/pay_invoice", resource) when { context.args has to.name && context.args.to.name == "Anna" && context.args has rate && context.args.rate.lessThan(decimal("1.5")) && context.args has tags && context.args.tags.contains("x") };`, args: `{"invoice_id":"i","amount_cents":1,"rate":1.25,"tags":["x","y"],"to":{"iban":"DE","name":"Anna"}}`, want: policy.Allow, policy: []string{"t"}},
		"null is absent":                        {policies: `@id("t") permit (principal, action == Action::"ledger/pay_invoice", resource) unless { context.args has memo };`, args: `{"invoice_id":"i","amount_cents":1,"memo":null}`, want: policy.Allow, policy: []string{"t"}},
		"a missing required argument denies":    {policies: permitAll, args: `{"invoice_id":"i"}`, want: policy.Deny, reason: `argument "amount_cents" is required`},
		"a required null denies":                {policies: permitAll, args: `{"invoice_id":"i","amount_cents":null}`, want: policy.Deny, reason: `argument "amount_cents" is required`},
		"a nested missing argument denies":      {policies: permitAll, args: `{"invoice_id":"i","amount_cents":1,"to":{}}`, want: policy.Deny, reason: `argument "to.iban" is required`},
		"an unknown argument denies":            {policies: permitAll, args: `{"invoice_id":"i","amount_cents":1,"sudo":true}`, want: policy.Deny, reason: `argument "sudo" is not in the tool's schema`},
		"a wrong type denies":                   {policies: permitAll, args: `{"invoice_id":"i","amount_cents":"1"}`, want: policy.Deny, reason: `argument "amount_cents" must be an integer`},
		"a fraction for an integer denies":      {policies: permitAll, args: `{"invoice_id":"i","amount_cents":1.5}`, want: policy.Deny, reason: `argument "amount_cents" must be an integer`},
		"a number too precise denies":           {policies: permitAll, args: `{"invoice_id":"i","amount_cents":1,"rate":0.12345}`, want: policy.Deny, reason: `argument "rate" is a number that policy cannot represent`},
		"an integer too large denies":           {policies: permitAll, args: `{"invoice_id":"i","amount_cents":9223372036854775808}`, want: policy.Deny, reason: `argument "amount_cents"`},
		"duplicate names deny":                  {policies: permitAll, args: `{"invoice_id":"i","amount_cents":1,"amount_cents":9}`, want: policy.Deny, reason: "duplicate name"},
		"duplicates in what is not seen deny":   {policies: permitAll, args: `{"invoice_id":"i","amount_cents":1,"anything":{"a":1,"\u0061":2}}`, want: policy.Deny, reason: "duplicate name"},
		"invalid UTF-8 denies":                  {policies: permitAll, args: "{\"invoice_id\":\"\xff\",\"amount_cents\":1}", want: policy.Deny, reason: "not valid JSON"},
		"trailing data denies":                  {policies: permitAll, args: `{"invoice_id":"i","amount_cents":1}{}`, want: policy.Deny, reason: "followed by other data"},
		"an array of arguments denies":          {policies: permitAll, args: `[1]`, want: policy.Deny, reason: "must be a JSON object"},
		"depth denies":                          {policies: permitAll, args: `{"invoice_id":"i","amount_cents":1,"anything":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`, want: policy.Deny, reason: "nested deeper"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.args == "" {
				c.args = args
			}
			d := compile(t, c.policies, c.grants...).Decide(pay(c.args))
			if d.Effect != c.want || !strings.Contains(d.Reason, c.reason) {
				t.Errorf("got %v: %s %v", d.Effect, d.Reason, d.Errors)
			}
			if c.want != policy.Deny || c.policy != nil {
				if !slices.Equal(d.Policies, c.policy) || !slices.Equal(d.Grants, c.grant) {
					t.Errorf("determined by %q %q", d.Policies, d.Grants)
				}
			}
		})
	}
}

func TestHolds(t *testing.T) {
	set := compile(t, permitAll+`
		@id("big") @approval("finance-controllers, cfo") @quorum("2") @decide_within("2h") @execute_within("10m") @advice("name the supplier")
		forbid (principal, action == Action::"ledger/pay_invoice", resource) when { context.args.amount_cents > 5 };
		@id("untrusted") @approval("security") forbid (principal, action in Action::"effect:irreversible", resource) when { context.run.labels.contains("untrusted") };
		@id("other") @approval("nobody") forbid (principal, action, resource) when { context.args has memo };`)
	d := set.Decide(pay(`{"invoice_id":"i","amount_cents":10}`))
	want := []policy.Needed{
		{Policy: "big", Groups: []string{"finance-controllers", "cfo"}, Quorum: 2, DecideWithin: 2 * time.Hour, ExecuteWithin: 10 * time.Minute, Advice: "name the supplier"},
		{Policy: "untrusted", Groups: []string{"security"}, Quorum: 1, DecideWithin: policy.DefaultDecideWithin, ExecuteWithin: policy.DefaultExecuteWithin},
	}
	if d.Effect != policy.Hold || !slices.EqualFunc(d.Holds, want, func(a, b policy.Needed) bool {
		return a.Policy == b.Policy && slices.Equal(a.Groups, b.Groups) && a.Quorum == b.Quorum && a.DecideWithin == b.DecideWithin && a.ExecuteWithin == b.ExecuteWithin && a.Advice == b.Advice
	}) {
		t.Errorf("got %v %+v: %s", d.Effect, d.Holds, d.Reason)
	}
	if !slices.Equal(d.Advice, []string{"name the supplier"}) || len(d.Version) != 16 {
		t.Errorf("advice %q version %q", d.Advice, d.Version)
	}
}

func TestUnknownTool(t *testing.T) {
	set := compile(t, permitAll)
	for name, a := range map[string]policy.Action{
		"tool":       {Connection: "ledger", Tool: "delete_all"},
		"connection": {Connection: "nowhere", Tool: "pay_invoice"},
		"effect":     {Connection: "ledger", Tool: "pay_invoice", Effect: "read"},
		"kind":       {Connection: "ledger", Tool: "pay_invoice", Kind: "http"},
	} {
		req := pay(`{"invoice_id":"i","amount_cents":1}`)
		req.Action = a
		if d := set.Decide(req); d.Effect != policy.Deny {
			t.Errorf("%s: %v", name, d)
		}
	}
	req := pay(`{"invoice_id":"i","amount_cents":1}`)
	req.Agent = policy.Agent{}
	if d := set.Decide(req); d.Effect != policy.Deny {
		t.Error("nobody was allowed")
	}
}

// A policy that a tool's new schema leaves behind must not be skipped.
func TestSchemaMovesAway(t *testing.T) {
	files := map[string]string{"f": permitAll + `
		@id("has") forbid (principal, action == Action::"ledger/pay_invoice", resource) when { context.args has amount_cents && context.args.amount_cents > 100 };`}
	moved := tools()
	moved[0].InputSchema = jsontext.Value(`{"type":"object","properties":{"amount":{"type":"integer"}}}`)
	set, problems, err := policy.Compile(files, nil, moved)
	if err != nil || len(problems) != 1 || !strings.Contains(problems[0].Message, "did you mean amount?") {
		t.Fatalf("%v %v", problems, err)
	}
	d := set.Decide(pay(`{"amount":1000}`))
	if d.Effect != policy.Deny || !slices.Equal(d.Policies, []string{"has"}) {
		t.Errorf("%v %s", d.Effect, d.Reason)
	}
	list := pay(`{}`)
	list.Action = policy.Action{Connection: "ledger", Tool: "list_invoices"}
	if d := set.Decide(list); d.Effect != policy.Allow {
		t.Errorf("a tool that did not change: %s", d.Reason)
	}

	// In a group, only the tool that moved is denied; a permit stops counting.
	files = map[string]string{"f": `@id("group") permit (principal, action in [Action::"ledger/pay_invoice", Action::"helpdesk/send_email"], resource) when { context.args has to };
		@id("len") forbid (principal, action in Action::"ledger", resource) when { context.args has amount_cents && context.args.amount_cents > 100 };`}
	moved[0].InputSchema = jsontext.Value(`{"type":"object","properties":{"amount_cents":{"type":"string"}}}`)
	set, problems, _ = policy.Compile(files, nil, moved)
	if len(problems) == 0 {
		t.Fatal("a changed type was not noticed")
	}
	if d := set.Decide(pay(`{"amount_cents":"1000"}`)); d.Effect != policy.Deny || !slices.Equal(d.Policies, []string{"len"}) {
		t.Errorf("%v %s", d.Effect, d.Reason)
	}
}

func TestBrokenFileDeniesEverything(t *testing.T) {
	set, problems, err := policy.Compile(map[string]string{"good": permitAll, "bad": "forbid (principal"}, nil, tools())
	if err != nil || len(problems) != 1 {
		t.Fatal(problems, err)
	}
	if d := set.Decide(pay(`{"invoice_id":"i","amount_cents":1}`)); d.Effect != policy.Deny || !strings.Contains(d.Reason, "bad") {
		t.Errorf("%v %s", d.Effect, d.Reason)
	}
}

func TestGrantWhenIsOneExpression(t *testing.T) {
	for _, when := range []string{
		"true }; permit (principal, action, resource) when { true", "true } unless { false", "true }; //", "", "true } when { true",
		"true\n};\npermit(principal,action,resource);\n//", "(", "context.args.amount_cent < 5", "principal in Stage::\"prod\"",
	} {
		g := policy.Grant{Name: "g", Agent: "a", Connection: "ledger", Tools: []string{"pay_invoice"}, When: when}
		_, problems, err := policy.Compile(nil, []policy.Grant{g}, tools())
		if err != nil || (len(problems) == 0) != (when == "") {
			t.Errorf("%q: %v %v", when, problems, err)
		}
	}
}

func TestWhy(t *testing.T) {
	set := compile(t, permitAll+`@id("no") forbid (principal, action in Action::"ledger", resource) when { context.args has amount_cents && context.args.amount_cents > 5 };
		@id("near") permit (principal == Agent::"other", action in Action::"ledger", resource);
		@id("far") permit (principal, action in Action::"helpdesk", resource);`)
	x := set.Why(pay(`{"invoice_id":"i","amount_cents":10}`))
	var got []string
	for _, r := range x.Rules {
		got = append(got, r.ID)
	}
	if x.Decision.Effect != policy.Deny || !slices.Equal(got, []string{"no", "all", "near"}) || !x.Rules[0].Satisfied || x.Rules[2].Scope || x.Rules[0].Line != 1 {
		t.Errorf("%+v", x)
	}
	if len(x.Notes) != 1 || !strings.Contains(x.Notes[0], "anything") {
		t.Errorf("notes %q", x.Notes)
	}
	if x := set.Why(pay(`{"invoice_id":"i"}`)); len(x.Rules) != 3 || x.Decision.Effect != policy.Deny {
		t.Errorf("%+v", x)
	}
}

func TestCases(t *testing.T) {
	set := compile(t, permitAll+`@id("big") @approval("f") forbid (principal, action == Action::"ledger/pay_invoice", resource) when { context.args.amount_cents > 5 };`)
	got := set.Test([]policy.Case{
		{Name: "small", Agent: "a", Tool: "ledger/pay_invoice", Args: map[string]any{"invoice_id": "i", "amount_cents": 1}, Expect: "allow", By: []string{"all"}},
		{Name: "big", Agent: "a", Tool: "ledger/pay_invoice", Args: map[string]any{"invoice_id": "i", "amount_cents": 10}, Expect: "hold", By: []string{"big"}},
		{Agent: "a", Tool: "ledger/pay_invoice", Expect: "allow"},
		{Agent: "a", Tool: "pay_invoice", Expect: "deny"},
		{Agent: "a", Tool: "ledger/list_invoices", Expect: "yes"},
		{Agent: "a", Tool: "ledger/list_invoices", Expect: "allow", By: []string{"big"}},
	}, now)
	for i, want := range []bool{true, true, false, false, false, false} {
		if got[i].Passed != want || (got[i].Problem == "") != want {
			t.Errorf("case %d: %+v", i, got[i])
		}
	}
}
