package cli

import (
	"context"
	"encoding/json/jsontext"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) toolCommand() *cobra.Command {
	return group("tool", "See tools, say what effect they have, accept changed ones", a.toolList(), a.toolShow(), a.toolEffect(), a.toolDeclare(), a.toolFlow(), a.toolLimit(), a.toolUndo(), a.toolTemplate(), a.toolDiff(), a.toolAccept())
}

func effectColour(effect string) string {
	switch effect {
	case "write":
		return yellow
	case "irreversible":
		return red
	}
	return ""
}

func (a *app) toolList() *cobra.Command {
	var q client.ToolQuery
	cmd := &cobra.Command{Use: "list", Short: "List tools", Args: operands("[CONNECTION]"), ValidArgsFunction: a.completeFirst(connectionNames),
		Example: "  countersign tool list --status drifted"}
	cmd.Flags().StringVar(&q.Connection, "connection", "", "of this connection only")
	cmd.Flags().StringVar(&q.Status, "status", "", "pinned, drifted, new or gone")
	cmd.Flags().BoolVar(&q.Builtin, "builtin", false, "the built-in protocol tools too")
	a.completeFlag(cmd, "connection", connectionNames)
	fixed(cmd, "status", "pinned", "drifted", "new", "gone")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if len(args) > 0 {
			q.Connection = args[0]
		}
		all, err := c.Tools(ctx, q)
		if err != nil {
			return err
		}
		return list(a, all, "no such tools",
			column[client.Tool]{"TOOL", func(t client.Tool) string { return t.Connection + "/" + t.Name }, func(client.Tool) string { return bold }},
			column[client.Tool]{"EFFECT", func(t client.Tool) string { return t.Effect }, func(t client.Tool) string { return effectColour(t.Effect) }},
			column[client.Tool]{"STATUS", func(t client.Tool) string { return t.Status }, func(t client.Tool) string { return statusColour(t.Status) }},
			column[client.Tool]{"PINNED", pinned, nil},
			column[client.Tool]{"DESCRIPTION", func(t client.Tool) string { return t.Description }, nil})
	})
	return cmd
}

func pinned(t client.Tool) string {
	if t.Builtin {
		return "built in"
	}
	if t.PinnedAt.IsZero() {
		return "no"
	}
	return fmt.Sprintf("%s, %s", t.PinnedBy, ago(t.PinnedAt))
}

// tool is a command about one tool.
func (a *app) tool(use, short string, fn func(ctx context.Context, c *client.Client, connection, tool string, rest []string) error) *cobra.Command {
	words := strings.Fields(use)[1:]
	cmd := &cobra.Command{Use: use, Short: short, Args: operands(words...), ValidArgsFunction: a.completeFirst(toolNames)}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		connection, tool, err := splitTool(args[0])
		if err != nil {
			return err
		}
		return a.call(func(ctx context.Context, c *client.Client, args []string) error {
			return fn(ctx, c, connection, tool, args[1:])
		})(cmd, args)
	}
	return cmd
}

func (a *app) toolShow() *cobra.Command {
	return a.tool("show CONNECTION/TOOL", "Show a tool with its definition", func(ctx context.Context, c *client.Client, connection, tool string, _ []string) error {
		t, err := c.Tool(ctx, connection, tool)
		if err != nil {
			return err
		}
		return a.show(t, row("tool", t.Connection+"/"+t.Name), row("id", t.ID), row("effect", t.Effect), row("status", t.Status), row("pinned", pinned(t.Tool)),
			row("digest", t.Digest), row("description", t.Description), row("subject", t.Subject), row("objects", pairs(t.Objects)), row("template", t.Template), row("proposal", t.Proposal), row("limits", pairs(t.Limits)), row("arguments", indented(t.InputSchema)), row("definition", indented(t.Definition)),
			row("seen now", indented(t.Drift)))
	})
}

func indented(v jsontext.Value) string {
	if len(v) == 0 {
		return ""
	}
	return pretty(string(v))
}

func (a *app) toolEffect() *cobra.Command {
	cmd := a.tool("effect CONNECTION/TOOL read|write|irreversible", "Say what effect a tool has", func(ctx context.Context, c *client.Client, connection, tool string, rest []string) error {
		t, err := c.SetEffect(ctx, connection, tool, rest[0])
		if err != nil {
			return err
		}
		return a.did(t, "the effect of %s/%s is %s", t.Connection, t.Name, t.Effect)
	})
	tools := cmd.ValidArgsFunction
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, to string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 1 {
			return []string{"read", "write", "irreversible"}, cobra.ShellCompDirectiveNoFileComp
		}
		return tools(cmd, args, to)
	}
	cmd.Long = `Says what a tool does to the world: read changes nothing, write can be undone, irreversible cannot. Policies go by it
(Action::"effect:irreversible"). A tool is irreversible until a person says otherwise; what a server says of itself never lowers it.`
	cmd.Example = "  countersign tool effect ledger/list_invoices read --reason 'only reads'"
	return cmd
}

func (a *app) toolDiff() *cobra.Command {
	cmd := a.tool("diff CONNECTION/TOOL", "Show how a tool differs from what was accepted", func(ctx context.Context, c *client.Client, connection, tool string, _ []string) error {
		d, err := c.ToolDiff(ctx, connection, tool)
		if err != nil {
			return err
		}
		if a.output == "json" {
			return a.printJSON(d)
		}
		a.printToolDiff(connection+"/"+tool, d)
		return nil
	})
	cmd.Long = "Shows each difference by its path. Characters that an eye would not see are escaped: instructions hide there."
	return cmd
}

func (a *app) printToolDiff(name string, d client.ToolDiff) {
	if len(d.Lines) == 0 {
		fmt.Fprintf(a.stdout, "%s is %s and as it was accepted\n", inert(name, 0), d.Status)
		return
	}
	fmt.Fprintf(a.stdout, "%s is %s: it is refused until somebody accepts it\n\n", a.paint(a.stdout, bold, inert(name, 0)), a.paint(a.stdout, yellow, d.Status))
	for _, l := range d.Lines {
		path := inert(l.Path, 0)
		if path == "" {
			path = "/"
		}
		fmt.Fprintln(a.stdout, a.paint(a.stdout, bold, path))
		if l.Old != "" {
			fmt.Fprintln(a.stdout, a.paint(a.stdout, red, "  - "+inert(l.Old, 0)))
		}
		if l.New != "" {
			fmt.Fprintln(a.stdout, a.paint(a.stdout, green, "  + "+inert(l.New, 0)))
		}
	}
	fmt.Fprintf(a.stdout, "\ndigest of what is seen now  %s\n", d.Digest)
}

func (a *app) toolAccept() *cobra.Command {
	var digest string
	var yes bool
	cmd := a.tool("accept CONNECTION/TOOL", "Accept a changed or new tool", func(ctx context.Context, c *client.Client, connection, tool string, _ []string) error {
		d, err := c.ToolDiff(ctx, connection, tool)
		if err != nil {
			return err
		}
		if d.Digest == "" {
			return a.did(d, "%s/%s is %s: there is nothing to accept", connection, tool, d.Status)
		}
		if digest != "" && digest != d.Digest {
			return fmt.Errorf("the definition changed again: what is seen now has the digest %s; look at it with countersign tool diff %s/%s", d.Digest, connection, tool)
		}
		if a.output != "json" {
			a.printToolDiff(connection+"/"+tool, d)
		}
		if err := a.confirm(yes, "Accept this definition of %s/%s?", connection, tool); err != nil {
			return err
		}
		t, err := c.AcceptTool(ctx, connection, tool, d.Digest)
		if err != nil {
			return err
		}
		return a.did(t, "%s/%s is pinned to %s", t.Connection, t.Name, t.Digest)
	})
	cmd.Long = "Shows the difference and its digest, asks, and pins exactly what was shown."
	cmd.Example = "  countersign tool accept ledger/pay_invoice --reason 'new optional field, reviewed'"
	cmd.Flags().StringVar(&digest, "digest", "", "accept only this definition (from countersign tool diff)")
	yesFlag(cmd, &yes)
	return cmd
}
