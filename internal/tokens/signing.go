package tokens

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/asn1"
	"encoding/base64"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
)

// The life of a signing key.
const (
	rotateEvery = 30 * 24 * time.Hour
	// lead is how long a new key is published before it signs, so that whoever
	// caches our keys has it when it is needed.
	lead = time.Hour
	// overlap is how long a key is published after it last signed: longer than
	// any token lives.
	overlap = 2 * time.Hour
)

const signingID id.Kind = "sgk"

// SigningKey is a key of the issuer without its private half, which is derived
// from the master key and stored nowhere.
type SigningKey struct {
	Generation int64     `json:"generation"`
	ID         string    `json:"id" doc:"kid"`
	Created    time.Time `json:"created"`
	Starts     time.Time `json:"starts" doc:"when it begins to sign"`
	Gone       time.Time `json:"gone,omitzero" doc:"when what it signed is no longer good; zero while it has no successor"`
	private    *ecdsa.PrivateKey
	header     string // of access tokens, as it stands in them
}

// JWK returns the public half as it is published.
func (k SigningKey) JWK() jose.JSONWebKey {
	return jose.JSONWebKey{Key: &k.private.PublicKey, KeyID: k.ID, Algorithm: string(jose.ES256), Use: "sig"}
}

// derive makes the key pair of a kid. A seed that is no P-256 scalar (one in
// 2^32) is passed over.
func derive(from func(string) []byte, kid string) (*ecdsa.PrivateKey, error) {
	for try := range 8 {
		seed := from(fmt.Sprintf("tokens/signing/v1/%s/%d", kid, try))
		if key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), seed); err == nil {
			return key, nil
		}
	}
	return nil, fmt.Errorf("tokens: no key could be derived for %s", kid)
}

func (k *SigningKey) open(from func(string) []byte) (err error) {
	k.private, err = derive(from, k.ID)
	k.header = k.headerOf(accessType)
	return err
}

// headerOf returns the JOSE header of tokens of a type, encoded. Kids are ours,
// and types constants: neither has a character that JSON would escape.
func (k SigningKey) headerOf(typ string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","kid":"` + k.ID + `","typ":"` + typ + `"}`))
}

// signature returns the encoded signature of a token's first two parts (RFC
// 7518 section 3.4). It is deterministic (RFC 6979): whoever has the key can
// tell a signature of ours by making it again, in a third of the time that
// verifying takes, and there is one signature of a text and no second.
func (k SigningKey) signature(text string) (string, error) {
	sum := sha256.Sum256([]byte(text))
	der, err := k.private.Sign(nil, sum[:], crypto.SHA256)
	if err != nil {
		return "", err
	}
	var rs struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &rs); err != nil {
		return "", err
	}
	var raw [64]byte
	rs.R.FillBytes(raw[:32])
	rs.S.FillBytes(raw[32:])
	return base64.RawURLEncoding.EncodeToString(raw[:]), nil
}

// made reports whether this key made an access token, and returns its claims.
func (k SigningKey) made(token string) (payload []byte, ok bool) {
	dot := strings.LastIndexByte(token, '.')
	if dot < 0 || dot <= len(k.header) || token[:len(k.header)+1] != k.header+"." {
		return nil, false
	}
	want, err := k.signature(token[:dot])
	if err != nil || subtle.ConstantTimeCompare([]byte(want), []byte(token[dot+1:])) != 1 {
		return nil, false
	}
	payload, err = base64.RawURLEncoding.DecodeString(token[len(k.header)+1 : dot])
	return payload, err == nil
}

// sign signs claims as a token of a type; a type of its own keeps one kind from
// being taken for another (RFC 8725 section 3.11).
func (k SigningKey) sign(typ string, payload []byte) (string, error) {
	text := k.headerOf(typ) + "." + base64.RawURLEncoding.EncodeToString(payload)
	signature, err := k.signature(text)
	return text + "." + signature, err
}

// current returns the key that signs at now.
func (v *view) current(now time.Time) (SigningKey, bool) { return current(v.signing, now) }

// current returns the key of keys, the oldest first, that signs at now: the
// newest that has started.
func current(keys []SigningKey, now time.Time) (SigningKey, bool) {
	for i := len(keys) - 1; i >= 0; i-- {
		k := keys[i]
		if !k.Starts.After(now) && (k.Gone.IsZero() || k.Gone.After(now)) {
			return k, true
		}
	}
	return SigningKey{}, false
}

// JWKS returns the keys that are published now.
func (s *Service) JWKS() jose.JSONWebKeySet {
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	now := s.now()
	for _, k := range s.view.Load().signing {
		if k.Gone.IsZero() || k.Gone.After(now) {
			set.Keys = append(set.Keys, k.JWK())
		}
	}
	return set
}

// SigningKeys returns the keys of the issuer, the oldest first.
func (s *Service) SigningKeys(ctx context.Context) ([]SigningKey, error) {
	return readSigningKeys(ctx, s.db)
}

// The states of a signing key.
const (
	KeyWaiting   = "waiting"   // published; it will sign
	KeySigning   = "signing"   // it signs
	KeyPublished = "published" // another signs; what it signed is good
	KeyGone      = "gone"      // what it signed is good no more
)

// StatusOf returns the state of one of keys.
func StatusOf(keys []SigningKey, k SigningKey, now time.Time) string {
	signs, ok := current(keys, now)
	switch {
	case !k.Gone.IsZero() && !k.Gone.After(now):
		return KeyGone
	case k.Starts.After(now):
		return KeyWaiting
	case ok && signs.ID == k.ID:
		return KeySigning
	}
	return KeyPublished
}

// due reports whether a new key is needed: there is none that has no end yet, or
// it has signed for long enough.
func due(keys []SigningKey, now time.Time) bool {
	i := slices.IndexFunc(keys, func(k SigningKey) bool { return k.Gone.IsZero() })
	return i < 0 || now.Sub(keys[i].Starts) >= rotateEvery
}

// EnsureKey makes the first signing key if there is none, and the next one
// when it is time. Of several replicas one succeeds, and the others see it.
func (s *Service) EnsureKey(ctx context.Context) error {
	if !due(s.view.Load().signing, s.now()) {
		return nil
	}
	_, err := s.rotate(ctx, audit.System, "the signing key is due", lead, true)
	return err
}

// RotateKey puts a new signing key in the place of the present one. It signs
// after an hour, so that caches of our keys can follow, and what the old one
// signed stays good to its end; at once, for a key that leaked, ends the old
// key and everything it signed now. Needs a reason.
func (s *Service) RotateKey(ctx context.Context, by audit.Actor, reason string, atOnce bool) (SigningKey, error) {
	if err := checkReason(reason, true); err != nil {
		return SigningKey{}, err
	}
	if atOnce {
		return s.rotate(ctx, by, reason, 0, false)
	}
	return s.rotate(ctx, by, reason, lead, false)
}

// RetireKey ends a key now, and everything it signed, on every replica: one that
// leaked after another took over, or one that waits and shall not sign. The key
// that signs at the moment cannot be retired, only rotated at once. Needs a reason.
func (s *Service) RetireKey(ctx context.Context, by audit.Actor, reason, kid string) error {
	if err := checkReason(reason, true); err != nil {
		return err
	}
	return s.announced(ctx, func(tx *audit.Tx) error {
		keys, err := readSigningKeys(ctx, tx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(keys, func(k SigningKey) bool { return k.ID == kid })
		if i < 0 {
			return ErrNotFound.Say("there is no signing key %q", cut(kid, 64))
		}
		now := s.now().UTC().Truncate(time.Microsecond)
		was := StatusOf(keys, keys[i], now)
		switch was {
		case KeySigning:
			return ErrConflict.Say("the key %s signs at the moment; to end it and all it signed now, rotate at once: countersign token keys rotate --at-once", kid)
		case KeyGone:
			return ErrConflict.Say("the key %s is gone already, since %s", kid, keys[i].Gone.Format(time.RFC3339))
		}
		if err := tx.ExecOne(ctx, `UPDATE token_keys SET gone = $1 WHERE kid = $2 AND (gone = 0 OR gone > $1)`, storage.Micros(now), kid); err != nil {
			return err
		}
		tx.Record(event("token.key_retired", by, reason, "token-key/"+kid, map[string]any{"generation": keys[i].Generation, "was": was}))
		return nil
	})
}

// rotate adds the next generation; lead 0 ends what was before. With ifDue it
// does nothing when another replica was first.
func (s *Service) rotate(ctx context.Context, by audit.Actor, reason string, lead time.Duration, ifDue bool) (k SigningKey, err error) {
	err = s.announced(ctx, func(tx *audit.Tx) error {
		keys, err := readSigningKeys(ctx, tx)
		if err != nil {
			return err
		}
		now := s.now().UTC().Truncate(time.Microsecond)
		if ifDue && !due(keys, now) {
			return nil
		}
		k = SigningKey{Generation: 1, ID: id.At(signingID, now), Created: now, Starts: now}
		if len(keys) > 0 {
			k.Generation = keys[len(keys)-1].Generation + 1
		}
		if _, signs := current(keys, now); signs {
			k.Starts = now.Add(lead)
		}
		gone := k.Starts.Add(overlap)
		if lead == 0 {
			gone = now
		}
		if _, err := tx.Exec(ctx, `DELETE FROM token_keys WHERE gone > 0 AND gone < $1`, storage.Micros(now.Add(-rotateEvery))); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE token_keys SET gone = $1 WHERE gone = 0 OR gone > $1`, storage.Micros(gone)); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO token_keys (generation, kid, created, starts, gone) VALUES ($1, $2, $3, $4, 0)`,
			k.Generation, k.ID, storage.Micros(k.Created), storage.Micros(k.Starts)); err != nil {
			return err
		}
		tx.Record(event("token.key_rotated", by, reason, "token-key/"+k.ID, map[string]any{"generation": k.Generation, "starts": k.Starts, "old_gone": gone}))
		return nil
	})
	return k, err
}

// verified remembers access tokens that were found ours lately, by digest: to
// tell it costs some 30 us.
type verified struct {
	mu         sync.Mutex
	young, old map[[sha256.Size]byte]*claims
}

// maxVerified bounds each of the two generations.
const maxVerified = 4096

func (v *verified) get(d [sha256.Size]byte) (*claims, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	c, ok := v.young[d]
	if !ok {
		if c, ok = v.old[d]; ok {
			v.keep(d, c)
		}
	}
	return c, ok
}

func (v *verified) put(d [sha256.Size]byte, c *claims) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.keep(d, c)
}

func (v *verified) keep(d [sha256.Size]byte, c *claims) {
	if v.young == nil || len(v.young) >= maxVerified {
		v.old, v.young = v.young, map[[sha256.Size]byte]*claims{}
	}
	v.young[d] = c
}
