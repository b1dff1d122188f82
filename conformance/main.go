package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// suite is pinned: later versions change what is asked.
const suite = "@modelcontextprotocol/conformance@0.2.0-alpha.12"

const everything = "github.com/modelcontextprotocol/go-sdk/conformance/everything-server"

// legs are the requirement sets with the mode of the everything server that
// each of them is about.
var legs = []struct{ requirements, stateless string }{
	{"2026-07-28", "-stateless=true"},
	{"2025-11-25", "-stateless=false"},
}

// details is where the suite's results are kept; empty means nowhere.
var details string

func main() {
	out := flag.String("out", "", "write the result to this Markdown `file`, besides standard output")
	flag.StringVar(&details, "details", "", "keep the suite's own results under this `directory`")
	flag.Parse()
	if err := run(context.Background(), *out); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

var errWorse = errors.New("a scenario that passes directly does not pass through Countersign")

func run(ctx context.Context, out string) error {
	dir, err := os.MkdirTemp("", "conformance")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	server := filepath.Join(dir, "everything")
	if b, err := exec.CommandContext(ctx, "go", "build", "-o", server, everything).CombinedOutput(); err != nil {
		return fmt.Errorf("build the everything server: %w\n%s", err, b)
	}
	var page bytes.Buffer
	page.WriteString(head)
	worse := false
	for _, l := range legs {
		table, bad, err := leg(ctx, dir, server, l.requirements, l.stateless)
		if err != nil {
			return err
		}
		worse = worse || bad
		page.WriteString(table)
	}
	fmt.Print(page.String())
	if out != "" {
		if err := os.WriteFile(out, page.Bytes(), 0o644); err != nil {
			return err
		}
	}
	if worse {
		return errWorse
	}
	return nil
}

const head = `# MCP conformance

Made by ` + "`make conformance`" + `: the official suite (` + "`" + suite + "`" + `, server leg) against the Go SDK's
everything server, directly and through ` + "`/mcp/everything`" + ` with a policy that allows everything. A scenario that
passes directly must pass through. "Scored" is what the suite counts; the rest it runs and reports.
The columns are checks passed/failed. The tasks extension is not in the Go SDK, so its scenarios fail without us too.

`

// leg runs one requirement set both ways and returns its table.
func leg(ctx context.Context, dir, server, requirements, stateless string) (table string, worse bool, err error) {
	addr, err := freePort()
	if err != nil {
		return "", false, err
	}
	child := exec.CommandContext(ctx, server, "-http="+addr, stateless)
	if err := child.Start(); err != nil {
		return "", false, err
	}
	defer func() { _ = child.Process.Kill(); _ = child.Wait() }()
	if err := listening(addr); err != nil {
		return "", false, err
	}
	gate, err := openGate(ctx, filepath.Join(dir, requirements), "http://"+addr)
	if err != nil {
		return "", false, err
	}
	defer gate.close()
	direct, err := measure(ctx, "http://"+addr, requirements, "direct")
	if err != nil {
		return "", false, err
	}
	through, err := measure(ctx, gate.url, requirements, "through")
	if err != nil {
		return "", false, err
	}
	table, worse = compare(requirements, direct, through)
	return table, worse, nil
}

// scenario is one line of the suite's summary.
type scenario struct {
	name           string
	passed, failed string
	ok             bool
	unscored       string // why it does not count
}

var (
	lineForm     = regexp.MustCompile(`^([✓✗]) (\S+): (\d+) passed, (\d+) failed`)
	unscoredForm = regexp.MustCompile(`^  [✓✗] (\S+) \(([^)]+)\)`)
)

// measure runs the suite against url. That scenarios fail is a result.
func measure(ctx context.Context, url, requirements, way string) ([]scenario, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	args := []string{"-y", "-p", "node@22", "-p", suite, "--", "conformance", "server", "--url", url, "--requirements", requirements}
	if details != "" {
		args = append(args, "-o", filepath.Join(details, requirements, way))
	}
	cmd := exec.CommandContext(ctx, "npx", args...)
	b, err := cmd.CombinedOutput()
	var all []scenario
	for line := range strings.Lines(string(b)) {
		if m := lineForm.FindStringSubmatch(line); m != nil {
			all = append(all, scenario{name: m[2], passed: m[3], failed: m[4], ok: m[1] == "✓"})
		}
		if m := unscoredForm.FindStringSubmatch(line); m != nil {
			for i := range all {
				if all[i].name == m[1] {
					all[i].unscored = m[2]
				}
			}
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("the suite said nothing: %w\n%s", err, b)
	}
	return all, nil
}

func compare(requirements string, direct, through []scenario) (table string, worse bool) {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n| scenario | scored | direct | through |\n|---|---|---|---|\n", requirements)
	after := map[string]scenario{}
	for _, s := range through {
		after[s.name] = s
	}
	scored, directly, passed := 0, 0, 0
	for _, s := range direct {
		t, ran := after[s.name]
		if s.ok && (!ran || !t.ok) {
			worse = true
		}
		why := "yes"
		if s.unscored != "" {
			why = "no (" + s.unscored + ")"
		} else {
			scored++
			directly += count(s.ok)
			passed += count(t.ok)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", s.name, why, s, t)
	}
	fmt.Fprintf(&b, "\nScored scenarios passed: %d of %d directly, %d of %d through Countersign.\n\n", directly, scored, passed, scored)
	return b.String(), worse
}

func count(ok bool) int {
	if ok {
		return 1
	}
	return 0
}

// String is a cell of the table.
func (s scenario) String() string {
	if s.name == "" {
		return "did not run"
	}
	mark := "pass"
	if !s.ok {
		mark = "**fail**"
	}
	return fmt.Sprintf("%s %s/%s", mark, s.passed, s.failed)
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func listening(addr string) error {
	for range 200 {
		if c, err := net.Dial("tcp", addr); err == nil {
			return c.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("nothing listens at %s", addr)
}
