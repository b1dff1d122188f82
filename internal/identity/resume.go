package identity

import (
	"context"
	"errors"
	"time"

	"github.com/countersign/countersign/internal/audit"
)

// Resumed says for whom a call is made that people approved after its client
// may have gone: the agent, by name and identifier, under the credential that
// was presented then, in its run and for its principal chain.
type Resumed struct {
	Agent, AgentID string
	Credential     string   // identifier
	Kind           string   // of the credential
	Lineage        []string // of the credential: what its end would have been
	Run            string   // of a run token; empty for a derived run
	OnBehalfOf     []audit.Actor
}

// Readmit answers for a call whose credential is not presented again: by
// identity. Everyone involved must still be who and what they were: the agent
// and its owner active, the people and agents in the chain too. The credential
// may have expired and a run may have ended, as they do when their program
// ends; a key or token that was revoked, or one it descends from, still refuses.
// Refusals are those of Authenticate.
func (s *Service) Readmit(_ context.Context, r Resumed) (Caller, error) {
	if !s.watch.Fresh() { // before the view is taken, so that it is as new as Fresh says
		return Caller{}, ErrStale
	}
	view := s.view.Load()
	a, ok := view.agents[r.Agent]
	if !ok || a.ID != r.AgentID {
		return Caller{}, ErrCredential.Say("the agent that the call was held for is not there any more")
	}
	revoked := false
	for _, k := range view.keys {
		if k.ID == r.Credential {
			revoked = !k.Revoked.IsZero()
		}
	}
	if s.access != nil {
		revoked = revoked || s.access.Dead(append([]string{r.Credential}, r.Lineage...))
	}
	c := Caller{Agent: a, Run: r.Run, Lineage: r.Lineage, OnBehalfOf: r.OnBehalfOf, Credential: Credential{ID: r.Credential, Kind: r.Kind, Expires: s.now().Add(time.Minute)}}
	for _, p := range r.OnBehalfOf {
		if !s.stands(view, p) {
			return c, ErrCredential.Say("someone in the call's principal chain is not active any more")
		}
		if p.Kind == audit.KindAgent {
			c.Behind = append(c.Behind, view.agents[p.Name])
		}
	}
	c.For = view.personOf(c.OnBehalfOf)
	return s.admit(view, c, revoked)
}

// stands reports whether a member of a principal chain may still act, as
// standing does; without an identifier by the name alone.
func (s *Service) stands(v *snapshot, p audit.Actor) bool {
	switch {
	case p.Kind != audit.KindUser && p.Kind != audit.KindAgent:
		return true
	case p.ID == "" && p.Kind == audit.KindUser:
		p.ID = v.users[p.Name].ID
	case p.ID == "":
		p.ID = v.agents[p.Name].ID
	}
	return s.standing(v, []Principal{{Kind: p.Kind, ID: p.ID, Name: p.Name}})
}

// RunStarter returns the name of the person who started a run; false for a
// run that was derived, which nobody started.
func (s *Service) RunStarter(ctx context.Context, run string) (string, bool, error) {
	if run == "" {
		return "", false, nil
	}
	r, err := readRun(ctx, s.db, run)
	if errors.Is(err, ErrNotFound) {
		return "", false, nil
	}
	return r.StartedBy, err == nil, err
}
