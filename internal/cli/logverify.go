package cli

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/approvals/statement"
	"github.com/countersign/countersign/internal/audit/tlog"
)

type verifyFlags struct {
	key, older string
	witnesses  []string
	quorum     int
	entries    bool
	approvals  string
}

func (a *app) logVerify() *cobra.Command {
	var f verifyFlags
	cmd := &cobra.Command{Use: "verify [FILE|DIR|URL]", Short: "Verify the log, a proof, an export, a tile directory or a live log; exit 1 if anything was changed", Args: operands("[FILE|DIR|URL]"),
		Long: `Without an operand the server walks its own log: every lane's numbering and hash chain, every payload's commitment, and the Merkle tree and its
checkpoints over them. Erased payloads are not errors: their commitments stand.

With an operand nothing is believed but the key, and no server of yours is asked:
  FILE  a proof (log prove) or an export (log export)
  DIR   a directory with checkpoint and tile/ as C2SP tlog-tiles has them
  URL   a live log (http://HOST/log/): its tiles, and with --older that it extends a checkpoint you kept

Give the log's key with --key (countersign log key show, noted earlier): without it a proof or an export is only shown to be coherent.`,
		Example: "  countersign log verify\n  countersign log verify payment.proof --key countersign.example/log+1a2b3c4d+A…\n  countersign log verify http://127.0.0.1:7470/log/ --key … --older checkpoint.old"}
	cmd.Flags().StringVar(&f.key, "key", "", "the log's first key (vkey), or a file with it")
	cmd.Flags().StringVar(&f.older, "older", "", "with URL: a file with a checkpoint kept from before")
	cmd.Flags().StringArrayVar(&f.witnesses, "witness", nil, "key (vkey) of a witness whose cosignature counts; may be repeated")
	cmd.Flags().IntVar(&f.quorum, "quorum", 0, "how many of the witnesses must have cosigned")
	cmd.Flags().BoolVar(&f.entries, "entries", false, "with DIR or URL: check the bundles of entries too")
	cmd.Flags().StringVar(&f.approvals, "approvals-key", "", "with FILE: the key (base64) that signs decisions about held calls; every decision in it must be signed")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return a.call(a.verifyHere)(cmd, args)
		}
		return a.verifyElsewhere(cmd.Context(), args[0], f)
	}
	return cmd
}

// verifyHere has the server verify its own log and tree.
func (a *app) verifyHere(ctx context.Context, c *client.Client, _ []string) error {
	var v client.Verification
	var tree client.TreeVerification
	err := a.waiting("verifying the log", func() (err error) {
		if v, err = c.VerifyLog(ctx); err == nil {
			tree, err = c.VerifyTree(ctx)
		}
		return err
	})
	if err != nil {
		return err
	}
	if a.output == "json" {
		err = a.printJSON(struct {
			client.Verification
			Tree client.TreeVerification `json:"tree"`
		}{v, tree})
	} else {
		a.printVerification(v)
		a.printTree(tree)
	}
	if err == nil && !(v.OK && tree.OK) {
		err = exitError{1}
	}
	return err
}

func (a *app) printTree(v client.TreeVerification) {
	for _, p := range v.Problems {
		fmt.Fprintf(a.stdout, "%s %s\n", a.paint(a.stdout, red, "CHANGED"), inert(p, 0))
	}
	if v.OK {
		a.done("the tree is whole: %d records, %d tiles, %d checkpoints", v.Records, v.Tiles, v.Checkpoints)
	}
}

// verifyElsewhere verifies what somebody handed over, believing only the key.
func (a *app) verifyElsewhere(ctx context.Context, what string, f verifyFlags) error {
	key, err := keyText(f.key)
	if err != nil {
		return err
	}
	trust := tlog.Trust{Key: key, Witnesses: f.witnesses, Quorum: f.quorum}
	decided := 0
	if f.approvals != "" {
		if trust.Record, err = decisionsBy(f.approvals, &decided); err != nil {
			return err
		}
	}
	base, ok := logURL(what)
	info, err := os.Stat(what)
	if f.approvals != "" && (ok || err == nil && info.IsDir()) {
		return usageError{errors.New("--approvals-key needs a proof or an export: tiles are not looked into")}
	}
	if ok {
		return a.verifyLive(ctx, client.New(base, ""), trust, f)
	}
	switch {
	case err != nil:
		return err
	case info.IsDir():
		shown, err := tlog.VerifyTiles(tileDir(what), trust, nil, f.entries, nil)
		return a.verdict(what, shown, err)
	}
	if err := a.verifyFile(what, trust); err != nil || f.approvals == "" || a.output == "json" {
		return err
	}
	if decided == 0 {
		fmt.Fprintf(a.stdout, "%s it holds no decision about a held call, so nothing was checked against --approvals-key\n", a.paint(a.stdout, yellow, "note:"))
		return nil
	}
	a.done("%d decisions about held calls are signed by the approvals key", decided)
	return nil
}

// decisionsBy returns a check of records: a decision about a held call must be
// signed by key, and by the person's passkey where there is one. It counts the
// decisions in n.
func decisionsBy(key string, n *int) (func([]byte) string, error) {
	public, err := base64.StdEncoding.DecodeString(key)
	if err != nil || len(public) != ed25519.PublicKeySize {
		return nil, usageError{errors.New("--approvals-key is not a base64 Ed25519 key")}
	}
	return func(record []byte) string {
		var ev struct {
			Type   string `json:"type"`
			Object string `json:"object"`
			Actor  struct {
				ID string `json:"id"`
			} `json:"actor"`
			Detail jsontext.Value `json:"detail"`
		}
		if err := json.Unmarshal(record, &ev); err != nil {
			return "the record is not an event"
		}
		if statement.Decided[ev.Type] {
			*n++
		}
		return statement.CheckEvent(ev.Type, ev.Object, ev.Actor.ID, ev.Detail, public)
	}, nil
}

// keyText returns the key itself: what is no key is the name of a file with one.
func keyText(key string) (string, error) {
	if key == "" || strings.Count(key, "+") >= 2 {
		return key, nil
	}
	b, err := os.ReadFile(key)
	if err != nil {
		return "", fmt.Errorf("--key is neither a key nor a file with one: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// logURL takes http://HOST or http://HOST/log/ to http://HOST.
func logURL(s string) (string, bool) {
	if !strings.HasPrefix(s, "http://") && !strings.HasPrefix(s, "https://") {
		return "", false
	}
	return strings.TrimSuffix(strings.TrimRight(s, "/"), "/log"), true
}

func (a *app) verifyFile(name string, trust tlog.Trust) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	head := make([]byte, 1<<20)
	n, err := io.ReadFull(file, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	head = head[:n]
	if format(head) != tlog.ExportFormat {
		shown, err := tlog.VerifyProof(head, trust)
		return a.verdict(name, shown, err)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	var shown tlog.Shown
	err = a.waiting("verifying the export", func() (err error) {
		shown, err = tlog.VerifyExport(file, trust, nil)
		return err
	})
	return a.verdict(name, shown, err)
}

// verifyLive verifies a log over HTTP. Rotations come from the server; they
// count only as far as they follow from the key.
func (a *app) verifyLive(ctx context.Context, c *client.Client, trust tlog.Trust, f verifyFlags) error {
	if trust.Key == "" {
		return usageError{errors.New("--key is needed: a live log says of itself what it likes")}
	}
	keys, err := c.LogKeys(ctx)
	if err != nil {
		return err
	}
	fetch := func(path string) ([]byte, error) {
		b, ok, err := c.LogFile(ctx, path)
		if err == nil && !ok {
			err = tlog.ErrAbsent
		}
		return b, err
	}
	var shown tlog.Shown
	err = a.waiting("verifying the log", func() (err error) {
		if f.older == "" {
			shown, err = tlog.VerifyTiles(fetch, trust, keys.Rotations, f.entries, nil)
			return err
		}
		older, err := os.ReadFile(f.older)
		if err == nil {
			_, shown, err = tlog.VerifyServer(fetch, older, trust, keys.Rotations)
		}
		return err
	})
	return a.verdict(c.URL(), shown, err)
}

func tileDir(dir string) tlog.Fetch {
	return func(path string) ([]byte, error) {
		b, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(path)))
		if errors.Is(err, os.ErrNotExist) {
			return nil, tlog.ErrAbsent
		}
		return b, err
	}
}

// verdict says what was shown, or what is wrong and where.
func (a *app) verdict(what string, shown tlog.Shown, err error) error {
	if err != nil {
		if a.output == "json" {
			_ = a.printJSON(map[string]any{"id": what, "ok": false, "problem": err.Error()}) // the exit code says it too
		} else {
			fmt.Fprintf(a.stdout, "%s %s\n", a.paint(a.stdout, red, "NOT PROVEN"), inert(err.Error(), 0))
		}
		return exitError{1}
	}
	if a.output == "json" {
		return a.printJSON(map[string]any{"id": what, "ok": true, "origin": shown.Origin, "size": shown.Size, "root": shown.Root.String(),
			"key": shown.Key, "trusted": shown.Trusted, "cosignatures": len(shown.Cosignatures), "index": shown.Index, "entries": shown.Entries, "payloads": shown.Payloads, "erased": shown.Erased, "record": shown.Record})
	}
	a.done("%s: %d entries checked against the checkpoint of %d signed by %s, %d cosignatures", what, shown.Entries, shown.Size, shown.Key, len(shown.Cosignatures))
	if shown.Payloads+shown.Erased > 0 {
		a.done("%d payloads are what the entries commit to; %d were erased", shown.Payloads, shown.Erased)
	}
	if shown.Record != "" {
		fmt.Fprintf(a.stdout, "record %d: %s\n", shown.Index, inert(shown.Record, 0))
	}
	if !shown.Trusted {
		fmt.Fprintf(a.stdout, "%s it was checked against the key in the file itself: whoever made the file could have made the key. Give the log's key with --key.\n", a.paint(a.stdout, yellow, "note:"))
	}
	return nil
}
