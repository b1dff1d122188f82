package use

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/v2"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/policy"
)

// The kinds of proposals.
const (
	Remove    = "remove"    // it was not used, or is over
	Tools     = "tools"     // without the tools that were not used
	Arguments = "arguments" // only the values that were used
	Stage     = "stage"     // only the stage in which it was used; by stage, if there are several
	Expiry    = "expiry"    // an end, or an earlier one
)

// The states of proposals.
const (
	Proposed = "proposed"
	Tried    = "tried"
	Accepted = "accepted"
	Reverted = "reverted"
	Dropped  = "dropped"
)

// Proposal is a way to make a grant smaller without taking what was used.
type Proposal struct {
	ID     string         `json:"id" doc:"GRANT:DIGEST"`
	Grant  string         `json:"grant"`
	Agent  string         `json:"agent"`
	Kind   string         `json:"kind" enum:"remove,tools,arguments,stage,expiry"`
	Why    string         `json:"why"`
	Before policy.Grant   `json:"before"`
	After  []policy.Grant `json:"after" doc:"what it becomes; none: it is revoked"`
	Diff   string         `json:"diff" doc:"unified"`
	Since  time.Time      `json:"since" doc:"use from then on was looked at"`
	// What it would have refused of the calls since then.
	Calls   int64           `json:"calls" doc:"recorded calls that were decided again"`
	Refused int64           `json:"refused" doc:"of these, calls that it would have refused"`
	Unseen  int64           `json:"unseen,omitzero" doc:"of these, calls of which nothing is said: their arguments are not kept"`
	Partial bool            `json:"partial,omitempty" doc:"only the newest calls were decided again"`
	Changes []policy.Change `json:"changes,omitempty" doc:"with examples"`

	State       string    `json:"state" enum:"proposed,tried,accepted,reverted,dropped"`
	Made        time.Time `json:"made"`
	Changed     time.Time `json:"changed" doc:"when it came into its state"`
	By          string    `json:"by,omitempty"`
	Reason      string    `json:"reason,omitempty"`
	WouldRefuse int64     `json:"would_refuse,omitzero" doc:"while it is tried: calls that were allowed and that it would have refused"`
	LastRefusal time.Time `json:"last_refusal,omitzero" doc:"of these, or after it was accepted, the last"`

	noticed int64
	taken   []policy.Grant // the names of these are
}

// Options of the judgement.
const (
	defaultWindow = 90 * 24 * time.Hour
	fewCalls      = 10 // so few tell nothing about the values of arguments
)

// judge proposes what may be taken from a grant, in the order of how much.
// Nothing is proposed for one that is younger than the window: that it was not
// used says nothing.
func (s *Service) judge(g policy.Grant, all []policy.Grant, used map[key]*tally, since, watched, now time.Time) []Proposal {
	p := Proposal{Grant: g.Name, Agent: g.Agent, Before: g, Since: since, taken: all}
	if !g.Expires.IsZero() && !g.Expires.After(now) {
		return []Proposal{p.of(Remove, "it has expired")}
	}
	if watched.After(since) {
		return nil
	}
	mine := map[key]*tally{}
	for k, t := range used {
		if k.rule == grantRule+g.Name && k.agent == g.Agent && k.connection == g.Connection && t.allowed+t.held > 0 {
			mine[k] = t
		}
	}
	if len(mine) == 0 {
		return []Proposal{p.of(Remove, "it was not used since "+since.UTC().Format(time.DateOnly))}
	}
	var out []Proposal
	for _, one := range []func(Proposal, map[key]*tally) (Proposal, bool){s.fewerTools, s.fewerValues, s.byStage, func(p Proposal, _ map[key]*tally) (Proposal, bool) { return s.ending(p, since, now) }} {
		if next, ok := one(p, mine); ok {
			out = append(out, next)
		}
	}
	return out
}

// of completes a proposal.
func (p Proposal) of(kind, why string, after ...policy.Grant) Proposal {
	p.Kind, p.Why, p.After, p.State = kind, why, after, Proposed
	if p.After == nil {
		p.After = []policy.Grant{}
	}
	p.Diff = diff(p.Before, p.After)
	p.ID = p.Grant + ":" + p.digest()
	return p
}

// digest is of what the proposal changes into what.
func (p *Proposal) digest() string {
	var says []policy.Grant
	for _, g := range append([]policy.Grant{p.Before}, p.After...) {
		says = append(says, policy.Grant{Name: g.Name, Agent: g.Agent, Connection: g.Connection, Tools: g.Tools, When: g.When, Expires: g.Expires.UTC()})
	}
	b, err := json.Marshal(says, json.Deterministic(true))
	if err != nil {
		b = fmt.Append(nil, says) // cannot be: grants are texts and times
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:5])
}

func usedTools(mine map[key]*tally) []string {
	seen := map[string]bool{}
	var out []string
	for k := range mine {
		if !seen[k.tool] {
			seen[k.tool] = true
			out = append(out, k.tool)
		}
	}
	slices.Sort(out)
	return out
}

// fewerTools leaves out the tools that were not used.
func (s *Service) fewerTools(p Proposal, mine map[key]*tally) (Proposal, bool) {
	used, g := usedTools(mine), p.Before
	if g.Tools[0] == "*" {
		g.Tools = used
		return p.of(Tools, "of all tools of "+g.Connection+", these were used: "+strings.Join(used, ", "), g), len(used) <= maxTools
	}
	var kept, not []string
	for _, t := range g.Tools {
		if slices.Contains(used, t) {
			kept = append(kept, t)
		} else {
			not = append(not, t)
		}
	}
	g.Tools = kept
	return p.of(Tools, "these tools were not used since "+p.Since.UTC().Format(time.DateOnly)+": "+strings.Join(not, ", "), g), len(not) > 0 && len(kept) > 0
}

// maxTools is how many tools a grant may name.
const maxTools = 200

// fewerValues bounds the arguments of each tool to the values that they had, as
// far as all of them are known.
func (s *Service) fewerValues(p Proposal, mine map[key]*tally) (Proposal, bool) {
	g := p.Before
	if g.Tools[0] == "*" {
		return p, false // first its tools
	}
	var rest []string
	var after []policy.Grant
	var why []string
	for _, name := range g.Tools {
		all := &tally{}
		for k, t := range mine {
			if k.tool == name {
				all.merge(t)
			}
		}
		cond := s.o.Policy.Condition(policy.Action{Connection: g.Connection, Tool: name}, bounds(all))
		one := g
		one.Name, one.Tools, one.When = childName(g.Name, name, slices.Concat(p.taken, after)), []string{name}, and(g.When, cond)
		if cond == "" || strings.Contains(g.When, cond) || len(one.When) > maxWhen {
			rest = append(rest, name)
			continue
		}
		after, why = append(after, one), append(why, fmt.Sprintf("%s in %d calls", name, all.allowed))
	}
	switch {
	case len(after) == 0:
		return p, false
	case len(rest) > 0:
		g.Tools = rest
		after = append([]policy.Grant{g}, after...)
	default: // the first keeps the name
		after[0].Name = g.Name
	}
	return p.of(Arguments, "only these values were used: "+strings.Join(why, ", "), after...), true
}

// maxWhen is how long a grant's condition may be, in bytes.
const maxWhen = 4096

func and(when, cond string) string {
	if when == "" {
		return cond
	}
	return "(" + when + ") &&\n" + cond
}

// bounds are the arguments of which every value is known.
func bounds(t *tally) []policy.Bound {
	if t.allowed < fewCalls {
		return nil
	}
	var out []policy.Bound
	for path, o := range t.args {
		if !o.Whole(t.allowed) {
			continue
		}
		b := policy.Bound{Argument: policy.Argument{Path: path, Kind: o.Kind}, Min: o.Min, Max: o.Max, Values: o.Values, Never: o.Seen == 0}
		if o.Kind == policy.KindLong || o.Kind == policy.KindDecimal {
			b.Min, b.Max = -outwards(-o.Min), outwards(o.Max)
		}
		out = append(out, b)
	}
	slices.SortFunc(out, func(a, b policy.Bound) int { return strings.Compare(a.Path, b.Path) })
	return out
}

// outwards returns the next number not below n that has two digits and zeros:
// the next invoice is hardly ever below the greatest so far.
func outwards(n int64) int64 {
	unit := int64(1)
	for n/unit >= 100 || n/unit <= -100 {
		unit *= 10
	}
	up := n / unit * unit
	if up >= n {
		return up
	}
	if up > 1<<62 {
		return n
	}
	return up + unit
}

// byStage binds the grant to the stage in which it was used, or divides it by
// stages.
func (s *Service) byStage(p Proposal, mine map[key]*tally) (Proposal, bool) {
	g := p.Before
	tools := map[string][]string{}
	for k := range mine {
		if !slices.Contains(policy.Stages(), k.stage) {
			return p, false // such a call would be refused
		}
		if !slices.Contains(tools[k.stage], k.tool) {
			tools[k.stage] = append(tools[k.stage], k.tool)
		}
	}
	var stages []string
	for st, names := range tools {
		slices.Sort(names)
		stages = append(stages, st)
	}
	slices.Sort(stages)
	var after []policy.Grant
	for i, st := range stages {
		one := g
		cond := fmt.Sprintf("principal in Stage::%q", st)
		if strings.Contains(g.When, cond) {
			return p, false // it is bound already
		}
		if one.When = and(g.When, cond); len(one.When) > maxWhen {
			return p, false
		}
		if len(stages) > 1 {
			one.Tools = tools[st]
			if i > 0 {
				one.Name = childName(g.Name, st, slices.Concat(p.taken, after))
			}
		}
		after = append(after, one)
	}
	return p.of(Stage, "it was used in "+strings.Join(stages, ", ")+" alone", after...), len(stages) < len(policy.Stages())
}

// ending gives an end to a grant that lets its agent change something.
func (s *Service) ending(p Proposal, since, now time.Time) (Proposal, bool) {
	g := p.Before
	changes := g.Tools[0] == "*"
	for _, name := range g.Tools {
		changes = changes || s.o.Policy.Effect(policy.Action{Connection: g.Connection, Tool: name}) != "read"
	}
	end := now.Add(now.Sub(since)).UTC().Truncate(24 * time.Hour).Add(24 * time.Hour)
	why := "it lets the agent change something and never ends"
	if !g.Expires.IsZero() {
		why = "it lets the agent change something until " + g.Expires.UTC().Format(time.DateOnly)
	}
	later := g.Expires.IsZero() || g.Expires.After(end.Add(7*24*time.Hour))
	g.Expires = end
	return p.of(Expiry, why, g), changes && later
}

// childName names a part of a grant, unlike those that there are.
func childName(grant, part string, others []policy.Grant) string {
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.' {
			return r
		}
		return '-'
	}, strings.ToLower(part))
	base := grant + "." + clean
	base = base[:min(len(base), 95)]
	name := base
	for n := 2; slices.ContainsFunc(others, func(g policy.Grant) bool { return g.Name == name }); n++ {
		name = fmt.Sprintf("%s-%d", base, n)
	}
	return name
}
