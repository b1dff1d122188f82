package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) logRuns() *cobra.Command {
	var q client.RunQuery
	var limit int
	cmd := &cobra.Command{Use: "runs [WORD...]", Short: "List runs, those first that called last", Args: operands("[WORD...]"),
		Long:    "Lists runs with what their calls came to. Words narrow the list to runs whose id, agent, owner, stage or label holds them.",
		Example: "  countersign log runs --with refused\n  countersign log runs --agent invoice-checker --sort calls"}
	cmd.Flags().StringVar(&q.Agent, "agent", "", "only of this agent")
	cmd.Flags().StringVar(&q.Label, "label", "", "only with this label")
	cmd.Flags().StringVar(&q.With, "with", "", "only with such calls: refused, held or failed")
	cmd.Flags().StringVar(&q.Sort, "sort", "last", "by the last event, by the first or by calls: last, first or calls")
	cmd.Flags().BoolVar(&q.Rising, "rising", false, "the smallest first")
	cmd.Flags().IntVarP(&limit, "limit", "n", 50, "at most so many")
	a.completeFlag(cmd, "agent", agentNames)
	fixed(cmd, "with", "refused", "held", "failed")
	fixed(cmd, "sort", "last", "first", "calls")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		q.Text = strings.Join(args, " ")
		runs, err := allRuns(ctx, c, q, limit)
		if err != nil {
			return err
		}
		return list(a, runs, "no runs; a run begins with an agent's first call, or with: countersign run --agent NAME -- COMMAND",
			column[client.RunSummary]{title: "RUN", text: func(r client.RunSummary) string { return r.ID }},
			column[client.RunSummary]{title: "AGENT", text: func(r client.RunSummary) string { return r.Agent }},
			column[client.RunSummary]{title: "LAST", text: func(r client.RunSummary) string { return ago(r.Last) }},
			column[client.RunSummary]{title: "CALLS", text: func(r client.RunSummary) string { return fmt.Sprint(r.Calls) }},
			column[client.RunSummary]{title: "REFUSED", text: func(r client.RunSummary) string { return fmt.Sprint(r.Refused) }, paint: func(r client.RunSummary) string { return map[bool]string{true: red}[r.Refused > 0] }},
			column[client.RunSummary]{title: "HELD", text: func(r client.RunSummary) string { return fmt.Sprint(r.Held) }},
			column[client.RunSummary]{title: "FAILED", text: func(r client.RunSummary) string { return fmt.Sprint(r.Failed) }},
			column[client.RunSummary]{title: "LABELS", text: func(r client.RunSummary) string { return strings.Join(r.Labels, " ") }})
	})
	return cmd
}

// allRuns asks for pages until there are limit runs.
func allRuns(ctx context.Context, c *client.Client, q client.RunQuery, limit int) ([]client.RunSummary, error) {
	var runs []client.RunSummary
	for len(runs) < limit {
		q.Limit = min(limit-len(runs), 1000)
		page, err := c.Runs(ctx, q)
		if err != nil {
			return nil, err
		}
		runs = append(runs, page.Runs...)
		if q.Cursor = page.Next; q.Cursor == "" {
			break
		}
	}
	return runs, nil
}

func (a *app) logRate() *cobra.Command {
	var minutes int
	cmd := &cobra.Command{Use: "rate", Short: "Count calls by the minute, and what deciding adds", Args: operands(),
		Long: "Prints the minutes that had calls, and the whole span. Counts are exact; a held call that is made after all is held in one minute and allowed in another. " +
			"ADDED is the median time that deciding added to a call."}
	cmd.Flags().IntVar(&minutes, "minutes", 60, "how many minutes back, at most 1440")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		r, err := c.Rate(ctx, minutes)
		if err != nil {
			return err
		}
		if a.output == "json" {
			return a.printJSON(r)
		}
		var busy []minuteRow
		for _, m := range r.Minutes {
			if m.Calls()+m.Failed > 0 {
				busy = append(busy, minuteRow{m, m.At.Local().Format("15:04")})
			}
		}
		if len(busy) > 0 {
			busy = append(busy, minuteRow{r.Total, "all"})
		}
		number := func(title string, of func(client.Minute) int64) column[minuteRow] {
			return column[minuteRow]{title: title, text: func(m minuteRow) string { return fmt.Sprint(of(m.Minute)) }}
		}
		return list(a, busy, fmt.Sprintf("no call in the last %d minutes", minutes),
			column[minuteRow]{title: "MINUTE", text: func(m minuteRow) string { return m.name }},
			number("CALLS", client.Minute.Calls),
			number("ALLOWED", func(m client.Minute) int64 { return m.Allowed }),
			number("REFUSED", func(m client.Minute) int64 { return m.Denied + m.Refused }),
			number("HELD", func(m client.Minute) int64 { return m.Held }),
			number("FAILED", func(m client.Minute) int64 { return m.Failed }),
			column[minuteRow]{title: "ADDED", text: func(m minuteRow) string { return (time.Duration(m.Added) * time.Microsecond).String() }})
	})
	return cmd
}

// minuteRow is a minute as a row of a table.
type minuteRow struct {
	client.Minute
	name string
}
