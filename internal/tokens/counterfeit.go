package tokens

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json/v2"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/countersign/countersign/internal/id"
)

// Counterfeit returns a token that a rule would let in but for its signature: the
// key is made for it and thrown away. It is refused in any case. While a rule trusts
// what it says that is for its signature, and otherwise before anybody looks at that.
func (s *Service) Counterfeit(r Rule) (string, error) {
	now := s.now()
	claims := map[string]any{"sub": strings.ReplaceAll(r.Subject, "*", "probe"), "aud": r.Audience, "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(), "jti": id.At("ast", now)}
	if r.Wildcard == "" {
		claims["sub"] = r.Subject
	}
	if r.Audience == "" {
		claims["aud"] = s.Issuer()
	}
	if !strings.HasPrefix(r.Issuer, "spiffe://") {
		claims["iss"] = r.Issuer
	}
	for name, value := range r.Claims {
		claims[name] = value
	}
	payload, err := json.Marshal(claims, json.Deterministic(true))
	if err != nil {
		return "", err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithHeader(jose.HeaderKey("kid"), "nobody"))
	if err != nil {
		return "", err
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", err
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		return "", err
	}
	j, err := parseJWT(token)
	if err != nil {
		return "", err
	}
	return token, r.matches(j, s.Issuer())
}

// Trusting returns the names of the rules that would let a token in, for an agent or
// as a person's, if its issuer had signed it.
func (s *Service) Trusting(token, agent string, person bool) ([]string, error) {
	j, err := parseJWT(token)
	if err != nil {
		return nil, err
	}
	fits, _ := s.fitting(j, agent, person)
	out := make([]string, len(fits))
	for i, r := range fits {
		out[i] = r.Name
	}
	return out, nil
}
