package posture

import (
	"encoding/json/v2"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/policy"
)

// granted is a right as policy sees it, and its use.
type granted struct {
	right
	by    []string // grants and policies that give it
	used  sight
	since time.Time // it is watched from here on
	now   time.Time
}

// unusedAfter is how long a right may stay without use.
const unusedAfter = window

func (g granted) look() verdict {
	v := verdict{object: g.object()}
	switch {
	case g.used.calls > 0:
		v.events = []string{g.used.event}
	case g.now.Sub(g.since) >= unusedAfter:
		v.bad = fmt.Sprintf("it was not used since %s, and %s gives it", g.since.UTC().Format(time.DateOnly), strings.Join(g.by, ", "))
	}
	return v
}

// entitled is a grant as it was given.
type entitled struct {
	grant policy.Grant
	write bool // it reaches a tool that changes something
}

func (e entitled) look() verdict {
	v := verdict{object: "grant/" + e.grant.Name}
	switch {
	case slices.Contains(e.grant.Tools, "*"):
		v.bad = "it gives every tool of " + e.grant.Connection + ", those that come later too"
	case e.write && e.grant.Expires.IsZero():
		v.bad = "it lets the agent change something and never expires"
	}
	return v
}

// reviewed is a grant and when somebody looked at it.
type reviewed struct {
	object string
	at     time.Time
	now    time.Time
}

// reviewAfter is how long a decision about a grant counts.
const reviewAfter = 90 * 24 * time.Hour

func (r reviewed) look() verdict {
	v := verdict{object: r.object}
	switch {
	case r.at.IsZero():
		v.bad = "nobody reviewed it"
	case r.now.Sub(r.at) > reviewAfter:
		v.bad = "it was last reviewed on " + r.at.UTC().Format(time.DateOnly)
	}
	return v
}

// least is E5.
func (p *pass) least() []Check {
	use := question{"use", "Was every right used in the last 30 days, or is it newer?", "rights", "no agent may call anything", "", "a right that was never used"}
	wide := question{"width", "Is every grant for named tools, and bounded in time where it changes something?", "grants", "nothing is granted", "", "a grant for every tool of a connection"}
	looked := question{"reviews", "Was every grant reviewed in the last 90 days?", "grants", "nothing is granted", "", "a grant that nobody reviewed"}
	duties := question{"duties", "Does nobody hold rights that must be apart?", "agents", "no agent is registered", "", "two duties that must be apart"}
	grants, err := p.s.o.Policy.Grants(p.ctx, "")
	if err != nil {
		return []Check{failed(use, err), failed(wide, err), failed(looked, err), failed(duties, err)}
	}
	grants = slices.DeleteFunc(grants, func(g policy.Grant) bool { return !g.Expires.IsZero() && !g.Expires.After(p.now) })
	used, err := p.rights(grants)
	out := []Check{answer(p, use, used, err, granted{right: right{"canary", "ledger", "pay"}, now: p.now}, granted.look)}
	rows := make([]entitled, len(grants))
	for i, g := range grants {
		rows[i] = entitled{g, p.changes(g)}
	}
	out = append(out, judge(p, wide, rows, entitled{grant: policy.Grant{Name: "canary", Tools: []string{"*"}}}, entitled.look))
	if p.s.o.Reviews == nil {
		const why = "reviews of rights are not in this version"
		return append(out, unasked(looked, why), unasked(duties, "rules about duties that must be apart are not in this version"))
	}
	return append(out, p.reviews(looked, duties, grants)...)
}

// burdened is an agent and the duties of it that must be apart.
type burdened struct {
	object    string
	conflicts []string
}

func (b burdened) look() verdict {
	return verdict{object: b.object, bad: strings.Join(b.conflicts, "; ")}
}

func (p *pass) reviews(looked, duties question, grants []policy.Grant) []Check {
	at, conflicts, err := p.s.o.Reviews(p.ctx)
	if err != nil {
		return []Check{failed(looked, err), failed(duties, err)}
	}
	var rows []reviewed
	for _, g := range grants {
		rows = append(rows, reviewed{"grant/" + g.Name, at[g.Name], p.now})
	}
	var apart []burdened
	if conflicts == nil { // nobody has said which duties must be apart
		duties.apart = "no duties are declared that must be apart"
	}
	for _, a := range p.s.o.Identity.Agents() {
		if conflicts != nil && !isGuest(a.Name) && a.Retired.IsZero() {
			apart = append(apart, burdened{"agent/" + a.Name, conflicts[a.Name]})
		}
	}
	return []Check{
		judge(p, looked, rows, reviewed{object: "canary", now: p.now}, reviewed.look),
		judge(p, duties, apart, burdened{"canary", []string{"two duties that must be apart"}}, burdened.look),
	}
}

func (p *pass) changes(g policy.Grant) bool {
	for _, name := range g.Tools {
		if t, ok := p.s.o.Connections.Tool(g.Connection, name); ok && t.Effect != "read" {
			return true
		}
	}
	return false
}

// rights lists what agents may call, as policy says without looking at
// conditions, with its use. What may be called only because the connection
// speaks its protocol is no right of its own.
func (p *pass) rights(grants []policy.Grant) ([]granted, error) {
	t, err := p.observe()
	if err != nil {
		return nil, err
	}
	given := map[string]time.Time{}
	for _, g := range grants {
		given["grant:"+g.Name] = g.Created
	}
	var out []granted
	for _, a := range p.s.o.Identity.Agents() {
		if isGuest(a.Name) || !a.Retired.IsZero() {
			continue
		}
		who := policy.Agent{Name: a.Name, Team: a.Team, Stage: a.Stage, Owner: a.Owner, Labels: a.Labels}
		for _, c := range p.s.o.Connections.Connections() {
			for _, tool := range p.s.o.Connections.Tools(c.Name) {
				if tool.Builtin && tool.Protocol() || !tool.Callable() {
					continue
				}
				r := p.s.o.Policy.Reach(who, policy.Action{Connection: c.Name, Tool: tool.Name, Effect: tool.Effect, Kind: c.Kind})
				if !r.Possible {
					continue
				}
				x := right{a.Name, c.Name, tool.Name}
				out = append(out, granted{right: x, by: r.By, used: t.rights[x], since: watched(t.since, given, r.By, a.Created, c.Created, tool.PinnedAt), now: p.now})
			}
		}
	}
	return out, nil
}

// watched is since when a right can have been used and its use be seen: not
// before its parts were there, nor before what was read of the log.
func watched(since time.Time, given map[string]time.Time, by []string, parts ...time.Time) time.Time {
	first := time.Time{} // when the earliest of its givers was there
	for _, name := range by {
		if at, ok := given[name]; ok && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	for _, at := range append(parts, first) {
		if at.After(since) {
			since = at
		}
	}
	return since
}

// attributed is a call and whom it leads to.
type attributed struct{ ev audit.Event }

func (c attributed) look() verdict {
	v := verdict{object: "call/" + c.ev.Call, events: []string{c.ev.ID}}
	if c.ev.Call == "" {
		v.object = "event/" + c.ev.ID
	}
	switch {
	case c.ev.Agent == "":
		v.bad = "it leads to no agent"
	case c.ev.Owner == "":
		v.bad = "nobody answers for its agent"
	case c.ev.Credential == "":
		v.bad = "it came without a credential"
	}
	for _, who := range c.ev.OnBehalfOf {
		if who.ID == "" || who.Kind == "" {
			v.bad = "its principal chain has a link that names nobody"
		}
	}
	return v
}

// issued is what the event of a token says of it.
type issued struct {
	Token    string    `json:"token"`
	Scope    string    `json:"scope"`
	Audience []string  `json:"audience"`
	Expires  time.Time `json:"expires"`
	From     string    `json:"subject_credential"`
}

// delegated is a token that was had for another.
type delegated struct {
	event  string
	token  issued
	parent *issued // nil: unknown
	whole  bool    // the parent is a key, run or person's token: every scope, every audience
}

func (d delegated) look() verdict {
	v := verdict{object: "token/" + d.token.Token, events: []string{d.event}}
	if d.parent == nil && !d.whole {
		v.gap = "the token that it was had for is not in the log that was read"
		return v
	}
	if d.parent == nil {
		return v
	}
	if !d.parent.Expires.IsZero() && d.token.Expires.After(d.parent.Expires) {
		v.bad = "it lives longer than the token it was had for"
	}
	if d.whole {
		return v
	}
	inner, err1 := identity.ParseScope(d.token.Scope)
	outer, err2 := identity.ParseScope(d.parent.Scope)
	switch {
	case err1 != nil || err2 != nil || !inner.Within(outer):
		v.bad = fmt.Sprintf("its scope %q is more than %q, which it was had for", d.token.Scope, d.parent.Scope)
	case !within(d.token.Audience, d.parent.Audience):
		v.bad = fmt.Sprintf("it is good at %v, the token it was had for at %v", d.token.Audience, d.parent.Audience)
	}
	return v
}

// within reports whether every resource lies at or beneath one of outer.
func within(inner, outer []string) bool {
	for _, r := range inner {
		if !slices.ContainsFunc(outer, func(o string) bool { return r == o || strings.HasPrefix(r, o+"/") }) {
			return false
		}
	}
	return true
}

// passedOn is E6.
func (p *pass) passedOn() []Check {
	calls := question{"calls", "Does every call lead to one agent, its owner and a credential?", "calls", "nothing was called yet", "", "a call that leads to nobody"}
	less := question{"delegation", "Is what was passed on never more than what it came from?", "tokens", "", "no token was exchanged for another", "a token for more than the one it was had for"}
	wider := question{"widening", "Is a token refused that asks for more than the one it is had for?", "trials", "there is no door yet at which a token would be good", "", "a token for the same, which is had, taken for one that must be refused"}
	t, err := p.observe()
	if err != nil {
		return []Check{failed(calls, err), failed(less, err), failed(wider, err)}
	}
	var rows []attributed
	for _, ev := range t.calls {
		if ev.Agent != "" || ev.Actor.Kind != audit.KindUser && ev.Actor.Kind != audit.KindSystem { // those are Countersign's own, such as looking at tools
			rows = append(rows, attributed{ev})
		}
	}
	out := []Check{judge(p, calls, rows, attributed{audit.Event{ID: "canary"}}, attributed.look)}
	passed, err := p.exchanges()
	more := delegated{token: issued{Token: "canary", Scope: "read write"}, parent: &issued{Scope: "read"}}
	return append(out, answer(p, less, passed, err, more, delegated.look), p.widening(wider))
}

// exchanges reads the tokens that were had for others.
func (p *pass) exchanges() ([]delegated, error) {
	q := audit.Query{Types: []audit.Type{"token.exchanged", "token.issued"}, Since: p.now.Add(-window), Limit: perPage}
	known := map[string]issued{}
	var rows []delegated
	for range mostPages {
		recs, err := p.s.o.Log.List(p.ctx, q)
		if err != nil {
			return nil, err
		}
		for _, r := range recs {
			var d issued
			if json.Unmarshal(r.Event.Detail, &d) != nil {
				continue
			}
			known[d.Token] = d
			if r.Event.Type == "token.exchanged" && d.From != "" && !isGuest(r.Event.Agent) {
				rows = append(rows, delegated{event: r.Event.ID, token: d})
			}
		}
		if len(recs) < q.Limit {
			break
		}
		q.After = recs[len(recs)-1].Event.ID
	}
	for i := range rows {
		d := &rows[i]
		if parent, ok := known[d.token.From]; ok && parent.Scope != "" {
			d.parent = &parent
			continue
		}
		// Keys, runs and tokens of people are for everything their holder may do.
		d.whole = !strings.HasPrefix(d.token.From, "atk_")
	}
	return rows, nil
}
