package leaks

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json/v2"
	"encoding/pem"
	"sync"
	"time"
)

// githubKeys are the keys by which GitHub signs its secret scanning alerts
// (docs.github.com, "Secret scanning partner program": ECDSA over SHA-256 of the
// body, on NIST P-256, the signature in ASN.1 and base64).
type githubKeys struct {
	mu      sync.Mutex
	keys    map[string]*ecdsa.PublicKey
	fetched time.Time
}

const (
	keysLive  = time.Hour   // how long fetched keys are good without another look
	keysAgain = time.Minute // how soon an unknown identifier makes us look again
)

// verify refuses a body that is not signed by the key that it names.
func (g *githubKeys) verify(ctx context.Context, url, id, signature string, body []byte) error {
	sig, err := base64.StdEncoding.DecodeString(signature)
	if err != nil || id == "" || len(sig) == 0 {
		return ErrSigned
	}
	key, err := g.key(ctx, url, id)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	if key == nil || !ecdsa.VerifyASN1(key, sum[:], sig) {
		return ErrSigned
	}
	return nil
}

// key returns the key with an identifier, nil if GitHub has none. Unknown
// identifiers cost at most one look a minute.
func (g *githubKeys) key(ctx context.Context, url, id string) (*ecdsa.PublicKey, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	age := time.Since(g.fetched)
	if k := g.keys[id]; k != nil && age < keysLive {
		return k, nil
	}
	if age < keysAgain {
		return g.keys[id], nil
	}
	g.fetched = time.Now() // also of a look that fails
	b, err := fetchKeys(ctx, url)
	if err != nil {
		return nil, ErrSigned.Say("GitHub's keys cannot be read at the moment; send the alert again").With(err)
	}
	var list struct {
		Keys []struct {
			ID  string `json:"key_identifier"`
			Key string `json:"key"`
		} `json:"public_keys"`
	}
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, ErrSigned.Say("GitHub's keys cannot be read at the moment; send the alert again").With(err)
	}
	g.keys = map[string]*ecdsa.PublicKey{}
	for _, k := range list.Keys {
		block, _ := pem.Decode([]byte(k.Key))
		if block == nil {
			continue
		}
		if parsed, err := x509.ParsePKIXPublicKey(block.Bytes); err == nil {
			if ec, ok := parsed.(*ecdsa.PublicKey); ok {
				g.keys[k.ID] = ec
			}
		}
	}
	return g.keys[id], nil
}
