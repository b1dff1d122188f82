package cli

import (
	"bytes"
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"encoding/json/jsontext"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/countersign/countersign/client"
)

func (a *app) policyTest() *cobra.Command {
	var with []string
	cmd := &cobra.Command{Use: "test FILE.yaml...", Short: "Compare decisions with expected ones; exit 1 if any differs", Args: operands("FILE..."),
		Long: `Each file is a list of cases: name, agent, tool (connection/tool), args, expect (allow, deny or hold) and, if you like, by (policies and
grants that must have determined it). Team, stage, owner and labels are those of the registered agent unless a case says otherwise.
Nothing is called and nothing is recorded.`,
		Example: `  countersign policy test policies_test.yaml
  countersign policy test policies_test.yaml --with payments.cedar     as if this file were saved`}
	cmd.Flags().StringArrayVar(&with, "with", nil, "a .cedar file in place of the saved one of its name (repeatable)")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		var cases []client.Case
		for _, path := range args {
			found, err := readCases(path)
			if err != nil {
				return err
			}
			cases = append(cases, found...)
		}
		files, err := readPolicies(with)
		if err != nil {
			return err
		}
		report, err := c.TestPolicies(ctx, cases, files)
		if err != nil {
			return err
		}
		if err := a.printTest(report, with); err != nil {
			return err
		}
		if !report.Passed {
			return exitError{1}
		}
		return nil
	})
	return cmd
}

func (a *app) printTest(report client.TestReport, with []string) error {
	if a.output == "json" {
		type identified struct {
			ID string `json:"id"`
			client.CaseResult
		}
		out := make([]identified, 0, len(report.Results))
		for _, r := range report.Results {
			out = append(out, identified{r.Name, r})
		}
		return a.printJSON(out)
	}
	a.printProblems(report.Problems, with)
	failed := 0
	for _, r := range report.Results {
		if r.Passed {
			fmt.Fprintf(a.stdout, "%s  %s %s\n", a.paint(a.stdout, green, "ok  "), inert(r.Name, 0), a.paint(a.stdout, dim, "("+r.Got+")"))
			continue
		}
		failed++
		fmt.Fprintf(a.stdout, "%s  %s\n      %s\n", a.paint(a.stdout, red, "FAIL"), inert(r.Name, 0), inert(r.Problem, 0))
	}
	fmt.Fprintf(a.stdout, "%d passed, %d failed\n", len(report.Results)-failed, failed)
	return nil
}

// fileCase is a client.Case as a person writes it.
type fileCase struct {
	Name       string               `yaml:"name"`
	Agent      string               `yaml:"agent"`
	Tool       string               `yaml:"tool"`
	Args       map[string]any       `yaml:"args"`
	Expect     string               `yaml:"expect"`
	By         []string             `yaml:"by"`
	Team       string               `yaml:"team"`
	Stage      string               `yaml:"stage"`
	Owner      string               `yaml:"owner"`
	Labels     map[string]string    `yaml:"labels"`
	RunLabels  []string             `yaml:"run_labels"`
	RunCalls   int64                `yaml:"run_calls"`
	RunAge     int64                `yaml:"run_age_seconds"`
	Proposed   *bool                `yaml:"run_proposed"`
	Remote     string               `yaml:"remote"`
	Credential string               `yaml:"credential"`
	OnBehalfOf []string             `yaml:"on_behalf_of"`
	User       *client.PolicyUser   `yaml:"user"`
	Provenance client.Provenance    `yaml:"provenance"`
	Release    client.PolicyRelease `yaml:"release"`
	Budget     *client.PolicyBudget `yaml:"budget"`
	Now        time.Time            `yaml:"now"`
}

// readCases reads a list of cases, strictly.
func readCases(path string) ([]client.Case, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var found []fileCase
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(&found); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %s", path, plainYAML(err))
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s holds no cases", path)
	}
	cases := make([]client.Case, 0, len(found))
	for i, f := range found {
		args, err := jsonArgs(f.Args)
		if err != nil {
			return nil, fmt.Errorf("%s: case %d: args: %w", path, i+1, err)
		}
		cases = append(cases, client.Case{Name: f.Name, Agent: f.Agent, Tool: f.Tool, Args: args, Expect: f.Expect, By: f.By, Team: f.Team, Stage: f.Stage, Owner: f.Owner,
			Labels: f.Labels, RunLabels: f.RunLabels, RunCalls: f.RunCalls, RunAge: f.RunAge, RunProposed: f.Proposed, Remote: f.Remote, Credential: f.Credential, OnBehalfOf: f.OnBehalfOf, User: f.User, Provenance: f.Provenance, Release: f.Release, Budget: f.Budget, Now: f.Now})
	}
	return cases, nil
}

// plainYAML is what a YAML error says, on one line and without names of ours.
func plainYAML(err error) string {
	text := strings.NewReplacer("yaml: unmarshal errors:\n", "", " in type cli.fileCase", "", " into []cli.fileCase", "", "\n", ";").Replace(err.Error())
	return strings.Join(strings.Fields(text), " ")
}

func jsonArgs(args map[string]any) (map[string]jsontext.Value, error) {
	out := make(map[string]jsontext.Value, len(args))
	for name, v := range args {
		b, err := json.Marshal(v, json.Deterministic(true))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out[name] = b
	}
	return out, nil
}
