package tlog

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// Key is one of a log's keys.
type Key struct {
	VKey     string // name+hash+key (signed-note)
	Until    int64  // the largest size it signs, if it was replaced
	retired  bool
	verifier note.Verifier
}

// Keys are the keys of a log, oldest first.
type Keys []Key

// maxRotations bounds how many replacements of keys are followed.
const maxRotations = 1000

// OpenKeys returns the keys that can be trusted if the key trusted is: itself,
// and those that rotations lead to from it. A rotation is a signed statement
// (Rotation); those before the trusted key are skipped.
func OpenKeys(trusted string, rotations []string) (Keys, error) {
	v, err := ParseKey(trusted)
	if err != nil {
		return nil, failed("key", "not a log's key", err)
	}
	if len(rotations) > maxRotations {
		return nil, wrong("key", "more than %d rotations", maxRotations)
	}
	keys := Keys{{VKey: trusted, verifier: v}}
	for i, r := range rotations {
		last := &keys[len(keys)-1]
		rot, err := OpenRotation(r, last.verifier)
		if err != nil {
			if len(keys) == 1 {
				continue // of keys before the trusted one
			}
			return nil, failed(fmt.Sprintf("key rotation %d", i), "does not follow from the one before", err)
		}
		next, err := ParseKey(rot.Next)
		if err != nil {
			return nil, failed(fmt.Sprintf("key rotation %d", i), "its new key cannot be read", err)
		}
		last.retired, last.Until = true, rot.Size
		keys = append(keys, Key{VKey: rot.Next, verifier: next})
	}
	return keys, nil
}

func (ks Keys) find(name string, hash uint32) (Key, bool) {
	for _, k := range ks {
		if k.verifier.Name() == name && k.verifier.KeyHash() == hash {
			return k, true
		}
	}
	return Key{}, false
}

func (ks Keys) names() string {
	var all []string
	for _, k := range ks {
		name, rest, _ := strings.Cut(k.VKey, "+")
		hash, _, _ := strings.Cut(rest, "+")
		all = append(all, name+"+"+hash)
	}
	return strings.Join(all, ", ")
}

// NewSigner returns the signer of a log named origin, and its vkey.
func NewSigner(origin string, key ed25519.PrivateKey) (s note.Signer, vkey string, err error) {
	if !validName(origin) {
		return nil, "", fmt.Errorf("%q cannot name a log: it is empty or holds a space or a plus", cut(origin))
	}
	pub := append([]byte{algEd25519}, key.Public().(ed25519.PublicKey)...)
	hash := keyHash(origin, pub)
	return signer{origin, hash, key}, fmt.Sprintf("%s+%08x+%s", origin, hash, base64.StdEncoding.EncodeToString(pub)), nil
}

// ParseKey reads the vkey of a log, an Ed25519 key.
func ParseKey(vkey string) (note.Verifier, error) { return note.NewVerifier(vkey) }

type signer struct {
	name string
	hash uint32
	key  ed25519.PrivateKey
}

func (s signer) Name() string                    { return s.name }
func (s signer) KeyHash() uint32                 { return s.hash }
func (s signer) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(s.key, msg), nil }

// rotationV1 is the first line of a rotation: no checkpoint and no other
// statement begins so.
const rotationV1 = "countersign key rotation v1"

// Rotation says that a log's key signs nothing larger than Size and that Next
// is the key after it. It is signed by both.
type Rotation struct {
	Origin string // of the key that is replaced
	Size   int64  // of the last checkpoint under it
	Next   string // vkey
}

// SignRotation returns the signed note of r.
func SignRotation(r Rotation, old, next note.Signer) (string, error) {
	text := rotationV1 + "\n" + r.Origin + "\n" + strconv.FormatInt(r.Size, 10) + "\n" + r.Next + "\n"
	msg, err := note.Sign(&note.Note{Text: text}, old, next)
	return string(msg), err
}

// OpenRotation reads a rotation and verifies that old and the new key signed it.
func OpenRotation(msg string, old note.Verifier) (Rotation, error) {
	const where = "key rotation"
	i := strings.LastIndex(msg, "\n\n")
	if i < 0 || len(msg) > maxNote {
		return Rotation{}, wrong(where, "not a signed note")
	}
	lines := strings.Split(msg[:i], "\n")
	if len(lines) != 4 || lines[0] != rotationV1 || lines[1] != old.Name() {
		return Rotation{}, wrong(where, "not a rotation of the key of %q", cut(old.Name()))
	}
	size, err := parseSize(lines[2])
	if err != nil {
		return Rotation{}, failed(where, "its third line is not a size", err)
	}
	next, err := ParseKey(lines[3])
	if err != nil {
		return Rotation{}, failed(where, "its fourth line is not a key", err)
	}
	n, err := note.Open([]byte(msg), note.VerifierList(old, next))
	if err != nil {
		return Rotation{}, failed(where, "is not signed as it should be", err)
	}
	if len(n.Sigs) != 2 {
		return Rotation{}, wrong(where, "not signed by both the old and the new key")
	}
	return Rotation{Origin: lines[1], Size: size, Next: lines[3]}, nil
}
