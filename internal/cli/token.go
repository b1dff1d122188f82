package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) tokenServiceCommand() *cobra.Command {
	return group("token", "Exchange tokens; see and rotate the keys that sign them", a.signingKeysCommand())
}

func (a *app) signingKeysCommand() *cobra.Command {
	return group("keys", "Keys that sign access tokens (published at /oauth2/jwks)", a.signingList(), a.signingRotate(), a.signingRetire())
}

func signingNames(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.SigningKeys(ctx)
	return namesOf(l, err, func(k client.SigningKey) string { return k.ID })
}

func (a *app) signingList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List signing keys, those that are gone for a month included", Args: operands()}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		all, err := c.SigningKeys(ctx)
		if err != nil {
			return err
		}
		return list(a, all, "no signing keys",
			column[client.SigningKey]{"ID", func(k client.SigningKey) string { return k.ID }, nil},
			column[client.SigningKey]{"STATUS", func(k client.SigningKey) string { return k.Status }, func(k client.SigningKey) string {
				return map[string]string{"signing": green, "waiting": yellow, "gone": dim}[k.Status]
			}},
			column[client.SigningKey]{"AGE", func(k client.SigningKey) string { return ago(k.Created) }, nil},
			column[client.SigningKey]{"SIGNS", func(k client.SigningKey) string {
				if k.Status == "waiting" {
					return until(k.Starts)
				}
				return ago(k.Starts)
			}, nil},
			column[client.SigningKey]{"GOOD UNTIL", func(k client.SigningKey) string {
				if k.Status == "gone" {
					return ago(k.Gone)
				}
				return until(k.Gone)
			}, nil})
	})
	return cmd
}

func (a *app) signingRotate() *cobra.Command {
	var atOnce, yes bool
	cmd := &cobra.Command{Use: "rotate --reason WHY", Short: "Make the next signing key", Args: operands(),
		Long: `Makes a new key and publishes it. It signs after an hour, so that whoever caches the keys can follow; what the old one signed stays
good. Keys are rotated every 30 days without this.

With --at-once, for a key that leaked, the new key signs now, and the old one and everything it signed ends on every replica:
agents that prove themselves get new tokens, people consent again.`}
	cmd.Flags().BoolVar(&atOnce, "at-once", false, "end the present key and everything it signed now")
	yesFlag(cmd, &yes)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		if atOnce {
			if err := a.confirm(yes, "End the signing key and every access token now?"); err != nil {
				return err
			}
		}
		k, err := c.RotateSigningKey(ctx, atOnce)
		if err != nil {
			return err
		}
		if atOnce {
			return a.did(k, "%s signs; what was signed before is good no more", k.ID)
		}
		return a.did(k, "%s is published, and signs %s", k.ID, until(k.Starts))
	})
	return cmd
}

func (a *app) signingRetire() *cobra.Command {
	cmd := &cobra.Command{Use: "retire KEY --reason WHY", Short: "End a key that does not sign, and everything it signed, now", Args: operands("KEY"), ValidArgsFunction: a.completeFirst(signingNames)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if err := c.RetireSigningKey(ctx, args[0]); err != nil {
			return err
		}
		return a.did(gone{args[0], true}, "%s is gone, with everything it signed", args[0])
	})
	return cmd
}
