package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) reviewCommand() *cobra.Command {
	return group("review", "Keep or revoke what was given: grants, secrets, owners, connections, trust rules", a.reviewStart(), a.reviewList(), a.reviewShow(), a.reviewMine(), a.reviewDecide(),
		a.reviewDelegate(), a.reviewClose(), a.reviewExport(), a.reviewVerify())
}

func reviewNames(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Reviews(ctx, true)
	return namesOf(l, err, func(r client.Review) string { return r.Name + "\t" + r.State + ", " + r.Reason })
}

func (a *app) reviewStart() *cobra.Command {
	var spec client.ReviewSpec
	var due string
	var reviewers, confirm []string
	cmd := &cobra.Command{Use: "start NAME", Short: "Start a review of what was given", Args: operands("NAME"),
		Long: `Asks about what is in the scope now: of grants (or --kind) those that are new, unused, wide or risky, or, with --all, all of them. Reviewers are owner, backup,
connection-owner, user:NAME, group:NAME or role:ROLE; nobody reviews what they gave. What is revoked ends at once, or after --grace, and is then tried.`,
		Example: `  countersign review start q4 --reason 'quarterly review'
  countersign review start payments --connection ledger --all --reviewer group:finance --confirm owner --silence revoke --due 7d --reason 'before the audit'`}
	f := cmd.Flags()
	f.StringSliceVar(&spec.Scope.Kinds, "kind", nil, "grant, secret, owner, connection, trust (repeatable; default grant)")
	f.StringSliceVar(&spec.Scope.Agents, "agent", nil, "only what these agents have (repeatable)")
	f.StringSliceVar(&spec.Scope.Teams, "team", nil, "only of these teams (repeatable)")
	f.StringSliceVar(&spec.Scope.Stages, "stage", nil, "only of these stages (repeatable)")
	f.StringSliceVar(&spec.Scope.Connections, "connection", nil, "only of these connections (repeatable)")
	f.StringSliceVar(&spec.Scope.Names, "named", nil, "only what has one of these names (repeatable)")
	f.StringSliceVar(&spec.Scope.Only, "only", nil, "new, unused, wide, risky (repeatable; default all four)")
	f.BoolVar(&spec.Scope.All, "all", false, "ask about everything in the scope")
	f.StringVar(&spec.Scope.UnusedFor, "unused-for", "", "how long something was watched without a use to count as unused, such as 720h")
	f.StringSliceVar(&reviewers, "reviewer", nil, "who reviews (repeatable; default owner)")
	f.StringSliceVar(&confirm, "confirm", nil, "who confirms what the reviewers keep (repeatable)")
	f.BoolVar(&spec.Rules.Apart, "apart", false, "the owner of the agent does not count as a reviewer")
	f.StringSliceVar(&spec.Rules.Escalate, "escalate", nil, "who decides when nobody else can or did (repeatable; default role:admin)")
	f.StringVar(&spec.Rules.Silence, "silence", "", "what becomes of what nobody decided: revoke, keep or escalate (default escalate)")
	f.StringSliceVar(&spec.Rules.Remind, "remind", nil, "how long before the end reviewers are reminded, such as 24h (repeatable)")
	f.StringVar(&spec.Rules.Grace, "grace", "", "how long after its decision a revoke is executed, such as 24h (default at once)")
	f.StringVar(&due, "due", "", "when it ends: after a time such as 14d, or at 2027-01-31T12:00:00Z (default 14d)")
	a.completeFlag(cmd, "agent", agentNames)
	a.completeFlag(cmd, "connection", connectionNames)
	for flag, values := range map[string][]string{"kind": {"grant", "secret", "owner", "connection", "trust"}, "only": {"new", "unused", "wide", "risky"}, "silence": {"revoke", "keep", "escalate"},
		"reviewer": {"owner", "backup", "connection-owner", "user:", "group:", "role:"}} {
		a.completeFlag(cmd, flag, func(context.Context, *client.Client) ([]string, error) { return values, nil })
	}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		var err error
		if spec.Due, err = expiry(due, time.Now()); err != nil {
			return err
		}
		if len(confirm) > 0 && len(reviewers) == 0 {
			reviewers = []string{"owner"}
		}
		for _, level := range [][]string{reviewers, confirm} {
			if len(level) > 0 {
				spec.Rules.Levels = append(spec.Rules.Levels, level)
			}
		}
		spec.Name = args[0]
		r, err := c.StartReview(ctx, spec)
		if err != nil {
			return err
		}
		return a.printReview(r)
	})
	return cmd
}

func (a *app) printReview(r client.Review) error {
	if a.output == "json" {
		return a.printJSON(r)
	}
	n := r.Counts
	head := fmt.Sprintf("%s is %s: %d open, %d kept, %d revoked", r.Name, r.State, n.Open, n.Kept, n.Revoked)
	if n.Pending > 0 {
		head += fmt.Sprintf(", %d being executed", n.Pending)
	}
	if n.Failed > 0 {
		head += fmt.Sprintf(", %d that did not hold or need a person", n.Failed)
	}
	fmt.Fprintf(a.stdout, "%s; ends %s\n", inert(head, 0), until(r.Due))
	if r.Question != "" {
		fmt.Fprintln(a.stdout, inert(r.Question, 0))
	}
	return a.printItems(r.Items)
}

func (a *app) printItems(items []client.ReviewItem) error {
	return list(a, items, "nothing is asked",
		column[client.ReviewItem]{"N", func(i client.ReviewItem) string { return strconv.Itoa(i.N) }, nil},
		column[client.ReviewItem]{"OF", func(i client.ReviewItem) string { return i.Subject.Kind + "/" + i.Subject.Name }, func(client.ReviewItem) string { return bold }},
		column[client.ReviewItem]{"SAYS", func(i client.ReviewItem) string { return brief(i.Subject.Says) }, nil},
		column[client.ReviewItem]{"WHY", reviewWhy, nil},
		column[client.ReviewItem]{"LAST USE", reviewUse, nil},
		column[client.ReviewItem]{"DECISION", reviewDecision, func(i client.ReviewItem) string { return map[string]string{"keep": green, "revoke": red}[i.Decision] }},
		column[client.ReviewItem]{"BECAME", reviewBecame, func(i client.ReviewItem) string {
			return map[string]string{"success": green, "unproven": yellow, "error": red, "manual": red}[i.Remediation]
		}})
}

func reviewWhy(i client.ReviewItem) string {
	why := strings.Join(i.Subject.Flags, ", ")
	if i.Subject.Suggest != "" {
		why += " (suggested: " + i.Subject.Suggest + ")"
	}
	return why
}

func reviewUse(i client.ReviewItem) string {
	switch u := i.Subject.Use; {
	case !u.Last.IsZero():
		return ago(u.Last)
	case u.Watched.IsZero():
		return "not watched"
	default:
		return "none since " + u.Watched.UTC().Format(time.DateOnly)
	}
}

func reviewDecision(i client.ReviewItem) string {
	if n := len(i.Verdicts); i.Decision != "" && n > 0 {
		return i.Decision + " by " + i.Verdicts[n-1].By.Name
	}
	waits := "waits for " + strings.Join(i.Reviewers, ", ")
	if len(i.Reviewers) == 0 {
		waits = "nobody can decide"
	}
	if i.Level > 1 {
		waits = "kept once, " + waits
	}
	if !i.Escalated.IsZero() {
		waits += " (escalated)"
	}
	return waits
}

func reviewBecame(i client.ReviewItem) string {
	if i.Remediation == "none" {
		return ""
	}
	out, n := i.Remediation, map[string]int{}
	for _, p := range i.Remedy.Probes {
		n[p.Result]++
	}
	for _, result := range []string{"refused", "allowed_otherwise", "let_through", "not_tried"} {
		if n[result] > 0 {
			out += fmt.Sprintf(", %d %s", n[result], strings.ReplaceAll(result, "_", " "))
		}
	}
	if u := i.Remedy.Used; u != nil {
		out += fmt.Sprintf(", used %d times after the decision", u.Calls)
	}
	if i.Remedy.Error != "" {
		out += ": " + i.Remedy.Error
	}
	return out
}

func (a *app) reviewList() *cobra.Command {
	var questions bool
	cmd := &cobra.Command{Use: "list", Short: "List reviews, the latest first", Args: operands()}
	cmd.Flags().BoolVar(&questions, "questions", false, "also those that were asked because something changed")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		all, err := c.Reviews(ctx, questions)
		if err != nil {
			return err
		}
		return list(a, all, "no reviews yet: countersign review start NAME --reason TEXT",
			column[client.Review]{"NAME", func(r client.Review) string { return r.Name }, func(client.Review) string { return bold }},
			column[client.Review]{"STATE", func(r client.Review) string { return r.State }, nil},
			column[client.Review]{"ENDS", func(r client.Review) string { return until(r.Due) }, func(r client.Review) string {
				if r.Overdue {
					return red
				}
				return ""
			}},
			column[client.Review]{"OPEN", func(r client.Review) string { return fmt.Sprintf("%d of %d", r.Counts.Open, r.Counts.Items) }, nil},
			column[client.Review]{"KEPT", func(r client.Review) string { return strconv.Itoa(r.Counts.Kept) }, nil},
			column[client.Review]{"REVOKED", func(r client.Review) string { return strconv.Itoa(r.Counts.Revoked) }, nil},
			column[client.Review]{"REASON", func(r client.Review) string { return strings.TrimSpace(r.Question + " " + r.Reason) }, nil})
	})
	return cmd
}

func (a *app) reviewShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show REVIEW", Short: "Show a review, its items and what became of them", Args: operands("REVIEW"), ValidArgsFunction: a.completeFirst(reviewNames)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		r, err := c.Review(ctx, args[0])
		if err != nil {
			return err
		}
		return a.printReview(r)
	})
	return cmd
}

func (a *app) reviewMine() *cobra.Command {
	cmd := &cobra.Command{Use: "mine", Short: "List what waits for your decision", Args: operands()}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		all, err := c.MyReviews(ctx)
		if err != nil {
			return err
		}
		return list(a, all, "nothing waits for you",
			column[client.ReviewWaits]{"REVIEW", func(w client.ReviewWaits) string { return w.Review + " " + strconv.Itoa(w.Item.N) }, func(client.ReviewWaits) string { return bold }},
			column[client.ReviewWaits]{"SAYS", func(w client.ReviewWaits) string { return w.Item.Subject.Says }, nil},
			column[client.ReviewWaits]{"WHY", func(w client.ReviewWaits) string { return strings.TrimSpace(w.Question + " " + reviewWhy(w.Item)) }, nil},
			column[client.ReviewWaits]{"LAST USE", func(w client.ReviewWaits) string { return reviewUse(w.Item) }, nil},
			column[client.ReviewWaits]{"ENDS", func(w client.ReviewWaits) string { return until(w.Due) }, nil})
	})
	return cmd
}

// itemNumber reads the number of an item.
func itemNumber(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return 0, usageError{fmt.Errorf("%q is no number of an item: countersign review show lists them", s)}
	}
	return n, nil
}

// reviewItems are what the review that is named first still asks.
func reviewItems(before []string) names {
	return func(ctx context.Context, c *client.Client) ([]string, error) {
		r, err := c.Review(ctx, before[0])
		open := slices.DeleteFunc(slices.Clone(r.Items), func(it client.ReviewItem) bool { return it.Decision != "" })
		return namesOf(open, err, func(it client.ReviewItem) string { return fmt.Sprintf("%d\t%s", it.N, it.Subject.Says) })
	}
}

func (a *app) reviewDecide() *cobra.Command {
	var to string
	cmd := &cobra.Command{Use: "decide REVIEW N keep|revoke", Short: "Keep or revoke one thing; keeping needs a --reason", Args: operands("REVIEW", "N", "keep|revoke"), ValidArgsFunction: a.completeInTurn(whatever(reviewNames), reviewItems, words("keep", "revoke")),
		Long:    "What is revoked ends at once, unless the review gives it a grace, and is then tried: the line must refuse. Exit 1 if it does not hold.",
		Example: "  countersign review decide q4 1 keep --reason 'answers every ticket'\n  countersign review decide q4 2 revoke"}
	cmd.Flags().StringVar(&to, "to", "", "of an owner that is revoked: who is to be the next (default the backup)")
	a.completeFlag(cmd, "to", userNames)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		n, err := itemNumber(args[1])
		if err != nil {
			return err
		}
		it, err := c.DecideReview(ctx, args[0], n, args[2], to)
		if err != nil {
			return err
		}
		if a.output == "json" {
			err = a.printJSON(it)
		} else {
			err = a.printItems([]client.ReviewItem{it})
		}
		if it.Remediation == "error" {
			return errors.Join(err, exitError{1})
		}
		return err
	})
	return cmd
}

func (a *app) reviewDelegate() *cobra.Command {
	var to string
	cmd := &cobra.Command{Use: "delegate REVIEW N --to USER --reason NOTE", Short: "Hand an item to another reviewer", Args: operands("REVIEW", "N"), ValidArgsFunction: a.completeInTurn(whatever(reviewNames), reviewItems)}
	cmd.Flags().StringVar(&to, "to", "", "who reviews it instead")
	_ = cmd.MarkFlagRequired("to")
	a.completeFlag(cmd, "to", userNames)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		n, err := itemNumber(args[1])
		if err != nil {
			return err
		}
		it, err := c.DelegateReview(ctx, args[0], n, to)
		if err != nil {
			return err
		}
		return a.did(it, "%s reviews %s/%s", to, it.Subject.Kind, it.Subject.Name)
	})
	return cmd
}

func (a *app) reviewClose() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{Use: "close REVIEW --reason TEXT", Short: "End a review before its time", Args: operands("REVIEW"), ValidArgsFunction: a.completeFirst(reviewNames),
		Long: "What is open is decided as was said at its start (--silence). It is refused where that is to escalate, or nobody is left who could have decided."}
	yesFlag(cmd, &yes)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if err := a.confirm(yes, "End %s? What is open is decided as its silence says.", args[0]); err != nil {
			return err
		}
		r, err := c.CloseReview(ctx, args[0])
		if err != nil {
			return err
		}
		return a.printReview(r)
	})
	return cmd
}
