package approvals

import (
	"context"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/rest"
)

// members resolves a group. This function and groupNamed are the only places
// that know what a group is.
func (s *Service) members(g Group) []identity.User {
	found, ok := s.identity.GroupByID(g.ID)
	if !ok {
		return nil
	}
	var out []identity.User
	for _, name := range found.Members {
		if u, ok := s.identity.User(name); ok && !u.Disabled && rest.RoleMay(u.Role, rest.Decide) {
			out = append(out, u)
		}
	}
	return out
}

// groupNamed finds the group that a policy names.
func (s *Service) groupNamed(name string) (Group, bool) {
	g, ok := s.identity.Group(name)
	return Group{ID: g.ID, Name: g.Name}, ok
}

// resolve finds out which groups the needs mean. A group that does not exist
// has no members, and stays under its name so that people see which it is.
func (s *Service) resolve(needs []Need) ([]Need, error) {
	out := make([]Need, len(needs))
	for i, n := range needs {
		if err := n.check(); err != nil {
			return nil, err
		}
		n.Groups, n.Tiers = slices.Clone(n.Groups), slices.Clone(n.Tiers)
		for j, g := range n.Groups {
			if found, ok := s.groupNamed(g.Name); ok {
				n.Groups[j] = found
			}
		}
		for j, t := range n.Tiers {
			if found, ok := s.groupNamed(t.Name); ok {
				n.Tiers[j].Group = found
			}
		}
		out[i] = n
	}
	return merge(out), nil
}

// excluded returns who may not decide: the people in the principal chain and
// whoever started the run. The agent's owner is looked at when someone decides,
// because it is the present owner who counts.
func (s *Service) excluded(ctx context.Context, chain []audit.Actor, run string) ([]Person, error) {
	out := []Person{}
	for _, a := range chain {
		if a.Kind == audit.KindUser {
			out = append(out, Person{ID: a.ID, Name: a.Name})
		}
	}
	starter, ok, err := s.identity.RunStarter(ctx, run)
	if err != nil {
		return nil, err
	}
	if u, known := s.identity.User(starter); ok && known {
		out = append(out, Person{ID: u.ID, Name: u.Name})
	}
	return out, nil
}

// barred reports whether a person is excluded from deciding about r.
func (s *Service) barred(r *Request, p Person, need int) bool {
	same := func(x Person) bool { return (x.ID != "" && x.ID == p.ID) || (x.ID == "" && x.Name == p.Name) }
	if slices.ContainsFunc(r.Excluded, same) {
		return true
	}
	if !r.Needs[need].ExcludeOwner {
		return false
	}
	a, ok := s.identity.Agent(r.Binding.Agent)
	return !ok || a.Owner == p.Name
}

// fits reports whether a person counts for a need of r after it has waited for
// waited: by their own membership or, when standIns has them, by that of
// someone they stand in for. It returns whom they count for.
func (s *Service) fits(r *Request, p Person, need int, waited time.Duration, standIns []Delegation) (as Person, ok bool) {
	if s.barred(r, p, need) {
		return Person{}, false
	}
	for _, g := range r.Needs[need].groupsAt(waited) {
		for _, u := range s.members(g) {
			if u.ID == p.ID {
				return Person{}, true
			}
			for _, d := range standIns {
				giver := Person{ID: u.ID, Name: u.Name}
				if d.Taker.ID == p.ID && d.Giver.ID == u.ID && !s.barred(r, giver, need) {
					as, ok = giver, true
				}
			}
		}
	}
	return as, ok
}

// candidates returns everyone who could ever decide about r, all tiers and
// stand-ins included.
func (s *Service) candidates(r *Request, waited time.Duration, standIns []Delegation) []Person {
	seen := map[string]Person{}
	add := func(p Person) {
		for need := range r.Needs {
			if _, ok := s.fits(r, p, need, waited, standIns); ok {
				seen[p.ID] = p
				return
			}
		}
	}
	for _, n := range r.Needs {
		for _, g := range n.groupsAt(waited) {
			for _, u := range s.members(g) {
				add(Person{ID: u.ID, Name: u.Name})
			}
		}
	}
	for _, d := range standIns {
		if u, ok := s.identity.User(d.Taker.Name); ok && !u.Disabled && u.ID == d.Taker.ID {
			add(d.Taker)
		}
	}
	out := make([]Person, 0, len(seen))
	for _, p := range seen {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b Person) int {
		if a.Name < b.Name {
			return -1
		}
		if a.Name > b.Name {
			return 1
		}
		return 0
	})
	return out
}

// possible reports whether the people there are could meet r's needs at all
// before its time is over.
func (s *Service) possible(ctx context.Context, r *Request, standIns []Delegation) (bool, error) {
	all, err := s.armed(ctx, r, s.candidates(r, r.DecideBy.Sub(r.Created), standIns))
	return err == nil && s.metBy(r, ids(all), r.DecideBy.Sub(r.Created), standIns), err
}

// metBy reports whether these people, by identifier, meet the needs of r.
func (s *Service) metBy(r *Request, people []string, waited time.Duration, standIns []Delegation) bool {
	return met(r.Needs, people, func(p string, need int) bool {
		u, ok := s.userByID(p)
		if !ok {
			return false
		}
		_, ok = s.fits(r, Person{ID: u.ID, Name: u.Name}, need, waited, standIns)
		return ok
	})
}

// userByID returns an active user.
func (s *Service) userByID(id string) (identity.User, bool) {
	for _, u := range s.identity.Users() {
		if u.ID == id {
			return u, !u.Disabled
		}
	}
	return identity.User{}, false
}

func ids(people []Person) []string {
	out := make([]string, len(people))
	for i, p := range people {
		out[i] = p.ID
	}
	return out
}
