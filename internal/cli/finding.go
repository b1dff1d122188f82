package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) findingCommand() *cobra.Command {
	return group("finding", "See what is wrong and close what is settled", a.findingList(), a.findingShow(), a.findingClose())
}

func severityColour(s string) string {
	switch s {
	case "critical", "high":
		return red
	case "medium":
		return yellow
	}
	return ""
}

func (a *app) findingList() *cobra.Command {
	q := client.FindingQuery{}
	var all bool
	cmd := &cobra.Command{Use: "list", Short: "List open findings, newest first", Args: operands(), Example: "  countersign finding list --severity high"}
	cmd.Flags().BoolVar(&all, "all", false, "closed ones too")
	cmd.Flags().StringVar(&q.Severity, "severity", "", "info, low, medium, high or critical")
	cmd.Flags().StringVar(&q.Rule, "rule", "", "of this rule only")
	cmd.Flags().StringVar(&q.Object, "object", "", "about this only, such as tool/ledger/pay_invoice")
	cmd.Flags().IntVarP(&q.Limit, "limit", "n", 100, "at most so many")
	fixed(cmd, "severity", "info", "low", "medium", "high", "critical")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		if !all {
			q.Status = "open"
		}
		found, err := c.Findings(ctx, q)
		if err != nil {
			return err
		}
		return list(a, found, "no findings",
			column[client.Finding]{"ID", func(f client.Finding) string { return f.ID }, nil},
			column[client.Finding]{"SEVERITY", func(f client.Finding) string { return f.Severity }, func(f client.Finding) string { return severityColour(f.Severity) }},
			column[client.Finding]{"STATUS", func(f client.Finding) string { return f.Status }, nil},
			column[client.Finding]{"OBJECT", func(f client.Finding) string { return f.Object }, nil},
			column[client.Finding]{"OPENED", func(f client.Finding) string { return ago(f.Opened) }, nil},
			column[client.Finding]{"TITLE", func(f client.Finding) string { return f.Title }, nil})
	})
	return cmd
}

func (a *app) findingShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show ID", Short: "Show a finding", Args: operands("ID"), ValidArgsFunction: a.completeFirst(findingIDs)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		f, err := c.Finding(ctx, args[0])
		if err != nil {
			return err
		}
		closed := ""
		if !f.Closed.IsZero() {
			closed = ago(f.Closed) + " by " + f.ClosedBy + ": " + f.Reason
		}
		return a.show(f, row("finding", f.Title), row("id", f.ID), painted("severity", f.Severity, severityColour(f.Severity)), row("status", f.Status),
			row("rule", f.Rule), row("object", f.Object), row("opened", ago(f.Opened)), row("updated", ago(f.Updated)), row("closed", closed),
			row("detail", f.Detail), row("events", strings.Join(f.Events, "\n")))
	})
	return cmd
}

func (a *app) findingClose() *cobra.Command {
	cmd := &cobra.Command{Use: "close ID --reason TEXT", Short: "Close a finding", Args: operands("ID"), ValidArgsFunction: a.completeFirst(findingIDs),
		Example: "  countersign finding close fnd_… --reason 'rotated the key'"}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		f, err := c.CloseFinding(ctx, args[0])
		if err != nil {
			return err
		}
		return a.did(f, "finding %s closed", f.ID)
	})
	return cmd
}
