package tlog

import (
	"crypto/ed25519"
	"crypto/mldsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// Signature types of C2SP signed-note and tlog-cosignature.
const (
	algEd25519       = 0x01
	algCosignEd25519 = 0x04
	algCosignMLDSA44 = 0x06
)

const (
	stamp       = 8 // bytes of a cosignature's time
	mldsa44Size = 2420
)

// ParseWitness reads a witness's vkey: a cosignature key (tlog-cosignature,
// Ed25519 or ML-DSA-44), or the plain Ed25519 key from which one is made.
func ParseWitness(vkey string) (note.Verifier, error) {
	name, rest, _ := strings.Cut(vkey, "+")
	hash, encoded, _ := strings.Cut(rest, "+")
	key, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil || len(key) < 1 || !validName(name) || hash != fmt.Sprintf("%08x", keyHash(name, key)) {
		return nil, fmt.Errorf("%q is not a verifier key", cut(vkey))
	}
	switch alg := key[0]; {
	case (alg == algEd25519 || alg == algCosignEd25519) && len(key) == 1+ed25519.PublicKeySize:
		cosign := append([]byte{algCosignEd25519}, key[1:]...)
		return witness{name, keyHash(name, cosign), checkEd25519(cosign[1:])}, nil
	case alg == algCosignMLDSA44 && len(name) <= math.MaxUint8:
		pub, err := mldsa.NewPublicKey(mldsa.MLDSA44(), key[1:])
		if err != nil {
			return nil, fmt.Errorf("%q is not a verifier key: %w", cut(vkey), err)
		}
		return witness{name, keyHash(name, key), checkMLDSA44(name, pub)}, nil
	}
	return nil, fmt.Errorf("%q is a key of a kind that is not known", cut(vkey))
}

// ParseWitnesses reads several vkeys.
func ParseWitnesses(vkeys []string) ([]note.Verifier, error) {
	out := make([]note.Verifier, len(vkeys))
	for i, k := range vkeys {
		var err error
		if out[i], err = ParseWitness(k); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func validName(name string) bool {
	return name != "" && strings.ToValidUTF8(name, "") == name && !strings.ContainsFunc(name, func(r rune) bool { return r == '+' || r <= ' ' || strings.TrimSpace(string(r)) == "" })
}

// keyHash is the identifier of a key (signed-note): alg is the first byte of key.
func keyHash(name string, key []byte) uint32 {
	h := sha256.New()
	h.Write([]byte(name + "\n"))
	h.Write(key)
	return binary.BigEndian.Uint32(h.Sum(nil))
}

type witness struct {
	name  string
	hash  uint32
	check func(msg, sig []byte) bool
}

func (w witness) Name() string                { return w.name }
func (w witness) KeyHash() uint32             { return w.hash }
func (w witness) Verify(msg, sig []byte) bool { return w.check(msg, sig) }

// cosigned returns what an Ed25519 cosignature signs.
func cosigned(at uint64, text []byte) []byte {
	return append([]byte("cosignature/v1\ntime "+strconv.FormatUint(at, 10)+"\n"), text...)
}

func checkEd25519(pub ed25519.PublicKey) func(msg, sig []byte) bool {
	return func(msg, sig []byte) bool {
		if len(sig) != stamp+ed25519.SignatureSize {
			return false
		}
		at := binary.BigEndian.Uint64(sig)
		return at > 0 && at <= math.MaxInt64 && ed25519.Verify(pub, cosigned(at, msg), sig[stamp:])
	}
}

func checkMLDSA44(name string, pub *mldsa.PublicKey) func(msg, sig []byte) bool {
	return func(msg, sig []byte) bool {
		c, err := ParseCheckpoint(string(msg))
		if err != nil || len(sig) != stamp+mldsa44Size || len(c.Origin) > math.MaxUint8 {
			return false
		}
		at := binary.BigEndian.Uint64(sig)
		if at == 0 || at > math.MaxInt64 {
			return false
		}
		return mldsa.Verify(pub, subtreeMessage(name, at, c), sig[stamp:], nil) == nil
	}
}

// subtreeMessage returns what an ML-DSA-44 cosignature of a checkpoint signs.
func subtreeMessage(name string, at uint64, c Checkpoint) []byte {
	b := append([]byte("subtree/v1\n\x00"), byte(len(name)))
	b = append(b, name...)
	b = binary.BigEndian.AppendUint64(b, at)
	b = append(b, byte(len(c.Origin)))
	b = append(b, c.Origin...)
	b = binary.BigEndian.AppendUint64(b, 0)
	b = binary.BigEndian.AppendUint64(b, uint64(c.Size))
	return append(b, c.Root[:]...)
}

// cosignedAt returns the time of a verified cosignature.
func cosignedAt(sig note.Signature) (time.Time, error) {
	raw, err := base64.StdEncoding.DecodeString(sig.Base64)
	if err != nil || len(raw) < 4+stamp {
		return time.Time{}, wrong("checkpoint", "the cosignature of %q has no time", cut(sig.Name))
	}
	return time.Unix(int64(binary.BigEndian.Uint64(raw[4:])), 0).UTC(), nil
}

// NewWitness returns the signer of an Ed25519 witness at the time of now, and
// its vkey: for tests, and for whoever runs a witness of a sister log.
func NewWitness(name string, key ed25519.PrivateKey, now func() time.Time) (s note.Signer, vkey string) {
	pub := append([]byte{algCosignEd25519}, key.Public().(ed25519.PublicKey)...)
	hash := keyHash(name, pub)
	return cosigner{name, hash, key, now}, fmt.Sprintf("%s+%08x+%s", name, hash, base64.StdEncoding.EncodeToString(pub))
}

type cosigner struct {
	name string
	hash uint32
	key  ed25519.PrivateKey
	now  func() time.Time
}

func (c cosigner) Name() string    { return c.name }
func (c cosigner) KeyHash() uint32 { return c.hash }
func (c cosigner) Sign(msg []byte) ([]byte, error) {
	at := uint64(c.now().Unix())
	return append(binary.BigEndian.AppendUint64(nil, at), ed25519.Sign(c.key, cosigned(at, msg))...), nil
}
