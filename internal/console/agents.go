package console

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/client"
)

var agentPages = []page{
	{"/agents", "agents", "Agents", "agents", (*Console).showAgents},
	{"/agents/{name}", "agent", "Agent", "agents", (*Console).showAgent},
}

var agentActions = []action{
	{"/agents", "agents", (*Console).addAgent},
	{"/agents/{name}/stop", "agent", (*Console).stopAgent},
	{"/agents/{name}/resume", "agent", (*Console).resumeAgent},
	{"/agents/{name}/owner", "agent", (*Console).setAgentOwner},
	{"/agents/{name}/keys", "agent", (*Console).issueKey},
	{"/agents/{name}/keys/{key}/rotate", "agent", (*Console).rotateKey},
	{"/agents/{name}/keys/{key}/revoke", "agent", (*Console).revokeKey},
}

// agentRow is an agent in the inventory.
type agentRow struct {
	client.Agent
	Oldest   time.Time // of its live keys
	Reach    int       // tools that its grants name
	Findings int
}

type agentsPage struct {
	*listing[agentRow]
	Users []client.User
}

var agentColumns = []column[agentRow]{
	{Key: "name", Title: "Agent", Value: func(a agentRow) string { return a.Name }},
	{Key: "status", Title: "Status", Value: func(a agentRow) string { return a.Status }},
	{Key: "stage", Title: "Stage", Value: func(a agentRow) string { return a.Stage }},
	{Key: "owner", Title: "Owner", Value: func(a agentRow) string { return a.Owner }},
	{Key: "last_call", Title: "Last call", Value: func(a agentRow) string { return exact(a.LastCall) }, Less: func(a, b agentRow) int { return b.LastCall.Compare(a.LastCall) }},
	{Key: "oldest_key", Title: "Oldest key", Value: func(a agentRow) string { return exact(a.Oldest) }, Less: func(a, b agentRow) int { return a.Oldest.Compare(b.Oldest) }},
	{Key: "reach", Title: "Tools", Value: func(a agentRow) string { return fmt.Sprint(a.Reach) }, Less: func(a, b agentRow) int { return cmp.Compare(b.Reach, a.Reach) }, Number: true},
	{Key: "findings", Title: "Findings", Value: func(a agentRow) string { return fmt.Sprint(a.Findings) }, Less: func(a, b agentRow) int { return cmp.Compare(b.Findings, a.Findings) }, Number: true},
}

// mostFindings is how many open findings are counted at most.
const mostFindings = 1000

func (c *Console) showAgents(v *visit) (any, error) {
	agents, err := v.API.Agents(v.ctx())
	if err != nil {
		return nil, err
	}
	grants, err := v.API.Grants(v.ctx(), "")
	if err != nil {
		return nil, err
	}
	tools, err := v.API.Tools(v.ctx(), client.ToolQuery{})
	if err != nil {
		return nil, err
	}
	findings, err := v.API.Findings(v.ctx(), client.FindingQuery{Status: "open", Limit: mostFindings})
	if err != nil {
		return nil, err
	}
	about := map[string]int{}
	for _, f := range findings {
		about[f.Object]++
	}
	reach := reaches(grants, tools, v.Now())
	rows := make([]agentRow, len(agents))
	for i, a := range agents {
		rows[i] = agentRow{Agent: a, Reach: reach[a.Name], Findings: about["agent/"+a.Name]}
		for _, k := range a.Keys {
			if rows[i].Oldest.IsZero() || k.Created.Before(rows[i].Oldest) {
				rows[i].Oldest = k.Created
			}
		}
	}
	d := agentsPage{listing: arrange(v, rows, func(a agentRow) string { return a.Name }, agentColumns)}
	if v.May("write") {
		d.Users, err = v.API.Users(v.ctx())
	}
	return d, err
}

// reaches counts the tools that each agent's live grants name.
func reaches(grants []client.Grant, tools []client.Tool, now time.Time) map[string]int {
	per := map[string]int{}
	for _, t := range tools {
		per[t.Connection]++
	}
	seen, out := map[string]bool{}, map[string]int{}
	for _, g := range grants {
		if !g.Expires.IsZero() && g.Expires.Before(now) {
			continue
		}
		if slices.Contains(g.Tools, "*") {
			if k := g.Agent + "\x00" + g.Connection; !seen[k] {
				seen[k] = true
				out[g.Agent] += per[g.Connection]
			}
			continue
		}
		for _, t := range g.Tools {
			k := g.Agent + "\x00" + g.Connection
			if seen[k] || seen[k+"\x00"+t] {
				continue
			}
			seen[k+"\x00"+t] = true
			out[g.Agent]++
		}
	}
	return out
}

func (c *Console) addAgent(v *visit) (done, error) {
	f := v.Form
	a, err := v.reason().PutAgent(v.ctx(), f.Get("name"), client.AgentSpec{Owner: f.Get("owner"), Stage: f.Get("stage"), Purpose: f.Get("purpose"), BusinessProcess: f.Get("process")})
	return done{to: string(pathOf("/agents", a.Name)), said: a.Name + " is registered. Give it grants and a key, then its program can call."}, err
}

// agentPage is one agent with what it may and what it does.
type agentPage struct {
	client.Agent
	Grants   []grantRow
	Findings []client.Finding
	Locks    []client.Lock
	Runs     []client.RunSummary
	Users    []client.User
	Reach    graph
	Since    time.Time // use is known from here on
	Behind   int64     // events that are not counted yet
	Dead     int       // grants of which nothing was used
	Mine     bool      // the person may manage it
}

// grantRow is a grant with what was used of it.
type grantRow struct {
	client.Grant
	Use     client.GrantUse
	Used    map[string]time.Time // last use by tool
	Expired bool
}

func (c *Console) showAgent(v *visit) (any, error) {
	name := v.Request.PathValue("name")
	a, err := v.API.Agent(v.ctx(), name)
	if err != nil {
		return nil, err
	}
	v.Title = a.Name
	d := agentPage{Agent: a, Mine: v.May("write") || v.May("own") && a.Owner == v.Me.Name}
	if d.Findings, err = v.API.Findings(v.ctx(), client.FindingQuery{Status: "open", Object: "agent/" + name, Limit: 20}); err != nil {
		return nil, err
	}
	locks, err := v.API.Locks(v.ctx(), false)
	if err != nil {
		return nil, err
	}
	for _, l := range locks {
		if l.Kind == "everything" || l.Kind == "agent" && l.Name == name || l.Kind == "owner" && l.Name == a.Owner || l.Kind == "team" && a.Team != "" && l.Name == a.Team {
			d.Locks = append(d.Locks, l)
		}
	}
	if err := d.use(v); err != nil {
		return nil, err
	}
	if v.May("write") {
		d.Users, err = v.API.Users(v.ctx())
	}
	return d, err
}

// shownRuns is how many of an agent's runs its page shows.
const shownRuns = 12

// use compares what the agent may with what it used of it.
func (d *agentPage) use(v *visit) error {
	grants, err := v.API.Grants(v.ctx(), d.Name)
	if err != nil {
		return err
	}
	tools, err := v.API.Tools(v.ctx(), client.ToolQuery{})
	if err != nil {
		return err
	}
	uses, err := v.API.GrantUses(v.ctx(), d.Name)
	if err != nil {
		return err
	}
	d.Since, d.Behind = uses.Since, uses.Behind
	for _, g := range grants {
		row := grantRow{Grant: g, Used: map[string]time.Time{}, Expired: !g.Expires.IsZero() && g.Expires.Before(v.Now())}
		for _, u := range uses.Grants {
			if u.Grant == g.Name {
				row.Use = u
			}
		}
		for _, t := range row.Use.Tools {
			if !t.LastAllowed.IsZero() {
				row.Used[t.Tool] = t.LastAllowed
			}
		}
		if row.Use.Allowed == 0 {
			d.Dead++
		}
		d.Grants = append(d.Grants, row)
	}
	runs, err := v.API.Runs(v.ctx(), client.RunQuery{Agent: d.Name, Limit: shownRuns})
	if err != nil {
		return err
	}
	d.Runs = runs.Runs
	d.Reach = reachGraph(d.Name, d.Grants, tools)
	return nil
}

// quoted is a value in a query of the log.
func quoted(s string) string { return `"` + strings.NewReplacer(`\`, ``, `"`, ``).Replace(s) + `"` }

// lockWait is how long an action waits until every replica says it has stopped.
const lockWait = 5 * time.Second

func (c *Console) stopAgent(v *visit) (done, error) {
	name := v.Request.PathValue("name")
	l, err := v.reason().LockAgent(v.ctx(), name, "")
	if err != nil {
		return done{}, err
	}
	return done{to: string(pathOf("/agents", name)), said: v.inForce(l)}, nil
}

// inForce waits until every replica has cut what a lock covers, and says how it went.
func (v *visit) inForce(l client.LockState) string {
	for end := time.Now().Add(lockWait); len(l.Silent) > 0 && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		next, err := v.API.Lock(v.ctx(), l.ID)
		if err != nil {
			break
		}
		l = next
	}
	if len(l.Silent) > 0 {
		return fmt.Sprintf("The lock on %s stands, but these replicas have not said that it is in force there: %s.", l.On(), strings.Join(l.Silent, ", "))
	}
	if l.Cut == 0 {
		return fmt.Sprintf("%s is stopped on %s. No call was in flight.", l.On(), plural(len(l.Acks), "replica"))
	}
	return fmt.Sprintf("%s is stopped on %s: %s in flight cut, the last after %.0f ms.", l.On(), plural(len(l.Acks), "replica"), plural(l.Cut, "call"), l.Millis)
}

func (c *Console) resumeAgent(v *visit) (done, error) {
	name := v.Request.PathValue("name")
	api := v.reason()
	a, err := api.Agent(v.ctx(), name)
	if err != nil {
		return done{}, err
	}
	if a.Suspended {
		if _, err := api.Resume(v.ctx(), name); err != nil {
			return done{}, err
		}
	}
	locks, err := v.API.Locks(v.ctx(), false)
	if err != nil {
		return done{}, err
	}
	if slices.ContainsFunc(locks, func(l client.Lock) bool { return l.Kind == "agent" && l.Name == name }) {
		if _, err := api.UnlockAgent(v.ctx(), name); err != nil {
			return done{}, err
		}
	}
	return done{to: string(pathOf("/agents", name)), said: name + " may make calls again."}, nil
}

func (c *Console) setAgentOwner(v *visit) (done, error) {
	name := v.Request.PathValue("name")
	a, err := v.reason().SetOwner(v.ctx(), name, v.Form.Get("owner"), v.Form.Get("backup"))
	return done{to: string(pathOf("/agents", name)), said: a.Owner + " answers for " + name + " now."}, err
}

// issued is a credential that is shown this once.
type issued struct {
	What, Value, Back string
	Expires           time.Time
	Agent             string
	URL               string
}

func (c *Console) issued(k client.IssuedKey) done {
	return done{template: "issued", title: "A new key", data: issued{What: "key of " + k.Agent, Value: k.Value, Back: string(pathOf("/agents", k.Agent)), Expires: k.Expires, Agent: k.Agent, URL: c.url}}
}

func (c *Console) issueKey(v *visit) (done, error) {
	k, err := v.reason().IssueKey(v.ctx(), v.Request.PathValue("name"), v.Form.Get("expires_in"))
	if err != nil {
		return done{}, err
	}
	return c.issued(k), nil
}

func (c *Console) rotateKey(v *visit) (done, error) {
	k, err := v.reason().RotateKey(v.ctx(), v.Request.PathValue("name"), v.Request.PathValue("key"), "", "")
	if err != nil {
		return done{}, err
	}
	return c.issued(k), nil
}

func (c *Console) revokeKey(v *visit) (done, error) {
	name := v.Request.PathValue("name")
	err := v.reason().RevokeKey(v.ctx(), name, v.Request.PathValue("key"))
	return done{to: string(pathOf("/agents", name)), said: "The key is revoked and opens nothing any more."}, err
}
