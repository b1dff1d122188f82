package tokens

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"encoding/json/v2"
	"net/url"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/storage"
)

// codeLife is how long an authorization code waits.
const codeLife = time.Minute

// FirstScope is what a client gets that asks for nothing, and what the first
// challenge names: what cannot be taken back needs a step-up.
const FirstScope = "read write"

func hexOf(b []byte) string { return hex.EncodeToString(b) }

// Plan is an authorization request that was found good.
type Plan struct {
	Client    OAuthClient
	Redirect  string
	State     string
	Challenge string // PKCE, S256
	Scope     identity.Scope
	Doors     []string
}

// RedirectError is a refusal that the client may be told at its redirect URI;
// any other is shown to the person, since it is not sure whose URI that is.
type RedirectError struct {
	Redirect, State string
	Fault           *fault.Error
}

func (e *RedirectError) Error() string { return e.Fault.Error() }
func (e *RedirectError) Unwrap() error { return e.Fault }

// Plan checks an authorization request (OAuth 2.1 section 4.1.1).
func (s *Service) Plan(ctx context.Context, q url.Values) (Plan, error) {
	for name, values := range q {
		if len(values) > 1 && name != "resource" {
			return Plan{}, ErrRequest.Say("%.50q is given twice", name)
		}
	}
	c, err := s.OAuthClient(ctx, q.Get("client_id"))
	if err != nil {
		return Plan{}, err
	}
	p := Plan{Client: c, Redirect: q.Get("redirect_uri"), State: q.Get("state"), Challenge: q.Get("code_challenge")}
	if p.Redirect == "" && len(c.Redirects) == 1 {
		p.Redirect = c.Redirects[0]
	}
	if !c.redirects(p.Redirect) || checkRedirect(p.Redirect) != nil {
		return Plan{}, ErrRequest.Say("redirect_uri: %.200q is none of the client's", p.Redirect)
	}
	back := func(f *fault.Error) error { return &RedirectError{Redirect: p.Redirect, State: p.State, Fault: f} }
	switch {
	case q.Get("response_type") != "code":
		return Plan{}, back(fault.New(fault.Invalid, "unsupported_response_type", "response_type must be code"))
	case q.Get("code_challenge_method") != "S256" || len(p.Challenge) != 43:
		return Plan{}, back(ErrRequest.Say("PKCE is needed: code_challenge with code_challenge_method S256"))
	case len(p.State) > 2000:
		return Plan{}, back(ErrRequest.Say("state is over 2000 bytes"))
	case len(q["resource"]) == 0:
		return Plan{}, back(ErrTarget)
	}
	if p.Doors, err = s.doorsOf(q["resource"]); err != nil {
		return Plan{}, back(fault.Public(err))
	}
	scope := q.Get("scope")
	if parsed, err := identity.ParseScope(scope); err == nil && parsed.IsZero() {
		scope = FirstScope
	}
	if p.Scope, err = scopeOf(scope, identity.FullScope()); err != nil {
		return Plan{}, back(fault.Public(err))
	}
	return p, nil
}

// Choices returns the agents that a person may let a client act as: the one it
// is registered for, else those the person answers for.
func (s *Service) Choices(c rest.Caller, client OAuthClient) []identity.Agent {
	var out []identity.Agent
	for _, a := range s.identity.Agents() {
		mine := client.Agent == a.Name || client.Agent == "" && answersFor(c, a)
		if mine && !a.Suspended {
			out = append(out, a)
		}
	}
	return out
}

// Session is a person's consent to a client: until it ends, the client can have
// tokens with which the agent acts on behalf of the person.
type Session struct {
	ID       string    `json:"id"`
	ClientID string    `json:"client_id"`
	User     string    `json:"user"`
	Agent    string    `json:"agent"`
	Scope    string    `json:"scope"`
	Doors    []string  `json:"resources" doc:"paths of the resources"`
	Created  time.Time `json:"created"`
	Expires  time.Time `json:"expires"`
	Ended    time.Time `json:"ended,omitzero"`
	userID   string
	agentID  string
}

// Consent records that a person lets the client act, and returns the code for it.
func (s *Service) Consent(ctx context.Context, c rest.Caller, p Plan, agent string) (code string, err error) {
	i := slices.IndexFunc(s.Choices(c, p.Client), func(a identity.Agent) bool { return a.Name == agent })
	if i < 0 {
		return "", ErrNotOwner.Say("you may not let this program act as the agent %q", cut(agent, 63))
	}
	a := s.Choices(c, p.Client)[i]
	now := s.now().UTC().Truncate(time.Microsecond)
	x := Session{ID: id.At(sessionID, now), ClientID: p.Client.ClientID, User: c.Name, Agent: a.Name, Scope: p.Scope.String(), Doors: p.Doors,
		Created: now, Expires: now.Add(SessionLife), userID: c.ID, agentID: a.ID}
	code = "csc_" + rand.Text()
	err = s.change(ctx, func(tx *audit.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO token_sessions (id, client_id, user_name, user_id, agent, agent_id, doors, scope, created, expires, ended) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 0)`,
			x.ID, x.ClientID, x.User, x.userID, x.Agent, x.agentID, marshal(x.Doors), x.Scope, storage.Micros(x.Created), storage.Micros(x.Expires)); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO oauth_codes (hash, session, client_id, redirect_uri, challenge, expires, used) VALUES ($1, $2, $3, $4, $5, $6, 0)`,
			digest(code), x.ID, x.ClientID, p.Redirect, p.Challenge, storage.Micros(now.Add(codeLife))); err != nil {
			return err
		}
		tx.Record(s.sessionEvent("token.consented", c, a, x, p))
		return nil
	})
	return code, err
}

// Declined records that a person did not consent.
func (s *Service) Declined(ctx context.Context, c rest.Caller, p Plan) error {
	_, err := s.log.Append(ctx, event("token.consent_declined", audit.Person(c.ID, c.Name), "", "oauth-client/"+cut(p.Client.ClientID, 500),
		map[string]any{"client": p.Client.ClientID, "scope": p.Scope.String(), "audience": s.resources(p.Doors)}))
	return err
}

func (s *Service) sessionEvent(t audit.Type, c rest.Caller, a identity.Agent, x Session, p Plan) audit.Event {
	ev := about(event(t, audit.Person(c.ID, c.Name), "", "agent/"+a.Name, map[string]any{"session": x.ID, "client": x.ClientID, "client_name": p.Client.Name,
		"client_kind": p.Client.Kind, "redirect_uri": p.Redirect, "scope": x.Scope, "audience": s.resources(x.Doors), "expires": x.Expires}), a)
	ev.Credential, ev.Remote = x.ID, c.Remote
	return ev
}

// Redeem gives a client the tokens for a code that a person's consent gave it.
// A code that comes twice ends the consent: one of the two stole it.
func (s *Service) Redeem(ctx context.Context, client, code, verifier, redirect string, ask Ask) (Issued, error) {
	type row struct {
		session, client, redirect, challenge string
		expires, used                        int64
	}
	found, err := collect(ctx, s.db, func(rows *sql.Rows) (r row, err error) {
		return r, rows.Scan(&r.session, &r.client, &r.redirect, &r.challenge, &r.expires, &r.used)
	}, `SELECT session, client_id, redirect_uri, challenge, expires, used FROM oauth_codes WHERE hash = $1`, digest(code))
	if err != nil {
		return Issued{}, err
	}
	if len(found) == 0 {
		return Issued{}, ErrGrant.Say("the code is unknown")
	}
	r := found[0]
	if r.used != 0 {
		return Issued{}, s.reused(ctx, r.session, "an authorization code was used twice")
	}
	sum := sha256.Sum256([]byte(verifier))
	proof := base64.RawURLEncoding.EncodeToString(sum[:])
	switch {
	case r.client != client:
		return Issued{}, ErrGrant.Say("the code is that of another client")
	case s.now().After(storage.Time(r.expires)):
		return Issued{}, ErrGrant.Say("the code has expired")
	case r.redirect != redirect:
		return Issued{}, ErrGrant.Say("redirect_uri is another one than in the authorization request")
	case len(verifier) < 43 || len(verifier) > 128 || subtle.ConstantTimeCompare([]byte(proof), []byte(r.challenge)) != 1:
		return Issued{}, ErrGrant.Say("code_verifier does not fit the code_challenge")
	}
	return s.continueSession(ctx, r.session, ask, "authorization_code", `UPDATE oauth_codes SET used = $1 WHERE hash = $2 AND used = 0`, digest(code))
}

// Refresh gives a client new tokens for a refresh token, which is used up. One
// that comes twice ends the consent.
func (s *Service) Refresh(ctx context.Context, client, token string, ask Ask) (Issued, error) {
	type row struct {
		session, client string
		expires, used   int64
	}
	found, err := collect(ctx, s.db, func(rows *sql.Rows) (r row, err error) {
		return r, rows.Scan(&r.session, &r.client, &r.expires, &r.used)
	}, `SELECT r.session, s.client_id, r.expires, r.used FROM refresh_tokens r JOIN token_sessions s ON s.id = r.session WHERE r.hash = $1`, digest(token))
	if err != nil {
		return Issued{}, err
	}
	switch {
	case len(found) == 0:
		return Issued{}, ErrGrant.Say("the refresh token is unknown")
	case found[0].client != client:
		return Issued{}, ErrGrant.Say("the refresh token is that of another client")
	case found[0].used != 0:
		return Issued{}, s.reused(ctx, found[0].session, "a refresh token was used twice")
	case s.now().After(storage.Time(found[0].expires)):
		return Issued{}, ErrGrant.Say("the refresh token has expired; sign in again")
	}
	if ask.Scope == "" { // who names a scope knows what a refresh can give
		switch until, err := s.stepsUp(ctx, found[0].session); {
		case err != nil:
			return Issued{}, err
		case !until.IsZero():
			return Issued{}, ErrGrant.Say("a refresh gives no wider scope than the person consented to; begin a new authorization with the scope of the challenge")
		}
	}
	return s.continueSession(ctx, found[0].session, ask, "refresh_token", `UPDATE refresh_tokens SET used = $1 WHERE hash = $2 AND used = 0`, digest(token))
}

// continueSession issues the next pair of tokens of a session, using up what it
// is asked with.
func (s *Service) continueSession(ctx context.Context, session string, ask Ask, grant, use, hash string) (out Issued, err error) {
	found, err := readSessions(ctx, s.db, sessionFilter{id: session})
	if err != nil || len(found) == 0 || !found[0].Ended.IsZero() {
		return Issued{}, ErrGrant.Say("the consent has ended; sign in again").With(err)
	}
	x := found[0]
	t, err := s.sessionTerms(x, ask, grant)
	if err != nil {
		return Issued{}, err
	}
	next, lost := "csr_"+rand.Text(), false
	err = s.change(ctx, func(tx *audit.Tx) error {
		res, err := tx.Exec(ctx, use, storage.Micros(s.now()), hash)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			lost = true
			return ErrGrant
		}
		if _, err := tx.Exec(ctx, `INSERT INTO refresh_tokens (hash, session, expires, used) VALUES ($1, $2, $3, 0)`, digest(next), x.ID, storage.Micros(x.Expires)); err != nil {
			return err
		}
		out, err = s.issueTx(ctx, tx, t)
		return err
	})
	if lost {
		return Issued{}, s.reused(ctx, session, "one code or refresh token was used twice at the same time")
	}
	out.Refresh = next
	return out, err
}

func (s *Service) sessionTerms(x Session, ask Ask, grant string) (terms, error) {
	if ask.Want == WantRun {
		return terms{}, ErrUnallowed.Say("a run token cannot be had this way")
	}
	all, err := identity.ParseScope(x.Scope)
	if err != nil {
		return terms{}, err
	}
	a, err := s.agent(x.Agent)
	if err != nil || a.ID != x.agentID {
		return terms{}, ErrGrant.Say("the agent is no longer there")
	}
	t := terms{ask: ask, grant: grant, agent: a, client: x.ClientID, lineage: []string{x.ID}, ends: x.Expires, detail: map[string]any{"session": x.ID},
		chain: append([]identity.Principal{{Kind: audit.KindUser, ID: x.userID, Name: x.User}}, only(a)...)}
	if t.scope, err = scopeOf(ask.Scope, all); err != nil {
		return t, err
	}
	t.doors, err = s.narrow(identity.Caller{Doors: x.Doors}, ask.Resources)
	return t, err
}

// reused ends a session whose code or refresh token came twice.
func (s *Service) reused(ctx context.Context, session, why string) error {
	err := s.announced(ctx, func(tx *audit.Tx) error {
		found, err := readSessions(ctx, tx, sessionFilter{id: session})
		if err != nil || len(found) == 0 || !found[0].Ended.IsZero() {
			return err
		}
		return s.endSessionTx(ctx, tx, audit.System, why, found[0])
	})
	if err != nil {
		return err
	}
	return ErrGrant.Say("it was used before; the consent was ended, sign in again")
}

func (s *Service) endSessionTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, x Session) error {
	if !x.Ended.IsZero() {
		return nil
	}
	if _, err := tx.Exec(ctx, `UPDATE token_sessions SET ended = $1 WHERE id = $2`, storage.Micros(s.now()), x.ID); err != nil {
		return err
	}
	ev := event("token.session_ended", by, reason, "agent/"+x.Agent, map[string]any{"session": x.ID, "client": x.ClientID, "user": x.User})
	ev.Agent, ev.Credential = x.Agent, x.ID
	tx.Record(ev)
	return s.kill(ctx, tx, x.ID)
}

// Sessions lists a person's consents; all of them for who may change things.
func (s *Service) Sessions(ctx context.Context, c rest.Caller) ([]Session, error) {
	f := sessionFilter{user: c.Name}
	if c.May(rest.Write) {
		f.user = ""
	}
	return readSessions(ctx, s.db, f)
}

// SignedIn names the people who are signed in with an agent now.
func (s *Service) SignedIn(ctx context.Context, agent string) ([]string, error) {
	all, err := readSessions(ctx, s.db, sessionFilter{agent: agent})
	if err != nil {
		return nil, err
	}
	var out []string
	for _, x := range all {
		if x.Ended.IsZero() && x.Expires.After(s.now()) {
			out = append(out, x.User)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// EndSession ends a consent and every token of it at once.
func (s *Service) EndSession(ctx context.Context, c rest.Caller, reason, session string) error {
	if err := checkReason(reason, false); err != nil {
		return err
	}
	return s.announced(ctx, func(tx *audit.Tx) error {
		found, err := readSessions(ctx, tx, sessionFilter{id: session})
		x, err := one(found, err, "session", session)
		if err != nil {
			return err
		}
		if !c.May(rest.Write) && x.userID != c.ID {
			return ErrNotFound.Say("there is no session %q of yours", cut(session, 64))
		}
		return s.endSessionTx(ctx, tx, audit.Person(c.ID, c.Name), reason, x)
	})
}

type sessionFilter struct{ id, user, client, agent string }

func readSessions(ctx context.Context, q querier, f sessionFilter) ([]Session, error) {
	return collect(ctx, q, func(rows *sql.Rows) (x Session, err error) {
		var doors string
		var created, expires, ended int64
		if err = rows.Scan(&x.ID, &x.ClientID, &x.User, &x.userID, &x.Agent, &x.agentID, &doors, &x.Scope, &created, &expires, &ended); err != nil {
			return x, err
		}
		x.Created, x.Expires, x.Ended = storage.Time(created), storage.Time(expires), storage.Time(ended)
		return x, json.Unmarshal([]byte(doors), &x.Doors)
	}, `SELECT id, client_id, user_name, user_id, agent, agent_id, doors, scope, created, expires, ended FROM token_sessions
		WHERE ($1 = '' OR id = $1) AND ($2 = '' OR user_name = $2) AND ($3 = '' OR client_id = $3) AND ($4 = '' OR agent = $4) ORDER BY id`, f.id, f.user, f.client, f.agent)
}

// SignOut ends the session that a person signed in with to consent. That it
// could not be ended is for our own log: it expires, and nobody has it any more.
func (s *Service) SignOut(ctx context.Context, c rest.Caller) {
	if err := s.identity.Logout(ctx, audit.Person(c.ID, c.Name), c.Credential); err != nil {
		s.logger.Warn("a session could not be ended after consent", "error", err)
	}
}
