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
	var name, token string
	var stdin bool
	cmd := &cobra.Command{
		Use:   "login",
		Short: "Sign in to a server",
		Long: `Signs in with your name and password (or with a token you were given) and keeps the token for later
commands in your configuration directory, readable by you alone.`,
		Example: "  countersign login --url https://countersign.example --user fiona",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().StringVar(&name, "user", "", "your user name")
	cmd.Flags().StringVar(&token, "token", "", "use this token instead of a password")
	cmd.Flags().BoolVar(&stdin, "password-stdin", false, "read the password from standard input")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		url := a.url
		if url == "" {
			url = os.Getenv("COUNTERSIGN_URL")
		}
		if url == "" {
			url = "http://127.0.0.1:7470"
		}
		return a.login(cmd.Context(), strings.TrimRight(url, "/"), name, token, stdin)
	}
	return cmd
}

func (a *app) login(ctx context.Context, url, name, token string, stdin bool) error {
	if token == "" {
		if name == "" {
			return usageError{errors.New("--user is needed (or --token)")}
		}
		password, err := a.password(stdin, "Password: ")
		if err != nil {
			return err
		}
		session, err := client.New(url, "").Login(ctx, name, password)
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
