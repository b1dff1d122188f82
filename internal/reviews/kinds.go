package reviews

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/tokens"
)

// secrets returns every secret, as something that its owner answers for.
func (s *Service) secrets(ctx context.Context) ([]Subject, error) {
	all, err := s.o.Secrets.List(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]Subject, len(all))
	for i, sec := range all {
		c, _ := s.o.Connections.Connection(sec.Connection)
		x := Subject{Kind: Secret, Name: sec.Name, ID: sec.ID, Connection: sec.Connection, Owner: sec.Owner, ConnectionOwner: c.Owner, Since: sec.Created, Version: sec.Version,
			Says: "the secret " + sec.Name + " is sent by " + sec.Connection, Digest: digestOf(sec.ID, sec.Owner, sec.Connection, sec.Hosts, sec.Kind, sec.Source)}
		x.Use = Use{Watched: sec.Created, Last: sec.LastUsed}
		if len(sec.Hosts) == 0 && c.Name == "" {
			x.Flags = append(x.Flags, FlagWide)
		}
		if u, ok := s.o.Identity.User(sec.Owner); !ok || u.Disabled || s.now().Sub(sec.Rotated) > 90*day {
			x.Flags = append(x.Flags, FlagRisky)
		}
		if x.Givers, err = s.changers(ctx, "secret/"+sec.Name, "secret.created"); err != nil {
			return nil, err
		}
		out[i] = x
	}
	return out, nil
}

// owners returns for every agent that a person answers for it.
func (s *Service) owners(ctx context.Context) ([]Subject, error) {
	var out []Subject
	for _, a := range s.o.Identity.Agents() {
		if !a.Retired.IsZero() {
			continue
		}
		x := Subject{Kind: Owner, Name: a.Name, ID: a.ID, Agent: a.Name, Owner: a.Owner, Backup: a.Backup, Since: a.Created, team: a.Team, stage: a.Stage,
			Says: a.Owner + " answers for the agent " + a.Name, Digest: digestOf(a.ID, a.Owner)}
		x.Use = Use{Watched: a.Created, Last: a.LastCall}
		t, _ := s.o.Identity.Team(a.Team)
		if u, ok := s.o.Identity.User(a.Owner); !ok || u.Disabled || a.Team != "" && !slices.Contains(t.Members, a.Owner) {
			x.Flags = append(x.Flags, FlagRisky)
		}
		out = append(out, x)
	}
	return out, nil
}

// upstreams returns every connection, as something that its owner answers for.
func (s *Service) upstreams(ctx context.Context) ([]Subject, error) {
	last, err := s.o.Connections.LastUses(ctx)
	if err != nil {
		return nil, err
	}
	var out []Subject
	for _, c := range s.o.Connections.Connections() {
		x := Subject{Kind: Connection, Name: c.Name, ID: c.ID, Connection: c.Name, Owner: c.Owner, ConnectionOwner: c.Owner, Since: c.Created, Says: "agents reach " + c.Name + " at " + c.URL,
			Digest: digestOf(c.ID, c.Owner, c.Kind, c.URL, c.Command, c.Secret, c.Auth)}
		x.Use = Use{Watched: c.Created, Last: last[c.Name]}
		if u, ok := s.o.Identity.User(c.Owner); !ok || u.Disabled || c.AllowPrivate {
			x.Flags = append(x.Flags, FlagRisky)
		}
		if x.Givers, err = s.changers(ctx, "connection/"+c.Name, "connection.registered"); err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, nil
}

// rules returns every rule that trusts another issuer to say who an agent is.
func (s *Service) rules(ctx context.Context) ([]Subject, error) {
	all, err := s.o.Tokens.Rules(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]Subject, len(all))
	for i, r := range all {
		a, _ := s.o.Identity.Agent(r.Agent)
		x := Subject{Kind: Trust, Name: r.Name, ID: r.ID, Agent: r.Agent, Owner: a.Owner, Backup: a.Backup, Since: r.Created, team: a.Team, stage: a.Stage,
			Says: r.Issuer + " says that " + r.Subject + " is " + r.Agent, Digest: digestOf(r.ID, r.Agent, r.Issuer, r.Audience, r.Subject, r.User, r.Claims)}
		x.Use = Use{Watched: r.Created, Last: r.LastUsed}
		if r.Wildcard != "" {
			x.Flags = append(x.Flags, FlagWide)
		}
		if u, ok := s.o.Identity.User(a.Owner); !ok || u.Disabled || r.User != "" {
			x.Flags = append(x.Flags, FlagRisky)
		}
		if x.Givers, err = s.changers(ctx, "trust/"+r.Name, "trust.created", "trust.updated"); err != nil {
			return nil, err
		}
		out[i] = x
	}
	return out, nil
}

// changers returns the people by whom the log has events of these types about an
// object.
func (s *Service) changers(ctx context.Context, object string, types ...audit.Type) ([]Person, error) {
	var out []Person
	q := audit.Query{Types: types, Limit: 1000}
	for range mostPages {
		recs, err := s.o.Log.List(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, r := range recs {
			p := Person{r.Event.Actor.ID, r.Event.Actor.Name}
			if r.Event.Object == object && r.Event.Actor.Kind == audit.KindUser && !slices.ContainsFunc(out, p.same) {
				out = append(out, p)
			}
		}
		if len(recs) < q.Limit {
			break
		}
		q.After = recs[len(recs)-1].Event.ID
	}
	return out, nil
}

const goneAlready = "it was gone already"

func (s *Service) revokeGrant(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, it *Item) (string, error) {
	switch g, err := s.o.Policy.GrantTx(ctx, tx, it.Subject.Name); {
	case errors.Is(err, policy.ErrNoGrant), err == nil && g.ID != it.Subject.ID:
		return goneAlready, nil
	case err != nil:
		return "", err
	}
	return "the grant was revoked", s.o.Policy.RevokeGrantTx(ctx, tx, by, reason, it.Subject.Name)
}

// rotates reports whether a secret's value is replaced by a rotator of its own.
func (s *Service) rotates(it *Item) bool {
	sec, ok := s.o.Secrets.Secret(it.Subject.Name)
	return ok && sec.ID == it.Subject.ID && sec.Rotation["by"] != "" && s.o.Rotate != nil
}

// endSecret disables the connection that alone sends a secret, unless the value
// is being replaced.
func (s *Service) endSecret(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, it *Item) (string, error) {
	if s.rotates(it) {
		return "its value is being replaced", nil
	}
	sec, ok := s.o.Secrets.Secret(it.Subject.Name)
	if !ok || sec.ID != it.Subject.ID {
		return goneAlready, nil
	}
	if _, ok := s.o.Connections.Connection(sec.Connection); !ok { // of a channel
		return "no connection sends it, and it has no rotator: its owner must delete or replace it", errByHand
	}
	return s.disable(ctx, tx, by, reason, it, sec.Connection)
}

// disable locks a connection.
func (s *Service) disable(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, it *Item, connection string) (string, error) {
	if _, ok := s.o.Connections.Connection(connection); !ok {
		return goneAlready, nil
	}
	l, err := s.o.Locks.AddTx(ctx, tx, by, locks.Lock{Kind: locks.Connection, Name: connection, Reason: reason}, 0)
	it.Remedy.Lock = l.ID
	return "the connection " + connection + " was disabled (" + l.ID + "); lifting the lock enables it", err
}

// replaceOwner gives an agent to who was named or, if nobody was, to its backup;
// without either it is suspended until it gets an owner.
func (s *Service) replaceOwner(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, it *Item) (string, error) {
	a, err := s.o.Identity.AgentTx(ctx, tx, it.Subject.Agent)
	if errors.Is(err, identity.ErrNotFound) || err == nil && (a.ID != it.Subject.ID || a.Owner != it.Subject.Owner) {
		return goneAlready, nil
	}
	if err != nil {
		return "", err
	}
	next := it.Remedy.To
	if next == "" {
		next = a.Backup
	}
	if u, err := s.o.Identity.UserTx(ctx, tx, next); next != "" && err == nil && !u.Disabled {
		_, err := s.o.Identity.SetOwnerTx(ctx, tx, by, reason, a.Name, next, "")
		return next + " answers for it now", err
	}
	_, err = s.o.Identity.SuspendTx(ctx, tx, by, reason, a.Name)
	return "it was suspended: nobody else is named to answer for it", err
}

func (s *Service) dropRule(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, it *Item) (string, error) {
	r, err := s.o.Tokens.Rule(ctx, it.Subject.Name)
	if errors.Is(err, tokens.ErrNotFound) || err == nil && r.ID != it.Subject.ID {
		return goneAlready, nil
	}
	if err != nil {
		return "", err
	}
	it.Remedy.Rule = &Trusted{Issuer: r.Issuer, Audience: r.Audience, Subject: r.Subject, Wildcard: r.Wildcard, Claims: r.Claims, Person: r.User != ""}
	return "the rule was removed, and what was had by it ended", s.o.Tokens.DeleteRuleTx(ctx, tx, by, reason, it.Subject.Name)
}

// probeSecret waits for another value, or tries the connection that was disabled.
func (s *Service) probeSecret(ctx context.Context, it *Item) ([]Probe, error) {
	sec, ok := s.o.Secrets.Secret(it.Subject.Name)
	if ok && sec.ID == it.Subject.ID && sec.Rotation["by"] != "" && s.o.Rotate != nil {
		if sec.Version <= it.Subject.Version {
			return nil, fault.New(fault.Unavailable, "rotating", "its value is still being replaced")
		}
		return []Probe{{What: "use of the old value", Result: Refused, Why: "another value is sent since " + sec.Rotated.UTC().Format(time.RFC3339) + "; the rotation tries and ends the old one"}}, nil
	}
	if !ok {
		return []Probe{{What: "use of it", Result: NotTried, Why: "it is not there any more"}}, nil
	}
	return s.probeLocked(ctx, sec.Connection, it.Remedy.Lock)
}

func (s *Service) probeOwner(it *Item) ([]Probe, error) {
	a, ok := s.o.Identity.Agent(it.Subject.Agent)
	p := Probe{What: "owner of " + it.Subject.Agent, Result: Refused, Why: it.Subject.Owner + " does not answer for it any more"}
	switch {
	case !ok || !a.Retired.IsZero():
		p.Result, p.Why = NotTried, "the agent is not there any more"
	case a.Owner == it.Subject.Owner && !a.Suspended && it.Remedy.Done != goneAlready:
		p.Result, p.Why = LetThrough, a.Owner+" still answers for it, and it may call"
	case a.Suspended:
		p.Why = "it may not call until somebody else answers for it"
	}
	return []Probe{p}, nil
}

// probeRule shows the token service a token as the rule let in, which nobody signed:
// while any rule trusts what it says, its signature is what it is refused for, and
// that shows nothing.
func (s *Service) probeRule(ctx context.Context, it *Item) ([]Probe, error) {
	p := Probe{What: "trust in " + it.Subject.Name, Result: NotTried}
	switch r, err := s.o.Tokens.Rule(ctx, it.Subject.Name); {
	case err == nil && r.ID == it.Subject.ID:
		p.Result, p.Why = LetThrough, "the rule is still there"
		return []Probe{p}, nil
	case err != nil && !errors.Is(err, tokens.ErrNotFound):
		return nil, err
	}
	was := it.Remedy.Rule
	if was == nil {
		p.Why = "somebody else removed the rule, and what it let in is not known here"
		return []Probe{p}, nil
	}
	p.What = "a token as the rule let in, of " + was.Issuer
	token, err := s.o.Tokens.Counterfeit(tokens.Rule{Issuer: was.Issuer, Audience: was.Audience, Subject: was.Subject, Wildcard: was.Wildcard, Claims: was.Claims})
	if err != nil {
		p.Why = "no such token can be made: " + fault.Public(err).Message
		return []Probe{p}, nil
	}
	trusting, err := s.o.Tokens.Trusting(token, it.Subject.Agent, was.Person)
	if err != nil || len(trusting) > 0 {
		p.Result, p.Why = Otherwise, "trust rule "+strings.Join(trusting, ", ")
		return []Probe{p}, err
	}
	if !was.Person {
		p, err = s.show(ctx, p, token, it.Subject.Agent, "")
		return []Probe{p}, err
	}
	a, ok := s.o.Identity.Agent(it.Subject.Agent) // who acts for a person proves itself
	if !ok || !a.Retired.IsZero() {
		p.Why = "the agent is not there any more, and nobody acts in its name"
		return []Probe{p}, nil
	}
	return s.asAgent(ctx, a, func(_ identity.Key, value string) ([]Probe, error) {
		p, err := s.show(ctx, p, token, a.Name, value)
		return []Probe{p}, err
	})
}

// show shows a counterfeit at the token service.
func (s *Service) show(ctx context.Context, p Probe, token, agent, actor string) (Probe, error) {
	status, err := s.o.Doors.Present(ctx, token, agent, actor)
	switch {
	case err != nil:
		return p, unreachable(err)
	case status < 300:
		p.Result, p.Why = LetThrough, "the token service let it in, and nobody signed it"
		return p, nil
	case status >= 500 || status == 429:
		return p, errUnclear
	}
	p.Result, p.Why = Refused, "no rule trusts it, and the token service refused it"
	return p, nil
}
