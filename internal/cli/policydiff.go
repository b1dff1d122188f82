package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) policyDiff() *cobra.Command {
	var from, to int64
	cmd := &cobra.Command{Use: "diff NAME", Short: "Show what differs between two versions of a policy file", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(policyNames),
		Example: "  countersign policy diff payments            what the last change did\n  countersign policy diff payments --from 3 --to 5"}
	cmd.Flags().Int64Var(&from, "from", 0, "a version (default: the one before --to)")
	cmd.Flags().Int64Var(&to, "to", 0, "a version (default: the newest)")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		all, err := c.PolicyHistory(ctx, args[0])
		if err != nil {
			return err
		}
		now, was, err := twoVersions(args[0], all, from, to)
		if err != nil {
			return err
		}
		type line struct {
			ID   string `json:"id"`
			What string `json:"what"` // added, removed, same
			Text string `json:"text"`
		}
		out := []line{}
		for i, l := range lineDiff(was.Text, now.Text) {
			out = append(out, line{fmt.Sprintf("%s:%d", args[0], i+1), map[byte]string{'+': "added", '-': "removed", ' ': "same"}[l[0]], l[1:]})
		}
		if a.output == "json" {
			return a.printJSON(out)
		}
		from := "nothing"
		if was.Version > 0 {
			from = fmt.Sprintf("version %d, saved by %s,", was.Version, inert(was.SavedBy, 64))
		}
		fmt.Fprintf(a.stdout, "%s to version %d, saved by %s\n", from, now.Version, inert(now.SavedBy, 64))
		for _, l := range out {
			switch l.What {
			case "added":
				fmt.Fprintln(a.stdout, a.paint(a.stdout, green, "+ "+inert(l.Text, 0)))
			case "removed":
				fmt.Fprintln(a.stdout, a.paint(a.stdout, red, "- "+inert(l.Text, 0)))
			default:
				fmt.Fprintln(a.stdout, "  "+inert(l.Text, 0))
			}
		}
		return nil
	})
	return cmd
}

// twoVersions finds the versions to compare in a history, the newest first. What
// was before the first is empty.
func twoVersions(name string, all []client.PolicyVersion, from, to int64) (now, was client.PolicyVersion, err error) {
	if to == 0 && len(all) > 0 {
		to = all[0].Version
	}
	if from == 0 {
		from = to - 1
	}
	found := from == 0
	named := false
	for _, v := range all {
		if v.Version == to {
			now, named = v, true
		}
		if v.Version == from {
			was, found = v, true
		}
	}
	if !named || !found {
		err = fmt.Errorf("policy %s has no version %d or no version %d: countersign policy history %s", name, from, to, name)
	}
	return now, was, err
}

// mostCompared bounds the work of a comparison, in lines of each side.
const mostCompared = 2000

// lineDiff compares two texts line by line; every line begins with '+', '-' or ' '.
func lineDiff(from, to string) []string {
	a, b := lines(from), lines(to)
	var head, tail []string
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		head, a, b = append(head, " "+a[0]), a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		tail, a, b = append(tail, " "+a[len(a)-1]), a[:len(a)-1], b[:len(b)-1]
	}
	out := append(head, middle(a, b)...)
	for i := len(tail) - 1; i >= 0; i-- {
		out = append(out, tail[i])
	}
	return out
}

func lines(s string) []string {
	if s = strings.TrimRight(s, "\n"); s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}

// middle is the longest common subsequence, and what is beside it.
func middle(a, b []string) (out []string) {
	if len(a) > mostCompared || len(b) > mostCompared {
		for _, l := range a {
			out = append(out, "-"+l)
		}
		for _, l := range b {
			out = append(out, "+"+l)
		}
		return out
	}
	longest := make([][]int32, len(a)+1)
	for i := range longest {
		longest[i] = make([]int32, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if longest[i][j] = max(longest[i+1][j], longest[i][j+1]); a[i] == b[j] {
				longest[i][j] = longest[i+1][j+1] + 1
			}
		}
	}
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			out, i, j = append(out, " "+a[i]), i+1, j+1
		case j == len(b) || i < len(a) && longest[i+1][j] >= longest[i][j+1]:
			out, i = append(out, "-"+a[i]), i+1
		default:
			out, j = append(out, "+"+b[j]), j+1
		}
	}
	return out
}

func (a *app) policyRollback() *cobra.Command {
	var to int64
	cmd := &cobra.Command{Use: "rollback NAME --reason TEXT", Short: "Save an earlier version of a policy file as its newest; it takes effect at once", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(policyNames),
		Long:    "To the version before the present one unless --to names another; a file that was not there then is deleted, a deleted one comes back. What of it does not fit the tools of now denies the calls that it is about: countersign policy check.",
		Example: "  countersign policy rollback payments --to 3 --reason 'the new limit was wrong'"}
	cmd.Flags().Int64Var(&to, "to", 0, "a version (countersign policy history)")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		r, err := c.RollBackPolicy(ctx, args[0], to)
		if err != nil {
			return err
		}
		if !r.Changed {
			return a.did(r, "policy %s was like this already (version %d)", args[0], r.Version)
		}
		return a.did(r, "policy %s is rolled back (version %d)", args[0], r.Version)
	})
	return cmd
}
