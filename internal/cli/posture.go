package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/posture/framework"
)

func (a *app) postureCommand() *cobra.Command {
	return group("posture", "Compute evidence from live state, and see how frameworks stand", a.postureRun(), a.postureList(), a.postureShow(), a.postureTrend())
}

func resultColour(result string) string {
	return map[string]string{"PASS": green, "FAIL": red, "NO_DATA": yellow}[result]
}

// predicateIDs completes predicates and frameworks.
func predicateIDs(ctx context.Context, c *client.Client) ([]string, error) {
	p, err := c.Posture(ctx)
	return namesOf(p.Predicates, err, func(r client.PostureRow) string { return r.ID + "\t" + r.Name })
}

func requirementIDs(ctx context.Context, c *client.Client) ([]string, error) {
	out, err := predicateIDs(ctx, c)
	for _, f := range framework.All() {
		out = append(out, f.ID+"\t"+f.Title)
	}
	return out, err
}

func (a *app) postureRun() *cobra.Command {
	cmd := &cobra.Command{Use: "run [PREDICATE...]", Short: "Compute evidence now; exit 1 if anything fails", Args: operands("[PREDICATE...]"), ValidArgsFunction: a.complete(predicateIDs),
		Long: `Computes the predicates E1 to E12, or those named, from live state. Probes and drills use a throwaway agent that is registered for it and removed
again. Each result says of how many it looked at how many and what broke it; without data, or if a check did not catch the violation that it was given, it is
NO_DATA, never PASS. The run is an event of the log with the digest of every result.`,
		Example: "  countersign posture run\n  countersign posture run E5 E7 --reason 'before the audit'"}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		var r client.PostureRun
		if err := a.waiting("looking at everything, and trying the doors", func() (err error) {
			r, err = c.RunPosture(ctx, args...)
			return err
		}); err != nil {
			return err
		}
		fails := 0
		for _, e := range r.Evidence {
			if e.Result == "FAIL" {
				fails++
			}
		}
		if a.output == "json" {
			if err := a.printJSON(r); err != nil {
				return err
			}
		} else if err := a.printEvidence(r); err != nil {
			return err
		}
		if fails > 0 {
			return fmt.Errorf("%d of %d predicates fail; countersign posture show PREDICATE lists what breaks them", fails, len(r.Evidence))
		}
		return nil
	})
	return cmd
}

func (a *app) printEvidence(r client.PostureRun) error {
	if err := list(a, r.Evidence, "nothing was computed",
		column[client.Evidence]{"PREDICATE", func(e client.Evidence) string { return e.Predicate + " " + e.Name }, func(client.Evidence) string { return bold }},
		column[client.Evidence]{"RESULT", func(e client.Evidence) string { return e.Result }, func(e client.Evidence) string { return resultColour(e.Result) }},
		column[client.Evidence]{"LOOKED AT", func(e client.Evidence) string { return fmt.Sprintf("%d of %d", e.Evaluated, e.Population) }, nil},
		column[client.Evidence]{"BAD", func(e client.Evidence) string { return fmt.Sprint(e.Violated) }, nil},
		column[client.Evidence]{"WHY", func(e client.Evidence) string { return e.Reason }, nil}); err != nil {
		return err
	}
	a.done("recorded as %s", r.Event)
	return nil
}

func (a *app) postureList() *cobra.Command {
	cmd := &cobra.Command{Use: "list [FRAMEWORK|REQUIREMENT]", Short: "List predicates, or the requirements of a framework, with how they stand", Args: operands("[FRAMEWORK|REQUIREMENT]"), ValidArgsFunction: a.completeFirst(requirementIDs),
		Long: `Frameworks: owasp-nhi-2025, owasp-asi-2026, nist-csf-2.0, eu-ai-act, iso-42001, soc2. Requirements are taken in the spellings that people use (NHI-02,
PR.AC-4, AGENT-03, CC6.1, Art. 12), and what was made of one is said.`,
		Example: "  countersign posture list\n  countersign posture list nist-csf-2.0\n  countersign posture list PR.AC-4\n  countersign posture list soc2 --days 365"}
	days := cmd.Flags().Int("days", 0, "the period of which shares are told, until now (1 to 400; default 90)")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if len(args) == 0 {
			return a.listPosture(ctx, c)
		}
		r, ok := framework.Resolve(args[0])
		if ok && r.ID == "" {
			f, err := c.FrameworkPosture(ctx, r.Framework, *days)
			if err != nil {
				return err
			}
			return a.listFramework(f)
		}
		q, err := c.Requirement(ctx, args[0], *days)
		if err != nil {
			return err
		}
		a.said(q)
		return a.listFor(q)
	})
	return cmd
}

func (a *app) listPosture(ctx context.Context, c *client.Client) error {
	p, err := c.Posture(ctx)
	if err != nil {
		return err
	}
	if a.output == "json" {
		return a.printJSON(p)
	}
	if err := list(a, p.Predicates, "", rowColumns(func(r client.PostureRow) client.PostureRow { return r })...); err != nil {
		return err
	}
	fmt.Fprintln(a.stdout)
	return list(a, p.Frameworks, "",
		column[client.FrameworkCount]{"FRAMEWORK", func(f client.FrameworkCount) string { return f.ID }, func(client.FrameworkCount) string { return bold }},
		column[client.FrameworkCount]{"REQUIREMENTS", func(f client.FrameworkCount) string { return fmt.Sprint(f.Requirements) }, nil},
		column[client.FrameworkCount]{"RESULTS", func(f client.FrameworkCount) string { return counts(f.Results) }, nil})
}

func counts(n map[string]int) string {
	var out []string
	for _, r := range slices.Sorted(maps.Keys(n)) {
		out = append(out, fmt.Sprintf("%d %s", n[r], r))
	}
	return strings.Join(out, ", ")
}

// shares are percents of a time.
func shares(n map[string]int) string {
	var out []string
	for _, r := range slices.Sorted(maps.Keys(n)) {
		out = append(out, fmt.Sprintf("%d%% %s", n[r], r))
	}
	return strings.Join(out, ", ")
}

func rowColumns[T any](of func(T) client.PostureRow) []column[T] {
	return []column[T]{
		{"PREDICATE", func(x T) string { return of(x).ID + " " + of(x).Name }, func(T) string { return bold }},
		{"RESULT", func(x T) string { return of(x).Result }, func(x T) string { return resultColour(of(x).Result) }},
		{"LOOKED AT", func(x T) string { return fmt.Sprintf("%d of %d", of(x).Evaluated, of(x).Population) }, nil},
		{"BAD", func(x T) string { return fmt.Sprint(of(x).Violated) }, nil},
		{"COLLECTED", func(x T) string {
			if of(x).Collected.IsZero() {
				return "never"
			}
			return ago(of(x).Collected)
		}, nil},
		{"WHY", func(x T) string { return of(x).Reason }, nil},
	}
}

func (a *app) listFramework(f client.Framework) error {
	if a.output == "json" {
		return a.printJSON(f)
	}
	fmt.Fprintf(a.stdout, "%s %s, %s\n", inert(f.Title, 0), inert(f.Version, 0), inert(f.Publisher, 0))
	return list(a, f.Requirements, "",
		column[client.Requirement]{"REQUIREMENT", func(q client.Requirement) string { return q.ID }, func(client.Requirement) string { return bold }},
		column[client.Requirement]{"TITLE", func(q client.Requirement) string { return q.Title }, nil},
		column[client.Requirement]{"RESULT", func(q client.Requirement) string { return q.Result }, func(q client.Requirement) string { return resultColour(q.Result) }},
		column[client.Requirement]{"COVERAGE", func(q client.Requirement) string { return q.Coverage }, nil},
		column[client.Requirement]{"EVIDENCE", func(q client.Requirement) string {
			var ids []string
			for _, e := range q.Evidence {
				ids = append(ids, e.ID)
			}
			return strings.Join(ids, " ")
		}, nil},
		column[client.Requirement]{fmt.Sprintf("%d DAYS, PERCENT", f.Days), func(q client.Requirement) string { return counts(q.Shares) }, nil})
}

// said says what was made of an identifier.
func (a *app) said(q client.Requirement) {
	if a.output == "json" {
		return
	}
	fmt.Fprintf(a.stdout, "%s/%s %s\n", q.Framework, q.ID, inert(q.Title, 0))
	if q.Note != "" {
		fmt.Fprintf(a.stdout, "note: %s\n", inert(q.Note, 0))
	}
	if len(q.See) > 0 {
		fmt.Fprintf(a.stdout, "see:  %s\n", strings.Join(q.See, ", "))
	}
	fmt.Fprintf(a.stdout, "%s  %s\n", a.paint(a.stdout, resultColour(q.Result), q.Result), inert(q.Reason, 0))
}

func (a *app) listFor(q client.Requirement) error {
	if a.output == "json" {
		return a.printJSON(q)
	}
	if len(q.Shares) > 0 {
		fmt.Fprintf(a.stdout, "over the period: %s\n", shares(q.Shares))
	}
	return list(a, q.Evidence, "no predicate is evidence for it", rowColumns(func(e client.RequirementEvidence) client.PostureRow { return e.PostureRow })...)
}

func (a *app) postureTrend() *cobra.Command {
	cmd := &cobra.Command{Use: "trend [PREDICATE]", Short: "Show how predicates went over a period", Args: operands("[PREDICATE]"), ValidArgsFunction: a.completeFirst(predicateIDs),
		Long: `Without a predicate, the share of the period that each was in each result, in percent. With one, each time that it had one result: time without a result, or after
it expired, is NO_DATA. The evidence named can be shown (countersign posture show evd_…).`,
		Example: "  countersign posture trend\n  countersign posture trend E5 --days 30"}
	days := cmd.Flags().Int("days", 0, "the period, until now (1 to 400; default 90)")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		predicate := ""
		if len(args) > 0 {
			predicate = strings.ToUpper(args[0])
		}
		trends, err := c.PostureTrends(ctx, predicate, *days)
		switch {
		case err != nil:
			return err
		case a.output == "json":
			return a.printJSON(trends)
		case predicate == "":
			return list(a, trends, "",
				column[client.PostureTrend]{"PREDICATE", func(t client.PostureTrend) string { return t.Predicate + " " + t.Name }, func(client.PostureTrend) string { return bold }},
				column[client.PostureTrend]{"PERCENT", func(t client.PostureTrend) string { return counts(t.Shares) }, nil})
		}
		return list(a, trends[0].Segments, "",
			column[client.PostureSegment]{"FROM", func(x client.PostureSegment) string { return ago(x.From) }, nil},
			column[client.PostureSegment]{"TO", func(x client.PostureSegment) string { return ago(x.To) }, nil},
			column[client.PostureSegment]{"RESULT", func(x client.PostureSegment) string { return x.Result }, func(x client.PostureSegment) string { return resultColour(x.Result) }},
			column[client.PostureSegment]{"LOOKED AT", func(x client.PostureSegment) string { return fmt.Sprintf("%d of %d", x.Evaluated, x.Population) }, nil},
			column[client.PostureSegment]{"BAD", func(x client.PostureSegment) string { return fmt.Sprint(x.Violated) }, nil},
			column[client.PostureSegment]{"EVIDENCE", func(x client.PostureSegment) string { return x.Evidence }, nil})
	})
	return cmd
}

func (a *app) postureShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show PREDICATE|REQUIREMENT|EVIDENCE", Short: "Show a result down to what breaks it and the events that show it", Args: operands("PREDICATE|REQUIREMENT|EVIDENCE"), ValidArgsFunction: a.completeFirst(predicateIDs),
		Long: `A predicate (E5), a requirement in any spelling (NHI-02, PR.AC-4, AGENT-03) or one result (evd_…). Every event named can be shown (countersign log show)
and proven (countersign log prove).`,
		Example: "  countersign posture show E5\n  countersign posture show AGENT-03\n  countersign posture show evd_… -o json"}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if strings.HasPrefix(args[0], "evd_") {
			e, err := c.EvidenceByID(ctx, args[0])
			if err != nil {
				return err
			}
			return a.showEvidence(e, &e)
		}
		if _, ok := framework.Resolve(args[0]); ok {
			return a.showRequirement(ctx, c, args[0])
		}
		d, err := c.Predicate(ctx, strings.ToUpper(args[0]))
		if err != nil {
			return err
		}
		return a.showPredicate(d)
	})
	return cmd
}

func (a *app) showRequirement(ctx context.Context, c *client.Client, id string) error {
	q, err := c.Requirement(ctx, id, 0)
	if err != nil {
		return err
	}
	if a.output == "json" {
		return a.printJSON(q)
	}
	a.said(q)
	for _, e := range q.Evidence {
		d, err := c.Predicate(ctx, e.ID)
		if err != nil {
			return err
		}
		fmt.Fprintf(a.stdout, "\n%s\n", inert(e.Why, 0))
		if err := a.showPredicate(d); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) showPredicate(d client.PostureDetail) error {
	if a.output == "json" {
		return a.printJSON(d)
	}
	if err := a.show(d, row("predicate", fmt.Sprintf("%s %s (version %d, %s)", d.ID, d.Name, d.Version, d.Kind)), row("asks", d.Asks), row("cannot see", d.Limits),
		painted("result", d.Result, resultColour(d.Result)), row("why", d.Reason), row("90 days", shares(d.Shares))); err != nil {
		return err
	}
	if d.Newest == nil {
		return nil
	}
	return a.showEvidence(d, d.Newest)
}

// showEvidence prints the checks of a result, or v as JSON.
func (a *app) showEvidence(v any, e *client.Evidence) error {
	if err := a.show(v, row("evidence", e.ID), row("collected", fmt.Sprintf("%s, expires %s", ago(e.Collected), until(e.Expires))), row("event", e.Event), row("digest", e.Digest)); err != nil || a.output == "json" {
		return err
	}
	for _, c := range e.Checks {
		caught := "caught"
		if !c.Canary.Caught {
			caught = "not caught"
		}
		fmt.Fprintf(a.stdout, "  %s  %s (%d of %d %s; canary %s)\n", a.paint(a.stdout, resultColour(c.Result), c.Result), inert(c.Asks, 0), c.Evaluated, c.Population, inert(c.Unit, 0), caught)
		if c.Reason != "" {
			fmt.Fprintf(a.stdout, "      %s\n", inert(c.Reason, 0))
		}
		for _, x := range c.Violations {
			fmt.Fprintf(a.stdout, "    - %s: %s  %s\n", inert(x.Object, 0), inert(x.Message, 0), inert(strings.Join(x.Events, " "), 200))
		}
		for _, x := range c.Unreachable {
			fmt.Fprintf(a.stdout, "    ? %s: %s\n", inert(x.Object, 0), inert(x.Why, 0))
		}
	}
	return nil
}
