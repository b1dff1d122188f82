package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) applyCommand() *cobra.Command {
	var paths []string
	var dry bool
	cmd := &cobra.Command{Use: "apply -f FILE|DIR|-", Short: "Make what there is follow files", Args: operands(),
		Long: `Reads YAML documents (kind, name, spec) and Cedar policies (.cedar) and makes the server follow them: all of it, or, if anything is
wrong, nothing. Applying twice changes nothing; nothing is deleted that a document does not name with state: absent. Values of
secrets are never in the files: a document says where to find one on this machine (from: {env: NAME} or {file: PATH}). An
OpenAPI document that a connection names (openapi: {file: PATH}, beneath the file's own directory) is sent with it.`,
		Example: `  countersign apply -f governance/ --reason 'quarterly review'
  countersign export --out governance/`}
	filesFlag(cmd, &paths)
	cmd.Flags().BoolVar(&dry, "dry-run", false, "say what would change, and change nothing")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		out, missing, err := a.send(ctx, c, paths, dry)
		if err != nil {
			return err
		}
		return a.applied(out, missing)
	})
	return cmd
}

func filesFlag(cmd *cobra.Command, paths *[]string) {
	cmd.Flags().StringArrayVarP(paths, "file", "f", nil, "file or directory, or - for standard input (repeatable)")
	_ = cmd.MarkFlagRequired("file")
}

func (a *app) diffCommand() *cobra.Command {
	var paths []string
	cmd := &cobra.Command{Use: "diff -f FILE|DIR|-", Short: "Say what apply would change; exit 1 if anything", Args: operands(),
		Example: "  countersign diff -f governance/"}
	filesFlag(cmd, &paths)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		out, missing, err := a.send(ctx, c, paths, true)
		if err != nil {
			return err
		}
		if err := a.applied(out, missing); err != nil {
			return err
		}
		for _, ch := range out.Changes {
			if ch.Op != "none" {
				return exitError{1}
			}
		}
		return nil
	})
	return cmd
}

func (a *app) send(ctx context.Context, c *client.Client, paths []string, dry bool) (out client.Application, missing []string, err error) {
	files, err := readFiles(paths, os.Stdin)
	if err != nil {
		return out, nil, err
	}
	found, err := findSecrets(files, os.Getenv)
	if err != nil {
		return out, nil, err
	}
	err = a.waiting("applying", func() (err error) {
		out, err = c.Apply(ctx, files, found.values, dry)
		return err
	})
	return out, found.missing, err
}

var opSigns = map[string]struct{ sign, colour string }{"create": {"+", green}, "update": {"~", yellow}, "delete": {"-", red}}

// applied prints what was changed, or what is wrong.
func (a *app) applied(out client.Application, missing []string) error {
	if a.output == "json" {
		if err := a.printJSON(out); err != nil {
			return err
		}
	} else {
		a.printChanges(out)
	}
	for _, w := range out.Warnings {
		a.warn("%s", w)
	}
	if len(out.Problems) == 0 {
		for _, m := range missing {
			a.warn("%s; the stored value stays", m)
		}
		return nil
	}
	for _, p := range out.Problems {
		fmt.Fprintln(a.stderr, inert(p.String(), 0))
	}
	for _, m := range missing {
		fmt.Fprintln(a.stderr, inert(m, 0))
	}
	if out.Outcome == client.Partly {
		return errors.New("only connections and what they need were applied; mend the files and apply again")
	}
	return errors.New("nothing was changed")
}

func (a *app) printChanges(out client.Application) {
	if len(out.Problems) > 0 && out.Outcome == client.Refused {
		return
	}
	count := map[string]int{}
	for _, ch := range out.Changes {
		count[ch.Op]++
		s, ok := opSigns[ch.Op]
		if !ok {
			continue
		}
		fmt.Fprintln(a.stdout, a.paint(a.stdout, s.colour, fmt.Sprintf("%s %s %s", s.sign, strings.ToLower(ch.Kind), inert(ch.Name, 0))))
		if ch.Op == "update" {
			a.printFields(ch.Diff)
		}
	}
	would := ""
	if out.Outcome == client.Planned {
		would = "would be "
	}
	if count["create"]+count["update"]+count["delete"] == 0 {
		fmt.Fprintf(a.stdout, "nothing changes: all %d are as the files say\n", count["none"])
		return
	}
	fmt.Fprintf(a.stdout, "%d %screated, %d %supdated, %d %sdeleted, %d unchanged\n", count["create"], would, count["update"], would, count["delete"], would, count["none"])
}

func (a *app) printFields(fields []client.FieldDiff) {
	for _, d := range fields {
		if strings.Contains(d.Old+d.New, "\n") {
			fmt.Fprintf(a.stdout, "    %s:\n", d.Field)
			a.printLines(d.Old, d.New)
			continue
		}
		fmt.Fprintf(a.stdout, "    %s: %s -> %s\n", d.Field, orNone(d.Old), orNone(d.New))
	}
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return inert(s, 200)
}

// printLines prints what two texts do not have in common at their beginning
// and end: enough to see an edit.
func (a *app) printLines(old, now string) {
	o, n := strings.Split(old, "\n"), strings.Split(now, "\n")
	for len(o) > 0 && len(n) > 0 && o[0] == n[0] {
		o, n = o[1:], n[1:]
	}
	for len(o) > 0 && len(n) > 0 && o[len(o)-1] == n[len(n)-1] {
		o, n = o[:len(o)-1], n[:len(n)-1]
	}
	for _, l := range o {
		fmt.Fprintln(a.stdout, a.paint(a.stdout, red, "      - "+inert(l, 0)))
	}
	for _, l := range n {
		fmt.Fprintln(a.stdout, a.paint(a.stdout, green, "      + "+inert(l, 0)))
	}
}

func (a *app) exportCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{Use: "export [--out DIR]", Short: "Write everything as files that apply reads, without secrets", Args: operands(),
		Example: "  countersign export --out governance/ && countersign diff -f governance/"}
	cmd.Flags().StringVar(&dir, "out", "", "directory to write to (default: standard output, each file under a comment with its name)")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		files, err := c.Export(ctx)
		if err != nil {
			return err
		}
		switch {
		case dir != "":
			return a.writeFiles(dir, files)
		case a.output == "json":
			type named struct {
				ID string `json:"id"`
				client.NamedText
			}
			out := make([]named, 0, len(files))
			for _, f := range files {
				out = append(out, named{f.Name, f})
			}
			return a.printJSON(out)
		}
		for _, f := range files {
			comment := "#"
			if strings.HasSuffix(f.Name, ".cedar") {
				comment = "//"
			}
			fmt.Fprintf(a.stdout, "%s %s\n%s\n", comment, inert(f.Name, 0), inertLines(strings.TrimRight(f.Text, "\n")))
		}
		return nil
	})
	return cmd
}

func (a *app) writeFiles(dir string, files []client.NamedText) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, f := range files {
		if !filepath.IsLocal(f.Name) {
			return fmt.Errorf("the server names a file %q outside of %s", f.Name, dir)
		}
		path := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(f.Text), 0o644); err != nil {
			return err
		}
	}
	if a.output == "json" {
		return a.printJSON(files)
	}
	a.done("%d files in %s", len(files), dir)
	return nil
}
