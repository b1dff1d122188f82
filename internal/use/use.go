package use

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

// Use is what became of an agent's calls of a tool in one stage.
type Use struct {
	Agent        string               `json:"agent"`
	Connection   string               `json:"connection"`
	Tool         string               `json:"tool"`
	Rule         string               `json:"rule,omitempty" doc:"of these calls, those that a grant (grant:NAME) or a policy determined; empty: all"`
	Stage        string               `json:"stage,omitempty" doc:"of the agent when it called"`
	Day          time.Time            `json:"day,omitzero" doc:"of the calls; absent: all days"`
	Allowed      int64                `json:"allowed"`
	Denied       int64                `json:"denied"`
	Held         int64                `json:"held"`
	FirstAllowed time.Time            `json:"first_allowed,omitzero"`
	LastAllowed  time.Time            `json:"last_allowed,omitzero"`
	LastDenied   time.Time            `json:"last_denied,omitzero"`
	LastHeld     time.Time            `json:"last_held,omitzero"`
	LastEvent    string               `json:"last_event,omitempty" doc:"of the last allowed call"`
	Arguments    map[string]*Observed `json:"arguments,omitempty" doc:"values in allowed calls, of arguments that policies name"`
}

// Query selects use. Empty fields select everything.
type Query struct {
	Agent, Connection, Tool string
	Rule                    string    // grant:NAME or a policy; "" is every one
	Pairs                   bool      // only whole pairs, without rules
	Since, Until            time.Time // days in which these are, both included
	Days                    bool      // each day for itself
}

// Watched says how much of the log an answer rests on.
type Watched struct {
	Since  time.Time `json:"since,omitzero" doc:"it is watched from here on: of what was before nothing is known"`
	Behind int64     `json:"behind,omitempty" doc:"events that were recorded and not looked at yet"`
}

// freshWithin is how long an answer waits until what was recorded before it is
// known.
const freshWithin = 2 * time.Second

// Uses returns what q selects, by agent, tool, rule, stage and day.
func (s *Service) Uses(ctx context.Context, q Query) ([]Use, Watched, error) {
	found, w, err := s.find(ctx, q)
	if err != nil {
		return nil, w, err
	}
	if !q.Days {
		found = overDays(found)
	}
	out := make([]Use, 0, len(found))
	for _, k := range slices.SortedFunc(maps.Keys(found), compareKeys) {
		u := found[k].use(k)
		if q.Days {
			u.Day = day(k.day)
		}
		out = append(out, u)
	}
	return out, w, nil
}

func overDays(found map[key]*tally) map[key]*tally {
	out := map[key]*tally{}
	for k, t := range found {
		k.day = 0
		if out[k] == nil {
			out[k] = &tally{}
		}
		out[k].merge(t)
	}
	return out
}

func (t *tally) use(k key) Use {
	return Use{Agent: k.agent, Connection: k.connection, Tool: k.tool, Rule: k.rule, Stage: k.stage, Allowed: t.allowed, Denied: t.denied, Held: t.held,
		FirstAllowed: storage.Time(t.first), LastAllowed: storage.Time(t.last), LastDenied: storage.Time(t.lastDenied), LastHeld: storage.Time(t.lastHeld),
		LastEvent: t.event, Arguments: t.args}
}

// find returns the tallies that q selects: what is written, and what this
// replica gathered since. They are the caller's.
func (s *Service) find(ctx context.Context, q Query) (map[key]*tally, Watched, error) {
	w, err := s.fresh(ctx)
	if err != nil {
		return nil, w, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if _, err := s.step(ctx); err != nil { // what is written may have moved
			return nil, w, err
		}
		c := q.where()
		found, err := s.store.days(ctx, s.db, c.sql(), c.args...)
		if err != nil {
			return nil, w, err
		}
		st, err := s.store.state(ctx)
		if err != nil {
			return nil, w, err
		}
		if !s.tail.follows(st, s.tail.erasures) {
			continue // written while it was read
		}
		w.Since = storage.Time(s.tail.since)
		for k, t := range s.tail.tallies {
			if !q.selects(k) {
				continue
			}
			if found[k] == nil {
				found[k] = &tally{}
			}
			found[k].merge(t)
		}
		return found, w, nil
	}
}

// fresh waits, for a moment, until what is in the log now is known.
func (s *Service) fresh(ctx context.Context) (Watched, error) {
	head, err := s.log.Head(ctx)
	if err != nil {
		return Watched{}, err
	}
	for end := time.Now().Add(freshWithin); ; {
		s.mu.Lock()
		n, err := s.step(ctx)
		behind := s.behind(head)
		s.mu.Unlock()
		switch {
		case err != nil:
			return Watched{}, err
		case behind == 0, n == 0, time.Now().After(end), ctx.Err() != nil:
			return Watched{Behind: behind}, ctx.Err()
		}
	}
}

func (s *Service) behind(head audit.Cursor) (n int64) {
	if s.tail == nil {
		return 0
	}
	for lane, sn := range head {
		n += max(0, sn-s.tail.at[lane])
	}
	return n
}

// conditions collects a WHERE clause.
type conditions struct {
	all  []string
	args []any
}

func (c *conditions) add(cond string, v any) {
	c.args = append(c.args, v)
	c.all = append(c.all, strings.ReplaceAll(cond, "?", "$"+strconv.Itoa(len(c.args))))
}

func (c *conditions) sql() string {
	if len(c.all) == 0 {
		return `1 = 1`
	}
	return strings.Join(c.all, " AND ")
}

func (q Query) where() *conditions {
	c := &conditions{}
	for _, f := range []struct{ column, value string }{{"agent", q.Agent}, {"connection", q.Connection}, {"tool", q.Tool}, {"rule", q.Rule}} {
		if f.value != "" {
			c.add(f.column+" = ?", f.value)
		}
	}
	if q.Pairs {
		c.add("rule = ?", "")
	}
	if !q.Since.IsZero() {
		c.add("day >= ?", dayOf(storage.Micros(q.Since)))
	}
	if !q.Until.IsZero() {
		c.add("day <= ?", dayOf(storage.Micros(q.Until)))
	}
	return c
}

func (q Query) selects(k key) bool {
	for _, f := range [][2]string{{q.Agent, k.agent}, {q.Connection, k.connection}, {q.Tool, k.tool}, {q.Rule, k.rule}} {
		if f[0] != "" && f[0] != f[1] {
			return false
		}
	}
	return (!q.Pairs || k.rule == "") && (q.Since.IsZero() || k.day >= dayOf(storage.Micros(q.Since))) && (q.Until.IsZero() || k.day <= dayOf(storage.Micros(q.Until)))
}

// ToolUse is what was used of one tool by a grant.
type ToolUse struct {
	Tool        string    `json:"tool"`
	Allowed     int64     `json:"allowed"`
	LastAllowed time.Time `json:"last_allowed,omitzero"`
	LastDenied  time.Time `json:"last_denied,omitzero" doc:"of the agent's calls of the tool, whatever denied them"`
	LastEvent   string    `json:"last_event,omitempty"`
}

// GrantUse is what was used of a grant since it was given.
type GrantUse struct {
	Grant       string    `json:"grant"`
	Agent       string    `json:"agent"`
	Connection  string    `json:"connection"`
	Watched     time.Time `json:"watched" doc:"its use is known from here on: when it was given, or when watching began"`
	Allowed     int64     `json:"allowed"`
	LastAllowed time.Time `json:"last_allowed,omitzero" doc:"absent: it was not used since watched"`
	LastEvent   string    `json:"last_event,omitempty"`
	Tools       []ToolUse `json:"tools" doc:"those it names, used or not; of a grant of all tools, those that were used"`
}

// Grants returns the use of every grant, or of an agent's, by name.
func (s *Service) Grants(ctx context.Context, agent string) ([]GrantUse, Watched, error) {
	grants, err := s.o.Policy.Grants(ctx, agent)
	if err != nil {
		return nil, Watched{}, err
	}
	found, w, err := s.find(ctx, Query{Agent: agent})
	if err != nil {
		return nil, w, err
	}
	out := make([]GrantUse, len(grants))
	at := map[string]int{}
	for i, g := range grants {
		at[grantRule+g.Name] = i
		out[i] = GrantUse{Grant: g.Name, Agent: g.Agent, Connection: g.Connection, Watched: later(g.Created, w.Since), Tools: []ToolUse{}}
		for _, name := range g.Tools {
			if name != "*" {
				out[i].Tools = append(out[i].Tools, ToolUse{Tool: name})
			}
		}
	}
	denied := map[pair]int64{}
	for k, t := range found {
		if k.rule == "" {
			denied[k.pair] = max(denied[k.pair], t.lastDenied)
		}
		i, ok := at[k.rule]
		if ok && k.agent == grants[i].Agent && storage.Time(t.last).After(grants[i].Created) {
			out[i].add(k.tool, t)
		}
	}
	for i := range out {
		out[i].finish(denied)
	}
	return out, w, nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (g *GrantUse) add(tool string, t *tally) {
	g.Allowed += t.allowed
	last := storage.Time(t.last)
	if last.After(g.LastAllowed) {
		g.LastAllowed, g.LastEvent = last, t.event
	}
	i := slices.IndexFunc(g.Tools, func(u ToolUse) bool { return u.Tool == tool })
	if i < 0 {
		g.Tools, i = append(g.Tools, ToolUse{Tool: tool}), len(g.Tools)
	}
	u := &g.Tools[i]
	u.Allowed += t.allowed
	if last.After(u.LastAllowed) {
		u.LastAllowed, u.LastEvent = last, t.event
	}
}

func (g *GrantUse) finish(denied map[pair]int64) {
	for i := range g.Tools {
		g.Tools[i].LastDenied = storage.Time(denied[pair{g.Agent, g.Connection, g.Tools[i].Tool}])
	}
	slices.SortFunc(g.Tools, func(a, b ToolUse) int { return cmp.Compare(a.Tool, b.Tool) })
}
