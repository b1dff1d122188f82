package framework

import (
	"os"
	"slices"
	"strings"
	"testing"
)

var predicates = []string{"E1", "E2", "E3", "E4", "E5", "E6", "E7", "E8", "E9", "E10", "E11", "E12"}

func TestEveryMappedRequirementExists(t *testing.T) {
	for _, p := range Lint(predicates) {
		t.Error(p)
	}
}

func TestTheCatalogsAreWhole(t *testing.T) {
	want := map[string]int{"owasp-nhi-2025": 10, "owasp-asi-2026": 10, "nist-csf-2.0": 106 + 7, "eu-ai-act": 4, "iso-42001": 38, "soc2": 15}
	for _, f := range All() {
		if len(f.Requirements) != want[f.ID] {
			t.Errorf("%s has %d requirements, want %d", f.ID, len(f.Requirements), want[f.ID])
		}
	}
	csf, _ := Get("nist-csf-2.0")
	got := map[string]int{}
	for _, r := range csf.Requirements {
		if !r.Withdrawn {
			got[r.Coverage]++
		}
	}
	if got[Direct] != 34 || got[Partial] != 45 || got[Manual] != 27 {
		t.Errorf("coverage of CSF 2.0: %v", got)
	}
}

// Every statement is NIST's, word for word, under its own identifier and category.
func TestTheCybersecurityFrameworkIsAsNISTWroteIt(t *testing.T) {
	b, err := os.ReadFile("testdata/nist-csf-2.0.tsv")
	if err != nil {
		t.Fatal(err)
	}
	want, all := map[string]string{}, map[string]string{}
	for line := range strings.Lines(string(b)) {
		id, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		want[id], all[id] = rest, rest
	}
	csf, _ := Get("nist-csf-2.0")
	for _, r := range csf.Requirements {
		if r.Withdrawn {
			for _, to := range r.MovedTo {
				if all[to] == "" {
					t.Errorf("%s moved to %s, which is not in force", r.ID, to)
				}
			}
			continue
		}
		if got := r.Group + "\t" + r.Title; got != want[r.ID] {
			t.Errorf("%s is %q, NIST has %q", r.ID, got, want[r.ID])
		}
		delete(want, r.ID)
	}
	for id := range want {
		t.Errorf("%s is missing", id)
	}
}

// The errors that published mappings have are found.
func TestAWrongMappingIsFound(t *testing.T) {
	base := loaded()
	for _, c := range []struct {
		name, says string
		link       Link
	}{
		{"an id that does not exist", "there is no requirement PR.AC-4", Link{"E5", "nist-csf-2.0", "PR.AC-4", "x", "why"}},
		{"a withdrawn id", "it was withdrawn", Link{"E5", "nist-csf-2.0", "PR.AC-04", "Withdrawn in CSF 2.0: moved to PR.AA-05", "why"}},
		{"another's title", "its title is", Link{"E3", "owasp-nhi-2025", "NHI6:2025", "Insecure Credential Storage", "why"}},
		{"a framework that does not exist", "there is no framework", Link{"E3", "owasp-agentic", "AGENT-03", "x", "why"}},
		{"a predicate that does not exist", "there is no predicate E99", Link{"E99", "owasp-nhi-2025", "NHI1:2025", "Improper Offboarding", "why"}},
		{"no reason", "does not say why", Link{"E3", "owasp-nhi-2025", "NHI1:2025", "Improper Offboarding", " "}},
		{"what is said to have no evidence", "nothing here is evidence", Link{"E3", "owasp-nhi-2025", "NHI10:2025", "Human Use of NHI", "why"}},
		{"the same twice", "there twice", base.links[0]},
	} {
		bad := catalog{base.frameworks, append(slices.Clone(base.links), c.link)}
		if got := strings.Join(bad.lint(predicates), "\n"); !strings.Contains(got, c.says) {
			t.Errorf("%s: %q", c.name, got)
		}
	}
	if got := strings.Join(Lint(append(predicates, "E13")), "\n"); !strings.Contains(got, "E13 is evidence for nothing") {
		t.Errorf("a predicate without a link: %q", got)
	}
}

func TestIdentifiersAreReadAsPeopleWriteThem(t *testing.T) {
	for text, want := range map[string]string{
		"NHI-02": "owasp-nhi-2025/NHI2:2025", "NHI2": "owasp-nhi-2025/NHI2:2025", "nhi02:2025": "owasp-nhi-2025/NHI2:2025", "NHI2:2025": "owasp-nhi-2025/NHI2:2025", "NHI-10": "owasp-nhi-2025/NHI10:2025",
		"PR.AC-4": "nist-csf-2.0/PR.AA-05", "PR.AC-04": "nist-csf-2.0/PR.AA-05", "CSF 1.1 PR.AC-4": "nist-csf-2.0/PR.AA-05", "PR.AA-05": "nist-csf-2.0/PR.AA-05", "nist-csf-2.0/PR.AA-05": "nist-csf-2.0/PR.AA-05", "PR.AC-1": "nist-csf-2.0/PR.AA-01",
		"AGENT-03": "owasp-asi-2026/ASI03", "ASI-03": "owasp-asi-2026/ASI03", "ASI03:2026": "owasp-asi-2026/ASI03", "T3": "owasp-asi-2026/ASI03", "AAI003": "owasp-asi-2026/ASI01",
		"CC6.1": "soc2/CC6.1", "soc2": "soc2/", "A.6.2.8": "iso-42001/A.6.2.8", "ISO/IEC 42001 A.6.2.8": "iso-42001/A.6.2.8", "Article 12": "eu-ai-act/Art. 12", "eu-ai-act/Art. 12": "eu-ai-act/Art. 12", "Art.19": "eu-ai-act/Art. 19",
	} {
		got, ok := Resolve(text)
		if !ok || got.Framework+"/"+got.ID != want {
			t.Errorf("%q is %+v, want %s", text, got, want)
		}
	}
	for _, text := range []string{"", "NHI-11", "NHI0", "ASI11", "PR.AA-99", "soc2/NHI2", "CC9.9", "Art. 99", "x/y/z", "PR.AA-05; DROP", "A.10.1"} {
		if got, ok := Resolve(text); ok {
			t.Errorf("%q is %+v", text, got)
		}
	}
}

// What was made of an identifier is said.
func TestAnAliasIsShownOpenly(t *testing.T) {
	for text, says := range map[string]string{
		"PR.AC-4": "PR.AC-04 was withdrawn in CSF 2.0 and moved to PR.AA-05", "AGENT-03": "is no identifier of OWASP", "PR.AC-3": "incorporated into PR.AA-03, PR.AA-05, PR.IR-01",
	} {
		if got, _ := Resolve(text); !strings.Contains(got.Note, says) {
			t.Errorf("%s: %q", text, got.Note)
		}
	}
	if got, _ := Resolve("AGENT-03"); !slices.Equal(got.See, []string{"owasp-asi-2026/ASI01"}) {
		t.Errorf("the rival reading of AGENT-03: %v", got.See)
	}
	if got, _ := Resolve("NHI2:2025"); got.Note != "" {
		t.Errorf("an id of the framework's own: %q", got.Note)
	}
}
