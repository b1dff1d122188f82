package console

import (
	"html/template"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/client"
)

var policyPages = []page{
	{"/policies", "policies", "Policies", "policies", (*Console).showPolicies},
	{"/policies/{name}", "policy", "Policy", "policies", (*Console).showPolicy},
	{"/policies/{name}/history", "history", "History", "policies", (*Console).showHistory},
	{"/why/{event}", "why", "Why", "policies", (*Console).showWhy},
}

var policyActions = []action{
	{"/policies", "policies", (*Console).newPolicy},
	{"/policies/{name}", "policy", (*Console).savePolicy},
	{"/policies/{name}/delete", "policy", (*Console).deletePolicy},
	{"/policies/{name}/rollback", "history", (*Console).rollbackPolicy},
}

var policyColumns = []column[client.Policy]{
	{Key: "name", Title: "File", Value: func(p client.Policy) string { return p.Name }},
	{Key: "rules", Title: "What it says", Value: func(p client.Policy) string { return strings.Join(summaries(p.Text), "; ") }},
	{Key: "saved_by", Title: "Saved by", Value: func(p client.Policy) string { return p.SavedBy }},
	{Key: "saved", Title: "When", Value: func(p client.Policy) string { return exact(p.Saved) }, Less: func(a, b client.Policy) int { return b.Saved.Compare(a.Saved) }},
}

func (c *Console) showPolicies(v *visit) (any, error) {
	found, err := v.API.Policies(v.ctx())
	return arrange(v, found, func(p client.Policy) string { return p.Name }, policyColumns), err
}

// rule is one policy of a file, as a person reads it.
type rule struct {
	ID, Kind, Advice string
	Groups           []string
	Words            string
}

type policyPage struct {
	client.Policy
	Draft    string // the text in the form
	Rules    []rule
	Problems []client.Problem
	Checked  bool
	Tried    *client.Backtest // what the draft would have changed
}

func (c *Console) showPolicy(v *visit) (any, error) {
	name := v.Request.PathValue("name")
	p, err := v.API.Policy(v.ctx(), name)
	if err != nil {
		return nil, err
	}
	v.Title = p.Name
	d := policyPage{Policy: p, Draft: v.Field("text", p.Text), Rules: rulesOf(p.Text)}
	if v.Form != nil {
		d.Checked = true
		d.Problems, err = v.API.CheckPolicies(v.ctx(), []client.NamedText{{Name: name, Text: d.Draft}})
	}
	return d, err
}

// The console says Cedar in words, part by part (policywords.go); what a policy
// means for a call is said by the engine (Why), never guessed here.
var (
	cedarComment    = regexp.MustCompile(`(?m)//[^\n]*`)
	cedarPolicy     = regexp.MustCompile(`(?s)((?:@\w+\s*\(\s*"(?:[^"\\]|\\.)*"\s*\)\s*)*)(permit|forbid)\s*\(((?:[^()"]|"(?:[^"\\]|\\.)*")*)\)((?:[^;"]|"(?:[^"\\]|\\.)*")*);`)
	cedarAnnotation = regexp.MustCompile(`@(\w+)\s*\(\s*"((?:[^"\\]|\\.)*)"`)
	cedarSpace      = regexp.MustCompile(`\s+`)
)

func rulesOf(text string) []rule {
	var out []rule
	for _, m := range cedarPolicy.FindAllStringSubmatch(cedarComment.ReplaceAllString(text, ""), -1) {
		r := rule{Kind: m[2]}
		for _, a := range cedarAnnotation.FindAllStringSubmatch(m[1], -1) {
			switch a[1] {
			case "id":
				r.ID = a[2]
			case "advice":
				r.Advice = a[2]
			case "approval":
				r.Kind = "approval"
				for g := range strings.SplitSeq(a[2], ",") {
					r.Groups = append(r.Groups, strings.TrimSpace(g))
				}
			}
		}
		who, what := headWords(strings.TrimSpace(cedarSpace.ReplaceAllString(m[3], " ")))
		verb := map[string]string{"permit": "may call", "forbid": "may not call", "approval": "waits for people before calling"}[r.Kind]
		r.Words = strings.TrimSpace(who + " " + verb + " " + what + " " + inWords(m[4]))
		out = append(out, r)
	}
	return out
}

func summaries(text string) []string {
	var out []string
	for _, r := range rulesOf(text) {
		out = append(out, r.Kind+" "+r.ID)
	}
	return out
}

// Highlighted is the text in force with its words marked.
func (d policyPage) Highlighted() template.HTML { return highlighted(d.Text) }

var cedarToken = regexp.MustCompile(`//[^\n]*|@\w+|"(?:[^"\\]|\\.)*"|\b(?:permit|forbid|when|unless|if|then|else|in|has|like|is|true|false)\b|\b(?:principal|action|resource|context)\b|\b\d+\b`)

// highlighted shows Cedar with its words marked. Everything is made inert piece
// by piece.
func highlighted(s string) template.HTML {
	var b strings.Builder
	at := 0
	for _, m := range cedarToken.FindAllStringIndex(s, -1) {
		b.WriteString(string(lines(s[at:m[0]])))
		t := s[m[0]:m[1]]
		class := "kw"
		switch {
		case strings.HasPrefix(t, "//"):
			class = "comment"
		case strings.HasPrefix(t, "@"):
			class = "note"
		case strings.HasPrefix(t, `"`):
			class = "str"
		case slices.Contains([]string{"principal", "action", "resource", "context"}, t):
			class = "var"
		case t[0] >= '0' && t[0] <= '9':
			class = "num"
		}
		b.WriteString(`<span class="` + class + `">` + string(lines(t)) + `</span>`)
		at = m[1]
	}
	b.WriteString(string(lines(s[at:])))
	return template.HTML(b.String()) //nolint:gosec // lines escapes every piece
}

func (c *Console) newPolicy(v *visit) (done, error) {
	p, err := v.reason().PutPolicy(v.ctx(), v.Form.Get("name"), unix(v.Form.Get("text")))
	return done{to: string(pathOf("/policies", p.Name)), said: p.Name + " is saved and in force."}, err
}

// unix undoes what forms do to line ends.
func unix(s string) string { return strings.ReplaceAll(s, "\r\n", "\n") }

// How much of the past a draft is tried against on the page; the command line
// has no limit.
const (
	triedDays  = 30
	triedCalls = 100_000
)

// tryPolicy shows what a draft would have changed about recorded calls.
func (c *Console) tryPolicy(v *visit, name, text string) (done, error) {
	p, err := v.API.Policy(v.ctx(), name)
	if err != nil {
		return done{}, err
	}
	d := policyPage{Policy: p, Draft: text, Rules: rulesOf(p.Text), Checked: true}
	if d.Problems, err = v.API.CheckPolicies(v.ctx(), []client.NamedText{{Name: name, Text: text}}); err != nil {
		return done{}, err
	}
	if len(d.Problems) == 0 {
		b, err := v.API.Backtest(v.ctx(), client.Trial{Files: []client.NamedText{{Name: name, Text: text}}, Since: time.Now().AddDate(0, 0, -triedDays), Most: triedCalls}, nil)
		if err != nil {
			return done{}, err
		}
		d.Tried = &b
	}
	return done{template: "policy", title: name, data: d}, nil
}

// savePolicy saves, or with "check" only looks what would be wrong, or with
// "try" also what it would have changed.
func (c *Console) savePolicy(v *visit) (done, error) {
	name, text := v.Request.PathValue("name"), unix(v.Form.Get("text"))
	if v.Form.Get("try") != "" {
		return c.tryPolicy(v, name, text)
	}
	if v.Form.Get("check") != "" {
		problems, err := v.API.CheckPolicies(v.ctx(), []client.NamedText{{Name: name, Text: text}})
		if err != nil {
			return done{}, err
		}
		p, err := v.API.Policy(v.ctx(), name)
		if err != nil {
			return done{}, err
		}
		return done{template: "policy", title: name, data: policyPage{Policy: p, Draft: text, Rules: rulesOf(text), Problems: problems, Checked: true}}, nil
	}
	p, err := v.reason().PutPolicy(v.ctx(), name, text)
	said := p.Name + " is saved and in force."
	if err == nil && !p.Changed {
		said = "Nothing was different: nothing is changed."
	}
	return done{to: string(pathOf("/policies", name)), said: said}, err
}

func (c *Console) deletePolicy(v *visit) (done, error) {
	name := v.Request.PathValue("name")
	return done{to: "/policies", said: name + " is deleted; its history stays."}, v.reason().DeletePolicy(v.ctx(), name)
}

type historyPage struct {
	Name     string
	Versions []versionRow
}

// versionRow is a version with what it changed.
type versionRow struct {
	client.PolicyVersion
	Lines []diffLine
	Now   bool
}

type diffLine struct{ Op, Text string }

func (c *Console) showHistory(v *visit) (any, error) {
	name := v.Request.PathValue("name")
	found, err := v.API.PolicyHistory(v.ctx(), name)
	if err != nil {
		return nil, err
	}
	v.Title = "History of " + name
	d := historyPage{Name: name}
	for i, x := range found {
		before := ""
		if i+1 < len(found) {
			before = found[i+1].Text
		}
		d.Versions = append(d.Versions, versionRow{x, diff(before, x.Text), i == 0})
	}
	return d, nil
}

// mostDiff bounds the lines that are compared; beyond it all count as changed.
const mostDiff = 1500

// diff compares two texts by lines (longest common subsequence) and leaves out
// what is the same and far from a change.
func diff(old, new string) []diffLine {
	a, b := strings.Split(strings.TrimRight(old, "\n"), "\n"), strings.Split(strings.TrimRight(new, "\n"), "\n")
	if old == "" {
		a = nil
	}
	if new == "" {
		b = nil
	}
	if len(a)*len(b) > mostDiff*mostDiff {
		return []diffLine{{" ", "too long to be compared here"}}
	}
	n := make([][]int, len(a)+1)
	for i := range n {
		n[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				n[i][j] = n[i+1][j+1] + 1
			} else {
				n[i][j] = max(n[i+1][j], n[i][j+1])
			}
		}
	}
	var out []diffLine
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			out = append(out, diffLine{" ", a[i]})
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && n[i+1][j] >= n[i][j+1]:
			out = append(out, diffLine{"-", a[i]})
			i++
		default:
			out = append(out, diffLine{"+", b[j]})
			j++
		}
	}
	return near(out)
}

// near keeps two lines around each change.
func near(all []diffLine) []diffLine {
	keep := make([]bool, len(all))
	for i, l := range all {
		if l.Op != " " {
			for k := max(0, i-2); k < min(len(all), i+3); k++ {
				keep[k] = true
			}
		}
	}
	var out []diffLine
	for i, l := range all {
		if keep[i] {
			out = append(out, l)
		} else if len(out) > 0 && out[len(out)-1].Op != "…" {
			out = append(out, diffLine{Op: "…"})
		}
	}
	return out
}

// rollbackPolicy saves the text of an older version again.
func (c *Console) rollbackPolicy(v *visit) (done, error) {
	name := v.Request.PathValue("name")
	found, err := v.API.PolicyHistory(v.ctx(), name)
	if err != nil {
		return done{}, err
	}
	for _, x := range found {
		if strings.TrimSpace(v.Form.Get("version")) == number(x.Version) {
			_, err := v.reason().PutPolicy(v.ctx(), name, x.Text)
			return done{to: string(pathOf("/policies", name)), said: "Version " + number(x.Version) + " is in force again."}, err
		}
	}
	return done{}, &client.Error{Status: 404, Detail: "There is no such version."}
}

func (c *Console) showWhy(v *visit) (any, error) {
	x, err := v.API.WhyEvent(v.ctx(), v.Request.PathValue("event"))
	return struct {
		client.Explanation
		Event string
	}{x, v.Request.PathValue("event")}, err
}

func number(n int64) string { return strconv.FormatInt(n, 10) }
