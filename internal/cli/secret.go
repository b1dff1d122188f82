package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/countersign/countersign/client"
)

func (a *app) secretCommand() *cobra.Command {
	return group("secret", "Keep upstream credentials that agents never see", a.secretList(), a.secretPut(), a.secretVersions(), a.secretRollback(),
		a.secretRotate(), a.secretRotations(), a.secretLeases(), a.secretRevoke(),
		a.remove("delete NAME", "Delete a secret", "secret", "Calls that need it fail from now on.", secretNames, (*client.Client).DeleteSecret),
		a.secretReport(), a.canaryCommand(), a.secretRekey())
}

func (a *app) secretList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List secrets, never their values", Args: operands()}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		all, err := c.Secrets(ctx)
		if err != nil {
			return err
		}
		inv, err := c.Inventory(ctx)
		if err != nil {
			return err
		}
		for i := range all {
			all[i].Inventory = inventoryOf(inv.Secrets, all[i].Name)
		}
		return list(a, all, "no secrets yet: countersign secret put NAME --connection CONNECTION",
			column[client.Secret]{"NAME", func(s client.Secret) string { return s.Name }, func(client.Secret) string { return bold }},
			column[client.Secret]{"CONNECTION", func(s client.Secret) string { return s.Connection }, nil},
			column[client.Secret]{"KIND", secretKind, nil},
			column[client.Secret]{"HOSTS", func(s client.Secret) string { return strings.Join(s.Hosts, ", ") }, nil},
			column[client.Secret]{"OWNER", func(s client.Secret) string { return s.Owner }, nil},
			column[client.Secret]{"STATUS", secretStatus, func(s client.Secret) string { return statusColour(secretStatus(s)) }},
			column[client.Secret]{"VERSION", func(s client.Secret) string { return strconv.FormatInt(s.Version, 10) }, nil},
			column[client.Secret]{"AGE", func(s client.Secret) string { return ago(s.Rotated) }, nil},
			column[client.Secret]{"ROTATED", func(s client.Secret) string { return ago(s.LastRotation) }, nil},
			column[client.Secret]{"NEXT", func(s client.Secret) string { return until(s.NextRotation) }, nil},
			column[client.Secret]{"LEASES", leaseCount, func(s client.Secret) string {
				if s.Zombies > 0 {
					return red
				}
				return ""
			}},
			column[client.Secret]{"LAST USED", func(s client.Secret) string { return ago(s.LastUsed) }, nil},
			column[client.Secret]{"REACH", func(s client.Secret) string { return reachText(s.Inventory) }, func(s client.Secret) string { return reachColour(s.Inventory) }},
			column[client.Secret]{"FINDINGS", func(s client.Secret) string { return foundText(s.Inventory) }, func(s client.Secret) string { return foundColour(s.Inventory) }})
	})
	return cmd
}

func secretKind(s client.Secret) string {
	if s.Source != "" {
		scheme, _, _ := strings.Cut(s.Source, "://")
		return s.Kind + " in " + scheme
	}
	return s.Kind
}

func leaseCount(s client.Secret) string {
	switch {
	case s.Zombies > 0:
		return fmt.Sprintf("%d, %d not revoked", s.Leases, s.Zombies)
	case s.Leases > 0:
		return strconv.Itoa(s.Leases)
	}
	return ""
}

func secretStatus(s client.Secret) string {
	if s.Broken {
		return "broken"
	}
	return "ok"
}

type secretFlags struct {
	spec              client.SecretSpec
	fromEnv, fromFile string
	set, rotate       []string
	there             bool // the secret exists
}

func (a *app) secretPut() *cobra.Command {
	var f secretFlags
	cmd := &cobra.Command{Use: "put NAME", Short: "Create, rotate or change a secret", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(secretNames),
		Long: `Takes the value from --from-env, from --from-file, or from standard input (asked for without echo on a terminal), never from the
command line, where others on this machine could read it. For a secret that is there, what is not given stays.`,
		Example: `  countersign secret put openai-key --connection openai --host api.openai.com --from-env OPENAI_API_KEY
  vault read -field=token ... | countersign secret put helpdesk-token --connection helpdesk`}
	fl := cmd.Flags()
	fl.StringVar(&f.spec.Connection, "connection", "", "the only connection it is used for")
	fl.StringVar(&f.spec.Owner, "owner", "", "user who answers for it (default: you)")
	fl.StringSliceVar(&f.spec.Hosts, "host", nil, "HOST or HOST:PORT it may be sent to (repeatable; default: wherever the connection points)")
	fl.StringVar(&f.fromEnv, "from-env", "", "environment variable that holds the value")
	fl.StringVar(&f.fromFile, "from-file", "", "file that holds the value; one line feed at its end is not part of it")
	fl.StringVar(&f.spec.Kind, "kind", "", "what is made of it: value (sent as it is), oauth, github-app, federated, postgres")
	fl.StringArrayVar(&f.set, "set", nil, "KEY=VALUE setting of the kind (repeatable; replaces all)")
	fl.StringVar(&f.spec.Source, "source", "", "where the value is kept instead of here: env://NAME, file://NAME, vault://MOUNT/PATH#FIELD")
	fl.StringArrayVar(&f.rotate, "rotate", nil, "KEY=VALUE of its rotation, such as by=postgres and every=30d (repeatable; replaces all; by= ends it)")
	cmd.MarkFlagsMutuallyExclusive("from-env", "from-file", "source")
	a.completeFlag(cmd, "connection", connectionNames)
	a.completeFlag(cmd, "owner", userNames)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		spec, err := f.over(ctx, c, cmd, args[0])
		if err != nil {
			return err
		}
		value := ""
		if f.valued(spec) {
			if value, err = a.secretValue(f, args[0]); err != nil {
				return err
			}
		}
		s, changed, err := c.PutSecret(ctx, args[0], spec, value)
		if err != nil {
			return err
		}
		if !changed {
			return a.did(s, "secret %s was like this already", s.Name)
		}
		return a.did(s, "secret %s sealed (version %d); it is sent with calls to %s only", s.Name, s.Version, s.Connection)
	})
	return cmd
}

// over completes what was given with what is there, and with the caller.
func (f *secretFlags) over(ctx context.Context, c *client.Client, cmd *cobra.Command, name string) (client.SecretSpec, error) {
	spec := f.spec
	var err error
	if spec.Settings, err = labels(f.set); err != nil {
		return spec, err
	}
	if spec.Rotation, err = labels(f.rotate); err != nil {
		return spec, err
	}
	if len(spec.Rotation) == 1 && spec.Rotation["by"] == "" {
		spec.Rotation = nil
	}
	old, err := c.Secret(ctx, name)
	var refused *client.Error
	switch {
	case err == nil:
		f.there = true
		if spec.Connection == "" {
			spec.Connection = old.Connection
		}
		if spec.Owner == "" {
			spec.Owner = old.Owner
		}
		if !cmd.Flags().Changed("host") {
			spec.Hosts = old.Hosts
		}
		if !cmd.Flags().Changed("kind") {
			spec.Kind = old.Kind
		}
		if !cmd.Flags().Changed("source") && f.fromEnv == "" && f.fromFile == "" {
			spec.Source = old.Source
		}
		if f.set == nil && spec.Kind == old.Kind {
			spec.Settings = old.Settings
		}
		if f.rotate == nil {
			spec.Rotation = old.Rotation
		}
		return spec, nil
	case !errors.As(err, &refused) || refused.Status != 404:
		return spec, err
	case spec.Connection == "":
		return spec, usageError{fmt.Errorf("--connection is needed for a new secret: the only connection it is used for")}
	}
	if spec.Owner == "" {
		me, err := c.Me(ctx)
		if err != nil {
			return spec, err
		}
		spec.Owner = me.Name
	}
	return spec, nil
}

// valued reports whether a value is asked for: not for one that is kept
// elsewhere or is none, nor when settings of a secret that is there are given.
func (f secretFlags) valued(spec client.SecretSpec) bool {
	switch {
	case f.fromEnv != "" || f.fromFile != "":
		return true
	case spec.Source != "" || spec.Kind == "federated":
		return false
	}
	return !(f.there && (f.set != nil || f.rotate != nil))
}

func (a *app) secretVersions() *cobra.Command {
	cmd := &cobra.Command{Use: "versions NAME", Short: "List the versions of a secret: pending, current, previous", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(secretNames)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		all, err := c.SecretVersions(ctx, args[0])
		if err != nil {
			return err
		}
		return list(a, all, "no versions",
			column[client.SecretVersion]{"VERSION", func(v client.SecretVersion) string { return strconv.FormatInt(v.Version, 10) }, func(client.SecretVersion) string { return bold }},
			column[client.SecretVersion]{"STATE", func(v client.SecretVersion) string { return v.State }, nil},
			column[client.SecretVersion]{"AGE", func(v client.SecretVersion) string { return ago(v.Created) }, nil},
			column[client.SecretVersion]{"ROTATION", func(v client.SecretVersion) string { return v.Rotation }, nil},
			column[client.SecretVersion]{"AT THE PROVIDER", func(v client.SecretVersion) string { return v.Ref }, nil})
	})
	return cmd
}

func (a *app) secretRollback() *cobra.Command {
	cmd := &cobra.Command{Use: "rollback NAME", Short: "Make the previous version of a secret the current one", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(secretNames),
		Long: "The current version becomes the previous one, so that a second rollback undoes the first. A rotation that is under way is given up."}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		s, err := c.RollbackSecret(ctx, args[0])
		if err != nil {
			return err
		}
		return a.did(s, "secret %s is version %d again", s.Name, s.Version)
	})
	return cmd
}

// maxSecret is the longest value the server takes, in bytes.
const maxSecret = 64 << 10

func (a *app) secretValue(f secretFlags, name string) (string, error) {
	switch {
	case f.fromEnv != "":
		v, ok := os.LookupEnv(f.fromEnv)
		if !ok || v == "" {
			return "", fmt.Errorf("the environment variable %s is not set", f.fromEnv)
		}
		return v, nil
	case f.fromFile != "":
		return readSecretFile(f.fromFile)
	case term.IsTerminal(int(os.Stdin.Fd())):
		return a.password(false, "Value of "+name+": ")
	}
	return readSecret(os.Stdin, "standard input")
}

func readSecretFile(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	return readSecret(file, path)
}

// readSecret reads a value, without one line feed at its end.
func readSecret(r io.Reader, from string) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxSecret+2))
	if err != nil {
		return "", fmt.Errorf("%s: %w", from, err)
	}
	b = bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
	switch {
	case len(b) == 0:
		return "", fmt.Errorf("%s holds no value", from)
	case len(b) > maxSecret:
		return "", fmt.Errorf("%s holds more than %d bytes", from, maxSecret)
	}
	return string(b), nil
}
