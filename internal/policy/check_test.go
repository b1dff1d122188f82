package policy_test

import (
	"strings"
	"testing"
)

// Each text has one problem, marked by ^ just before the place that must be
// reported.
func TestCheck(t *testing.T) {
	const pay = `(principal, action == Action::"ledger/pay_invoice", resource)`
	set := compile(t, permitAll)
	for name, c := range map[string]struct{ text, message string }{
		"good":                {`@id("x") @description("fine") permit ` + pay + ` when { context.args.amount_cents < 5 };`, ""},
		"empty":               {"// nothing yet\n", ""},
		"syntax":              {"permit (principal, action, resource)\nwhen { }^", "syntax: at or just before the end"},
		"misspelt argument":   {"permit " + pay + "\nwhen { context.args.^amount_cent < 5 };", "did you mean amount_cents?"},
		"misspelt in has":     {"forbid " + pay + " when { context.args has ^mmeo };", "did you mean memo?"},
		"unguarded optional":  {"permit " + pay + " when { context.args.^memo == \"x\" };", "context.args has memo && …"},
		"wrong type":          {"^permit " + pay + " when { context.args.amount_cents == \"5\" };", "not compatible"},
		"misspelt tool":       {"permit (principal, action == Action::\"^ledger/pay_invoce\", resource);", "did you mean ledger/pay_invoice?"},
		"misspelt group":      {"permit (principal, action in Action::\"^effect:ireversible\", resource);", "did you mean effect:irreversible?"},
		"misspelt type":       {"permit (principal in ^Taem::\"finance\", action, resource);", "did you mean Team?"},
		"misspelt connection": {"permit (principal, action, resource == Connection::\"^leger\");", "did you mean ledger?"},
		"misspelt stage":      {"permit (principal in Stage::\"^prodution\", action, resource);", "did you mean production?"},
		"not for every tool":  {"permit (principal, action, resource) when { context.args.^amount_cents < 5 };", "not found"},
		"misspelt context":    {"permit (principal, action, resource) when { context.run.^lables.contains(\"x\") };", "did you mean labels?"},
		"unguarded user":      {"permit " + pay + " when { context.^user.role == \"viewer\" };", "context has user"},
		"guarded user":        {`@id("x") permit ` + pay + ` when { context has user && context.user.groups.contains("controllers") && context.user.id == "usr_1" && context.user.issuer == "" };`, ""},
		"misspelt user":       {"permit " + pay + " when { context has user && context.user.^gruops.contains(\"x\") };", "did you mean groups?"},
		"opaque argument":     {"permit " + pay + " when { context.args has ^anything };", "nothing in this policy's scope"},
		"misspelt annotation": {"^@aproval(\"f\") forbid (principal, action, resource);", "did you mean @approval?"},
		"annotation's case":   {"^@Quorum(\"2\") forbid (principal, action, resource);", "did you mean @quorum?"},
		"approvers":           {"^@approvers(\"f\") forbid (principal, action, resource);", "did you mean @approval?"},
		"approval on permit":  {"^@approval(\"f\") permit (principal, action, resource);", "no meaning on a permit"},
		"no group":            {"^@approval(\"\") forbid (principal, action, resource);", "name one or more"},
		"same group twice":    {"^@approval(\"a,a\") forbid (principal, action, resource);", "name one or more"},
		"quorum alone":        {"^@quorum(\"2\") forbid (principal, action, resource);", "without @approval"},
		"quorum of nobody":    {"@approval(\"f\") ^@quorum(\"0\") forbid (principal, action, resource);", "from 1 to 20"},
		"quorum of all":       {"@approval(\"f\") ^@quorum(\"21\") forbid (principal, action, resource);", "from 1 to 20"},
		"quorum in words":     {"@approval(\"f\") ^@quorum(\"two\") forbid (principal, action, resource);", "from 1 to 20"},
		"no duration":         {"@approval(\"f\") ^@decide_within(\"4 hours\") forbid (principal, action, resource);", "duration"},
		"endless":             {"@approval(\"f\") ^@execute_within(\"10000h\") forbid (principal, action, resource);", "duration"},
		"grant's id":          {"^@id(\"grant:x\") permit (principal, action, resource);", "grants"},
		"id twice":            {"@id(\"x\") permit (principal, action, resource);\n^@id(\"x\") permit (principal, action, resource);", "two policies"},
		"id of another file":  {"^@id(\"all\") permit (principal, action, resource);", "also used in test"},
		"a long path":         {"permit (principal, action, resource) when { context has a" + strings.Repeat(".a", 128) + "^.a };", "follow each other"},
		"not not":             {"permit (principal, action, resource) when { " + strings.Repeat("!", 128) + "^!true };", "follow each other"},
		"too deep":            {"permit (principal, action, resource) when { " + strings.Repeat("(", 62) + "(^(" + strings.Repeat(")", 64) + " };", "nested deeper"},
		"empty set":           {"^permit (principal, action in [], resource);", "empty set"},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(c.text, "^", "", 1)
			problems := set.Check("new", text)
			if c.message == "" {
				if len(problems) > 0 {
					t.Errorf("%v", problems)
				}
				return
			}
			before, _, _ := strings.Cut(c.text, "^")
			line, column := strings.Count(before, "\n")+1, len(before)-strings.LastIndex(before, "\n")
			if len(problems) == 0 || !strings.Contains(problems[0].Message, c.message) {
				t.Fatalf("got %v", problems)
			}
			if problems[0].Line != line || problems[0].Column != column {
				t.Errorf("at %d:%d, got %v", line, column, problems)
			}
		})
	}
}

func FuzzPolicyText(f *testing.F) {
	f.Add(permitAll)
	f.Add(`@approval("a") @quorum("2") forbid (principal in Team::"x", action in [Action::"ledger"], resource) when { context.args has a.b } unless { 1 + 2 > 3 };`)
	f.Add("permit(principal,action,resource)when{if context.now<datetime(\"2024-01-01\")then true else[1].contains(1)};")
	set := compile(f, permitAll)
	f.Fuzz(func(t *testing.T, text string) {
		for _, p := range set.Check("new", text) {
			if p.Message == "" || p.Line < 0 || p.Column < 0 {
				t.Errorf("%+v", p)
			}
		}
	})
}
