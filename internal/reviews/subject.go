package reviews

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/v2"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/policy"
)

// Subject is something that is kept or revoked, as it is.
type Subject struct {
	Kind            string    `json:"kind" enum:"grant,secret,owner,connection,trust"`
	Name            string    `json:"name"`
	ID              string    `json:"id" doc:"one that is made again under its name is another"`
	Says            string    `json:"says" doc:"what it gives, in words"`
	Agent           string    `json:"agent,omitzero"`
	Connection      string    `json:"connection,omitzero"`
	Tools           []string  `json:"tools,omitzero"`
	Owner           string    `json:"owner,omitzero" doc:"who answers for it"`
	Backup          string    `json:"backup,omitzero"`
	ConnectionOwner string    `json:"connection_owner,omitzero"`
	Givers          []Person  `json:"givers,omitzero" doc:"who gave it, asked for it or changed it: they do not review it"`
	Since           time.Time `json:"since,omitzero"`
	Expires         time.Time `json:"expires,omitzero"`
	Use             Use       `json:"use"`
	Flags           []string  `json:"flags,omitzero" doc:"new, unused, wide, risky"`
	Suggest         string    `json:"suggest,omitzero" doc:"revoke, for what is unused"`
	Version         int64     `json:"version,omitzero" doc:"of a secret's value"`
	Digest          string    `json:"digest" doc:"of what it says: a decision is about this"`

	team, stage string
}

// Object names it, such as grant/invoices-pays.
func (s Subject) Object() string { return s.Kind + "/" + s.Name }

// within reports whether the scope's lists select the subject.
func (s *Scope) within(x *Subject) bool {
	in := func(list []string, v string) bool { return len(list) == 0 || slices.Contains(list, v) }
	return in(s.Kinds, x.Kind) && in(s.Agents, x.Agent) && in(s.Teams, x.team) && in(s.Stages, x.stage) && in(s.Connections, x.Connection) && in(s.Names, x.Name)
}

// asks reports whether the scope asks about a subject for what it is.
func (s *Scope) asks(x *Subject) bool {
	return s.All || slices.ContainsFunc(x.Flags, func(f string) bool { return slices.Contains(s.Only, f) })
}

// subjects returns what a scope selects, in a fixed order.
func (s *Service) subjects(ctx context.Context, sc Scope) ([]Subject, error) {
	seen, err := lastKept(ctx, s.o.DB)
	if err != nil {
		return nil, err
	}
	var all []Subject
	for _, kind := range Kinds {
		if !slices.Contains(sc.Kinds, kind) {
			continue
		}
		found, err := s.ofKind(ctx, kind)
		if err == nil && kind == Grant {
			err = s.used(ctx, found)
		}
		if err != nil {
			return nil, err
		}
		for _, x := range found {
			if !sc.within(&x) {
				continue
			}
			s.flag(&x, sc, seen[x.ID])
			if sc.asks(&x) {
				all = append(all, x)
			}
		}
	}
	return all, nil
}

// used fills in what is known of the use of grants.
func (s *Service) used(ctx context.Context, found []Subject) error {
	if s.o.Uses == nil {
		return nil
	}
	uses, err := s.o.Uses(ctx)
	for i := range found {
		found[i].Use = uses[found[i].Name]
	}
	return err
}

func (s *Service) ofKind(ctx context.Context, kind string) ([]Subject, error) {
	switch kind {
	case Grant:
		return s.grants(ctx)
	case Secret:
		return s.secrets(ctx)
	case Owner:
		return s.owners(ctx)
	case Connection:
		return s.upstreams(ctx)
	}
	return s.rules(ctx)
}

// present returns the subject as it is now; false if it is not there any more,
// or is another one of its name.
func (s *Service) present(ctx context.Context, old *Subject) (Subject, bool, error) {
	all, err := s.ofKind(ctx, old.Kind)
	if err != nil {
		return Subject{}, false, err
	}
	for _, x := range all {
		if x.ID == old.ID {
			x.Flags, x.Suggest, x.Use = old.Flags, old.Suggest, old.Use
			return x, true, nil
		}
	}
	return Subject{}, false, nil
}

// flag says why a subject would be asked about.
func (s *Service) flag(x *Subject, sc Scope, last kept) {
	if last.digest != x.Digest {
		x.Flags = append([]string{FlagNew}, x.Flags...)
	}
	if long := s.now().Add(-sc.unusedFor()); !x.Use.Watched.IsZero() && !x.Use.Watched.After(long) && !x.Use.Last.After(long) && !x.Since.After(long) {
		x.Flags, x.Suggest = append(x.Flags, FlagUnused), Revoke
	}
	slices.SortFunc(x.Flags, func(a, b string) int { return slices.Index(Flags, a) - slices.Index(Flags, b) })
}

func digestOf(parts ...any) string {
	sum := sha256.Sum256(marshal(parts))
	return hex.EncodeToString(sum[:])
}

// grants returns every grant that is in force.
func (s *Service) grants(ctx context.Context) ([]Subject, error) {
	all, err := s.o.Policy.Grants(ctx, "")
	if err != nil {
		return nil, err
	}
	now, out := s.now(), []Subject{}
	for _, g := range all {
		if !g.Expires.IsZero() && !g.Expires.After(now) {
			continue
		}
		x, err := s.grant(ctx, g)
		if err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, nil
}

func (s *Service) grant(ctx context.Context, g policy.Grant) (x Subject, err error) {
	a, _ := s.o.Identity.Agent(g.Agent)
	c, _ := s.o.Connections.Connection(g.Connection)
	x = Subject{Kind: Grant, Name: g.Name, ID: g.ID, Agent: g.Agent, Connection: g.Connection, Tools: g.Tools, Owner: a.Owner, Backup: a.Backup, ConnectionOwner: c.Owner,
		Since: g.Created, Expires: g.Expires, team: a.Team, stage: a.Stage, Says: g.Agent + " may use " + g.Connection + "/" + strings.Join(g.Tools, ", "),
		Digest: digestOf(g.ID, g.Agent, g.Connection, g.Tools, g.When, g.Expires)}
	if g.When != "" {
		x.Says += " when " + g.When
	}
	changes, final := s.effects(g)
	if slices.Contains(g.Tools, "*") || changes && g.Expires.IsZero() {
		x.Flags = append(x.Flags, FlagWide)
	}
	if u, ok := s.o.Identity.User(a.Owner); final || !ok || u.Disabled {
		x.Flags = append(x.Flags, FlagRisky)
	}
	x.Givers, err = s.givers(ctx, g)
	return x, err
}

// effects says whether a grant reaches a tool that changes something, and one
// whose effect cannot be undone.
func (s *Service) effects(g policy.Grant) (changes, final bool) {
	for _, t := range s.toolsOf(g.Connection, g.Tools) {
		changes = changes || t.Effect != connections.Read
		final = final || t.Effect == connections.Irreversible
	}
	return changes, final
}

// toolsOf returns the tools that a grant's names mean now.
func (s *Service) toolsOf(connection string, names []string) []connections.Tool {
	return meant(s.o.Connections.Tools(connection), names)
}

// meant returns those of a connection's tools that a grant's names mean.
func meant(tools []connections.Tool, names []string) (out []connections.Tool) {
	for _, t := range tools {
		if slices.Contains(names, t.Name) || slices.Contains(names, "*") && !t.Protocol() {
			out = append(out, t)
		}
	}
	return out
}

// givers returns who gave, changed or asked for a grant, as the log says.
func (s *Service) givers(ctx context.Context, g policy.Grant) ([]Person, error) {
	recs, err := s.o.Log.List(ctx, audit.Query{Agent: g.Agent, Types: []audit.Type{"grant.given", "grant.changed", "grant.requested"}, Since: g.Created.Add(-time.Second), Oldest: true, Limit: 1000})
	if err != nil {
		return nil, err
	}
	var out []Person
	add := func(p Person) {
		if p.Name != "" && !slices.ContainsFunc(out, p.same) {
			out = append(out, p)
		}
	}
	for _, r := range recs {
		var d struct {
			Grant string   `json:"grant"`
			For   []Person `json:"for"` // who asked, where somebody else gave
		}
		if r.Event.Object != "grant/"+g.Name || json.Unmarshal(r.Event.Detail, &d) != nil || d.Grant != g.ID {
			continue
		}
		if r.Event.Actor.Kind == audit.KindUser {
			add(Person{r.Event.Actor.ID, r.Event.Actor.Name})
		}
		for _, p := range d.For {
			add(p)
		}
	}
	if u, ok := s.o.Identity.User(g.GivenBy); ok { // of a log that was begun later
		add(Person{u.ID, u.Name})
	}
	return out, nil
}

// plain says how many of what there are.
func plain(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}
