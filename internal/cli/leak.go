package cli

import (
	"context"
	"encoding/json/v2"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

// maxReport bounds the file of a scanner, in bytes.
const maxReport = 64 << 20

func (a *app) secretReport() *cobra.Command {
	var source string
	cmd := &cobra.Command{Use: "report FILE", Short: "Report credentials that a scanner, or you, found in the open", Args: operands("FILE"),
		Long: `Reads a report of gitleaks or betterleaks (JSON), of any scanner that writes SARIF, or plain text with credentials in it (- is standard input). What
is ours is revoked and locked at once, an upstream's secret is rotated where that is set up, and its owner is told. The
server compares by keyed digest and keeps nothing of what is sent. A scanner that redacts its report (gitleaks --redact) leaves nothing to compare.`,
		Example: "  gitleaks git -f json -r leaks.json; countersign secret report leaks.json"}
	cmd.Flags().StringVar(&source, "source", "", "who found it (default: the kind of the file)")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		text, err := readBounded(args[0])
		if err != nil {
			return err
		}
		kind, items, err := leaksIn(args[0], text)
		if err != nil {
			return err
		}
		if source == "" {
			source = kind
		}
		if len(items) == 0 {
			return a.did(client.LeakAnswer{Matches: []client.LeakMatch{}}, "the report names no credential")
		}
		total := client.LeakAnswer{Matches: []client.LeakMatch{}}
		for len(items) > 0 {
			n := min(len(items), 500)
			answer, err := c.ReportLeaks(ctx, source, items[:n])
			if err != nil {
				return err
			}
			total.Received += answer.Received
			total.Matches = append(total.Matches, answer.Matches...)
			items = items[n:]
		}
		return a.printLeaks(total)
	})
	return cmd
}

func readBounded(path string) ([]byte, error) {
	in := io.Reader(os.Stdin)
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxReport+1))
	if err == nil && len(b) > maxReport {
		err = fmt.Errorf("%s is larger than %d MiB", path, maxReport>>20)
	}
	return b, err
}

func (a *app) printLeaks(r client.LeakAnswer) error {
	if a.output == "json" {
		return a.printJSON(r)
	}
	for _, m := range r.Matches {
		did := map[string]string{"revoked": "revoked and locked", "dead": "dead already", "rotated": "rotated", "by_hand": "must be replaced at its provider by hand", "noted": "a canary, noted"}[m.Done]
		if m.Done == "revoked" && m.Lock == "" {
			did = "revoked"
		}
		a.done("%s", inert(fmt.Sprintf("%s %s %s: %s", m.Kind, m.ID, m.Object, did), 0))
	}
	a.done("%d reported, %d of them known here (shown to operators and auditors)", r.Received, len(r.Matches))
	return nil
}

// leaksIn reads a report by what it looks like.
func leaksIn(name string, text []byte) (kind string, items []client.Leak, err error) {
	trimmed := strings.TrimSpace(string(text))
	switch {
	case strings.HasPrefix(trimmed, "["):
		items, err = gitleaksReport(text)
		kind = "gitleaks"
	case strings.HasPrefix(trimmed, "{") && strings.Contains(trimmed, `"runs"`):
		items, err = sarifReport(text)
		kind = "sarif"
	default:
		kind = "text"
		for i, line := range strings.Split(trimmed, "\n") {
			if line = strings.TrimSpace(line); line != "" {
				items = append(items, client.Leak{Value: cutValue(line), Where: name + ":" + strconv.Itoa(i+1)})
			}
		}
	}
	if err != nil {
		err = fmt.Errorf("%s is no report that can be read: %w", name, err)
	}
	return kind, items, err
}

// cutValue keeps what the server takes of one value, as valid UTF-8: what is no
// text in a report must not keep the rest of it from being sent.
func cutValue(s string) string {
	s = strings.ToValidUTF8(s, "?")
	return strings.ToValidUTF8(s[:min(len(s), 60<<10)], "")
}

// gitleaksReport reads the JSON of gitleaks and betterleaks.
func gitleaksReport(text []byte) (items []client.Leak, err error) {
	var found []struct {
		Secret    string `json:"Secret"`
		Match     string `json:"Match"`
		File      string `json:"File"`
		StartLine int    `json:"StartLine"`
		Commit    string `json:"Commit"`
	}
	if err := json.Unmarshal(text, &found); err != nil {
		return nil, err
	}
	for _, f := range found {
		value := strings.TrimSpace(f.Secret + "\n" + f.Match)
		if value == "" || f.Secret == "REDACTED" {
			continue
		}
		where := f.File + ":" + strconv.Itoa(f.StartLine)
		if f.Commit != "" {
			where += "@" + f.Commit
		}
		items = append(items, client.Leak{Value: cutValue(value), Where: where})
	}
	return items, nil
}

// sarifReport reads SARIF 2.1.0: the snippets of every location.
func sarifReport(text []byte) (items []client.Leak, err error) {
	type part struct {
		Text string `json:"text"`
	}
	var log struct {
		Runs []struct {
			Results []struct {
				Message   part `json:"message"`
				Locations []struct {
					Physical struct {
						Artifact struct {
							URI string `json:"uri"`
						} `json:"artifactLocation"`
						Region struct {
							StartLine int  `json:"startLine"`
							Snippet   part `json:"snippet"`
						} `json:"region"`
						Context struct {
							Snippet part `json:"snippet"`
						} `json:"contextRegion"`
					} `json:"physicalLocation"`
				} `json:"locations"`
			} `json:"results"`
		} `json:"runs"`
	}
	if err := json.Unmarshal(text, &log); err != nil {
		return nil, err
	}
	for _, run := range log.Runs {
		for _, r := range run.Results {
			for _, l := range r.Locations {
				p := l.Physical
				if value := strings.TrimSpace(p.Region.Snippet.Text + "\n" + p.Context.Snippet.Text + "\n" + r.Message.Text); value != "" {
					items = append(items, client.Leak{Value: cutValue(value), Where: p.Artifact.URI + ":" + strconv.Itoa(p.Region.StartLine)})
				}
			}
		}
	}
	return items, nil
}

func (a *app) canaryCommand() *cobra.Command {
	return group("canary", "Keep credentials that nobody uses, so that a thief shows", a.canaryList(), a.canaryCreate(),
		a.remove("delete NAME", "Forget a canary", "canary", "", canaryNames, (*client.Client).DeleteCanary))
}

func canaryNames(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Canaries(ctx)
	return namesOf(l, err, func(x client.Canary) string { return x.Name })
}

func (a *app) canaryList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List canaries", Args: operands()}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		all, err := c.Canaries(ctx)
		if err != nil {
			return err
		}
		return list(a, all, "no canaries yet: countersign secret canary create NAME --where PLACE",
			column[client.Canary]{"NAME", func(x client.Canary) string { return x.Name }, func(client.Canary) string { return bold }},
			column[client.Canary]{"LIKE", func(x client.Canary) string { return x.Kind }, nil},
			column[client.Canary]{"WHERE", func(x client.Canary) string { return x.Where }, nil},
			column[client.Canary]{"USED", func(x client.Canary) string { return strconv.FormatInt(x.Uses, 10) }, func(x client.Canary) string {
				if x.Uses > 0 {
					return red
				}
				return ""
			}},
			column[client.Canary]{"LAST USED", func(x client.Canary) string { return ago(x.LastUsed) }, nil},
			column[client.Canary]{"AGE", func(x client.Canary) string { return ago(x.Created) }, nil})
	})
	return cmd
}

func (a *app) canaryCreate() *cobra.Command {
	var kind, where string
	cmd := &cobra.Command{Use: "create NAME", Short: "Make a canary, shown this once", Args: operands("NAME"),
		Example: "  countersign secret canary create wiki --where 'the runbook page in the wiki'\n  countersign secret canary create laptop --like token --where '~/.config/countersign of the shared machine'"}
	cmd.Flags().StringVar(&kind, "like", "key", "what it looks like: an agent's key, or a user's token")
	fixed(cmd, "like", "key", "token")
	cmd.Flags().StringVar(&where, "where", "", "where you will put it")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		made, err := c.CreateCanary(ctx, args[0], kind, where)
		if err != nil {
			return err
		}
		return a.shownOnce(made, made.Value, "canary %s; any use of it is an incident. It is shown this once:", made.Name)
	})
	return cmd
}
