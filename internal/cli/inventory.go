package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) inventoryCommand() *cobra.Command {
	return group("inventory", "Compare what is registered with what was observed, and act on it", a.inventoryDiff(), a.inventoryShow(), a.inventorySetAside(), a.inventoryTakeBack())
}

var inventoryKinds = []string{"agent", "caller", "connection", "tool", "model", "secret", "network", "host"}

// entryIDs completes entries of the difference.
func entryIDs(ctx context.Context, c *client.Client) ([]string, error) {
	d, err := c.InventoryDifference(ctx, client.InventoryQuery{})
	return namesOf(d.Entries, err, func(e client.InventoryEntry) string { return e.ID + "\t" + inert(e.Kind+" "+e.Name, 80) })
}

func (a *app) inventoryDiff() *cobra.Command {
	var q client.InventoryQuery
	var all bool
	cmd := &cobra.Command{Use: "diff", Short: "List what is observed and not registered, or registered and never observed", Args: operands(),
		Long: `What was let through counts for 30 days, what was only refused for 7. The same list is the predicate E1. Each entry says when it was
first and last seen, how often and by whom; "inventory show" has the events and the commands that act on it. What was never observed says since when it is looked for.`,
		Example: "  countersign inventory diff\n  countersign inventory diff --kind caller\n  countersign inventory diff --state unobserved -o json"}
	cmd.Flags().StringVar(&q.Kind, "kind", "", "only "+strings.Join(inventoryKinds, ", "))
	cmd.Flags().StringVar(&q.State, "state", "", "unregistered (observed, not registered) or unobserved (registered, never observed)")
	cmd.Flags().BoolVar(&all, "all", false, "what is set aside too")
	fixed(cmd, "kind", inventoryKinds...)
	fixed(cmd, "state", "unregistered", "unobserved")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		q.Open = !all
		d, err := c.InventoryDifference(ctx, q)
		if err != nil {
			return err
		}
		if err := list(a, d.Entries, "everything that was observed is registered, and everything registered was observed",
			column[client.InventoryEntry]{"ID", func(e client.InventoryEntry) string { return e.ID }, nil},
			column[client.InventoryEntry]{"KIND", func(e client.InventoryEntry) string { return e.Kind }, nil},
			column[client.InventoryEntry]{"NAME", func(e client.InventoryEntry) string { return e.Name }, func(client.InventoryEntry) string { return bold }},
			column[client.InventoryEntry]{"STATE", func(e client.InventoryEntry) string { return e.State }, entryColour},
			column[client.InventoryEntry]{"SEEN", entrySeen, nil},
			column[client.InventoryEntry]{"BY", func(e client.InventoryEntry) string { return strings.Join(e.By, ", ") }, nil},
			column[client.InventoryEntry]{"WHY", func(e client.InventoryEntry) string { return e.Why }, nil}); err != nil {
			return err
		}
		if d.Behind > 0 {
			a.done("%d records of the log are not read yet; ask again in a moment", d.Behind)
		}
		return nil
	})
	return cmd
}

func entryColour(e client.InventoryEntry) string {
	if e.State == "unregistered" && e.Aside == nil {
		return yellow
	}
	return ""
}

func entrySeen(e client.InventoryEntry) string {
	switch {
	case e.State == "unobserved":
		return "never, looked for since " + ago(e.Since)
	case e.Last.IsZero():
		return "offered"
	}
	return fmt.Sprintf("%d times, last %s", e.Times, ago(e.Last))
}

func (a *app) inventoryShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show ID", Short: "Show an entry, its events and the commands that act on it", Args: operands("ID"), ValidArgsFunction: a.completeFirst(entryIDs)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		e, err := c.InventoryEntry(ctx, args[0])
		if err != nil {
			return err
		}
		aside, acts, times, passed := "", make([]string, len(e.Acts)), "", ""
		if e.Aside != nil {
			aside = "until " + e.Aside.Until.Format(time.RFC3339) + " by " + e.Aside.By + ": " + e.Aside.Reason
		}
		for i, x := range e.Acts {
			acts[i] = x.Verb + ": " + x.Command
		}
		if e.Times > 0 && !e.Last.IsZero() {
			times = fmt.Sprintf("%d times, first %s, last %s", e.Times, ago(e.First), ago(e.Last))
		}
		if passed = "never"; !e.Passed.IsZero() {
			passed = ago(e.Passed)
		}
		return a.show(e, row("entry", e.Kind+" "+e.Name), row("id", e.ID), row("state", e.State), row("why", e.Why), row("seen", times), row("let through", passed), row("looked for since", ago(e.Since)),
			row("by", strings.Join(e.By, ", ")), row("first event", e.FirstEvent), row("last event", e.Event), row("set aside", aside), row("act", strings.Join(acts, "\n")))
	})
	return cmd
}

func (a *app) inventorySetAside() *cobra.Command {
	var until string
	cmd := &cobra.Command{Use: "set-aside ID --until TIME --reason TEXT", Short: "Say that an entry is known, until a date", Args: operands("ID"), ValidArgsFunction: a.completeFirst(entryIDs),
		Long: `Until then it is nothing to act on, and E1 passes over it: who said so, until when and why is an event, which E1 names. Doing it again
changes the date. Nothing is set aside for longer than a year.`,
		Example: "  countersign inventory set-aside obs_… --until 30d --reason 'the supplier registers it in December'"}
	cmd.Flags().StringVar(&until, "until", "", "a day (2027-01-31), a time, or how long from now (12h, 30d); needed")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		at, err := muteEnd(until, time.Now())
		if err != nil {
			return err
		}
		e, err := c.SetAside(ctx, args[0], at)
		if err != nil {
			return err
		}
		return a.did(e, "%s %s is set aside until %s", e.Kind, inert(e.Name, 80), at.Format(time.RFC3339))
	})
	return cmd
}

func (a *app) inventoryTakeBack() *cobra.Command {
	cmd := &cobra.Command{Use: "take-back ID --reason TEXT", Short: "End that an entry is set aside", Args: operands("ID"), ValidArgsFunction: a.completeFirst(entryIDs),
		Example: "  countersign inventory take-back obs_… --reason 'it was none of ours'"}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		e, err := c.TakeBack(ctx, args[0])
		if err != nil {
			return err
		}
		return a.did(e, "%s %s is to be acted on", e.Kind, inert(e.Name, 80))
	})
	return cmd
}
