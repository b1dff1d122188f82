package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func undoIDs(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Undos(ctx)
	return namesOf(l, err, func(u client.Undo) string { return u.ID + "\t" + u.Object })
}

func (a *app) undoCommand() *cobra.Command {
	var what client.UndoWhat
	var plan, yes bool
	var wait time.Duration
	cmd := &cobra.Command{Use: "undo CALL|--run RUN --reason TEXT", Short: "Take back what a call, or a whole run, did", Args: operands("[CALL]"),
		Long: `Prints the plan first: which call is undone by which, with which arguments, the last one first, and what cannot be undone and why; then asks.
Each compensating call goes through the line like any other: policy, approval, log; in the name of the agent that made the call (--as names
another) and of you. The work goes on if this command, or the server, ends. Tools say what undoes them with countersign tool undo.`,
		Example: "  countersign undo call_… --plan\n  countersign undo --run run_… --reason 'paid the wrong supplier'"}
	cmd.Flags().StringVar(&what.Run, "run", "", "undo a whole run")
	cmd.Flags().StringVar(&what.As, "as", "", "the agent in whose name it is undone")
	cmd.Flags().BoolVar(&plan, "plan", false, "print the plan and change nothing")
	cmd.Flags().DurationVar(&wait, "wait", time.Minute, "how long to wait until it is done")
	yesFlag(cmd, &yes)
	a.completeFlag(cmd, "as", agentNames)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if (len(args) == 1) == (what.Run != "") {
			return usageError{errors.New("name a CALL, or --run RUN (countersign log search shows both)")}
		}
		if len(args) == 1 {
			what.Call = args[0]
		}
		p, err := c.PlanUndo(ctx, what)
		if err != nil {
			return err
		}
		if plan || a.output != "json" {
			if err := a.printSteps(p, p.Steps); err != nil || plan {
				return err
			}
		}
		if err := a.confirm(yes, "Undo this?"); err != nil {
			return err
		}
		u, err := c.BeginUndo(ctx, what, p.Digest)
		if err != nil {
			return err
		}
		return a.undone(ctx, c, u, wait)
	})
	cmd.AddCommand(a.undoList(), a.undoShow(), a.undoSettle())
	return cmd
}

// printSteps prints a plan, or how far it is.
func (a *app) printSteps(v any, steps []client.UndoStep) error {
	if a.output == "json" {
		return a.printJSON(v)
	}
	if err := a.stepTable(steps); err != nil {
		return err
	}
	for _, s := range steps {
		if conn, tool, ok := strings.Cut(s.ByTool, "/"); ok && s.State == "planned" && s.Why != "" {
			fmt.Fprintf(a.stderr, "%s %d: %s; for an hour: countersign grant add NAME --agent %s --connection %s --tool %s --expires 1h --reason TEXT\n",
				a.paint(a.stderr, yellow, "note:"), s.N, inert(s.Why, 200), inert(s.Agent, 100), inert(conn, 100), inert(tool, 200))
		}
	}
	return nil
}

func (a *app) stepTable(steps []client.UndoStep) error {
	return list(a, steps, "nothing to undo",
		column[client.UndoStep]{"N", func(s client.UndoStep) string { return fmt.Sprint(s.N) }, nil},
		column[client.UndoStep]{"CALL", func(s client.UndoStep) string { return s.Call }, nil},
		column[client.UndoStep]{"DID", func(s client.UndoStep) string { return s.Tool }, func(client.UndoStep) string { return bold }},
		column[client.UndoStep]{"STATE", func(s client.UndoStep) string { return s.State }, func(s client.UndoStep) string { return stepColour(s.State) }},
		column[client.UndoStep]{"UNDONE BY", func(s client.UndoStep) string { return strings.TrimSpace(s.ByTool + " " + briefArgs(s)) }, nil},
		column[client.UndoStep]{"WHY", func(s client.UndoStep) string { return strings.TrimSpace(s.Why + " " + s.Approval) }, nil})
}

func briefArgs(s client.UndoStep) string {
	if len(s.Args) == 0 {
		return ""
	}
	return brief(string(s.Args))
}

func stepColour(state string) string {
	switch state {
	case "done":
		return green
	case "cannot", "failed", "unknown":
		return red
	}
	return yellow
}

// undone waits until an undo has ended, or people have to do something.
func (a *app) undone(ctx context.Context, c *client.Client, u client.Undo, wait time.Duration) error {
	for deadline := time.Now().Add(wait); u.State == "running" && !waitsForPeople(u) && time.Now().Before(deadline); {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
		next, err := c.Undo(ctx, u.ID)
		if err != nil {
			return err
		}
		u = next
	}
	if err := a.printSteps(u, u.Steps); err != nil {
		return err
	}
	switch {
	case u.State == "attention":
		a.warn("it stopped: look at the step that did not go well, then countersign undo settle %s --done N or --again N", u.ID)
		return exitError{1}
	case u.State == "running" && waitsForPeople(u):
		a.warn("it goes on when the approval is given: countersign undo show %s", u.ID)
	case u.State == "running":
		a.warn("it goes on in the background: countersign undo show %s", u.ID)
	case a.output != "json":
		a.done("%s is undone as far as it could be (%s)", u.Object, u.ID)
	}
	return nil
}

func waitsForPeople(u client.Undo) bool {
	for _, s := range u.Steps {
		if s.State == "held" {
			return true
		}
	}
	return false
}

func (a *app) undoList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List what was undone, the latest first", Args: operands()}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		all, err := c.Undos(ctx)
		if err != nil {
			return err
		}
		return list(a, all, "nothing was undone",
			column[client.Undo]{"ID", func(u client.Undo) string { return u.ID }, nil},
			column[client.Undo]{"OF", func(u client.Undo) string { return u.Object }, func(client.Undo) string { return bold }},
			column[client.Undo]{"STATE", func(u client.Undo) string { return u.State }, func(u client.Undo) string { return stepColour(u.State) }},
			column[client.Undo]{"BEGUN", func(u client.Undo) string { return ago(u.Created) + " by " + u.By }, nil},
			column[client.Undo]{"REASON", func(u client.Undo) string { return u.Reason }, nil})
	})
	return cmd
}

func (a *app) undoShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show ID", Short: "Show how far an undo is", Args: operands("ID"), ValidArgsFunction: a.completeFirst(undoIDs)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		u, err := c.Undo(ctx, args[0])
		if err != nil {
			return err
		}
		if a.output != "json" {
			fmt.Fprintf(a.stdout, "%s of %s, begun %s by %s: %s\n", u.State, u.Object, ago(u.Created), inert(u.By, 64), inert(u.Reason, 0))
		}
		return a.printSteps(u, u.Steps)
	})
	return cmd
}

func (a *app) undoSettle() *cobra.Command {
	var done, again []int
	var wait time.Duration
	cmd := &cobra.Command{Use: "settle ID (--done N | --again N)... --reason TEXT", Short: "Say what became of steps that failed or are unknown, and go on", Args: operands("ID"), ValidArgsFunction: a.completeFirst(undoIDs),
		Long: "Look at the system itself first: --again makes the compensating call once more."}
	cmd.Flags().IntSliceVar(&done, "done", nil, "steps that were done")
	cmd.Flags().IntSliceVar(&again, "again", nil, "steps to make again")
	cmd.Flags().DurationVar(&wait, "wait", time.Minute, "how long to wait until it is done")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		u, err := c.SettleUndo(ctx, args[0], done, again)
		if err != nil {
			return err
		}
		return a.undone(ctx, c, u, wait)
	})
	return cmd
}

// toolUndo declares what undoes a tool.
func (a *app) toolUndo() *cobra.Command {
	var u client.ToolUndo
	var args, when, checkArgs, checkDone []string
	var none bool
	var window string
	var given func(string) bool
	cmd := a.tool("undo CONNECTION/TOOL", "Say what undoes a call of a tool", func(ctx context.Context, c *client.Client, connection, tool string, _ []string) error {
		t, err := c.Tool(ctx, connection, tool)
		if err != nil {
			return err
		}
		if !given("by") && !none && !given("window") {
			return a.show(t, undoRows(t)...)
		}
		var errs [4]error
		u.Args, errs[0] = declared(args)
		u.When, errs[1] = declared(when)
		u.Check.Args, errs[2] = declared(checkArgs)
		u.Check.Done, errs[3] = declared(checkDone)
		if err := errors.Join(errs[:]...); err != nil {
			return err
		}
		next := t.References
		if given("by") {
			next.Undo = u
		}
		if given("window") {
			next.UndoWindow = window
		}
		if none {
			next.Undo, next.UndoWindow = client.ToolUndo{}, ""
		}
		if t, err = c.SetReferences(ctx, connection, tool, next); err != nil {
			return err
		}
		if t.UndoWindow != "" {
			return a.did(t, "%s/%s is undone by %s, and is sent %s after it was allowed: until then it can be cancelled", t.Connection, t.Name, orNone(t.Undo.Tool), t.UndoWindow)
		}
		return a.did(t, "%s/%s is undone by %s", t.Connection, t.Name, orNone(t.Undo.Tool))
	})
	given = cmd.Flags().Changed
	f := cmd.Flags()
	f.StringVar(&u.Tool, "by", "", "the tool that undoes it, CONNECTION/TOOL")
	f.StringArrayVar(&args, "arg", nil, "NAME=SOURCE of its arguments: call:/POINTER, result:/POINTER or =JSON (repeatable)")
	f.StringVar(&u.Within, "within", "", "how long after the call it can be undone, such as 24h")
	f.StringArrayVar(&when, "when", nil, "SOURCE=JSON that must hold (repeatable)")
	f.StringVar(&u.Check.Tool, "check", "", "a tool that reads, and shows whether it was undone")
	f.StringArrayVar(&checkArgs, "check-arg", nil, "NAME=SOURCE of its arguments (repeatable)")
	f.StringArrayVar(&checkDone, "check-done", nil, "/POINTER=JSON in its answer when it was undone (repeatable)")
	f.StringVar(&window, "window", "", "how long a call waits before it is really sent, and can be cancelled, such as 30s; empty: not at all")
	f.BoolVar(&none, "none", false, "nothing undoes it, and it is sent at once")
	a.completeFlag(cmd, "by", toolNames)
	a.completeFlag(cmd, "check", toolNames)
	cmd.Long = `Declares the compensation of a tool: another tool, with arguments taken from the call and from what it answered. Without flags it shows what is
declared. The check is asked where nobody knows whether a compensating call arrived; without one a person has to look.`
	cmd.Example = `  countersign tool undo ledger/pay_invoice --by ledger/reverse_payment --arg payment_id=result:/id --within 24h \
    --check ledger/get_invoice --check-arg number=call:/number --check-done '/status="open"' --reason 'banks take it back for a day'
  countersign tool undo forge/deploy --by forge/delete_deployment --arg path.id=result:/id --reason 'an HTTP operation: path, query, header, body'
  countersign tool undo helpdesk/send_email --window 30s --reason 'nobody gets a mail back'`
	return cmd
}

// undoRows show what is declared about undoing a tool's calls.
func undoRows(t client.ToolDetail) []field {
	return []field{row("tool", t.Connection+"/"+t.Name), row("undone by", orNone(t.Undo.Tool)), row("arguments", orNone(pairs(t.Undo.Args))), row("within", orNone(t.Undo.Within)),
		row("only when", orNone(pairs(t.Undo.When))), row("checked by", orNone(t.Undo.Check.Tool)), row("with", orNone(pairs(t.Undo.Check.Args))), row("done when", orNone(pairs(t.Undo.Check.Done))), row("window", orNone(t.UndoWindow))}
}
