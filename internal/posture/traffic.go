package posture

import (
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
)

// How far back the log is looked at, and how much of it at most.
const (
	window    = 30 * 24 * time.Hour
	perPage   = 1000
	mostPages = 50
)

// guestPrefix begins the names of throwaway agents.
const guestPrefix = "posture-probe-"

func isGuest(agent string) bool { return strings.HasPrefix(agent, guestPrefix) }

// IsProbe reports whether an agent is a throwaway one of a run.
func IsProbe(agent string) bool { return isGuest(agent) }

// right is a tool that an agent may call, or called.
type right struct{ agent, connection, tool string }

func (r right) object() string { return "agent/" + r.agent + " on tool/" + r.connection + "/" + r.tool }

// sight is when something was seen in the log.
type sight struct {
	event string // the latest
	at    time.Time
	calls int64
}

// traffic is what was observed at the doors.
type traffic struct {
	since  time.Time // how far back was looked
	agents map[string]sight
	rights map[right]sight             // calls that were let out
	held   map[string]map[string]sight // credential -> agents that came with it
	stages map[string]map[string]sight // connection -> stages of agents that called it
	calls  []audit.Event               // decided calls, the newest first
}

// observe reads the log once for all predicates of a run.
func (p *pass) observe() (*traffic, error) {
	if p.seen != nil {
		return p.seen, nil
	}
	t := &traffic{since: p.now.Add(-window), agents: map[string]sight{}, rights: map[right]sight{}, held: map[string]map[string]sight{}, stages: map[string]map[string]sight{}}
	q := audit.Query{Types: []audit.Type{audit.CallIntent, audit.CallDenied, audit.CallHeld}, Since: t.since, Limit: perPage}
	for page := 0; ; page++ {
		recs, err := p.s.o.Log.List(p.ctx, q)
		if err != nil {
			return nil, err
		}
		for _, r := range recs {
			t.add(r.Event)
		}
		if len(recs) < q.Limit {
			break
		}
		last := recs[len(recs)-1].Event
		if q.After = last.ID; page+1 == mostPages {
			t.since = last.Time
			break
		}
	}
	p.seen = t
	return t, nil
}

func (t *traffic) add(ev audit.Event) {
	if isGuest(ev.Agent) {
		return
	}
	t.calls = append(t.calls, ev)
	if ev.Agent == "" {
		return
	}
	see := func(m map[string]sight, key string) {
		s := m[key]
		if s.calls++; s.event == "" {
			s.event, s.at = ev.ID, ev.Time
		}
		m[key] = s
	}
	see(t.agents, ev.Agent)
	nested := func(m map[string]map[string]sight, key, inner string) {
		if key == "" || inner == "" {
			return
		}
		if m[key] == nil {
			m[key] = map[string]sight{}
		}
		see(m[key], inner)
	}
	nested(t.held, ev.Credential, ev.Agent)
	if ev.Type != audit.CallIntent {
		return
	}
	nested(t.stages, ev.Connection, ev.Stage)
	r := right{ev.Agent, ev.Connection, ev.Tool}
	s := t.rights[r]
	if s.calls++; s.event == "" {
		s.event, s.at = ev.ID, ev.Time
	}
	t.rights[r] = s
}
