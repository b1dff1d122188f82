package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) secretLeases() *cobra.Command {
	cmd := &cobra.Command{Use: "leases [NAME]", Short: "List credentials that were made for agents and are not known to be dead", Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeFirst(secretNames)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		all, err := c.Leases(ctx, strings.Join(args, ""))
		if err != nil {
			return err
		}
		return list(a, all, "no leases",
			column[client.Lease]{"LEASE", func(l client.Lease) string { return l.ID }, func(client.Lease) string { return bold }},
			column[client.Lease]{"SECRET", func(l client.Lease) string { return l.Secret }, nil},
			column[client.Lease]{"AGENT", func(l client.Lease) string { return l.Agent }, nil},
			column[client.Lease]{"AT THE PROVIDER", func(l client.Lease) string { return l.Name }, nil},
			column[client.Lease]{"STATE", func(l client.Lease) string { return l.State }, func(l client.Lease) string {
				return map[string]string{"zombie": red, "ending": yellow}[l.State]
			}},
			column[client.Lease]{"AGE", func(l client.Lease) string { return ago(l.Issued) }, nil},
			column[client.Lease]{"ENDS", func(l client.Lease) string { return until(l.Expires) }, nil},
			column[client.Lease]{"LAST ERROR", func(l client.Lease) string { return l.Error }, nil})
	})
	return cmd
}

func (a *app) secretRevoke() *cobra.Command {
	cmd := &cobra.Command{Use: "revoke NAME|LEASE", Short: "End the leases of a secret, or one lease, before their time", Args: operands("NAME|LEASE"), ValidArgsFunction: a.completeFirst(secretNames),
		Long: "Their credentials are refused and their sessions end as soon as the provider has been reached; agents get new ones as long as they may call."}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		n := 1
		var err error
		if strings.HasPrefix(args[0], "lse_") {
			err = c.EndLease(ctx, args[0])
		} else {
			n, err = c.RevokeSecret(ctx, args[0])
		}
		if err != nil {
			return err
		}
		return a.did(map[string]int{"ended": n}, "%s ending", count(n, "lease is", "leases are"))
	})
	return cmd
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
