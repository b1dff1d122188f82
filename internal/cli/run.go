package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

type runFlags struct {
	agent, openai, anthropic string
	identity, behalf, scope  string
	ttl                      time.Duration
	quiet, noProxy           bool
	may                      []string
}

func (a *app) runCommand() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run --agent NAME -- COMMAND [ARGUMENT...]",
		Short: "Run a program as an agent, with a short-lived credential",
		Long: `Starts COMMAND with a run token that lives as long as the program (at most --ttl) and with the base
URLs that OpenAI, Anthropic and MCP clients read, so that unmodified programs call through Countersign:

  OPENAI_BASE_URL, OPENAI_API_KEY          the first OpenAI-compatible connection (or --openai)
  ANTHROPIC_BASE_URL, ANTHROPIC_API_KEY    the first Anthropic-compatible connection (or --anthropic)
  COUNTERSIGN_MCP_URL, COUNTERSIGN_TOKEN   every MCP server the agent may use, at one URL
  COUNTERSIGN_HTTP_URL                     the HTTP APIs, at COUNTERSIGN_HTTP_URL/CONNECTION
  HTTPS_PROXY, HTTP_PROXY, NO_PROXY        for everything else: a host of a connection is that connection, no other host is reached
  SSL_CERT_FILE and its like               the certificates to trust, the proxy's among them: docs/http.md says which programs read what
  COUNTERSIGN_RUN                          the run, for countersign log trace
  COUNTERSIGN_RELEASE                      the number of the agent's release that binds it, if one does and you started it

The token is revoked when the program ends. Your own token is not passed on. With --on-behalf-of me the agent acts for you: its calls
are recorded under your name too, policies see you, and what cannot be undone needs --scope 'read write irreversible'.

Who you are does not matter when the program can prove what it is (docs/identities.md): by a token in COUNTERSIGN_ID_TOKEN or the
file COUNTERSIGN_ID_TOKEN_FILE, by GitHub Actions, by a projected Kubernetes token, by SPIFFE. With none of these, and nobody
signed in, this machine makes a key of its own and prints a code; who answers for the agent approves it once:
countersign agent enrol approve CODE.`,
		Example: "  countersign run --agent support-assistant -- python assistant.py",
		Args:    cobra.MinimumNArgs(1),
	}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().StringVar(&f.agent, "agent", "", "the agent to run as")
	cmd.Flags().StringVar(&f.openai, "openai", "", "connection for OPENAI_BASE_URL")
	cmd.Flags().StringVar(&f.anthropic, "anthropic", "", "connection for ANTHROPIC_BASE_URL")
	cmd.Flags().DurationVar(&f.ttl, "ttl", time.Hour, "longest life of the credential (at most 12h)")
	cmd.Flags().StringVar(&f.identity, "identity", "auto", "how to prove it: "+strings.Join(identities, ", "))
	fixed(cmd, "identity", identities...)
	cmd.Flags().StringVar(&f.behalf, "on-behalf-of", "", "a person on whose behalf the agent acts: you (me, or your name), who answer for it")
	cmd.Flags().StringVar(&f.scope, "scope", "", "with --on-behalf-of: what it may do (default: read write)")
	cmd.Flags().StringArrayVar(&f.may, "may", nil, "what the run may do without asking, as 'CONNECTION/TOOL ARG=VALUE...' (repeatable; needs your own credentials and --reason)")
	cmd.Flags().BoolVar(&f.noProxy, "no-proxy", false, "do not set HTTPS_PROXY and the certificate for it")
	cmd.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "do not print the run")
	_ = cmd.MarkFlagRequired("agent")
	_ = cmd.RegisterFlagCompletionFunc("agent", a.complete(agentNames))
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return a.run(cmd.Context(), f, args) }
	return cmd
}

func (a *app) run(ctx context.Context, f runFlags, args []string) error {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return fmt.Errorf("cannot run %q: %w", args[0], err)
	}
	c, b, err := a.begin(ctx, f)
	if err != nil {
		return err
	}
	run := b.run
	defer func() {
		// The program may have ended because ctx did; the token must go all the same.
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := b.end(end); err != nil {
			fmt.Fprintf(a.stderr, "the run token could not be revoked; it expires %s: %v\n", until(run.Expires), err)
		}
	}()
	env, err := runEnvironment(c.URL(), f, b)
	if err != nil {
		return err
	}
	if b.by == byPerson {
		st, err := c.RunRelease(ctx, f.agent, run.Run)
		if err != nil {
			return err
		}
		if st.Binds > 0 {
			env = append(env, "COUNTERSIGN_RELEASE="+strconv.FormatInt(st.Binds, 10))
		}
	}
	if !f.noProxy {
		s, err := proxied(ctx, c, env, run.Token)
		if err != nil {
			return err
		}
		defer s.close()
		env = s.env
	}
	if !f.quiet {
		fmt.Fprintln(a.stderr, a.paint(a.stderr, dim, fmt.Sprintf("countersign: %s as %s, see it with: countersign log trace %s", run.Run, f.agent, run.Run)))
	}
	cmd := exec.Command(path, args[1:]...)
	cmd.Args[0] = args[0]
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, os.Stdin, a.stdout, a.stderr
	if err := supervise(ctx, cmd); err != nil {
		if errors.As(err, new(*exec.ExitError)) {
			return exitError{code(err)}
		}
		return fmt.Errorf("cannot run %q: %w", args[0], err)
	}
	return nil
}

// supervise runs cmd, passes signals on, and ends it with ctx.
func supervise(ctx context.Context, cmd *exec.Cmd) error {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	var kill <-chan time.Time
	stop := ctx.Done()
	for {
		select {
		case err := <-done:
			return err
		case s := <-signals:
			_ = cmd.Process.Signal(s) // it may have ended just now
		case <-stop:
			stop = nil
			_ = cmd.Process.Signal(syscall.SIGTERM)
			kill = time.After(5 * time.Second)
		case <-kill:
			_ = cmd.Process.Kill()
		}
	}
}

// hidden are the variables of the person that a governed program must not
// inherit, beside all of Countersign's own (their token, the store with its
// password, the key): provider keys that would go around the line.
var hidden = []string{"OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL"}

func runEnvironment(base string, f runFlags, b began) ([]string, error) {
	run := b.run
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		// With GitHub's request token the program could prove to be the job anywhere.
		proof := b.by == byGitHub && strings.HasPrefix(name, "ACTIONS_ID_TOKEN_")
		if !strings.HasPrefix(strings.ToUpper(name), "COUNTERSIGN_") && !contains(hidden, name) && !proof {
			env = append(env, kv)
		}
	}
	env = append(env, "COUNTERSIGN_TOKEN="+run.Token, "COUNTERSIGN_RUN="+run.Run, "COUNTERSIGN_MCP_URL="+base+"/mcp", "COUNTERSIGN_HTTP_URL="+base+"/http")
	for _, d := range []struct{ dialect, wanted, base, key, suffix string }{
		{"openai", f.openai, "OPENAI_BASE_URL", "OPENAI_API_KEY", "/v1"},
		{"anthropic", f.anthropic, "ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY", ""},
	} {
		name, err := pick(b.doors, d.dialect, d.wanted)
		if err != nil {
			return nil, err
		}
		if name != "" {
			env = append(env, d.base+"="+base+"/llm/"+name+d.suffix, d.key+"="+run.Token)
		}
	}
	return env, nil
}

// pick returns the wanted connection, or the first of the dialect by name.
func pick(connections []client.Door, dialect, wanted string) (string, error) {
	for _, c := range connections {
		if c.Dialect == dialect && (wanted == "" || c.Name == wanted) {
			return c.Name, nil
		}
	}
	if wanted != "" {
		return "", fmt.Errorf("no %s connection is named %q: see countersign connection list", dialect, wanted)
	}
	return "", nil
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}
