package cli

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/countersign/countersign/client"
)

var roles = []string{"admin", "operator", "owner", "approver", "auditor", "viewer"}

func (a *app) userCommand() *cobra.Command {
	return group("user", "Register people, their roles and tokens",
		a.userList(), a.userShow(), a.userPut("create"), a.userPut("update"), a.userPassword(), a.userDisable(true), a.userDisable(false),
		a.remove("delete NAME", "Delete a user who owns nothing", "user", "", userNames, (*client.Client).DeleteUser),
		a.tokenCommand(), a.userSessions(), a.userSignOut())
}

func (a *app) userList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List users", Args: operands()}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		all, err := c.Users(ctx)
		if err != nil {
			return err
		}
		return list(a, all, "no users",
			column[client.User]{"NAME", func(u client.User) string { return u.Name }, func(client.User) string { return bold }},
			column[client.User]{"ROLE", func(u client.User) string { return u.Role }, nil},
			column[client.User]{"STATUS", userStatus, func(u client.User) string { return statusColour(userStatus(u)) }},
			column[client.User]{"DISPLAY NAME", func(u client.User) string { return u.DisplayName }, nil},
			column[client.User]{"EMAIL", func(u client.User) string { return u.Email }, nil})
	})
	return cmd
}

func userStatus(u client.User) string {
	if u.Gone {
		return "gone" // their identity provider no longer knows them
	}
	if u.Disabled {
		return "disabled"
	}
	return "active"
}

func (a *app) userShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show [NAME]", Short: "Show a user, yourself if none is named", Args: operands("[NAME]"), ValidArgsFunction: a.completeFirst(userNames)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		var u client.User
		var err error
		if len(args) == 0 {
			var me client.Me
			me, err = c.Me(ctx)
			u = me.User
		} else {
			u, err = c.User(ctx, args[0])
		}
		if err != nil {
			return err
		}
		password := "none: they cannot sign in with one (countersign user password " + u.Name + ")"
		if u.Password {
			password = "set"
		}
		return a.show(u, row("name", u.Name), row("id", u.ID), row("role", u.Role), row("status", userStatus(u)),
			row("display name", u.DisplayName), row("email", u.Email), row("signs in at", u.Issuer), row("password", password), row("created", ago(u.Created)))
	})
	return cmd
}

func (a *app) userPut(verb string) *cobra.Command {
	var spec client.UserSpec
	cmd := &cobra.Command{Use: verb + " NAME", Args: operands("NAME")}
	cmd.Short = map[string]string{"create": "Register a user", "update": "Change a user"}[verb]
	cmd.Example = map[string]string{"create": "  countersign user create fiona --role approver --email fiona@hanse-trade.example", "update": "  countersign user update fiona --role owner"}[verb]
	cmd.Flags().StringVar(&spec.Role, "role", "viewer", "admin, operator, owner, approver, auditor or viewer")
	cmd.Flags().StringVar(&spec.Email, "email", "", "e-mail address")
	cmd.Flags().StringVar(&spec.DisplayName, "display-name", "", "name for people")
	fixed(cmd, "role", roles...)
	if verb == "update" {
		cmd.ValidArgsFunction = a.completeFirst(userNames)
	}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		old, err := c.User(ctx, args[0])
		if verb == "create" && err == nil {
			return fmt.Errorf("there is a user %q already: countersign user update %s changes them", args[0], args[0])
		}
		if verb == "update" && err != nil {
			return err
		}
		next := spec
		if verb == "update" {
			next = old.Spec()
			for flag, to := range map[string]struct{ from, to *string }{"role": {&spec.Role, &next.Role}, "email": {&spec.Email, &next.Email}, "display-name": {&spec.DisplayName, &next.DisplayName}} {
				if cmd.Flags().Changed(flag) {
					*to.to = *to.from
				}
			}
		}
		u, err := c.PutUser(ctx, args[0], next)
		if err != nil {
			return err
		}
		return a.did(u, "user %s is %s", u.Name, article(u.Role))
	})
	return cmd
}

func article(noun string) string {
	switch noun[:1] {
	case "a", "e", "i", "o", "u":
		return "an " + noun
	}
	return "a " + noun
}

func (a *app) userDisable(disabled bool) *cobra.Command {
	var yes bool
	verb := map[bool]string{true: "disable", false: "enable"}[disabled]
	cmd := &cobra.Command{Use: verb + " NAME", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(userNames)}
	cmd.Short = map[bool]string{true: "Disable a user: their tokens and the agents they own stop", false: "Enable a disabled user"}[disabled]
	if disabled {
		yesFlag(cmd, &yes)
	}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		u, err := c.User(ctx, args[0])
		if err != nil {
			return err
		}
		if disabled {
			if err := a.confirm(yes, "Disable user %s? Agents whose owner they are make no further call.", u.Name); err != nil {
				return err
			}
		}
		spec := u.Spec()
		spec.Disabled = disabled
		if u, err = c.PutUser(ctx, args[0], spec); err != nil {
			return err
		}
		return a.did(u, "user %s %sd", u.Name, verb)
	})
	return cmd
}

func (a *app) userPassword() *cobra.Command {
	var stdin bool
	cmd := &cobra.Command{Use: "password NAME", Short: "Set a password and end the user's sessions", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(userNames),
		Long: `Asks for the new password (at least 12 bytes) without echo, or reads it from standard input with --password-stdin. When it is
your own and one is set, your present one is asked for first (with --password-stdin: the first line).`,
		Example: "  countersign user password fiona"}
	cmd.Flags().BoolVar(&stdin, "password-stdin", false, "read from standard input, a line each")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		me, err := c.Me(ctx)
		if err != nil {
			return err
		}
		current := ""
		if me.Name == args[0] && me.Password {
			if current, err = a.password(stdin, "Present password: "); err != nil {
				return err
			}
		}
		next, err := a.password(stdin, "New password: ")
		if err != nil {
			return err
		}
		if !stdin && term.IsTerminal(int(os.Stdin.Fd())) {
			again, err := a.password(false, "Once more: ")
			if err != nil {
				return err
			}
			if again != next {
				return fmt.Errorf("the two differ; nothing was changed")
			}
		}
		if err := c.SetPassword(ctx, args[0], current, next); err != nil {
			return err
		}
		return a.did(struct {
			ID string `json:"id"`
		}{args[0]}, "password of %s set", args[0])
	})
	return cmd
}

func (a *app) tokenCommand() *cobra.Command {
	return group("token", "List, make and revoke sessions and API tokens", a.tokenList(), a.tokenCreate(), a.tokenRevoke())
}

func (a *app) tokenList() *cobra.Command {
	cmd := &cobra.Command{Use: "list [USER]", Short: "List your sessions and API tokens, or for administrators another user's", Args: operands("[USER]"), ValidArgsFunction: a.completeFirst(userNames)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		user := ""
		if len(args) > 0 {
			user = args[0]
		}
		all, err := c.Tokens(ctx, user)
		if err != nil {
			return err
		}
		return list(a, all, "no tokens",
			column[client.Token]{"ID", func(t client.Token) string { return t.ID }, nil},
			column[client.Token]{"KIND", func(t client.Token) string { return t.Kind }, nil},
			column[client.Token]{"NAME", tokenName, nil},
			column[client.Token]{"STATUS", func(t client.Token) string { return t.Status }, func(t client.Token) string { return statusColour(t.Status) }},
			column[client.Token]{"EXPIRES", func(t client.Token) string { return until(t.Expires) }, nil},
			column[client.Token]{"LAST USED", func(t client.Token) string { return ago(t.LastUsed) }, nil})
	})
	return cmd
}

func tokenName(t client.Token) string {
	if t.Present {
		return t.Name + " (this one)"
	}
	return t.Name
}

func (a *app) tokenCreate() *cobra.Command {
	var expires string
	cmd := &cobra.Command{Use: "create NAME", Short: "Make an API token of your own, shown this once", Args: operands("NAME"),
		Example: "  countersign user token create ci --expires-in 30d"}
	cmd.Flags().StringVar(&expires, "expires-in", "", "such as 12h or 30d (default 30d, at most 90d)")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		t, err := c.IssueToken(ctx, args[0], expires)
		if err != nil {
			return err
		}
		return a.shownOnce(t, t.Value, "token %s, expires %s; it is shown this once:", t.ID, until(t.Expires))
	})
	return cmd
}

func (a *app) tokenRevoke() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{Use: "revoke ID", Short: "Revoke a session or API token at once", Args: operands("ID")}
	cmd.ValidArgsFunction = a.completeFirst(func(ctx context.Context, c *client.Client) ([]string, error) {
		l, err := c.Tokens(ctx, "")
		return namesOf(l, err, func(t client.Token) string { return t.ID + "\t" + t.Name })
	})
	yesFlag(cmd, &yes)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if err := a.confirm(yes, "Revoke token %s?", args[0]); err != nil {
			return err
		}
		if err := c.RevokeToken(ctx, args[0]); err != nil {
			return err
		}
		return a.did(gone{args[0], true}, "token %s revoked", args[0])
	})
	return cmd
}
