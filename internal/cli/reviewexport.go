package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/audit/tlog"
)

// mostReview is the largest exported review that is read, in bytes.
const mostReview = 256 << 20

func (a *app) reviewExport() *cobra.Command {
	var out string
	cmd := &cobra.Command{Use: "export REVIEW --out FILE", Short: "Write a review with a proof of every event of it", Args: operands("REVIEW"), ValidArgsFunction: a.completeFirst(reviewNames),
		Long: `Writes one JSON file: what was asked, who decided what and why, what became of it, the probes, and for every event a proof that it is in the log. Anybody verifies it
with countersign review verify FILE --key KEY, without network.`,
		Example: "  countersign review export q4 --out q4.json --reason 'for the auditor'"}
	cmd.Flags().StringVar(&out, "out", "", "the file to write; it must not exist")
	_ = cmd.MarkFlagRequired("out")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		var x client.ExportedReview
		if err := a.waiting("collecting proofs", func() (err error) { x, err = c.ExportReview(ctx, args[0]); return err }); err != nil {
			return err
		}
		b, err := json.Marshal(x, json.Deterministic(true), jsontext.WithIndent("  "))
		if err != nil {
			return err
		}
		f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = f.Write(append(b, '\n'))
		if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
			return errors.Join(err, os.Remove(out))
		}
		return a.did(struct {
			ID     string `json:"id"`
			File   string `json:"file"`
			Proofs int    `json:"proofs"`
		}{x.Review.ID, out, len(x.Proofs)}, "%s holds the review and %d proofs; verify it anywhere with: countersign review verify %s --key KEY", out, len(x.Proofs), out)
	})
	return cmd
}

func (a *app) reviewVerify() *cobra.Command {
	var key string
	cmd := &cobra.Command{Use: "verify FILE", Short: "Verify an exported review without network; exit 1 if it is not what the log says", Args: operands("FILE"),
		Long: "Every decision, handover and probe must be an event that is proven to be in the log, and say the same. Without --key only that the file belongs together is shown."}
	cmd.Flags().StringVar(&key, "key", "", "the log's key, as countersign log key prints it")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		f, err := os.Open(args[0])
		if err != nil {
			return err
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, mostReview))
		if err != nil {
			return err
		}
		var x client.ExportedReview
		if err := json.Unmarshal(b, &x); err != nil || x.Format != "countersign-review-v1" {
			return fmt.Errorf("%s is no exported review", args[0])
		}
		trusted, err := verifyReview(x, key)
		if err != nil {
			return fmt.Errorf("%s is not what the log says: %w", args[0], err)
		}
		if !trusted {
			a.warn("no --key was given: the file belongs together, but who made it is not known")
		}
		return a.did(struct {
			ID       string `json:"id"`
			Verified bool   `json:"verified"`
			Trusted  bool   `json:"trusted"`
			Proofs   int    `json:"proofs"`
		}{x.Review.ID, true, trusted, len(x.Proofs)}, "the review %s is as the log says: %d items, %d events proven", x.Review.Name, len(x.Review.Items), len(x.Proofs))
	}
	return cmd
}

// proven is what is read of an event of a review.
type proven struct {
	ID     string `json:"id"`
	Type   string `json:"type"`
	Object string `json:"object"`
	Agent  string `json:"agent"`
	Reason string `json:"reason"`
	Actor  struct {
		ID   string `json:"id"`
		Name string `json:"name"`
	} `json:"actor"`
	Detail struct {
		Item     string              `json:"item"`
		About    string              `json:"about"`
		Decision string              `json:"decision"`
		Level    int                 `json:"level"`
		Verdicts string              `json:"verdicts"`
		To       client.ReviewPerson `json:"to"`
		Remedied string              `json:"remediation"`
	} `json:"detail"`
}

// verifyReview looks whether the log says everything that a review says.
func verifyReview(x client.ExportedReview, key string) (trusted bool, err error) {
	events := map[string]proven{}
	trusted = true
	for id, file := range x.Proofs {
		shown, err := tlog.VerifyProof([]byte(file), tlog.Trust{Key: key})
		if err != nil {
			return false, fmt.Errorf("the proof of %s does not hold: %w", id, err)
		}
		var ev proven
		if err := json.Unmarshal([]byte(shown.Record), &ev); err != nil && ev.ID == "" || ev.ID != id {
			return false, fmt.Errorf("the proof of %s is of another event", id)
		}
		trusted = trusted && shown.Trusted
		events[id] = ev
	}
	if ev := events[x.Review.Event]; ev.Type != "review.started" || ev.Object != "review/"+x.Review.ID || ev.Actor.Name != x.Review.By.Name {
		return false, errors.New("that it was started is not proven")
	}
	for _, it := range x.Review.Items {
		if err := verifyItem(x.Review, it, events); err != nil {
			return false, fmt.Errorf("item %d: %w", it.N, err)
		}
	}
	if x.Review.State == "closed" {
		return trusted, verifyEnd(x.Review, events)
	}
	return trusted, nil
}

func verifyItem(r client.Review, it client.ReviewItem, events map[string]proven) error {
	for _, id := range it.Events {
		if ev, ok := events[id]; !ok || ev.Object != "review/"+r.ID || id != r.Event && ev.Detail.Item != it.ID {
			return fmt.Errorf("the event %s is not proven, or not about it", id)
		}
	}
	for _, v := range it.Verdicts {
		if ev := events[v.Event]; ev.Type != "review.decided" || ev.Detail.Item != it.ID || ev.Detail.Decision != v.Decision || ev.Detail.Level != v.Level ||
			ev.Actor.Name != v.By.Name || v.By.ID != "" && ev.Actor.ID != v.By.ID || ev.Reason != v.Reason || ev.Detail.About != it.Subject.Kind+"/"+it.Subject.Name {
			return fmt.Errorf("the log does not say that %s decided to %s it", v.By.Name, v.Decision)
		}
	}
	if n := len(it.Verdicts); it.Decision != "" && (n == 0 || it.Verdicts[n-1].Decision != it.Decision) {
		return errors.New("nobody decided what it says was decided")
	}
	for _, h := range it.Handovers {
		if ev := events[h.Event]; ev.Type != "review.delegated" || ev.Detail.Item != it.ID || ev.Detail.To.Name != h.To.Name {
			return fmt.Errorf("the log does not say that it was handed to %s", h.To.Name)
		}
	}
	for _, p := range it.Remedy.Probes {
		if ev := events[p.Event]; p.Result == "refused" && p.Event != "" && (ev.Agent == "" || ev.Type != "call.denied" && ev.Type != "call.refused" && ev.Type != "auth.refused") {
			return fmt.Errorf("the log does not say that the %s was refused", p.What)
		}
	}
	return nil
}

// verifyEnd compares what a closed review came to with what it recorded at its end.
func verifyEnd(r client.Review, events map[string]proven) error {
	came := make([][3]string, len(r.Items))
	for i, it := range r.Items {
		came[i] = [3]string{it.ID, it.Decision, it.Remediation}
	}
	b, err := json.Marshal([]any{came}, json.Deterministic(true))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(b)
	for _, ev := range events {
		if ev.Type == "review.closed" && ev.Object == "review/"+r.ID && ev.Detail.Verdicts == hex.EncodeToString(sum[:]) {
			return nil
		}
	}
	return errors.New("what it came to is not what it recorded when it was closed")
}
