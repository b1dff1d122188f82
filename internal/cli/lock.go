package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

var lockKinds = []string{"agent", "owner", "team", "tool", "connection", "credential", "run", "everything"}

func (a *app) lockCommand() *cobra.Command {
	return group("lock", "Stop an agent, an owner, a tool or anything else at once", a.lockList(), a.lockShow(), a.lockAdd(), a.lockRemove())
}

func lockIDs(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Locks(ctx, false)
	return namesOf(l, err, func(x client.Lock) string { return x.ID + "\t" + x.On() })
}

func (a *app) lockList() *cobra.Command {
	var all bool
	cmd := &cobra.Command{Use: "list", Short: "List locks", Args: operands()}
	cmd.Flags().BoolVar(&all, "all", false, "those that have ended too")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		found, err := c.Locks(ctx, all)
		if err != nil {
			return err
		}
		return list(a, found, "nothing is locked",
			column[client.Lock]{"ID", func(l client.Lock) string { return l.ID }, nil},
			column[client.Lock]{"ON", func(l client.Lock) string { return l.On() }, func(client.Lock) string { return bold }},
			column[client.Lock]{"STATUS", lockStatus, func(l client.Lock) string { return statusColour(lockStatus(l)) }},
			column[client.Lock]{"PLACED", func(l client.Lock) string { return ago(l.Placed) }, nil},
			column[client.Lock]{"BY", func(l client.Lock) string { return l.By }, nil},
			column[client.Lock]{"REASON", func(l client.Lock) string { return l.Reason }, nil})
	})
	return cmd
}

func lockStatus(l client.Lock) string {
	switch {
	case !l.Ended.IsZero():
		return "ended"
	case !l.Expires.IsZero():
		return "expires " + until(l.Expires)
	}
	return "in force"
}

func (a *app) lockShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show ID", Short: "Show a lock, and where it is in force", Args: operands("ID"), ValidArgsFunction: a.completeFirst(lockIDs)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		l, err := c.Lock(ctx, args[0])
		if err != nil {
			return err
		}
		var where []string
		for _, k := range l.Acks {
			where = append(where, fmt.Sprintf("%s (%d cut, after %s)", k.Replica, k.Cut, lockTook(float64(k.At.Sub(l.Placed).Microseconds())/1000)))
		}
		return a.show(l, row("on", l.On()), row("id", l.ID), row("status", lockStatus(l.Lock)), row("reason", l.Reason), row("placed", ago(l.Placed)+" by "+l.By),
			row("in force on", strings.Join(where, ", ")), row("not yet on", strings.Join(l.Silent, ", ")), row("ended by", l.EndedBy), row("because", l.EndReason))
	})
	return cmd
}

func lockTook(ms float64) string {
	return time.Duration(ms * float64(time.Millisecond)).Round(time.Millisecond).String()
}

func (a *app) lockAdd() *cobra.Command {
	var expires string
	var wait time.Duration
	cmd := &cobra.Command{Use: "add KIND [NAME] --reason TEXT", Short: "Stop something at once, calls in flight included", Args: operands("KIND", "[NAME]"), ValidArgs: lockKinds,
		Long: `KIND is agent, owner, team, tool (NAME is CONNECTION/TOOL), connection, credential (a key or token, by identifier), run, or
everything (without a name). New calls are refused and calls in flight are cut on every replica; the command waits until each has said so.`,
		Example: "  countersign lock add connection ledger --reason 'pays twice'\n  countersign lock add tool ledger/pay_invoice --expires-in 2h --reason 'month end'"}
	cmd.Flags().StringVar(&expires, "expires-in", "", "such as 2h or 7d (default: until it is lifted)")
	waitFlag(cmd, &wait)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		spec := client.LockSpec{Kind: args[0], ExpiresIn: expires}
		if len(args) > 1 {
			spec.Name = args[1]
		}
		l, err := c.AddLock(ctx, spec)
		if err != nil {
			return err
		}
		return a.inForce(ctx, c, l, wait)
	})
	return cmd
}

func waitFlag(cmd *cobra.Command, wait *time.Duration) {
	cmd.Flags().DurationVar(wait, "wait", 15*time.Second, "how long to wait until every replica has cut what is in flight")
}

func (a *app) lockRemove() *cobra.Command {
	cmd := &cobra.Command{Use: "remove ID... --reason TEXT", Aliases: []string{"lift"}, Short: "Lift locks", Args: operands("ID..."), ValidArgsFunction: a.complete(lockIDs)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		return a.lift(ctx, c, args)
	})
	return cmd
}

func (a *app) lift(ctx context.Context, c *client.Client, ids []string) error {
	for _, id := range ids {
		l, err := c.LiftLock(ctx, id)
		if err != nil {
			return err
		}
		if err := a.did(l, "lock %s on %s is lifted", l.ID, l.On()); err != nil {
			return err
		}
	}
	return nil
}

// inForce waits until every replica has cut what the lock covers, and says how
// long that took. A replica that does not answer makes the command fail: the
// lock stands, but it is not known what that replica does.
func (a *app) inForce(ctx context.Context, c *client.Client, l client.LockState, wait time.Duration) error {
	deadline := time.Now().Add(wait)
	for len(l.Silent) > 0 && time.Now().Before(deadline) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(25 * time.Millisecond):
		}
		next, err := c.Lock(ctx, l.ID)
		if err != nil {
			return err
		}
		l = next
	}
	if len(l.Silent) > 0 {
		a.warn("the lock %s on %s stands, but these replicas have not said that it is in force there: %s. A replica that cannot see locks refuses new calls within a second and cuts those in flight within 10.",
			l.ID, l.On(), strings.Join(l.Silent, ", "))
		if a.output == "json" {
			_ = a.printJSON(l)
		}
		return exitError{1}
	}
	noun := "calls in flight were"
	if l.Cut == 1 {
		noun = "call in flight was"
	}
	replicas := "replicas"
	if len(l.Acks) == 1 {
		replicas = "replica"
	}
	return a.did(l, "%s is stopped on %d %s: %d %s cut, the last after %s (%s)", l.On(), len(l.Acks), replicas, l.Cut, noun, lockTook(l.Millis), l.ID)
}

func (a *app) stopCommand() *cobra.Command {
	var all, yes bool
	var expires string
	var wait time.Duration
	cmd := &cobra.Command{Use: "stop AGENT|--all --reason TEXT", Short: "Stop an agent, or all calls, at once", Args: operands("[AGENT]"), ValidArgsFunction: a.completeFirst(agentNames),
		Long: `Refuses every new call of the agent and cuts those in flight, on every replica, and prints how long it took until the last one was cut. Owners stop
their own agents; --all needs an operator. countersign resume lets calls go on again; countersign lock stops other things.`,
		Example: "  countersign stop invoice-checker --reason 'pays the wrong people'\n  countersign stop --all --reason 'intrusion under way'"}
	cmd.Flags().BoolVar(&all, "all", false, "stop every call of every agent")
	cmd.Flags().StringVar(&expires, "expires-in", "", "such as 2h or 7d (default: until it is resumed)")
	waitFlag(cmd, &wait)
	yesFlag(cmd, &yes)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		var l client.LockState
		var err error
		switch {
		case all == (len(args) == 1):
			return usageError{fmt.Errorf("name an agent, or say --all: %s", cmd.UseLine())}
		case all:
			if err = a.confirm(yes, "Stop every call of every agent?"); err != nil {
				return err
			}
			l, err = c.AddLock(ctx, client.LockSpec{Kind: "everything", ExpiresIn: expires})
		default:
			l, err = c.LockAgent(ctx, args[0], expires)
		}
		if err != nil {
			return err
		}
		return a.inForce(ctx, c, l, wait)
	})
	return cmd
}

func (a *app) resumeCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{Use: "resume AGENT|--all --reason TEXT", Short: "Let a stopped agent, or all calls, go on", Args: operands("[AGENT]"), ValidArgsFunction: a.completeFirst(agentNames),
		Long: "Lifts the locks on the agent and ends its suspension. With --all: lifts the locks on everything; those on single agents stay."}
	cmd.Flags().BoolVar(&all, "all", false, "lift the locks on everything")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		switch {
		case all == (len(args) == 1):
			return usageError{fmt.Errorf("name an agent, or say --all: %s", cmd.UseLine())}
		case all:
			return a.resumeAll(ctx, c)
		}
		lifted, err := c.UnlockAgent(ctx, args[0])
		if err != nil {
			return err
		}
		x, err := c.Agent(ctx, args[0])
		suspended := err == nil && x.Suspended
		if suspended {
			x, err = c.Resume(ctx, args[0])
		}
		if err != nil {
			return err
		}
		if len(lifted) == 0 && !suspended {
			return fmt.Errorf("agent %s is not stopped: it is %s", x.Name, x.Status)
		}
		return a.did(x, "agent %s may make calls again", x.Name)
	})
	return cmd
}

func (a *app) resumeAll(ctx context.Context, c *client.Client) error {
	found, err := c.Locks(ctx, false)
	if err != nil {
		return err
	}
	var ids []string
	for _, l := range found {
		if l.Kind == "everything" {
			ids = append(ids, l.ID)
		}
	}
	if len(ids) == 0 {
		return a.did(found, "there is no lock on everything")
	}
	return a.lift(ctx, c, ids)
}
