package posture

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/inventory"
	"github.com/countersign/countersign/internal/policy"
)

// observed is a thing that passed by here, and what is wrong with it.
type observed struct{ inventory.Entry }

func (x observed) look() verdict {
	v := verdict{object: x.Kind + "/" + x.Name}
	for _, event := range []string{x.Origin, x.Event} {
		if event != "" && !slices.Contains(v.events, event) {
			v.events = append(v.events, event)
		}
	}
	if x.State == inventory.Registered {
		return v
	}
	if x.Aside != nil { // somebody knows of it and said why
		v.events = append(v.events, x.Aside.Event)
		return v
	}
	times := "once"
	if x.Times != 1 {
		times = fmt.Sprintf("%d times", x.Times)
	}
	v.bad = fmt.Sprintf("%s (%s, the last %s, by %s)", x.Why, times, x.Last.UTC().Format(time.RFC3339), cut(strings.Join(x.By, ", "), 200))
	return v
}

// registered is E1: what the inventory calls the difference.
func (p *pass) registered() []Check {
	const plant = "one that nobody registered"
	asked := []struct {
		question
		kinds []string
	}{
		{question{"agents", "Is every agent that called registered?", "agents", "no agent has called yet", "", plant}, []string{inventory.KindAgent}},
		{question{"tools", "Is every tool that was called, asked for or offered registered, and accepted by a person?", "tools and connections", "no tool was called yet", "", plant},
			[]string{inventory.KindTool, inventory.KindConnection}},
		{question{"callers", "Did nobody call who is no registered agent?", "unknown callers", "", "nobody unknown called in the last seven days", plant}, []string{inventory.KindCaller}},
		{question{"models", "Is every model that was asked or answered one that a price or a rule names?", "models", "", "no model was asked yet", plant}, []string{inventory.KindModel}},
		{question{"secrets", "Is every secret that turned up one that is kept here?", "secrets", "", "no secret turned up where it does not belong", plant}, []string{inventory.KindSecret}},
		{question{"networks", "Is every network that agents call from, and every host that they asked for, known?", "networks and hosts", "", "no agent called from a network, or asked for a host", plant},
			[]string{inventory.KindNetwork, inventory.KindHost}},
	}
	all, _, behind, err := p.s.o.Inventory.Observed(p.ctx)
	if err == nil && behind > 0 {
		err = fmt.Errorf("%d records of the log are not read yet; try again in a moment", behind)
	}
	var out []Check
	for _, q := range asked {
		var rows []observed
		for _, e := range all {
			if slices.Contains(q.kinds, e.Kind) {
				rows = append(rows, observed{e})
			}
		}
		canary := observed{inventory.Entry{Kind: q.kinds[0], Name: "canary", State: inventory.Unregistered, Why: "it is not registered", Last: p.now}}
		out = append(out, answer(p, q.question, rows, err, canary, observed.look))
	}
	return out
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
