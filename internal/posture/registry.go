package posture

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/policy"
)

// strangerDays is how long ago somebody unknown may have called to count.
const strangerDays = 7

// met is something that was observed and should be registered.
type met struct {
	object string
	last   sight
	known  bool
	gone   time.Time // when it was deleted, if it was
	why    string    // what is wrong if it is not known
}

func (m met) look() verdict {
	v := verdict{object: m.object}
	if m.last.event != "" {
		v.events = []string{m.last.event}
	}
	if !m.known && m.last.at.After(m.gone) {
		v.bad = m.why
	}
	return v
}

// registered is E1.
func (p *pass) registered() []Check {
	agents := question{"agents", "Is every agent that called registered?", "agents", "no agent has called yet", "", "a call by an agent that nobody registered"}
	tools := question{"tools", "Is every tool that was called registered, and accepted by a person?", "tools", "no tool was called yet", "", "a call of a tool that nobody registered"}
	callers := question{"callers", "Did nobody call who is no registered agent?", "unknown callers", "", "nobody unknown called in the last seven days", "an unknown caller"}
	t, err := p.observe()
	if err != nil {
		return []Check{failed(agents, err), failed(tools, err), failed(callers, err)}
	}
	gone, err := p.removed("agent.deleted", "connection.deleted")
	if err != nil {
		return []Check{failed(agents, err), failed(tools, err), failed(callers, err)}
	}
	var seen []met
	for _, name := range slices.Sorted(maps.Keys(t.agents)) {
		_, ok := p.s.o.Identity.Agent(name)
		seen = append(seen, met{"agent/" + name, t.agents[name], ok, gone["agent/"+name], "it called and is not registered"})
	}
	canary := met{object: "agent/canary", last: sight{at: p.now}, why: "it called and is not registered"}
	out := []Check{judge(p, agents, seen, canary, met.look), judge(p, tools, p.toolsMet(t, gone), canary, met.look)}
	strangers, err := p.s.o.Inventory.Strangers(p.ctx)
	if err != nil {
		return append(out, failed(callers, err))
	}
	var unknown []met
	for _, x := range strangers {
		// A person who mistypes a password is no agent.
		if p.s.o.Ours(x.Remote, x.Client) || strings.HasPrefix(x.Why, "login_") || x.Last.Before(p.now.Add(-strangerDays*24*time.Hour)) {
			continue
		}
		unknown = append(unknown, met{object: "caller/" + x.Remote, last: sight{at: x.Last},
			why: fmt.Sprintf("%d calls by %q without being registered, the last %s: %s", x.Calls, cut(x.Client, 80), x.Last.UTC().Format(time.RFC3339), x.Why)})
	}
	return append(out, judge(p, callers, unknown, canary, met.look))
}

func (p *pass) toolsMet(t *traffic, gone map[string]time.Time) []met {
	type name struct{ connection, tool string }
	called := map[name]sight{}
	for r, s := range t.rights {
		n := name{r.connection, r.tool}
		if old := called[n]; s.at.After(old.at) {
			s.calls += old.calls
			called[n] = s
		}
	}
	var out []met
	for n, s := range called {
		tool, ok := p.s.o.Connections.Tool(n.connection, n.tool)
		why := "it was called and is not registered"
		if ok && tool.Status == connections.StatusNew {
			ok, why = false, "it was called and nobody accepted it"
		}
		out = append(out, met{"tool/" + n.connection + "/" + n.tool, s, ok, gone["connection/"+n.connection], why})
	}
	slices.SortFunc(out, func(a, b met) int { return cmpText(a.object, b.object) })
	return out
}

func cmpText(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// answered is an agent and who answers for it.
type answered struct {
	name, owner string
	there       bool // the owner is a user
	active      bool
	last        sight
}

func (a answered) look() verdict {
	v := verdict{object: "agent/" + a.name}
	if a.last.event != "" {
		v.events = []string{a.last.event}
	}
	switch {
	case a.owner == "":
		v.bad = "it has no owner"
	case !a.there:
		v.bad = "its owner " + a.owner + " is no user"
	case !a.active:
		v.bad = "its owner " + a.owner + " is not active any more"
	}
	return v
}

// held is a credential and the agents that came with it.
type held struct {
	credential string
	agents     map[string]sight
}

func (h held) look() verdict {
	v := verdict{object: "credential/" + h.credential}
	if len(h.agents) > 1 {
		v.bad = fmt.Sprintf("%d agents came with it: %v", len(h.agents), slices.Sorted(maps.Keys(h.agents)))
		for _, s := range h.agents {
			v.events = append(v.events, s.event)
		}
		slices.Sort(v.events)
	}
	return v
}

// owned is E2.
func (p *pass) owned() []Check {
	owners := question{"owners", "Does an active person answer for every agent?", "agents", "no agent is registered", "", "an agent whose owner left"}
	apart := question{"identities", "Did every credential come from one agent alone?", "credentials", "no credential was used yet", "", "a credential that two agents came with"}
	t, err := p.observe()
	if err != nil {
		return []Check{failed(owners, err), failed(apart, err)}
	}
	var rows []answered
	for _, a := range p.s.o.Identity.Agents() {
		if isGuest(a.Name) || !a.Retired.IsZero() {
			continue
		}
		u, ok := p.s.o.Identity.User(a.Owner)
		rows = append(rows, answered{a.Name, a.Owner, ok, ok && !u.Disabled, t.agents[a.Name]})
	}
	var creds []held
	for _, c := range slices.Sorted(maps.Keys(t.held)) {
		creds = append(creds, held{c, t.held[c]})
	}
	return []Check{
		judge(p, owners, rows, answered{name: "canary", owner: "left", there: true}, answered.look),
		judge(p, apart, creds, held{"canary", map[string]sight{"one": {}, "two": {}}}, held.look),
	}
}

// pinned is a thing that a person approved, and what runs.
type pinned struct {
	object, approved, running string
	events                    []string
	bad                       string // what is wrong besides
}

func (x pinned) look() verdict {
	v := verdict{object: x.object, bad: x.bad, events: x.events}
	if v.bad == "" && x.approved != x.running {
		v.bad = fmt.Sprintf("%s was approved and %s runs", short(x.approved), short(x.running))
	}
	return v
}

func short(digest string) string {
	if digest == "" {
		return "nothing"
	}
	return cut(digest, 16)
}

// approved is E9.
func (p *pass) approved() []Check {
	tools := question{"tools", "Is every tool as a person accepted it?", "tools", "", "no tool has a definition that could change", "a tool whose definition changed"}
	rules := question{"policies", "Do the policies and grants that were saved decide?", "rule sets", "there is no policy and no grant", "", "a rule set other than the saved one"}
	prompts := question{"prompts", "Are the prompts of agents as approved?", "agents", "no agent outside development asked a model yet", "", "a prompt that changed"}
	changed := pinned{object: "canary", approved: "as accepted", running: "as changed"}
	pins, err := p.toolPins()
	out := []Check{answer(p, tools, pins, err, changed, pinned.look)}
	pins, err = p.rulePins()
	out = append(out, answer(p, rules, pins, err, changed, pinned.look))
	if p.s.o.Releases == nil {
		return append(out, unasked(prompts, "releases, which pin an agent's prompts, are not in this version"))
	}
	rows, err := p.s.o.Releases(p.ctx)
	if err != nil {
		return append(out, failed(prompts, err))
	}
	pins = nil
	for _, r := range rows {
		if !isGuest(r.Agent) {
			pins = append(pins, pinned{object: "agent/" + r.Agent, approved: r.Approved, running: r.Running, bad: r.Bad, events: r.Events})
		}
	}
	return append(out, judge(p, prompts, pins, changed, pinned.look))
}

func (p *pass) toolPins() ([]pinned, error) {
	open, err := p.open(connections.RuleDrift, connections.RuleNew)
	if err != nil {
		return nil, err
	}
	var out []pinned
	for _, c := range p.s.o.Connections.Connections() {
		for _, t := range p.s.o.Connections.Tools(c.Name) {
			if t.Builtin || t.Status == connections.StatusGone {
				continue
			}
			x := pinned{object: "tool/" + c.Name + "/" + t.Name, approved: t.Digest, running: t.Digest}
			x.events = open[x.object]
			switch t.Status {
			case connections.StatusDrifted:
				x.running = t.DriftDigest
			case connections.StatusNew:
				x.bad = "nobody accepted it; it is refused until somebody does"
			}
			out = append(out, x)
		}
	}
	return out, nil
}

// open returns the events of open findings under some rules, by what they are about.
func (p *pass) open(rules ...string) (map[string][]string, error) {
	out := map[string][]string{}
	for _, rule := range rules {
		found, err := p.s.o.Findings.List(p.ctx, findings.Query{Status: findings.Open, Rule: rule, Limit: 1000})
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			out[f.Object] = append(out[f.Object], f.Events...)
		}
	}
	return out, nil
}

// rulePins compares the rules that decide with those in the store.
func (p *pass) rulePins() ([]pinned, error) {
	files, err := p.s.o.Policy.Files(p.ctx)
	if err != nil {
		return nil, err
	}
	grants, err := p.s.o.Policy.Grants(p.ctx, "")
	if err != nil {
		return nil, err
	}
	if len(files)+len(grants) == 0 {
		return nil, nil
	}
	texts := map[string]string{}
	for _, f := range files {
		texts[f.Name] = f.Text
	}
	set, _, err := policy.Compile(texts, grants, p.s.o.Tools.ToolTypes())
	if err != nil {
		return nil, err
	}
	out := []pinned{{object: "policies", approved: set.Decide(policy.Request{Now: p.now}).Version, running: p.s.o.Policy.Version()}}
	for _, bad := range p.s.o.Policy.Problems() {
		out = append(out, pinned{object: "policy/" + bad.File, bad: "it does not fit what is registered: " + cut(bad.Message, 200)})
	}
	return out, nil
}
