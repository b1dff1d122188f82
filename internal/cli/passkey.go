package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) passkeyCommand() *cobra.Command {
	return group("passkey", "See and remove passkeys, with which people sign what they approve", a.passkeyList(), a.passkeyRename(), a.passkeyRemove())
}

func passkeyIDs(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Passkeys(ctx, "")
	return namesOf(l, err, func(p client.Passkey) string { return p.ID + "\t" + p.Name })
}

func (a *app) passkeyList() *cobra.Command {
	var user string
	cmd := &cobra.Command{Use: "list", Short: "List your passkeys", Args: operands(),
		Long: "List your passkeys. They are registered in a browser: console, your profile.\nAdministrators list another person's with --user."}
	cmd.Flags().StringVar(&user, "user", "", "of this person (administrators)")
	a.completeFlag(cmd, "user", userNames)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		found, err := c.Passkeys(ctx, user)
		if err != nil {
			return err
		}
		return list(a, found, "no passkeys; register one in the console, in your profile",
			column[client.Passkey]{"ID", func(p client.Passkey) string { return p.ID }, nil},
			column[client.Passkey]{"NAME", func(p client.Passkey) string { return p.Name }, nil},
			column[client.Passkey]{"USER", func(p client.Passkey) string { return p.User }, nil},
			column[client.Passkey]{"REGISTERED", func(p client.Passkey) string { return ago(p.Created) }, nil},
			column[client.Passkey]{"LAST USED", func(p client.Passkey) string { return ago(p.LastUsed) }, nil})
	})
	return cmd
}

func (a *app) passkeyRename() *cobra.Command {
	cmd := &cobra.Command{Use: "rename ID NAME", Short: "Give a passkey of yours another name", Args: operands("ID", "NAME"), ValidArgsFunction: a.completeFirst(passkeyIDs)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		p, err := c.RenamePasskey(ctx, args[0], args[1])
		if err != nil {
			return err
		}
		return a.did(p, "%s is called %s", p.ID, p.Name)
	})
	return cmd
}

func (a *app) passkeyRemove() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{Use: "remove ID", Short: "Remove a passkey at once: yours, or anyone's as an administrator", Args: operands("ID"), ValidArgsFunction: a.completeFirst(passkeyIDs),
		Example: "  countersign passkey list --user fiona\n  countersign passkey remove psk_06h1… --reason 'the laptop was lost'"}
	yesFlag(cmd, &yes)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if err := a.confirm(yes, "Remove passkey %s?", args[0]); err != nil {
			return err
		}
		if err := c.RemovePasskey(ctx, args[0]); err != nil {
			return err
		}
		return a.did(gone{args[0], true}, "%s is removed and signs nothing any more", args[0])
	})
	return cmd
}
