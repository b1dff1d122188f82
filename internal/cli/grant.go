package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) grantCommand() *cobra.Command {
	return group("grant", "Give agents tools, under conditions and for a time", a.grantList(), a.grantShow(), a.grantAdd(), a.grantHistory(), a.grantRollback(), a.grantRightsize(), a.grantRequest(), a.grantRequests(), a.grantApprovers(), a.grantException(),
		a.remove("revoke NAME", "Revoke a grant", "grant", "The agent loses what it allows at once.", grantNames, (*client.Client).RevokeGrant))
}

func (a *app) grantList() *cobra.Command {
	var agent string
	cmd := &cobra.Command{Use: "list", Short: "List grants", Args: operands(), Example: "  countersign grant list --agent invoice-checker"}
	cmd.Flags().StringVar(&agent, "agent", "", "of this agent only")
	a.completeFlag(cmd, "agent", agentNames)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		all, err := c.Grants(ctx, agent)
		if err != nil {
			return err
		}
		uses, err := c.GrantUses(ctx, agent)
		if err != nil {
			return err
		}
		excepted, err := a.excepted(ctx, c)
		if err != nil {
			return err
		}
		last := map[string]string{}
		for _, u := range uses.Grants {
			last[u.Grant] = lastUse(u)
		}
		return list(a, all, "no grants yet: countersign grant add NAME --agent AGENT --connection CONNECTION --tool TOOL",
			column[client.Grant]{"NAME", func(g client.Grant) string { return g.Name }, func(client.Grant) string { return bold }},
			column[client.Grant]{"AGENT", func(g client.Grant) string { return g.Agent }, nil},
			column[client.Grant]{"CONNECTION", func(g client.Grant) string { return g.Connection }, nil},
			column[client.Grant]{"TOOLS", func(g client.Grant) string { return strings.Join(g.Tools, ", ") }, nil},
			column[client.Grant]{"WHEN", func(g client.Grant) string { return g.When }, nil},
			column[client.Grant]{"EXPIRES", func(g client.Grant) string { return until(g.Expires) + excepted[g.Name] }, grantColour},
			column[client.Grant]{"LAST USED", func(g client.Grant) string { return last[g.Name] }, nil},
			column[client.Grant]{"GIVEN BY", func(g client.Grant) string { return g.GivenBy }, nil})
	})
	return cmd
}

// excepted says of each grant that may stand without an end who answers for it, and
// until when.
func (a *app) excepted(ctx context.Context, c *client.Client) (map[string]string, error) {
	all, err := c.GrantExceptions(ctx)
	out := make(map[string]string, len(all))
	for _, e := range all {
		if time.Until(e.Until) > 0 {
			out[e.Grant] = "; " + e.Owner + " answers for it until " + e.Until.Local().Format(time.DateOnly)
		}
	}
	return out, err
}

// lastUse says when a grant was last used, and of one that was not since when
// that is known.
func lastUse(u client.GrantUse) string {
	if u.LastAllowed.IsZero() {
		return "not since " + u.Watched.Local().Format(time.DateOnly)
	}
	return ago(u.LastAllowed)
}

func grantColour(g client.Grant) string {
	if !g.Expires.IsZero() && time.Until(g.Expires) <= 0 {
		return red
	}
	return ""
}

func (a *app) grantShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show NAME", Short: "Show a grant", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(grantNames)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		g, err := c.Grant(ctx, args[0])
		if err != nil {
			return err
		}
		excepted, err := a.excepted(ctx, c)
		if err != nil {
			return err
		}
		return a.show(g, row("name", g.Name), row("id", g.ID), row("agent", g.Agent), row("connection", g.Connection), row("tools", strings.Join(g.Tools, ", ")),
			row("when", g.When), painted("expires", until(g.Expires)+excepted[g.Name], grantColour(g)), row("given by", g.GivenBy), row("reason", g.Reason), row("created", ago(g.Created)))
	})
	return cmd
}

func (a *app) grantAdd() *cobra.Command {
	var spec client.GrantSpec
	var expires string
	cmd := &cobra.Command{Use: "add NAME --agent AGENT --connection CONNECTION --tool TOOL...", Short: "Give an agent tools, or change what a grant gives", Args: operands("NAME"),
		Example: `  countersign grant add invoices-pays --agent invoice-checker --connection ledger --tool pay_invoice \
      --when 'context.args.currency == "EUR"' --expires 90d --reason 'releases small payments'`}
	f := cmd.Flags()
	f.StringVar(&spec.Agent, "agent", "", "who gets it")
	f.StringVar(&spec.Connection, "connection", "", "the connection whose tools it gives")
	f.StringSliceVar(&spec.Tools, "tool", nil, "a tool, or * for all (repeatable)")
	f.StringVar(&spec.When, "when", "", "a condition in Cedar")
	f.StringVar(&expires, "expires", "", "after a time such as 36h or 90d, or at 2027-01-31T12:00:00Z (default: never)")
	for _, needed := range []string{"agent", "connection", "tool"} {
		_ = cmd.MarkFlagRequired(needed)
	}
	a.completeFlag(cmd, "agent", agentNames)
	a.completeFlag(cmd, "connection", connectionNames)
	a.completeFlag(cmd, "tool", func(ctx context.Context, c *client.Client) ([]string, error) {
		l, err := c.Tools(ctx, client.ToolQuery{Connection: spec.Connection, Builtin: true})
		return namesOf(l, err, func(t client.Tool) string { return t.Name })
	})
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		var err error
		if spec.Expires, err = expiry(expires, time.Now()); err != nil {
			return err
		}
		g, err := c.PutGrant(ctx, args[0], spec)
		if err != nil {
			return err
		}
		if !g.Changed {
			return a.did(g, "grant %s was like this already", g.Name)
		}
		return a.did(g, "agent %s may use %s/%s, expires %s", g.Agent, g.Connection, strings.Join(g.Tools, ", "), until(g.Expires))
	})
	return cmd
}

// expiry reads a time, or a duration from now; empty is the zero time.
func expiry(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	if n, ok := strings.CutSuffix(s, "d"); ok {
		if days, err := strconv.Atoi(n); err == nil && days > 0 && days < 36500 {
			return now.Add(time.Duration(days) * 24 * time.Hour).Truncate(time.Second), nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d > 0 {
		return now.Add(d).Truncate(time.Second), nil
	}
	return time.Time{}, usageError{fmt.Errorf("%q is neither a duration (36h, 90d) nor a time (2027-01-31T12:00:00Z)", s)}
}
