package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) secretRotate() *cobra.Command {
	var leaked bool
	var wait time.Duration
	cmd := &cobra.Command{Use: "rotate NAME", Short: "Replace a secret's value, at the provider and here", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(secretNames),
		Long: `Goes through create, set, test and finish; until finish the former value is in use. It may be repeated and interrupted at any time:
the server goes on by itself. The former value is retired after the overlap; with --leaked at once, and what still uses it is cut.`}
	cmd.Flags().BoolVar(&leaked, "leaked", false, "the value is known to others: retire it at once")
	cmd.Flags().DurationVar(&wait, "wait", 30*time.Second, "how long to wait for the end; 0s: not at all")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		r, err := c.RotateSecret(ctx, args[0], leaked)
		if err != nil {
			return err
		}
		if r, err = a.rotated(ctx, c, r, wait); err != nil {
			return err
		}
		switch r.Step {
		case "done":
			return a.did(r, "secret %s rotated (version %d)", r.Secret, r.Version)
		case "failed":
			return fmt.Errorf("the rotation failed: %s; the value before it is still in use", r.Error)
		}
		if r.Error != "" {
			a.warn("%s; it is tried again %s", r.Error, until(r.NextTry))
		}
		return a.did(r, "rotation of %s is at the step %s and goes on: countersign secret rotations %s", r.Secret, r.Step, r.Secret)
	})
	return cmd
}

// rotated waits until a rotation is at its end, or for so long.
func (a *app) rotated(ctx context.Context, c *client.Client, r client.Rotation, wait time.Duration) (client.Rotation, error) {
	deadline := time.Now().Add(wait)
	for r.Step != "done" && r.Step != "failed" && time.Now().Before(deadline) {
		select {
		case <-ctx.Done():
			return r, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
		all, err := c.Rotations(ctx, r.Secret)
		if err != nil {
			return r, err
		}
		for _, one := range all {
			if one.ID == r.ID {
				r = one
			}
		}
	}
	return r, nil
}

func (a *app) secretRotations() *cobra.Command {
	cmd := &cobra.Command{Use: "rotations NAME", Short: "List the last rotations of a secret", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(secretNames)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		all, err := c.Rotations(ctx, args[0])
		if err != nil {
			return err
		}
		return list(a, all, "no rotations yet: countersign secret rotate "+args[0],
			column[client.Rotation]{"ROTATION", func(r client.Rotation) string { return r.ID }, func(client.Rotation) string { return bold }},
			column[client.Rotation]{"STEP", func(r client.Rotation) string { return r.Step }, func(r client.Rotation) string {
				return statusColour(map[string]string{"done": "ok", "failed": "broken"}[r.Step])
			}},
			column[client.Rotation]{"CAUSE", func(r client.Rotation) string { return r.Cause }, nil},
			column[client.Rotation]{"BY", func(r client.Rotation) string { return r.By.Name }, nil},
			column[client.Rotation]{"STARTED", func(r client.Rotation) string { return ago(r.Started) }, nil},
			column[client.Rotation]{"FAILURES", func(r client.Rotation) string { return fmt.Sprint(r.Attempts) }, nil},
			column[client.Rotation]{"NEXT TRY", func(r client.Rotation) string {
				if r.Step == "done" || r.Step == "failed" {
					return ""
				}
				return until(r.NextTry)
			}, nil},
			column[client.Rotation]{"LAST ERROR", func(r client.Rotation) string { return r.Error }, nil})
	})
	return cmd
}
