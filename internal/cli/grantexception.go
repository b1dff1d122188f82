package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func exceptionIDs(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.GrantExceptions(ctx)
	return namesOf(l, err, func(e client.GrantException) string { return e.ID + "\t" + e.Grant })
}

func (a *app) grantException() *cobra.Command {
	return group("exception", "Say which grants may stand without an end, although they reach in production what cannot be undone", a.exceptionAdd(), a.exceptionList(),
		a.remove("end ID", "End an exception before its time", "exception", "A finding is opened for its grant.", exceptionIDs, (*client.Client).EndGrantException))
}

func (a *app) exceptionAdd() *cobra.Command {
	var spec client.ExceptionSpec
	var until string
	cmd := &cobra.Command{Use: "add GRANT --owner USER --until WHEN --reason TEXT", Short: "Make an exception for a grant, also before it is given", Args: operands("GRANT"), ValidArgsFunction: a.completeFirst(grantNames),
		Long: "Make an exception for a grant. It is for what the grant gives now, or for what --agent, --connection, --tool and --when say: so it can be made before the grant, which would be refused without it.",
		Example: `  countersign grant exception add pays --owner fiona --until 90d --reason 'until the bank has its new API'
  countersign grant exception add mails --agent desk --connection helpdesk --tool send_email --owner fiona --until 90d --reason 'answers customers day and night'`}
	cmd.Flags().StringVar(&spec.Owner, "owner", "", "who answers for it")
	cmd.Flags().StringVar(&spec.Agent, "agent", "", "of a grant that is still to be given: who gets it")
	cmd.Flags().StringVar(&spec.Connection, "connection", "", "the connection whose tools it will give")
	cmd.Flags().StringSliceVar(&spec.Tools, "tool", nil, "a tool that it will give, or * for all (repeatable)")
	cmd.Flags().StringVar(&spec.When, "when", "", "its condition in Cedar")
	cmd.MarkFlagsRequiredTogether("agent", "connection", "tool")
	a.completeFlag(cmd, "agent", agentNames)
	a.completeFlag(cmd, "connection", connectionNames)
	cmd.Flags().StringVar(&until, "until", "", "until when: after a time such as 90d, or at 2027-01-31T12:00:00Z; at most a year")
	_ = cmd.MarkFlagRequired("owner")
	_ = cmd.MarkFlagRequired("until")
	a.completeFlag(cmd, "owner", userNames)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		var err error
		if spec.Until, err = expiry(until, time.Now()); err != nil {
			return err
		}
		e, err := c.ExceptGrant(ctx, args[0], spec)
		if err != nil {
			return err
		}
		return a.did(e, "%s may stand until %s; %s answers for it (%s)", e.Grant, e.Until.UTC().Format(time.DateOnly), e.Owner, e.ID)
	})
	return cmd
}

func (a *app) exceptionList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List exceptions", Args: operands()}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		all, err := c.GrantExceptions(ctx)
		if err != nil {
			return err
		}
		return list(a, all, "no exceptions",
			column[client.GrantException]{"ID", func(e client.GrantException) string { return e.ID }, nil},
			column[client.GrantException]{"GRANT", func(e client.GrantException) string { return e.Grant }, func(client.GrantException) string { return bold }},
			column[client.GrantException]{"OWNER", func(e client.GrantException) string { return e.Owner }, nil},
			column[client.GrantException]{"UNTIL", func(e client.GrantException) string { return until(e.Until) }, func(e client.GrantException) string {
				if time.Until(e.Until) <= 0 {
					return red
				}
				return ""
			}},
			column[client.GrantException]{"REASON", func(e client.GrantException) string { return e.Reason }, nil})
	})
	return cmd
}
