package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/countersign/countersign/client"
)

// group makes a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usageError{fmt.Errorf("%q is no command of %s: see %s --help", args[0], cmd.CommandPath(), cmd.CommandPath())}
		}
		return cmd.Help()
	}
	cmd.AddCommand(commands...)
	return cmd
}

// operands checks the number of arguments: as many as names, those in brackets
// being optional, and any number if the last ends in "...".
func operands(names ...string) cobra.PositionalArgs {
	least, most := 0, len(names)
	for _, n := range names {
		if strings.HasSuffix(n, "...") || strings.HasSuffix(n, "...]") {
			most = 1 << 30
		}
		if !strings.HasPrefix(n, "[") {
			least++
		}
	}
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usageError{fmt.Errorf("%s is missing: %s", names[len(args)], cmd.UseLine())}
		case len(args) > most:
			return usageError{fmt.Errorf("%q is one argument too many: %s", args[most], cmd.UseLine())}
		}
		return nil
	}
}

// names lists what an argument could be, each with an optional description
// after a tab.
type names func(context.Context, *client.Client) ([]string, error)

// complete completes flags and arguments with names from the server. It stays
// silent when there is none.
func (a *app) complete(list names) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		c, err := a.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
		defer cancel()
		all, err := list(ctx, c)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var found []string
		for _, n := range all {
			if name, says, described := strings.Cut(n, "\t"); strings.HasPrefix(name, toComplete) {
				name = inert(name, 0)
				if described {
					name += "\t" + inert(says, 60)
				}
				found = append(found, name)
			}
		}
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeFirst completes the first argument only.
func (a *app) completeFirst(list names) cobra.CompletionFunc {
	all := a.complete(list)
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return all(cmd, args, toComplete)
	}
}

// completeInTurn completes each argument with names that may depend on those
// before it.
func (a *app) completeInTurn(lists ...func(before []string) names) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(lists) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.complete(lists[len(args)](args))(cmd, args, toComplete)
	}
}

// whatever stands before, an argument is one of list.
func whatever(list names) func([]string) names { return func([]string) names { return list } }

// words are what an argument can be, known here.
func words(all ...string) func([]string) names {
	return whatever(func(context.Context, *client.Client) ([]string, error) { return all, nil })
}

// completeFlag completes a flag's value with names from the server.
func (a *app) completeFlag(cmd *cobra.Command, flag string, list names) {
	_ = cmd.RegisterFlagCompletionFunc(flag, a.complete(list)) // fails only for a flag that is not there
}

func fixed(cmd *cobra.Command, flag string, values ...string) {
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

func namesOf[T any](list []T, err error, name func(T) string) ([]string, error) {
	out := make([]string, 0, len(list))
	for _, one := range list {
		out = append(out, name(one))
	}
	return out, err
}

func agentNames(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Agents(ctx)
	return namesOf(l, err, func(a client.Agent) string { return a.Name })
}

func userNames(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Users(ctx)
	return namesOf(l, err, func(u client.User) string { return u.Name })
}

func teamNames(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Teams(ctx)
	return namesOf(l, err, func(t client.Team) string { return t.Name })
}

func connectionNames(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Connections(ctx)
	return namesOf(l, err, func(x client.Connection) string { return x.Name })
}

func toolNames(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Tools(ctx, client.ToolQuery{})
	return namesOf(l, err, func(t client.Tool) string { return t.Connection + "/" + t.Name })
}

func grantNames(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Grants(ctx, "")
	return namesOf(l, err, func(g client.Grant) string { return g.Name })
}

func policyNames(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Policies(ctx)
	return namesOf(l, err, func(p client.Policy) string { return p.Name })
}

func secretNames(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Secrets(ctx)
	return namesOf(l, err, func(s client.Secret) string { return s.Name })
}

func findingIDs(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Findings(ctx, client.FindingQuery{Status: "open"})
	return namesOf(l, err, func(f client.Finding) string { return f.ID + "\t" + f.Title })
}

// errNotConfirmed reports that the person said no.
var errNotConfirmed = errors.New("nothing was changed")

// yesFlag adds --yes to a destructive command.
func yesFlag(cmd *cobra.Command, yes *bool) {
	cmd.Flags().BoolVarP(yes, "yes", "y", false, "do not ask")
}

// confirm asks a person on a terminal. Without a terminal there is nobody to ask.
func (a *app) confirm(yes bool, format string, args ...any) error {
	if yes || !term.IsTerminal(int(os.Stdin.Fd())) || !term.IsTerminal(int(os.Stderr.Fd())) {
		return nil
	}
	fmt.Fprintf(a.stderr, "%s [y/N] ", inert(fmt.Sprintf(format, args...), 0))
	answer, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil {
		return errNotConfirmed
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return errNotConfirmed
}

// waiting runs fn and says on standard error what is being waited for when it
// takes more than a second.
func (a *app) waiting(what string, fn func() error) error {
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		a.patience(what, done)
	}()
	err := fn()
	close(done)
	<-ended
	return err
}

func (a *app) patience(what string, done <-chan struct{}) {
	began := time.Now()
	live := term.IsTerminal(int(os.Stderr.Fd()))
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for shown := false; ; shown = true {
		select {
		case <-done:
			if shown && live {
				fmt.Fprint(a.stderr, "\r\x1b[K")
			}
			return
		case <-tick.C:
			switch {
			case live:
				fmt.Fprintf(a.stderr, "\r%s %s\x1b[K", a.paint(a.stderr, dim, what+"…"), span(time.Since(began)))
			case !shown:
				fmt.Fprintf(a.stderr, "%s…\n", what)
			}
		}
	}
}

// warn prints a warning that does not stop the command.
func (a *app) warn(format string, args ...any) {
	fmt.Fprintf(a.stderr, "%s %s\n", a.paint(a.stderr, yellow, "warning:"), inertLines(fmt.Sprintf(format, args...)))
}

// did reports an act: the object with -o json, else one line.
func (a *app) did(v any, format string, args ...any) error {
	if a.output == "json" {
		return a.printJSON(v)
	}
	a.done("%s", inert(fmt.Sprintf(format, args...), 0))
	return nil
}

// gone is what -o json shows of something deleted.
type gone struct {
	ID      string `json:"id"`
	Deleted bool   `json:"deleted"`
}

// remove is a command that deletes what its one argument names.
func (a *app) remove(use, short, noun, question string, list names, fn func(*client.Client, context.Context, string) error) *cobra.Command {
	var yes bool
	verb, _, _ := strings.Cut(use, " ")
	cmd := &cobra.Command{Use: use, Short: short, Args: operands("NAME"), ValidArgsFunction: a.completeFirst(list)}
	yesFlag(cmd, &yes)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if err := a.confirm(yes, "%s %s %s? %s", strings.ToUpper(verb[:1])+verb[1:], noun, args[0], question); err != nil {
			return err
		}
		if err := fn(c, ctx, args[0]); err != nil {
			return err
		}
		return a.did(gone{args[0], true}, "%s %s %sd", noun, args[0], verb)
	})
	return cmd
}

// labels reads "key=value" flags.
func labels(pairs []string) (map[string]string, error) {
	m := map[string]string{}
	for _, p := range pairs {
		k, v, ok := strings.Cut(p, "=")
		if !ok || k == "" {
			return nil, usageError{fmt.Errorf("%q is not KEY=VALUE", p)}
		}
		m[k] = v
	}
	return m, nil
}

// splitTool splits "connection/tool".
func splitTool(s string) (connection, tool string, err error) {
	connection, tool, ok := strings.Cut(s, "/")
	if !ok || connection == "" || tool == "" {
		return "", "", usageError{fmt.Errorf("%q is not CONNECTION/TOOL, such as ledger/pay_invoice", s)}
	}
	return connection, tool, nil
}
