package tokens

import (
	"crypto/sha256"
	"encoding/json/v2"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
)

// accessType is the type of access tokens (RFC 9068).
const accessType = "at+jwt"

// The identifiers of what this room makes.
const (
	accessID  id.Kind = "atk"
	sessionID id.Kind = "ses"
	keyID     id.Kind = "ack"
	ruleID    id.Kind = "trs"
	enrolID   id.Kind = "enr"
	clientID  id.Kind = "oac"
)

// claims are what an access token says, and the doors they come to.
type claims struct {
	Issuer   string   `json:"iss"`
	Subject  string   `json:"sub"`    // "user:fiona" or "agent:invoice-checker": the first principal
	ID       string   `json:"sub_id"` // of the subject: usr_… or agt_…
	Audience []string `json:"aud"`
	Client   string   `json:"client_id"`
	Issued   int64    `json:"iat"`
	Expires  int64    `json:"exp"`
	Token    string   `json:"jti"`
	Scope    string   `json:"scope"`
	Run      string   `json:"run,omitzero"`
	Lineage  []string `json:"lineage,omitzero"`
	Act      *act     `json:"act,omitzero"` // RFC 8693 section 4.1: who acts, the outermost first

	chain []identity.Principal
	doors []string
	scope identity.Scope
	kid   string
}

type act struct {
	Subject string `json:"sub"`
	ID      string `json:"sub_id"`
	Act     *act   `json:"act,omitzero"`
}

func subject(p identity.Principal) string { return string(p.Kind) + ":" + p.Name }

func principal(sub, pid string) (identity.Principal, bool) {
	kind, name, ok := strings.Cut(sub, ":")
	p := identity.Principal{Kind: audit.ActorKind(kind), ID: pid, Name: name}
	return p, ok && name != "" && pid != "" && (p.Kind == audit.KindUser || p.Kind == audit.KindAgent)
}

// acts nests a chain as RFC 8693 has it: the subject is the first principal,
// the outermost act the last.
func acts(chain []identity.Principal) *act {
	var a *act
	for _, p := range chain[1:] {
		a = &act{Subject: subject(p), ID: p.ID, Act: a}
	}
	return a
}

// unfold reads the chain back and checks its form.
func (c *claims) unfold() bool {
	first, ok := principal(c.Subject, c.ID)
	if !ok {
		return false
	}
	for a := c.Act; a != nil; a = a.Act {
		p, ok := principal(a.Subject, a.ID)
		if !ok || p.Kind != audit.KindAgent || len(c.chain) >= MaxChain {
			return false
		}
		c.chain = append(c.chain, p)
	}
	c.chain = append(c.chain, first)
	slices.Reverse(c.chain)
	return c.chain[len(c.chain)-1].Kind == audit.KindAgent && len(c.chain) <= MaxChain
}

// most is the longest that such a token may live: minutes, unless a user's
// program has it for a run.
func (c *claims) most() time.Duration {
	if c.Run != "" {
		return RunMost
	}
	return Life
}

// VerifyAccess implements identity.Verifier.
func (s *Service) VerifyAccess(token string) (identity.Access, bool) {
	v := s.view.Load()
	c, ok := s.verify(v, token)
	if !ok {
		return identity.Access{}, false
	}
	return identity.Access{
		ID: c.Token, Chain: c.chain, Doors: c.doors, Scope: c.scope, Run: c.Run, Lineage: c.Lineage,
		Issued: time.Unix(c.Issued, 0).UTC(), Expires: time.Unix(c.Expires, 0).UTC(),
		Revoked: v.dead[c.Token] || slices.ContainsFunc(c.Lineage, func(id string) bool { return v.dead[id] }),
	}, true
}

// Dead implements identity.Verifier.
func (s *Service) Dead(ids []string) bool {
	v := s.view.Load()
	return slices.ContainsFunc(ids, func(id string) bool { return v.dead[id] })
}

// verify returns the claims of a token that one of our keys signed for us. The
// key must still be published; the rest of a good token cannot change.
func (s *Service) verify(v *view, token string) (*claims, bool) {
	d := sha256.Sum256([]byte(token))
	c, ok := s.verified.get(d)
	if !ok {
		if c, ok = s.check(v, token); ok {
			s.verified.put(d, c)
		}
	}
	if !ok || c.Issuer != s.Issuer() {
		return nil, false
	}
	k, ok := v.published(c.kid, s.now())
	return c, ok && k.ID == c.kid
}

func (v *view) published(kid string, now time.Time) (SigningKey, bool) {
	for _, k := range v.signing {
		if k.ID == kid {
			return k, k.Gone.IsZero() || k.Gone.After(now)
		}
	}
	return SigningKey{}, false
}

func (s *Service) check(v *view, token string) (*claims, bool) {
	var k SigningKey
	var payload []byte
	ok := false
	for i := 0; i < len(v.signing) && !ok; i++ {
		if k = v.signing[i]; strings.HasPrefix(token, k.header) {
			payload, ok = k.made(token)
		}
	}
	if !ok {
		return nil, false
	}
	c := &claims{}
	err := json.Unmarshal(payload, c)
	if err != nil {
		return nil, false
	}
	c.kid = k.ID
	life := time.Duration(c.Expires-c.Issued) * time.Second
	if c.Issuer != s.Issuer() || !id.Is(accessID, c.Token) || life <= 0 || life > c.most() || !c.unfold() {
		return nil, false
	}
	if c.scope, err = identity.ParseScope(c.Scope); err != nil {
		return nil, false
	}
	c.doors, err = s.doorsOf(c.Audience)
	return c, err == nil && len(c.doors) > 0
}

// doorForm is what can be a resource: all MCP servers at one URL, or one
// connection.
var doorForm = regexp.MustCompile(`^/(mcp|(mcp|llm|http|retrieve)/[a-z0-9][a-z0-9-]{0,62})$`)

// maxResources bounds the audience of a token.
const maxResources = 16

// doorsOf returns the paths of resources (RFC 8707), sorted. A resource that
// is not ours, or no door, is refused.
func (s *Service) doorsOf(resources []string) ([]string, error) {
	if len(resources) > maxResources {
		return nil, ErrTarget.Say("at most %d resources", maxResources)
	}
	base := s.Issuer()
	var doors []string
	for _, r := range resources {
		path, ours := strings.CutPrefix(strings.TrimSuffix(r, "/"), base)
		if !ours || base == "" || !doorForm.MatchString(path) {
			return nil, ErrTarget.Say("%.200q is no resource of this server: there are %s/mcp and %s/mcp/CONNECTION, and likewise llm, http and retrieve", r, base, base)
		}
		doors = append(doors, path)
	}
	return slices.Compact(slices.Sorted(slices.Values(doors))), nil
}

// resources returns the URLs of doors.
func (s *Service) resources(doors []string) []string {
	out := make([]string, len(doors))
	for i, d := range doors {
		out[i] = s.Issuer() + d
	}
	return out
}
