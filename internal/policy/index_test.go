package policy_test

import (
	"encoding/json/jsontext"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"

	"github.com/countersign/countersign/internal/policy"
)

// The index must change nothing but the time: the same decision as plain Cedar
// over every policy, under our rules for combining what it says.

func pick(r *rand.Rand, from ...string) string { return from[r.IntN(len(from))] }

func randomPolicy(r *rand.Rand, i int) string {
	agent := func() string { return fmt.Sprintf(`Agent::"a%d"`, r.IntN(4)) }
	tool := func() string { return fmt.Sprintf(`Action::"c%d/t%d"`, r.IntN(3), r.IntN(3)) }
	group := func() string {
		return pick(r, `Action::"c0"`, `Action::"c1"`, `Action::"effect:read"`, `Action::"effect:write"`, `Action::"kind:mcp"`, `Action::"kind:llm"`, tool())
	}
	principal := pick(r, "principal", "principal == "+agent(), "principal in "+agent(), `principal in Team::"m0"`, `principal in Team::"m1"`, `principal in Stage::"staging"`,
		"principal is Agent", `principal is Agent in Team::"m1"`, `principal in Label::"l0"`, `principal in Label::"l1=v0"`)
	act := pick(r, "action", "action == "+tool(), "action in "+group(), "action in ["+group()+", "+group()+", "+tool()+"]", "action == "+tool(), "action == "+tool())
	resource := pick(r, "resource", "resource", "resource", `resource == Connection::"c0"`, `resource in Connection::"c1"`, "resource is Connection", `resource is Connection in Connection::"c2"`)
	condition := pick(r, "", "", "when { context.args has n }", "when { context.args has n && context.args.n > 5 }", "when { context.args has n && context.args.n + 9223372036854775800 > 0 }",
		"unless { context.run.calls > 4 }", "when { context.run.calls * 9223372036854775807 > 1 }", `when { principal in Team::"m1" }`)
	effect := pick(r, "permit", "permit", "permit", "forbid")
	if effect == "forbid" && r.IntN(2) == 0 {
		effect = fmt.Sprintf(`@approval("g%d") forbid`, r.IntN(3))
	}
	return fmt.Sprintf("@id(\"p%d\") %s (%s, %s, %s) %s;\n", i, effect, principal, act, resource, condition)
}

func randomTools() []policy.ToolType {
	var tts []policy.ToolType
	for c := range 3 {
		for i := range 3 {
			tts = append(tts, policy.ToolType{Connection: fmt.Sprintf("c%d", c), Tool: fmt.Sprintf("t%d", i), Kind: []string{"mcp", "llm", "mcp"}[c], Effect: []string{"read", "write", "irreversible"}[i],
				InputSchema: jsontext.Value(`{"type":"object","properties":{"n":{"type":"integer"}}}`)})
		}
	}
	return tts
}

func randomRequest(r *rand.Rand) policy.Request {
	req := policy.Request{
		Agent:  policy.Agent{Name: fmt.Sprintf("a%d", r.IntN(4)), Team: fmt.Sprintf("m%d", r.IntN(3)), Stage: pick(r, "staging", "production"), Labels: map[string]string{}},
		Action: policy.Action{Connection: fmt.Sprintf("c%d", r.IntN(3)), Tool: fmt.Sprintf("t%d", r.IntN(3))},
		Args:   jsontext.Value(pick(r, `{}`, `{"n":1}`, `{"n":10}`, `{"n":9000}`)), Run: policy.Run{Calls: int64(r.IntN(8))}, Now: now,
	}
	for i := range r.IntN(3) {
		req.Agent.Labels[fmt.Sprintf("l%d", i)] = fmt.Sprintf("v%d", r.IntN(2))
	}
	return req
}

// plainly decides by plain Cedar over all policies, in the entities and
// context that the design describes.
func plainly(t testing.TB, all map[string]*cedar.Policy, req policy.Request, tts []policy.ToolType) (effect policy.Effect, by, errs []string) {
	permits, forbids := cedar.PolicyMap{}, cedar.PolicyMap{}
	for id, p := range all {
		if p.Effect() == cedar.Forbid {
			forbids[cedar.PolicyID(id)] = p
		} else {
			permits[cedar.PolicyID(id)] = p
		}
	}
	entities, creq := plainRequest(req, tts)
	_, f := cedar.Authorize(forbids, entities, creq)
	_, p := cedar.Authorize(permits, entities, creq)
	var plain, holds, failed, allow []string
	for _, x := range f.Errors {
		failed = append(failed, string(x.PolicyID))
	}
	for _, x := range f.Reasons {
		if _, held := all[string(x.PolicyID)].Annotations()["approval"]; held {
			holds = append(holds, string(x.PolicyID))
		} else {
			plain = append(plain, string(x.PolicyID))
		}
	}
	for _, x := range p.Reasons {
		allow = append(allow, string(x.PolicyID))
	}
	errs = slices.Clone(failed)
	switch {
	case len(plain) > 0:
		by = plain
	case len(failed) > 0:
		by = failed
	default:
		for _, x := range p.Errors {
			errs = append(errs, string(x.PolicyID))
		}
		if len(allow) > 0 {
			effect, by = policy.Allow, slices.Concat(allow, holds)
			if len(holds) > 0 {
				effect = policy.Hold
			}
		}
	}
	slices.Sort(by)
	slices.Sort(errs)
	return effect, by, errs
}

func plainRequest(req policy.Request, tts []policy.ToolType) (cedar.EntityMap, cedar.Request) {
	uid := func(t, id string) types.EntityUID { return types.NewEntityUID(types.EntityType(t), types.String(id)) }
	agent := uid("Agent", req.Agent.Name)
	parents := []types.EntityUID{uid("Team", req.Agent.Team), uid("Stage", req.Agent.Stage)}
	for k, v := range req.Agent.Labels {
		parents = append(parents, uid("Label", k), uid("Label", k+"="+v))
	}
	entities := cedar.EntityMap{agent: {UID: agent, Parents: types.NewEntityUIDSet(parents...)}}
	for _, tt := range tts {
		a := uid("Action", tt.Connection+"/"+tt.Tool)
		entities[a] = types.Entity{UID: a, Parents: types.NewEntityUIDSet(uid("Action", tt.Connection), uid("Action", "effect:"+tt.Effect), uid("Action", "kind:"+tt.Kind))}
	}
	var args types.Record
	if err := args.UnmarshalJSON(req.Args); err != nil {
		panic(err)
	}
	return entities, cedar.Request{Principal: agent, Action: uid("Action", req.Action.Connection+"/"+req.Action.Tool), Resource: uid("Connection", req.Action.Connection),
		Context: types.NewRecord(types.RecordMap{"args": args, "run": types.NewRecord(types.RecordMap{"calls": types.Long(req.Run.Calls)})})}
}

func TestIndexEqualsPlainCedar(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	tts := randomTools()
	effects := map[policy.Effect]int{}
	withErrors := 0
	for round := range 60 {
		var text strings.Builder
		all := map[string]*cedar.Policy{}
		for i := range 1 + r.IntN(60) {
			p := randomPolicy(r, i)
			text.WriteString(p)
			var c cedar.Policy
			if err := c.UnmarshalCedar([]byte(p)); err != nil {
				t.Fatalf("%s: %v", p, err)
			}
			all[fmt.Sprintf("p%d", i)] = &c
		}
		set, problems, err := policy.Compile(map[string]string{"f": text.String()}, nil, tts)
		if err != nil {
			t.Fatal(err)
		}
		// Some scopes contradict themselves; those policies match nothing, and
		// being unfit must not change what the others decide.
		for _, p := range problems {
			if !strings.Contains(p.Message, "unable to find an applicable action") {
				t.Fatal(p)
			}
		}
		for range 100 {
			req := randomRequest(r)
			effect, by, errs := plainly(t, all, req, tts)
			d := set.Decide(req)
			var gotErrs []string
			for _, e := range d.Errors {
				id, _, _ := strings.Cut(e, ":")
				gotErrs = append(gotErrs, id)
			}
			slices.Sort(gotErrs)
			if d.Effect != effect || !slices.Equal(d.Policies, by) || !slices.Equal(gotErrs, errs) {
				t.Fatalf("round %d: got %v %q errors %q (%s), plainly %v %q errors %q\n%+v\n%s", round, d.Effect, d.Policies, d.Errors, d.Reason, effect, by, errs, req, text.String())
			}
			effects[effect]++
			if len(errs) > 0 {
				withErrors++
			}
		}
	}
	if effects[policy.Allow] < 100 || effects[policy.Hold] < 100 || effects[policy.Deny] < 100 || withErrors < 100 {
		t.Errorf("the cases are too much alike: %v, %d with errors", effects, withErrors)
	}
}

func TestVisible(t *testing.T) {
	agent := policy.Agent{Name: "a"}
	act := policy.Action{Connection: "ledger", Tool: "pay_invoice"}
	for name, c := range map[string]struct {
		policies string
		want     bool
	}{
		"nothing":                  {"", false},
		"a permit":                 {permitAll, true},
		"a permit with conditions": {`permit (principal, action == Action::"ledger/pay_invoice", resource) when { context.args.amount_cents < 5 };`, true},
		"another's permit":         {`permit (principal == Agent::"b", action, resource);`, false},
		"forbidden":                {permitAll + `forbid (principal, action in Action::"effect:irreversible", resource);`, false},
		"sometimes forbidden":      {permitAll + `forbid (principal, action, resource) when { context.run.calls > 5 };`, true},
		"needs approval":           {permitAll + `@approval("x") forbid (principal, action, resource);`, true},
		"forbidden to another":     {permitAll + `forbid (principal == Agent::"b", action, resource);`, true},
	} {
		if got := compile(t, c.policies).Visible(agent, act, now); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if compile(t, permitAll).Visible(agent, policy.Action{Connection: "ledger", Tool: "unknown"}, now) {
		t.Error("an unknown tool is visible")
	}
	g := policy.Grant{Name: "g", Agent: "a", Connection: "ledger", Tools: []string{"list_invoices"}, Expires: now}
	set := compile(t, "", g)
	list := policy.Action{Connection: "ledger", Tool: "list_invoices"}
	if set.Visible(agent, list, now) || !set.Visible(agent, list, now.Add(-1)) || set.Visible(agent, act, now.Add(-1)) {
		t.Error("a grant's expiry")
	}
	if set.Sees(agent, "ledger", now) || !set.Sees(agent, "ledger", now.Add(-1)) || set.Sees(agent, "helpdesk", now.Add(-1)) {
		t.Error("sees")
	}
}
