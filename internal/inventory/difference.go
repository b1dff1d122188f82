package inventory

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/connections"
)

// How long ago something may have been seen to count.
const (
	PassedWithin  = 30 * 24 * time.Hour // what was let through
	RefusedWithin = 7 * 24 * time.Hour  // what was only refused
)

// States of an entry.
const (
	Registered   = "registered"   // observed, and registered
	Unregistered = "unregistered" // observed, and not registered
	Unobserved   = "unobserved"   // registered, and never observed
)

// Act is a command that acts on an entry.
type Act struct {
	Verb    string `json:"verb" doc:"register, accept, refuse, import, narrow, decommission, delete, look or set aside"`
	Command string `json:"command" doc:"NAME, USER and the like stand for what a person has to say"`
}

// Aside says that somebody knows of an entry, until when, and why.
type Aside struct {
	Until  time.Time `json:"until"`
	Reason string    `json:"reason"`
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Event  string    `json:"event"`
}

// Entry is a thing that is registered, or was observed, or both.
type Entry struct {
	ID     string    `json:"id"`
	Kind   string    `json:"kind" enum:"agent,caller,connection,tool,model,secret,network,host"`
	Name   string    `json:"name" doc:"as it was shown; others may have chosen it"`
	State  string    `json:"state" enum:"registered,unregistered,unobserved"`
	Why    string    `json:"why,omitempty" doc:"what is wrong"`
	First  time.Time `json:"first,omitzero" doc:"when it was first observed"`
	Last   time.Time `json:"last,omitzero"`
	Passed time.Time `json:"passed,omitzero" doc:"when it was last let through; none: it was refused each time"`
	Since  time.Time `json:"since,omitzero" doc:"since when it is looked for"`
	Times  int64     `json:"times"`
	By     []string  `json:"by" doc:"who showed it, the first five: agents, networks, credentials"`
	Event  string    `json:"event,omitempty" doc:"the latest of the log that shows it"`
	Origin string    `json:"first_event,omitempty" doc:"the first one"`
	Acts   []Act     `json:"acts"`
	Aside  *Aside    `json:"aside,omitempty" doc:"somebody set it aside; then it is nothing to act on"`

	key key
}

// Difference is what is registered against what was observed.
type Difference struct {
	Since   time.Time      `json:"since,omitzero" doc:"since when the log is read"`
	Behind  int64          `json:"behind" doc:"records of the log that are not read yet"`
	Known   map[string]int `json:"known" doc:"how many were observed and are registered, by kind"`
	Open    int            `json:"open" doc:"entries to act on: those that are not set aside"`
	Entries []Entry        `json:"entries"`
}

// Observed returns everything that was observed and counts now, registered or
// not, with since when the log is read. What was let through counts for 30 days,
// what was only refused for 7.
func (s *Service) Observed(ctx context.Context) ([]Entry, time.Time, int64, error) {
	entries, since, behind, err := s.entries(ctx)
	out := slices.DeleteFunc(entries, func(e Entry) bool { return e.State == Unobserved })
	return out, since, behind, err
}

// Difference returns what was observed and is not registered, and what is
// registered and was never observed.
func (s *Service) Difference(ctx context.Context) (Difference, error) {
	entries, since, behind, err := s.entries(ctx)
	d := Difference{Since: since, Behind: behind, Known: map[string]int{}, Entries: []Entry{}}
	for _, e := range entries {
		if e.State == Registered {
			d.Known[e.Kind]++
			continue
		}
		if e.Aside == nil {
			d.Open++
		}
		d.Entries = append(d.Entries, e)
	}
	return d, err
}

// entries returns all there is, by kind and name.
func (s *Service) entries(ctx context.Context) (out []Entry, since time.Time, behind int64, err error) {
	if behind, err = s.caughtUp(ctx); err != nil {
		return nil, since, 0, err
	}
	rows, err := all(ctx, s.o.DB)
	if err != nil {
		return nil, since, 0, err
	}
	reg, err := s.registered(ctx)
	if err != nil {
		return nil, since, 0, err
	}
	if reg.aside, err = asides(ctx, s.o.DB, s.o.Now()); err != nil {
		return nil, since, 0, err
	}
	reg.gone = map[string]time.Time{}
	for k, row := range rows {
		switch k.kind {
		case kindGone:
			reg.gone[k.name] = row.last
		case kindLog:
			since = row.first
		}
	}
	for k, row := range rows {
		if e, ok := s.observed(reg, k, row, since); ok {
			out = append(out, e)
		}
	}
	out = append(out, s.offered(reg, rows, since)...)
	never, err := s.never(ctx, reg, rows, since)
	if err != nil {
		return nil, since, 0, err
	}
	out = append(out, never...)
	slices.SortFunc(out, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(slices.Index(Kinds, a.Kind), slices.Index(Kinds, b.Kind)), strings.Compare(a.State, b.State), strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID))
	})
	return out, since, behind, nil
}

// observed is the entry of a row, if it counts.
func (s *Service) observed(reg register, k key, row seen, since time.Time) (Entry, bool) {
	kind, left := strings.CutPrefix(k.kind, kindMore)
	if !slices.Contains(Kinds, kind) || !s.counts(row) {
		return Entry{}, false
	}
	e := reg.entry(k, kind, k.name, since)
	e.First, e.Last, e.Passed, e.Times, e.By, e.Event, e.Origin = row.first, row.last, row.passed, row.times, append([]string{}, row.sources...), row.event, row.firstEvent
	e.State = Registered
	switch why := ""; {
	case left:
		e.State, e.Name, e.Why = Unregistered, "more, by "+cmp.Or(k.name, "others"), "so many names were shown that these are only counted; look at who shows them"
		e.Acts = []Act{e.look(), e.setAside()}
	case !reg.removed(k, row.last):
		if why = reg.known(k); why != "" {
			e.State, e.Why = Unregistered, why
			e.Acts = append(acts(e), e.look(), e.setAside())
		}
	}
	return e, true
}

func (s *Service) counts(row seen) bool {
	now := s.o.Now()
	return now.Sub(row.passed) <= PassedWithin || now.Sub(row.last) <= RefusedWithin
}

func (r register) entry(k key, kind, name string, since time.Time) Entry {
	e := Entry{ID: idOf(k.kind, k.name), Kind: kind, Name: name, Since: since, By: []string{}, Acts: []Act{}, key: k}
	if a, ok := r.aside[k]; ok {
		e.Aside = &a
	}
	return e
}

// offered are tools that an upstream offers, that nobody accepted and that nobody
// asked for.
func (s *Service) offered(reg register, rows map[key]seen, since time.Time) (out []Entry) {
	for _, c := range s.o.Connections.Connections() {
		for _, t := range s.o.Connections.Tools(c.Name) {
			k := key{KindTool, c.Name + "/" + t.Name}
			if row, ok := rows[k]; t.Status != connections.StatusNew || ok && s.counts(row) {
				continue
			}
			e := reg.entry(k, KindTool, k.name, since)
			e.State, e.Why, e.First, e.Last, e.Times, e.By = Unregistered, "the upstream offers it and nobody accepted it", t.SeenAt, t.SeenAt, 1, []string{"connection/" + c.Name}
			e.Acts = append(acts(e), e.setAside())
			out = append(out, e)
		}
	}
	return out
}

// never is what is registered and was not observed since it is looked for.
func (s *Service) never(ctx context.Context, reg register, rows map[key]seen, since time.Time) (out []Entry, err error) {
	add := func(kind, name, owner string, created time.Time) {
		e := reg.entry(key{kind, name}, kind, name, since)
		if created.After(e.Since) {
			e.Since = created
		}
		e.State, e.Why = Unobserved, "it is registered and was never used"
		if owner != "" {
			e.Why += "; " + owner + " answers for it"
		}
		e.Acts = append(acts(e), e.setAside())
		out = append(out, e)
	}
	called := map[string]bool{}
	for k := range rows {
		if k.kind == KindTool {
			conn, _, _ := strings.Cut(k.name, "/")
			called[conn] = true
		}
	}
	for _, a := range s.o.Identity.Agents() {
		if _, ok := rows[key{KindAgent, a.Name}]; !ok && a.Retired.IsZero() && a.LastCall.IsZero() && (s.o.Probe == nil || !s.o.Probe(a.Name)) {
			add(KindAgent, a.Name, a.Owner, a.Created)
		}
	}
	for _, c := range s.o.Connections.Connections() {
		if !called[c.Name] {
			add(KindConnection, c.Name, c.Owner, c.Created)
			continue // its tools were not called either
		}
		for _, t := range s.o.Connections.Tools(c.Name) {
			if _, ok := rows[key{KindTool, c.Name + "/" + t.Name}]; !ok && !t.Builtin && t.Callable() {
				add(KindTool, c.Name+"/"+t.Name, "", t.PinnedAt)
			}
		}
	}
	held, err := s.o.Secrets.List(ctx)
	for _, x := range held {
		if x.LastUsed.IsZero() {
			add(KindSecret, "secret/"+x.Name, x.Owner, x.Created)
		}
	}
	return out, err
}
