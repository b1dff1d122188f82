package posture

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/lifecycle"
	"github.com/countersign/countersign/internal/locks"
)

type identityAgent = identity.Agent

// retired is an agent that was decommissioned, and what is left of it.
type retired struct {
	name  string
	state string   // of its decommission
	left  []string // what it still has
	after sight    // a call after its end
}

func (r retired) look() verdict {
	v := verdict{object: "agent/" + r.name}
	switch {
	case r.after.event != "":
		v.bad, v.events = "it called after its end", []string{r.after.event}
	case len(r.left) > 0:
		v.bad = "it still has " + strings.Join(r.left, ", ")
	case r.state == lifecycle.LetThrough:
		v.bad = "a credential of it was let through afterwards"
	case r.state != lifecycle.Refused:
		v.gap = "its credentials were not tried yet"
	}
	return v
}

// ended is E8.
func (p *pass) ended() []Check {
	gone := question{"decommissioned", "Has every agent that was ended nothing left, and was it refused afterwards?", "agents", "", "no agent was decommissioned", "an ended agent with a key"}
	drill := question{"drill", "Is what an agent had refused at every door once it is ended?", "trials", "no agent is registered", "", "its key before the end, which is let in, taken for one that must be refused"}
	rows, err := p.retirees()
	first := answer(p, gone, rows, err, retired{name: "canary", state: lifecycle.Refused, left: []string{"1 key"}}, retired.look)
	return []Check{first, p.endDrill(drill)}
}

func (p *pass) retirees() ([]retired, error) {
	all, err := p.s.o.Lifecycle.Decommissions(p.ctx)
	if err != nil {
		return nil, err
	}
	t, err := p.observe()
	if err != nil {
		return nil, err
	}
	var rows []retired
	for _, a := range p.s.o.Identity.Agents() {
		if a.Retired.IsZero() || isGuest(a.Name) {
			continue
		}
		r := retired{name: a.Name}
		for _, d := range all {
			if d.AgentID == a.ID {
				r.state = d.State
			}
		}
		if s := t.agents[a.Name]; s.at.After(a.Retired) {
			r.after = s
		}
		if r.left, err = p.left(a.Name); err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// left says what an agent still has.
func (p *pass) left(agent string) (out []string, err error) {
	keys, err := p.s.o.Identity.Keys(p.ctx, agent)
	if err != nil {
		return nil, err
	}
	live := 0
	for _, k := range keys {
		if s := k.Status(p.now); s == identity.Active || s == identity.Rotating {
			live++
		}
	}
	grants, err := p.s.o.Policy.Grants(p.ctx, agent)
	if err != nil {
		return nil, err
	}
	public, err := p.s.o.Tokens.ClientKeys(p.ctx, agent)
	if err != nil {
		return nil, err
	}
	registered := 0
	for _, k := range public {
		if k.Status(p.now) == identity.Active {
			registered++
		}
	}
	rules, err := p.s.o.Tokens.Rules(p.ctx)
	if err != nil {
		return nil, err
	}
	trusted := 0
	for _, r := range rules {
		if r.Agent == agent {
			trusted++
		}
	}
	for _, x := range []struct {
		n    int
		what string
	}{{live, "keys"}, {len(grants), "grants"}, {registered, "client keys"}, {trusted, "trust rules"}} {
		if x.n > 0 {
			out = append(out, fmt.Sprintf("%d %s", x.n, x.what))
		}
	}
	return out, nil
}

// endDrill decommissions the throwaway agent and tries its key at every door,
// before and after.
func (p *pass) endDrill(q question) Check {
	doors := p.doors()
	if len(doors) == 0 || p.empty() {
		return unasked(q, "no agent or no connection is registered: nothing could go on after an end")
	}
	g, err := p.visit()
	if err != nil {
		return failed(q, err)
	}
	before := p.control(doors[0], g)
	if _, err := p.s.o.Lifecycle.Decommission(p.ctx, audit.System, "a drill: "+guestWhy, g.agent.Name); err != nil {
		return failed(q, err)
	}
	rows := p.try("key of an ended agent", doors, func(Door) (string, error) { return g.key, nil })
	p.leave()
	return judge(p, q, rows, before, trial.look)
}

// empty reports whether no agent but our own is registered.
func (p *pass) empty() bool {
	for _, a := range p.s.o.Identity.Agents() {
		if !isGuest(a.Name) {
			return false
		}
	}
	return true
}

// stopWithin is how long a stop may take until it is in force everywhere.
const stopWithin = time.Second

// How often a stop is tried, and how long it is waited for.
const (
	stops     = 5
	stopGiven = 10 * time.Second
)

const forbidden = 403 // the HTTP status of who is known and may not

// stopped is one stop and how long it took.
type stopped struct {
	object  string
	took    time.Duration
	silent  []string // replicas that did not say so
	refused bool     // at the door, afterwards
	err     error
}

func (s stopped) look() verdict {
	v := verdict{object: s.object}
	switch {
	case s.err != nil:
		v.gap = cut(s.err.Error(), 200)
	case !s.refused:
		v.bad = "the agent was let in although it was stopped"
	case len(s.silent) > 0:
		v.bad = "replicas did not say that they stopped it: " + strings.Join(s.silent, ", ")
	case s.took > stopWithin:
		v.bad = fmt.Sprintf("it took %d ms", s.took.Milliseconds())
	}
	return v
}

// shown is a request whose call was executed, with what the log has of it.
type shown struct {
	r       approvals.Request
	decided []audit.Event
	made    *audit.Event // the intent of the executed call; nil: there is none
	check   func(audit.Event) string
}

func (s shown) look() verdict {
	v := verdict{object: "approval/" + s.r.ID, events: []string{s.r.Event}}
	for _, d := range s.r.Decisions {
		for _, x := range s.r.Excluded {
			if d.Verdict == approvals.Approve && d.ID == x.ID {
				v.bad = d.Name + " approved it and was excluded from it"
			}
		}
	}
	for _, ev := range s.decided {
		v.events = append(v.events, ev.ID)
		if wrong := s.check(ev); wrong != "" {
			v.bad = "the signature of a decision is not right: " + wrong
		}
	}
	if len(s.decided) == 0 {
		v.gap = "the log has no decision about it"
	}
	if s.made == nil {
		v.gap = "the log has no intent of the executed call"
		return v
	}
	v.events = append(v.events, s.made.ID)
	if ev, b := s.made, s.r.Binding; ev.Agent != b.Agent || ev.Connection != b.Connection || ev.Tool != b.Tool {
		v.bad = fmt.Sprintf("%s/%s by %s was executed, %s/%s by %s was approved", ev.Connection, ev.Tool, ev.Agent, b.Connection, b.Tool, b.Agent)
	}
	return v
}

// unlike is a request for one tool whose call was made of another.
func (p *pass) unlike() shown {
	r := approvals.Request{ID: "canary"}
	r.Binding.Agent, r.Binding.Connection, r.Binding.Tool = "canary", "ledger", "read"
	return shown{r: r, made: &audit.Event{Agent: "canary", Connection: "ledger", Tool: "pay"}, check: p.s.o.Approvals.Check}
}

// overseen is E12.
func (p *pass) overseen() []Check {
	drill := question{"stop", "Is an agent refused on every replica within a second of being stopped, five times of five?", "stops", "no agent is registered", "", "a stop that took ten seconds"}
	kept := question{"approvals", "Was every approved call executed as it was shown, and approved under a signature by someone who may?", "executed approvals", "no call was executed after an approval", "", "an approval for one tool, and a call of another"}
	first := p.stopDrill(drill)
	rows, err := p.executed()
	return []Check{first, answer(p, kept, rows, err, p.unlike(), shown.look)}
}

func (p *pass) stopDrill(q question) Check {
	doors := p.doors()
	if len(doors) == 0 || p.empty() {
		return unasked(q, "no agent or no connection is registered: there is nothing to stop")
	}
	g, err := p.visit()
	if err != nil {
		return failed(q, err)
	}
	var rows []stopped
	for i := range stops {
		rows = append(rows, p.stop(fmt.Sprintf("stop %d", i+1), doors[0], g))
	}
	return judge(p, q, rows, stopped{object: "canary", took: 10 * time.Second, refused: true}, stopped.look)
}

// stop locks the throwaway agent, and lifts the lock again.
func (p *pass) stop(object string, d Door, g *guest) (s stopped) {
	s.object = object
	c := p.control(d, g)
	if c.err != nil || c.refused {
		s.err = fmt.Errorf("the throwaway agent was not let in before the stop (%d)", c.status)
		return s
	}
	l, err := p.s.o.Locks.Add(p.ctx, audit.System, locks.Lock{Kind: locks.Agent, Name: g.agent.Name, Reason: "a drill of posture"}, 10*time.Minute)
	if err != nil {
		s.err = err
		return s
	}
	s.object += " (" + l.ID + ")"
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), 10*time.Second)
		defer cancel()
		if _, err := p.s.o.Locks.Lift(ctx, audit.System, "the drill is over", l.ID); err != nil && s.err == nil {
			s.err = err
		}
	}()
	for given := p.s.o.Now().Add(stopGiven); ; {
		st, err := p.s.o.Locks.State(p.ctx, l.ID)
		if err != nil {
			s.err = err
			return s
		}
		s.silent, s.took = st.Silent, time.Duration(st.Millis*float64(time.Millisecond))
		if len(st.Silent) == 0 && len(st.Acks) > 0 || p.s.o.Now().After(given) {
			break
		}
		select {
		case <-p.ctx.Done():
			s.err = p.ctx.Err()
			return s
		case <-time.After(20 * time.Millisecond):
		}
	}
	status, refused, err := p.s.o.Doors.Try(p.ctx, d.Path, g.key)
	s.refused = refused || status == forbidden && c.status != forbidden // a lock is no refusal of the credential
	s.err = err
	return s
}

// executed lists the requests whose call was executed.
func (p *pass) executed() ([]shown, error) {
	var rows []shown
	q := approvals.Query{State: approvals.Executed, Limit: perPage}
	for range mostPages {
		page, err := p.s.o.Approvals.List(p.ctx, q)
		if err != nil {
			return nil, err
		}
		for _, r := range page {
			if r.Created.Before(p.now.Add(-window)) {
				return rows, nil
			}
			row, err := p.integrity(r)
			if err != nil {
				return nil, err
			}
			rows = append(rows, row)
		}
		if len(page) < q.Limit {
			return rows, nil
		}
		q.Before = page[len(page)-1].ID
	}
	return rows, nil
}

// integrity gathers what the log has of an executed request.
func (p *pass) integrity(r approvals.Request) (shown, error) {
	s := shown{r: r, check: p.s.o.Approvals.Check}
	recs, err := p.s.o.Log.List(p.ctx, audit.Query{Call: r.Call, Limit: 200})
	if err != nil {
		return s, err
	}
	for _, rec := range recs {
		switch rec.Event.Type {
		case "approval.granted", "approval.voted", "approval.overridden":
			s.decided = append(s.decided, rec.Event)
		}
	}
	out, err := p.s.o.Log.List(p.ctx, audit.Query{Call: r.ExecCall, Types: []audit.Type{audit.CallIntent}, Limit: 1})
	if err == nil && len(out) > 0 {
		s.made = &out[0].Event
	}
	return s, err
}
