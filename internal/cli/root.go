package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"charm.land/fang/v2"
	"filippo.io/age"
	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/backup/archive"
	"github.com/countersign/countersign/internal/config"
)

// Options is what main gives the command line.
type Options struct {
	Version string
	// Serve runs a server until ctx ends. It calls ready once, with how to
	// reach it, when every door is open.
	Serve func(ctx context.Context, c config.Config, ready func(Ready)) error
	// Restore fills the empty database of c from a backup that keys open.
	Restore func(ctx context.Context, c config.Config, backup io.Reader, keys []age.Identity) (archive.Head, archive.Tally, error)
}

// Ready is what a started server tells the command that started it.
type Ready struct {
	URL        string // of the API and every door
	AdminName  string
	AdminToken string // set at the first start only
}

// app is what every command needs.
type app struct {
	opts   Options
	stdout io.Writer
	stderr io.Writer
	url    string
	output string // table, json
	reason string
}

// exitError makes the process end with a code without printing anything.
type exitError struct{ code int }

func (e exitError) Error() string { return fmt.Sprintf("exit %d", e.code) }

// Main runs the command line and returns the process's exit code: 0 on
// success, 1 on failure, 2 on wrong usage, or the code of the command that
// `run` ran.
func Main(ctx context.Context, opts Options) int {
	a := &app{opts: opts, stdout: os.Stdout, stderr: os.Stderr}
	root := a.root()
	err := fang.Execute(ctx, root, fang.WithVersion(opts.Version), fang.WithoutManpage(),
		fang.WithErrorHandler(func(w io.Writer, _ fang.Styles, err error) { a.printError(w, err) }))
	var exit exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.code
	case wrongUse(err):
		return 2
	}
	return 1
}

// wrongUse reports whether err is about how a command was called. Cobra's own
// errors have no type.
func wrongUse(err error) bool {
	text := err.Error()
	return errors.As(err, new(usageError)) || strings.HasPrefix(text, "unknown command ") || strings.HasPrefix(text, "required flag(s) ") ||
		strings.HasPrefix(text, "if any flags in the group ")
}

type usageError struct{ error }

func (a *app) printError(w io.Writer, err error) {
	var exit exitError
	if errors.As(err, &exit) {
		return
	}
	fmt.Fprintf(w, "%s %s\n", a.paint(a.stderr, red, "error:"), err)
	var e *client.Error
	if errors.As(err, &e) && e.Status == 401 {
		fmt.Fprintln(w, "sign in with: countersign login")
	}
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "countersign",
		Short: "The control plane for production AI",
		Long: `Countersign stands on the way of every call that your AI agents make to models, tools, APIs and
knowledge bases: each is identified, allowed, recorded before it leaves, reversible and provable.

  countersign up --example      start it with an example business, and watch
  countersign log tail          see what your AI is doing
  countersign agent list        see who it is`,
		SilenceUsage: true, SilenceErrors: true,
	}
	f := root.PersistentFlags()
	f.StringVar(&a.url, "url", "", "server to talk to (COUNTERSIGN_URL)")
	f.StringVarP(&a.output, "output", "o", "table", "output: table or json")
	f.StringVar(&a.reason, "reason", "", "why you do this, for the log")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if a.output != "table" && a.output != "json" {
			return usageError{fmt.Errorf("-o %s: the outputs are table and json", a.output)}
		}
		return nil
	}
	root.AddGroup(
		&cobra.Group{ID: "start", Title: "Start"},
		&cobra.Group{ID: "see", Title: "See"},
		&cobra.Group{ID: "decide", Title: "Decide"},
		&cobra.Group{ID: "govern", Title: "Govern"},
	)
	for group, commands := range map[string][]*cobra.Command{
		"start":  {a.upCommand(), a.runCommand(), a.loginCommand(), a.doctorCommand(), a.backupCommand(), a.attackCommand()},
		"see":    {a.logCommand(), a.findingCommand(), a.detectionCommand(), a.incidentCommand(), a.inventoryCommand(), a.postureCommand(), a.evidenceCommand()},
		"decide": {a.approvalsCommand(), a.channelCommand(), a.approveCommand(), a.denyCommand(), a.reviewCommand()},
		"govern": {a.importCommand(), a.applyCommand(), a.diffCommand(), a.exportCommand(), a.userCommand(), a.teamCommand(), a.groupCommand(), a.agentCommand(), a.connectionCommand(), a.knowledgeCommand(), a.toolCommand(), a.grantCommand(), a.policyCommand(), a.secretCommand(), a.masterKeyCommand(),
			a.passkeyCommand(), a.tokenServiceCommand(), a.lockCommand(), a.budgetCommand(), a.releaseCommand(), a.stopCommand(), a.resumeCommand(), a.undoCommand(), a.useCommand()},
	} {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	known := a.endorsementCommand()
	known.GroupID = "decide"
	root.AddCommand(a.exampleCommand(), known)
	rejoin(root)
	return root
}

// broken is how long a line of a help text is at least that was broken in the
// source alone.
const broken = 100

// rejoin makes paragraphs of the help texts of a command and those below it: the
// terminal breaks lines where it ends.
func rejoin(cmd *cobra.Command) {
	lines := strings.Split(cmd.Long, "\n")
	out := []string{lines[0]}
	for i, line := range lines[1:] {
		if len(lines[i]) >= broken && line != "" && line[0] != ' ' {
			out[len(out)-1] += " " + line
			continue
		}
		out = append(out, line)
	}
	cmd.Long = strings.Join(out, "\n")
	for _, c := range cmd.Commands() {
		rejoin(c)
	}
}

// client returns a client of the server the person means.
func (a *app) client() (*client.Client, error) {
	s, err := client.Discover()
	if a.url != "" {
		if err != nil || s.URL != a.url {
			if token := os.Getenv("COUNTERSIGN_TOKEN"); token != "" {
				return client.New(a.url, token).WithReason(a.reason), nil
			}
			return nil, fmt.Errorf("no token for %s: set COUNTERSIGN_TOKEN or run countersign login --url %s", a.url, a.url)
		}
	}
	if err != nil {
		return nil, err
	}
	return client.New(s.URL, s.Token).WithReason(a.reason), nil
}

// call wraps a command's function that needs a client.
func (a *app) call(fn func(ctx context.Context, c *client.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		return fn(cmd.Context(), c, args)
	}
}

// code returns the exit code of a finished child, 1 if it never ran.
func code(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if c := exit.ExitCode(); c >= 0 {
			return c
		}
		return 128
	}
	return 1
}
