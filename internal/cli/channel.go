package cli

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) channelCommand() *cobra.Command {
	return group("channel", "Tell people about held calls where they are: webhook, Slack, e-mail and more", a.channelList(), a.channelShow(), a.channelAdd(), a.channelTest(),
		a.remove("remove NAME", "Remove a channel", "channel", "", channelNames, (*client.Client).DeleteChannel), a.channelLink(), a.channelUnlink())
}

func channelNames(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Channels(ctx)
	return namesOf(l, err, func(x client.Channel) string { return x.Name })
}

func (a *app) channelList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List channels and how they do", Args: operands()}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		all, err := c.Channels(ctx)
		if err != nil {
			return err
		}
		return list(a, all, "no channels yet: countersign channel add NAME --kind webhook|slack|notice",
			column[client.Channel]{"NAME", func(x client.Channel) string { return x.Name }, func(client.Channel) string { return bold }},
			column[client.Channel]{"KIND", func(x client.Channel) string { return x.Spec.Kind }, nil},
			column[client.Channel]{"GROUPS", func(x client.Channel) string { return strings.Join(x.Spec.Groups, ", ") }, nil},
			column[client.Channel]{"WAITING", func(x client.Channel) string { return strconv.FormatInt(x.Waiting, 10) }, nil},
			column[client.Channel]{"DEAD", func(x client.Channel) string { return strconv.FormatInt(x.Dead, 10) }, func(x client.Channel) string {
				if x.Dead > 0 {
					return red
				}
				return ""
			}},
			column[client.Channel]{"ERROR", func(x client.Channel) string { return x.Error }, nil})
	})
	return cmd
}

func (a *app) channelShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show NAME", Short: "Show a channel", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(channelNames)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		x, err := c.Channel(ctx, args[0])
		if err != nil {
			return err
		}
		return a.showChannel(x)
	})
	return cmd
}

func (a *app) showChannel(x client.Channel) error {
	s := x.Spec
	yes := func(b bool, text string) string {
		if b {
			return text
		}
		return ""
	}
	return a.show(x, row("name", x.Name), row("id", x.ID), row("kind", s.Kind), row("owner", s.Owner), row("url", s.URL), row("secret", s.Secret),
		row("signing secret", s.Signing), row("room", s.Room), row("groups", strings.Join(s.Groups, ", ")), row("news", strings.Join(s.What, ", ")),
		row("people", yes(s.People, "mail goes to those whom the news is for")), row("contents", yes(s.Contents, "told, redacted")),
		row("private addresses", yes(s.AllowPrivate, "allowed")), row("waiting", strconv.FormatInt(x.Waiting, 10)), row("dead", strconv.FormatInt(x.Dead, 10)),
		painted("error", x.Error, yellow))
}

func (a *app) channelAdd() *cobra.Command {
	var s client.ChannelSpec
	cmd := &cobra.Command{Use: "add NAME", Aliases: []string{"update"}, Short: "Add a channel, or say all of one anew", Args: operands("NAME")}
	fl := cmd.Flags()
	fl.StringVar(&s.Kind, "kind", "", "webhook, slack or notice")
	fl.StringVar(&s.Owner, "owner", "", "user who answers for it (you if empty)")
	fl.StringVar(&s.URL, "url", "", "where a webhook goes")
	fl.StringVar(&s.Secret, "secret", "", "name of the secret: what signs a webhook, Slack's bot token, a notice's service URL")
	fl.StringVar(&s.Signing, "signing-secret", "", "name of the secret that signs Slack's callbacks")
	fl.StringVar(&s.Room, "room", "", "id of the Slack conversation")
	fl.StringSliceVar(&s.Groups, "group", nil, "only requests that ask this group (repeatable)")
	fl.StringSliceVar(&s.What, "news", nil, "only this news: requested, escalated, settled, overridden, asked, answered (repeatable)")
	fl.BoolVar(&s.People, "people", false, "e-mail goes to those whom the news is for")
	fl.BoolVar(&s.Contents, "contents", false, "tell what is in a call, too (redacted)")
	fl.BoolVar(&s.AllowPrivate, "allow-private", false, "the URL may be a private address, and http")
	fixed(cmd, "kind", "webhook", "slack", "notice")
	a.completeFlag(cmd, "owner", userNames)
	cmd.Long = `Adds a way to tell people about held calls. The secrets of a channel belong to the connection channel.NAME.

  webhook  JSON, signed by Standard Webhooks (webhook-id, webhook-timestamp, webhook-signature)
  slack    messages with buttons; who may decide there has to link their account: countersign channel link NAME
  notice   a text with a link to sign in, through any service that shoutrrr speaks; the secret is its URL
           (smtp://user:password@host:587/?from=a@b.example&to=c@d.example)`
	cmd.Example = `  countersign channel add siem --kind webhook --url https://siem.example/hook --secret siem-key --reason 'the SOC wants to know'
  countersign secret put siem-key --connection channel.siem --from-env SIEM_KEY`
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if s.Owner == "" {
			me, err := c.Me(ctx)
			if err != nil {
				return err
			}
			s.Owner = me.Name
		}
		x, err := c.PutChannel(ctx, args[0], s)
		if err != nil {
			return err
		}
		return a.did(x, "channel %s tells by %s; try it: countersign channel test %s", x.Name, x.Spec.Kind, x.Name)
	})
	return cmd
}

func (a *app) channelTest() *cobra.Command {
	cmd := &cobra.Command{Use: "test NAME", Short: "Send a test message through a channel", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(channelNames)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		t, err := c.TestChannel(ctx, args[0])
		if err != nil {
			return err
		}
		if t.OK {
			return a.did(t, "the channel %s took the message %s", args[0], t.ID)
		}
		if err := a.did(t, "the channel %s did not take the message: %s", args[0], t.Error); err != nil {
			return err
		}
		return exitError{1}
	})
	return cmd
}

func (a *app) channelLink() *cobra.Command {
	cmd := &cobra.Command{Use: "link NAME", Short: "Link your account in a channel's chat to you", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(channelNames),
		Long: "Prints what to write in the chat, once, within ten minutes. From then on what that account decides there, you decide."}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		l, err := c.LinkChannel(ctx, args[0])
		if err != nil {
			return err
		}
		return a.did(l, "write in the chat, %s:\n  %s", until(l.Until), l.Say)
	})
	return cmd
}

func (a *app) channelUnlink() *cobra.Command {
	cmd := &cobra.Command{Use: "unlink NAME", Short: "End the links of accounts in a channel's chat to you", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(channelNames)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if err := c.UnlinkChannel(ctx, args[0]); err != nil {
			return err
		}
		return a.did(gone{args[0], true}, "no account in the channel %s is yours any more", args[0])
	})
	return cmd
}
