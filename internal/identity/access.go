package identity

import (
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
)

// KindAccess is the kind of access tokens: JWTs for minutes and for one
// audience, issued by the room tokens.
const KindAccess = "access"

// maxAccessToken bounds an access token, in bytes: with a whole principal
// chain and tools in its scope it stays well below.
const maxAccessToken = 8 << 10

// Errors about access tokens.
var (
	ErrAudience  = fault.New(fault.Unauthenticated, "wrong_audience", "the token is for another resource; ask for one whose resource is this URL")
	ErrPrincipal = fault.New(fault.Denied, "principal_inactive", "someone on whose behalf this token acts is no longer active; ask for a new one")
)

// Access is what an access token says whose signature, issuer, audience and
// form were found good. The clock was not looked at.
type Access struct {
	ID      string      // jti
	Chain   []Principal // who it acts for, the first principal first; the last is the agent that calls
	Doors   []string    // paths of the resources it is for, such as /mcp/ledger; never empty
	Scope   Scope
	Run     string   // run_… it belongs to; may be empty
	Lineage []string // identifiers whose end is its end: tokens it was exchanged from, keys, rules, sessions
	Issued  time.Time
	Expires time.Time
	Revoked bool // it, or something in its lineage that is not a run
}

// Principal is one link of a principal chain. The ID keeps a token from passing
// to whoever is later given the same name.
type Principal struct {
	Kind audit.ActorKind
	ID   string
	Name string
}

// Verifier tells access tokens; tokens.Service is one. It must work in memory.
// ok is false if the token is not one that we issued for ourselves.
type Verifier interface {
	VerifyAccess(token string) (a Access, ok bool)
	// Dead reports whether one of these was revoked: access tokens, or what
	// they descend from.
	Dead(ids []string) bool
}

// SetVerifier says who knows access tokens. It must be called before the
// Service is used; without it none is accepted.
func (s *Service) SetVerifier(v Verifier) { s.access = v }

// accessHeader is how the header of every access token begins (alg comes first
// in what our issuer writes): it tells them from run tokens without parsing.
const accessHeader = "eyJhbGciOiJFUzI1NiIs" // {"alg":"ES256",

func looksLikeAccess(s string) bool {
	return len(s) <= maxAccessToken && strings.HasPrefix(s, accessHeader) && strings.Count(s, ".") == 2
}

func (s *Service) byAccess(token string) (Caller, error) {
	if s.access == nil {
		return Caller{}, ErrCredential
	}
	if !s.watch.Fresh() { // before the views are taken, so that they are as new as Fresh says
		return Caller{}, ErrStale
	}
	view := s.view.Load()
	t, ok := s.access.VerifyAccess(token)
	if !ok || len(t.Chain) == 0 || len(t.Doors) == 0 || t.Issued.After(s.now().Add(skew)) {
		return Caller{}, ErrCredential
	}
	last := t.Chain[len(t.Chain)-1]
	a, ok := view.agents[last.Name]
	if !ok || last.Kind != audit.KindAgent || a.ID != last.ID {
		return Caller{}, ErrCredential
	}
	scope := t.Scope
	c := Caller{Agent: a, Run: t.Run, Doors: t.Doors, Scope: &scope, Lineage: t.Lineage,
		Credential: Credential{ID: t.ID, Kind: KindAccess, Expires: t.Expires}}
	for _, p := range t.Chain[:len(t.Chain)-1] {
		c.OnBehalfOf = append(c.OnBehalfOf, audit.Actor{Kind: p.Kind, ID: p.ID, Name: p.Name})
		if p.Kind == audit.KindAgent {
			c.Behind = append(c.Behind, view.agents[p.Name]) // standing says whether it is the same one
		}
	}
	c.For = view.personOf(c.OnBehalfOf)
	revoked := t.Revoked || slices.ContainsFunc(t.Lineage, func(id string) bool { return view.ended[id] })
	c, err := s.admit(view, c, revoked)
	if err == nil && !s.standing(view, t.Chain[:len(t.Chain)-1]) {
		err = ErrPrincipal
	}
	return c, err
}

// standing reports whether everyone in a chain may still act: a user who is
// active, an agent that is not suspended and has an active owner.
func (s *Service) standing(v *snapshot, chain []Principal) bool {
	for _, p := range chain {
		switch p.Kind {
		case audit.KindUser:
			if u, ok := v.users[p.Name]; !ok || u.ID != p.ID || u.Disabled {
				return false
			}
		case audit.KindAgent:
			a, ok := v.agents[p.Name]
			if !ok || a.ID != p.ID || a.Suspended {
				return false
			}
			if _, ok := s.answering(v, a); !ok {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// At reports whether the caller's credential is good at the door with this
// path (/mcp/ledger): keys and run tokens are good at every one, access tokens
// at those they were issued for and what lies beneath.
func (c Caller) At(door string) bool {
	if c.Doors == nil {
		return true
	}
	return slices.ContainsFunc(c.Doors, func(d string) bool { return door == d || strings.HasPrefix(door, d+"/") })
}

// Principals returns the whole chain, the calling agent last.
func (c Caller) Principals() []Principal {
	out := make([]Principal, 0, len(c.OnBehalfOf)+1)
	for _, a := range c.OnBehalfOf {
		out = append(out, Principal{Kind: a.Kind, ID: a.ID, Name: a.Name})
	}
	return append(out, Principal{Kind: audit.KindAgent, ID: c.Agent.ID, Name: c.Agent.Name})
}
