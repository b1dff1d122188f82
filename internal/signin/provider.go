package signin

import (
	"context"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// The signatures that an ID token may have: asymmetric ones. "none" and
// symmetric ones, for which a client's secret would do, are not among them.
var algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

const (
	discoverAgain = time.Hour        // how old the provider's configuration may be
	retryAfter    = 5 * time.Second  // a failed discovery
	askWithin     = 15 * time.Second // for one question to the provider
	maxIDToken    = 64 << 10         // bytes
)

// provider is the OpenID provider, asked for its configuration when it is first needed.
type provider struct {
	c    Config
	with func(context.Context) context.Context // carries the HTTP client
	now  func() time.Time

	mu     sync.Mutex
	found  *oidc.Provider
	issues bool // it promises iss in its answers (RFC 9207)
	device bool
	at     time.Time
	failed time.Time
}

// discover returns the provider's configuration.
func (p *provider) discover(ctx context.Context) (*oidc.Provider, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if p.found != nil && now.Sub(p.at) < discoverAgain {
		return p.found, nil
	}
	if now.Sub(p.failed) < retryAfter && !p.failed.IsZero() {
		return nil, ErrProvider
	}
	ctx, cancel := context.WithTimeout(p.with(ctx), askWithin)
	defer cancel()
	found, err := oidc.NewProvider(ctx, p.c.Issuer)
	if err != nil {
		p.failed = now
		return nil, ErrProvider.With(err)
	}
	var meta claims
	if err := found.Claims(&meta); err != nil {
		p.failed = now
		return nil, ErrProvider.With(err)
	}
	p.found, p.at, p.failed = found, now, time.Time{}
	p.issues = meta.truth("authorization_response_iss_parameter_supported")
	p.device = found.Endpoint().DeviceAuthURL != ""
	return found, nil
}

// promises reports whether the provider's answers must name their issuer.
func (p *provider) promises() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.issues
}

func (p *provider) client(found *oidc.Provider, redirect string) (*oauth2.Config, error) {
	secret, err := p.c.Secret()
	if err != nil {
		return nil, ErrProvider.With(err)
	}
	return &oauth2.Config{ClientID: p.c.ClientID, ClientSecret: secret, Endpoint: found.Endpoint(), Scopes: strings.Fields(p.c.Scopes), RedirectURL: redirect}, nil
}

// authURL is where a person is sent.
func (p *provider) authURL(ctx context.Context, state, nonce, verifier, redirect string) (string, error) {
	found, err := p.discover(ctx)
	if err != nil {
		return "", err
	}
	c, err := p.client(found, redirect)
	if err != nil {
		return "", err
	}
	return c.AuthCodeURL(state, oidc.Nonce(nonce), oauth2.S256ChallengeOption(verifier)), nil
}

// person is whom the provider vouches for.
type person struct {
	subject string
	claims  claims
	refresh string // a refresh token, if it gave one
}

// redeem gets a person for a code, who must be the one that nonce is about.
func (p *provider) redeem(ctx context.Context, code, verifier, nonce, redirect string) (person, error) {
	found, err := p.discover(ctx)
	if err != nil {
		return person{}, err
	}
	c, err := p.client(found, redirect)
	if err != nil {
		return person{}, err
	}
	ctx, cancel := context.WithTimeout(p.with(ctx), askWithin)
	defer cancel()
	t, err := c.Exchange(ctx, code, oauth2.VerifierOption(verifier))
	if err != nil {
		return person{}, refusedBy(err, ErrVouch.Say("the identity provider refused the code"))
	}
	return p.vouched(ctx, found, t, &nonce)
}

// vouched reads an answer of the token endpoint. nonce is what the ID token
// must hold, nil if none was sent.
func (p *provider) vouched(ctx context.Context, found *oidc.Provider, t *oauth2.Token, nonce *string) (person, error) {
	raw, _ := t.Extra("id_token").(string)
	if raw == "" || len(raw) > maxIDToken {
		return person{}, ErrVouch.Say("the identity provider sent no ID token")
	}
	who, err := p.verify(ctx, found, raw, nonce)
	if err != nil {
		return person{}, err
	}
	who.refresh = t.RefreshToken
	return who, p.complete(ctx, found, t, &who)
}

func (p *provider) verify(ctx context.Context, found *oidc.Provider, raw string, nonce *string) (person, error) {
	v := found.VerifierContext(ctx, &oidc.Config{ClientID: p.c.ClientID, SupportedSigningAlgs: algorithms, Now: p.now})
	token, err := v.Verify(ctx, raw)
	if err != nil {
		return person{}, ErrVouch.Say("the identity provider's ID token is not valid").With(err)
	}
	who := person{subject: token.Subject}
	if err := token.Claims(&who.claims); err != nil {
		return person{}, ErrVouch.Say("the identity provider's ID token is not valid").With(err)
	}
	azp := who.claims.text("azp")
	switch {
	case nonce != nil && !same(token.Nonce, *nonce):
		return person{}, ErrVouch.Say("the ID token answers another sign-in")
	case token.Subject == "" || len(token.Subject) > 255:
		return person{}, ErrVouch.Say("the ID token names nobody")
	case azp != "" && azp != p.c.ClientID, azp == "" && len(token.Audience) > 1:
		return person{}, ErrVouch.Say("the ID token was issued for another program")
	case token.IssuedAt.After(p.now().Add(time.Minute)):
		return person{}, ErrVouch.Say("the ID token is from the future")
	}
	return who, nil
}

// complete asks the userinfo endpoint for what the ID token leaves out.
func (p *provider) complete(ctx context.Context, found *oidc.Provider, t *oauth2.Token, who *person) error {
	_, email := who.claims[p.c.EmailClaim]
	_, groups := who.claims[p.c.GroupClaim]
	if email && (groups || !p.c.asksGroups()) || found.UserInfoEndpoint() == "" || t.AccessToken == "" {
		return nil
	}
	more, err := p.userinfo(ctx, found, t)
	if err != nil {
		return err
	}
	if more.text("sub") != who.subject {
		return ErrVouch.Say("the identity provider's userinfo is about somebody else")
	}
	for name, value := range more {
		if _, there := who.claims[name]; !there {
			who.claims[name] = value
		}
	}
	return nil
}

func (p *provider) userinfo(ctx context.Context, found *oidc.Provider, t *oauth2.Token) (claims, error) {
	info, err := found.UserInfo(ctx, oauth2.StaticTokenSource(t))
	if err != nil {
		if text := err.Error(); strings.HasPrefix(text, "401") || strings.HasPrefix(text, "403") {
			return nil, errGone.With(err)
		}
		return nil, ErrProvider.With(err)
	}
	var c claims
	if err := info.Claims(&c); err != nil {
		return nil, ErrVouch.Say("the identity provider's userinfo is not valid").With(err)
	}
	return c, nil
}

// still asks whether a person is still there. It returns errGone if the provider
// says no, and what it says of them otherwise.
func (p *provider) still(ctx context.Context, subject, refresh string) (person, error) {
	found, err := p.discover(ctx)
	if err != nil {
		return person{}, err
	}
	c, err := p.client(found, "")
	if err != nil {
		return person{}, err
	}
	ctx, cancel := context.WithTimeout(p.with(ctx), askWithin)
	defer cancel()
	t, err := c.TokenSource(ctx, &oauth2.Token{RefreshToken: refresh}).Token()
	if err != nil {
		return person{}, refusedBy(err, errGone)
	}
	who := person{subject: subject, claims: claims{}}
	if raw, _ := t.Extra("id_token").(string); raw != "" {
		if who, err = p.verify(ctx, found, raw, nil); err != nil {
			return who, err
		}
		if who.subject != subject {
			return who, ErrVouch.Say("the identity provider answered about somebody else")
		}
	}
	who.refresh = t.RefreshToken
	return who, p.complete(ctx, found, t, &who)
}

// refusedBy tells a clear no of the token endpoint (RFC 6749 section 5.2) from
// everything else. The answer's text is not repeated.
func refusedBy(err error, no error) error {
	var refused *oauth2.RetrieveError
	if errors.As(err, &refused) {
		switch refused.ErrorCode {
		case "invalid_grant", "access_denied", "expired_token":
			return no
		}
		return ErrProvider.Say("the identity provider refused this server's request (%.40q)", refused.ErrorCode)
	}
	return ErrProvider.With(errors.New("the token endpoint gave no answer that can be read"))
}

// claims are an ID token's or userinfo's, read by our own strict reader.
type claims map[string]jsontext.Value

// UnmarshalJSON lets the library hand over the bytes.
func (c *claims) UnmarshalJSON(b []byte) error {
	m := map[string]jsontext.Value{}
	if err := json.Unmarshal(b, &m); err != nil {
		return errors.New("not a JSON object, or a name in it twice")
	}
	*c = m
	return nil
}

func (c claims) text(name string) string {
	var s string
	if v, ok := c[name]; !ok || json.Unmarshal(v, &s) != nil {
		return ""
	}
	return s
}

// truth reads a boolean, which some providers write as text.
func (c claims) truth(name string) bool {
	var b bool
	if v, ok := c[name]; ok && json.Unmarshal(v, &b) == nil {
		return b
	}
	return c.text(name) == "true"
}

// list reads a list of texts; known is false if there is none to read.
func (c claims) list(name string) (values []string, known bool) {
	v, ok := c[name]
	if !ok {
		return nil, false
	}
	if json.Unmarshal(v, &values) == nil {
		slices.Sort(values)
		return slices.Compact(values), true
	}
	if s := c.text(name); s != "" {
		return []string{s}, true
	}
	return nil, false
}
