package console

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/countersign/countersign/client"
)

var posturePages = []page{
	{"/posture", "posture", "Posture", "posture", (*Console).showPosture},
	{"/posture/frameworks/{id}", "framework", "Framework", "posture", (*Console).showFramework},
	{"/posture/requirement", "requirement", "Requirement", "posture", (*Console).showRequirement},
	{"/posture/predicates/{id}", "predicate", "Predicate", "posture", (*Console).showPredicate},
	{"/posture/evidence/{id}", "predicate", "Evidence", "posture", (*Console).showEvidence},
}

var postureActions = []action{
	{"/posture", "posture", (*Console).runPosture},
	{"/posture/export", "posture", (*Console).exportEvidence},
}

// postureResults are the results, the worst first.
var postureResults = []string{"FAIL", "NO_DATA", "PASS", "NOT_APPLICABLE", "MANUAL"}

// predicateRow is a predicate with how it went.
type predicateRow struct {
	client.PostureRow
	Trend client.PostureTrend
}

// posturePage is everything at a glance.
type posturePage struct {
	*listing[predicateRow]
	Frameworks []client.FrameworkCount
	Progress   client.PostureProgress
	Counts     []resultCount // of the predicates
	Days       int
	Periods    []box
}

// resultCount is how many have a result.
type resultCount struct {
	Result string
	N      int
}

var predicateColumns = []column[predicateRow]{
	{Key: "predicate", Title: "Predicate", Value: func(r predicateRow) string { return r.ID + " " + r.Name }, Less: func(a, b predicateRow) int { return cmp.Compare(ordinal(a.ID), ordinal(b.ID)) }},
	{Key: "result", Title: "Result", Value: func(r predicateRow) string { return r.Result }, Less: func(a, b predicateRow) int { return cmp.Compare(badness(a.Result), badness(b.Result)) }},
	{Key: "violated", Title: "Wrong", Value: func(r predicateRow) string { return fmt.Sprint(r.Violated) }, Less: func(a, b predicateRow) int { return cmp.Compare(b.Violated, a.Violated) }, Number: true},
	{Key: "evaluated", Title: "Looked at", Value: func(r predicateRow) string { return fmt.Sprintf("%d of %d", r.Evaluated, r.Population) }, Less: func(a, b predicateRow) int { return cmp.Compare(b.Population, a.Population) }, Number: true},
	{Key: "trend", Title: "Trend", Value: func(r predicateRow) string { return shareWords(r.Trend.Shares) }, Less: func(a, b predicateRow) int { return cmp.Compare(a.Trend.Shares["PASS"], b.Trend.Shares["PASS"]) }},
	{Key: "collected", Title: "Computed", Value: func(r predicateRow) string { return exact(r.Collected) }, Less: func(a, b predicateRow) int { return b.Collected.Compare(a.Collected) }},
}

// ordinal is the number of a predicate.
func ordinal(id string) int {
	n, _ := strconv.Atoi(strings.TrimPrefix(id, "E")) // what is no number comes first
	return n
}

// badness orders results, the worst first.
func badness(result string) int { return slices.Index(postureResults, result) }

// The periods that pages tell of, in days.
var periods = []int{30, 90, 365}

// days is the period that the address asks for.
func (v *visit) days() int {
	n, err := strconv.Atoi(v.Query("days"))
	if err != nil || n < 1 || n > 400 {
		return 90
	}
	return n
}

// periodBoxes are links to the same page over other periods.
func (v *visit) periodBoxes() []box {
	var out []box
	for _, n := range periods {
		out = append(out, box{strconv.Itoa(n), fmt.Sprintf("%d days", n), -1, n == v.days()})
	}
	return out
}

func (c *Console) showPosture(v *visit) (any, error) {
	all, err := v.API.Posture(v.ctx())
	if err != nil {
		return nil, err
	}
	trends, err := v.API.PostureTrends(v.ctx(), "", v.days())
	if err != nil {
		return nil, err
	}
	rows := make([]predicateRow, len(all.Predicates))
	counts := map[string]int{}
	for i, p := range all.Predicates {
		rows[i].PostureRow = p
		counts[p.Result]++
		for _, t := range trends {
			if t.Predicate == p.ID {
				rows[i].Trend = t
			}
		}
	}
	d := posturePage{listing: arrange(v, rows, func(r predicateRow) string { return r.ID }, predicateColumns), Frameworks: all.Frameworks, Counts: countsOf(counts), Days: v.days(), Periods: v.periodBoxes()}
	d.Progress, err = v.API.PostureProgress(v.ctx())
	return d, err
}

// countsOf orders counts by result, the worst first, and leaves out none.
func countsOf(counts map[string]int) []resultCount {
	var out []resultCount
	for _, r := range postureResults {
		if counts[r] > 0 {
			out = append(out, resultCount{r, counts[r]})
		}
	}
	return out
}

// Order is countsOf, for templates.
func (posturePage) Order(counts map[string]int) []resultCount { return countsOf(counts) }

// Percent is how much of the run under way is computed.
func (d posturePage) Percent() int {
	return 100 * len(d.Progress.Done) / max(1, len(d.Progress.Asked))
}

// Next is the predicate that is being computed.
func (d posturePage) Next() string {
	if n := len(d.Progress.Done); n < len(d.Progress.Asked) {
		return d.Progress.Asked[n]
	}
	return ""
}

func (c *Console) runPosture(v *visit) (done, error) {
	var only []string
	if p := v.Form.Get("predicate"); p != "" {
		only = []string{p}
	}
	_, err := v.reason().BeginPosture(v.ctx(), only...)
	return done{to: "/posture", said: "It is being computed. This page follows it; you may leave it."}, err
}

func (c *Console) exportEvidence(v *visit) (done, error) {
	body, err := v.reason().ExportEvidence(v.ctx())
	return done{file: "evidence.tar", body: body}, err
}

// frameworkPage is a framework, requirement by requirement.
type frameworkPage struct {
	Of client.Framework
	*listing[client.Requirement]
	Results []box // which requirements
	Periods []box
}

var requirementColumns = []column[client.Requirement]{
	{Key: "requirement", Title: "Requirement", Value: func(q client.Requirement) string { return q.ID + " " + q.Title }},
	{Key: "result", Title: "Result", Value: func(q client.Requirement) string { return q.Result }, Less: func(a, b client.Requirement) int { return cmp.Compare(badness(a.Result), badness(b.Result)) }},
	{Key: "evidence", Title: "Evidence", Value: func(q client.Requirement) string { return strings.Join(evidenceFor(q), " ") }},
	{Key: "coverage", Title: "Can be shown", Value: func(q client.Requirement) string { return q.Coverage }},
	{Key: "period", Title: "Over the period", Value: func(q client.Requirement) string { return shareWords(q.Shares) }, Less: func(a, b client.Requirement) int { return cmp.Compare(passing(a), passing(b)) }},
}

// passing orders what has evidence before what has none.
func passing(q client.Requirement) int {
	if len(q.Shares) == 0 {
		return 101
	}
	return q.Shares["PASS"]
}

func evidenceFor(q client.Requirement) []string {
	var out []string
	for _, e := range q.Evidence {
		out = append(out, e.ID)
	}
	return out
}

func (c *Console) showFramework(v *visit) (any, error) {
	f, err := v.API.FrameworkPosture(v.ctx(), v.Request.PathValue("id"), v.days())
	if err != nil {
		return nil, err
	}
	v.Title = f.Title
	order, counts, only := map[string]int{}, map[string]int{}, v.Query("result")
	rows := make([]client.Requirement, 0, len(f.Requirements))
	for i, q := range f.Requirements {
		if order[q.ID] = i; !q.Withdrawn {
			counts[q.Result]++
		}
		if only == "" || q.Result == only && !q.Withdrawn {
			rows = append(rows, q)
		}
	}
	results := []box{{"", "All", len(f.Requirements), only == ""}}
	for _, n := range countsOf(counts) {
		results = append(results, box{n.Result, resultWord(n.Result), n.N, only == n.Result})
	}
	columns := slices.Clone(requirementColumns)
	columns[0].Less = func(a, b client.Requirement) int { return cmp.Compare(order[a.ID], order[b.ID]) } // as the catalog has them
	return frameworkPage{f, arrange(v, rows, func(q client.Requirement) string { return q.ID }, columns), results, v.periodBoxes()}, nil
}

// requirementPage is a requirement with what is evidence for it.
type requirementPage struct {
	client.Requirement
	Catalog client.Framework
	Details []client.PostureDetail
	Days    int
	Periods []box
}

// Why says why a predicate is evidence for the requirement.
func (d requirementPage) Why(predicate string) string {
	for _, e := range d.Evidence {
		if e.ID == predicate {
			return e.Why
		}
	}
	return ""
}

// Wrong are the first violations of a predicate's newest result.
func (d requirementPage) Wrong(p client.PostureDetail) []client.PostureViolation {
	var out []client.PostureViolation
	if p.Newest != nil {
		for _, c := range p.Newest.Checks {
			out = append(out, c.Violations...)
		}
	}
	return out[:min(len(out), 5)]
}

func (c *Console) showRequirement(v *visit) (any, error) {
	q, err := v.API.Requirement(v.ctx(), strings.TrimSpace(v.Query("id")), v.days())
	if err != nil {
		return nil, err
	}
	v.Title = q.ID
	d := requirementPage{Requirement: q, Days: v.days(), Periods: v.periodBoxes()}
	if d.Catalog, err = v.API.FrameworkPosture(v.ctx(), q.Framework, 0); err != nil {
		return nil, err
	}
	for _, e := range q.Evidence {
		p, err := v.API.Predicate(v.ctx(), e.ID)
		if err != nil {
			return nil, err
		}
		d.Details = append(d.Details, p)
	}
	return d, nil
}

// predicatePage is a predicate with one of its results, down to the log.
type predicatePage struct {
	client.PostureDetail
	Shown   *client.Evidence // the one that is shown; nil: there is none
	Old     bool             // it is not the newest
	Trend   client.PostureTrend
	Times   []client.PostureSegment // of the trend, the newest first, as many as are listed
	Days    int
	Periods []box
	proven
	Bytes string // base64: those of the result, whose digest the log holds
}

// Caught reports whether the check that was given a violation saw it.
func (d predicatePage) Caught(what string) bool {
	return slices.ContainsFunc(d.Shown.Checks, func(c client.PostureCheck) bool { return c.Canary.What == what && c.Canary.Caught })
}

// Shares says how it went over the period of the page.
func (d predicatePage) Shares() string { return shareWords(d.Trend.Shares) }

// Links are the requirements that it is evidence for, by framework.
func (d predicatePage) Links() []frameworkLinks {
	by := map[string][]client.PostureLink{}
	for _, l := range d.For {
		by[l.Framework] = append(by[l.Framework], l)
	}
	var out []frameworkLinks
	for _, f := range slices.Sorted(maps.Keys(by)) {
		out = append(out, frameworkLinks{f, by[f]})
	}
	return out
}

// frameworkLinks are requirements of one framework.
type frameworkLinks struct {
	Framework string
	Links     []client.PostureLink
}

// mostTimes is how many times of a trend are listed.
const mostTimes = 20

func (c *Console) showPredicate(v *visit) (any, error) {
	p, err := v.API.Predicate(v.ctx(), v.Request.PathValue("id"))
	if err != nil {
		return nil, err
	}
	return v.predicate(p, p.Newest)
}

func (c *Console) showEvidence(v *visit) (any, error) {
	e, err := v.API.EvidenceByID(v.ctx(), v.Request.PathValue("id"))
	if err != nil {
		return nil, err
	}
	p, err := v.API.Predicate(v.ctx(), e.Predicate)
	if err != nil {
		return nil, err
	}
	return v.predicate(p, &e)
}

func (v *visit) predicate(p client.PostureDetail, e *client.Evidence) (any, error) {
	v.Title = p.ID + " " + p.Name
	d := predicatePage{PostureDetail: p, Shown: e, Old: e != nil && p.Newest != nil && e.ID != p.Newest.ID, Days: v.days(), Periods: v.periodBoxes()}
	trends, err := v.API.PostureTrends(v.ctx(), p.ID, d.Days)
	if err != nil || len(trends) == 0 {
		return nil, err
	}
	d.Trend = trends[0]
	d.Times = slices.Clone(d.Trend.Segments)
	slices.Reverse(d.Times)
	d.Times = d.Times[:min(len(d.Times), mostTimes)]
	if e == nil {
		return d, nil
	}
	b, err := v.API.EvidenceBytes(v.ctx(), e.ID)
	if err != nil {
		return nil, err
	}
	d.Bytes = base64.StdEncoding.EncodeToString(b)
	d.proven, err = v.proven(e.Event)
	return d, err
}
