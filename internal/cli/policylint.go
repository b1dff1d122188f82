package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/countersign/countersign/client"
)

var lintKinds = []string{"invalid", "conflict", "unreachable", "shadowed", "wide", "unmatched"}

func (a *app) policyLint() *cobra.Command {
	var since string
	var ignore []string
	cmd := &cobra.Command{Use: "lint [FILE.cedar...]", Short: "Look for policies and grants that are probably not meant; exit 1 if there are", Args: operands("[FILE...]"),
		Long: `Looks at files as if they were saved, or, without a file, at all policies and grants that are. It finds

  invalid      what countersign policy check finds
  conflict     agents that may do two things that must be apart: what a forbid with @apart("ledger/create_vendor") is about, and
               what the annotation names
  unreachable  what can have no effect: about nothing that there is, expired, always forbidden, conditions that never hold
  shadowed     what another says already
  wide         what gives more than anybody can mean: every tool to anyone, something irreversible for ever
  unmatched    what determined no call since --since (default 90d), if it is as old and that is known`,
		Example: "  countersign policy lint payments.cedar\n  countersign policy lint --ignore unmatched -o json"}
	cmd.Flags().StringVar(&since, "since", "90d", "find what determined no call since then: 24h, 90d or a time")
	cmd.Flags().StringSliceVar(&ignore, "ignore", nil, "kinds that are left out (repeatable)")
	_ = cmd.RegisterFlagCompletionFunc("ignore", cobra.FixedCompletions(lintKinds, cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		for _, k := range ignore {
			if !slices.Contains(lintKinds, k) {
				return usageError{fmt.Errorf("--ignore %s is none of %s", k, strings.Join(lintKinds, ", "))}
			}
		}
		from, err := moment("--since", since, time.Now())
		if err != nil {
			return err
		}
		files, err := readPolicies(args)
		if err != nil {
			return err
		}
		found, err := c.LintPolicies(ctx, files, from)
		if err != nil {
			return err
		}
		found = slices.DeleteFunc(found, func(l client.Lint) bool { return slices.Contains(ignore, l.Kind) })
		return a.printLint(found, args)
	})
	return cmd
}

func (a *app) printLint(found []client.Lint, paths []string) error {
	if a.output == "json" {
		if found == nil {
			found = []client.Lint{}
		}
		if err := a.printJSON(found); err != nil {
			return err
		}
	} else {
		paint := map[string]string{"invalid": red, "conflict": red, "wide": yellow}
		for _, l := range found {
			p := l.Problem
			for _, path := range paths {
				if policyName(path) == p.File {
					p.File = path
				}
			}
			fmt.Fprintf(a.stdout, "%s  %s\n", a.paint(a.stdout, paint[l.Kind], fmt.Sprintf("%-11s", l.Kind)), inert(p.String(), 0))
		}
	}
	if len(found) > 0 {
		return exitError{1}
	}
	a.done("nothing was found")
	return nil
}

func (a *app) policySynth() *cobra.Command {
	var since, until, as string
	cmd := &cobra.Command{Use: "synth AGENT", Short: "Write the least policy that would have allowed what an agent did", Args: operands("AGENT"), ValidArgsFunction: a.completeFirst(agentNames),
		Long: `Reads the calls that the agent was allowed and writes what allows them and as little else as can be told: the tools it called, and for
their arguments the numbers from the least to the greatest and the texts (at most 20) that they had. It is tried on the same calls
before it is shown: what would refuse one of them is widened. Arguments that are not kept whole are not bounded. Nothing is changed;
that you asked is recorded.`,
		Example: `  countersign policy synth invoice-checker --since 30d > invoice-checker.cedar
  countersign policy synth invoice-checker --as grants > grants.yaml      for countersign apply -f`}
	f := cmd.Flags()
	f.StringVar(&since, "since", "30d", "of calls from then on: 24h, 7d, 2026-10-01 or RFC 3339")
	f.StringVar(&until, "until", "", "of calls before then")
	f.StringVar(&as, "as", "cedar", "cedar or grants")
	_ = cmd.RegisterFlagCompletionFunc("as", cobra.FixedCompletions([]string{"cedar", "grants"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if as != "cedar" && as != "grants" {
			return usageError{errors.New("--as is cedar or grants")}
		}
		var from, to time.Time
		var err error
		if from, err = moment("--since", since, time.Now()); err != nil {
			return err
		}
		if until != "" {
			if to, err = moment("--until", until, time.Now()); err != nil {
				return err
			}
		}
		if _, err := c.Agent(ctx, args[0]); err != nil {
			return err
		}
		var x client.Synthesis
		if err := a.waiting("reading calls", func() (err error) { x, err = c.SynthPolicy(ctx, args[0], from, to); return err }); err != nil {
			return err
		}
		return a.printSynth(x, as)
	})
	return cmd
}

func (a *app) printSynth(x client.Synthesis, as string) error {
	if a.output == "json" {
		return a.printJSON(x)
	}
	text := x.Cedar
	if as == "grants" {
		var err error
		if text, err = grantsYAML(x.Grants); err != nil {
			return err
		}
	}
	fmt.Fprintln(a.stdout, inertLines(strings.TrimRight(text, "\n")))
	fmt.Fprintf(a.stderr, "of %d allowed calls of %d tools it refuses none\n", x.Calls-x.Gone, x.Tools)
	for n, format := range map[*int64]string{&x.Unseen: "the arguments of %d calls are not kept whole: their tools are not bounded\n", &x.Gone: "%d calls were of tools that are gone: they are not in it\n"} {
		if *n > 0 {
			fmt.Fprintf(a.stderr, format, *n)
		}
	}
	if x.Partial {
		fmt.Fprintln(a.stderr, "only the newest calls were looked at")
	}
	for _, shift := range x.Trial.Changes {
		fmt.Fprintf(a.stderr, "in place of the agent's grants: %d calls of %s %s\n", shift.Count, inert(shift.Tool, 0), shift.Kind())
	}
	return nil
}

// grantsYAML writes grants as resources.
func grantsYAML(grants []client.Grant) (string, error) {
	var b strings.Builder
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	for _, g := range grants {
		spec := map[string]any{"agent": g.Agent, "connection": g.Connection, "tools": g.Tools}
		if g.When != "" {
			spec["when"] = g.When
		}
		if err := enc.Encode(map[string]any{"kind": "Grant", "name": g.Name, "spec": spec}); err != nil {
			return "", err
		}
	}
	return b.String(), enc.Close()
}
