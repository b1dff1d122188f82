package policy_test

import (
	"encoding/json/jsontext"
	"slices"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/policy"
)

// An agent without a release is not pinned, and a call that nothing bounds has
// everything left.
func TestNeitherReleaseNorBudget(t *testing.T) {
	req := pay(`{"invoice_id":"i","amount_cents":1}`)
	req.Release, req.Budget = policy.Release{}, nil
	for text, want := range map[string]policy.Effect{
		`@id("r") forbid (principal, action, resource) unless { context.release.pinned };`:                                                                  policy.Deny,
		`@id("r") forbid (principal, action, resource) when { context.release.number > 0 || context.release.canary || context.release.stage != "" };`:       policy.Allow,
		`@id("b") forbid (principal, action, resource) when { context.budget.left_percent < 100 || context.budget.limited || context.budget.soft_passed };`: policy.Allow,
	} {
		if d := compile(t, permitAll+text).Decide(req); d.Effect != want {
			t.Errorf("%s: %v %s %v", text, d.Effect, d.Reason, d.Errors)
		}
	}
}

// Cases of policy tests say release and budget.
func TestCasesOfReleaseAndBudget(t *testing.T) {
	set := compile(t, permitAll+`
@id("canary") forbid (principal, action, resource) when { context.release.canary };
@id("low") @approval("finance") forbid (principal, action, resource) when { context.budget.soft_passed || context.budget.left_percent < 10 };`)
	args := map[string]any{"invoice_id": "i", "amount_cents": 1}
	of := func(name, expect string, r policy.Release, b *policy.Budget, by ...string) policy.Case {
		return policy.Case{Name: name, Agent: "invoice-checker", Tool: "ledger/pay_invoice", Args: args, Expect: expect, By: by, Release: r, Budget: b}
	}
	for _, r := range set.Test([]policy.Case{
		of("neither", "allow", policy.Release{}, nil),
		of("pinned", "allow", policy.Release{Number: 2, Stage: "production"}, &policy.Budget{Left: 10, Limited: true}),
		of("a canary", "deny", policy.Release{Number: 3, Canary: true}, nil, "canary"),
		of("little left", "hold", policy.Release{}, &policy.Budget{Left: 9, Limited: true}, "low"),
		of("soft", "hold", policy.Release{}, &policy.Budget{Left: 90, Soft: true}, "low"),
	}, now) {
		if !r.Passed {
			t.Errorf("%s: %s", r.Name, r.Problem)
		}
	}
}

// A backtest decides by the release and the budget that were recorded, and says
// of which calls they were not.
func TestBacktestOfReleaseAndBudget(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.put(t, "base", permitAll)
		for i, detail := range []string{
			`{"release":3,"canary":true,"budget":{"left":40}}`, `{"release":2,"canary":false,"budget":{"left":4,"limited":true}}`,
			`{"release":2,"budget":{"left":80,"soft":true}}`, `{}`, `{"model":"m"}`,
		} {
			ev := audit.Event{Type: audit.CallIntent, Actor: audit.System, Agent: "invoice-checker", Stage: "production", Connection: "ledger", Tool: "list_invoices", Call: "call_x",
				Time: now.Add(-time.Hour).Add(time.Duration(i)), Detail: jsontext.Value(detail)}
			if _, err := w.log.Intent(ctx, ev); err != nil {
				t.Fatal(err)
			}
		}
		for text, want := range map[string]struct {
			changes []string
			assumed int64
		}{
			`@id("x") forbid (principal, action, resource) when { context.release.canary };`:                                                                         {[]string{"1 invoice-checker ledger/list_invoices allow->deny x"}, 1},
			`@id("x") forbid (principal, action, resource) when { context.release.pinned && context.release.stage == "production" && context.release.number == 2 };`: {[]string{"2 invoice-checker ledger/list_invoices allow->deny x"}, 1},
			`@id("x") forbid (principal, action, resource) when { context.budget.left_percent < 10 };`:                                                               {[]string{"1 invoice-checker ledger/list_invoices allow->deny x"}, 2},
			`@id("x") forbid (principal, action, resource) when { context.budget.soft_passed };`:                                                                     {[]string{"1 invoice-checker ledger/list_invoices allow->deny x"}, 2},
		} {
			b, err := w.Backtest(ctx, fiona, policy.Trial{Files: map[string]string{"x": text}}, policy.Window{Since: now.Add(-24 * time.Hour)})
			if got := summary(b); err != nil || !slices.Equal(got, want.changes) || b.Assumed != want.assumed {
				t.Errorf("%s: %q, %d assumed, %v", text, got, b.Assumed, err)
			}
		}
	})
}
