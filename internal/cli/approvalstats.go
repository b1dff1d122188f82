package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) approvalsStats() *cobra.Command {
	var days int
	cmd := &cobra.Command{Use: "stats", Short: "Show what it costs that calls wait, per policy, and what could be narrowed", Args: operands(),
		Long: "Per policy: how many calls it held, how long people took (median and 95th percentile), how many they approved, and how long agents' work stood still in all.\n" +
			"Policies whose last 50 requests were all approved are named with the arguments that were seen; people who answer in under two seconds in bulk, too."}
	cmd.Flags().IntVar(&days, "days", 30, "of so many days")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		st, err := c.ApprovalStats(ctx, days)
		if err != nil {
			return err
		}
		if a.output == "json" {
			return a.printJSON(st)
		}
		return a.printStats(st)
	})
	return cmd
}

func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(time.Second).String()
}

func (a *app) printStats(st client.ApprovalStats) error {
	num := func(n int) string { return strconv.Itoa(n) }
	err := list(a, st.Policies, "no call was held",
		column[client.ApprovalPolicy]{"POLICY", func(p client.ApprovalPolicy) string { return p.ID }, func(client.ApprovalPolicy) string { return bold }},
		column[client.ApprovalPolicy]{"HELD", func(p client.ApprovalPolicy) string { return num(p.Held) }, nil},
		column[client.ApprovalPolicy]{"APPROVED", func(p client.ApprovalPolicy) string { return fmt.Sprintf("%.0f %%", 100*p.Share) }, nil},
		column[client.ApprovalPolicy]{"MEDIAN", func(p client.ApprovalPolicy) string { return seconds(p.Median) }, nil},
		column[client.ApprovalPolicy]{"P95", func(p client.ApprovalPolicy) string { return seconds(p.P95) }, nil},
		column[client.ApprovalPolicy]{"AGENT TIME", func(p client.ApprovalPolicy) string { return seconds(p.Agents) }, nil})
	if err != nil {
		return err
	}
	for _, p := range st.Policies {
		if p.Narrow == nil {
			continue
		}
		fmt.Fprintf(a.stdout, "\n%s: %s\n", a.paint(a.stdout, yellow, inert(p.ID, 0)), inert(p.Narrow.Advice, 0))
		for _, r := range p.Narrow.Ranges {
			fmt.Fprintf(a.stdout, "  %s %s: %s\n", inert(r.Tool, 0), inert(r.Name, 0), inert(rangeText(r), 0))
		}
	}
	for _, p := range st.People {
		if p.Bulk {
			fmt.Fprintf(a.stdout, "\n%s decided %d of %d requests within two seconds\n", a.paint(a.stdout, yellow, inert(p.Name, 0)), p.Quick, p.Decided)
		}
	}
	return nil
}

func rangeText(r client.ApprovalRange) string {
	switch {
	case r.Min != "":
		return r.Min + " to " + r.Max
	case len(r.Values) > 0:
		return strings.Join(r.Values, ", ")
	}
	return fmt.Sprintf("%d different ones", r.Many)
}
