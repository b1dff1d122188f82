package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/countersign/countersign/client"
)

func (a *app) secretCommand() *cobra.Command {
	return group("secret", "Keep upstream credentials that agents never see", a.secretList(), a.secretPut(),
		a.remove("delete NAME", "Delete a secret", "secret", "Calls that need it fail from now on.", secretNames, (*client.Client).DeleteSecret))
}

func (a *app) secretList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List secrets, never their values", Args: operands()}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		all, err := c.Secrets(ctx)
		if err != nil {
			return err
		}
		return list(a, all, "no secrets yet: countersign secret put NAME --connection CONNECTION",
			column[client.Secret]{"NAME", func(s client.Secret) string { return s.Name }, func(client.Secret) string { return bold }},
			column[client.Secret]{"CONNECTION", func(s client.Secret) string { return s.Connection }, nil},
			column[client.Secret]{"HOSTS", func(s client.Secret) string { return strings.Join(s.Hosts, ", ") }, nil},
			column[client.Secret]{"OWNER", func(s client.Secret) string { return s.Owner }, nil},
			column[client.Secret]{"STATUS", secretStatus, func(s client.Secret) string { return statusColour(secretStatus(s)) }},
			column[client.Secret]{"AGE", func(s client.Secret) string { return ago(s.Rotated) }, nil},
			column[client.Secret]{"LAST USED", func(s client.Secret) string { return ago(s.LastUsed) }, nil})
	})
	return cmd
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
	cmd.MarkFlagsMutuallyExclusive("from-env", "from-file")
	a.completeFlag(cmd, "connection", connectionNames)
	a.completeFlag(cmd, "owner", userNames)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		spec, err := f.over(ctx, c, cmd, args[0])
		if err != nil {
			return err
		}
		value, err := a.secretValue(f, args[0])
		if err != nil {
			return err
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
func (f secretFlags) over(ctx context.Context, c *client.Client, cmd *cobra.Command, name string) (client.SecretSpec, error) {
	spec := f.spec
	old, err := c.Secret(ctx, name)
	var refused *client.Error
	switch {
	case err == nil:
		if spec.Connection == "" {
			spec.Connection = old.Connection
		}
		if spec.Owner == "" {
			spec.Owner = old.Owner
		}
		if !cmd.Flags().Changed("host") {
			spec.Hosts = old.Hosts
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
