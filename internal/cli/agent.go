package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/countersign/countersign/client"
)

func (a *app) agentCommand() *cobra.Command {
	return group("agent", "Register agents and their keys; suspend and resume them",
		a.agentList(), a.agentShow(), a.agentReach(), a.agentCreate(), a.agentUpdate(), a.agentOwner(), a.agentGive(), a.agentAccept(), a.agentSuspend(), a.agentResume(), a.agentLifecycle(), a.agentDecommission(),
		a.remove("delete NAME", "Delete an agent and its credentials", "agent", "Its credentials die with it.", agentNames, (*client.Client).DeleteAgent),
		a.keyCommand(), a.trustCommand(), a.clientKeyCommand(), a.enrolCommand(), a.programCommand())
}

func agentColour(ag client.Agent) string {
	switch ag.Status {
	case "active":
		return green
	case "suspended", "locked":
		return yellow
	}
	return red
}

func (a *app) agentList() *cobra.Command {
	var unregistered bool
	cmd := &cobra.Command{Use: "list", Short: "List agents, with what they may touch", Args: operands(), Example: "  countersign agent list -o json\n  countersign agent list --unregistered",
		Long: "REACH is what an agent may touch under conditions, an over-approximation; EXPIRES is when its last key does."}
	cmd.Flags().BoolVar(&unregistered, "unregistered", false, "who called in the last 30 days and is no agent")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		if unregistered {
			return a.strangers(ctx, c)
		}
		all, err := c.Agents(ctx)
		if err != nil {
			return err
		}
		inv, err := c.Inventory(ctx)
		if err != nil {
			return err
		}
		for i := range all {
			all[i].Inventory = inventoryOf(inv.Agents, all[i].Name)
		}
		return list(a, all, "no agents yet: countersign agent create NAME --owner USER",
			column[client.Agent]{"NAME", func(x client.Agent) string { return x.Name }, func(client.Agent) string { return bold }},
			column[client.Agent]{"STATUS", func(x client.Agent) string { return x.Status }, agentColour},
			column[client.Agent]{"STAGE", func(x client.Agent) string { return x.Stage }, nil},
			column[client.Agent]{"OWNER", func(x client.Agent) string { return x.Owner }, nil},
			column[client.Agent]{"TEAM", func(x client.Agent) string { return x.Team }, nil},
			column[client.Agent]{"KEYS", func(x client.Agent) string { return fmt.Sprint(len(x.Keys)) }, nil},
			column[client.Agent]{"LAST CALL", func(x client.Agent) string { return ago(x.LastCall) }, nil},
			column[client.Agent]{"PURPOSE", func(x client.Agent) string { return x.Purpose }, nil},
			column[client.Agent]{"AGE", func(x client.Agent) string { return ago(x.Created) }, nil},
			column[client.Agent]{"EXPIRES", agentExpiry, nil},
			column[client.Agent]{"REACH", func(x client.Agent) string { return reachText(x.Inventory) }, func(x client.Agent) string { return reachColour(x.Inventory) }},
			column[client.Agent]{"FINDINGS", func(x client.Agent) string { return foundText(x.Inventory) }, func(x client.Agent) string { return foundColour(x.Inventory) }})
	})
	return cmd
}

func (a *app) agentShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show NAME", Short: "Show an agent", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(agentNames),
		Example: "  countersign agent show invoice-checker"}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		x, err := c.Agent(ctx, args[0])
		if err != nil {
			return err
		}
		grants, err := c.Grants(ctx, x.Name)
		if err != nil {
			return err
		}
		var may []string
		for _, g := range grants {
			may = append(may, fmt.Sprintf("%s: %s/%s", g.Name, g.Connection, strings.Join(g.Tools, ", ")))
		}
		var keys []string
		for _, k := range x.Keys {
			keys = append(keys, fmt.Sprintf("%s  %s…  %s, expires %s, used %s", k.ID, k.Prefix, k.Status, until(k.Expires), ago(k.LastUsed)))
		}
		return a.show(x, row("name", x.Name), row("id", x.ID), painted("status", x.Status, agentColour(x)),
			row("stage", x.Stage), row("owner", x.Owner), row("backup owner", x.Backup), row("team", x.Team), row("purpose", x.Purpose),
			row("business process", x.BusinessProcess), row("labels", pairs(x.Labels)), row("created", ago(x.Created)), row("last call", ago(x.LastCall)),
			row("keys", strings.Join(keys, "\n")), row("grants", strings.Join(may, "\n")))
	})
	return cmd
}

func pairs(m map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+"="+m[k])
	}
	return strings.Join(out, " ")
}

// agentFlags are what can be said of an agent.
type agentFlags struct {
	spec   client.AgentSpec
	labels []string
}

func (f *agentFlags) add(a *app, cmd *cobra.Command, stage string) {
	fl := cmd.Flags()
	fl.StringVar(&f.spec.Owner, "owner", "", "user who answers for it")
	fl.StringVar(&f.spec.Backup, "backup", "", "user who answers when the owner is away")
	fl.StringVar(&f.spec.Team, "team", "", "team it works for")
	fl.StringVar(&f.spec.Purpose, "purpose", "", "what it is for")
	fl.StringVar(&f.spec.BusinessProcess, "process", "", "business process it is part of")
	fl.StringVar(&f.spec.Stage, "stage", stage, "development, staging or production")
	fl.StringArrayVar(&f.labels, "label", nil, "KEY=VALUE (repeatable; replaces all)")
	a.completeFlag(cmd, "owner", userNames)
	a.completeFlag(cmd, "backup", userNames)
	a.completeFlag(cmd, "team", teamNames)
	fixed(cmd, "stage", "development", "staging", "production")
}

// over returns old with every flag that was given.
func (f *agentFlags) over(flags *pflag.FlagSet, old client.AgentSpec) (client.AgentSpec, error) {
	for _, s := range []struct {
		flag     string
		from, to *string
	}{
		{"owner", &f.spec.Owner, &old.Owner}, {"backup", &f.spec.Backup, &old.Backup}, {"team", &f.spec.Team, &old.Team}, {"purpose", &f.spec.Purpose, &old.Purpose},
		{"process", &f.spec.BusinessProcess, &old.BusinessProcess}, {"stage", &f.spec.Stage, &old.Stage},
	} {
		if flags.Changed(s.flag) {
			*s.to = *s.from
		}
	}
	if flags.Changed("label") {
		l, err := labels(f.labels)
		if err != nil {
			return old, err
		}
		old.Labels = l
	}
	return old, nil
}

func (a *app) agentCreate() *cobra.Command {
	var f agentFlags
	cmd := &cobra.Command{Use: "create NAME --owner USER", Short: "Register an agent", Args: operands("NAME"),
		Long: `Registers an agent: the identity under which a program calls. It can call nothing until it has a key (countersign
agent key issue, or countersign run) and grants (countersign grant add).`,
		Example: "  countersign agent create invoice-checker --owner fiona --stage production --purpose 'flags invoice anomalies'"}
	f.add(a, cmd, "development")
	_ = cmd.MarkFlagRequired("owner")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		l, err := labels(f.labels)
		if err != nil {
			return err
		}
		f.spec.Labels = l
		if _, err := c.Agent(ctx, args[0]); err == nil {
			return fmt.Errorf("there is an agent %q already: countersign agent update %s changes it", args[0], args[0])
		}
		x, err := c.PutAgent(ctx, args[0], f.spec)
		if err != nil {
			return err
		}
		return a.did(x, "agent %s registered; next: countersign grant add NAME --agent %s --connection C --tool T, then countersign run --agent %s -- COMMAND", x.Name, x.Name, x.Name)
	})
	return cmd
}

func (a *app) agentUpdate() *cobra.Command {
	var f agentFlags
	cmd := &cobra.Command{Use: "update NAME", Short: "Change what is said of an agent", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(agentNames),
		Example: "  countersign agent update invoice-checker --stage production --reason 'passed its trial'"}
	f.add(a, cmd, "")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.call(func(ctx context.Context, c *client.Client, args []string) error {
			old, err := c.Agent(ctx, args[0])
			if err != nil {
				return err
			}
			spec, err := f.over(cmd.Flags(), old.Spec())
			if err != nil {
				return err
			}
			x, err := c.PutAgent(ctx, args[0], spec)
			if err != nil {
				return err
			}
			return a.did(x, "agent %s updated", x.Name)
		})(cmd, args)
	}
	return cmd
}

func (a *app) agentOwner() *cobra.Command {
	var backup string
	cmd := &cobra.Command{Use: "owner NAME USER", Short: "Give an agent another owner", Args: operands("NAME", "USER"),
		Example: "  countersign agent owner invoice-checker fiona --reason 'took over accounts payable'"}
	cmd.Flags().StringVar(&backup, "backup", "", "another backup owner too")
	a.completeFlag(cmd, "backup", userNames)
	agents, users := a.complete(agentNames), a.complete(userNames)
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, to string) ([]string, cobra.ShellCompDirective) {
		switch len(args) {
		case 0:
			return agents(cmd, args, to)
		case 1:
			return users(cmd, args, to)
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		x, err := c.SetOwner(ctx, args[0], args[1], backup)
		if err != nil {
			return err
		}
		return a.did(x, "%s answers for agent %s now", x.Owner, x.Name)
	})
	return cmd
}

func (a *app) agentSuspend() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{Use: "suspend NAME --reason TEXT", Short: "Stop an agent from making calls", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(agentNames),
		Example: "  countersign agent suspend invoice-checker --reason 'pays the wrong people'"}
	yesFlag(cmd, &yes)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if err := a.confirm(yes, "Suspend agent %s? Its calls are refused until it is resumed.", args[0]); err != nil {
			return err
		}
		x, err := c.Suspend(ctx, args[0])
		if err != nil {
			return err
		}
		return a.did(x, "agent %s makes no further call; countersign agent resume %s lets it again", x.Name, x.Name)
	})
	return cmd
}

func (a *app) agentResume() *cobra.Command {
	cmd := &cobra.Command{Use: "resume NAME --reason TEXT", Short: "Let a suspended agent make calls again", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(agentNames)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		x, err := c.Resume(ctx, args[0])
		if err != nil {
			return err
		}
		return a.did(x, "agent %s may make calls again", x.Name)
	})
	return cmd
}
