package console

import "testing"

func TestPolicyInWords(t *testing.T) {
	for cedar, want := range map[string]string{
		`permit (principal, action, resource);`: "any agent may call anything",
		`@approval("finance") forbid (principal, action == Action::"ledger/pay", resource) when { context.args.amount_cents >= 500000 };`:                                  "any agent waits for people before calling ledger/pay when the argument amount_cents is at least 500000",
		`forbid (principal, action in [Action::"ledger/pay", Action::"ledger/undo"], resource) unless { principal in Team::"finance" };`:                                   "any agent may not call ledger/pay or ledger/undo unless the agent is in team finance",
		`forbid (principal == Agent::"bot", action in Action::"effect:write", resource) when { context.run.labels.contains("injection") && context.args.to != "a == b" };`: `agent bot may not call anything that writes when the run carries injection and the argument to is not "a == b"`,
		`permit (principal in Team::"ops", action, resource == Connection::"x") when { !(context.args.n < 3) || context has y };`:                                          "team ops may call anything of connection x when not (the argument n is less than 3) or context has y",
	} {
		rules := rulesOf(cedar)
		if len(rules) != 1 || rules[0].Words != want {
			t.Errorf("%s\n got %+v\nwant %s", cedar, rules, want)
		}
	}
}
