package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/config"
)

type upFlags struct {
	config, data, store, listen string
	example, once               bool
}

func (a *app) upCommand() *cobra.Command {
	var f upFlags
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start Countersign here",
		Long: `Starts the server in the foreground. Without configuration it makes ./countersign-data with an embedded
database, its keys (mode 0600) and, the first time, an administrator whose token is printed once and
kept in countersign-data/client.json, where the other commands find it.

With --example it also runs a small company whose AI agents work through Countersign: an assistant that
answers customers, a checker that pays invoices, one that answers colleagues from a handbook, a CI job that makes
releases on a git repository (if git is installed), a scripted model and the systems behind them. No network is needed. With OPENAI_API_KEY or ANTHROPIC_API_KEY set, the real provider answers instead.`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().StringVar(&f.config, "config", "", "configuration file (default ./countersign.yaml if there is one)")
	cmd.Flags().StringVar(&f.data, "data", "", "directory for database and keys (default ./countersign-data)")
	cmd.Flags().StringVar(&f.store, "store", "", "database: a file or postgres://…")
	cmd.Flags().StringVar(&f.listen, "listen", "", "address to listen on (default 127.0.0.1:7470)")
	cmd.Flags().BoolVar(&f.example, "example", false, "run the example business as well")
	cmd.Flags().BoolVar(&f.once, "once", false, "with --example: end after the first scenario")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if f.once && !f.example {
			return usageError{fmt.Errorf("--once needs --example")}
		}
		c, err := f.load()
		if err != nil {
			return err
		}
		return a.up(cmd.Context(), c, f)
	}
	return cmd
}

// load reads the configuration; flags win over the environment and the file.
func (f upFlags) load() (config.Config, error) {
	file := f.config
	if file == "" {
		if _, err := os.Stat("countersign.yaml"); err == nil {
			file = "countersign.yaml"
		}
	}
	environ := os.Environ()
	for key, value := range map[string]string{"DATA": f.data, "STORE": f.store, "LISTEN": f.listen} {
		if value != "" {
			environ = append(environ, "COUNTERSIGN_"+key+"="+value)
		}
	}
	if _, set := os.LookupEnv("COUNTERSIGN_LOG_LEVEL"); f.example && !set {
		environ = append(environ, "COUNTERSIGN_LOG_LEVEL=warn") // the story is on the same screen
	}
	if f.listen != "" { // the address others reach follows --listen, not an inherited variable
		environ = append(environ, "COUNTERSIGN_URL=")
	}
	return config.Load(file, environ)
}

func (a *app) up(ctx context.Context, c config.Config, f upFlags) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var example error
	finished := make(chan struct{})
	close(finished)
	err := a.opts.Serve(ctx, c, func(r Ready) {
		settings, err := a.welcome(c, r)
		if err != nil {
			fmt.Fprintf(a.stderr, "%s %v\n", a.paint(a.stderr, yellow, "warning:"), err)
		}
		if !f.example {
			return
		}
		if settings.Token == "" {
			example = fmt.Errorf("the example needs the administrator's token, and %s does not hold it: start with a fresh --data", filepath.Join(c.Data, client.SettingsFile))
			cancel()
			return
		}
		finished = make(chan struct{})
		go func() {
			defer close(finished)
			example = a.example(ctx, c, settings, f.once)
			if example != nil || f.once {
				cancel()
			}
		}()
	})
	cancel()
	<-finished
	if errors.Is(example, context.Canceled) {
		example = nil // it was interrupted, which is how it ends
	}
	if err != nil {
		return err
	}
	return example
}

// welcome says what is running and keeps the first token for later commands.
func (a *app) welcome(c config.Config, r Ready) (client.Settings, error) {
	file := filepath.Join(c.Data, client.SettingsFile)
	settings := client.Settings{URL: r.URL, Token: r.AdminToken}
	var problem error
	if r.AdminToken != "" {
		problem = settings.Write(file)
	} else if found, err := client.ReadSettings(file); err == nil {
		settings.Token = found.Token
		if found.URL != r.URL {
			problem = settings.Write(file)
		}
	}
	fmt.Fprintf(a.stdout, "%s %s is up at %s\n", a.paint(a.stdout, bold, "Countersign"), a.opts.Version, a.paint(a.stdout, bold, r.URL))
	fmt.Fprintf(a.stdout, "  data   %s\n", c.Data)
	fmt.Fprintf(a.stdout, "  models %s/llm/{connection}   tools %s/mcp   API %s/api/openapi.json\n", r.URL, r.URL, r.URL)
	console := c.AdminListen == "" || c.AdminListen == c.Listen
	if console {
		fmt.Fprintf(a.stdout, "  console %s\n", r.URL)
	}
	if r.AdminToken != "" {
		fmt.Fprintf(a.stdout, "\n  administrator %s, token (shown once, kept in %s):\n  %s\n", r.AdminName, file, a.paint(a.stdout, bold, r.AdminToken))
		if console { // behind the # no server sees it
			fmt.Fprintf(a.stdout, "  sign in: %s/sign-in#%s\n", r.URL, r.AdminToken)
		}
	}
	if host, _, err := net.SplitHostPort(c.Listen); err == nil && !loopback(host) && strings.HasPrefix(r.URL, "http://") {
		fmt.Fprintf(a.stdout, "\n  %s listening beyond this machine without TLS: put a TLS proxy in front and set url\n", a.paint(a.stdout, yellow, "warning:"))
	}
	fmt.Fprintln(a.stdout)
	return settings, problem
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
