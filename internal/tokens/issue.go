package tokens

import (
	"context"
	"encoding/json/v2"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
)

// What can be asked for.
const (
	WantAccess = "urn:ietf:params:oauth:token-type:access_token"
	WantRun    = "urn:countersign:params:oauth:token-type:run" // a run token, for a program that cannot renew
)

// Ask is what a request for a token asks for, whatever its grant.
type Ask struct {
	Resources []string // RFC 8707; needed for access tokens
	Scope     string   // empty: everything that may be had
	Want      string   // WantAccess (or empty) or WantRun
	Life      time.Duration
	Remote    string // network address, for the log
	Client    string // User-Agent, likewise
}

// Issued is a token that was made.
type Issued struct {
	Token   string
	Type    string // WantAccess or WantRun
	Agent   string
	Run     string
	Scope   string
	Expires time.Time
	Refresh string // only of a person's consent
	Doors   []Door // only with a run token: what the program may use
}

// terms are what a token is issued on.
type terms struct {
	ask     Ask
	grant   string // for the event
	chain   []identity.Principal
	agent   identity.Agent
	scope   identity.Scope
	doors   []string
	ends    time.Time // no later than this; zero: Life from now
	run     string
	lineage []string
	client  string
	origin  string         // who starts a run: "trust/NAME", "client-key/ID"
	runMost time.Duration  // 0 means that no run token may be had
	whole   bool           // the token is its run's, and lives as long
	detail  map[string]any // more for the event
	kind    audit.Type     // "token.issued" if empty
}

// fresh fills in what a request that is not an exchange asks for.
func (s *Service) fresh(t *terms) (err error) {
	if t.ask.Want == WantRun {
		return nil
	}
	if t.scope, err = scopeOf(t.ask.Scope, identity.FullScope()); err != nil {
		return err
	}
	if len(t.ask.Resources) == 0 {
		return ErrTarget
	}
	t.doors, err = s.doorsOf(t.ask.Resources)
	return err
}

// scopeOf reads a scope that must be within outer; empty means all of outer.
func scopeOf(text string, outer identity.Scope) (identity.Scope, error) {
	if text == "" {
		return outer, nil
	}
	scope, err := identity.ParseScope(text)
	switch {
	case err != nil:
		return scope, ErrScope.Say("%s", err.Error())
	case scope.IsZero():
		return scope, ErrScope.Say("the scope names no effect: read, write or irreversible")
	case !scope.Within(outer):
		return scope, ErrScope.Say("the scope %q is more than %q, from which it is asked", scope.String(), outer.String())
	}
	return scope, nil
}

// issueTx makes what t asks for and records it. The transaction's caller
// announces nothing: the views of replicas do not change.
func (s *Service) issueTx(ctx context.Context, tx *audit.Tx, t terms) (Issued, error) {
	if t.ask.Want == WantRun && !t.whole {
		return s.startRunTx(ctx, tx, t)
	}
	if t.ask.Want != "" && t.ask.Want != WantAccess && !t.whole {
		return Issued{}, ErrRequest.Say("requested_token_type is %s or %s", WantAccess, WantRun)
	}
	now := s.now().UTC().Truncate(time.Second)
	c := claims{
		Issuer: s.Issuer(), Subject: subject(t.chain[0]), ID: t.chain[0].ID, Audience: s.resources(t.doors), Client: t.client,
		Issued: now.Unix(), Expires: now.Add(Life).Unix(), Token: id.At(accessID, now), Scope: t.scope.String(), Run: t.run,
		Lineage: t.lineage, Act: acts(t.chain),
	}
	if !t.ends.IsZero() && (t.whole || t.ends.Unix() < c.Expires) {
		c.Expires = t.ends.Unix()
	}
	if c.Expires <= c.Issued {
		return Issued{}, ErrGrant
	}
	key, ok := s.view.Load().current(s.now())
	if !ok {
		return Issued{}, ErrNotIssuing
	}
	payload, err := json.Marshal(c)
	if err != nil {
		return Issued{}, err
	}
	token, err := key.sign(accessType, payload)
	if err != nil {
		return Issued{}, err
	}
	// The one that checks tokens has the last word: agent, owner, chain, locks.
	who, err := s.identity.Authenticate(ctx, token)
	if err != nil {
		return Issued{}, ErrGrant.Say("no token for this agent: %s", err.Error()).With(err)
	}
	expires := time.Unix(c.Expires, 0).UTC()
	tx.Record(s.issuedEvent(t, who, c, expires))
	return Issued{Token: token, Type: WantAccess, Agent: t.agent.Name, Run: t.run, Scope: c.Scope, Expires: expires}, nil
}

func (s *Service) issuedEvent(t terms, who identity.Caller, c claims, expires time.Time) audit.Event {
	d := map[string]any{"grant": t.grant, "token": c.Token, "audience": c.Audience, "scope": c.Scope, "expires": expires, "client": t.client}
	if len(t.lineage) > 0 {
		d["lineage"] = t.lineage
	}
	for k, v := range t.detail {
		d[k] = v
	}
	kind := t.kind
	if kind == "" {
		kind = "token.issued"
	}
	ev := about(event(kind, t.agent.Actor(), "", "agent/"+t.agent.Name, d), t.agent)
	ev.OnBehalfOf, ev.Credential, ev.Run = who.OnBehalfOf, c.Token, t.run
	ev.Remote, ev.Client = t.ask.Remote, cut(t.ask.Client, 200)
	return ev
}

// startRunTx starts a run for a program that cannot renew its credential while
// it runs: it lives at most as long as the rule or key allows, and dies when the
// program gives it back (RFC 7009).
func (s *Service) startRunTx(ctx context.Context, tx *audit.Tx, t terms) (Issued, error) {
	if t.runMost <= 0 || len(t.chain) != 1 {
		return Issued{}, ErrUnallowed.Say("a run token cannot be had this way; ask for an access token")
	}
	life := t.ask.Life
	if life <= 0 || life > t.runMost {
		life = min(max(life, RunUsual), t.runMost)
	}
	run, token, err := s.identity.StartRunFromTx(ctx, tx, t.agent.Actor(), t.origin, "started with a proof of identity: "+t.origin, t.agent.Name, life)
	if err != nil {
		return Issued{}, ErrGrant.Say("no run for this agent: %s", err.Error()).With(err)
	}
	out := Issued{Token: token, Type: WantRun, Agent: t.agent.Name, Run: run.ID, Expires: run.Expires}
	d := map[string]any{"grant": t.grant, "token": run.Credential, "expires": run.Expires, "client": t.client, "lineage": t.lineage}
	for k, v := range t.detail {
		d[k] = v
	}
	ev := about(event("token.issued", t.agent.Actor(), "", "agent/"+t.agent.Name, d), t.agent)
	ev.Credential, ev.Run, ev.Remote, ev.Client = run.Credential, run.ID, t.ask.Remote, cut(t.ask.Client, 200)
	tx.Record(ev)
	if s.o.Doors != nil {
		out.Doors = s.o.Doors(identity.Caller{Agent: t.agent, Run: run.ID, Credential: identity.Credential{ID: run.Credential, Kind: identity.KindRun, Expires: run.Expires}})
	}
	return out, nil
}

// only is the chain of an agent that acts for itself.
func only(a identity.Agent) []identity.Principal {
	return []identity.Principal{{Kind: audit.KindAgent, ID: a.ID, Name: a.Name}}
}

// ClientCredentials issues a token to an agent that proved to hold one of its
// registered keys (RFC 6749 section 4.4 with RFC 7523 section 2.2).
func (s *Service) ClientCredentials(ctx context.Context, p ClientProof, ask Ask) (out Issued, err error) {
	c, err := s.proveClient(ctx, p)
	if err != nil {
		return Issued{}, err
	}
	t := terms{ask: ask, grant: "client_credentials", chain: only(c.agent), agent: c.agent, client: c.agent.Name, lineage: []string{c.key.ID},
		origin: "client-key/" + c.key.ID, runMost: RunMost, detail: map[string]any{"client_key": c.key.ID}}
	if err := s.fresh(&t); err != nil {
		return Issued{}, err
	}
	err = s.change(ctx, func(tx *audit.Tx) error {
		if err := s.consume(ctx, tx, c); err != nil {
			return err
		}
		out, err = s.issueTx(ctx, tx, t)
		return err
	})
	return out, err
}

// Assertion returns a signed statement of this issuer about an agent or a
// connection, for another party that trusts our keys (workload identity
// federation of a cloud or a model provider): sub and aud are the caller's to
// choose, life is at most Life. It is of a type of its own and is accepted at
// none of our doors. The caller records what it is for.
func (s *Service) Assertion(subject, audience string, life time.Duration) (token string, expires time.Time, err error) {
	if subject == "" || audience == "" || life <= 0 || life > Life {
		return "", time.Time{}, ErrInvalid.Say("an assertion has a subject, an audience and a life of at most %s", Life)
	}
	if us := s.Issuer(); us == "" || audience == us {
		return "", time.Time{}, ErrInvalid.Say("an assertion is for somebody else")
	}
	now := s.now().UTC().Truncate(time.Second)
	key, ok := s.view.Load().current(s.now())
	if !ok {
		return "", time.Time{}, ErrNotIssuing
	}
	expires = now.Add(life)
	payload, err := json.Marshal(map[string]any{"iss": s.Issuer(), "sub": subject, "aud": audience, "iat": now.Unix(), "nbf": now.Unix(), "exp": expires.Unix(), "jti": id.At("ast", now)}, json.Deterministic(true))
	if err != nil {
		return "", time.Time{}, err
	}
	token, err = key.sign("JWT", payload)
	return token, expires, err
}
