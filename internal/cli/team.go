package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) teamCommand() *cobra.Command {
	return group("team", "Group users into teams that agents work for", a.teamList(), a.teamShow(), a.teamCreate(),
		a.remove("delete NAME", "Delete a team without agents", "team", "", teamNames, (*client.Client).DeleteTeam))
}

func (a *app) teamList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List teams", Args: operands()}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		all, err := c.Teams(ctx)
		if err != nil {
			return err
		}
		return list(a, all, "no teams yet: countersign team create NAME --member USER",
			column[client.Team]{"NAME", func(t client.Team) string { return t.Name }, func(client.Team) string { return bold }},
			column[client.Team]{"MEMBERS", func(t client.Team) string { return strings.Join(t.Members, ", ") }, nil},
			column[client.Team]{"DESCRIPTION", func(t client.Team) string { return t.Description }, nil})
	})
	return cmd
}

func (a *app) teamShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show NAME", Short: "Show a team", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(teamNames)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		t, err := c.Team(ctx, args[0])
		if err != nil {
			return err
		}
		return a.show(t, row("name", t.Name), row("id", t.ID), row("description", t.Description), row("members", strings.Join(t.Members, ", ")), row("created", ago(t.Created)))
	})
	return cmd
}

func (a *app) teamCreate() *cobra.Command {
	var description string
	var members []string
	cmd := &cobra.Command{Use: "create NAME", Aliases: []string{"update"}, Short: "Create a team, or set who is in it", Args: operands("NAME"),
		Example: "  countersign team create finance --member fiona --member pat"}
	cmd.Flags().StringVar(&description, "description", "", "what the team is")
	cmd.Flags().StringSliceVar(&members, "member", nil, "user in the team (repeatable; all of them: who is not named leaves)")
	a.completeFlag(cmd, "member", userNames)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if old, err := c.Team(ctx, args[0]); err == nil {
			if !cmd.Flags().Changed("description") {
				description = old.Description
			}
			if !cmd.Flags().Changed("member") {
				members = old.Members
			}
		}
		t, err := c.PutTeam(ctx, args[0], description, members)
		if err != nil {
			return err
		}
		return a.did(t, "team %s has %d members", t.Name, len(t.Members))
	})
	return cmd
}
