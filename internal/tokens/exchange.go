package tokens

import (
	"context"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/rest"
)

// The types of tokens from outside (RFC 8693 section 3).
const (
	TypeID  = "urn:ietf:params:oauth:token-type:id_token"
	TypeJWT = "urn:ietf:params:oauth:token-type:jwt"
)

// Subject is what an exchange starts from: who is acted for, and who wants to
// act.
type Subject struct {
	Token string       // subject_token: a key, run, access or user token of ours, or an ID token of an issuer that a rule trusts
	Type  string       // subject_token_type
	Actor string       // actor_token: a credential of ours of the agent that is to act; may be empty
	Proof *ClientProof // or the client's own proof; nil without
	Agent string       // or, for a user who answers for it, its name
}

// exchange is an exchange under way.
type exchange struct {
	terms
	from   identity.Caller // whose doors and scope bound what may be had
	proved *client         // the assertion to use up
	person rest.Caller     // of a user's own token
}

// Exchange issues a token for less, or for an agent that acts on behalf of
// whoever holds the subject's token (RFC 8693): an agent, or a user who shows a
// token of ours or of an issuer that a rule trusts to know them. What is asked
// for must be within what the subject has; nothing asked for means all of it,
// and for a user what can be undone.
func (s *Service) Exchange(ctx context.Context, sub Subject, ask Ask) (out Issued, err error) {
	x := exchange{terms: terms{ask: ask, grant: "token-exchange", kind: "token.exchanged", scope: identity.FullScope(), detail: map[string]any{}}}
	begin := s.forAgent
	switch {
	case strings.HasPrefix(sub.Token, identity.TokenPrefix):
		begin = s.forPerson
	case s.vouchable(sub):
		begin = s.forVouched
	}
	if err := begin(ctx, sub, &x); err != nil {
		return Issued{}, err
	}
	x.lineage = slices.Compact(slices.Sorted(slices.Values(x.lineage)))
	if len(x.chain) > MaxChain {
		return Issued{}, ErrGrant.Say("the chain of delegation is too long: at most %d principals", MaxChain)
	}
	if x.scope, err = scopeOf(x.ask.Scope, x.scope); err != nil {
		return Issued{}, err
	}
	if ask.Want != WantRun || x.person.ID == "" {
		if x.doors, err = s.narrow(x.from, ask.Resources); err != nil {
			return Issued{}, err
		}
	}
	err = s.change(ctx, func(tx *audit.Tx) error {
		if x.proved != nil {
			if err := s.consume(ctx, tx, *x.proved); err != nil {
				return err
			}
		}
		t := x.terms
		if ask.Want == WantRun && x.person.ID != "" {
			if err := s.beginRunTx(ctx, tx, x.person, &t); err != nil {
				return err
			}
		}
		out, err = s.issueTx(ctx, tx, t)
		if t.whole {
			out.Type, out.Doors = WantRun, s.usable(t)
		}
		return err
	})
	return out, err
}

// vouchable reports whether the subject's token is of an issuer outside.
func (s *Service) vouchable(sub Subject) bool {
	if sub.Type == TypeID {
		return true
	}
	j, err := parseJWT(sub.Token)
	return err == nil && sub.Type == TypeJWT && len(s.view.Load().trust[issuerOf(j)]) > 0
}

// forAgent begins with a credential of an agent.
func (s *Service) forAgent(ctx context.Context, sub Subject, x *exchange) error {
	from, err := s.identity.Authenticate(ctx, sub.Token)
	if err != nil {
		return ErrGrant.Say("the subject_token was refused: %s", err.Error()).With(err)
	}
	x.from, x.chain, x.agent, x.run, x.client, x.ends = from, from.Principals(), from.Agent, from.Run, from.Agent.Name, from.Credential.Expires
	x.lineage = append(slices.Clone(from.Lineage), from.Credential.ID)
	x.detail["subject_credential"] = from.Credential.ID
	if from.Scope != nil {
		x.scope = *from.Scope
	}
	return s.actor(ctx, sub, x)
}

// forPerson begins with the token of a user, who may let those agents act for
// them that they answer for, or that an administrator offers to everybody. That
// an agent of the user's own acts, the user says alone.
func (s *Service) forPerson(ctx context.Context, sub Subject, x *exchange) error {
	c, err := s.identity.AuthenticateUser(ctx, sub.Token)
	if err != nil {
		return ErrGrant.Say("the subject_token was refused: %s", err.Error()).With(err)
	}
	held, err := s.identity.Tokens(ctx, c.Name)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(held, func(t identity.Token) bool { return t.ID == c.Credential })
	if i < 0 {
		return ErrGrant.Say("the subject_token was revoked")
	}
	x.person, x.ends, x.lineage = c, held[i].Expires, []string{c.Credential}
	x.chain = []identity.Principal{{Kind: audit.KindUser, ID: c.ID, Name: c.Name}}
	x.detail["subject_credential"] = c.Credential
	if err := s.actor(ctx, sub, x); err != nil {
		return err
	}
	if x.agent.ID == "" {
		if x.agent, err = s.agent(sub.Agent); err != nil {
			return ErrRequest.Say("which agent acts for you? Name one as client_id, or send its actor_token or client_assertion")
		}
		x.client, x.chain = x.agent.Name, append(x.chain, only(x.agent)...)
	}
	if ok, err := s.offered(ctx, c, x.agent); err != nil || !ok {
		if err == nil {
			err = ErrUnallowed.Say("you may not let the agent %q act for you: you do not answer for it, and nobody offers it to everybody", x.agent.Name)
		}
		return err
	}
	x.undoable()
	return nil
}

// undoable leaves out of what a user did not ask for by name what cannot be
// undone.
func (x *exchange) undoable() {
	if x.ask.Scope == "" {
		x.ask.Scope = FirstScope
	}
}

// offered reports whether a user may let an agent act for them.
func (s *Service) offered(ctx context.Context, c rest.Caller, a identity.Agent) (bool, error) {
	if answersFor(c, a) {
		return true, nil
	}
	clients, err := readOAuthClients(ctx, s.db, "")
	return slices.ContainsFunc(clients, func(x OAuthClient) bool { return x.Agent == a.Name && x.Kind == Registered }), err
}

// forVouched begins with a user's token of an issuer outside. The agent proves
// itself besides, and must be the one that the rule lets act.
func (s *Service) forVouched(ctx context.Context, sub Subject, x *exchange) error {
	if sub.Proof == nil && sub.Actor == "" {
		return ErrRequest.Say("the agent that acts proves itself: send its client_assertion or actor_token beside the user's token")
	}
	if err := s.actor(ctx, sub, x); err != nil {
		return err
	}
	r, j, err := s.trusted(ctx, sub.Token, x.agent.Name, true)
	if err != nil {
		return err
	}
	u, ok := s.identity.User(r.User)
	if !ok || u.Disabled {
		return hide(ErrProof.Say("the user %q is not active", r.User))
	}
	x.chain = append([]identity.Principal{{Kind: audit.KindUser, ID: u.ID, Name: u.Name}}, only(x.agent)...)
	x.lineage = append(x.lineage, r.ID)
	if x.ends.IsZero() || j.expires.Before(x.ends) {
		x.ends = j.expires
	}
	x.detail["rule"], x.detail["issuer"], x.detail["subject"] = r.Name, r.Issuer, j.subject
	x.undoable()
	return nil
}

// actor appends the agent that is to act to the chain, if there is another one.
func (s *Service) actor(ctx context.Context, sub Subject, x *exchange) error {
	var a identity.Agent
	switch {
	case sub.Actor != "" && sub.Proof != nil:
		return ErrRequest.Say("send an actor_token or a client_assertion, not both")
	case sub.Actor != "":
		who, err := s.identity.Authenticate(ctx, sub.Actor)
		if err != nil {
			return ErrGrant.Say("the actor_token was refused: %s", err.Error()).With(err)
		}
		if len(who.OnBehalfOf) > 0 {
			return ErrGrant.Say("the actor_token acts on behalf of somebody itself; send one of the agent's own")
		}
		a = who.Agent
		x.lineage = append(append(x.lineage, who.Lineage...), who.Credential.ID)
		x.detail["actor_credential"] = who.Credential.ID
		if x.ends.IsZero() || who.Credential.Expires.Before(x.ends) {
			x.ends = who.Credential.Expires
		}
	case sub.Proof != nil:
		c, err := s.proveClient(ctx, *sub.Proof)
		if err != nil {
			return err
		}
		x.proved, a = &c, c.agent
		x.lineage = append(x.lineage, c.key.ID)
		x.detail["client_key"] = c.key.ID
	default:
		return nil
	}
	if a.ID == x.agent.ID {
		return nil
	}
	x.chain = append(x.chain, only(a)...)
	x.agent, x.client = a, a.Name
	return nil
}

// beginRunTx starts the run that a user's program has to itself: its token lives
// as long, names the user, and ends with the run and with the user's own token.
func (s *Service) beginRunTx(ctx context.Context, tx *audit.Tx, c rest.Caller, t *terms) error {
	life := t.ask.Life
	if life <= 0 {
		life = RunUsual
	}
	by := audit.Person(c.ID, c.Name)
	run, _, err := s.identity.StartRunFromTx(ctx, tx, by, c.Name, "on behalf of "+c.Name, t.agent.Name, min(life, RunMost))
	if err != nil {
		return ErrGrant.Say("no run for this agent: %s", err.Error()).With(err)
	}
	t.run, t.lineage, t.whole = run.ID, append(t.lineage, run.Credential), true
	if run.Expires.Before(t.ends) {
		t.ends = run.Expires
	}
	if len(t.ask.Resources) > 0 {
		t.doors, err = s.doorsOf(t.ask.Resources)
		return err
	}
	t.doors = []string{"/mcp"}
	for _, d := range s.usable(*t) {
		if front := map[string]string{"llm": "/llm/", "http": "/http/", "retrieval": "/retrieve/"}[d.Kind]; front != "" {
			t.doors = append(t.doors, front+d.Name)
		}
	}
	if len(t.doors) > maxResources {
		return ErrTarget.Say("the agent may use more than %d connections: name those that the program needs as resources", maxResources)
	}
	slices.Sort(t.doors)
	return nil
}

// usable lists the connections of which the agent of t may use something.
func (s *Service) usable(t terms) []Door {
	if s.o.Doors == nil {
		return nil
	}
	who := identity.Caller{Agent: t.agent, Run: t.run, Credential: identity.Credential{Kind: identity.KindAccess, Expires: t.ends}}
	for _, p := range t.chain[:len(t.chain)-1] {
		who.OnBehalfOf = append(who.OnBehalfOf, audit.Actor{Kind: p.Kind, ID: p.ID, Name: p.Name})
	}
	return s.o.Doors(who)
}

// narrow returns the doors that are asked for, each of which must be one at
// which the subject's credential is good.
func (s *Service) narrow(from identity.Caller, resources []string) ([]string, error) {
	if len(resources) == 0 {
		if from.Doors == nil {
			return nil, ErrTarget
		}
		return from.Doors, nil
	}
	doors, err := s.doorsOf(resources)
	if err != nil {
		return nil, err
	}
	for _, d := range doors {
		if !from.At(d) {
			return nil, ErrTarget.Say("the subject_token is not good at %s%s; a token exchanged for it cannot be either", s.Issuer(), d)
		}
	}
	return doors, nil
}
