package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) detectionCommand() *cobra.Command {
	return group("detection", "What attacks look like in the log, and what is done about it", a.detectionList(), a.detectionShow(), a.detectionLift(), a.detectionRules(), a.detectionMode(),
		a.detectionTest(), a.detectionReconcile(), a.detectionStatus(), a.detectionRebuild())
}

func detectionIDs(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Detections(ctx, false, "", 0)
	return namesOf(l, err, func(d client.Detection) string { return d.ID })
}

func detectionRuleNames(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.DetectionRules(ctx)
	return namesOf(l, err, func(r client.DetectionRule) string { return r.ID })
}

func stateColour(d client.Detection) string {
	switch d.State {
	case "active", "failed":
		return red
	case "observed", "told":
		return yellow
	}
	return ""
}

func (a *app) detectionList() *cobra.Command {
	var all bool
	var agent string
	var limit int
	cmd := &cobra.Command{Use: "list", Short: "List what was detected, the newest first", Args: operands(),
		Long: "observed: the rule would have acted, but only observes (countersign detection mode). active: what it did is in force until it is lifted or its time is over."}
	f := cmd.Flags()
	f.BoolVar(&all, "all", false, "those that have ended too")
	f.StringVar(&agent, "agent", "", "only about this agent")
	f.IntVarP(&limit, "limit", "n", 100, "at most so many")
	a.completeFlag(cmd, "agent", agentNames)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		found, err := c.Detections(ctx, all, agent, limit)
		if err != nil {
			return err
		}
		return list(a, found, "nothing was detected",
			column[client.Detection]{"ID", func(d client.Detection) string { return d.ID }, nil},
			column[client.Detection]{"SEEN", func(d client.Detection) string { return ago(d.Updated) }, nil},
			column[client.Detection]{"RULE", func(d client.Detection) string { return d.Rule }, func(client.Detection) string { return bold }},
			column[client.Detection]{"ABOUT", func(d client.Detection) string { return d.Object }, nil},
			column[client.Detection]{"AGENT", func(d client.Detection) string { return d.Agent }, nil},
			column[client.Detection]{"STATE", func(d client.Detection) string { return d.State }, stateColour},
			column[client.Detection]{"RESPONSE", func(d client.Detection) string { return d.Response }, nil},
			column[client.Detection]{"CONTAINED", contained, nil})
	})
	return cmd
}

func contained(d client.Detection) string {
	if d.Contained == 0 {
		return ""
	}
	return strconv.FormatFloat(d.Contained, 'f', 0, 64) + " ms"
}

func (a *app) detectionShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show ID", Short: "Show what was seen, what was done, and how fast", Args: operands("ID"), ValidArgsFunction: a.completeFirst(detectionIDs)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		d, err := c.Detection(ctx, args[0])
		if err != nil {
			return err
		}
		return a.showDetection(d)
	})
	return cmd
}

func (a *app) showDetection(d client.Detection) error {
	rows := []field{row("detection", d.ID), row("rule", d.Rule+" (version "+d.Version+")"), row("what", d.Title), row("severity", d.Severity), row("about", d.Object), row("agent", d.Agent),
		row("credential", d.Credential), row("seen", d.Seen), row("normal", d.Normal), row("events", strings.Join(d.Events, "\n")), row("decided by", d.Event), row("happened", d.Happened.UTC().Format(time.RFC3339Nano)),
		row("times", strconv.FormatInt(d.Times, 10)), row("response", d.Response), row("state", d.State), row("lock", d.Lock)}
	if d.Contained > 0 {
		said := fmt.Sprintf("%s after the event that decided; %d calls in flight were cut", contained(d), d.Cut)
		if d.Passed != nil {
			said += fmt.Sprintf(", %d had passed", *d.Passed)
		}
		rows = append(rows, row("contained", said))
	}
	if d.Error != "" {
		rows = append(rows, row("failed", d.Error))
	}
	if !d.Expires.IsZero() && d.Ended.IsZero() {
		rows = append(rows, row("ends", until(d.Expires)))
	}
	if !d.Ended.IsZero() {
		rows = append(rows, row("ended", ago(d.Ended)+" by "+d.EndedBy), row("because", d.EndReason))
	}
	return a.show(d, rows...)
}

func (a *app) detectionLift() *cobra.Command {
	cmd := &cobra.Command{Use: "lift ID --reason TEXT", Short: "End what a detection did", Args: operands("ID"), ValidArgsFunction: a.completeFirst(detectionIDs),
		Long: "Its lock is lifted, held and throttled calls go on. What the rule had counted is forgotten, so that the same does not do it again at once."}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		d, err := c.LiftDetection(ctx, args[0])
		if err != nil {
			return err
		}
		return a.did(d, "lifted %s", d.ID)
	})
	return cmd
}

func (a *app) detectionRules() *cobra.Command {
	cmd := &cobra.Command{Use: "rules [NAME]", Short: "List the rules, or show one", Args: operands("[NAME]"), ValidArgsFunction: a.completeFirst(detectionRuleNames)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if len(args) == 1 {
			r, err := c.DetectionRule(ctx, args[0])
			if err != nil {
				return err
			}
			return a.showDetectionRule(r)
		}
		rules, err := c.DetectionRules(ctx)
		if err != nil {
			return err
		}
		return a.listDetectionRules(rules)
	})
	return cmd
}

func (a *app) listDetectionRules(rules []client.DetectionRule) error {
	return list(a, rules, "there are no rules",
		column[client.DetectionRule]{"RULE", func(r client.DetectionRule) string { return r.ID }, func(client.DetectionRule) string { return bold }},
		column[client.DetectionRule]{"MODE", func(r client.DetectionRule) string { return r.Mode }, func(r client.DetectionRule) string {
			if r.Mode == "enforce" {
				return green
			}
			return ""
		}},
		column[client.DetectionRule]{"RESPONSE", func(r client.DetectionRule) string { return r.Response }, nil},
		column[client.DetectionRule]{"SEVERITY", func(r client.DetectionRule) string { return r.Severity }, nil},
		column[client.DetectionRule]{"WEIGHT", func(r client.DetectionRule) string { return r.Weight }, nil},
		column[client.DetectionRule]{"WHAT", func(r client.DetectionRule) string { return r.Title }, nil})
}

func (a *app) showDetectionRule(r client.DetectionRule) error {
	var measures, limits []string
	for _, name := range slices.Sorted(maps.Keys(r.Measures)) {
		measures = append(measures, name+" = "+r.Measures[name])
	}
	for _, name := range slices.Sorted(maps.Keys(r.Limits)) {
		limits = append(limits, name+" = "+r.Limits[name])
	}
	tests := slices.Sorted(maps.Keys(r.Tests))
	return a.show(r, row("rule", r.ID+" (version "+r.Version+")"), row("what", r.Title), row("mode", r.Mode), row("watches", strings.Join(r.Watch, ", ")), row("counts for", r.Key), row("where", r.Where),
		row("measures", strings.Join(measures, "\n")), row("fires when", r.When), row("limits", strings.Join(limits, "\n")), row("learns for", r.Learning), row("severity", r.Severity), row("weight", r.Weight),
		row("response", r.Response), row("for", r.For), row("says", r.Seen), row("tests", strings.Join(tests, "\n")))
}

func (a *app) detectionMode() *cobra.Command {
	var all bool
	cmd := &cobra.Command{Use: "mode [RULE] observe|enforce|off --reason TEXT", Short: "Let a rule act, or only observe", Args: operands("[RULE]", "MODE"), ValidArgsFunction: a.completeInTurn(whatever(detectionRuleNames), words("observe", "enforce", "off")),
		Long: "A new rule observes: it says what it would do. Look at what it finds for a while (countersign detection list), then let it act. What a rule did stays until it is lifted.",
		Example: `  countersign detection mode model.fan-out enforce --reason 'no false finding in two weeks'
  countersign detection mode --all observe --reason 'migration this weekend'`}
	cmd.Flags().BoolVar(&all, "all", false, "every rule")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if all != (len(args) == 1) {
			return usageError{errors.New("name a rule and a mode, or --all and a mode: detection mode RULE enforce")}
		}
		name := "*"
		if !all {
			name = args[0]
		}
		rules, err := c.SetDetectionMode(ctx, name, args[len(args)-1])
		if err != nil {
			return err
		}
		return a.listDetectionRules(rules)
	})
	return cmd
}

func (a *app) detectionStatus() *cobra.Command {
	var agent string
	cmd := &cobra.Command{Use: "status", Short: "Show how far the log was evaluated, and what is normal of an agent", Args: operands(),
		Example: "  countersign detection status --agent invoice-checker"}
	cmd.Flags().StringVar(&agent, "agent", "", "show what is normal of this agent, and what is still learned")
	a.completeFlag(cmd, "agent", agentNames)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		st, err := c.DetectionStatus(ctx, agent)
		if err != nil {
			return err
		}
		if a.output == "json" || agent == "" {
			return a.show(st, row("rules", fmt.Sprintf("%d, of which %d act", st.Rules, st.Enforcing)), row("in force", strconv.Itoa(st.Active)), row("behind", fmt.Sprintf("%d records of the log", st.Behind)),
				row("acts since", st.ActsSince.UTC().Format(time.RFC3339)), row("own rules", strings.Join(st.Overridden, ", ")))
		}
		return list(a, st.Baselines, "nothing is known of the agent yet",
			column[client.DetectionNormal]{"RULE", func(n client.DetectionNormal) string { return n.Rule }, func(client.DetectionNormal) string { return bold }},
			column[client.DetectionNormal]{"MEASURE", func(n client.DetectionNormal) string { return n.Measure }, nil},
			column[client.DetectionNormal]{"NORMAL", func(n client.DetectionNormal) string {
				if n.Known > 0 {
					return counted(n.Known, "value", "values")
				}
				return strconv.FormatFloat(n.Normal, 'f', -1, 64)
			}, nil},
			column[client.DetectionNormal]{"LEARNED", func(n client.DetectionNormal) string {
				if n.Learning.IsZero() {
					return "learned"
				}
				return until(n.Learning)
			}, nil})
	})
	return cmd
}

func (a *app) detectionRebuild() *cobra.Command {
	cmd := &cobra.Command{Use: "rebuild --reason TEXT", Short: "Count the log again from its beginning", Args: operands(),
		Long: "What was counted and learned is forgotten and counted again. What is found on the way is not acted upon."}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		if err := c.RebuildDetection(ctx); err != nil {
			return err
		}
		return a.did(map[string]string{"state": "rebuilding"}, "the log is counted again; countersign detection status shows how far")
	})
	return cmd
}
