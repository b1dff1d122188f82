package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) policyBacktest() *cobra.Command {
	var f struct {
		since, until, agent string
		without, revoke     []string
		most                int64
		code                bool
	}
	cmd := &cobra.Command{Use: "backtest [FILE.cedar...]", Short: "Decide recorded calls again under changed policies, without saving them", Args: operands("[FILE...]"),
		Long: `Takes each file in place of the saved one of its name (or beside the others), and says which recorded calls would come out differently:
newly refused, newly held, no longer held, newly allowed. Both the rules in force and the changed ones decide every call anew, so that
only the change is compared. Arguments are as recorded: secrets in them were replaced. Calls whose arguments were erased or never kept
are counted and nothing is said of them. The agent's labels and the person's groups are those of now. Nothing is changed; that you asked
is recorded, because it tells what arguments were.`,
		Example: `  countersign policy backtest payments.cedar --since 30d
  countersign policy backtest --revoke robo-mails --since 90d --exit-code`}
	fl := cmd.Flags()
	fl.StringVar(&f.since, "since", "30d", "calls from then on: 24h, 7d, 2026-10-01 or RFC 3339")
	fl.StringVar(&f.until, "until", "", "calls before then")
	fl.StringVar(&f.agent, "agent", "", "calls of this agent alone")
	fl.StringArrayVar(&f.without, "without", nil, "a saved policy file left out (repeatable)")
	fl.StringArrayVar(&f.revoke, "revoke", nil, "a grant left out (repeatable)")
	fl.Int64Var(&f.most, "most", 0, "look at so many calls, the newest; 0 is all")
	fl.BoolVar(&f.code, "exit-code", false, "exit 1 if any call would come out differently")
	a.completeFlag(cmd, "agent", agentNames)
	a.completeFlag(cmd, "without", policyNames)
	a.completeFlag(cmd, "revoke", grantNames)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		t := client.Trial{Agent: f.agent, Revoke: f.revoke, Most: f.most}
		var err error
		if t.Files, err = readPolicies(args); err != nil {
			return err
		}
		for _, name := range f.without {
			t.Files = append(t.Files, client.NamedText{Name: name})
		}
		if len(t.Files)+len(t.Revoke) == 0 {
			return usageError{errors.New("say what changes: a file, --without NAME or --revoke GRANT")}
		}
		for flag, to := range map[string]*time.Time{"since": &t.Since, "until": &t.Until} {
			if value := cmd.Flag(flag).Value.String(); value != "" {
				if *to, err = moment("--"+flag, value, time.Now()); err != nil {
					return err
				}
			}
		}
		p := a.progress()
		b, err := c.Backtest(ctx, t, p.show)
		p.end()
		if err != nil {
			return err
		}
		if err := a.printBacktest(b); err != nil {
			return err
		}
		if f.code && len(b.Changes) > 0 {
			return exitError{1}
		}
		return nil
	})
	return cmd
}

func (a *app) printBacktest(b client.Backtest) error {
	if a.output == "json" {
		return a.printJSON(b)
	}
	paint := map[string]string{"newly refused": red, "newly held": yellow, "newly allowed": green, "no longer held": green}
	err := list(a, b.Changes, fmt.Sprintf("none of %d recorded calls would come out differently", b.Calls),
		column[client.PolicyShift]{title: "CALLS", text: func(s client.PolicyShift) string { return fmt.Sprint(s.Count) }},
		column[client.PolicyShift]{"CHANGE", client.PolicyShift.Kind, func(s client.PolicyShift) string { return paint[s.Kind()] }},
		column[client.PolicyShift]{title: "AGENT", text: func(s client.PolicyShift) string { return or(s.Agent, "many") }},
		column[client.PolicyShift]{title: "TOOL", text: func(s client.PolicyShift) string { return or(s.Tool, "many") }},
		column[client.PolicyShift]{title: "BY", text: func(s client.PolicyShift) string { return or(strings.Join(s.By, ", "), "nothing allows it") }},
		column[client.PolicyShift]{title: "LAST", text: func(s client.PolicyShift) string { return ago(s.Last) }},
		column[client.PolicyShift]{title: "SUCH AS", text: func(s client.PolicyShift) string { return s.Events[0] }})
	if err != nil {
		return err
	}
	if len(b.Changes) > 0 {
		fmt.Fprintf(a.stdout, "\nof %d recorded calls; why one would: countersign policy why EVENT says it of the rules in force\n", b.Calls)
	}
	for _, note := range b.Notes() {
		fmt.Fprintln(a.stdout, note)
	}
	return nil
}
