package cli

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) budgetCommand() *cobra.Command {
	return group("budget", "Bound what agents use: calls, effects, tokens and money", a.budgetList(), a.budgetShow(), a.budgetUsage(), a.budgetSet(),
		a.remove("delete NAME", "Delete a budget and what it counted", "budget", "Calls that it limited are not limited by it any more.", budgetNames, (*client.Client).DeleteBudget),
		a.priceCommand())
}

func budgetNames(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Budgets(ctx)
	return namesOf(l, err, func(b client.Budget) string { return b.Name })
}

var meters = []string{"calls", "effects", "tokens", "money"}

// amount is so much of what a meter counts, for people.
func amount(meter string, n int64) string {
	if meter != "money" {
		return strconv.FormatInt(n, 10)
	}
	text := big.NewRat(n, 1_000_000).FloatString(6)
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
}

// parseAmount reads a number; of money, in the currency, with up to six decimals.
func parseAmount(meter, text string) (int64, error) {
	r, ok := new(big.Rat).SetString(text)
	if ok && meter == "money" {
		r.Mul(r, big.NewRat(1_000_000, 1))
	}
	if !ok || strings.Trim(text, "0123456789.") != "" || !r.IsInt() || !r.Num().IsInt64() {
		return 0, usageError{fmt.Errorf("%q is no amount of %s", text, meter)}
	}
	return r.Num().Int64(), nil
}

func budgetFor(b client.Budget) string {
	var parts []string
	for _, p := range []struct{ kind, name string }{{"agent ", b.Agent}, {"team ", b.Team}, {"", b.Tool}} {
		if p.name != "" {
			parts = append(parts, p.kind+p.name)
		}
	}
	if len(parts) == 0 {
		parts = []string{"all calls"}
	}
	if b.Each != "" {
		parts = append(parts, "each "+b.Each+" its own")
	}
	return strings.Join(parts, ", ")
}

func limitOf(b client.Budget, n int64) string {
	if n == 0 {
		return "none"
	}
	return amount(b.Meter, n)
}

func periodOf(b client.Budget) string {
	if b.Zone != "" {
		return b.Period + " (" + b.Zone + ")"
	}
	return b.Period
}

func (a *app) budgetList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List budgets", Args: operands()}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		all, err := c.Budgets(ctx)
		if err != nil {
			return err
		}
		return list(a, all, "no budget is set: nothing bounds what agents use",
			column[client.Budget]{"NAME", func(b client.Budget) string { return b.Name }, func(client.Budget) string { return bold }},
			column[client.Budget]{"FOR", budgetFor, nil},
			column[client.Budget]{"COUNTS", func(b client.Budget) string { return b.Meter }, nil},
			column[client.Budget]{"HARD", func(b client.Budget) string { return limitOf(b, b.Hard) }, nil},
			column[client.Budget]{"SOFT", func(b client.Budget) string { return limitOf(b, b.Soft) }, nil},
			column[client.Budget]{"PER", periodOf, nil})
	})
	return cmd
}

func (a *app) budgetShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show NAME", Short: "Show a budget", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(budgetNames)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		b, err := c.Budget(ctx, args[0])
		if err != nil {
			return err
		}
		return a.showBudget(b)
	})
	return cmd
}

func (a *app) showBudget(b client.Budget) error {
	return a.show(b, row("budget", b.Name), row("id", b.ID), row("for", budgetFor(b)), row("counts", b.Meter), row("hard limit", limitOf(b, b.Hard)), row("soft limit", limitOf(b, b.Soft)),
		row("per", periodOf(b)), row("because", b.Reason), row("set", ago(b.Updated)+" by "+b.By))
}

func (a *app) budgetUsage() *cobra.Command {
	var limit int
	cmd := &cobra.Command{Use: "usage NAME", Short: "Show what was used of a budget", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(budgetNames),
		Long: "Prints the latest periods. RESERVED is what calls under way may use at most; it becomes what they used when they end."}
	cmd.Flags().IntVarP(&limit, "limit", "n", 20, "at most so many periods")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		u, err := c.BudgetUsage(ctx, args[0], limit)
		if err != nil {
			return err
		}
		if a.output == "json" {
			return a.printJSON(u)
		}
		return list(a, u.Windows, "nothing was used of it",
			column[client.BudgetWindow]{"SINCE", func(w client.BudgetWindow) string { return since(w.Start) }, nil},
			column[client.BudgetWindow]{"PART", func(w client.BudgetWindow) string { return w.Part }, func(client.BudgetWindow) string { return bold }},
			column[client.BudgetWindow]{"SPENT", func(w client.BudgetWindow) string { return amount(u.Meter, w.Spent) }, nil},
			column[client.BudgetWindow]{"RESERVED", func(w client.BudgetWindow) string { return amount(u.Meter, w.Reserved) }, nil},
			column[client.BudgetWindow]{"LEFT", func(w client.BudgetWindow) string { return left(u, w) }, func(w client.BudgetWindow) string {
				if u.Hard > 0 && w.Left == 0 {
					return red
				}
				return ""
			}},
			column[client.BudgetWindow]{"RENEWS", func(w client.BudgetWindow) string { return renews(w) }, nil})
	})
	return cmd
}

func left(u client.BudgetUsage, w client.BudgetWindow) string {
	if u.Hard == 0 {
		return "no limit"
	}
	return amount(u.Meter, w.Left)
}

func since(t time.Time) string {
	if t.IsZero() {
		return "the beginning"
	}
	return t.UTC().Format("2006-01-02 15:04") + " UTC"
}

func renews(w client.BudgetWindow) string {
	switch {
	case w.Ends.IsZero():
		return "never"
	case time.Now().After(w.Ends):
		return "is over"
	}
	return until(w.Ends)
}

func (a *app) budgetSet() *cobra.Command {
	var s client.BudgetSpec
	var soft string
	var warn bool
	limits := map[string]*string{}
	cmd := &cobra.Command{Use: "set NAME (--calls|--effects|--tokens|--money) N --per PERIOD --reason TEXT", Short: "Set a budget", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(budgetNames),
		Long: `Calls over the limit are refused, with the time at which it begins anew; what a call may use is reserved before it goes out and settled
when it has ended. Without --agent, --team and --tool it is for all calls together. A budget that counts something else than before begins
at nothing; if only its limits change, what was used stays used.`,
		Example: `  countersign budget set invoices --agent invoice-checker --effects 200 --per day --zone Europe/Berlin --reason 'usual: 80'
  countersign budget set models --team support --money 250.00 --soft 80% --per month --reason 'planned for 2027'
  countersign budget set runaway --each run --calls 500 --per total --reason 'no task needs more'`}
	f := cmd.Flags()
	for meter, help := range map[string]string{"calls": "calls that go out", "effects": "calls of tools that write or cannot be taken back", "tokens": "tokens of models, in and out", "money": "what models cost, in the price table's currency"} {
		limits[meter] = f.String(meter, "", "at most so many "+help)
	}
	f.Lookup("money").Usage = "at most so much of what models cost, in the price table's currency"
	f.StringVar(&s.Period, "per", "", "hour, day, month or total")
	f.StringVar(&s.Agent, "agent", "", "for calls of this agent, and on its behalf")
	f.StringVar(&s.Team, "team", "", "for calls of agents of this team")
	f.StringVar(&s.Tool, "tool", "", "for calls of this tool, CONNECTION/TOOL or CONNECTION/*")
	f.StringVar(&s.Each, "each", "", "agent or run: every one has its own")
	f.StringVar(&s.Zone, "zone", "", "time zone in which days and months begin (default: UTC)")
	f.StringVar(&soft, "soft", "", "tell people when so much is used: a number, or 80%")
	f.BoolVar(&warn, "warn-only", false, "refuse nothing: the limit is a soft one")
	fixed(cmd, "per", "hour", "day", "month", "total")
	fixed(cmd, "each", "agent", "run")
	a.completeFlag(cmd, "agent", agentNames)
	a.completeFlag(cmd, "team", teamNames)
	a.completeFlag(cmd, "tool", toolNames)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if err := readLimits(&s, limits, soft, warn); err != nil {
			return err
		}
		b, err := c.PutBudget(ctx, args[0], s)
		if err != nil {
			return err
		}
		if a.output == "json" {
			return a.printJSON(b)
		}
		return a.showBudget(b)
	})
	return cmd
}

// readLimits finds the one meter that was given a limit.
func readLimits(s *client.BudgetSpec, limits map[string]*string, soft string, warn bool) (err error) {
	for _, meter := range meters {
		if *limits[meter] == "" {
			continue
		}
		if s.Meter != "" {
			return usageError{fmt.Errorf("a budget counts one thing: --%s or --%s", s.Meter, meter)}
		}
		s.Meter = meter
		if s.Hard, err = parseAmount(meter, *limits[meter]); err != nil {
			return err
		}
	}
	switch percent, isPercent := strings.CutSuffix(soft, "%"); {
	case s.Meter == "" || s.Period == "":
		return usageError{errors.New("say what to count and for how long: one of --calls, --effects, --tokens and --money, and --per")}
	case warn && soft != "":
		return usageError{errors.New("--warn-only makes the limit the soft one; leave --soft out")}
	case warn:
		s.Hard, s.Soft = 0, s.Hard
	case isPercent:
		n, err := strconv.Atoi(percent)
		if err != nil || n < 1 || n > 100 {
			return usageError{fmt.Errorf("--soft %s: a share is 1%% to 100%%", soft)}
		}
		share := new(big.Int).Div(new(big.Int).Mul(big.NewInt(s.Hard), big.NewInt(int64(n))), big.NewInt(100))
		s.Soft = max(1, share.Int64())
	case soft != "":
		s.Soft, err = parseAmount(s.Meter, soft)
	}
	return err
}

func (a *app) priceCommand() *cobra.Command {
	return group("price", "What models cost", a.priceList(), a.priceSet(),
		a.remove("remove MODEL", "Remove a price that was set", "price", "That of the table counts again, or the dearest.", priceNames, (*client.Client).DeletePrice))
}

func priceNames(ctx context.Context, c *client.Client) ([]string, error) {
	t, err := c.Prices(ctx)
	return namesOf(t.Models, err, func(p client.Price) string { return p.Model })
}

func (a *app) priceList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List what models cost, for a million tokens", Args: operands(),
		Long: "A model that is not in the list counts at the dearest price in each column, and traces show it as dearest."}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		t, err := c.Prices(ctx)
		if err != nil {
			return err
		}
		money := func(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
		return list(a, t.Models, "no price is known",
			column[client.Price]{"MODEL", func(p client.Price) string { return p.Model }, func(client.Price) string { return bold }},
			column[client.Price]{"INPUT " + t.Currency, func(p client.Price) string { return money(p.Input) }, nil},
			column[client.Price]{"CACHED", func(p client.Price) string { return money(p.Cached) }, nil},
			column[client.Price]{"OUTPUT", func(p client.Price) string { return money(p.Output) }, nil},
			column[client.Price]{"DATED", func(p client.Price) string { return p.Dated }, nil},
			column[client.Price]{"SET BY", func(p client.Price) string { return p.By }, nil},
			column[client.Price]{"SOURCE", func(p client.Price) string { return p.Source }, nil})
	})
	return cmd
}

func (a *app) priceSet() *cobra.Command {
	var s client.PriceSpec
	cmd := &cobra.Command{Use: "set MODEL --input N --output N --reason TEXT", Short: "Set what a model costs, for a million tokens", Args: operands("MODEL"), ValidArgsFunction: a.completeFirst(priceNames),
		Long:    "Counts from now on: what calls cost before stays as it was recorded.",
		Example: "  countersign budget price set our-model --input 0.20 --output 0.80 --source 'contract 4711' --reason 'new model'"}
	f := cmd.Flags()
	f.Float64Var(&s.Input, "input", 0, "for a million tokens of a request")
	f.Float64Var(&s.Cached, "cached", 0, "for a million of them that the provider had kept (default: input)")
	f.Float64Var(&s.Output, "output", 0, "for a million tokens of an answer")
	f.Int64Var(&s.MaxOutput, "max-output", 0, "tokens that an answer has at most")
	f.StringVar(&s.Source, "source", "", "where the price is from")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if !cmd.Flags().Changed("input") || !cmd.Flags().Changed("output") {
			return usageError{errors.New("give both --input and --output")}
		}
		p, err := c.PutPrice(ctx, args[0], s)
		if err != nil {
			return err
		}
		return a.did(p, "a million tokens of %s cost %v in and %v out, from now on", p.Model, p.Input, p.Output)
	})
	return cmd
}
