package inspection_test

import (
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json/v2"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/inspection"
)

// sample is one line of testdata/samples: a text that holds a made-up secret, or one that holds none.
type sample struct {
	Label string `json:"label"` // secret, benign
	Rule  string `json:"rule"`
	Text  string `json:"text"`
}

// judged reports whether a sample is of the half that the rules were not built
// with. The halves are cut by the name of the rule that a sample tests, so that
// no kind of secret has samples in both, and one way through both sets.
func (s sample) judged() bool { return sha256.Sum256([]byte(s.Rule))[0]&1 == 1 }

func samples(tb testing.TB, set string) (out []sample) {
	tb.Helper()
	f, err := os.Open(filepath.Join("testdata", "samples", set+".jsonl.gz"))
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		tb.Fatal(err)
	}
	for lines := bufio.NewScanner(z); lines.Scan(); {
		var s sample
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			tb.Fatal(err)
		}
		out = append(out, s)
	}
	return out
}

// tally counts what a scanner finds in samples: of secrets, and of benign texts.
type tally struct{ hits, secrets, alarms, benign int }

func (t tally) recall() float64 { return 100 * float64(t.hits) / float64(t.secrets) }

func (t tally) String() string {
	return fmt.Sprintf("%d of %d secrets (%.1f %%), %d of %d benign texts (%.1f %%)", t.hits, t.secrets, t.recall(), t.alarms, t.benign, 100*float64(t.alarms)/float64(t.benign))
}

func count(all []sample, judged bool, found func(i int) bool) (t tally) {
	for i, s := range all {
		if s.judged() != judged {
			continue
		}
		hit := 0
		if found(i) {
			hit = 1
		}
		if s.Label == "secret" {
			t.secrets, t.hits = t.secrets+1, t.hits+hit
		} else {
			t.benign, t.alarms = t.benign+1, t.alarms+hit
		}
	}
	return t
}

// TestRecall prints what the scanner finds in samples of others, and what
// gitleaks finds in the same run if GITLEAKS names its program.
func TestRecall(t *testing.T) {
	s := inspection.New()
	for _, set := range []string{"gitleaks", "betterleaks"} {
		all := samples(t, set)
		theirs := gitleaks(t, all)
		for _, judged := range []bool{false, true} {
			half := map[bool]string{false: "built with", true: "judged"}[judged]
			ours := count(all, judged, func(i int) bool { return len(s.Scan([]byte(all[i].Text))) > 0 })
			t.Logf("%s, %s: ours %s", set, half, ours)
			if theirs != nil {
				t.Logf("%s, %s: gitleaks %s", set, half, count(all, judged, func(i int) bool { return theirs[i] }))
			}
			if ours.recall() < 94 {
				t.Errorf("%s, %s: recall fell to %.1f %%", set, half, ours.recall())
			}
		}
	}
}

// gitleaks returns in which samples the program that GITLEAKS names finds
// something with its default rules; nil if there is none.
func gitleaks(t *testing.T, all []sample) map[int]bool {
	program := os.Getenv("GITLEAKS")
	if program == "" {
		return nil
	}
	dir := t.TempDir()
	for i, s := range all {
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), []byte(s.Text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	found := map[int]bool{}
	for _, f := range report(t, program, dir) {
		n, err := strconv.Atoi(filepath.Base(f.File))
		if err != nil {
			t.Fatal(err)
		}
		found[n] = true
	}
	return found
}

type leak struct {
	File string `json:"File"`
}

func report(t *testing.T, program, dir string) (leaks []leak) {
	path := filepath.Join(t.TempDir(), "report.json")
	out, err := exec.CommandContext(t.Context(), program, "dir", "--no-banner", "--exit-code", "0", "--report-format", "json", "--report-path", path, dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", program, err, out)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &leaks); err != nil {
		t.Fatal(err)
	}
	return leaks
}

// TestFalseAlarms counts findings in the results of tools of the containment
// bench: ordinary mails, files and transactions, in which there are no secrets
// but a few passwords that users wrote down.
func TestFalseAlarms(t *testing.T) {
	s := inspection.New()
	f, err := os.Open("../../containment/data/user_tasks.json")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var suites map[string][]struct {
		Steps []struct {
			Result any `json:"result"`
		} `json:"steps"`
	}
	if err := json.UnmarshalRead(f, &suites); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	seen := map[string]bool{}
	for _, tasks := range suites {
		for _, task := range tasks {
			for _, step := range task.Steps {
				result, ok := step.Result.(string)
				if !ok {
					b, err := json.Marshal(step.Result)
					if err != nil {
						t.Fatal(err)
					}
					result = string(b)
				}
				if !seen[result] {
					seen[result] = true
					text.WriteString(result + "\n")
				}
			}
		}
	}
	b := []byte(text.String())
	found := s.Scan(b)
	t.Logf("ours: %d secrets in %d bytes of results of tools", len(found), len(b))
	for _, x := range found {
		t.Logf("%s: %.60q", x.Rule, b[max(0, x.Start-24):x.End])
	}
	if program := os.Getenv("GITLEAKS"); program != "" {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "results"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		t.Logf("gitleaks: %d", len(report(t, program, dir)))
	}
	if len(found)*100_000 > len(b) {
		t.Errorf("%d findings in %d bytes", len(found), len(b))
	}
}
