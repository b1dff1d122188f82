package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) connectionReach() *cobra.Command {
	var days int
	cmd := &cobra.Command{Use: "reach NAME", Short: "Ask what a connection's own credential can reach, and show what was used", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(connectionNames),
		Long: `Asks the upstream, with the connection's credential and in your name, what that credential could reach: tables, indexes and collections,
tools that nobody accepted, models, repositories, roles and scopes. Beside each stands what agents used of it. What can change something
although the connection only reads is marked. Nothing is changed by asking, each request is in the log, and nothing is guessed: what
no protocol tells is listed as not known.`,
		Example: "  countersign connection reach handbook\n  countersign connection reach handbook --days 90 -o json"}
	cmd.Flags().IntVar(&days, "days", 30, "count what was used in this many days")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if days < 1 || days > 3650 {
			return fmt.Errorf("--days is 1 to 3650, not %d", days)
		}
		var r client.ConnectionReach
		err := a.waiting("asking "+args[0], func() (err error) {
			r, err = c.ConnectionReach(ctx, args[0], days)
			return err
		})
		if err != nil {
			return err
		}
		return a.printConnectionReach(r)
	})
	return cmd
}

func (a *app) printConnectionReach(r client.ConnectionReach) error {
	if a.output == "json" {
		return a.printJSON(r)
	}
	say := func(format string, args ...any) { fmt.Fprintf(a.stdout, format+"\n", args...) }
	head := a.paint(a.stdout, bold, inert(r.Connection, 0)) + "  " + strings.TrimSpace(r.Kind+" "+r.Dialect) + ", owner " + inert(r.Owner, 0)
	if r.Secret != "" {
		head += ", with the secret " + inert(r.Secret, 0)
	}
	if r.Identity != "" {
		head += "; there it is " + inert(r.Identity, 256)
	}
	say("%s", head)
	for _, x := range r.Rights {
		text := "may: " + inert(x.Name, 200) + map[string]string{"credential": " (says the credential itself)", "settings": " (say the secret's settings)"}[x.From]
		if x.Excess {
			text = a.paint(a.stdout, red, text+"; the connection only reads")
		}
		say("%s", text)
	}
	type thing = client.ConnectionThing
	err := list(a, r.Things, "nothing is told of what it can reach",
		column[thing]{"WHAT", func(x thing) string { return x.Kind }, nil},
		column[thing]{"NAME", func(x thing) string { return x.Name }, func(thing) string { return bold }},
		column[thing]{"MAY", reachMay, func(x thing) string {
			if x.Excess {
				return red
			}
			return ""
		}},
		column[thing]{"HOLDS", reachCount, nil},
		column[thing]{"AGENTS", reachOpen, nil},
		column[thing]{"USED", reachUsed, nil})
	if err != nil {
		return err
	}
	if r.More {
		a.warn("there is more than is shown")
	}
	say("%s", a.paint(a.stdout, dim, fmt.Sprintf("%d never used since %s", r.Unused, r.Since.Local().Format("2006-01-02 15:04:05"))))
	for _, x := range r.Unknown {
		say("%s", a.paint(a.stdout, dim, "not known: "+inert(x, 400)))
	}
	if r.Behind > 0 {
		a.warn("%d events are recorded and not counted yet", r.Behind)
	}
	if r.Excess > 0 {
		a.warn("the connection only reads, and its credential can change %d of these; give it one that cannot", r.Excess)
	}
	return nil
}

func reachMay(x client.ConnectionThing) string {
	text := strings.Join(x.Rights, ", ")
	if x.Excess {
		text += " (!)"
	}
	return text
}

func reachCount(x client.ConnectionThing) string {
	switch {
	case x.Count == nil:
		return ""
	case x.About:
		return fmt.Sprintf("about %d", *x.Count)
	}
	return fmt.Sprint(*x.Count)
}

// reachOpen says whether agents are let to it through the connection.
func reachOpen(x client.ConnectionThing) string {
	if x.Status != "" && !x.Open {
		return "no, " + x.Status
	}
	if x.Open {
		return "yes"
	}
	return "no"
}

func reachUsed(x client.ConnectionThing) string {
	switch {
	case x.Calls == nil:
		return "not counted"
	case *x.Calls == 0:
		return "never"
	}
	return fmt.Sprintf("%d, last %s", *x.Calls, ago(x.Last))
}
