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

func (a *app) endorsementCommand() *cobra.Command {
	return group("endorsement", "What people endorsed beforehand: counterparties, and what a run may do", a.endorsementList(), a.endorsementRevoke(), a.endorsementAllow())
}

func (a *app) endorsementList() *cobra.Command {
	var kind, run string
	var all bool
	cmd := &cobra.Command{Use: "list AGENT", Short: "List what people endorsed beforehand for an agent", Args: operands("AGENT"), ValidArgsFunction: a.completeFirst(agentNames),
		Example: "  countersign endorsement list support-assistant --kind counterparty"}
	cmd.Flags().StringVar(&kind, "kind", "", "counterparty or scope only")
	cmd.Flags().StringVar(&run, "run", "", "of this run only")
	cmd.Flags().BoolVar(&all, "all", false, "those that are over, too")
	fixed(cmd, "kind", "counterparty", "scope")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		found, err := c.Endorsements(ctx, args[0], kind, run)
		if err != nil {
			return err
		}
		if !all {
			found = slices.DeleteFunc(found, func(e client.Endorsement) bool { return endorsementOver(e) != "" })
		}
		return list(a, found, "people endorsed nothing beforehand",
			column[client.Endorsement]{"ID", func(e client.Endorsement) string { return e.ID }, nil},
			column[client.Endorsement]{"KIND", func(e client.Endorsement) string { return e.Kind }, nil},
			column[client.Endorsement]{"TOOL", func(e client.Endorsement) string { return e.Connection + "/" + e.Tool }, nil},
			column[client.Endorsement]{"WHAT", endorsed, func(client.Endorsement) string { return bold }},
			column[client.Endorsement]{"RUN", func(e client.Endorsement) string { return e.Run }, nil},
			column[client.Endorsement]{"BY", func(e client.Endorsement) string { return strings.Join(e.People, ", ") }, nil},
			column[client.Endorsement]{"EXPIRES", func(e client.Endorsement) string {
				if over := endorsementOver(e); over != "" {
					return over
				}
				return until(e.Expires)
			}, nil})
	})
	return cmd
}

func endorsementOver(e client.Endorsement) string {
	switch {
	case !e.Ended.IsZero():
		return "revoked by " + e.EndedBy
	case !time.Now().Before(e.Expires):
		return "expired"
	}
	return ""
}

func endorsed(e client.Endorsement) string {
	if e.Scope == nil {
		return e.Arg + "=" + e.Value
	}
	var out []string
	for arg, values := range e.Scope.Args {
		for _, v := range values {
			out = append(out, arg+"="+v)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (a *app) endorsementRevoke() *cobra.Command {
	cmd := &cobra.Command{Use: "revoke AGENT ID... --reason TEXT", Short: "Revoke what was endorsed beforehand: people are asked again", Args: operands("AGENT", "ID..."), ValidArgsFunction: a.completeFirst(agentNames)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		for _, id := range args[1:] {
			e, err := c.RevokeEndorsement(ctx, args[0], id)
			if err != nil {
				return err
			}
			if err := a.did(e, "%s is revoked: %s", e.ID, endorsed(e)); err != nil {
				return err
			}
		}
		return nil
	})
	return cmd
}

func (a *app) endorsementAllow() *cobra.Command {
	cmd := &cobra.Command{Use: "allow RUN CONNECTION/TOOL ARG=VALUE... --reason TEXT", Short: "Say what a run may do, so that nobody is asked about it", Args: operands("RUN", "CONNECTION/TOOL", "ARG=VALUE..."),
		Long: `Endorses these values of a tool's arguments for one run, and says that the run is asked to do that. Every argument named must match; of an
amount, the value is the most that it may be. * stands for a part of one word: to=*@example.com. It is for who starts a run or answers for
its agent: no agent can say this of its own run.`,
		Example: "  countersign endorsement allow run_… mail/send to=ann@example.com to=ben@example.com --reason 'the two of the project'"}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		scope, err := scopeOf(args[1:])
		if err != nil {
			return err
		}
		made, err := c.AllowRun(ctx, args[0], scope)
		if err != nil {
			return err
		}
		return a.did(made, "%s may %s %s", args[0], scope.Tool, endorsed(made[0]))
	})
	return cmd
}

// scopeOf reads CONNECTION/TOOL ARG=VALUE...
func scopeOf(words []string) (client.Scope, error) {
	if len(words) < 2 {
		return client.Scope{}, fmt.Errorf("%q: say CONNECTION/TOOL ARG=VALUE..., such as mail/send to=ann@example.com", strings.Join(words, " "))
	}
	s := client.Scope{Tool: words[0], Args: map[string][]string{}}
	for _, w := range words[1:] {
		arg, value, ok := strings.Cut(w, "=")
		if !ok || arg == "" || value == "" {
			return s, fmt.Errorf("%q is not ARG=VALUE", w)
		}
		s.Args[arg] = append(s.Args[arg], value)
	}
	return s, nil
}
