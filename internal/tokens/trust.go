package tokens

import (
	"context"
	"crypto/x509"
	"errors"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/storage"
)

// Rule trusts an issuer to say who an agent is: tokens of exactly this issuer,
// for exactly this audience, about exactly this subject, with these claims.
type Rule struct {
	ID       string            `json:"id"`
	Name     string            `json:"name"`
	Agent    string            `json:"agent"`
	Issuer   string            `json:"issuer" doc:"https URL as it stands in iss, or spiffe://TRUST-DOMAIN for JWT-SVIDs without one"`
	Audience string            `json:"audience,omitempty" doc:"as it stands in aud; empty: this server's URL"`
	Subject  string            `json:"subject" doc:"exactly as it stands in sub"`
	Wildcard string            `json:"wildcard,omitempty" doc:"why * in subject stands for any text; without it * is an ordinary character, and refused"`
	User     string            `json:"user,omitempty" doc:"the subject is this user, and the agent may act on their behalf: the token is a subject_token in an exchange (RFC 8693), never the agent's own proof"`
	Claims   map[string]string `json:"claims,omitempty" doc:"further claims and their exact values"`
	JWKS     string            `json:"jwks,omitempty" doc:"the issuer's keys, if it cannot be asked for them"`
	JWKSURL  string            `json:"jwks_url,omitempty" doc:"where they are, if not where the issuer's configuration says"`
	CA       string            `json:"ca,omitempty" doc:"PEM certificates to trust when asking the issuer, instead of the system's"`
	Private  bool              `json:"allow_private,omitempty" doc:"the issuer may have a private address"`
	RunLife  time.Duration     `json:"-"`
	Created  time.Time         `json:"created"`
	LastUsed time.Time         `json:"last_used,omitzero"`
	revision int64
}

var ruleName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// maxClaims bounds a rule.
const maxClaims = 16

// Normalize returns the rule as it is stored, or says what is wrong with it.
func (r Rule) Normalize() (Rule, error) {
	if !ruleName.MatchString(r.Name) {
		return r, ErrInvalid.Say("a trust rule's name is 1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit")
	}
	for _, f := range []struct{ name, value string }{{"agent", r.Agent}, {"issuer", r.Issuer}, {"subject", r.Subject}} {
		if f.value == "" || len(f.value) > 1000 || !plain(f.value) {
			return r, ErrInvalid.Say("%s: needed, at most 1000 characters on one line", f.name)
		}
	}
	for _, f := range []func() error{r.checkIssuer, r.checkSubject, r.checkUser, r.checkClaims, r.checkKeys} {
		if err := f(); err != nil {
			return r, err
		}
	}
	if r.RunLife == 0 {
		r.RunLife = RunUsual
	}
	if r.RunLife < time.Minute || r.RunLife > RunMost {
		return r, ErrInvalid.Say("run_life: between a minute and %s", RunMost)
	}
	return r, nil
}

func (r Rule) checkIssuer() error {
	if domain, ok := strings.CutPrefix(r.Issuer, "spiffe://"); ok {
		if domain == "" || strings.ContainsAny(domain, "/*") || (r.JWKS == "" && r.JWKSURL == "") {
			return ErrInvalid.Say("issuer: spiffe://TRUST-DOMAIN needs jwks or jwks_url, the keys of the trust domain's bundle")
		}
		return nil
	}
	u, err := url.Parse(r.Issuer)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Contains(r.Issuer, "*") {
		return ErrInvalid.Say("issuer: an https URL exactly as it stands in the tokens, without wildcards")
	}
	return nil
}

func (r Rule) checkSubject() error {
	switch wild := strings.Contains(r.Subject, "*"); {
	case wild && strings.TrimSpace(r.Wildcard) == "":
		return ErrInvalid.Say("subject: a wildcard lets in whatever the issuer names like this; give the exact subject, or say in wildcard why not")
	case wild && strings.Trim(r.Subject, "*:/") == "":
		return ErrInvalid.Say("subject: this would let in everyone whom the issuer knows")
	case !wild && r.Wildcard != "":
		return ErrInvalid.Say("wildcard: there is none in the subject")
	case strings.Count(r.Subject, "*") > 4 || len(r.Wildcard) > 1000:
		return ErrInvalid.Say("subject: at most four wildcards, and a reason of at most 1000 characters")
	}
	return nil
}

func (r Rule) checkUser() error {
	switch {
	case r.User == "":
		return nil
	case len(r.User) > 63 || !plain(r.User):
		return ErrInvalid.Say("user: the name of a user")
	case r.Wildcard != "":
		return ErrInvalid.Say("user: one user is one subject; give it exactly")
	case r.Audience == "":
		return ErrInvalid.Say("audience: needed for a user: the client_id of the program that they signed in to; a token for another program is none for this agent")
	}
	return nil
}

func (r Rule) checkClaims() error {
	if len(r.Claims) > maxClaims {
		return ErrInvalid.Say("claims: at most %d", maxClaims)
	}
	for k, v := range r.Claims {
		if k == "" || v == "" || len(k) > 200 || len(v) > 1000 || slices.Contains([]string{"iss", "sub", "aud", "exp", "nbf", "iat"}, k) {
			return ErrInvalid.Say("claims: %.50q: give the exact value of a claim other than those that every rule compares", k)
		}
		if strings.Contains(v, "*") {
			return ErrInvalid.Say("claims: %.50q: a claim is compared exactly; there are no wildcards", k)
		}
	}
	return nil
}

func (r Rule) checkKeys() error {
	if len(r.JWKS) > 64<<10 || len(r.CA) > 64<<10 || len(r.Audience) > 1000 || !plain(r.Audience) {
		return ErrInvalid.Say("jwks, ca: at most 64 KiB; audience: at most 1000 characters")
	}
	if r.JWKS != "" && r.JWKSURL != "" {
		return ErrInvalid.Say("jwks: give the keys or their URL, not both")
	}
	if r.JWKS != "" {
		if _, err := parseSet([]byte(r.JWKS)); err != nil {
			return ErrInvalid.Say("jwks: %s", err.Error())
		}
	}
	if r.JWKSURL != "" {
		if err := checkURL("jwks_url", r.JWKSURL); err != nil {
			return err
		}
	}
	if r.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(r.CA)) {
		return ErrInvalid.Say("ca: there is no PEM certificate in it")
	}
	return nil
}

// source returns where the issuer's keys come from.
func (r Rule) source() keySource {
	return keySource{issuer: r.Issuer, url: r.JWKSURL, private: r.Private, ca: r.CA}
}

// matches compares a token with everything but the issuer and its signature.
func (r Rule) matches(j *jwt, us string) error {
	audience := r.Audience
	if audience == "" {
		audience = us
	}
	switch {
	case !slices.Contains(j.audience, audience):
		return ErrProof.Say("the token is for another audience than %q", audience)
	case r.Wildcard == "" && j.subject != r.Subject, r.Wildcard != "" && !like(r.Subject, j.subject):
		return ErrProof.Say("the token's subject is another one")
	}
	for _, name := range slices.Sorted(maps.Keys(r.Claims)) {
		if got, ok := j.claim(name); !ok || got != r.Claims[name] {
			return ErrProof.Say("the token's claim %s is another one", name)
		}
	}
	return nil
}

// like reports whether text is pattern, in which * stands for any text.
func like(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	rest, ok := strings.CutPrefix(text, parts[0])
	if !ok {
		return false
	}
	last := len(parts) - 1
	for _, p := range parts[1:last] {
		_, after, found := strings.Cut(rest, p)
		if !found {
			return false
		}
		rest = after
	}
	return last == 0 && rest == "" || last > 0 && strings.HasSuffix(rest, parts[last])
}

func (r Rule) changes(old Rule) map[string]any {
	c := map[string]any{}
	add := func(field string, was, now any) {
		if was != now {
			c[field] = [2]any{was, now}
		}
	}
	add("agent", old.Agent, r.Agent)
	add("issuer", old.Issuer, r.Issuer)
	add("audience", old.Audience, r.Audience)
	add("subject", old.Subject, r.Subject)
	add("wildcard", old.Wildcard, r.Wildcard)
	add("user", old.User, r.User)
	add("jwks", old.JWKS, r.JWKS)
	add("jwks_url", old.JWKSURL, r.JWKSURL)
	add("ca", old.CA, r.CA)
	add("allow_private", old.Private, r.Private)
	add("run_life", old.RunLife.String(), r.RunLife.String())
	if !maps.Equal(old.Claims, r.Claims) {
		c["claims"] = [2]any{old.Claims, r.Claims}
	}
	return c
}

// Rules returns every trust rule, by name.
func (s *Service) Rules(ctx context.Context) ([]Rule, error) { return readRules(ctx, s.db, "") }

// Rule returns one trust rule.
func (s *Service) Rule(ctx context.Context, name string) (Rule, error) {
	found, err := readRules(ctx, s.db, name)
	return one(found, err, "trust rule", name)
}

// PutRule creates or changes a trust rule; it reports whether anything changed.
// A changed rule is another one: what was had by the old one dies.
func (s *Service) PutRule(ctx context.Context, by audit.Actor, reason string, r Rule) (changed bool, err error) {
	err = s.announced(ctx, func(tx *audit.Tx) error {
		changed, err = s.PutRuleTx(ctx, tx, by, reason, r)
		return err
	})
	return changed, err
}

// PutRuleTx is PutRule inside a change.
func (s *Service) PutRuleTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, r Rule) (bool, error) {
	r, err := r.Normalize()
	if err != nil {
		return false, err
	}
	if err := checkReason(reason, false); err != nil {
		return false, err
	}
	found, err := readRules(ctx, tx, r.Name)
	if err != nil {
		return false, err
	}
	now := s.now()
	r.ID = id.At(ruleID, now)
	if _, known := s.identity.User(r.User); r.User != "" && !known {
		return false, ErrInvalid.Say("user: there is no user %q", r.User)
	}
	if len(found) == 0 {
		_, err := tx.Exec(ctx, `INSERT INTO trust_rules (name, id, agent, issuer, audience, subject, wildcard, claims, jwks, jwks_url, ca, allow_private, run_life, created, user_name, last_used, revision)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, 0, 1)`, r.Name, r.ID, r.Agent, r.Issuer, r.Audience, r.Subject, r.Wildcard, marshal(r.Claims), r.JWKS, r.JWKSURL, r.CA,
			r.Private, int64(r.RunLife/time.Second), storage.Micros(now), r.User)
		if storage.Referenced(err) {
			return false, ErrInvalid.Say("agent: there is no agent %q", r.Agent)
		}
		if err != nil {
			return false, err
		}
		tx.Record(event("trust.created", by, reason, "trust/"+r.Name, map[string]any{"id": r.ID, "agent": r.Agent, "issuer": r.Issuer, "audience": r.Audience, "subject": r.Subject, "user": r.User,
			"wildcard": r.Wildcard, "claims": r.Claims, "jwks_url": r.JWKSURL, "allow_private": r.Private, "run_life": r.RunLife.String()}))
		return true, storage.Bump(ctx, tx.Tx, Version)
	}
	old := found[0]
	fields := r.changes(old)
	if len(fields) == 0 {
		return false, nil
	}
	if err := s.endOrigin(ctx, tx, by, reason, old.ID, "trust/"+r.Name); err != nil {
		return false, err
	}
	err = tx.ExecOne(ctx, `UPDATE trust_rules SET id = $1, agent = $2, issuer = $3, audience = $4, subject = $5, wildcard = $6, claims = $7, jwks = $8, jwks_url = $9, ca = $10, allow_private = $11, run_life = $12,
		user_name = $15, revision = revision + 1 WHERE name = $13 AND revision = $14`, r.ID, r.Agent, r.Issuer, r.Audience, r.Subject, r.Wildcard, marshal(r.Claims), r.JWKS, r.JWKSURL, r.CA, r.Private, int64(r.RunLife/time.Second), r.Name, old.revision, r.User)
	if err != nil {
		if errors.Is(err, storage.ErrNotFound) {
			return false, ErrConflict
		}
		if storage.Referenced(err) {
			return false, ErrInvalid.Say("agent: there is no agent %q", r.Agent)
		}
		return false, err
	}
	tx.Record(event("trust.updated", by, reason, "trust/"+r.Name, fields))
	return true, storage.Bump(ctx, tx.Tx, Version)
}

// DeleteRule removes a trust rule and ends every token and run that was had by it.
func (s *Service) DeleteRule(ctx context.Context, by audit.Actor, reason, name string) error {
	return s.announced(ctx, func(tx *audit.Tx) error { return s.DeleteRuleTx(ctx, tx, by, reason, name) })
}

// DeleteRuleTx is DeleteRule inside a change.
func (s *Service) DeleteRuleTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, name string) error {
	if err := checkReason(reason, false); err != nil {
		return err
	}
	found, err := readRules(ctx, tx, name)
	r, err := one(found, err, "trust rule", name)
	if err != nil {
		return err
	}
	if err := s.endOrigin(ctx, tx, by, reason, r.ID, "trust/"+name); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `DELETE FROM trust_rules WHERE name = $1`, name); err != nil {
		return err
	}
	tx.Record(event("trust.deleted", by, reason, "trust/"+name, map[string]any{"id": r.ID, "agent": r.Agent, "issuer": r.Issuer, "subject": r.Subject}))
	return storage.Bump(ctx, tx.Tx, Version)
}

// issuerOf returns the issuer by which rules are found: a JWT-SVID may have no
// iss, and then its trust domain stands for it.
func issuerOf(j *jwt) string {
	if j.issuer != "" {
		return j.issuer
	}
	rest, ok := strings.CutPrefix(j.subject, "spiffe://")
	domain, _, _ := strings.Cut(rest, "/")
	if !ok || domain == "" {
		return ""
	}
	return "spiffe://" + domain
}

// Federate issues a token to a workload that shows one of an issuer that a rule
// trusts (RFC 7523 section 2.1). agent names which agent it means; it may be
// empty when the rules leave no choice. Whoever is not let in learns no more
// than that.
func (s *Service) Federate(ctx context.Context, assertion, agent string, ask Ask) (out Issued, err error) {
	r, j, err := s.trusted(ctx, assertion, agent, false)
	if err != nil {
		return Issued{}, err
	}
	a, err := s.agent(r.Agent)
	if err != nil {
		return Issued{}, ErrProof.With(err)
	}
	t := terms{ask: ask, grant: "jwt-bearer", chain: only(a), agent: a, client: a.Name, lineage: []string{r.ID}, origin: "trust/" + r.Name, runMost: r.RunLife,
		detail: map[string]any{"rule": r.Name, "issuer": r.Issuer, "subject": j.subject}}
	if j.id != "" {
		t.detail["proof_id"] = cut(j.id, 256)
	}
	if err := s.fresh(&t); err != nil {
		return Issued{}, err
	}
	err = s.change(ctx, func(tx *audit.Tx) error {
		if _, err := tx.Exec(ctx, `UPDATE trust_rules SET last_used = $1 WHERE id = $2`, storage.Micros(s.now()), r.ID); err != nil {
			return err
		}
		out, err = s.issueTx(ctx, tx, t)
		return err
	})
	return out, err
}

// trusted finds the one rule that a proof fulfils, whose signature it then
// checks. Nothing is asked of an issuer that no rule names, nor for a token that
// no rule would let in. Rules about users are for exchanges alone, the others
// never for these: a person's token is not an agent's proof.
func (s *Service) trusted(ctx context.Context, assertion, agent string, person bool) (Rule, *jwt, error) {
	if !s.watch.Fresh() {
		return Rule{}, nil, identity.ErrStale
	}
	j, err := parseJWT(assertion)
	if err != nil {
		return Rule{}, nil, hide(err)
	}
	fits, err := s.fitting(j, agent, person)
	if err != nil {
		return Rule{}, nil, hide(err)
	}
	for _, r := range fits {
		if why := s.signedBy(ctx, j, r); why != nil {
			return Rule{}, nil, hide(why)
		}
	}
	for _, r := range fits[1:] {
		if r.Agent != fits[0].Agent || r.User != fits[0].User {
			return Rule{}, nil, ErrRequest.Say("this proof fits more than one agent; name one as client_id")
		}
	}
	return fits[0], j, nil
}

// fitting returns the rules that what a token says fulfils, whoever signed it, or
// why there is none.
func (s *Service) fitting(j *jwt, agent string, person bool) (fits []Rule, err error) {
	issuer := issuerOf(j)
	rules := s.view.Load().trust[issuer]
	if issuer == "" || len(rules) == 0 {
		return nil, ErrProof.Say("no trust rule names the issuer %q", cut(issuer, 200))
	}
	if err := j.inTime(s.now()); err != nil {
		return nil, err
	}
	for _, r := range rules {
		if (r.User != "") != person {
			err = ErrProof.Say("no rule for this issuer lets this in here: rules about users are for a token exchange, the others for an agent's own proof")
			continue
		}
		if agent != "" && r.Agent != agent {
			err = ErrProof.Say("no rule for this issuer is about the agent %q", cut(agent, 63))
			continue
		}
		if why := r.matches(j, s.Issuer()); why != nil {
			err = why
			continue
		}
		fits = append(fits, r)
	}
	if len(fits) > 0 {
		err = nil
	}
	return fits, err
}

// hide leaves the reason to the log.
func hide(err error) error {
	if errors.Is(err, ErrKeys) {
		return ErrNotIssuing.Say("the issuer's keys cannot be had at the moment; try again").With(err)
	}
	return ErrProof.With(err)
}

func (s *Service) signedBy(ctx context.Context, j *jwt, r Rule) error {
	if r.JWKS != "" {
		keys, err := parseSet([]byte(r.JWKS))
		if err != nil {
			return ErrProof.With(err)
		}
		k, ok := choose(keys, j.kid)
		if !ok {
			return ErrUnknownKey
		}
		return j.verify(k)
	}
	k, err := s.jwks.find(ctx, r.source(), j.kid)
	if err != nil {
		return err
	}
	return j.verify(k)
}
