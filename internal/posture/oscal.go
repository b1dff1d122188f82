package posture

import (
	"fmt"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/posture/framework"
)

// The part of OSCAL 1.2.2 (NIST) that assessment results need here.
type (
	oscalDocument struct {
		Results oscalResults `json:"assessment-results"`
	}
	oscalResults struct {
		UUID     string        `json:"uuid"`
		Metadata oscalMetadata `json:"metadata"`
		ImportAP struct {
			Href    string `json:"href"`
			Remarks string `json:"remarks"`
		} `json:"import-ap"`
		Results []oscalResult `json:"results"`
		Back    oscalBack     `json:"back-matter"`
	}
	oscalMetadata struct {
		Title    string    `json:"title"`
		Modified time.Time `json:"last-modified"`
		Version  string    `json:"version"`
		OSCAL    string    `json:"oscal-version"`
		Remarks  string    `json:"remarks"`
	}
	oscalResult struct {
		UUID         string             `json:"uuid"`
		Title        string             `json:"title"`
		Description  string             `json:"description"`
		Start        time.Time          `json:"start"`
		End          time.Time          `json:"end"`
		Reviewed     oscalReviewed      `json:"reviewed-controls"`
		Observations []oscalObservation `json:"observations"`
		Findings     []oscalFinding     `json:"findings"`
	}
	oscalReviewed struct {
		Selections []oscalSelection `json:"control-selections"`
	}
	oscalSelection struct {
		Description string         `json:"description"`
		Include     []oscalControl `json:"include-controls"`
	}
	oscalControl struct {
		ID string `json:"control-id"`
	}
	oscalProp struct {
		Name  string `json:"name"`
		NS    string `json:"ns"`
		Value string `json:"value"`
	}
	oscalObservation struct {
		UUID        string       `json:"uuid"`
		Title       string       `json:"title"`
		Description string       `json:"description"`
		Props       []oscalProp  `json:"props"`
		Methods     []string     `json:"methods"`
		Evidence    []oscalProof `json:"relevant-evidence"`
		Collected   time.Time    `json:"collected"`
		Expires     time.Time    `json:"expires"`
		Remarks     string       `json:"remarks,omitzero"`
	}
	oscalProof struct {
		Href        string `json:"href"`
		Description string `json:"description"`
	}
	oscalFinding struct {
		UUID         string         `json:"uuid"`
		Title        string         `json:"title"`
		Description  string         `json:"description"`
		Props        []oscalProp    `json:"props"`
		Target       oscalTarget    `json:"target"`
		Observations []oscalRelated `json:"related-observations,omitzero"`
	}
	oscalTarget struct {
		Type   string `json:"type"`
		ID     string `json:"target-id"`
		Status struct {
			State  string `json:"state"`
			Reason string `json:"reason"`
		} `json:"status"`
	}
	oscalRelated struct {
		UUID string `json:"observation-uuid"`
	}
	oscalBack struct {
		Resources []oscalResource `json:"resources"`
	}
	oscalResource struct {
		UUID        string `json:"uuid"`
		Title       string `json:"title"`
		Description string `json:"description"`
	}
)

// oscalNS is the namespace of our properties.
const oscalNS = "urn:countersign:oscal"

// oscal returns the document as assessment results. Its schema knows satisfied
// and not-satisfied alone: what is neither is not-satisfied for the reason
// "other", with the result as a property, so that nothing is dropped and nothing
// looks better than it is.
func (d *document) oscal() oscalDocument {
	r := oscalResults{UUID: named("ar" + d.Exported.String())}
	r.Metadata = oscalMetadata{"Evidence computed by Countersign", d.Exported, d.Version, "1.2.2", d.Note}
	plan := named("the twelve predicates")
	r.ImportAP.Href, r.ImportAP.Remarks = "#"+plan, "There is no assessment plan of its own: the predicates are the plan."
	r.Back.Resources = []oscalResource{{plan, "Predicates of Countersign", predicatesText()}}
	one := oscalResult{UUID: named("result" + d.Exported.String()), Title: "Live state", Description: d.Note, End: d.Exported, Start: d.Exported, Observations: []oscalObservation{}, Findings: []oscalFinding{}}
	for _, e := range d.Evidence {
		if e.Collected.Before(one.Start) {
			one.Start = e.Collected
		}
		one.Observations = append(one.Observations, d.observation(e))
	}
	for _, f := range d.Frameworks {
		sel := oscalSelection{Description: f.Title + " " + f.Version}
		for _, q := range f.Requirements {
			if !q.Withdrawn {
				sel.Include = append(sel.Include, oscalControl{token(q.ID)})
				one.Findings = append(one.Findings, d.finding(f, q))
			}
		}
		one.Reviewed.Selections = append(one.Reviewed.Selections, sel)
	}
	r.Results = []oscalResult{one}
	return oscalDocument{r}
}

func predicatesText() string {
	var sb strings.Builder
	for _, p := range predicates {
		fmt.Fprintf(&sb, "%s (version %d) %s: %s It cannot see everything: %s\n", p.ID, p.Version, p.Name, p.Asks, p.Limits)
	}
	return sb.String()
}

func (d *document) observation(e Stored) oscalObservation {
	result, why := e.At(d.Exported)
	o := oscalObservation{UUID: named(e.ID), Title: e.Predicate + " " + e.Name, Methods: []string{"EXAMINE"}, Collected: e.Collected, Expires: e.Expires,
		Description: fmt.Sprintf("%s: %d of %d looked at, %d violations. %s", result, e.Evaluated, e.Population, e.Violated, why)}
	if e.Kind != Query {
		o.Methods = []string{"TEST"}
	}
	for _, p := range [][2]string{{"result", string(result)}, {"predicate", e.Predicate}, {"predicate-version", fmt.Sprint(e.Version)}, {"population", fmt.Sprint(e.Population)},
		{"evaluated", fmt.Sprint(e.Evaluated)}, {"violations", fmt.Sprint(e.Violated)}, {"digest", e.Digest}} {
		o.Props = append(o.Props, oscalProp{p[0], oscalNS, p[1]})
	}
	o.Evidence = []oscalProof{{"proofs/" + e.Event + ".proof", "That the result is in the log: its digest is in this event."}, {"evidence.json", "The result with every violation (" + e.ID + ")."}}
	for _, c := range e.Checks {
		for _, v := range c.Violations {
			o.Remarks += v.Object + ": " + v.Message + "\n"
		}
	}
	o.Remarks = cut(o.Remarks, 20000)
	return o
}

func (d *document) finding(f Catalog, q Requirement) oscalFinding {
	out := oscalFinding{UUID: named("finding " + f.ID + q.ID), Title: f.Title + " " + q.ID, Description: q.Title, Props: []oscalProp{{"result", oscalNS, string(q.Result)},
		{"framework", oscalNS, f.ID}, {"requirement", oscalNS, q.ID}, {"coverage", oscalNS, q.Coverage}}}
	if q.Reason != "" {
		out.Props = append(out.Props, oscalProp{"why", oscalNS, strings.Join(strings.Fields(q.Reason), " ")})
	}
	out.Target.Type, out.Target.ID = "statement-id", token(q.ID)
	if k, ok := framework.Get(f.ID); ok && k.Target != "" {
		out.Target.ID = strings.ReplaceAll(k.Target, "{id}", q.ID)
	}
	out.Target.Status.State, out.Target.Status.Reason = "not-satisfied", "other"
	switch q.Result {
	case Pass:
		out.Target.Status.State, out.Target.Status.Reason = "satisfied", "pass"
	case Fail:
		out.Target.Status.Reason = "fail"
	}
	for _, e := range q.Evidence {
		if e.Evidence != "" {
			out.Observations = append(out.Observations, oscalRelated{named(e.Evidence)})
		}
	}
	return out
}

// token writes an identifier with the characters that OSCAL allows in one.
func token(id string) string {
	return strings.Map(func(r rune) rune {
		if r == ':' || r == ' ' || r == '/' {
			return '-'
		}
		return r
	}, id)
}
