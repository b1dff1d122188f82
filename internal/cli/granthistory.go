package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) grantHistory() *cobra.Command {
	cmd := &cobra.Command{Use: "history NAME", Short: "List a grant's versions, newest first", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(grantNames)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		found, err := c.GrantHistory(ctx, args[0])
		if err != nil {
			return err
		}
		type versioned struct {
			ID string `json:"id"`
			client.GrantVersion
		}
		all := make([]versioned, 0, len(found))
		for _, v := range found {
			all = append(all, versioned{fmt.Sprintf("%s@%d", args[0], v.Version), v})
		}
		return list(a, all, "no versions",
			column[versioned]{"VERSION", func(v versioned) string { return fmt.Sprint(v.Version) }, nil},
			column[versioned]{"SAVED", func(v versioned) string { return v.Saved.Local().Format(time.DateTime) }, nil},
			column[versioned]{"BY", func(v versioned) string { return v.SavedBy }, nil},
			column[versioned]{"GIVES", func(v versioned) string { return gives(v.GrantVersion) }, nil},
			column[versioned]{"REASON", func(v versioned) string { return v.Reason }, nil})
	})
	return cmd
}

// gives is what a version of a grant gives, in one line.
func gives(v client.GrantVersion) string {
	if v.Revoked {
		return "revoked"
	}
	s := v.Grant.Agent + ": " + v.Grant.Connection + "/" + strings.Join(v.Grant.Tools, ", ")
	if v.Grant.When != "" {
		s += " when " + v.Grant.When
	}
	if !v.Grant.Expires.IsZero() {
		s += " until " + v.Grant.Expires.Local().Format(time.DateTime)
	}
	return s
}

func (a *app) grantRollback() *cobra.Command {
	var to int64
	cmd := &cobra.Command{Use: "rollback NAME --reason TEXT", Short: "Give a grant back as it was", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(grantNames),
		Long:    "To the version before the present one unless --to names another; a grant that was not there then is revoked, a revoked one comes back.",
		Example: "  countersign grant rollback invoices-pays --reason 'the condition was too wide'"}
	cmd.Flags().Int64Var(&to, "to", 0, "a version (countersign grant history)")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		r, err := c.RollBackGrant(ctx, args[0], to)
		if err != nil {
			return err
		}
		if !r.Changed {
			return a.did(r, "grant %s was like this already (version %d)", args[0], r.Version)
		}
		return a.did(r, "grant %s is rolled back (version %d)", args[0], r.Version)
	})
	return cmd
}
