package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) grantRightsize() *cobra.Command {
	var window string
	cmd := &cobra.Command{Use: "rightsize [AGENT]", Short: "Propose how grants can shrink to what is used", Args: operands("[AGENT]"), ValidArgsFunction: a.completeFirst(agentNames),
		Long: `Compares the grants of an agent (without one: of all that are yours to manage) with what was used of them, and proposes: remove what was
not used, leave out tools that were not, allow only the values that arguments had, bind it to the stage in which it was used, give it
an end. Each is shown as a diff, with how many recorded calls since then it would have refused. A grant that is younger than the
window is not judged. Nothing changes until you accept; a proposal can be tried first: what it would refuse is then noted beside each
decision, and refused by nobody.`,
		Example: `  countersign grant rightsize invoice-checker --since 90d
  countersign grant rightsize try pays:3f9a0c11d2      then look: countersign grant rightsize list
  countersign grant rightsize accept pays:3f9a0c11d2
  countersign grant rightsize revert pays:3f9a0c11d2`}
	cmd.Flags().StringVar(&window, "since", "90d", "judge use from then on: 24h, 90d or a time")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		since, err := moment("--since", window, time.Now())
		if err != nil {
			return err
		}
		made := []client.Rightsizing{}
		agents, err := a.judged(ctx, c, args)
		if err != nil {
			return err
		}
		for _, agent := range agents {
			found, err := c.ProposeRightsizing(ctx, agent, time.Since(since))
			if refused := new(client.Error); len(args) == 0 && errors.As(err, &refused) && refused.Status == 403 {
				continue // another's
			}
			if err != nil {
				return err
			}
			made = append(made, found...)
		}
		return a.printRightsizings(made, "nothing can be taken: every grant is younger than the window, or used as it is")
	})
	cmd.AddCommand(a.rightsizeList(),
		a.decideRightsizing("try", "Note what a proposal would refuse, and refuse nothing", "is tried: what it would refuse is noted (countersign grant rightsize list)"),
		a.decideRightsizing("accept", "Make a grant what a proposal says", "is in force; one command takes it back: countersign grant rightsize revert ID"),
		a.decideRightsizing("revert", "Give back what an accepted proposal took", "is taken back: the grant is what it was"),
		a.decideRightsizing("drop", "Say that a proposal is not wanted", "is dropped and will not be made again"))
	return cmd
}

// judged returns the agent named, or all that have grants.
func (a *app) judged(ctx context.Context, c *client.Client, args []string) ([]string, error) {
	if len(args) == 1 {
		_, err := c.Agent(ctx, args[0])
		return args, err
	}
	grants, err := c.Grants(ctx, "")
	seen := map[string]bool{}
	var out []string
	for _, g := range grants {
		if !seen[g.Agent] {
			seen[g.Agent] = true
			out = append(out, g.Agent)
		}
	}
	return out, err
}

func (a *app) printRightsizings(all []client.Rightsizing, none string) error {
	if a.output == "json" {
		return a.printJSON(all)
	}
	if len(all) == 0 {
		fmt.Fprintln(a.stdout, none)
	}
	for i, p := range all {
		if i > 0 {
			fmt.Fprintln(a.stdout)
		}
		fmt.Fprintf(a.stdout, "%s  %s of grant %s (%s): %s\n", a.paint(a.stdout, bold, inert(p.ID, 0)), p.Kind, inert(p.Grant, 0), inert(p.Agent, 0), inert(p.Why, 0))
		for line := range strings.Lines(p.Diff) {
			colour := map[byte]string{'-': red, '+': green}[line[0]]
			fmt.Fprintln(a.stdout, "  "+a.paint(a.stdout, colour, inert(strings.TrimRight(line, "\n"), 0)))
		}
		fmt.Fprintln(a.stdout, "  "+rightsizingEffect(p))
	}
	return nil
}

// rightsizingEffect says what a proposal would have refused, or did.
func rightsizingEffect(p client.Rightsizing) string {
	s := fmt.Sprintf("of %d recorded calls since %s it would have refused %d", p.Calls, p.Since.Local().Format(time.DateOnly), p.Refused)
	if p.Partial {
		s = "only the newest were decided again: " + s
	}
	if p.Unseen > 0 {
		s += fmt.Sprintf("; of %d nothing is said, their arguments are not kept", p.Unseen)
	}
	if len(p.Changes) > 0 && len(p.Changes[0].Events) > 0 {
		s += ", such as " + inert(p.Changes[0].Events[0], 0)
	}
	switch p.State {
	case "tried":
		s += fmt.Sprintf("; tried since %s: it would have refused %d", p.Changed.Local().Format(time.DateTime), p.WouldRefuse)
	case "accepted":
		if !p.LastRefusal.IsZero() {
			s += "; something that it took was asked for " + ago(p.LastRefusal)
		}
	}
	return s
}

func (a *app) rightsizeList() *cobra.Command {
	var agent, state string
	cmd := &cobra.Command{Use: "list", Short: "List proposals, what became of them, and what those that are tried would refuse", Args: operands()}
	cmd.Flags().StringVar(&agent, "agent", "", "of this agent only")
	cmd.Flags().StringVar(&state, "state", "", "proposed, tried, accepted, reverted or dropped")
	a.completeFlag(cmd, "agent", agentNames)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		all, err := c.Rightsizings(ctx, agent, state)
		if err != nil {
			return err
		}
		type one = client.Rightsizing
		return list(a, all, "no proposals: countersign grant rightsize makes them",
			column[one]{"ID", func(p one) string { return p.ID }, func(one) string { return bold }},
			column[one]{"AGENT", func(p one) string { return p.Agent }, nil},
			column[one]{"KIND", func(p one) string { return p.Kind }, nil},
			column[one]{"STATE", func(p one) string { return p.State }, nil},
			column[one]{"SINCE", func(p one) string { return ago(p.Changed) }, nil},
			column[one]{"BY", func(p one) string { return p.By }, nil},
			column[one]{"WOULD HAVE REFUSED", func(p one) string { return fmt.Sprintf("%d of %d", p.Refused, p.Calls) }, nil},
			column[one]{"TRIED", func(p one) string {
				if p.State != "tried" {
					return ""
				}
				return fmt.Sprintf("would refuse %d", p.WouldRefuse)
			}, nil})
	})
	return cmd
}

func rightsizingIDs(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Rightsizings(ctx, "", "")
	return namesOf(l, err, func(p client.Rightsizing) string { return p.ID })
}

func (a *app) decideRightsizing(what, short, then string) *cobra.Command {
	var force bool
	cmd := &cobra.Command{Use: what + " ID", Short: short, Args: operands("ID"), ValidArgsFunction: a.completeFirst(rightsizingIDs)}
	if what == "accept" {
		cmd.Flags().BoolVar(&force, "force", false, "though calls came since that it would refuse")
	}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if !strings.Contains(args[0], ":") {
			return usageError{fmt.Errorf("%q is no proposal such as pays:3f9a0c11d2; countersign grant rightsize list shows them", args[0])}
		}
		p, err := c.DecideRightsizing(ctx, args[0], what, force)
		if err != nil {
			return err
		}
		return a.did(p, "%s (%s of grant %s) %s", p.ID, p.Kind, p.Grant, strings.Replace(then, " ID", " "+p.ID, 1))
	})
	return cmd
}
