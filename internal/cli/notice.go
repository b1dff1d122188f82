package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) approvalsNotices() *cobra.Command {
	var all bool
	cmd := &cobra.Command{Use: "notices", Short: "List what you have to see: questions to you, answers, glass that was broken", Args: operands()}
	cmd.Flags().BoolVar(&all, "all", false, "those you have seen, too")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		found, err := c.Notices(ctx, all)
		if err != nil {
			return err
		}
		return list(a, found, "there is nothing you have to see",
			column[client.Notice]{"ID", func(n client.Notice) string { return n.ID }, nil},
			column[client.Notice]{"WHEN", func(n client.Notice) string { return ago(n.At) }, nil},
			column[client.Notice]{"WHAT", func(n client.Notice) string { return n.Kind }, nil},
			column[client.Notice]{"REQUEST", func(n client.Notice) string { return n.Approval }, nil},
			column[client.Notice]{"BY", func(n client.Notice) string { return n.By }, nil},
			column[client.Notice]{"SAID", func(n client.Notice) string { return n.Said }, nil})
	})
	return cmd
}

func (a *app) approvalsSeen() *cobra.Command {
	cmd := &cobra.Command{Use: "seen NOTICE", Short: "Say that you have seen a notice", Args: operands("NOTICE")}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if err := c.SeeNotice(ctx, args[0]); err != nil {
			return err
		}
		return a.did(gone{args[0], true}, "%s seen", args[0])
	})
	return cmd
}
