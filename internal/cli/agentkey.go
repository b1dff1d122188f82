package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) keyCommand() *cobra.Command {
	return group("key", "Issue, rotate and revoke an agent's keys", a.keyIssue(), a.keyList(), a.keyRotate(), a.keyRevoke())
}

// shownOnce prints a credential: alone on standard output, so that it can be
// piped, with what to know about it on standard error.
func (a *app) shownOnce(v any, value, format string, args ...any) error {
	if a.output == "json" {
		return a.printJSON(v)
	}
	fmt.Fprintf(a.stderr, "%s %s\n", a.paint(a.stderr, green, "ok"), inert(fmt.Sprintf(format, args...), 0))
	_, err := fmt.Fprintln(a.stdout, value)
	return err
}

func (a *app) keyIssue() *cobra.Command {
	var expires string
	cmd := &cobra.Command{Use: "issue AGENT", Short: "Issue a key, shown this once", Args: operands("AGENT"), ValidArgsFunction: a.completeFirst(agentNames),
		Long: `Issues a key (csk_…) and prints it. Countersign keeps only its hash. For programs that you start yourself, countersign run
gives a credential that lives as long as the program, which is better.`,
		Example: "  countersign agent key issue invoice-checker --expires-in 30d"}
	cmd.Flags().StringVar(&expires, "expires-in", "", "such as 12h or 30d (default 30d, at most 90d)")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		k, err := c.IssueKey(ctx, args[0], expires)
		if err != nil {
			return err
		}
		return a.shownOnce(k, k.Value, "key %s of agent %s, expires %s; it is shown this once:", k.ID, k.Agent, until(k.Expires))
	})
	return cmd
}

func (a *app) keyList() *cobra.Command {
	cmd := &cobra.Command{Use: "list AGENT", Short: "List an agent's keys, dead ones included", Args: operands("AGENT"), ValidArgsFunction: a.completeFirst(agentNames)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		all, err := c.Keys(ctx, args[0])
		if err != nil {
			return err
		}
		return list(a, all, "no keys: countersign agent key issue "+args[0],
			column[client.Key]{"ID", func(k client.Key) string { return k.ID }, nil},
			column[client.Key]{"KEY", func(k client.Key) string { return k.Prefix + "…" }, nil},
			column[client.Key]{"STATUS", func(k client.Key) string { return k.Status }, func(k client.Key) string { return statusColour(k.Status) }},
			column[client.Key]{"AGE", func(k client.Key) string { return ago(k.Created) }, nil},
			column[client.Key]{"EXPIRES", func(k client.Key) string { return until(k.Expires) }, nil},
			column[client.Key]{"LAST USED", func(k client.Key) string { return ago(k.LastUsed) }, nil})
	})
	return cmd
}

func statusColour(status string) string {
	switch status {
	case "active", "pinned", "ok", "allow", "succeeded", "closed":
		return green
	case "rotating", "drifted", "new", "warn", "hold", "suspended", "locked":
		return yellow
	case "revoked", "fail", "deny", "failed", "broken", "unknown":
		return red
	}
	return dim
}

// completeKey completes an agent, then one of its keys.
func (a *app) completeKey() cobra.CompletionFunc {
	agents := a.complete(agentNames)
	return func(cmd *cobra.Command, args []string, to string) ([]string, cobra.ShellCompDirective) {
		switch len(args) {
		case 0:
			return agents(cmd, args, to)
		case 1:
			return a.complete(func(ctx context.Context, c *client.Client) ([]string, error) {
				l, err := c.Keys(ctx, args[0])
				return namesOf(l, err, func(k client.Key) string { return k.ID + "\t" + k.Prefix + "… " + k.Status })
			})(cmd, args, to)
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
}

func (a *app) keyRotate() *cobra.Command {
	var expires, overlap string
	cmd := &cobra.Command{Use: "rotate AGENT ID", Short: "Put a new key in the place of one", Args: operands("AGENT", "ID"), ValidArgsFunction: a.completeKey(),
		Long:    "Issues a new key and prints it. The old one lives on for --overlap, so that programs can change over.",
		Example: "  countersign agent key rotate invoice-checker key_… --overlap 1h"}
	cmd.Flags().StringVar(&expires, "expires-in", "", "of the new key (default 30d, at most 90d)")
	cmd.Flags().StringVar(&overlap, "overlap", "", "how long the old key lives on (default 24h, at most 7d; 0 ends it now)")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		k, err := c.RotateKey(ctx, args[0], args[1], expires, overlap)
		if err != nil {
			return err
		}
		return a.shownOnce(k, k.Value, "key %s takes the place of %s, expires %s; it is shown this once:", k.ID, args[1], until(k.Expires))
	})
	return cmd
}

func (a *app) keyRevoke() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{Use: "revoke AGENT ID", Short: "Revoke a key at once", Args: operands("AGENT", "ID"), ValidArgsFunction: a.completeKey(),
		Example: "  countersign agent key revoke invoice-checker key_… --reason 'it was in a build log'"}
	yesFlag(cmd, &yes)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if err := a.confirm(yes, "Revoke key %s of agent %s? Programs that use it are refused at once.", args[1], args[0]); err != nil {
			return err
		}
		if err := c.RevokeKey(ctx, args[0], args[1]); err != nil {
			return err
		}
		return a.did(gone{args[1], true}, "key %s revoked", args[1])
	})
	return cmd
}
