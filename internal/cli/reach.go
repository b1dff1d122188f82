package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func inventoryOf(rows []client.InventoryRow, name string) *client.InventoryRow {
	if i := slices.IndexFunc(rows, func(r client.InventoryRow) bool { return r.Name == name }); i >= 0 {
		return &rows[i]
	}
	return nil
}

// reachText counts tools by effect: 12 tools, 3 write, 1 irreversible.
func reachText(r *client.InventoryRow) string {
	if r == nil || r.Reach.Tools == 0 {
		return "nothing"
	}
	x := r.Reach
	text := fmt.Sprintf("%d read, %d write, %d irreversible", x.Read, x.Write, x.Irreversible)
	if x.Agents > 0 {
		text += " by " + counted(x.Agents, "agent", "agents")
	}
	return text
}

func reachColour(r *client.InventoryRow) string {
	if r != nil && r.Reach.Irreversible > 0 {
		return yellow
	}
	return ""
}

func foundText(r *client.InventoryRow) string {
	if r == nil || r.Findings.Open == 0 {
		return ""
	}
	return fmt.Sprintf("%d, %s", r.Findings.Open, r.Findings.Worst)
}

func foundColour(r *client.InventoryRow) string {
	if r != nil && (r.Findings.Worst == "high" || r.Findings.Worst == "critical") {
		return red
	}
	return yellow
}

func inventoryAge(r *client.InventoryRow) string {
	if r == nil {
		return ""
	}
	return ago(r.Created)
}

// agentExpiry is when the last of an agent's keys ends.
func agentExpiry(x client.Agent) string {
	var last time.Time
	for _, k := range x.Keys {
		if k.Expires.After(last) {
			last = k.Expires
		}
	}
	if last.IsZero() {
		return ""
	}
	return until(last)
}

func (a *app) strangers(ctx context.Context, c *client.Client) error {
	all, err := c.Unregistered(ctx)
	if err != nil {
		return err
	}
	return list(a, all, "nobody called without being registered",
		column[client.Stranger]{"FROM", func(x client.Stranger) string { return x.Remote }, func(client.Stranger) string { return bold }},
		column[client.Stranger]{"PROGRAM", func(x client.Stranger) string { return x.Client }, nil},
		column[client.Stranger]{"ASKED FOR", func(x client.Stranger) string { return x.Connection }, nil},
		column[client.Stranger]{"REFUSED", func(x client.Stranger) string { return x.Why }, nil},
		column[client.Stranger]{"CALLS", func(x client.Stranger) string { return fmt.Sprint(x.Calls) }, nil},
		column[client.Stranger]{"FIRST", func(x client.Stranger) string { return ago(x.First) }, nil},
		column[client.Stranger]{"LAST", func(x client.Stranger) string { return ago(x.Last) }, nil})
}

func (a *app) agentReach() *cobra.Command {
	cmd := &cobra.Command{Use: "reach NAME", Short: "Show what an agent may touch, as a tree", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(agentNames),
		Long: `Agent, connections, tools (irreversible ones first), through which grants and policies, and with which secrets the calls are made. Conditions of rules
are not evaluated: what is not shown is impossible, what is shown may be refused for certain arguments.`,
		Example: "  countersign agent reach invoice-checker"}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		t, err := c.Reach(ctx, args[0])
		if err != nil {
			return err
		}
		if a.output == "json" {
			return a.printJSON(t)
		}
		a.printReach(t)
		return nil
	})
	return cmd
}

func (a *app) printReach(t client.ReachTree) {
	say := func(format string, args ...any) { fmt.Fprintf(a.stdout, format+"\n", args...) }
	r := t.Reach
	say("%s  %s, owner %s: %d connections, %d tools (%d irreversible, %d write, %d read; %d always held)",
		a.paint(a.stdout, bold, inert(t.Agent, 0)), t.Stage, inert(t.Owner, 0), r.Connections, r.Tools, r.Irreversible, r.Write, r.Read, r.Held)
	for i, c := range t.Connections {
		branch, trunk := "├─ ", "│  "
		if i == len(t.Connections)-1 {
			branch, trunk = "└─ ", "   "
		}
		say("%s%s  %s, owner %s%s", branch, a.paint(a.stdout, bold, inert(c.Name, 0)), c.Kind, inert(c.Owner, 0), sharedText(c.SharedWith))
		lines := make([]string, 0, len(c.Secrets)+len(c.Tools))
		for _, s := range c.Secrets {
			lines = append(lines, secretText(s))
		}
		for _, x := range c.Tools {
			lines = append(lines, a.toolText(x))
		}
		for j, l := range lines {
			twig := "├─ "
			if j == len(lines)-1 {
				twig = "└─ "
			}
			say("%s%s%s", trunk, twig, l)
		}
	}
	if len(t.Users) > 0 {
		say("on behalf of: %s", inert(strings.Join(t.Users, ", "), 0))
	}
	say("%s", t.Note)
}

func sharedText(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return "; also " + inert(strings.Join(names, ", "), 120)
}

func secretText(s client.ReachSecret) string {
	switch {
	case !s.Exists:
		return "with the secret " + inert(s.Name, 0) + ", which does not exist"
	case len(s.Hosts) == 0:
		return fmt.Sprintf("with the secret %s (%s)", inert(s.Name, 0), s.Kind)
	}
	return fmt.Sprintf("with the secret %s (%s, to %s)", inert(s.Name, 0), s.Kind, inert(strings.Join(s.Hosts, ", "), 120))
}

func (a *app) toolText(x client.ReachTool) string {
	colour := map[string]string{"irreversible": red, "write": yellow}[x.Effect]
	text := fmt.Sprintf("%s  %s  by %s", a.paint(a.stdout, colour, x.Effect), inert(x.Name, 0), inert(strings.Join(x.By, ", "), 200))
	switch {
	case x.Held:
		text += "; held for people"
	case x.MayHold:
		text += "; may be held for people"
	}
	if x.Conditional {
		text += "; under conditions"
	}
	return text
}
