package cli

import (
	"context"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) logTrace() *cobra.Command {
	var full, all bool
	var object, text string
	cmd := &cobra.Command{Use: "trace [RUN]", Short: "Show a run, or all that touched a business object, as a tree", Args: cobra.MaximumNArgs(1),
		Long: `Prints a run: each prompt and model answer, and under it the tool calls that followed, each with its arguments, the decision and the
policies and grants that made it, how it ended and how long it took. Refused calls stand where they were tried.

With --object it prints, run by run, every call that touched one business object: exact where the tool declares which argument names
one (countersign tool declare). With --touching, every call whose arguments or answers hold a text.`,
		Example: "  countersign log trace run_…\n  countersign log trace --object invoice/4711\n  countersign log trace --touching 'Nordwind GmbH'"}
	cmd.Flags().BoolVar(&full, "full", false, "print prompts, answers, arguments and results whole")
	cmd.Flags().BoolVar(&all, "all", false, "protocol plumbing too (initialize, tools/list, models)")
	cmd.Flags().StringVar(&object, "object", "", "every call that touched this business object, TYPE/ID")
	cmd.Flags().StringVar(&text, "touching", "", "every call in which this text stands")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		switch {
		case len(args) == 1 && object == "" && text == "":
			return a.traceRun(ctx, c, args[0], full, all)
		case len(args) == 0 && (object == "") != (text == ""):
			return a.traceTouching(ctx, c, object, text, full)
		}
		return errors.New("name one of them: a RUN (countersign log search shows them), --object or --touching")
	})
	return cmd
}

func (a *app) traceRun(ctx context.Context, c *client.Client, run string, full, all bool) error {
	var entries []client.Entry
	var complete bool
	err := a.waiting("reading the run", func() (err error) {
		entries, complete, err = c.Run(ctx, run)
		return err
	})
	if err != nil {
		return err
	}
	t := traceOf(run, entries)
	if !complete {
		a.warn("the run is longer than what is shown: its first %d events", len(entries))
	}
	if a.output == "json" {
		return a.printJSON(t)
	}
	if all {
		t.Steps = append(t.Steps, t.Protocol...)
		t.Protocol = nil
		slices.SortStableFunc(t.Steps, func(x, y *step) int { return x.Time.Compare(y.Time) })
	}
	printer{a, a.stdout, full}.print(t)
	return nil
}

func (a *app) traceTouching(ctx context.Context, c *client.Client, object, text string, full bool) error {
	query, err := touchQuery(object, text)
	if err != nil {
		return err
	}
	var traces []*trace
	var complete bool
	err = a.waiting("reading the runs", func() (err error) {
		traces, complete, err = touching(ctx, c, query)
		return err
	})
	if err != nil {
		return err
	}
	if !complete {
		a.warn("there is more than what is shown: the newest %d runs at most", maxRuns)
	}
	if a.output == "json" {
		return a.printJSON(append([]*trace{}, traces...))
	}
	if len(traces) == 0 {
		fmt.Fprintln(a.stdout, "no call touched it")
	}
	for i, t := range traces {
		if i > 0 {
			fmt.Fprintln(a.stdout)
		}
		printer{a, a.stdout, full}.print(t)
	}
	return nil
}

// printer prints a trace.
type printer struct {
	a    *app
	out  io.Writer
	full bool
}

func (p printer) paint(colour, text string) string { return p.a.paint(p.out, colour, text) }

func (p printer) print(t *trace) {
	who := []string{t.Agent}
	if t.Stage != "" {
		who = append(who, t.Stage)
	}
	if t.Owner != "" {
		who = append(who, "owner "+t.Owner)
	}
	fmt.Fprintf(p.out, "%s  %s\n", p.paint(bold, "run "+inert(t.Run, 0)), inert(strings.Join(who, ", "), 0))
	started := "started " + t.Started.Local().Format("2006-01-02 15:04:05")
	if t.By != "" {
		started += " by " + t.By
	}
	refused := ""
	if t.Refused > 0 {
		refused = ", " + p.paint(red, fmt.Sprintf("%d refused", t.Refused))
	}
	fmt.Fprintf(p.out, "%s, %s; %d calls%s%s\n\n", inert(started, 0), millis(t.Ended.Sub(t.Started).Microseconds()), t.Calls, refused, inert(t.spent(), 0))
	for i, s := range t.Steps {
		p.step(s, "", i == len(t.Steps)-1)
	}
	if len(t.Protocol) > 0 {
		fmt.Fprintf(p.out, "\n%s\n", p.paint(dim, fmt.Sprintf("and %d calls of protocol plumbing that went well (--all)", len(t.Protocol))))
	}
	for _, ev := range t.Other {
		fmt.Fprintln(p.out, p.a.eventLine(ev))
	}
}

// step prints one call and, under it, those that followed from it.
func (p printer) step(s *step, indent string, last bool) {
	branch, below := "├─ ", "│  "
	if last {
		branch, below = "└─ ", "   "
	}
	kind, colour := s.Kind, blue
	if s.Kind == "tool" {
		colour = green
	}
	if s.refused() {
		colour = red
	}
	head := fmt.Sprintf("%s  %s", p.paint(colour, kind), p.paint(bold, inert(s.Tool, 0)))
	if s.Kind == "tool" && !p.full {
		head += " " + brief(s.Arguments)
	}
	if s.Outcome != nil {
		head += "  " + p.paint(dim, inert(outcome(*s.Outcome), 160))
	}
	fmt.Fprintln(p.out, p.paint(dim, indent+branch)+head)
	margin := indent + below
	if len(s.Steps) > 0 {
		margin += "│ "
	} else {
		margin += "  "
	}
	p.details(s, margin)
	for i, child := range s.Steps {
		p.step(child, indent+below, i == len(s.Steps)-1)
	}
}

func (p printer) details(s *step, margin string) {
	if s.Prompt != "" {
		role, text := lastMessage(s.Prompt)
		if p.full {
			role, text = "", pretty(s.Prompt)
		}
		p.detail(margin, "prompt", strings.TrimPrefix(role+": "+text, ": "), "")
	}
	if p.full {
		p.detail(margin, "arguments", pretty(s.Arguments), "")
	}
	p.decision(s, margin)
	if s.Proposed != nil && !*s.Proposed {
		p.detail(margin, "proposed", "by no answer of a model", yellow)
	}
	p.detail(margin, "answer", s.Answer, "")
	if s.Result != "" {
		text := resultText(s.Result)
		if p.full {
			text = pretty(s.Result)
		}
		p.detail(margin, "result", text, "")
	}
	if o := s.Outcome; o != nil && o.Status != "succeeded" {
		p.detail(margin, "ended", strings.TrimSuffix(o.Status+": "+o.Error, ": "), statusColour(o.Status))
	}
	if s.Outcome == nil && !s.refused() {
		p.detail(margin, "ended", "not yet", yellow)
	}
}

func (p printer) decision(s *step, margin string) {
	word, colour := "allowed", green
	if v, ok := verbs[s.Type]; ok {
		word, colour = v.word, v.colour
	}
	text := word
	if d := s.Decision; d != nil {
		text = strings.TrimSuffix(text+" "+decided(*d), " ")
		if d.Micros > 0 && p.full {
			text += fmt.Sprintf(" (decided in %d µs)", d.Micros)
		}
	}
	if s.Refusal != "" {
		text += ": " + s.Refusal
	}
	if s.refused() {
		text += "  (" + s.Event + ")"
	}
	p.detail(margin, "decision", text, colour)
}

// shownDetail is how much of a detail is printed unless asked for all, in characters.
const shownDetail = 160

func (p printer) detail(margin, name, text, colour string) {
	if text == "" {
		return
	}
	if !p.full && name != "decision" {
		text = inert(text, shownDetail)
	}
	first := p.paint(dim, padded(name, 9))
	for _, line := range strings.Split(inertLines(text), "\n") {
		if colour != "" {
			line = p.paint(colour, line)
		}
		fmt.Fprintln(p.out, p.paint(dim, margin)+" "+first+" "+line)
		first = strings.Repeat(" ", 9)
	}
}

// brief is a JSON object for reading: long values are cut, all names are shown.
func brief(args string) string {
	var object map[string]jsontext.Value
	if err := json.Unmarshal([]byte(args), &object); err != nil {
		return inert(args, 120)
	}
	parts := make([]string, 0, len(object))
	for _, name := range slices.Sorted(maps.Keys(object)) {
		parts = append(parts, inert(name, 40)+"="+inert(string(object[name]), 60))
	}
	return strings.Join(parts, " ")
}

// pretty indents JSON and leaves the rest.
func pretty(s string) string {
	if v := jsontext.Value(s); s != "" && v.Indent(jsontext.WithIndent("  ")) == nil {
		return string(v)
	}
	return s
}
