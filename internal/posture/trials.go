package posture

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/policy"
)

// trial is a credential, or a request, that had to be refused.
type trial struct {
	object  string // "no credential at /mcp/ledger"
	status  int
	refused bool
	events  []string
	err     error
}

func (t trial) look() verdict {
	v := verdict{object: t.object, events: t.events}
	switch {
	case t.err != nil:
		v.gap = cut(t.err.Error(), 200)
	case !t.refused:
		v.bad = "it was let through"
		if t.status != 0 {
			v.bad = fmt.Sprintf("it was let through (%d)", t.status)
		}
	}
	return v
}

// try presents a credential at every door.
func (p *pass) try(what string, doors []Door, credential func(Door) (string, error)) []trial {
	var out []trial
	for _, d := range doors {
		t := trial{object: what + " at " + d.Path}
		cred, err := credential(d)
		if err == nil {
			t.status, t.refused, err = p.s.o.Doors.Try(p.ctx, d.Path, cred)
		}
		t.err = err
		out = append(out, t)
	}
	return out
}

// refused is E7.
func (p *pass) refused() []Check {
	const none, plant = "no connection is registered: there is nothing behind the doors", "a good credential, which is let in, taken for one that must be refused"
	names := []question{
		{"no credential", "Is a request without a credential refused at every door?", "doors", none, "", plant},
		{"forged token", "Is a token refused whose content was changed?", "doors", none, "", plant},
		{"expired", "Is an expired credential refused at every door?", "doors", none, "", plant},
		{"wrong audience", "Is a token refused at a door that it was not issued for?", "doors", none, "there is one door only: no token is for another", plant},
		{"out of grant", "Is a call refused that nothing allows?", "tools", none, "", "a call that policy allows"},
		{"other stage", "Is a call from another stage refused where production calls?", "tools", "", "no agent in production may call anything", "a call that policy allows"},
		{"stages", "Is no secret used by production and by another stage?", "connections", "", "no connection with a secret was called", "a secret that two stages use"},
	}
	doors := p.doors()
	if len(doors) == 0 {
		var out []Check
		for _, q := range names {
			out = append(out, unasked(q, none))
		}
		return out
	}
	g, err := p.visit()
	if err != nil {
		var out []Check
		for _, q := range names {
			out = append(out, failed(q, err))
		}
		return out
	}
	good := p.control(doors[0], g)
	out := []Check{
		judge(p, names[0], p.try("no credential", doors, func(Door) (string, error) { return "", nil }), good, trial.look),
		judge(p, names[1], p.try("forged token", doors, func(d Door) (string, error) { return p.forged(g, d) }), good, trial.look),
		judge(p, names[2], p.try("expired key", doors, func(Door) (string, error) { return p.expired(g) }), good, trial.look),
		judge(p, names[3], p.elsewhere(doors, g), good, trial.look),
	}
	outside, other, err := p.outOfGrant(g)
	if err != nil {
		out = append(out, failed(names[4], err), failed(names[5], err))
	} else {
		out = append(out, judge(p, names[4], outside, good, trial.look), judge(p, names[5], other, good, trial.look))
	}
	return append(out, p.stages(names[6]))
}

// control is the positive control: a good credential at a door. If it is not let
// in, that others are not proves nothing.
func (p *pass) control(d Door, g *guest) trial {
	status, refused, err := p.s.o.Doors.Try(p.ctx, d.Path, g.key)
	return trial{object: "good key at " + d.Path, status: status, refused: refused, err: err}
}

// forged is a good access token with another content under the same signature.
func (p *pass) forged(g *guest, d Door) (string, error) {
	token, err := p.s.o.Doors.Exchange(p.ctx, g.key, "read", []string{d.Path})
	if err != nil {
		return "", err
	}
	head, rest, ok := strings.Cut(token, ".")
	body, sig, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 || len(body) < 40 {
		return "", fmt.Errorf("the issuer's token is not of three parts")
	}
	i := len(body) / 2
	swap := byte('A')
	if body[i] == swap {
		swap = 'B'
	}
	return head + "." + body[:i] + string(swap) + body[i+1:] + "." + sig, nil
}

// expired is a key that was good for a moment.
func (p *pass) expired(g *guest) (string, error) {
	if p.late != "" {
		return p.late, nil
	}
	k, value, err := p.s.o.Identity.IssueKey(p.ctx, audit.System, guestWhy, g.agent.Name, time.Millisecond)
	if err != nil {
		return "", err
	}
	if wait := time.Until(k.Expires); wait > 0 {
		select {
		case <-p.ctx.Done():
			return "", p.ctx.Err()
		case <-time.After(wait + time.Millisecond):
		}
	}
	p.late = value
	return value, nil
}

// elsewhere tries tokens at doors that they are not for.
func (p *pass) elsewhere(doors []Door, g *guest) []trial {
	var out []trial
	for _, d := range doors {
		i := slices.IndexFunc(doors, func(o Door) bool { return o.Path != d.Path && !strings.HasPrefix(d.Path, o.Path+"/") })
		if i < 0 {
			continue
		}
		other := doors[i].Path
		out = append(out, p.try("token for "+other, []Door{d}, func(Door) (string, error) {
			return p.s.o.Doors.Exchange(p.ctx, g.key, "read", []string{other})
		})...)
	}
	return out
}

// mostAsked is how many tools of a connection are asked for.
const mostAsked = 3

// outOfGrant asks for tools that nothing allows the throwaway agent. What the
// log says of it counts: a refusal, and no call that was let out. A tool that
// policy would allow is not asked for: that is the violation.
func (p *pass) outOfGrant(g *guest) (all, production []trial, err error) {
	for _, d := range p.doors() {
		if d.Connection == "" {
			continue
		}
		c, _ := p.s.o.Connections.Connection(d.Connection)
		asked := 0
		for _, t := range p.s.o.Connections.Tools(c.Name) {
			if t.Protocol() || !t.Callable() || asked == mostAsked {
				continue
			}
			asked++
			x := p.ask(g, d, c, t)
			all = append(all, x)
			if p.inProduction(c, t) {
				x.object += " from development"
				production = append(production, x)
			}
		}
	}
	return all, production, nil
}

func (p *pass) ask(g *guest, d Door, c connections.Connection, t connections.Tool) trial {
	x := trial{object: "call of tool/" + c.Name + "/" + t.Name}
	if dec := p.may(g, c, t); dec.Effect != policy.Deny {
		x.object += fmt.Sprintf(", which %v give to everybody", append(dec.Policies, dec.Grants...))
		return x
	}
	before := p.s.o.Now()
	if x.err = p.s.o.Doors.Ask(p.ctx, d, t, g.key); x.err != nil {
		return x
	}
	recs, err := p.s.o.Log.List(p.ctx, audit.Query{Agent: g.agent.Name, Since: before.Add(-time.Second), Types: []audit.Type{audit.CallIntent, audit.CallDenied, audit.CallRefused, audit.CallHeld}, Limit: 100})
	if x.err = err; err != nil {
		return x
	}
	for _, r := range recs {
		if r.Event.Connection != c.Name || r.Event.Time.Before(before.Add(-time.Millisecond)) {
			continue
		}
		x.events = append(x.events, r.Event.ID)
		if r.Event.Type == audit.CallIntent {
			x.refused = false
			return x
		}
		x.refused = true
	}
	if len(x.events) == 0 {
		x.err = fmt.Errorf("it was asked for, and the log has nothing of it")
	}
	return x
}

// inProduction reports whether an agent in production may call a tool.
func (p *pass) inProduction(c connections.Connection, t connections.Tool) bool {
	return slices.ContainsFunc(p.s.o.Identity.Agents(), func(a identityAgent) bool {
		return a.Stage == "production" && !a.Suspended && p.s.o.Policy.Reach(policy.Agent{Name: a.Name, Team: a.Team, Stage: a.Stage, Owner: a.Owner, Labels: a.Labels},
			policy.Action{Connection: c.Name, Tool: t.Name, Effect: t.Effect, Kind: c.Kind}).Possible
	})
}

// mixed is a connection with a secret, and the stages that called it.
type mixed struct {
	connection string
	stages     map[string]sight
}

func (m mixed) look() verdict {
	v := verdict{object: "connection/" + m.connection}
	if _, ok := m.stages["production"]; ok && len(m.stages) > 1 {
		v.bad = "production and another stage use its secret"
		for _, s := range m.stages {
			v.events = append(v.events, s.event)
		}
		slices.Sort(v.events)
	}
	return v
}

func (p *pass) stages(q question) Check {
	t, err := p.observe()
	if err != nil {
		return failed(q, err)
	}
	var rows []mixed
	for _, c := range p.s.o.Connections.Connections() {
		if len(c.SecretNames()) > 0 && len(t.stages[c.Name]) > 0 {
			rows = append(rows, mixed{c.Name, t.stages[c.Name]})
		}
	}
	return judge(p, q, rows, mixed{"canary", map[string]sight{"production": {}, "development": {}}}, mixed.look)
}

// widening is a part of E6: a token for reading is exchanged for one that writes.
func (p *pass) widening(q question) Check {
	doors := p.doors()
	if len(doors) == 0 {
		return unasked(q, q.none)
	}
	g, err := p.visit()
	if err != nil {
		return failed(q, err)
	}
	at := []string{doors[0].Path}
	narrow, err := p.s.o.Doors.Exchange(p.ctx, g.key, "read", at)
	if err != nil {
		return failed(q, err)
	}
	had := func(what, scope string, paths []string) trial {
		_, err := p.s.o.Doors.Exchange(p.ctx, narrow, scope, paths)
		return trial{object: what, refused: err != nil}
	}
	rows := []trial{had("a token that writes, for one that reads", "read write", at)}
	if len(doors) > 1 {
		other := doors[slices.IndexFunc(doors, func(d Door) bool { return d.Path != doors[0].Path })].Path
		if !strings.HasPrefix(other, doors[0].Path+"/") {
			rows = append(rows, had("a token for "+other+", for one for "+doors[0].Path, "read", []string{other}))
		}
	}
	return judge(p, q, rows, had("a token for the same", "read", at), trial.look)
}
