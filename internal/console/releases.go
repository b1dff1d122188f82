package console

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/countersign/countersign/client"
)

var releasePages = []page{
	{"/releases", "releases", "Releases", "agents", (*Console).showReleases},
	{"/agents/{name}/releases", "agentreleases", "Releases", "agents", (*Console).showAgentReleases},
	{"/agents/{name}/releases/{number}", "release", "Release", "agents", (*Console).showRelease},
}

var releaseActions = []action{
	{"/agents/{name}/releases", "agentreleases", (*Console).createRelease},
	{"/agents/{name}/releases/promote", "agentreleases", (*Console).promoteRelease},
	{"/agents/{name}/releases/{number}/promote", "release", (*Console).promoteRelease},
	{"/agents/{name}/releases/rollback", "agentreleases", (*Console).rollBackRelease},
	{"/releases/{request}/decision", "releases", (*Console).decideRelease},
}

// releasesPage is every agent's newest release, and what waits for a second person.
type releasesPage struct {
	*listing[client.Release]
	Waiting []client.ReleaseRequest
}

var releaseColumns = []column[client.Release]{
	{Key: "agent", Title: "Agent", Value: func(r client.Release) string { return r.Agent }, Less: func(a, b client.Release) int {
		return cmp.Or(strings.Compare(a.Agent, b.Agent), cmp.Compare(b.Number, a.Number))
	}},
	{Key: "number", Title: "Release", Value: func(r client.Release) string { return fmt.Sprint(r.Number) }, Less: func(a, b client.Release) int { return cmp.Compare(b.Number, a.Number) }, Number: true},
	{Key: "created", Title: "Made", Value: func(r client.Release) string { return exact(r.Created) }, Less: func(a, b client.Release) int { return b.Created.Compare(a.Created) }},
	{Key: "by", Title: "By", Value: func(r client.Release) string { return r.By }},
	{Key: "reason", Title: "Why", Value: func(r client.Release) string { return r.Reason }},
	{Key: "pins", Title: "Pins", Value: pins},
}

// pins says what a release holds fast.
func pins(r client.Release) string {
	parts := []string{plural(len(r.Tools), "tool")}
	for _, p := range []struct {
		n    int
		what string
	}{{len(r.Models), "model"}, {len(r.Prompts), "prompt"}, {len(r.Grants), "grant"}, {len(r.Policies), "policy"}} {
		if p.n > 0 {
			parts = append(parts, plural(p.n, p.what))
		}
	}
	return strings.Join(parts, ", ")
}

func releaseKey(r client.Release) string { return fmt.Sprintf("%s %d", r.Agent, r.Number) }

func (c *Console) showReleases(v *visit) (any, error) {
	all, err := v.API.Releases(v.ctx(), "")
	if err != nil {
		return nil, err
	}
	d := releasesPage{listing: arrange(v, all, releaseKey, releaseColumns)}
	d.Waiting, err = v.API.ReleaseRequests(v.ctx(), false)
	return d, err
}

// agentReleasesPage is the history of an agent's releases.
type agentReleasesPage struct {
	Agent   client.Agent
	State   client.ReleaseState
	List    []client.Release
	Drift   []client.ReleaseChange // of the agent as it is, against what is in force
	Waiting []client.ReleaseRequest
	Stages  []string
	Mine    bool // the person may manage it
}

func (c *Console) showAgentReleases(v *visit) (any, error) {
	name := v.Request.PathValue("name")
	a, err := v.API.Agent(v.ctx(), name)
	if err != nil {
		return nil, err
	}
	v.Title = "Releases of " + a.Name
	d := agentReleasesPage{Agent: a, Mine: v.May("write") || v.May("own") && a.Owner == v.Me.Name, Stages: releaseStages}
	if d.List, err = v.API.Releases(v.ctx(), name); err != nil {
		return nil, err
	}
	if d.State, err = v.API.ReleaseState(v.ctx(), name); err != nil {
		return nil, err
	}
	if d.State.Active > 0 {
		diff, err := v.API.DiffReleases(v.ctx(), name, d.State.Active, asItIs)
		if err != nil {
			return nil, err
		}
		d.Drift = diff.Changes
	}
	waiting, err := v.API.ReleaseRequests(v.ctx(), false)
	for _, r := range waiting {
		if r.Agent == name {
			d.Waiting = append(d.Waiting, r)
		}
	}
	return d, err
}

// asItIs stands for the agent as it is now, in a comparison.
const asItIs = -1

// Before lists the releases that were in force, to which a rollback may return.
func (d agentReleasesPage) Before() []int64 {
	var out []int64
	seen := map[int64]bool{d.State.Active: true, 0: true}
	for _, m := range d.State.Moves {
		for _, n := range []int64{m.Previous, m.Number} {
			if !seen[n] && m.Stage == d.State.Stage {
				seen[n] = true
				out = append(out, n)
			}
		}
	}
	return out
}

// releasePage is one release, and what differs in it.
type releasePage struct {
	client.Release
	Against client.ReleaseDiff // the one in force, or the agent as it is
	Active  int64
	State   client.ReleaseState
	Gate    client.ReleaseReport // what stands between the release and a stage
	Stages  []string
	Mine    bool // the person may manage it
}

func (c *Console) showRelease(v *visit) (any, error) {
	name := v.Request.PathValue("name")
	n, err := strconv.ParseInt(v.Request.PathValue("number"), 10, 64)
	if err != nil || n < 1 {
		return nil, &client.Error{Status: 404, Detail: "There is no such release."}
	}
	d := releasePage{}
	if d.Release, err = v.API.Release(v.ctx(), name, n); err != nil {
		return nil, err
	}
	v.Title = fmt.Sprintf("Release %d of %s", n, name)
	st, err := v.API.ReleaseState(v.ctx(), name)
	if err != nil {
		return nil, err
	}
	from, to := n, int64(asItIs)
	if d.Active = st.Active; st.Active > 0 && st.Active != n {
		from, to = st.Active, n
	}
	if d.Against, err = v.API.DiffReleases(v.ctx(), name, from, to); err != nil {
		return nil, err
	}
	d.State = st
	return d, d.gate(v)
}

// releaseStages are those that a release is promoted to.
var releaseStages = []string{"development", "staging", "production"}

// gate asks what stands between the release and the stage that the address names;
// without, the agent's own, or the one above development.
func (d *releasePage) gate(v *visit) error {
	a, err := v.API.Agent(v.ctx(), d.Agent)
	if err != nil {
		return err
	}
	d.Stages, d.Mine = releaseStages, v.May("write") || v.May("own") && a.Owner == v.Me.Name
	stage := v.Query("stage")
	if !slices.Contains(releaseStages, stage) {
		if stage = a.Stage; stage == releaseStages[0] {
			stage = releaseStages[1]
		}
	}
	d.Gate, err = v.API.CheckRelease(v.ctx(), d.Agent, d.Number, stage, nil)
	return err
}

// Missing are the things of the gate that are not so.
func (d releasePage) Missing() []client.ReleaseItem {
	return slices.DeleteFunc(slices.Clone(d.Gate.Items), func(i client.ReleaseItem) bool { return i.OK })
}

// Met is how many are.
func (d releasePage) Met() int { return len(d.Gate.Items) - len(d.Missing()) }

// Named are the tools but for the protocol's own messages.
func (d releasePage) Named() []client.ReleaseTool {
	var out []client.ReleaseTool
	for _, t := range d.Tools {
		if !strings.HasPrefix(t.Name, "mcp:") {
			out = append(out, t)
		}
	}
	return out
}

// Protocol is how many of the tools are the protocol's own messages.
func (d releasePage) Protocol() int { return len(d.Tools) - len(d.Named()) }

// fieldLines splits a field into its lines.
func fieldLines(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	return out
}

func (c *Console) createRelease(v *visit) (done, error) {
	name := v.Request.PathValue("name")
	r, err := v.reason().CreateRelease(v.ctx(), name, client.ReleaseSpec{Models: fieldLines(v.Form.Get("models"))})
	return done{to: string(pathOf("/agents", name, "releases")), said: fmt.Sprintf("Release %d holds what %s is now. It binds nothing until it is promoted.", r.Number, name)}, err
}

func (c *Console) promoteRelease(v *visit) (done, error) {
	name := v.Request.PathValue("name")
	n, err := strconv.ParseInt(v.Form.Get("number"), 10, 64)
	if err != nil {
		return done{}, &client.Error{Status: 422, Detail: "Choose a release."}
	}
	ask := client.ReleaseAsk{Number: n, Stage: v.Form.Get("stage"), Accept: v.Form["accept"]}
	if share := strings.TrimSpace(v.Form.Get("percent")); share != "" {
		if ask.Percent, err = strconv.ParseInt(share, 10, 64); err != nil || ask.Percent < 1 || ask.Percent > 100 {
			return done{}, &client.Error{Status: 422, Detail: "The share of the runs is 1 to 100 percent."}
		}
	}
	r, err := v.reason().PromoteRelease(v.ctx(), name, ask)
	said := fmt.Sprintf("Release %d of %s is in force.", n, name)
	if ask.Percent > 0 {
		said = fmt.Sprintf("Release %d of %s is tried by %d %% of its runs. A bad one rolls itself back.", n, name, ask.Percent)
	}
	if r.State == "open" {
		said = fmt.Sprintf("Release %d of %s waits for another person to approve it.", n, name)
	}
	return done{to: string(pathOf("/agents", name, "releases")), said: said}, err
}

func (c *Console) rollBackRelease(v *visit) (done, error) {
	name := v.Request.PathValue("name")
	to, err := strconv.ParseInt(cmp.Or(v.Form.Get("to"), "0"), 10, 64)
	if err != nil {
		return done{}, &client.Error{Status: 422, Detail: "Choose a release to return to."}
	}
	m, err := v.reason().RollBackRelease(v.ctx(), name, to)
	x := m.Restored
	said := fmt.Sprintf("Release %d of %s is in force again on every replica: %s given back, %s revoked, %s restored.", m.Number, name, plural(len(x.Given), "grant"), plural(len(x.Revoked), "grant"), plural(len(x.Policies), "policy"))
	for _, more := range []struct {
		names []string
		what  string
	}{{x.Shared, "they are about other agents too"}, {x.Kept, "they forbid something"}} {
		if len(more.names) > 0 {
			said += " These policies stay, because " + more.what + ": " + strings.Join(more.names, ", ") + "."
		}
	}
	return done{to: string(pathOf("/agents", name, "releases")), said: said}, err
}

func (c *Console) decideRelease(v *visit) (done, error) {
	approve := v.Form.Get("verdict") == "approve"
	r, err := v.reason().DecideRelease(v.ctx(), v.Request.PathValue("request"), approve)
	said := "Denied."
	if approve {
		said = fmt.Sprintf("Release %d of %s is in force.", r.Number, r.Agent)
	}
	return done{to: "/releases", said: said}, err
}
