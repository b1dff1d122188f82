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
	return group("endorsement", "What people endorsed beforehand: counterparties, and what a run may do", a.endorsementList(), a.endorsementRevoke(), a.endorsementAllow(), a.endorsementAsk())
}

func (a *app) endorsementList() *cobra.Command {
	var kind, run string
	var all bool
	cmd := &cobra.Command{Use: "list AGENT", Short: "List what people endorsed beforehand for an agent", Args: operands("AGENT"), ValidArgsFunction: a.completeFirst(agentNames),
		Example: "  countersign endorsement list support-assistant --kind counterparty"}
	cmd.Flags().StringVar(&kind, "kind", "", "counterparty, scope or stated only")
	cmd.Flags().StringVar(&run, "run", "", "of this run only")
	cmd.Flags().BoolVar(&all, "all", false, "those that are over, too")
	fixed(cmd, "kind", "counterparty", "scope", "stated")
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
	case e.Calls > 0 && e.Used >= e.Calls:
		return "used up"
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
	if e.Calls > 0 {
		out = append(out, fmt.Sprintf("(%d of %d calls made)", e.Used, e.Calls))
	}
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

func (a *app) endorsementAsk() *cobra.Command {
	var calls int64
	var lasting string
	var wait time.Duration
	cmd := &cobra.Command{Use: "ask RUN CONNECTION/TOOL ARG=VALUE... --calls N --reason TEXT", Short: "State what a run will do and ask people to approve it once", Args: operands("RUN", "CONNECTION/TOOL", "ARG=VALUE..."),
		Long: `Asks those who would be asked about the calls one by one. When they have approved, held calls of the run inside what is stated are made without
asking, as often as it says, until it ends with the run or the time is over. Every argument that is declared as a recipient, an object or
an amount and that a call has must be stated; of an amount, the value is the most. * stands for a part of one word. What is outside is held as before. Who asks
does not approve. An agent asks itself with its tool request_scope.`,
		Example: "  countersign endorsement ask run_… bank/pay to=DE89370400440532013000 amount=500 --calls 3 --for 2h --reason 'rent, power and water'"}
	f := cmd.Flags()
	f.Int64Var(&calls, "calls", 1, "how many calls, at most (1 to 1000)")
	f.StringVar(&lasting, "for", "1h", "how long from when it is approved (1m to 12h)")
	f.DurationVar(&wait, "wait", 0, "wait so long for the answer, such as 10m")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		scope, err := scopeOf(args[1:])
		if err != nil {
			return err
		}
		asked, err := c.AskScope(ctx, args[0], lasting, client.StatedScope{Scope: scope, Calls: calls})
		if err != nil {
			return err
		}
		if wait > 0 {
			if asked, err = a.decided(ctx, c, asked, wait); err != nil {
				return err
			}
		}
		if asked.State == "pending" {
			return a.did(asked, "%s is pending: %s decides until %s (countersign approve %s)", asked.ID, strings.Join(asked.Deciders, " or "), until(asked.DecideBy), asked.ID)
		}
		return a.did(asked, "%s is %s %s", asked.ID, asked.State, asked.Why)
	})
	return cmd
}

// decided waits until people have decided about a stated scope and it is in force.
func (a *app) decided(ctx context.Context, c *client.Client, x client.AskedScope, wait time.Duration) (client.AskedScope, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		now, err := c.ScopeRequest(ctx, x.Run, x.ID)
		switch {
		case ctx.Err() != nil: // still as it was seen last
			return x, nil
		case err != nil:
			return x, err
		case now.State != "pending" && now.State != "approved" && now.State != "executing":
			return now, nil
		}
		x = now
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
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
