package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) masterKeyCommand() *cobra.Command {
	return group("key", "See the key that seals every secret", a.keyStatus())
}

func (a *app) keyStatus() *cobra.Command {
	cmd := &cobra.Command{Use: "status", Short: "Show which key seals everything, and how far its replacement is", Args: operands()}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		st, err := c.KeyStatus(ctx)
		if err != nil {
			return err
		}
		return a.showKeys(st)
	})
	return cmd
}

func (a *app) showKeys(st client.KeyStatus) error {
	next := ""
	if st.NextKey {
		next = "held here"
	}
	lines := []field{row("key", st.Key), row("in use since", ago(st.Since)), row("next key", next), row("keyset", fmt.Sprintf("generation %d, %d keys", st.Generation, st.Keys))}
	if r := st.Rekey; r != nil {
		lines = append(lines, row("rekey", r.ID+", "+rekeyPhase(r)), row("by", r.By.Name), row("reason", r.Reason), row("started", ago(r.Started)), row("ended", ago(r.Finished)),
			row("sealed anew", fmt.Sprint(r.Resealed)), row("not held by", strings.Join(r.Missing, ", ")), row("waits", r.Error))
	}
	return a.show(st, lines...)
}

func rekeyPhase(r *client.Rekey) string {
	switch r.Phase {
	case "reseal":
		return fmt.Sprintf("sealing values anew, %d left", r.Left)
	case "distribute":
		return "waiting for replicas"
	}
	return r.Phase
}

func (a *app) secretRekey() *cobra.Command {
	var again bool
	var wait time.Duration
	cmd := &cobra.Command{Use: "rekey", Short: "Replace the key that seals every secret", Args: operands(),
		Long: `Makes a new key beside the key file (KEY.next; for a key that is no file, key_next of the configuration), seals every stored value anew
under a new key of the keyset, and when every replica that is there holds the new key, makes it the only one that opens anything. Nothing stops
meanwhile. Interrupted at any time, the server goes on by itself. With several replicas, copy KEY.next to each: countersign key status says to which.`,
		Example: "  countersign secret rekey --reason 'yearly'"}
	cmd.Flags().BoolVar(&again, "again", false, "the next key was lost: go to the one that the server holds now")
	cmd.Flags().DurationVar(&wait, "wait", 30*time.Second, "how long to wait for the end; 0s: not at all")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		st, err := c.Rekey(ctx, again)
		if err != nil {
			return err
		}
		deadline := time.Now().Add(wait)
		for st.Rekey != nil && st.Rekey.Phase != "done" && time.Now().Before(deadline) {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(100 * time.Millisecond):
			}
			if st, err = c.KeyStatus(ctx); err != nil {
				return err
			}
		}
		if st.Rekey != nil && st.Rekey.Phase == "done" {
			return a.did(st, "the key was replaced: %d values sealed anew; the old key opens nothing any more (%s)", st.Rekey.Resealed, st.Rekey.ID)
		}
		a.warn("the rekey goes on: see countersign key status")
		return a.showKeys(st)
	})
	return cmd
}
