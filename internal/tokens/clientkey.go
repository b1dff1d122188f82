package tokens

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/v2"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/storage"
)

// The life of a registered key.
const (
	KeyUsual   = 90 * 24 * time.Hour
	KeyMost    = 365 * 24 * time.Hour
	maxKeys    = 16               // of one agent
	assertMost = 10 * time.Minute // that a client assertion may be valid for
	maxProof   = 16 << 10         // bytes of a JWT from outside
)

// AssertionType is the client_assertion_type of RFC 7523 section 2.2.
const AssertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// ClientKey is a public key by which an agent proves itself; its private half
// never leaves the agent.
type ClientKey struct {
	ID         string    `json:"id"`
	Agent      string    `json:"agent"`
	Thumbprint string    `json:"thumbprint" doc:"RFC 7638, SHA-256"`
	JWKSURL    string    `json:"jwks_url,omitempty" doc:"where the keys are, if they are not given"`
	Label      string    `json:"label,omitempty" doc:"what it is for, or the machine it is on"`
	Created    time.Time `json:"created"`
	Expires    time.Time `json:"expires"`
	Revoked    time.Time `json:"revoked,omitzero"`
	LastUsed   time.Time `json:"last_used,omitzero"`
	jwk        jose.JSONWebKey
}

// Status returns active, expired or revoked.
func (k ClientKey) Status(now time.Time) string {
	switch {
	case !k.Revoked.IsZero():
		return identity.Revoked
	case !now.Before(k.Expires):
		return identity.Expired
	}
	return identity.Active
}

// ClientKeySpec registers a key: a JWK, or the URL of a JWKS.
type ClientKeySpec struct {
	JWK     []byte
	JWKSURL string
	Label   string
	Life    time.Duration // KeyUsual if zero
}

// publicKey reads a JWK that may prove somebody: public, asymmetric and strong.
func publicKey(raw []byte) (jose.JSONWebKey, string, error) {
	var k jose.JSONWebKey
	if len(raw) > maxProof || k.UnmarshalJSON(raw) != nil || !k.Valid() {
		return k, "", ErrInvalid.Say("jwk: this is no JSON Web Key (RFC 7517)")
	}
	if !k.IsPublic() {
		return k, "", ErrInvalid.Say("jwk: a private or symmetric key must never be sent anywhere; send the public half, and make a new pair: this one is known to too many now")
	}
	switch pub := k.Key.(type) {
	case *rsa.PublicKey:
		if pub.N.BitLen() < 2048 {
			return k, "", ErrInvalid.Say("jwk: an RSA key has at least 2048 bits")
		}
	case *ecdsa.PublicKey:
		if !pub.Curve.IsOnCurve(pub.X, pub.Y) { //nolint:staticcheck // the deprecated form is what tells a point from none
			return k, "", ErrInvalid.Say("jwk: not a point on its curve")
		}
	}
	sum, err := k.Thumbprint(crypto.SHA256)
	if err != nil {
		return k, "", ErrInvalid.Say("jwk: not a key that can be used")
	}
	return jose.JSONWebKey{Key: k.Key, KeyID: k.KeyID, Algorithm: k.Algorithm, Use: "sig"}, hex.EncodeToString(sum), nil
}

// AddClientKey registers a key of an agent. Its owner and backup owner may, and
// who may change things in general.
func (s *Service) AddClientKey(ctx context.Context, c rest.Caller, reason, agent string, spec ClientKeySpec) (k ClientKey, err error) {
	a, err := s.agent(agent)
	if err != nil {
		return k, err
	}
	if err := s.mayManage(c, a); err != nil {
		return k, err
	}
	err = s.announced(ctx, func(tx *audit.Tx) error {
		k, err = s.addClientKeyTx(ctx, tx, audit.Person(c.ID, c.Name), reason, a, spec)
		return err
	})
	return k, err
}

func (s *Service) addClientKeyTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, a identity.Agent, spec ClientKeySpec) (ClientKey, error) {
	life := spec.Life
	if life == 0 {
		life = KeyUsual
	}
	if life < 0 || life > KeyMost {
		return ClientKey{}, ErrInvalid.Say("a key lives at most %d days", KeyMost/(24*time.Hour))
	}
	if err := checkReason(reason, false); err != nil {
		return ClientKey{}, err
	}
	if len(spec.Label) > 200 || !plain(spec.Label) {
		return ClientKey{}, ErrInvalid.Say("label: at most 200 characters on one line")
	}
	now := s.now().UTC().Truncate(time.Microsecond)
	k := ClientKey{ID: id.At(keyID, now), Agent: a.Name, JWKSURL: spec.JWKSURL, Label: spec.Label, Created: now, Expires: now.Add(life)}
	raw, err := k.fill(spec)
	if err != nil {
		return ClientKey{}, err
	}
	old, err := readClientKeys(ctx, tx, a.Name)
	if err != nil {
		return ClientKey{}, err
	}
	live := 0
	for _, o := range old {
		if o.Thumbprint == k.Thumbprint {
			return ClientKey{}, ErrConflict.Say("this key is registered for the agent already, as %s (%s)", o.ID, o.Status(now))
		}
		if o.Status(now) == identity.Active {
			live++
		}
	}
	if live >= maxKeys {
		return ClientKey{}, ErrConflict.Say("an agent has at most %d keys; revoke one first", maxKeys)
	}
	if _, err := tx.Exec(ctx, `INSERT INTO client_keys (id, agent, thumbprint, jwk, jwks_url, label, created, expires, revoked, last_used) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, 0)`,
		k.ID, k.Agent, k.Thumbprint, raw, k.JWKSURL, k.Label, storage.Micros(k.Created), storage.Micros(k.Expires)); err != nil {
		return ClientKey{}, err
	}
	ev := about(event("agent.client_key_added", by, reason, "agent/"+a.Name, map[string]any{"client_key": k.ID, "thumbprint": k.Thumbprint, "jwks_url": k.JWKSURL, "label": k.Label, "expires": k.Expires}), a)
	ev.Credential = k.ID
	tx.Record(ev)
	return k, nil
}

// fill reads the key of a spec and returns it as it is stored.
func (k *ClientKey) fill(spec ClientKeySpec) (raw string, err error) {
	if (len(spec.JWK) == 0) == (spec.JWKSURL == "") {
		return "", ErrInvalid.Say("give a jwk or a jwks_url, one of them")
	}
	if spec.JWKSURL != "" {
		if err := checkURL("jwks_url", spec.JWKSURL); err != nil {
			return "", err
		}
		sum := sha256.Sum256([]byte(spec.JWKSURL))
		k.Thumbprint = hex.EncodeToString(sum[:])
		return "", nil
	}
	if k.jwk, k.Thumbprint, err = publicKey(spec.JWK); err != nil {
		return "", err
	}
	b, err := k.jwk.MarshalJSON()
	return string(b), err
}

// ClientKeys lists the keys of an agent, dead ones included.
func (s *Service) ClientKeys(ctx context.Context, agent string) ([]ClientKey, error) {
	if _, err := s.agent(agent); err != nil {
		return nil, err
	}
	return readClientKeys(ctx, s.db, agent)
}

// RevokeClientKey ends a key, and every token that was had with it, at once.
func (s *Service) RevokeClientKey(ctx context.Context, c rest.Caller, reason, agent, key string) error {
	a, err := s.agent(agent)
	if err != nil {
		return err
	}
	if err := s.mayManage(c, a); err != nil {
		return err
	}
	if err := checkReason(reason, false); err != nil {
		return err
	}
	return s.announced(ctx, func(tx *audit.Tx) error {
		res, err := tx.Exec(ctx, `UPDATE client_keys SET revoked = $1 WHERE id = $2 AND agent = $3 AND revoked = 0`, storage.Micros(s.now()), key, agent)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return ErrNotFound.Say("agent %q has no key %q that could be revoked", agent, key)
		}
		by := audit.Person(c.ID, c.Name)
		ev := about(event("agent.client_key_revoked", by, reason, "agent/"+agent, map[string]any{"client_key": key}), a)
		ev.Credential = key
		tx.Record(ev)
		return s.endOrigin(ctx, tx, by, reason, key, "client-key/"+key)
	})
}

// ClientProof is a client's proof of who it is (RFC 7523 section 2.2).
type ClientProof struct {
	ClientID  string // as sent beside the assertion; may be empty
	Assertion string
}

// client is an agent that proved itself.
type client struct {
	agent identity.Agent
	key   ClientKey
	once  string // digest of the assertion's id: good for one use
	until time.Time
}

// proveClient checks a client assertion against the keys of the agent that it
// names. It is used up by consume.
func (s *Service) proveClient(ctx context.Context, p ClientProof) (client, error) {
	j, err := parseJWT(p.Assertion)
	if err != nil {
		return client{}, ErrClient.With(err)
	}
	a, ok := s.identity.Agent(j.issuer)
	if !ok || j.issuer != j.subject || (p.ClientID != "" && p.ClientID != j.issuer) {
		return client{}, ErrClient.Say("the assertion's iss and sub must both be the agent's name, and client_id too if it is sent")
	}
	now := s.now()
	var tried error = ErrClient.Say("none of the agent's registered keys made this assertion")
	for _, k := range s.view.Load().clientKeys[a.Name] {
		if k.Status(now) != identity.Active || !s.madeBy(ctx, j, k, &tried) {
			continue
		}
		if err := s.checkAssertion(j, now); err != nil {
			return client{}, err
		}
		sum := sha256.Sum256([]byte(a.ID + "\x00" + j.id))
		return client{agent: a, key: k, once: hex.EncodeToString(sum[:]), until: j.expires}, nil
	}
	return client{}, ErrClient.With(tried)
}

// madeBy reports whether key k signed j.
func (s *Service) madeBy(ctx context.Context, j *jwt, k ClientKey, why *error) bool {
	if k.JWKSURL == "" {
		return j.verify(k.jwk) == nil
	}
	found, err := s.jwks.find(ctx, keySource{url: k.JWKSURL}, j.kid)
	if err != nil {
		*why = err
		return false
	}
	return j.verify(found) == nil
}

func (s *Service) checkAssertion(j *jwt, now time.Time) error {
	issuer := s.Issuer()
	switch {
	case len(j.audience) != 1 || (j.audience[0] != issuer && j.audience[0] != issuer+"/oauth2/token" && j.audience[0] != issuer+"/"):
		return ErrClient.Say("the assertion's aud must be %s alone", issuer)
	case j.id == "" || len(j.id) > 256:
		return ErrClient.Say("the assertion needs a jti, so that it works once")
	}
	if err := j.inTime(now); err != nil {
		return ErrClient.With(err)
	}
	if j.expires.After(now.Add(assertMost + skew)) {
		return ErrClient.Say("the assertion is valid for more than %s", assertMost)
	}
	return nil
}

// consume uses an assertion up: of several requests with the same one, on
// whichever replica, one succeeds.
func (s *Service) consume(ctx context.Context, tx *audit.Tx, c client) error {
	now := storage.Micros(s.now())
	if _, err := tx.Exec(ctx, `DELETE FROM used_assertions WHERE until < $1`, now); err != nil {
		return err
	}
	res, err := tx.Exec(ctx, `INSERT INTO used_assertions (hash, until) VALUES ($1, $2) ON CONFLICT (hash) DO NOTHING`, c.once, storage.Micros(c.until.Add(2*skew)))
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return ErrClient.Say("this assertion was used already; make a new one, with a jti of its own, for every request")
	}
	_, err = tx.Exec(ctx, `UPDATE client_keys SET last_used = $1 WHERE id = $2`, now, c.key.ID)
	return err
}

// endOrigin makes what descends from an origin dead: its access tokens by its
// identifier, its runs by who started them.
func (s *Service) endOrigin(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, origin, starter string) error {
	if err := s.kill(ctx, tx, origin); err != nil {
		return err
	}
	return s.identity.EndRunsTx(ctx, tx, by, reason, starter)
}

// kill adds an identifier to those that are dead, for as long as anything can
// live that names it.
func (s *Service) kill(ctx context.Context, tx *audit.Tx, id string) error {
	now := s.now()
	if _, err := tx.Exec(ctx, `DELETE FROM token_revocations WHERE until < $1`, storage.Micros(now)); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `INSERT INTO token_revocations (id, until) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING`, id, storage.Micros(now.Add(RunMost+time.Hour)))
	return err
}

func plain(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f || r == 0xfffd })
}

// marshal is for lists and maps of text, which always marshal.
func marshal(v any) string {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return "null"
	}
	return string(b)
}
