package console

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/client"
)

var detectionPages = []page{
	{"/detection", "detection", "Detection", "findings", (*Console).showDetection},
	{"/detection/rules/{name}", "detectionrule", "Rule", "findings", (*Console).showDetectionRule},
	{"/detections", "detections", "Detections", "findings", (*Console).showDetections},
	{"/detections/{id}", "detected", "Detection", "findings", (*Console).showDetected},
}

var detectionActions = []action{
	{"/detection/rules/{name}/mode", "detectionrule", (*Console).setDetectionMode},
	{"/detections/{id}/lift", "detected", (*Console).liftDetection},
}

// mostDetections is how many detections, the newest, pages count and list.
const mostDetections = 1000

// ruleRow is a rule with what it found.
type ruleRow struct {
	client.DetectionRule
	Fired int
	Last  time.Time
}

// detectionPage is every rule, and how detection goes.
type detectionPage struct {
	*listing[ruleRow]
	Status client.DetectionStatus
}

var ruleColumns = []column[ruleRow]{
	{Key: "rule", Title: "Rule", Value: func(r ruleRow) string { return r.ID }},
	{Key: "mode", Title: "Mode", Value: func(r ruleRow) string { return r.Mode }},
	{Key: "title", Title: "What it sees", Value: func(r ruleRow) string { return r.Title }},
	{Key: "severity", Title: "Severity", Value: func(r ruleRow) string { return r.Severity }, Less: func(a, b ruleRow) int { return severities[a.Severity] - severities[b.Severity] }},
	{Key: "response", Title: "What it does", Value: func(r ruleRow) string { return r.Response }},
	{Key: "fired", Title: "Fired", Value: func(r ruleRow) string { return fmt.Sprint(r.Fired) }, Less: func(a, b ruleRow) int { return cmp.Compare(b.Fired, a.Fired) }, Number: true},
	{Key: "last", Title: "Last", Value: func(r ruleRow) string { return exact(r.Last) }, Less: func(a, b ruleRow) int { return b.Last.Compare(a.Last) }},
}

func (c *Console) showDetection(v *visit) (any, error) {
	rules, err := v.API.DetectionRules(v.ctx())
	if err != nil {
		return nil, err
	}
	found, err := v.API.Detections(v.ctx(), true, "", mostDetections)
	if err != nil {
		return nil, err
	}
	rows := make([]ruleRow, len(rules))
	for i, r := range rules {
		rows[i].DetectionRule = r
		for _, d := range found {
			if d.Rule == r.ID {
				rows[i].Fired++
				if d.Updated.After(rows[i].Last) {
					rows[i].Last = d.Updated
				}
			}
		}
	}
	p := detectionPage{listing: arrange(v, rows, func(r ruleRow) string { return r.ID }, ruleColumns)}
	p.Status, err = v.API.DetectionStatus(v.ctx(), "")
	return p, err
}

// detectionRulePage is a rule, what it did, and what is normal of an agent.
type detectionRulePage struct {
	client.DetectionRule
	Found  []client.Detection
	Agent  string // whose normal is asked for
	Normal []client.DetectionNormal
	Modes  []string
}

func (c *Console) showDetectionRule(v *visit) (any, error) {
	name := v.Request.PathValue("name")
	p := detectionRulePage{Agent: strings.TrimSpace(v.Query("agent")), Modes: []string{"observe", "enforce", "off"}}
	var err error
	if p.DetectionRule, err = v.API.DetectionRule(v.ctx(), name); err != nil {
		return nil, err
	}
	v.Title = p.ID
	found, err := v.API.Detections(v.ctx(), true, "", mostDetections)
	if err != nil {
		return nil, err
	}
	for _, d := range found {
		if d.Rule == name && len(p.Found) < perPage {
			p.Found = append(p.Found, d)
		}
	}
	if p.Agent != "" {
		st, err := v.API.DetectionStatus(v.ctx(), p.Agent)
		if err != nil {
			return nil, err
		}
		p.Normal = slices.DeleteFunc(st.Baselines, func(n client.DetectionNormal) bool { return n.Rule != name })
	}
	return p, nil
}

// Asks are the parts of the rule that people wrote, in the rule's own words.
func (p detectionRulePage) Asks() []kept {
	out := []kept{{"watches", strings.Join(p.Watch, ", ")}, {"counts for each", p.Key}, {"where", p.Where}}
	for _, m := range sortedPairs(p.Measures) {
		out = append(out, kept{"measures " + m.Name, m.Value})
	}
	out = append(out, kept{"fires when", p.When})
	for _, m := range sortedPairs(p.Limits) {
		out = append(out, kept{"limit " + m.Name, m.Value})
	}
	out = append(out, kept{"says", p.Seen}, kept{"normal", p.DetectionRule.Normal})
	return slices.DeleteFunc(out, func(k kept) bool { return k.Value == "" })
}

// Settings are what the rule is set to.
func (p detectionRulePage) Settings() []kept {
	out := []kept{{"version", p.Version}, {"learns for", p.Learning}, {"then quiet for", p.Quiet}, {"weight", p.Weight}, {"does", p.Response}, {"for", p.For}, {"asks", p.Approvers}, {"at most, a minute", p.Rate}}
	return slices.DeleteFunc(out, func(k kept) bool { return k.Value == "" })
}

func sortedPairs(m map[string]string) []kept {
	out := make([]kept, 0, len(m))
	for name, value := range m {
		out = append(out, kept{name, value})
	}
	slices.SortFunc(out, func(a, b kept) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// detectionsPage is what rules found.
type detectionsPage struct {
	*listing[client.Detection]
	State string
	Boxes []box
}

var detectionColumns = []column[client.Detection]{
	{Key: "updated", Title: "Last", Value: func(d client.Detection) string { return exact(d.Updated) }, Less: func(a, b client.Detection) int { return b.Updated.Compare(a.Updated) }},
	{Key: "severity", Title: "Severity", Value: func(d client.Detection) string { return d.Severity }, Less: func(a, b client.Detection) int { return severities[a.Severity] - severities[b.Severity] }},
	{Key: "title", Title: "What", Value: func(d client.Detection) string { return d.Title }},
	{Key: "object", Title: "About", Value: func(d client.Detection) string { return d.Object }},
	{Key: "state", Title: "State", Value: func(d client.Detection) string { return d.State }},
	{Key: "response", Title: "Did", Value: func(d client.Detection) string { return d.Response }},
	{Key: "times", Title: "Times", Value: func(d client.Detection) string { return fmt.Sprint(d.Times) }, Less: func(a, b client.Detection) int { return cmp.Compare(b.Times, a.Times) }, Number: true},
	{Key: "rule", Title: "Rule", Value: func(d client.Detection) string { return d.Rule }},
}

func (c *Console) showDetections(v *visit) (any, error) {
	state := v.Query("state")
	if state != "all" {
		state = "open"
	}
	found, err := v.API.Detections(v.ctx(), state == "all", "", mostDetections)
	p := detectionsPage{listing: arrange(v, found, func(d client.Detection) string { return d.ID }, detectionColumns), State: state}
	for _, b := range []box{{"open", "Open", -1, false}, {"all", "All", -1, false}} {
		b.Current = b.Name == state
		p.Boxes = append(p.Boxes, b)
	}
	return p, err
}

func (c *Console) showDetected(v *visit) (any, error) {
	d, err := v.API.Detection(v.ctx(), v.Request.PathValue("id"))
	v.Title = d.Title
	return d, err
}

func (c *Console) setDetectionMode(v *visit) (done, error) {
	name, mode := v.Request.PathValue("name"), v.Form.Get("mode")
	_, err := v.reason().SetDetectionMode(v.ctx(), name, mode)
	said := map[string]string{"enforce": name + " acts from now on.", "observe": name + " only says what it would do.", "off": name + " is switched off."}[mode]
	return done{to: string(pathOf("/detection/rules", name)), said: said}, err
}

func (c *Console) liftDetection(v *visit) (done, error) {
	d, err := v.reason().LiftDetection(v.ctx(), v.Request.PathValue("id"))
	return done{to: string(pathOf("/detections", d.ID)), said: "Lifted. What the rule had counted about it is forgotten."}, err
}

// ruleOfFinding is the detection rule that made a finding, empty if none did.
func ruleOfFinding(rule string) string {
	name, ok := strings.CutPrefix(rule, "detection.")
	if !ok || name == "crowded" {
		return ""
	}
	return name
}
