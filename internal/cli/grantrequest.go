package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) grantRequest() *cobra.Command {
	var w client.GrantWish
	cmd := &cobra.Command{Use: "request --agent AGENT --connection CONNECTION --tool TOOL... --reason TEXT", Short: "Ask people to give an agent tools for a time", Args: operands(),
		Long: `The owner, the backup owner or an operator asks for an agent; an agent asks itself with its tool request_grant. Who approves is said with countersign grant approvers;
who asks does not. The grant is given by itself when they have approved (countersign approve ID), and ends by itself. In an emergency an administrator breaks the
glass: countersign approve ID --break-glass.`,
		Example: "  countersign grant request --agent invoice-checker --connection ledger --tool reverse_payment --for 2h --reason 'paid the wrong supplier'"}
	f := cmd.Flags()
	f.StringVar(&w.Agent, "agent", "", "who is to get it")
	f.StringVar(&w.Connection, "connection", "", "the connection whose tools it gives")
	f.StringSliceVar(&w.Tools, "tool", nil, "a tool (repeatable)")
	f.StringVar(&w.When, "when", "", "a condition in Cedar")
	f.StringVar(&w.For, "for", "", "how long, such as 2h (default 1h)")
	for _, needed := range []string{"agent", "connection", "tool"} {
		_ = cmd.MarkFlagRequired(needed)
	}
	a.completeFlag(cmd, "agent", agentNames)
	a.completeFlag(cmd, "connection", connectionNames)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		g, err := c.RequestGrant(ctx, w)
		if err != nil {
			return err
		}
		return a.did(g, "%s is %s: %s decides until %s (countersign approve %s)", g.ID, g.State, strings.Join(g.Deciders, " or "), until(g.DecideBy), g.ID)
	})
	return cmd
}

func (a *app) grantRequests() *cobra.Command {
	var agent string
	var all bool
	cmd := &cobra.Command{Use: "requests", Short: "List grants that were asked for", Args: operands()}
	cmd.Flags().StringVar(&agent, "agent", "", "for this agent only")
	cmd.Flags().BoolVar(&all, "all", false, "what is over, too")
	a.completeFlag(cmd, "agent", agentNames)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		found, err := c.GrantRequests(ctx, agent, all)
		if err != nil {
			return err
		}
		return list(a, found, "nothing is asked for",
			column[client.GrantRequest]{"ID", func(g client.GrantRequest) string { return g.ID }, nil},
			column[client.GrantRequest]{"AGENT", func(g client.GrantRequest) string { return g.Agent }, func(client.GrantRequest) string { return bold }},
			column[client.GrantRequest]{"WANTS", func(g client.GrantRequest) string {
				return g.Wish.Connection + "/" + strings.Join(g.Wish.Tools, ", ") + " for " + g.Wish.For
			}, nil},
			column[client.GrantRequest]{"STATE", requestState, nil},
			column[client.GrantRequest]{"REASON", func(g client.GrantRequest) string { return strings.TrimSpace(g.Reason + " " + g.Why) }, nil})
	})
	return cmd
}

func requestState(g client.GrantRequest) string {
	switch {
	case g.State == "pending":
		return "waits for " + strings.Join(g.Deciders, " or ")
	case g.State == "given" && g.Override:
		return "given by breaking the glass, ends " + until(g.Expires)
	case g.State == "given":
		return "given by " + strings.Join(g.Approved, ", ") + ", ends " + until(g.Expires)
	}
	return g.State
}

func approversOf(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.GrantApprovers(ctx)
	return namesOf(l, err, func(g client.GrantApprovers) string { return g.Connection + "\t" + strings.Join(g.Groups, ", ") })
}

func (a *app) grantApprovers() *cobra.Command {
	return group("approvers", "Say who approves grants that are asked for", a.approversList(), a.approversSet(),
		a.remove("remove CONNECTION", "Have nobody approve grants of a connection", "approvers of", "What waits for them is void.", approversOf, (*client.Client).RemoveGrantApprovers))
}

func (a *app) approversList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List who approves grants, by connection", Args: operands()}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		all, err := c.GrantApprovers(ctx)
		if err != nil {
			return err
		}
		return list(a, all, "nobody: no grant can be asked for (countersign grant approvers set CONNECTION --group GROUP)",
			column[client.GrantApprovers]{"CONNECTION", func(g client.GrantApprovers) string { return g.Connection }, func(client.GrantApprovers) string { return bold }},
			column[client.GrantApprovers]{"APPROVED BY", func(g client.GrantApprovers) string { return brief(approving(g)) }, nil},
			column[client.GrantApprovers]{"LONGEST", func(g client.GrantApprovers) string { return g.Longest }, nil})
	})
	return cmd
}

func approving(g client.GrantApprovers) string {
	out := strings.Join(g.Groups, " or ")
	if g.Quorum > 1 {
		out += fmt.Sprintf(", %d people", g.Quorum)
	}
	if g.Apart {
		out += ", not the agent's owner"
	}
	if g.Passkey {
		out += ", with a passkey"
	}
	return out
}

func (a *app) approversSet() *cobra.Command {
	var g client.GrantApprovers
	cmd := &cobra.Command{Use: "set CONNECTION --group GROUP...", Short: "Say who approves grants of a connection; '*' is every one that has none of its own", Args: operands("CONNECTION"), ValidArgsFunction: a.completeFirst(connectionNames),
		Example: "  countersign grant approvers set ledger --group finance-controllers --longest 4h --reason 'corrections at the end of a quarter'"}
	f := cmd.Flags()
	f.StringSliceVar(&g.Groups, "group", nil, "a group whose members approve (repeatable)")
	f.IntVar(&g.Quorum, "quorum", 1, "how many people it takes")
	f.StringVar(&g.Longest, "longest", "", "for how long a grant may be asked, at most (default 8h)")
	f.BoolVar(&g.Apart, "apart", false, "the owner of the agent does not count")
	f.BoolVar(&g.Passkey, "passkey", false, "who approves signs with their passkey")
	_ = cmd.MarkFlagRequired("group")
	a.completeFlag(cmd, "group", groupNames)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		g.Connection = args[0]
		out, err := c.SetGrantApprovers(ctx, g)
		if err != nil {
			return err
		}
		return a.did(out, "grants of %s are approved by %s, for at most %s", out.Connection, approving(out), out.Longest)
	})
	return cmd
}
