package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/backup/archive"
)

func (a *app) backupCommand() *cobra.Command {
	return group("backup", "Copy the whole database out, encrypted, and fill an empty one", a.backupCreate(), a.backupVerify(), a.backupRestore(), a.backupResume())
}

// sealing says how a backup is encrypted.
type sealing struct {
	recipients []string
	passphrase string // environment variable; "-" asks
	identity   string // file
}

func (s *sealing) opening(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.identity, "identity", "", "file with the age key that opens it")
	cmd.Flags().StringVar(&s.passphrase, "passphrase-env", "", "environment variable with the passphrase (default: ask, if there is no --identity)")
	cmd.MarkFlagsMutuallyExclusive("identity", "passphrase-env")
}

func (a *app) phrase(s sealing, twice bool) (string, error) {
	if s.passphrase == "" {
		return a.password(twice, "Passphrase of the backup: ")
	}
	v := os.Getenv(s.passphrase)
	if v == "" {
		return "", fmt.Errorf("the environment variable %s is not set", s.passphrase)
	}
	return v, nil
}

// minPhrase is the shortest passphrase that is taken for a new backup.
const minPhrase = 12

func (a *app) identities(s sealing) ([]age.Identity, error) {
	if s.identity != "" {
		return archive.Identities(s.identity)
	}
	text, err := a.phrase(s, false)
	if err != nil {
		return nil, err
	}
	id, err := age.NewScryptIdentity(text)
	if err != nil {
		return nil, err
	}
	return []age.Identity{id}, nil
}

func (a *app) backupCreate() *cobra.Command {
	var s sealing
	var out string
	cmd := &cobra.Command{Use: "create --out FILE", Short: "Take a backup while the server works", Args: operands(),
		Long: `Writes one consistent copy of the whole database, with the keys that open it, as an age file: for the recipients given (age1…, from age-keygen) or
under a passphrase. It is never in plain on a disk. What was written is read back and verified before the command ends well.`,
		Example: "  countersign backup create --out countersign.age --recipient age1... --reason 'nightly'\n  countersign backup create --out countersign.age --passphrase-env BACKUP_PASSPHRASE"}
	cmd.Flags().StringVar(&out, "out", "", "the file to write; it must not exist")
	cmd.Flags().StringSliceVar(&s.recipients, "recipient", nil, "age recipient who can open it (repeatable)")
	cmd.Flags().StringVar(&s.passphrase, "passphrase-env", "", "environment variable with a passphrase instead (default: ask)")
	cmd.MarkFlagsMutuallyExclusive("recipient", "passphrase-env")
	_ = cmd.MarkFlagRequired("out") // it is there
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		phrase := ""
		if len(s.recipients) > 0 {
			if _, err := archive.Recipients(s.recipients); err != nil {
				return usageError{err}
			}
		} else {
			var err error
			if phrase, err = a.phrase(s, true); err != nil {
				return err
			}
			if len(phrase) < minPhrase {
				return fmt.Errorf("the passphrase must have at least %d bytes", minPhrase)
			}
		}
		head, tally, err := writeBackup(ctx, c, out, s.recipients, phrase)
		if err != nil {
			return err
		}
		return a.did(backupResult(head, tally), "%s holds %d rows of %d tables as of %s, verified (SHA-256 %s)", out, tally.Rows, tally.Tables, head.Taken.Format(time.DateTime), tally.SHA256)
	})
	return cmd
}

func backupResult(h archive.Head, t archive.Tally) map[string]any {
	return map[string]any{"taken": h.Taken, "engine": h.Engine, "version": h.Version, "rows": t.Rows, "tables": t.Tables, "sha256": t.SHA256}
}

// writeBackup takes a backup into a file that is there whole and verified, or
// not at all.
func writeBackup(ctx context.Context, c *client.Client, out string, recipients []string, phrase string) (h archive.Head, t archive.Tally, err error) {
	if _, err := os.Lstat(out); err == nil {
		return h, t, fmt.Errorf("%s exists already", out)
	}
	// A key of this command alone: it reads back what it wrote, or encrypts it anew.
	own, err := age.GenerateX25519Identity()
	if err != nil {
		return h, t, err
	}
	in, err := c.Backup(ctx, append([]string{own.Recipient().String()}, recipients...))
	if err != nil {
		return h, t, err
	}
	defer in.Close()
	f, err := os.CreateTemp(filepath.Dir(out), ".backup-*") // mode 0600
	if err != nil {
		return h, t, err
	}
	defer os.Remove(f.Name())
	var key age.Identity = own
	if phrase == "" {
		_, err = io.Copy(f, in)
	} else {
		key, err = reencrypt(f, in, own, phrase)
	}
	if err := errors.Join(err, f.Sync()); err != nil {
		return h, t, errors.Join(err, f.Close())
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return h, t, errors.Join(err, f.Close())
	}
	h, t, err = archive.Read(f, archive.Sink{}, key)
	if err := errors.Join(err, f.Close()); err != nil {
		return h, t, err
	}
	return h, t, os.Link(f.Name(), out) // unlike a rename, it never replaces
}

func reencrypt(w io.Writer, in io.Reader, own age.Identity, phrase string) (age.Identity, error) {
	plain, err := age.Decrypt(in, own)
	if err != nil {
		return nil, err
	}
	to, err := age.NewScryptRecipient(phrase)
	if err != nil {
		return nil, err
	}
	out, err := age.Encrypt(w, to)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(out, plain); err != nil {
		return nil, err
	}
	if err := out.Close(); err != nil {
		return nil, err
	}
	return age.NewScryptIdentity(phrase)
}

func (a *app) backupVerify() *cobra.Command {
	var s sealing
	cmd := &cobra.Command{Use: "verify FILE", Short: "Check that a backup is whole and can be opened", Args: operands("FILE"),
		Long: "Reads it to its end and compares its sum and its number of rows. Needs no server."}
	s.opening(cmd)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		f, err := os.Open(args[0])
		if err != nil {
			return err
		}
		defer f.Close()
		keys, err := a.identities(s)
		if err != nil {
			return err
		}
		h, t, err := archive.Read(f, archive.Sink{}, keys...)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		return a.did(backupResult(h, t), "%s is whole: %d rows of %d tables as of %s, made by version %s on %s", args[0], t.Rows, t.Tables, h.Taken.Format(time.DateTime), h.Version, h.Engine)
	}
	return cmd
}

func (a *app) backupRestore() *cobra.Command {
	var s sealing
	var f upFlags
	cmd := &cobra.Command{Use: "restore FILE", Short: "Fill an empty database from a backup", Args: operands("FILE"),
		Long: `Works without a server, on the database that countersign up with the same flags and configuration would use; it must be empty. The engine may
be another than the backup's. Nothing in it is revoked or rotated, no call is let through and nothing is sealed until a person says
countersign backup resume: the server that the backup is of may still be at work.`}
	s.opening(cmd)
	cmd.Flags().StringVar(&f.config, "config", "", "configuration file (default ./countersign.yaml if there is one)")
	cmd.Flags().StringVar(&f.data, "data", "", "directory for database and keys (default ./countersign-data)")
	cmd.Flags().StringVar(&f.store, "store", "", "database: a file or postgres://…")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := f.load()
		if err != nil {
			return err
		}
		in, err := os.Open(args[0])
		if err != nil {
			return err
		}
		defer in.Close()
		keys, err := a.identities(s)
		if err != nil {
			return err
		}
		h, t, err := a.opts.Restore(cmd.Context(), cfg, in, keys)
		if err != nil {
			return fmt.Errorf("nothing was restored: %w", err)
		}
		return a.did(backupResult(h, t), "restored %d rows as of %s; start the server, make good the stops and revocations since then, and say countersign backup resume", t.Rows, h.Taken.Format(time.DateTime))
	}
	return cmd
}

func (a *app) backupResume() *cobra.Command {
	cmd := &cobra.Command{Use: "resume --reason TEXT", Short: "Let a restored database work", Args: operands(),
		Long: `Lets calls through, seals the log under a new origin and key, and sees to leases and rotations again: leases whose time is over are revoked at their
providers. Be sure that the server that the backup is of has stopped.`}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		all, err := c.ResumeRestored(ctx)
		if err != nil {
			return err
		}
		return a.did(all, "the restored database works; its log goes on under a new origin")
	})
	return cmd
}
