package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) useCommand() *cobra.Command {
	return group("use", "See what agents use of what they may", a.useShow(), a.useRebuild())
}

func (a *app) useShow() *cobra.Command {
	var q client.UseQuery
	var since, until string
	cmd := &cobra.Command{Use: "show AGENT", Short: "Show what an agent used, by tool and grant", Args: operands("AGENT"), ValidArgsFunction: a.completeFirst(agentNames),
		Long: `Counts calls by tool, and by the grants and policies that determined them. ARGUMENTS are the values in allowed calls of arguments that
a policy or grant of the agent names; redacted ones are never kept, and you see them of your own agents, or of all if you may see contents.
Of what was before "watched since" nothing is known.`,
		Example: "  countersign use show invoice-checker --since 90d\n  countersign use show invoice-checker --days -o json"}
	f := cmd.Flags()
	f.StringVar(&since, "since", "", "from that day on (UTC): 7d, 2026-10-01 or RFC 3339 (default: all)")
	f.StringVar(&until, "until", "", "until that day, which is included")
	f.BoolVar(&q.Days, "days", false, "each day for itself")
	f.BoolVar(&q.Pairs, "pairs", false, "by tool alone")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		q.Agent = args[0]
		for flag, v := range map[string]struct {
			text string
			to   *time.Time
		}{"--since": {since, &q.Since}, "--until": {until, &q.Until}} {
			if v.text == "" {
				continue
			}
			var err error
			if *v.to, err = moment(flag, v.text, time.Now()); err != nil {
				return err
			}
		}
		if _, err := c.Agent(ctx, q.Agent); err != nil {
			return err
		}
		found, err := c.Uses(ctx, q)
		if err != nil {
			return err
		}
		return a.printUse(found, q)
	})
	return cmd
}

func (a *app) printUse(found client.Uses, q client.UseQuery) error {
	if a.output == "json" {
		return a.printJSON(found)
	}
	type used = client.Use
	columns := []column[used]{
		{title: "TOOL", text: func(u used) string { return u.Connection + "/" + u.Tool }},
		{title: "BY", text: func(u used) string { return or(strings.Replace(u.Rule, "grant:", "grant ", 1), "all calls") }},
		{title: "STAGE", text: func(u used) string { return u.Stage }},
		{title: "ALLOWED", text: func(u used) string { return fmt.Sprint(u.Allowed) }},
		{title: "LAST", text: func(u used) string { return ago(u.LastAllowed) }},
		{title: "DENIED", text: func(u used) string { return fmt.Sprint(u.Denied) }},
		{title: "LAST", text: func(u used) string { return ago(u.LastDenied) }},
		{title: "HELD", text: func(u used) string { return fmt.Sprint(u.Held) }},
		{title: "ARGUMENTS", text: func(u used) string { return usedArguments(u.Arguments) }},
	}
	if q.Days {
		columns = append([]column[used]{{title: "DAY", text: func(u used) string { return u.Day.UTC().Format(time.DateOnly) }}}, columns...)
	}
	if err := list(a, found.Uses, q.Agent+" used nothing", columns...); err != nil {
		return err
	}
	a.printWatched(found.Since, found.Behind)
	return nil
}

// printWatched says how much of the log an answer rests on.
func (a *app) printWatched(since time.Time, behind int64) {
	if !since.IsZero() {
		fmt.Fprintln(a.stdout, a.paint(a.stdout, dim, "watched since "+since.Local().Format(time.DateTime)))
	}
	if behind > 0 {
		a.warn("%d events are recorded and not looked at yet", behind)
	}
}

func usedArguments(args map[string]client.UsedValues) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(args)) {
		parts = append(parts, name+": "+args[name].String())
	}
	return strings.Join(parts, "; ")
}

func (a *app) useRebuild() *cobra.Command {
	var all bool
	cmd := &cobra.Command{Use: "rebuild", Short: "Read from the log again what was used", Args: operands(),
		Long: `What is known of use is derived from the log: nothing is lost, and the same comes out. An argument is looked at from when a policy
or grant first named it; --all looks at all that are named by now, from the log's beginning on.`}
	cmd.Flags().BoolVar(&all, "all", false, "every argument that policies name by now, from the beginning")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		if err := c.RebuildUse(ctx, all); err != nil {
			return err
		}
		return a.did(struct {
			ID string `json:"id"`
		}{"use"}, "what was used is being read again")
	})
	return cmd
}
