package cli

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/posture/bundle"
)

func (a *app) evidenceCommand() *cobra.Command {
	return group("evidence", "Take evidence out as one signed bundle, and verify one", a.evidenceExport(), a.evidenceVerify())
}

func (a *app) evidenceExport() *cobra.Command {
	var out string
	cmd := &cobra.Command{Use: "export --out FILE", Short: "Write the newest evidence as one signed bundle", Args: operands(),
		Long: `Writes a tar archive: a report for people (HTML), OSCAL 1.2 assessment results, OCSF compliance findings, a CycloneDX inventory, everything as JSON,
and the proofs that each result is in the log. Anybody verifies it with countersign evidence verify FILE --key KEY, without network and without us. What was
not computed yet is not in it; run countersign posture run first.`,
		Example: "  countersign evidence export --out evidence.tar --reason 'for the audit of March'"}
	cmd.Flags().StringVar(&out, "out", "", "the file to write; it must not exist")
	_ = cmd.MarkFlagRequired("out")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		var n int64
		if err := a.waiting("collecting evidence and its proofs", func() (err error) {
			body, err := c.ExportEvidence(ctx)
			if err != nil {
				return err
			}
			n, err = writeNew(out, body)
			return err
		}); err != nil {
			return err
		}
		return a.did(struct {
			ID    string `json:"id"`
			File  string `json:"file"`
			Bytes int64  `json:"bytes"`
		}{out, out, n}, "%s holds the evidence; verify it anywhere with: countersign evidence verify %s --key KEY", out, out)
	})
	return cmd
}

func (a *app) evidenceVerify() *cobra.Command {
	var key string
	cmd := &cobra.Command{Use: "verify FILE", Short: "Verify a bundle of evidence without network; exit 1 if a byte was changed", Args: operands("FILE"),
		Long: `Asks no server. By the log's public key (countersign log key show, noted earlier) it shows which key signs evidence, that no byte of the bundle was
changed, and that each result is the one whose digest its run recorded in the log. What was changed is named with its place. Without --key the bundle is only
shown to belong together.`,
		Example: "  countersign evidence verify evidence.tar --key countersign.example/log+1a2b3c4d+A…"}
	cmd.Flags().StringVar(&key, "key", "", "the log's first key (vkey), or a file with it")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		trusted, err := keyText(key)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(args[0])
		if err != nil {
			return err
		}
		s, err := bundle.Verify(b, trusted)
		if err != nil {
			return fmt.Errorf("%s is not what was exported: %w", args[0], err)
		}
		trust := "the key you gave"
		if !s.Trusted {
			trust = "its own key: give --key to know whose it is"
		}
		return a.show(s, painted("verified", args[0], green), row("log", s.Origin+", by "+trust), row("exported", s.Exported.Format("2006-01-02 15:04 UTC")),
			row("files", fmt.Sprint(len(s.Files))), row("results", fmt.Sprintf("%d, each in the log: %s", s.Evidence, counts(s.Results))))
	}
	return cmd
}
