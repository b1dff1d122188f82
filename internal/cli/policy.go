package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) policyCommand() *cobra.Command {
	return group("policy", "Write, check, test and explain policies (Cedar)",
		a.policyList(), a.policyShow(), a.policyPut(),
		a.remove("delete NAME", "Delete a policy file; its history stays", "policy", "What it forbade is no longer forbidden.", policyNames, (*client.Client).DeletePolicy),
		a.policyHistory(), a.policyDiff(), a.policyRollback(), a.policyCheck(), a.policyTest(), a.policyBacktest(), a.policySynth(), a.policyLint(), a.policyWhy(), a.policyPack())
}

func (a *app) policyList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List policy files", Args: operands()}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		all, err := c.Policies(ctx)
		if err != nil {
			return err
		}
		return list(a, all, "no policies yet, so only grants allow: countersign policy put FILE.cedar",
			column[client.Policy]{"NAME", func(p client.Policy) string { return p.Name }, func(client.Policy) string { return bold }},
			column[client.Policy]{"VERSION", func(p client.Policy) string { return fmt.Sprint(p.Version) }, nil},
			column[client.Policy]{"SAVED", func(p client.Policy) string { return ago(p.Saved) }, nil},
			column[client.Policy]{"BY", func(p client.Policy) string { return p.SavedBy }, nil},
			column[client.Policy]{"REASON", func(p client.Policy) string { return p.Reason }, nil})
	})
	return cmd
}

func (a *app) policyShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show NAME", Short: "Print a policy file", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(policyNames)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		p, err := c.Policy(ctx, args[0])
		if err != nil {
			return err
		}
		if a.output == "json" {
			return a.printJSON(p)
		}
		_, err = fmt.Fprintln(a.stdout, inertLines(strings.TrimRight(p.Text, "\n")))
		return err
	})
	return cmd
}

// policyName is the name of a policy in a file: the file's, without .cedar.
func policyName(path string) string { return strings.TrimSuffix(filepath.Base(path), ".cedar") }

// readPolicies reads .cedar files by their names.
func readPolicies(paths []string) ([]client.NamedText, error) {
	files, err := readFiles(paths, os.Stdin)
	if err != nil {
		return nil, err
	}
	var found []client.NamedText
	for _, f := range files {
		if f.Document || strings.HasSuffix(f.Name, ".yaml") || strings.HasSuffix(f.Name, ".yml") {
			continue // of a directory
		}
		found = append(found, client.NamedText{Name: policyName(f.Name), Text: f.Text})
	}
	if len(found) == 0 && len(paths) > 0 {
		return nil, fmt.Errorf("no .cedar file in %s", strings.Join(paths, ", "))
	}
	return found, nil
}

func (a *app) policyPut() *cobra.Command {
	var name string
	cmd := &cobra.Command{Use: "put FILE.cedar", Short: "Save a policy file; it takes effect at once", Args: operands("FILE"),
		Long:    "Saves the file under its name (or --name). A file with any problem is refused. Every version is kept: countersign policy history.",
		Example: `  countersign policy check payments.cedar && countersign policy put payments.cedar --reason 'limit is 5,000 now'`}
	cmd.Flags().StringVar(&name, "name", "", "save under this name")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		files, err := readPolicies(args)
		if err != nil {
			return err
		}
		if len(files) != 1 {
			return usageError{errors.New("put takes one file; countersign apply -f takes a directory")}
		}
		if name == "" {
			name = files[0].Name
		}
		p, err := c.PutPolicy(ctx, name, files[0].Text)
		if err != nil {
			return err
		}
		if !p.Changed {
			return a.did(p, "policy %s was like this already (version %d)", p.Name, p.Version)
		}
		return a.did(p, "policy %s is in effect (version %d)", p.Name, p.Version)
	})
	return cmd
}

func (a *app) policyHistory() *cobra.Command {
	var version int64
	cmd := &cobra.Command{Use: "history NAME", Short: "List a policy file's versions, newest first", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(policyNames),
		Example: "  countersign policy history payments --version 3"}
	cmd.Flags().Int64Var(&version, "version", 0, "print this version")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		found, err := c.PolicyHistory(ctx, args[0])
		if err != nil {
			return err
		}
		type versioned struct {
			ID string `json:"id"`
			client.PolicyVersion
		}
		all := make([]versioned, 0, len(found))
		for _, v := range found {
			if version == v.Version {
				_, err := fmt.Fprintln(a.stdout, inertLines(strings.TrimRight(v.Text, "\n")))
				return err
			}
			all = append(all, versioned{fmt.Sprintf("%s@%d", args[0], v.Version), v})
		}
		if version != 0 {
			return fmt.Errorf("policy %s has no version %d", args[0], version)
		}
		return list(a, all, "no versions",
			column[versioned]{"VERSION", func(v versioned) string { return fmt.Sprint(v.Version) }, nil},
			column[versioned]{"SAVED", func(v versioned) string { return v.Saved.Local().Format(time.DateTime) }, nil},
			column[versioned]{"BY", func(v versioned) string { return v.SavedBy }, nil},
			column[versioned]{"WHAT", func(v versioned) string {
				if v.Deleted {
					return "deleted"
				}
				return fmt.Sprintf("%d lines", strings.Count(v.Text, "\n")+1)
			}, nil},
			column[versioned]{"REASON", func(v versioned) string { return v.Reason }, nil})
	})
	return cmd
}

func (a *app) policyCheck() *cobra.Command {
	cmd := &cobra.Command{Use: "check [FILE.cedar...]", Short: "Check policies against the tools that exist; exit 1 if anything is wrong", Args: operands("[FILE...]"),
		Long:    "Checks files without saving them, or, without a file, what is saved. A misspelt argument of a tool is found here.",
		Example: "  countersign policy check payments.cedar"}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		files, err := readPolicies(args)
		if err != nil {
			return err
		}
		problems, err := c.CheckPolicies(ctx, files)
		if err != nil {
			return err
		}
		if a.output == "json" {
			type numbered struct {
				ID string `json:"id"`
				client.Problem
			}
			out := make([]numbered, 0, len(problems))
			for _, p := range problems {
				out = append(out, numbered{fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column), p})
			}
			if err := a.printJSON(out); err != nil {
				return err
			}
		} else {
			a.printProblems(problems, args)
		}
		if len(problems) > 0 {
			return exitError{1}
		}
		if len(files) == 0 {
			a.done("every saved policy and grant fits the tools that exist")
			return nil
		}
		a.done("%d files are fine", len(files))
		return nil
	})
	return cmd
}

// printProblems prints problems with the paths that the person gave.
func (a *app) printProblems(problems []client.Problem, paths []string) {
	for _, p := range problems {
		for _, path := range paths {
			if policyName(path) == p.File {
				p.File = path
			}
		}
		fmt.Fprintln(a.stdout, inert(p.String(), 0))
	}
}
