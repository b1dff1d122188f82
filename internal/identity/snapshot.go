package identity

import (
	"context"
	"crypto/subtle"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
)

// remember is how long a dead credential is still recognised, so that its
// refusal can say "expired" and name the agent.
const remember = 30 * 24 * time.Hour

// snapshot is everything Authenticate needs, immutable once published.
type snapshot struct {
	users  map[string]User
	teams  map[string]Team
	groups map[string]Group
	agents map[string]Agent
	keys   map[digest]Key
	in     map[string]Person // by user's name
	ended  map[string]bool   // identifiers of revoked keys, and of tokens of runs that were ended before they expired
}

func emptySnapshot() *snapshot { return &snapshot{} }

// reload builds a new snapshot from the store and publishes it.
func (s *Service) reload(ctx context.Context) error {
	now := s.now()
	next := &snapshot{users: map[string]User{}, teams: map[string]Team{}, groups: map[string]Group{}, agents: map[string]Agent{}, keys: map[digest]Key{}}
	users, err := readUsers(ctx, s.db, "")
	if err != nil {
		return err
	}
	for _, u := range users {
		next.users[u.Name] = u
	}
	teams, err := readTeams(ctx, s.db, "")
	if err != nil {
		return err
	}
	for _, t := range teams {
		next.teams[t.Name] = t
	}
	groups, err := readGroups(ctx, s.db, "")
	if err != nil {
		return err
	}
	for _, g := range groups {
		next.groups[g.Name] = g
	}
	agents, err := readAgents(ctx, s.db, "")
	if err != nil {
		return err
	}
	for _, a := range agents {
		next.agents[a.Name] = a
	}
	keys, err := readKeys(ctx, s.db, keyFilter{after: now.Add(-remember)})
	if err != nil {
		return err
	}
	for _, k := range keys {
		next.keys[k.hash] = k
	}
	if next.ended, err = readEnded(ctx, s.db, now.Add(-skew)); err != nil {
		return err
	}
	for _, k := range keys {
		if !k.Revoked.IsZero() {
			next.ended[k.ID] = true // and with it what was exchanged for it
		}
	}
	next.in = memberships(users, teams, groups)
	s.view.Store(next)
	return nil
}

// memberships says for every user what they are in.
func memberships(users []User, teams []Team, groups []Group) map[string]Person {
	in := make(map[string]Person, len(users))
	for _, u := range users {
		in[u.Name] = Person{User: u}
	}
	for _, t := range teams {
		for _, m := range t.Members {
			p := in[m]
			p.Teams = append(p.Teams, t.Name)
			in[m] = p
		}
	}
	for _, g := range groups {
		for _, m := range g.Members {
			p := in[m]
			p.Groups = append(p.Groups, g.Name)
			in[m] = p
		}
	}
	return in
}

// personOf returns the person a principal chain begins with; nil if none does,
// or if it is not the one of then who has the name now.
func (v *snapshot) personOf(chain []audit.Actor) *Person {
	if len(chain) == 0 || chain[0].Kind != audit.KindUser {
		return nil
	}
	p, ok := v.in[chain[0].Name]
	if !ok || chain[0].ID != "" && chain[0].ID != p.ID {
		return nil
	}
	return &p
}

// Person returns a user of a recorded chain with what they are in now.
func (s *Service) Person(a audit.Actor) (Person, bool) {
	p := s.view.Load().personOf([]audit.Actor{a})
	if p == nil {
		return Person{}, false
	}
	return *p, true
}

// Authenticate finds out who presents credential. It works in memory and does
// not touch the store. When it refuses a recognised agent the returned Caller
// names it, for the log. Refusals: ErrCredential, ErrExpired, ErrRevoked,
// ErrSuspended, ErrNoOwner, ErrStale, locks.ErrLocked, locks.ErrStale; of access tokens also ErrPrincipal. Where an
// access token is good is for the caller of Authenticate to ask (Caller.At).
func (s *Service) Authenticate(_ context.Context, credential string) (Caller, error) {
	switch {
	case WellFormed(KeyPrefix, credential):
		return s.byKey(digestOf(credential))
	case looksLikeAccess(credential):
		return s.byAccess(credential)
	case looksLikeRun(credential):
		return s.byRun(credential)
	case strings.HasPrefix(credential, TokenPrefix):
		return Caller{}, ErrCredential.Say("a user token was presented where an agent's credential is needed; use an agent key (csk_…) or countersign run")
	}
	return Caller{}, ErrCredential
}

func (s *Service) byKey(d digest) (Caller, error) {
	if !s.watch.Fresh() { // before the view is taken, so that it is as new as Fresh says
		return Caller{}, ErrStale
	}
	view := s.view.Load()
	// The digest of 256 random bits is the map's key: what the time of a lookup
	// tells about digests does not lead to a credential.
	k, ok := view.keys[d]
	if !ok || subtle.ConstantTimeCompare(k.hash[:], d[:]) != 1 {
		return Caller{}, ErrCredential
	}
	a, ok := view.agents[k.Agent]
	if !ok {
		return Caller{}, ErrCredential
	}
	c := Caller{Agent: a, Credential: Credential{ID: k.ID, Kind: KindKey, Expires: k.Expires}}
	return s.admit(view, c, !k.Revoked.IsZero())
}

func (s *Service) byRun(token string) (Caller, error) {
	if !s.watch.Fresh() { // before the view is taken, so that it is as new as Fresh says
		return Caller{}, ErrStale
	}
	view := s.view.Load()
	claims, ok := s.runs.verify(token)
	if !ok || time.Unix(claims.Issued, 0).After(s.now().Add(skew)) {
		return Caller{}, ErrCredential
	}
	a, ok := view.agents[claims.Subject]
	if !ok || a.ID != claims.AgentID {
		return Caller{}, ErrCredential
	}
	c := Caller{Agent: a, Run: claims.Run, Credential: Credential{ID: claims.ID, Kind: KindRun, Expires: time.Unix(claims.Expires, 0).UTC()}}
	return s.admit(view, c, view.ended[claims.ID])
}

// admit checks what is common to all credentials of a recognised agent.
func (s *Service) admit(view *snapshot, c Caller, revoked bool) (Caller, error) {
	owner, ok := s.answering(view, c.Agent)
	if owner.Name != "" {
		c.Owner = owner
	}
	switch {
	case revoked:
		return c, ErrRevoked
	case !s.now().Before(c.Credential.Expires):
		return c, ErrExpired
	case c.Agent.Suspended:
		return c, ErrSuspended
	case !ok:
		return c, ErrNoOwner
	}
	sub := c.Subject()
	for _, a := range c.OnBehalfOf {
		if a.Kind == audit.KindAgent { // whoever owns an agent of the chain answers for it too
			sub.Owners = append(sub.Owners, view.agents[a.Name].Owner)
		}
	}
	return c, s.locks.Check(sub)
}

// Agent returns the agent called name. Like all readers of the snapshot it may
// be behind the store by what a Watcher allows.
func (s *Service) Agent(name string) (Agent, bool) {
	a, ok := s.view.Load().agents[name]
	return a, ok
}

// Agents returns every agent, by name.
func (s *Service) Agents() []Agent { return sorted(s.view.Load().agents) }

// User returns the user called name.
func (s *Service) User(name string) (User, bool) {
	u, ok := s.view.Load().users[name]
	return u, ok
}

// Users returns every user, by name.
func (s *Service) Users() []User { return sorted(s.view.Load().users) }

// Team returns the team called name.
func (s *Service) Team(name string) (Team, bool) {
	t, ok := s.view.Load().teams[name]
	return t, ok
}

// Teams returns every team, by name.
func (s *Service) Teams() []Team { return sorted(s.view.Load().teams) }

func sorted[T any](m map[string]T) []T {
	out := make([]T, 0, len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[name])
	}
	return out
}
