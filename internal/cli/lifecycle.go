package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) agentGive() *cobra.Command {
	var to string
	cmd := &cobra.Command{Use: "give NAME --to USER --reason TEXT", Short: "Offer an agent to another owner, who has to accept it", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(agentNames),
		Example: "  countersign agent give invoice-checker --to fiona --reason 'she runs accounts payable now'"}
	cmd.Flags().StringVar(&to, "to", "", "who is to answer for it")
	_ = cmd.MarkFlagRequired("to")
	a.completeFlag(cmd, "to", userNames)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		o, err := c.Give(ctx, args[0], to)
		if err != nil {
			return err
		}
		return a.did(o, "%s answers for agent %s once they accept it, within %s: countersign agent accept %s", o.To, o.Agent, until(o.Expires), o.Agent)
	})
	return cmd
}

func (a *app) agentAccept() *cobra.Command {
	cmd := &cobra.Command{Use: "accept NAME --reason TEXT", Short: "Answer for an agent that is offered to you, or whose owner left and whose backup you are", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(agentNames),
		Example: "  countersign agent accept invoice-checker --reason 'ada left; it runs the payment approvals'"}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		x, err := c.Accept(ctx, args[0])
		if err != nil {
			return err
		}
		return a.did(x, "you answer for agent %s now; it is %s", x.Name, x.Status)
	})
	return cmd
}

// agentStep is a line of agent lifecycle.
type agentStep struct {
	ID     string `json:"id"`
	Agent  string `json:"agent"`
	What   string `json:"what"` // owner_left, offered, decommissioned
	Status string `json:"status"`
	Who    string `json:"who"`
	When   string `json:"when"`
}

func (a *app) agentLifecycle() *cobra.Command {
	cmd := &cobra.Command{Use: "lifecycle", Short: "List agents whose owner left, that are offered, or that were decommissioned", Args: operands()}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		l, err := c.Lifecycle(ctx)
		if err != nil {
			return err
		}
		steps := []agentStep{}
		for _, d := range l.Departures {
			status := "backup answers until " + until(d.Deadline)
			if !d.Suspended.IsZero() {
				status = "suspended"
			}
			steps = append(steps, agentStep{"agent/" + d.Agent, d.Agent, "owner_left", status, d.Owner, ago(d.Began)})
		}
		for _, o := range l.Offers {
			steps = append(steps, agentStep{"agent/" + o.Agent, o.Agent, "offered", "to " + o.To + ", expires " + until(o.Expires), o.By, ago(o.Created)})
		}
		for _, d := range l.Decommissions {
			steps = append(steps, agentStep{d.ID, d.Agent, "decommissioned", d.State, d.By, ago(d.Created)})
		}
		return list(a, steps, "every agent has an owner, and none is leaving",
			column[agentStep]{"AGENT", func(s agentStep) string { return s.Agent }, func(agentStep) string { return bold }},
			column[agentStep]{"WHAT", func(s agentStep) string { return s.What }, nil},
			column[agentStep]{"STATUS", func(s agentStep) string { return s.Status }, nil},
			column[agentStep]{"WHO", func(s agentStep) string { return s.Who }, nil},
			column[agentStep]{"WHEN", func(s agentStep) string { return s.When }, nil})
	})
	return cmd
}

func (a *app) agentDecommission() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{Use: "decommission NAME --reason TEXT", Short: "End an agent for good, and try that its credentials are refused", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(agentNames),
		Long: `Ends everything the agent had in one transaction: keys, tokens, runs, client keys, rules of trust, consents, grants, leases,
held calls; connections that nobody else may use are locked. Then credentials that worked before are really tried at every door
the agent had. One that is let through is a critical finding and a lock, and the command fails.`,
		Example: "  countersign agent decommission invoice-checker --reason 'replaced by the new ledger'"}
	yesFlag(cmd, &yes)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if err := a.confirm(yes, "Decommission agent %s? It cannot be undone: everything it had ends.", args[0]); err != nil {
			return err
		}
		var d client.Decommission
		if err := a.waiting("ending it, and trying what it had", func() (err error) {
			d, err = c.Decommission(ctx, args[0])
			return err
		}); err != nil {
			return err
		}
		if err := a.decommissioned(d); err != nil {
			return err
		}
		switch d.State {
		case "let_through":
			return fmt.Errorf("a credential of the decommissioned agent %s was let through; it is locked: countersign finding list --object agent/%s", d.Agent, d.Agent)
		case "refused":
			return nil
		}
		return fmt.Errorf("everything that agent %s had has ended, but its credentials could not be tried yet; the server goes on: countersign agent lifecycle", d.Agent)
	})
	return cmd
}

func (a *app) decommissioned(d client.Decommission) error {
	if a.output == "json" {
		return a.printJSON(d)
	}
	var ended []string
	for _, what := range slices.Sorted(maps.Keys(d.Removed)) {
		ended = append(ended, fmt.Sprintf("%d %s", d.Removed[what], strings.ReplaceAll(what, "_", " ")))
	}
	a.done("agent %s is decommissioned (%s): %s ended", d.Agent, d.ID, strings.Join(ended, ", "))
	for _, p := range d.Probes {
		verdict := "refused"
		if p.After == 0 {
			verdict = "not tried yet"
		} else if !p.Refused {
			verdict = "LET THROUGH"
		}
		before := "not tried before"
		if p.Before != 0 {
			before = fmt.Sprintf("before %d", p.Before)
		}
		fmt.Fprintf(a.stdout, "  %-7s at %-24s %s (%s, now %d)\n", p.Kind, inert(p.Door, 80), verdict, before, p.After)
	}
	return nil
}
