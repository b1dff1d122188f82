package cli

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) detectionTest() *cobra.Command {
	var rule string
	cmd := &cobra.Command{Use: "test [FILE]", Short: "Run the rules over a recorded day or a trace, or run their own test cases", Args: operands("[FILE]"),
		Long: `Without FILE the test cases in the rules are run. FILE (- is standard input) is an export of the log (countersign log export --format jsonl --since 24h)
or a trace: one event a line, with the time since the line before.

  +2s call.intent agent=a credential=key_1 model=gpt-5 remote=10.0.0.1 x3

Nothing is counted, found or done. Findings end the command with status 1 only when a rule's own case fails.`,
		Example: "  countersign log export --format jsonl --since 24h --out day.jsonl; countersign detection test day.jsonl"}
	cmd.Flags().StringVar(&rule, "rule", "", "only this rule")
	a.completeFlag(cmd, "rule", detectionRuleNames)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		trace := ""
		if len(args) == 1 {
			text, err := readBounded(args[0])
			if err != nil {
				return err
			}
			if trace = string(text); strings.TrimSpace(trace) == "" {
				return usageError{fmt.Errorf("%s holds no events", args[0])}
			}
		}
		t, err := c.TestDetection(ctx, rule, trace)
		if err != nil {
			return err
		}
		return a.printDetectionTest(t, trace != "")
	})
	return cmd
}

func (a *app) printDetectionTest(t client.DetectionTest, traced bool) error {
	if traced {
		if a.output == "json" {
			return a.printJSON(t)
		}
		if err := list(a, t.Found, "no rule found anything",
			column[client.DetectionFound]{"AT", func(f client.DetectionFound) string { return f.At.UTC().Format("2006-01-02 15:04:05.000") }, nil},
			column[client.DetectionFound]{"RULE", func(f client.DetectionFound) string { return f.Rule }, func(client.DetectionFound) string { return bold }},
			column[client.DetectionFound]{"ABOUT", func(f client.DetectionFound) string { return f.Object }, nil},
			column[client.DetectionFound]{"WOULD", func(f client.DetectionFound) string { return f.Would }, nil},
			column[client.DetectionFound]{"SEEN", func(f client.DetectionFound) string { return f.Seen }, nil}); err != nil {
			return err
		}
		fmt.Fprintf(a.stderr, "%d events\n", t.Events)
		return nil
	}
	failed := 0
	for _, k := range t.Cases {
		if !k.Passed {
			failed++
		}
	}
	if err := list(a, t.Cases, "the rules test nothing",
		column[client.DetectionCase]{"RULE", func(k client.DetectionCase) string { return k.Rule }, func(client.DetectionCase) string { return bold }},
		column[client.DetectionCase]{"CASE", func(k client.DetectionCase) string { return k.Case }, nil},
		column[client.DetectionCase]{"RESULT", func(k client.DetectionCase) string {
			if k.Passed {
				return "passed"
			}
			return k.Problem
		}, func(k client.DetectionCase) string {
			if k.Passed {
				return green
			}
			return red
		}}); err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d cases failed", failed, len(t.Cases))
	}
	return nil
}

func (a *app) detectionReconcile() *cobra.Command {
	var connection string
	cmd := &cobra.Command{Use: "reconcile FILE --reason TEXT", Short: "Compare a provider's account of use with the log", Args: operands("FILE"),
		Long: `FILE (- is standard input) is CSV with a heading, or a JSON array of objects: connection, model, hour (RFC 3339), and tokens, or input_tokens and
output_tokens. What the provider counts and no call in the log used was used by somebody else with the connection's secret.`,
		Example: "  countersign detection reconcile usage.csv --connection openai --reason 'weekly'"}
	cmd.Flags().StringVar(&connection, "connection", "", "of rows that name none")
	a.completeFlag(cmd, "connection", connectionNames)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		text, err := readBounded(args[0])
		if err != nil {
			return err
		}
		rows, err := usageRows(text, connection)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		compared, err := c.Reconcile(ctx, rows)
		if err != nil {
			return err
		}
		return list(a, compared, "nothing to compare",
			column[client.ProviderCompared]{"CONNECTION", func(x client.ProviderCompared) string { return x.Connection }, nil},
			column[client.ProviderCompared]{"MODEL", func(x client.ProviderCompared) string { return x.Model }, func(client.ProviderCompared) string { return bold }},
			column[client.ProviderCompared]{"PROVIDER", func(x client.ProviderCompared) string { return strconv.FormatInt(x.Provider, 10) }, nil},
			column[client.ProviderCompared]{"LOG", func(x client.ProviderCompared) string { return strconv.FormatInt(x.Log, 10) }, nil},
			column[client.ProviderCompared]{"SURPLUS", func(x client.ProviderCompared) string { return strconv.FormatInt(x.Surplus, 10) }, func(x client.ProviderCompared) string {
				if x.Surplus > 0 {
					return red
				}
				return ""
			}})
	})
	return cmd
}

// usageRows reads a provider's account.
func usageRows(text []byte, connection string) ([]client.ProviderUse, error) {
	var records []map[string]string
	var err error
	if t := bytes.TrimSpace(text); len(t) > 0 && t[0] == '[' {
		records, err = jsonRecords(t)
	} else {
		records, err = csvRecords(text)
	}
	if err != nil {
		return nil, err
	}
	out := make([]client.ProviderUse, 0, len(records))
	for i, r := range records {
		u := client.ProviderUse{Connection: r["connection"], Model: r["model"]}
		if u.Connection == "" {
			u.Connection = connection
		}
		if u.Hour, err = time.Parse(time.RFC3339, r["hour"]); err != nil {
			return nil, fmt.Errorf("row %d: hour %q is not a time such as 2026-11-26T14:00:00Z", i+1, r["hour"])
		}
		for _, name := range []string{"tokens", "input_tokens", "output_tokens"} {
			if r[name] == "" || name != "tokens" && r["tokens"] != "" {
				continue
			}
			n, err := strconv.ParseInt(r[name], 10, 64)
			if err != nil || n < 0 {
				return nil, fmt.Errorf("row %d: %s %q is no number", i+1, name, r[name])
			}
			u.Tokens += n
		}
		if u.Connection == "" || u.Model == "" {
			return nil, fmt.Errorf("row %d: needs a connection (or --connection) and a model", i+1)
		}
		out = append(out, u)
	}
	if len(out) == 0 {
		return nil, errors.New("holds no rows")
	}
	return out, nil
}

func csvRecords(text []byte) ([]map[string]string, error) {
	r := csv.NewReader(bytes.NewReader(text))
	head, err := r.Read()
	if err != nil {
		return nil, fmt.Errorf("is not CSV with a heading: %w", err)
	}
	if !slices.Contains(head, "model") || !slices.Contains(head, "hour") {
		return nil, errors.New("the heading must name model, hour and tokens")
	}
	var out []map[string]string
	for {
		line, err := r.Read()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		m := map[string]string{}
		for i, name := range head {
			m[name] = line[i]
		}
		out = append(out, m)
	}
}

func jsonRecords(text []byte) ([]map[string]string, error) {
	var rows []struct {
		Connection string `json:"connection"`
		Model      string `json:"model"`
		Hour       string `json:"hour"`
		Tokens     int64  `json:"tokens"`
		Input      int64  `json:"input_tokens"`
		Output     int64  `json:"output_tokens"`
	}
	if err := json.Unmarshal(text, &rows); err != nil {
		return nil, fmt.Errorf("is not a JSON array of use: %w", err)
	}
	out := make([]map[string]string, len(rows))
	for i, r := range rows {
		tokens := r.Tokens
		if tokens == 0 {
			tokens = r.Input + r.Output
		}
		out[i] = map[string]string{"connection": r.Connection, "model": r.Model, "hour": r.Hour, "tokens": strconv.FormatInt(tokens, 10)}
	}
	return out, nil
}
