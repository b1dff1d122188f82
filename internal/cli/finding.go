package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) findingCommand() *cobra.Command {
	return group("finding", "See what is wrong, close what is settled, mute what is known", a.findingList(), a.findingShow(), a.findingClose(), a.findingMute(), a.findingUnmute(), a.findingMutes(), a.findingTune())
}

func severityColour(s string) string {
	switch s {
	case "critical", "high":
		return red
	case "medium":
		return yellow
	}
	return ""
}

func (a *app) findingList() *cobra.Command {
	q := client.FindingQuery{}
	var all bool
	cmd := &cobra.Command{Use: "list", Short: "List open findings, newest first", Args: operands(), Example: "  countersign finding list --severity high\n  countersign finding list --state muted --agent invoice-checker"}
	cmd.Flags().BoolVar(&all, "all", false, "closed and muted ones too")
	cmd.Flags().StringVar(&q.State, "state", "", "open, muted or closed (default: open)")
	cmd.Flags().StringVar(&q.Agent, "agent", "", "about this agent only")
	cmd.Flags().BoolVar(&q.Tuned, "tuned", false, "those with a note for tuning only, in any state")
	cmd.Flags().StringVar(&q.Severity, "severity", "", "info, low, medium, high or critical")
	cmd.Flags().StringVar(&q.Rule, "rule", "", "of this rule only")
	a.completeFlag(cmd, "rule", findingRules)
	cmd.Flags().StringVar(&q.Object, "object", "", "about this only, such as tool/ledger/pay_invoice")
	cmd.Flags().IntVarP(&q.Limit, "limit", "n", 100, "at most so many")
	fixed(cmd, "severity", "info", "low", "medium", "high", "critical")
	fixed(cmd, "state", "open", "muted", "closed")
	a.completeFlag(cmd, "agent", agentNames)
	cmd.MarkFlagsMutuallyExclusive("all", "state")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		if !all && !q.Tuned && q.State == "" {
			q.State = "open"
		}
		found, err := c.Findings(ctx, q)
		if err != nil {
			return err
		}
		return list(a, found, "no findings",
			column[client.Finding]{"ID", func(f client.Finding) string { return f.ID }, nil},
			column[client.Finding]{"SEVERITY", func(f client.Finding) string { return f.Severity }, func(f client.Finding) string { return severityColour(f.Severity) }},
			column[client.Finding]{"STATE", func(f client.Finding) string { return f.State }, nil},
			column[client.Finding]{"SEEN", func(f client.Finding) string { return fmt.Sprintf("%d×", f.Count) }, nil},
			column[client.Finding]{"OBJECT", func(f client.Finding) string { return f.Object }, nil},
			column[client.Finding]{"OPENED", func(f client.Finding) string { return ago(f.Opened) }, nil},
			column[client.Finding]{"TITLE", func(f client.Finding) string { return f.Title }, nil})
	})
	return cmd
}

func (a *app) findingShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show ID", Short: "Show a finding", Args: operands("ID"), ValidArgsFunction: a.completeFirst(findingIDs)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		f, err := c.Finding(ctx, args[0])
		if err != nil {
			return err
		}
		closed, muted, history := "", "", make([]string, len(f.History))
		if !f.Closed.IsZero() {
			closed = ago(f.Closed) + " by " + f.ClosedBy + ": " + f.Reason
		}
		if !f.MutedUntil.IsZero() {
			muted = "until " + f.MutedUntil.Format(time.RFC3339)
		}
		for i, h := range f.History {
			history[i] = h.At.Format(time.RFC3339) + " " + h.Act + " by " + h.By + ": " + h.Reason
		}
		return a.show(f, row("finding", f.Title), row("id", f.ID), painted("severity", f.Severity, severityColour(f.Severity)), row("state", f.State), row("muted", muted),
			row("rule", f.Rule), row("object", f.Object), row("agent", f.Agent), row("opened", ago(f.Opened)), row("seen", seen(f)), row("closed", closed),
			row("detail", f.Detail), row("tune", f.Tune), row("history", strings.Join(history, "\n")), row("events", strings.Join(f.Events, "\n")))
	})
	return cmd
}

func seen(f client.Finding) string {
	if f.Count == 1 {
		return "once, " + ago(f.FirstSeen)
	}
	return fmt.Sprintf("%d times, first %s, last %s", f.Count, ago(f.FirstSeen), ago(f.LastSeen))
}

func (a *app) findingClose() *cobra.Command {
	cmd := &cobra.Command{Use: "close ID --reason TEXT", Short: "Close a finding", Args: operands("ID"), ValidArgsFunction: a.completeFirst(findingIDs),
		Example: "  countersign finding close fnd_… --reason 'rotated the key'"}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		f, err := c.CloseFinding(ctx, args[0])
		if err != nil {
			return err
		}
		return a.did(f, "finding %s closed", f.ID)
	})
	return cmd
}

func (a *app) findingMute() *cobra.Command {
	var until string
	var m client.MuteSpec
	cmd := &cobra.Command{Use: "mute [ID] --until TIME --reason TEXT", Short: "Mute findings until a date", Args: operands("[ID]"), ValidArgsFunction: a.completeFirst(findingIDs),
		Long: `With ID: what that finding is about, under its rule. Without: by --rule, --object and --agent. What is muted is found and counted as ever,
is listed under --state muted, and is back when the time is over. Nothing is muted for longer than a year.`,
		Example: "  countersign finding mute fnd_… --until 14d --reason 'the supplier mends it'\n  countersign finding mute --rule detect.burst --agent batch-loader --until 2027-01-31 --reason 'load test'"}
	cmd.Flags().StringVar(&until, "until", "", "a day (2027-01-31), a time, or how long from now (12h, 14d); needed")
	cmd.Flags().StringVar(&m.Rule, "rule", "", "findings of this rule")
	a.completeFlag(cmd, "rule", findingRules)
	cmd.Flags().StringVar(&m.Object, "object", "", "findings about this")
	cmd.Flags().StringVar(&m.Agent, "agent", "", "findings about this agent")
	a.completeFlag(cmd, "agent", agentNames)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		var err error
		if m.Until, err = muteEnd(until, time.Now()); err != nil {
			return err
		}
		what := m.Rule != "" || m.Object != "" || m.Agent != ""
		if what == (len(args) == 1) {
			return usageError{errors.New("say what to mute: the ID of a finding, or --rule, --object or --agent")}
		}
		if what {
			made, err := c.AddMute(ctx, m)
			if err != nil {
				return err
			}
			return a.did(made, "%s is muted until %s (%s)", muted(made), made.Until.Format(time.RFC3339), made.ID)
		}
		f, err := c.MuteFinding(ctx, args[0], m.Until)
		if err != nil {
			return err
		}
		return a.did(f, "finding %s is muted until %s", f.ID, f.MutedUntil.Format(time.RFC3339))
	})
	return cmd
}

// muteEnd reads a day, a time, or how long from now.
func muteEnd(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, usageError{errors.New("say until when: --until 2027-01-31, or 14d")}
	}
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		return t, nil
	}
	return expiry(s, now)
}

// muted says what a mute mutes.
func muted(m client.Mute) string {
	var what []string
	for _, part := range [][2]string{{"rule ", m.Rule}, {"", m.Object}, {"agent ", m.Agent}} {
		if part[1] != "" {
			what = append(what, part[0]+part[1])
		}
	}
	return strings.Join(what, ", ")
}

// findingRules are the rules of findings that there are.
func findingRules(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Findings(ctx, client.FindingQuery{Limit: 1000})
	all, err := namesOf(l, err, func(f client.Finding) string { return f.Rule })
	slices.Sort(all)
	return slices.Compact(all), err
}

func muteIDs(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Mutes(ctx)
	return namesOf(l, err, func(m client.Mute) string { return m.ID + "\t" + muted(m) })
}

func (a *app) findingUnmute() *cobra.Command {
	cmd := &cobra.Command{Use: "unmute ID --reason TEXT", Short: "End a mute, or all that mute a finding", Args: operands("ID"), ValidArgsFunction: a.completeFirst(muteIDs),
		Example: "  countersign finding unmute mut_… --reason 'the test is over'"}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if strings.HasPrefix(args[0], "fnd_") {
			f, err := c.UnmuteFinding(ctx, args[0])
			if err != nil {
				return err
			}
			return a.did(f, "finding %s is not muted any more", f.ID)
		}
		m, err := c.EndMute(ctx, args[0])
		if err != nil {
			return err
		}
		return a.did(m, "%s is not muted any more", muted(m))
	})
	return cmd
}

func (a *app) findingMutes() *cobra.Command {
	cmd := &cobra.Command{Use: "mutes", Short: "List the mutes in force", Args: operands()}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		found, err := c.Mutes(ctx)
		if err != nil {
			return err
		}
		return list(a, found, "nothing is muted",
			column[client.Mute]{"ID", func(m client.Mute) string { return m.ID }, nil},
			column[client.Mute]{"WHAT", muted, nil},
			column[client.Mute]{"UNTIL", func(m client.Mute) string { return m.Until.Format(time.RFC3339) }, nil},
			column[client.Mute]{"BY", func(m client.Mute) string { return m.By }, nil},
			column[client.Mute]{"REASON", func(m client.Mute) string { return m.Reason }, nil})
	})
	return cmd
}

func (a *app) findingTune() *cobra.Command {
	var note string
	cmd := &cobra.Command{Use: "tune ID --note TEXT", Short: "Note how a finding's rule should be set", Args: operands("ID"), ValidArgsFunction: a.completeFirst(findingIDs),
		Long:    "The note stays with the finding, open or closed, and is an event of the log. countersign finding list --tuned --rule RULE shows what people noted about a rule.",
		Example: "  countersign finding tune fnd_… --note 'batch agents need 500 an hour'"}
	cmd.Flags().StringVar(&note, "note", "", "how it should be set; needed")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		f, err := c.TuneFinding(ctx, args[0], note)
		if err != nil {
			return err
		}
		return a.did(f, "noted on finding %s", f.ID)
	})
	return cmd
}
