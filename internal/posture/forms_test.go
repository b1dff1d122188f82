package posture_test

import (
	"bytes"
	"encoding/json/v2"
	"os"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/posture"
	"github.com/countersign/countersign/internal/posture/framework"
)

// forms returns the files of an export of a business of which some results pass,
// fail, have no data and were expired.
func forms(t *testing.T) (*world, map[string][]byte) {
	t.Helper()
	w := build(t)
	tool := w.business()
	w.approved(tool, "another/tool")
	_, err := w.Evaluate(ctx, audit.System, "test")
	w.must(err)
	files, err := w.Forms(ctx)
	w.must(err)
	return w, files
}

// The official schema of NIST takes our assessment results; what it cannot say
// (no data) is checked besides.
func TestOSCALValidates(t *testing.T) {
	_, files := forms(t)
	got := files["oscal-assessment-results.json"]
	if err := oscalSchema(t).Validate(decode(t, got)); err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Results struct {
			Results []struct {
				Observations []struct {
					UUID    string   `json:"uuid"`
					Methods []string `json:"methods"`
				} `json:"observations"`
				Findings []struct {
					Props  []struct{ Name, Value string } `json:"props"`
					Target struct {
						ID     string                         `json:"target-id"`
						Status struct{ State, Reason string } `json:"status"`
					} `json:"target"`
					Related []struct {
						UUID string `json:"observation-uuid"`
					} `json:"related-observations"`
				} `json:"findings"`
			} `json:"results"`
		} `json:"assessment-results"`
	}
	if err := json.Unmarshal(got, &doc, json.MatchCaseInsensitiveNames(true)); err != nil {
		t.Fatal(err)
	}
	one := doc.Results.Results[0]
	known := map[string]bool{}
	for _, o := range one.Observations {
		known[o.UUID] = true
		if m := o.Methods; len(m) != 1 || m[0] != "TEST" && m[0] != "EXAMINE" {
			t.Errorf("methods %v", m)
		}
	}
	if len(known) != 12 {
		t.Errorf("%d observations", len(known))
	}
	all, states := 0, map[string]int{}
	for _, f := range framework.All() {
		for _, r := range f.Requirements {
			if !r.Withdrawn {
				all++
			}
		}
	}
	if len(one.Findings) != all {
		t.Errorf("%d findings for %d requirements: some were dropped", len(one.Findings), all)
	}
	for _, f := range one.Findings {
		state := f.Target.Status.State + " " + f.Target.Status.Reason
		want := map[string]string{"PASS": "satisfied pass", "FAIL": "not-satisfied fail"}[f.Props[0].Value]
		if want == "" {
			want = "not-satisfied other"
		}
		if f.Props[0].Name != "result" || state != want {
			t.Errorf("%s: %v is %s", f.Target.ID, f.Props[0], state)
		}
		states[f.Props[0].Value]++
		for _, r := range f.Related {
			if !known[r.UUID] {
				t.Errorf("%s relates to an observation that is not there", f.Target.ID)
			}
		}
	}
	for _, r := range []posture.Result{posture.Pass, posture.Fail, posture.NoData, posture.ByHand} {
		if states[string(r)] == 0 {
			t.Errorf("no requirement is %s: %v", r, states)
		}
	}
}

func oscalSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	b, err := os.ReadFile("testdata/oscal-1.2.2-assessment-results.json")
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("oscal.json", decode(t, b)); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("oscal.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func decode(t *testing.T, b []byte) any {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// A document that is not as the schema has it is refused: the test can fail.
func TestTheOSCALSchemaRefuses(t *testing.T) {
	_, files := forms(t)
	good := string(files["oscal-assessment-results.json"])
	for what, bad := range map[string]string{
		"a state that there is not":  strings.Replace(good, `"state": "satisfied"`, `"state": "unknown"`, 1),
		"a name that there is not":   strings.Replace(good, `"collected"`, `"gathered"`, 1),
		"an identifier with a space": strings.Replace(good, `"control-id": "Art.-12"`, `"control-id": "Art. 12"`, 1),
	} {
		if bad == good {
			t.Errorf("%s: nothing was changed", what)
		} else if oscalSchema(t).Validate(decode(t, []byte(bad))) == nil {
			t.Errorf("%s is taken", what)
		}
	}
}

func TestOSCFindingsSayWhatIsMissing(t *testing.T) {
	_, files := forms(t)
	lines := strings.Split(strings.TrimSpace(string(files["ocsf-compliance-findings.jsonl"])), "\n")
	if len(lines) != 12 {
		t.Fatalf("%d lines", len(lines))
	}
	seen := map[float64]bool{}
	for _, l := range lines {
		var o map[string]any
		if err := json.Unmarshal([]byte(l), &o); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"activity_id", "category_uid", "class_uid", "type_uid", "severity_id", "time", "metadata", "finding_info", "compliance"} {
			if o[name] == nil {
				t.Errorf("%s is missing: %s", name, l)
			}
		}
		if o["type_uid"] != o["class_uid"].(float64)*100+o["activity_id"].(float64) {
			t.Errorf("type_uid %v", o["type_uid"])
		}
		c := o["compliance"].(map[string]any)
		seen[c["status_id"].(float64)] = true
		if len(c["requirements"].([]any)) == 0 || len(c["checks"].([]any)) == 0 {
			t.Errorf("no requirements or no checks: %s", l)
		}
	}
	if !seen[1] || !seen[2] || !seen[3] {
		t.Errorf("statuses %v", seen)
	}
}

func TestTheInventoryNamesAgentsAndTools(t *testing.T) {
	_, files := forms(t)
	var b struct {
		Format     string                        `json:"bomFormat"`
		Components []struct{ Type, Name string } `json:"components"`
		Services   []struct {
			Name     string                  `json:"name"`
			Services []struct{ Name string } `json:"services"`
		} `json:"services"`
		Dependencies []struct {
			Ref       string   `json:"ref"`
			DependsOn []string `json:"dependsOn"`
		} `json:"dependencies"`
	}
	if err := json.Unmarshal(files["cyclonedx-inventory.json"], &b, json.MatchCaseInsensitiveNames(true)); err != nil {
		t.Fatal(err)
	}
	if b.Format != "CycloneDX" || len(b.Components) != 1 || b.Components[0].Name != "payer" || len(b.Services) != 2 || len(b.Services[0].Services) == 0 || len(b.Dependencies) != 1 || len(b.Dependencies[0].DependsOn) != 1 {
		t.Errorf("%+v", b)
	}
}

// What others wrote is text in the report, whatever it is.
func TestTheReportIsInert(t *testing.T) {
	w := build(t)
	w.business()
	ev := w.event("<script>alert(1)</script>", "model", "x")
	w.call(ev, true)
	_, err := w.Evaluate(ctx, audit.System, "test", "E1")
	w.must(err)
	files, err := w.Forms(ctx)
	w.must(err)
	html := string(files["report.html"])
	if strings.Contains(html, "<script") || !strings.Contains(html, "&lt;script&gt;") || strings.Contains(html, "http-equiv") {
		t.Error("the report is not inert")
	}
	for _, says := range []string{"E1 Observed is registered", "FAIL", "NHI2:2025 Secret Leakage", "MANUAL"} {
		if !strings.Contains(html, says) {
			t.Errorf("the report does not say %q", says)
		}
	}
}
