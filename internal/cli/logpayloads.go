package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) logErase() *cobra.Command {
	var what client.Erasure
	var yes bool
	cmd := &cobra.Command{Use: "erase --subject S | --agent NAME | --run RUN", Short: "Erase the prompts, answers, arguments and results of a person, an agent or a run", Args: operands(),
		Long: `Destroys the key under which the payloads are encrypted (or, of a run, the payloads): nobody reads them again, from a backup of the database
neither. The events stay, with who erased what and why, and the log still verifies. A legal hold prevents it. The reason stays in the log: do not
name the person in it.`,
		Example: "  countersign log erase --subject jonas.weber@mail.example --reason 'request 118'"}
	cmd.Flags().StringVar(&what.Subject, "subject", "", "the person the payloads are about, as the gateway was told")
	cmd.Flags().StringVar(&what.Agent, "agent", "", "an agent")
	cmd.Flags().StringVar(&what.Run, "run", "", "a run")
	yesFlag(cmd, &yes)
	a.completeFlag(cmd, "agent", agentNames)
	cmd.MarkFlagsOneRequired("subject", "agent", "run")
	cmd.MarkFlagsMutuallyExclusive("subject", "agent", "run")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		if err := a.confirm(yes, "Erase for ever what the log holds of %s%s%s?", what.Subject, what.Agent, what.Run); err != nil {
			return err
		}
		var done client.Erased
		err := a.waiting("erasing", func() (err error) {
			done, err = c.Erase(ctx, what)
			return err
		})
		if err != nil {
			return err
		}
		return a.did(struct {
			ID string `json:"id"`
			client.Erased
		}{done.Event, done}, "%d keys destroyed, %d payloads erased, recorded as %s", done.Keys, done.Payloads, done.Event)
	})
	return cmd
}

func (a *app) logHold() *cobra.Command {
	return group("hold", "Keep payloads from being erased and from expiring (legal hold)", a.holdList(), a.holdPlace(), a.holdRelease())
}

func (a *app) holdList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the holds that stand", Args: operands()}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		holds, err := c.Holds(ctx)
		if err != nil {
			return err
		}
		return list(a, holds, "no holds; place one with: countersign log hold place --agent NAME --reason ...",
			column[client.Hold]{title: "HOLD", text: func(h client.Hold) string { return h.ID }},
			column[client.Hold]{title: "COVERS", text: covers},
			column[client.Hold]{title: "PLACED", text: func(h client.Hold) string { return h.By + ", " + ago(h.Placed) }},
			column[client.Hold]{title: "REASON", text: func(h client.Hold) string { return h.Reason }})
	})
	return cmd
}

func covers(h client.Hold) string {
	text := "everything"
	switch {
	case h.Agent != "":
		text = "agent " + h.Agent
	case h.Run != "":
		text = "run " + h.Run
	}
	if !h.From.IsZero() {
		text += " from " + h.From.Format(time.DateOnly)
	}
	if !h.To.IsZero() {
		text += " to " + h.To.Format(time.DateOnly)
	}
	return text
}

func (a *app) holdPlace() *cobra.Command {
	var spec client.HoldSpec
	var from, to string
	cmd := &cobra.Command{Use: "place", Short: "Place a hold on an agent, a run or a time", Args: operands(),
		Example: "  countersign log hold place --agent invoice-checker --from 2026-10-01 --reason 'case 7'"}
	cmd.Flags().StringVar(&spec.Agent, "agent", "", "what this agent did")
	cmd.Flags().StringVar(&spec.Run, "run", "", "what happened in this run")
	cmd.Flags().StringVar(&from, "from", "", "from this day or time on (2026-10-01 or RFC 3339)")
	cmd.Flags().StringVar(&to, "to", "", "up to this day or time, which is not included")
	a.completeFlag(cmd, "agent", agentNames)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) (err error) {
		if spec.From, err = day("--from", from); err != nil {
			return err
		}
		if spec.To, err = day("--to", to); err != nil {
			return err
		}
		h, err := c.PlaceHold(ctx, spec)
		if err != nil {
			return err
		}
		return a.did(h, "hold %s on %s", h.ID, covers(h))
	})
	return cmd
}

// day reads a date or a time; empty is the zero time.
func day(flag, s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usageError{fmt.Errorf("%s: %q is neither a day such as 2026-10-01 nor a time such as 2026-10-01T08:00:00Z", flag, s)}
}

func (a *app) holdRelease() *cobra.Command {
	cmd := &cobra.Command{Use: "release HOLD", Short: "End a hold", Args: operands("HOLD")}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if err := c.ReleaseHold(ctx, args[0]); err != nil {
			return err
		}
		return a.did(struct {
			ID string `json:"id"`
		}{args[0]}, "hold %s released", args[0])
	})
	return cmd
}

func (a *app) logRetention() *cobra.Command {
	cmd := &cobra.Command{Use: "retention [DAYS]", Short: "Show or change how long payloads are kept", Args: operands("[DAYS]"),
		Long: "Payloads older than this are erased, a little at a time, on the record; events stay for ever. Fewer days than the floor need a reason and open a finding."}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		r, err := c.Retention(ctx)
		if len(args) == 1 {
			var days int
			if days, err = strconv.Atoi(args[0]); err != nil || days < 1 {
				return usageError{errors.New("DAYS must be a whole number of days")}
			}
			r, err = c.SetRetention(ctx, days)
		}
		if err != nil {
			return err
		}
		return a.show(r, row("kept", fmt.Sprintf("%d days", r.Days)), row("floor", fmt.Sprintf("%d days", r.Floor)))
	})
	return cmd
}
