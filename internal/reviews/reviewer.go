package reviews

import (
	"context"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/rest"
)

// active returns a user who may decide, by name; a name that is another's by
// now is no reviewer.
func (s *Service) active(p Person) (identity.User, bool) {
	u, ok := s.o.Identity.User(p.Name)
	return u, ok && u.May(rest.Decide) && (p.ID == "" || p.ID == u.ID)
}

// people returns who a rule means for a subject, active or not.
func (s *Service) people(rule string, x *Subject) []string {
	what, name, _ := strings.Cut(rule, ":")
	switch what {
	case "owner":
		return []string{x.Owner}
	case "backup":
		return []string{x.Backup}
	case "connection-owner":
		return []string{x.ConnectionOwner}
	case "user":
		return []string{name}
	case "group":
		g, _ := s.o.Identity.Group(name)
		return g.Members
	}
	var out []string // role
	for _, u := range s.o.Identity.Users() {
		if u.Role == name {
			out = append(out, u.Name)
		}
	}
	return out
}

// barred says why a person may not decide about an item, "" if they may as far
// as this is concerned. It is about the person, whatever made them a reviewer.
func (s *Service) barred(r *Review, it *Item, p Person) string {
	x := &it.Subject
	switch {
	case slices.ContainsFunc(x.Givers, p.same):
		return "you gave, asked for or changed it yourself"
	case x.Kind == Owner && p.Name == x.Owner:
		return "it is about you"
	case r.Rules.Apart && p.Name == x.Owner:
		return "you own what has it, and this review wants other eyes"
	}
	for _, v := range it.Verdicts {
		if v.By.ID != "" && v.By.same(p) {
			return "you decided about it at the level before"
		}
	}
	return ""
}

// pick returns the active people of rules who are not barred.
func (s *Service) pick(r *Review, it *Item, rules []string) []Person {
	var out []Person
	for _, rule := range rules {
		for _, name := range s.people(rule, &it.Subject) {
			u, ok := s.active(Person{Name: name})
			p := Person{u.ID, u.Name}
			if ok && s.barred(r, it, p) == "" && !slices.ContainsFunc(out, p.same) {
				out = append(out, p)
			}
		}
	}
	return out
}

// reviewers returns who may decide about an item now: whom it was handed to
// last, as long as they are there; else those that its level names, or, once it
// has escalated, those that it escalates to.
func (s *Service) reviewers(r *Review, it *Item) []Person {
	for _, p := range it.holders() {
		if u, ok := s.active(p); ok && s.barred(r, it, p) == "" {
			return []Person{{u.ID, u.Name}}
		}
	}
	if !it.Escalated.IsZero() {
		return s.pick(r, it, r.Rules.Escalate)
	}
	return s.pick(r, it, r.Rules.Levels[it.Level-1])
}

// refresh puts who answers for the subject now in the place of who did when it
// was asked about: it is the present owner who reviews.
func (s *Service) refresh(x *Subject) {
	switch x.Kind {
	case Grant, Trust:
		if a, ok := s.o.Identity.Agent(x.Agent); ok {
			x.Owner, x.Backup = a.Owner, a.Backup
		}
	case Owner: // the owner is what it is about
		if a, ok := s.o.Identity.Agent(x.Agent); ok {
			x.Backup = a.Backup
		}
	case Secret:
		if sec, ok := s.o.Secrets.Secret(x.Name); ok && sec.ID == x.ID {
			x.Owner = sec.Owner
		}
	case Connection:
		if c, ok := s.o.Connections.Connection(x.Name); ok && c.ID == x.ID {
			x.Owner = c.Owner
		}
	}
	if c, ok := s.o.Connections.Connection(x.Connection); ok {
		x.ConnectionOwner = c.Owner
	}
}

// entitled refuses whoever may not decide about an item: ErrSelf, ErrNotYours.
func (s *Service) entitled(r *Review, it *Item, p Person) error {
	if why := s.barred(r, it, p); why != "" {
		return ErrSelf.Say("%s; another person has to review %s", why, it.Subject.Object())
	}
	if !slices.ContainsFunc(s.reviewers(r, it), p.same) {
		return ErrNotYours
	}
	return nil
}

// Mine returns the items that wait for a person, each with its review's name.
func (s *Service) Mine(ctx context.Context, p Person) ([]Waits, error) {
	open, err := readReviews(ctx, s.o.DB, ` WHERE state = 'open' ORDER BY id`)
	if err != nil {
		return nil, err
	}
	out := []Waits{}
	for i := range open {
		r := &open[i]
		items, err := readItems(ctx, s.o.DB, ` WHERE campaign = $1 AND decision = '' ORDER BY n`, r.ID)
		if err != nil {
			return nil, err
		}
		for j := range items {
			it := &items[j]
			s.refresh(&it.Subject)
			if s.entitled(r, it, p) == nil && s.inTime(r, it) {
				out = append(out, Waits{ID: it.ID, Review: r.Name, Question: r.Question, Due: r.Due, Item: *it})
			}
		}
	}
	return out, nil
}

// cut takes a rule apart.
func cut(rule string) (kind, name string, named bool) { return strings.Cut(rule, ":") }
