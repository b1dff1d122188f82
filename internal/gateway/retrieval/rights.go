package retrieval

import (
	"slices"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections/mapping"
	"github.com/countersign/countersign/internal/identity"
)

// rights are who an answer is for, as documents name their readers.
type rights struct {
	readers []string // user:NAME, group:NAME, team:NAME, agent:NAME, everyone
	users   []string // the same for engines that have plain names
	groups  []string
}

// rightsOf returns the rights of whom the caller acts for. With a user in the
// chain they are the user's; that the agent may read at all is policy's to say.
// Without one they are the agent's own; and of several agents that act for each
// other, only what everyone may read, as nothing says that all of them may read
// the same.
func rightsOf(who identity.Caller) rights {
	r := rights{readers: []string{mapping.Everyone}}
	if p := who.For; p != nil {
		r.users, r.groups = []string{p.Name}, slices.Clone(p.Groups)
		r.readers = append(r.readers, "user:"+p.Name)
		for _, g := range p.Groups {
			r.readers = append(r.readers, "group:"+g)
		}
		for _, t := range p.Teams {
			r.readers = append(r.readers, "team:"+t)
		}
		return r
	}
	forUser := slices.ContainsFunc(who.OnBehalfOf, func(a audit.Actor) bool { return a.Kind == audit.KindUser })
	if !forUser && len(who.OnBehalfOf) == 0 && len(who.Behind) == 0 && who.Agent.Name != "" {
		r.readers = append(r.readers, "agent:"+who.Agent.Name)
	}
	return r
}

// admit reports whether a document names one of whom the answer is for.
func (r rights) admit(d mapping.Document) bool {
	return slices.ContainsFunc(d.Readers, func(name string) bool { return slices.Contains(r.readers, name) })
}
