package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/countersign/countersign/client"
)

func (a *app) loginCommand() *cobra.Command {
	var in loginFlags
	cmd := &cobra.Command{
		Use:   "login",
		Short: "Sign in to a server",
		Long: `Signs in at your organisation's identity provider if the server has one, in your browser or, with --device, on another
machine; else with your name and password, or with a token you were given. The token is kept for later commands in your
configuration directory, readable by you alone.`,
		Example: "  countersign login --url https://countersign.example --user fiona",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().StringVar(&in.name, "user", "", "your user name: sign in with its password")
	cmd.Flags().StringVar(&in.token, "token", "", "use this token instead of a password")
	cmd.Flags().BoolVar(&in.stdin, "password-stdin", false, "read the password from standard input")
	cmd.Flags().BoolVar(&in.device, "device", false, "approve it on another device, for a machine without a browser")
	cmd.Flags().BoolVar(&in.quiet, "no-browser", false, "print the address instead of opening a browser")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		url := a.url
		if url == "" {
			url = os.Getenv("COUNTERSIGN_URL")
		}
		if url == "" {
			url = "http://127.0.0.1:7470"
		}
		return a.login(cmd.Context(), strings.TrimRight(url, "/"), in)
	}
	return cmd
}

type loginFlags struct {
	name, token          string
	stdin, device, quiet bool
}

// session gets a session in the way the flags say.
func (a *app) session(ctx context.Context, c *client.Client, in loginFlags) (client.Session, error) {
	if in.name != "" {
		password, err := a.password(in.stdin, "Password: ")
		if err != nil {
			return client.Session{}, err
		}
		return c.Login(ctx, in.name, password)
	}
	methods, err := c.Methods(ctx)
	switch {
	case err != nil:
		return client.Session{}, err
	case methods.OIDC == nil:
		return client.Session{}, usageError{errors.New("--user is needed (or --token): this server has no identity provider")}
	case in.device:
		return a.deviceLogin(ctx, c)
	}
	return a.browserLogin(ctx, c, !in.quiet)
}

func (a *app) login(ctx context.Context, url string, in loginFlags) error {
	token := in.token
	if token == "" {
		session, err := a.session(ctx, client.New(url, ""), in)
		if err != nil {
			return err
		}
		token = session.Token
	}
	me, err := client.New(url, token).Me(ctx)
	if err != nil {
		return err
	}
	file, err := client.UserFile()
	if err != nil {
		return err
	}
	if err := (client.Settings{URL: url, Token: token}).Write(file); err != nil {
		return err
	}
	a.done("signed in to %s as %s (%s)", url, me.Name, me.Role)
	return nil
}

// password asks on the terminal without echo, or reads one line of standard input.
func (a *app) password(stdin bool, prompt string) (string, error) {
	if stdin || !term.IsTerminal(int(os.Stdin.Fd())) {
		return readLine(os.Stdin)
	}
	fmt.Fprint(a.stderr, prompt)
	b, err := term.ReadPassword(int(os.Stdin.Fd()))
	fmt.Fprintln(a.stderr)
	return string(b), err
}

// readLine reads one line of at most 64 KiB, byte by byte so that the rest
// stays for whoever reads next.
func readLine(f *os.File) (string, error) {
	var sb strings.Builder
	b := make([]byte, 1)
	for sb.Len() < 64<<10 {
		n, err := f.Read(b)
		if n == 1 && b[0] == '\n' || err != nil {
			break
		}
		sb.Write(b[:n])
	}
	line := strings.TrimSuffix(sb.String(), "\r")
	if line == "" {
		return "", errors.New("nothing was given on standard input")
	}
	return line, nil
}
