package gateway_test

import (
	"net/http"
	"slices"
	"testing"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/policy"
)

// What an agent is told of a request that it attached to: never to make the
// call, and to come back only where that is of use.
func TestWhatBecameOfAHeldCallIsTold(t *testing.T) {
	for state, want := range map[approvals.State]struct {
		code   string
		effect policy.Effect
		again  bool
	}{
		approvals.Pending: {gateway.CodePending, policy.Hold, true}, approvals.Approved: {gateway.CodePending, policy.Hold, true}, approvals.Executing: {gateway.CodePending, policy.Hold, true},
		approvals.Denied: {gateway.CodeRefused, policy.Deny, false}, approvals.Expired: {gateway.CodeLapsed, policy.Deny, false}, approvals.Void: {gateway.CodeVoid, policy.Deny, false},
		approvals.Executed: {gateway.CodeOutcome, policy.Deny, false},
	} {
		code, effect, retry, reason := gateway.Settled(approvals.Request{State: state, Why: "because", ExecCall: "call_1"})
		if code != want.code || effect != want.effect || (retry > 0) != want.again || reason == "" {
			t.Errorf("%s: %s %s %s %q", state, code, effect, retry, reason)
		}
	}
}

// Where people cannot be asked the call is refused, and says why.
func TestACallThatNobodyCanBeAskedAboutIsRefused(t *testing.T) {
	for code, err := range map[string]error{gateway.CodeImpossible: approvals.ErrImpossible, approvals.ErrTooMany.Code: approvals.ErrTooMany, approvals.ErrVoid.Code: approvals.ErrVoid} {
		if got, effect := gateway.NotHeld(err); got != code || effect != policy.Deny {
			t.Errorf("%v: %s %s", err, got, effect)
		}
	}
}

func heldCall() (gateway.Incoming, *gateway.Call, []policy.Rule) {
	return gateway.Incoming{}, &gateway.Call{
		Connection: connections.Connection{ID: "conn_1", Name: "srv", Kind: "mcp", Dialect: "d", URL: "https://srv.example", Secret: "key", Auth: "bearer", Command: []string{"run"}, Env: map[string]string{"A": "1"}, Inspect: map[string]string{"pii": "redact"}},
		Tool:       connections.Tool{Name: "pay", Digest: "definition"}, Request: &gateway.Upstream{Method: "POST", Path: "/a", Query: "b=1", Header: http.Header{"Anthropic-Beta": {"one"}}, Body: []byte("body")},
		Who: identity.Caller{Agent: identity.Agent{Name: "bot", ID: "agt_1"}, OnBehalfOf: []audit.Actor{audit.Person("usr_1", "sam")}},
	}, []policy.Rule{{Name: "p", Digest: "1"}, {Name: "g", Digest: "2"}}
}

// An approval is for everything that makes the call what it is.
func TestAnApprovalIsForAllOfTheCall(t *testing.T) {
	digest := func(change func(c *gateway.Call, rules *[]policy.Rule)) string {
		in, c, rules := heldCall()
		change(c, &rules)
		return gateway.Held(in, c, rules, nil, 0).Binding.Digest()
	}
	base := digest(func(*gateway.Call, *[]policy.Rule) {})
	for name, change := range map[string]func(c *gateway.Call, rules *[]policy.Rule){
		"agent": func(c *gateway.Call, _ *[]policy.Rule) { c.Who.Agent.Name = "x" }, "agent id": func(c *gateway.Call, _ *[]policy.Rule) { c.Who.Agent.ID = "x" },
		"chain": func(c *gateway.Call, _ *[]policy.Rule) { c.Who.OnBehalfOf = nil }, "tool": func(c *gateway.Call, _ *[]policy.Rule) { c.Tool.Name = "x" },
		"definition": func(c *gateway.Call, _ *[]policy.Rule) { c.Tool.Digest = "x" }, "connection": func(c *gateway.Call, _ *[]policy.Rule) { c.Connection.Name = "x" },
		"connection made again": func(c *gateway.Call, _ *[]policy.Rule) { c.Connection.ID = "x" }, "kind": func(c *gateway.Call, _ *[]policy.Rule) { c.Connection.Kind = "x" },
		"dialect": func(c *gateway.Call, _ *[]policy.Rule) { c.Connection.Dialect = "x" }, "url": func(c *gateway.Call, _ *[]policy.Rule) { c.Connection.URL = "x" },
		"secret": func(c *gateway.Call, _ *[]policy.Rule) { c.Connection.Secret = "x" }, "auth": func(c *gateway.Call, _ *[]policy.Rule) { c.Connection.Auth = "x" },
		"command": func(c *gateway.Call, _ *[]policy.Rule) { c.Connection.Command = []string{"x"} }, "environment": func(c *gateway.Call, _ *[]policy.Rule) { c.Connection.Env = map[string]string{"A": "2"} },
		"inspection": func(c *gateway.Call, _ *[]policy.Rule) { c.Connection.Inspect = nil }, "method": func(c *gateway.Call, _ *[]policy.Rule) { c.Request.Method = "PUT" },
		"path": func(c *gateway.Call, _ *[]policy.Rule) { c.Request.Path = "/x" }, "query": func(c *gateway.Call, _ *[]policy.Rule) { c.Request.Query = "x" },
		"body": func(c *gateway.Call, _ *[]policy.Rule) { c.Request.Body = []byte("x") }, "what the front says it is": func(c *gateway.Call, _ *[]policy.Rule) { c.Bound = []byte("x") },
		"a header that changes it": func(c *gateway.Call, _ *[]policy.Rule) { c.Request.Header.Set("Anthropic-Beta", "two") },
		"a rule":                   func(_ *gateway.Call, r *[]policy.Rule) { (*r)[0].Digest = "x" }, "one rule less": func(_ *gateway.Call, r *[]policy.Rule) { *r = (*r)[:1] },
	} {
		if digest(change) == base {
			t.Errorf("an approval is for another %s, too", name)
		}
	}
	for name, change := range map[string]func(c *gateway.Call, rules *[]policy.Rule){
		"the order of rules": func(_ *gateway.Call, r *[]policy.Rule) { (*r)[0], (*r)[1] = (*r)[1], (*r)[0] }, "a rule twice": func(_ *gateway.Call, r *[]policy.Rule) { *r = append(*r, (*r)[0]) },
		"any other header": func(c *gateway.Call, _ *[]policy.Rule) { c.Request.Header.Set("User-Agent", "x") },
	} {
		if digest(change) != base {
			t.Errorf("an approval is not for the same call with %s", name)
		}
	}
}

// What policies demand, and what was found, reaches the people who are asked.
func TestWhatPoliciesDemandIsAskedFor(t *testing.T) {
	in, c, rules := heldCall()
	in.Resume = &gateway.Resumed{Approval: "apr_1"}
	h := gateway.Held(in, c, rules, []policy.Needed{{Policy: "p", Groups: []string{"a", "b"}, Quorum: 2, DecideWithin: 1, ExecuteWithin: 2, Advice: "look", ExcludeOwner: true, Server: true, Passkey: true, Escalate: []policy.Tier{{Group: "c", After: 3}}}}, inspection.Secrets)
	n := h.Needs[0]
	if n.Policy != "p" || len(n.Groups) != 2 || n.Quorum != 2 || n.DecideWithin != 1 || n.ExecuteWithin != 2 || n.Advice != "look" || !n.ExcludeOwner || !n.Server || !n.Passkey || len(n.Tiers) != 1 || n.Tiers[0].Name != "c" || n.Tiers[0].After != 3 {
		t.Errorf("%+v", n)
	}
	if h.Only != "apr_1" || !slices.Contains(h.Labels, inspection.Secret) {
		t.Errorf("only %q, labels %v", h.Only, h.Labels)
	}
}
