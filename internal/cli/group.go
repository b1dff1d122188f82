package cli

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) groupCommand() *cobra.Command {
	return group("group", "Say who may answer held calls together", a.groupList(), a.groupShow(), a.groupCreate(), a.groupMember(true), a.groupMember(false),
		a.remove("delete NAME", "Delete a group", "group", "", groupNames, (*client.Client).DeleteGroup))
}

func groupNames(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Groups(ctx)
	return namesOf(l, err, func(g client.Group) string { return g.Name })
}

func (a *app) groupList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List groups", Args: operands()}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		all, err := c.Groups(ctx)
		if err != nil {
			return err
		}
		return list(a, all, "no groups yet: countersign group create NAME --member USER",
			column[client.Group]{"NAME", func(g client.Group) string { return g.Name }, func(client.Group) string { return bold }},
			column[client.Group]{"MEMBERS", func(g client.Group) string { return strings.Join(g.Members, ", ") }, nil},
			column[client.Group]{"DESCRIPTION", func(g client.Group) string { return g.Description }, nil})
	})
	return cmd
}

func (a *app) groupShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show NAME", Short: "Show a group", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(groupNames)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		g, err := c.Group(ctx, args[0])
		if err != nil {
			return err
		}
		return a.show(g, row("name", g.Name), row("id", g.ID), row("description", g.Description), row("members", strings.Join(g.Members, ", ")), row("created", ago(g.Created)))
	})
	return cmd
}

func (a *app) groupCreate() *cobra.Command {
	var description string
	var members []string
	cmd := &cobra.Command{Use: "create NAME", Aliases: []string{"update"}, Short: "Create a group, or set who is in it", Args: operands("NAME"),
		Long:    "A group is the people whom a policy asks: @approval(\"finance-controllers\"). Only administrators change groups.",
		Example: "  countersign group create finance-controllers --member fiona --member pat"}
	cmd.Flags().StringVar(&description, "description", "", "what the group is")
	cmd.Flags().StringSliceVar(&members, "member", nil, "user in the group (repeatable; all of them: who is not named leaves)")
	a.completeFlag(cmd, "member", userNames)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if old, err := c.Group(ctx, args[0]); err == nil {
			if !cmd.Flags().Changed("description") {
				description = old.Description
			}
			if !cmd.Flags().Changed("member") {
				members = old.Members
			}
		}
		return a.putGroup(ctx, c, args[0], description, members)
	})
	return cmd
}

func (a *app) putGroup(ctx context.Context, c *client.Client, name, description string, members []string) error {
	g, err := c.PutGroup(ctx, name, description, members)
	if err != nil {
		return err
	}
	noun := "members"
	if len(g.Members) == 1 {
		noun = "member"
	}
	return a.did(g, "group %s has %d %s", g.Name, len(g.Members), noun)
}

func (a *app) groupMember(join bool) *cobra.Command {
	cmd := &cobra.Command{Use: "add NAME USER...", Short: "Add users to a group", Args: cobra.MinimumNArgs(2), ValidArgsFunction: a.completeFirst(groupNames)}
	if !join {
		cmd.Use, cmd.Short = "remove NAME USER...", "Take users out of a group"
	}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		g, err := c.Group(ctx, args[0])
		if err != nil {
			return err
		}
		members := slices.DeleteFunc(slices.Clone(g.Members), func(m string) bool { return slices.Contains(args[1:], m) })
		if join {
			members = append(members, args[1:]...)
		}
		return a.putGroup(ctx, c, g.Name, g.Description, members)
	})
	return cmd
}
