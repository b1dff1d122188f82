package cli

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// What the example's CI system says of the release job; forge.yaml trusts it.
const (
	ciIssuer  = "https://ci.hanse-trade.example"
	ciSubject = "repo:hanse-trade/shop:ref:refs/heads/main"
	ciLife    = 5 * time.Minute
)

// newCIKey makes the key with which the example's CI system signs, as a JWK.
func newCIKey() (jsontext.Value, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return jose.JSONWebKey{Key: private, KeyID: "ci-1", Algorithm: string(jose.ES256), Use: "sig"}.MarshalJSON()
}

func readCIKey(raw jsontext.Value) (k jose.JSONWebKey, err error) {
	if err = k.UnmarshalJSON(raw); err == nil && !k.Valid() {
		err = errors.New("the CI system's key is none")
	}
	return k, err
}

// ciKeys are the public keys of the CI system, as anybody may have them.
func ciKeys(raw jsontext.Value) (string, error) {
	k, err := readCIKey(raw)
	if err != nil {
		return "", err
	}
	public, err := k.Public().MarshalJSON()
	return `{"keys":[` + string(public) + `]}`, err
}

// jobToken is what the CI system gives to the release job, to be shown at
// audience: who the job is, for five minutes.
func jobToken(raw jsontext.Value, audience string) (string, error) {
	k, err := readCIKey(raw)
	if err != nil {
		return "", err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: k}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", err
	}
	now := time.Now()
	claims, err := json.Marshal(map[string]any{"iss": ciIssuer, "sub": ciSubject, "aud": audience, "workflow": "release",
		"iat": now.Unix(), "exp": now.Add(ciLife).Unix(), "jti": rand.Text()})
	if err != nil {
		return "", err
	}
	signed, err := signer.Sign(claims)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}
