package identity

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/countersign/countersign/internal/id"
)

// The life of run tokens.
const (
	RunUsual = time.Hour
	RunMost  = 12 * time.Hour
)

const (
	runIssuer   = "countersign"
	runType     = "cs-run+jwt" // explicit typing, RFC 8725 section 3.11
	runLabel    = "identity/run-token/v1"
	maxRunToken = 2048
	skew        = time.Minute // that clocks of replicas may differ by
)

// runClaims are what a run token says. AgentID keeps a token from passing to
// another agent that is later given the same name.
type runClaims struct {
	Issuer  string `json:"iss"`
	Subject string `json:"sub"` // name of the agent
	AgentID string `json:"agent_id"`
	Run     string `json:"run"`
	ID      string `json:"jti"`
	Issued  int64  `json:"iat"` // seconds since 1970, RFC 7519
	Expires int64  `json:"exp"`
}

// runSigner makes and verifies run tokens under one pinned key and algorithm.
type runSigner struct {
	private ed25519.PrivateKey
	public  ed25519.PublicKey
	kid     string
	signer  jose.Signer

	mu         sync.Mutex
	young, old map[digest]runClaims // tokens whose signature was verified lately
}

// maxVerified bounds each of the two generations of verified tokens.
const maxVerified = 4096

func newRunSigner(derive func(label string) []byte) (*runSigner, error) {
	seed := derive(runLabel)
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("identity: a key of %d bytes was derived for run tokens, want %d", len(seed), ed25519.SeedSize)
	}
	r := &runSigner{private: ed25519.NewKeyFromSeed(seed), young: map[digest]runClaims{}, old: map[digest]runClaims{}}
	r.public = r.private.Public().(ed25519.PublicKey)
	sum := sha256.Sum256(r.public)
	r.kid = hex.EncodeToString(sum[:8])
	opts := (&jose.SignerOptions{}).WithType(runType).WithHeader(jose.HeaderKey("kid"), r.kid)
	var err error
	r.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: r.private}, opts)
	if err != nil {
		return nil, fmt.Errorf("identity: run token signer: %w", err)
	}
	return r, nil
}

func (r *runSigner) sign(c runClaims) (string, error) {
	c.Issuer = runIssuer
	return jwt.Signed(r.signer).Claims(c).Serialize()
}

// looksLikeRun tells a compact JWS from other strings without parsing it.
func looksLikeRun(s string) bool {
	return len(s) <= maxRunToken && strings.HasPrefix(s, "eyJ") && strings.Count(s, ".") == 2
}

// verify returns the claims of a token that this key signed. It does not look
// at the clock. A signature costs some 60 us to check, so tokens found good
// are remembered by their digest; bad ones never are.
func (r *runSigner) verify(token string) (runClaims, bool) {
	d := digestOf(token)
	if c, ok := r.remembered(d); ok {
		return c, true
	}
	c, ok := r.check(token)
	if ok {
		r.remember(d, c)
	}
	return c, ok
}

func (r *runSigner) check(token string) (c runClaims, ok bool) {
	t, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil || len(t.Headers) != 1 {
		return c, false
	}
	h := t.Headers[0]
	if h.KeyID != r.kid || h.Algorithm != string(jose.EdDSA) || h.JSONWebKey != nil || h.ExtraHeaders[jose.HeaderType] != runType {
		return c, false
	}
	if err := t.Claims(r.public, &c); err != nil {
		return runClaims{}, false
	}
	life := time.Duration(c.Expires-c.Issued) * time.Second
	if c.Issuer != runIssuer || c.Subject == "" || c.AgentID == "" || !id.Is(id.Run, c.Run) || c.ID == "" || life <= 0 || life > RunMost {
		return runClaims{}, false
	}
	return c, true
}

func (r *runSigner) remembered(d digest) (runClaims, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.young[d]
	if !ok {
		if c, ok = r.old[d]; ok {
			r.keep(d, c)
		}
	}
	return c, ok
}

func (r *runSigner) remember(d digest, c runClaims) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keep(d, c)
}

func (r *runSigner) keep(d digest, c runClaims) {
	if len(r.young) >= maxVerified {
		r.old, r.young = r.young, map[digest]runClaims{}
	}
	r.young[d] = c
}
