package cli

import (
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) policyWhy() *cobra.Command {
	var call client.Case
	var args string
	var proposed bool
	cmd := &cobra.Command{Use: "why [EVENT]", Short: "Explain the decision of a recorded call, or of one that might be made",
		Long: "Explains with the policies of today. The event of a call is in countersign log tail, search and trace.",
		Example: `  countersign policy why evt_…
  countersign policy why --agent invoice-checker --tool ledger/pay_invoice --args '{"amount_cents": 900000, "currency": "EUR"}'`}
	f := cmd.Flags()
	f.StringVar(&call.Agent, "agent", "", "who would call")
	f.StringVar(&call.Tool, "tool", "", "CONNECTION/TOOL it would call")
	f.StringVar(&args, "args", "{}", "the arguments, a JSON object")
	f.BoolVar(&proposed, "proposed", true, "a model's answer proposed the call (context.run.proposed)")
	a.completeFlag(cmd, "agent", agentNames)
	a.completeFlag(cmd, "tool", toolNames)
	cmd.Args = func(_ *cobra.Command, operands []string) error {
		hypothetical := call.Agent != "" && call.Tool != ""
		if len(operands) > 1 || hypothetical == (len(operands) == 1) || !hypothetical && call.Agent+call.Tool != "" {
			return usageError{errors.New("name an event, or --agent and --tool")}
		}
		if err := json.Unmarshal([]byte(args), &call.Args); err != nil {
			return usageError{fmt.Errorf("--args must be a JSON object: %w", err)}
		}
		return nil
	}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, operands []string) error {
		var x client.Explanation
		var err error
		call.RunProposed = &proposed
		if len(operands) == 1 {
			x, err = c.WhyEvent(ctx, operands[0])
		} else {
			x, err = c.WhyCase(ctx, call)
		}
		if err != nil {
			return err
		}
		if a.output == "json" {
			return a.printJSON(x)
		}
		a.printWhy(x)
		return nil
	})
	return cmd
}

var effectWords = map[string]string{"allow": "Allowed", "deny": "Denied", "hold": "Held until people approve"}

func (a *app) printWhy(x client.Explanation) {
	d := x.Decision
	fmt.Fprintf(a.stdout, "%s: %s\n", a.paint(a.stdout, statusColour(d.Effect), effectWords[d.Effect]), inert(d.Reason, 0))
	for _, h := range d.Holds {
		fmt.Fprintf(a.stdout, "  %s needs %d of %s\n", inert(h.Policy, 0), h.Quorum, inert(strings.Join(h.Groups, ", "), 0))
	}
	for _, advice := range d.Advice {
		fmt.Fprintf(a.stdout, "  what to do: %s\n", inert(advice, 0))
	}
	for _, e := range d.Errors {
		fmt.Fprintf(a.stdout, "  %s %s\n", a.paint(a.stdout, red, "error:"), inert(e, 0))
	}
	var about, near []client.Rule
	for _, r := range x.Rules {
		if r.Scope {
			about = append(about, r)
		} else {
			near = append(near, r)
		}
	}
	if len(x.Rules) == 0 {
		fmt.Fprintln(a.stdout, "\nNo policy and no grant is about this tool.")
	}
	a.printRules("About this call:", about)
	a.printRules("About this tool, but other agents:", near)
	for _, n := range x.Notes {
		fmt.Fprintf(a.stdout, "\n%s %s", a.paint(a.stdout, dim, "note:"), inert(n, 0))
	}
	if len(x.Notes) > 0 {
		fmt.Fprintln(a.stdout)
	}
}

func (a *app) printRules(title string, rules []client.Rule) {
	if len(rules) == 0 {
		return
	}
	fmt.Fprintf(a.stdout, "\n%s\n", title)
	for _, r := range rules {
		colour, words := ruleWords(r)
		where := inert(r.File, 0)
		if r.Kind == "grant" {
			where = ""
		}
		if r.Line > 0 {
			where = fmt.Sprintf("%s.cedar:%d", where, r.Line)
		}
		fmt.Fprintf(a.stdout, "  %s  %s\n", a.paint(a.stdout, colour, inert(r.ID, 0)), a.paint(a.stdout, dim, where))
		fmt.Fprintf(a.stdout, "    %s\n", words)
	}
}

// ruleWords says in plain words what a rule did.
func ruleWords(r client.Rule) (colour, words string) {
	verb := map[string]string{"permit": "allows", "grant": "allows", "forbid": "forbids", "approval": "asks for approval of"}[r.Kind]
	what := map[string]string{"permit": "a policy that allows", "grant": "a grant", "forbid": "a policy that forbids", "approval": "a policy that asks for approval"}[r.Kind]
	switch {
	case r.Error != "":
		return red, what + "; it could not be evaluated: " + inert(r.Error, 0)
	case r.Expired:
		return dim, what + "; it has expired"
	case r.Scope && r.Satisfied && (r.Kind == "permit" || r.Kind == "grant"):
		return green, verb + " this call"
	case r.Scope && r.Satisfied && r.Kind == "approval":
		return yellow, verb + " this call"
	case r.Scope && r.Satisfied:
		return red, verb + " this call"
	case r.Scope:
		return dim, what + "; its conditions do not hold"
	}
	return dim, what + "; not for this agent"
}
