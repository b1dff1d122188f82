package cli

import (
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) logProve() *cobra.Command {
	var out string
	cmd := &cobra.Command{Use: "prove EVENT", Short: "Write a proof that an event happened, for anyone to verify", Args: operands("EVENT"),
		Long: `Writes one self-contained file: the event, its inclusion proof, the signed checkpoint and the witnesses' cosignatures. Anyone verifies it
with countersign log verify FILE --key KEY on another machine, or with a verifier of their own (docs/proof-format.md).`,
		Example: "  countersign log prove evt_… --out payment.proof"}
	cmd.Flags().StringVar(&out, "out", "", "file to write (default EVENT.proof; - for standard output)")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if out == "" {
			out = args[0] + ".proof"
		}
		proof, err := a.prove(ctx, c, args[0])
		if err != nil {
			return err
		}
		if out == "-" {
			_, err := fmt.Fprintf(a.stdout, "%s\n", proof)
			return err
		}
		if err := os.WriteFile(out, append(proof, '\n'), 0o600); err != nil {
			return err
		}
		return a.did(struct {
			ID   string `json:"id"`
			File string `json:"file"`
		}{args[0], out}, "%s proves %s; verify it with: countersign log verify %s", out, args[0], out)
	})
	return cmd
}

// prove waits the moment it takes until a fresh event is sealed.
func (a *app) prove(ctx context.Context, c *client.Client, event string) (proof []byte, err error) {
	err = a.waiting("waiting for the next checkpoint", func() error {
		for range 20 {
			proof, err = c.Proof(ctx, event)
			if e, ok := errors.AsType[*client.Error](err); !ok || e.Code != "not_sealed_yet" {
				return err
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(500 * time.Millisecond):
			}
		}
		return err
	})
	return proof, err
}

func (a *app) logKey() *cobra.Command {
	show := &cobra.Command{Use: "show", Short: "Show the log's public keys", Args: operands(),
		Long: "An auditor notes the first key where they find it without us: every later key follows from it by a signed statement."}
	show.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		k, err := c.LogKeys(ctx)
		if err != nil {
			return err
		}
		return a.show(k, row("origin", k.Origin), row("first key", k.First), row("key now", k.Key), row("rotations", fmt.Sprint(len(k.Rotations))))
	})
	rotate := &cobra.Command{Use: "rotate", Short: "Replace the key that signs checkpoints; the old one signs the new", Args: operands()}
	rotate.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		k, err := c.RotateLogKey(ctx)
		if err != nil {
			return err
		}
		return a.did(k, "the log is signed by %s from now on", k.Key)
	})
	return group("key", "See and rotate the key that signs the log", show, rotate)
}

func (a *app) logStatus() *cobra.Command {
	cmd := &cobra.Command{Use: "status", Short: "Show how the sealing of the log goes, and its witnesses", Args: operands()}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		s, err := c.SealStatus(ctx)
		if err != nil {
			return err
		}
		var witnesses []string
		for _, w := range s.Witnesses {
			line := fmt.Sprintf("%s cosigned %d, %s", w.Name, w.Size, ago(w.At))
			if w.Error != "" {
				line += ": " + w.Error
			}
			witnesses = append(witnesses, line)
		}
		return a.show(s, row("origin", s.Origin), row("sealed", fmt.Sprintf("%d events, %s", s.Size, ago(s.Checkpoint))), row("waiting", fmt.Sprint(s.Behind)),
			row("blocked", s.Blocked), row("error", s.Error), row("witnesses", strings.Join(witnesses, "\n")))
	})
	return cmd
}

func (a *app) logAcceptRollback() *cobra.Command {
	cmd := &cobra.Command{Use: "accept-rollback", Short: "Accept what a restored database lost; sealing goes on under a new key", Args: operands(),
		Long: `When the database is older than the newest checkpoint kept beside it, it was restored from a backup or rewritten, and nothing more is sealed.
This accepts the loss, on the record, with --reason: the log goes on under a new origin and key, so that no key ever signs two histories.`}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		s, err := c.AcceptRollback(ctx)
		if err != nil {
			return err
		}
		return a.did(s, "the log goes on as %s", s.Origin)
	})
	return cmd
}

// format returns what a document of ours says it is, "" if it says nothing.
func format(head []byte) string {
	line, _, _ := strings.Cut(string(head), "\n")
	var doc struct {
		Format string `json:"format"`
	}
	if json.Unmarshal([]byte(line), &doc) == nil {
		return doc.Format
	}
	if json.Unmarshal(head, &doc) == nil {
		return doc.Format
	}
	return ""
}
