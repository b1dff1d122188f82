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
	Credential     string // identifier
	Kind           string // of the credential
	Run            string // of a run token; empty for a derived run
	OnBehalfOf     []audit.Actor
}

// Readmit answers for a call whose credential is not presented again: by
// identity. Everyone involved must still be who and what they were: the agent
// and its owner active, the people and agents in the chain too. The credential
// may have expired and a run may have ended, as they do when their program
// ends; a key that was revoked still refuses. Refusals are those of
// Authenticate.
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
	c := Caller{Agent: a, Run: r.Run, OnBehalfOf: r.OnBehalfOf, Credential: Credential{ID: r.Credential, Kind: r.Kind, Expires: s.now().Add(time.Minute)}}
	for _, p := range r.OnBehalfOf {
		if !view.stands(p) {
			return c, ErrCredential.Say("someone in the call's principal chain is not active any more")
		}
	}
	return s.admit(view, c, revoked)
}

// stands reports whether a member of a principal chain is still active.
func (v *snapshot) stands(p audit.Actor) bool {
	switch p.Kind {
	case audit.KindUser:
		u, ok := v.users[p.Name]
		return ok && !u.Disabled && (p.ID == "" || p.ID == u.ID)
	case audit.KindAgent:
		a, ok := v.agents[p.Name]
		return ok && !a.Suspended && (p.ID == "" || p.ID == a.ID)
	}
	return true
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
