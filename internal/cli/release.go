package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) releaseCommand() *cobra.Command {
	return group("release", "Pin what agents are made of, promote it through a gate, roll it back",
		a.releaseList(), a.releaseShow(), a.releaseCreate(), a.releaseDiff(), a.releaseCheck(), a.releasePromote(), a.releaseCanary(), a.releaseRollback(),
		a.releaseRequests(), a.releaseDecide(true), a.releaseDecide(false))
}

func releaseRequestIDs(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.ReleaseRequests(ctx, false)
	return namesOf(l, err, func(q client.ReleaseRequest) string { return q.ID + "\t" + q.Agent + " to " + q.Stage })
}

// releaseNumbers are the releases of the agent that is named first.
func releaseNumbers(before []string) names {
	return func(ctx context.Context, c *client.Client) ([]string, error) {
		l, err := c.Releases(ctx, before[0])
		return namesOf(l, err, func(r client.Release) string { return fmt.Sprintf("%d\t%s", r.Number, r.Reason) })
	}
}

// numberArg reads a release's number; 0 if it was left out.
func numberArg(args []string, at int) (int64, error) {
	if len(args) <= at {
		return 0, nil
	}
	n, err := strconv.ParseInt(args[at], 10, 64)
	if err != nil || n < 1 {
		return 0, usageError{fmt.Errorf("%q is no release: they count from 1", args[at])}
	}
	return n, nil
}

func (a *app) releaseList() *cobra.Command {
	cmd := &cobra.Command{Use: "list [AGENT]", Short: "List releases, the newest first", Args: operands("[AGENT]"), ValidArgsFunction: a.completeFirst(agentNames)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		agent := ""
		if len(args) == 1 {
			agent = args[0]
		}
		all, err := c.Releases(ctx, agent)
		if err != nil {
			return err
		}
		return list(a, all, "no releases yet: countersign release create AGENT --reason TEXT",
			column[client.Release]{"AGENT", func(r client.Release) string { return r.Agent }, func(client.Release) string { return bold }},
			column[client.Release]{"RELEASE", func(r client.Release) string { return fmt.Sprint(r.Number) }, nil},
			column[client.Release]{"MODELS", func(r client.Release) string { return orNone(strings.Join(r.Models, ", ")) }, nil},
			column[client.Release]{"TOOLS", func(r client.Release) string { return fmt.Sprint(len(r.Tools)) }, nil},
			column[client.Release]{"MADE", func(r client.Release) string { return ago(r.Created) + " by " + r.By }, nil},
			column[client.Release]{"REASON", func(r client.Release) string { return r.Reason }, nil})
	})
	return cmd
}

func (a *app) releaseShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show AGENT [NUMBER]", Short: "Show what is in force, or one release", Args: operands("AGENT", "[NUMBER]"), ValidArgsFunction: a.completeInTurn(whatever(agentNames), releaseNumbers)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		n, err := numberArg(args, 1)
		if err != nil {
			return err
		}
		if n == 0 {
			return a.showReleases(ctx, c, args[0])
		}
		r, err := c.Release(ctx, args[0], n)
		if err != nil {
			return err
		}
		return a.showRelease(r)
	})
	return cmd
}

func (a *app) showRelease(r client.Release) error {
	var tools, grants, policies []string
	for _, t := range r.Tools {
		tools = append(tools, t.Connection+"/"+t.Name)
	}
	for _, g := range r.Grants {
		grants = append(grants, g.Name)
	}
	for _, p := range r.Policies {
		name := p.Name
		if !p.Own {
			name += " (shared)"
		}
		policies = append(policies, name)
	}
	return a.show(r, row("release", fmt.Sprintf("%d of %s", r.Number, r.Agent)), row("id", r.ID), row("digest", r.Digest), row("models", orNone(strings.Join(r.Models, ", "))),
		row("prompts", orNone(strings.Join(r.Prompts, ", "))), row("tools", orNone(strings.Join(tools, ", "))), row("grants", orNone(strings.Join(grants, ", "))),
		row("policies", orNone(strings.Join(policies, ", "))), row("tests", fmt.Sprint(len(r.Tests))), row("because", r.Reason), row("made", ago(r.Created)+" by "+r.By))
}

func (a *app) showReleases(ctx context.Context, c *client.Client, agent string) error {
	st, err := c.ReleaseState(ctx, agent)
	if err != nil {
		return err
	}
	if a.output == "json" {
		return a.printJSON(st)
	}
	inForce := "none: the agent is in development, and only policy bounds it"
	if st.Active > 0 {
		inForce = fmt.Sprintf("release %d in %s", st.Active, st.Stage)
	}
	canary := "none"
	if st.Canary > 0 {
		canary = fmt.Sprintf("release %d, for %d%% of the runs", st.Canary, st.Percent)
	}
	if err := a.show(st, row("agent", agent), row("in force", inForce), row("canary", canary)); err != nil {
		return err
	}
	return list(a, st.Moves, "nothing was promoted yet",
		column[client.ReleaseMove]{"WHAT", func(m client.ReleaseMove) string { return strings.ReplaceAll(m.Kind, "_", " ") }, func(client.ReleaseMove) string { return bold }},
		column[client.ReleaseMove]{"STAGE", func(m client.ReleaseMove) string { return m.Stage }, nil},
		column[client.ReleaseMove]{"RELEASE", func(m client.ReleaseMove) string { return fmt.Sprint(m.Number) }, nil},
		column[client.ReleaseMove]{"BEFORE", func(m client.ReleaseMove) string { return fmt.Sprint(m.Previous) }, nil},
		column[client.ReleaseMove]{"WHEN", func(m client.ReleaseMove) string { return ago(m.At) + " by " + m.By }, nil},
		column[client.ReleaseMove]{"REASON", func(m client.ReleaseMove) string { return m.Reason }, nil})
}

// promptDigests reads system prompts: files, or digests as sha256:HEX.
func promptDigests(prompts []string) ([]string, error) {
	var out []string
	for _, p := range prompts {
		if d, ok := strings.CutPrefix(p, "sha256:"); ok {
			out = append(out, d)
			continue
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256([]byte(strings.TrimSpace(string(text))))
		out = append(out, hex.EncodeToString(sum[:]))
	}
	return out, nil
}

func (a *app) releaseCreate() *cobra.Command {
	var spec client.ReleaseSpec
	var prompts, tests []string
	cmd := &cobra.Command{Use: "create AGENT --reason TEXT", Short: "Make a release of what an agent is now", Args: operands("AGENT"), ValidArgsFunction: a.completeFirst(agentNames),
		Long: `Takes the tools that the agent may call with their accepted definitions, its grants and the policies about it, and the models that it used in
the last 30 days unless --model names them. It puts nothing in force: countersign release promote does. A system prompt is pinned by
--prompt, a file with its text or sha256:HEX.`,
		Example: `  countersign release create invoice-checker --prompt prompts/checker.txt --tests policies_test.yaml --reason 'new extraction prompt'
  countersign release create invoice-checker --model openai/gpt-5 --reason 'pin the model'`}
	f := cmd.Flags()
	f.StringArrayVar(&spec.Models, "model", nil, "a model that it may use, CONNECTION/MODEL as requests name it (repeatable)")
	f.StringArrayVar(&prompts, "prompt", nil, "a file with a system prompt that it may use, or sha256:HEX (repeatable)")
	f.StringArrayVar(&tests, "tests", nil, "a file of policy cases that must pass before it is promoted (repeatable)")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		var err error
		if spec.Prompts, err = promptDigests(prompts); err != nil {
			return err
		}
		for _, path := range tests {
			cases, err := readCases(path)
			if err != nil {
				return err
			}
			spec.Tests = append(spec.Tests, cases...)
		}
		r, err := c.CreateRelease(ctx, args[0], spec)
		if err != nil {
			return err
		}
		return a.did(r, "release %d of %s is made; put it in force with countersign release promote %s %d", r.Number, r.Agent, r.Agent, r.Number)
	})
	return cmd
}

func (a *app) releaseDiff() *cobra.Command {
	var from, to int64
	var live bool
	cmd := &cobra.Command{Use: "diff AGENT", Short: "Compare two releases, or one with the agent as it is now", Args: operands("AGENT"), ValidArgsFunction: a.completeFirst(agentNames),
		Example: "  countersign release diff invoice-checker --live     what changed since the release in force"}
	cmd.Flags().Int64Var(&from, "from", 0, "a release (default: the one in force)")
	cmd.Flags().Int64Var(&to, "to", 0, "a release (default: the newest)")
	cmd.Flags().BoolVar(&live, "live", false, "compare with the agent as it is now")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if live {
			to = -1
		}
		d, err := c.DiffReleases(ctx, args[0], from, to)
		if err != nil {
			return err
		}
		return list(a, d.Changes, "nothing differs",
			column[client.ReleaseChange]{"WHAT", func(x client.ReleaseChange) string { return x.What }, func(x client.ReleaseChange) string { return diffColour(x.What) }},
			column[client.ReleaseChange]{"OF", func(x client.ReleaseChange) string { return x.ID }, func(client.ReleaseChange) string { return bold }},
			column[client.ReleaseChange]{"WAS", func(x client.ReleaseChange) string { return brief(x.From) }, nil},
			column[client.ReleaseChange]{"IS", func(x client.ReleaseChange) string { return brief(x.To) }, nil})
	})
	return cmd
}

func diffColour(what string) string {
	switch what {
	case "added":
		return green
	case "removed":
		return red
	}
	return yellow
}

func (a *app) releaseCheck() *cobra.Command {
	var stage string
	var accept []string
	cmd := &cobra.Command{Use: "check AGENT [NUMBER]", Short: "Show whether a release passes the readiness gate; exit 1 if not", Args: operands("AGENT", "[NUMBER]"), ValidArgsFunction: a.completeInTurn(whatever(agentNames), releaseNumbers),
		Long:    "Lists what must be so before a release goes above development, and for what is missing the command that mends it.",
		Example: "  countersign release check invoice-checker --to production"}
	cmd.Flags().StringVar(&stage, "to", "", "development, staging or production (default: the agent's stage)")
	cmd.Flags().StringArrayVar(&accept, "accept", nil, "an item that may be missing, by its id (repeatable)")
	fixed(cmd, "to", "development", "staging", "production")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		n, err := numberArg(args, 1)
		if err != nil {
			return err
		}
		r, err := c.CheckRelease(ctx, args[0], n, stage, accept)
		if err != nil {
			return err
		}
		err = list(a, r.Items, "nothing is asked",
			column[client.ReleaseItem]{"ITEM", func(i client.ReleaseItem) string { return i.ID }, func(client.ReleaseItem) string { return bold }},
			column[client.ReleaseItem]{"IS", itemState, func(i client.ReleaseItem) string { return itemColour(i) }},
			column[client.ReleaseItem]{"FOUND", func(i client.ReleaseItem) string { return i.What }, nil})
		if err == nil && !r.Ready {
			a.printMends(r.Items)
			return exitError{1}
		}
		return err
	})
	return cmd
}

// printMends prints the whole command for everything that is missing.
func (a *app) printMends(items []client.ReleaseItem) {
	if a.output == "json" {
		return
	}
	fmt.Fprintln(a.stdout, "\n"+a.paint(a.stdout, bold, "What is missing is mended by"))
	for _, i := range items {
		if i.OK || i.Accepted {
			continue
		}
		accept := ""
		if i.May {
			accept = " (or accept it by name: --accept " + inert(i.ID, 0) + ")"
		}
		fmt.Fprintf(a.stdout, "  %s %s  %s%s\n", padded(inert(i.ID, 60), 26), a.paint(a.stdout, red, "missing"), inert(i.Mend, 0), a.paint(a.stdout, dim, accept))
	}
}

func itemState(i client.ReleaseItem) string {
	switch {
	case i.OK:
		return "ok"
	case i.Accepted:
		return "accepted"
	}
	return "missing"
}

func itemColour(i client.ReleaseItem) string {
	switch {
	case i.OK:
		return green
	case i.Accepted:
		return yellow
	}
	return red
}

func (a *app) releasePromote() *cobra.Command {
	var ask client.ReleaseAsk
	cmd := &cobra.Command{Use: "promote AGENT [NUMBER] --reason TEXT", Short: "Ask for a release to be put in force", Args: operands("AGENT", "[NUMBER]"), ValidArgsFunction: a.completeInTurn(whatever(agentNames), releaseNumbers),
		Long: `The newest release if none is named, in the agent's stage unless --to names another. In development it happens at once. Above, the release must
pass the readiness gate (countersign release check), and another person approves: countersign release approve.`,
		Example: "  countersign release promote invoice-checker 4 --to production --reason 'tested in staging for a week'"}
	cmd.Flags().StringVar(&ask.Stage, "to", "", "development, staging or production (default: the agent's stage)")
	cmd.Flags().StringArrayVar(&ask.Accept, "accept", nil, "an item of the gate that may be missing, by its id (repeatable)")
	fixed(cmd, "to", "development", "staging", "production")
	cmd.RunE = a.promotion(&ask)
	return cmd
}

// promotion asks for what the flags say.
func (a *app) promotion(ask *client.ReleaseAsk) func(*cobra.Command, []string) error {
	return a.call(func(ctx context.Context, c *client.Client, args []string) error {
		var err error
		if ask.Number, err = numberArg(args, 1); err != nil {
			return err
		}
		q, err := c.PromoteRelease(ctx, args[0], *ask)
		if err != nil {
			return err
		}
		if q.State == "open" {
			return a.did(q, "release %d of %s waits for another person: countersign release approve %s --reason TEXT", q.Number, q.Agent, q.ID)
		}
		return a.did(q, "%s", promoted(q))
	})
}

func promoted(q client.ReleaseRequest) string {
	if q.Percent > 0 {
		return fmt.Sprintf("release %d of %s is tried by %d%% of its runs in %s", q.Number, q.Agent, q.Percent, q.Stage)
	}
	return fmt.Sprintf("release %d of %s is in force in %s", q.Number, q.Agent, q.Stage)
}

func (a *app) releaseCanary() *cobra.Command {
	var ask client.ReleaseAsk
	var s client.ReleaseSignals
	cmd := &cobra.Command{Use: "canary AGENT NUMBER --percent N --reason TEXT", Short: "Try a release with a share of the runs; a bad one rolls itself back", Args: operands("AGENT", "NUMBER"), ValidArgsFunction: a.completeInTurn(whatever(agentNames), releaseNumbers),
		Long: `Whether a run tries the release follows from the run itself, the same on every replica. It is judged by its own calls: what passes a limit rolls it
back at once, with an event and a finding that say why. Without any limit 20% refused, 20% failed and findings of high severity count.
Above development it needs the gate and another person, as a promotion does.`,
		Example: "  countersign release canary invoice-checker 5 --percent 5 --refusals 10 --errors 10 --finding high --reason 'cheaper model'"}
	f := cmd.Flags()
	f.Int64Var(&ask.Percent, "percent", 5, "the share of the runs, 1 to 100")
	f.Int64Var(&s.Refusals, "refusals", 0, "percent of its calls that may be refused")
	f.Int64Var(&s.Errors, "errors", 0, "percent of its calls that may fail")
	f.StringVar(&s.Finding, "finding", "", "a finding of this severity or worse ends it: info, low, medium, high or critical")
	f.Int64Var(&s.Least, "least", 0, "calls before percentages count (default: 20)")
	f.StringArrayVar(&ask.Accept, "accept", nil, "an item of the gate that may be missing, by its id (repeatable)")
	fixed(cmd, "finding", "info", "low", "medium", "high", "critical")
	next := a.promotion(&ask)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if ask.Percent < 1 || ask.Percent > 100 {
			return usageError{fmt.Errorf("--percent %d: a share is 1 to 100", ask.Percent)}
		}
		ask.Signals = &s
		return next(cmd, args)
	}
	return cmd
}

func (a *app) releaseRollback() *cobra.Command {
	var to int64
	cmd := &cobra.Command{Use: "rollback AGENT --reason TEXT", Short: "Return to the release before, at once and everywhere", Args: operands("AGENT"), ValidArgsFunction: a.completeFirst(agentNames),
		Long: `Pins, grants and the policies that are about this agent alone return together. A canary ends. Without --to it is the release that was in force
before, or, while a canary is tried, the one in force. Later policies that forbid something stay.`,
		Example: "  countersign release rollback invoice-checker --reason 'it proposes wrong holds'"}
	cmd.Flags().Int64Var(&to, "to", 0, "a release that was in force in this stage")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		m, err := c.RollBackRelease(ctx, args[0], to)
		if err != nil {
			return err
		}
		if a.output == "json" {
			return a.printJSON(m)
		}
		is := fmt.Sprintf("release %d", m.Number)
		if m.Number == 0 {
			is = "no release"
		}
		a.done("%s of %s is in force in %s, in place of release %d", is, m.Agent, m.Stage, m.Previous)
		for _, x := range []struct {
			what  string
			names []string
		}{
			{"grants given back", m.Restored.Given}, {"grants revoked", m.Restored.Revoked}, {"grants that stay away: revoked by a review, or in need of an end or an exception", m.Restored.Withheld}, {"policies restored", m.Restored.Policies}, {"policies deleted", m.Restored.Removed},
			{"policies that stay because they forbid", m.Restored.Kept}, {"policies that differ and stay because they are about others too", m.Restored.Shared},
		} {
			if len(x.names) > 0 {
				fmt.Fprintf(a.stdout, "%s: %s\n", x.what, inert(strings.Join(x.names, ", "), 0))
			}
		}
		for _, name := range m.Restored.ByHand {
			fmt.Fprintf(a.stdout, "the grant %s stays as a person left it who revoked or narrowed it; countersign grant rollback %[1]s --reason … gives it back\n", inert(name, 0))
		}
		return nil
	})
	return cmd
}

func (a *app) releaseRequests() *cobra.Command {
	var all bool
	cmd := &cobra.Command{Use: "requests", Short: "List promotions that wait for another person", Args: operands()}
	cmd.Flags().BoolVar(&all, "all", false, "those that were decided too")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		found, err := c.ReleaseRequests(ctx, all)
		if err != nil {
			return err
		}
		return list(a, found, "nothing waits",
			column[client.ReleaseRequest]{"ID", func(q client.ReleaseRequest) string { return q.ID }, nil},
			column[client.ReleaseRequest]{"AGENT", func(q client.ReleaseRequest) string { return q.Agent }, func(client.ReleaseRequest) string { return bold }},
			column[client.ReleaseRequest]{"RELEASE", func(q client.ReleaseRequest) string { return fmt.Sprint(q.Number) }, nil},
			column[client.ReleaseRequest]{"TO", func(q client.ReleaseRequest) string { return requestTo(q) }, nil},
			column[client.ReleaseRequest]{"STATE", func(q client.ReleaseRequest) string { return q.State }, nil},
			column[client.ReleaseRequest]{"ASKED", func(q client.ReleaseRequest) string { return ago(q.Asked) + " by " + q.By }, nil},
			column[client.ReleaseRequest]{"ACCEPTED", func(q client.ReleaseRequest) string { return strings.Join(q.Accepted, ", ") }, nil},
			column[client.ReleaseRequest]{"REASON", func(q client.ReleaseRequest) string { return q.Reason }, nil})
	})
	return cmd
}

func requestTo(q client.ReleaseRequest) string {
	if q.Percent > 0 {
		return fmt.Sprintf("%d%% of %s", q.Percent, q.Stage)
	}
	return q.Stage
}

func (a *app) releaseDecide(approve bool) *cobra.Command {
	cmd := &cobra.Command{Use: "deny REQUEST --reason TEXT", Short: "Refuse a promotion", Args: operands("REQUEST"), ValidArgsFunction: a.completeFirst(releaseRequestIDs)}
	if approve {
		cmd.Use, cmd.Short = "approve REQUEST --reason TEXT", "Approve a promotion that another person asked for; it happens at once"
	}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		q, err := c.DecideRelease(ctx, args[0], approve)
		if err != nil {
			return err
		}
		if approve {
			return a.did(q, "%s", promoted(q))
		}
		return a.did(q, "the promotion of release %d of %s is refused", q.Number, q.Agent)
	})
	return cmd
}
