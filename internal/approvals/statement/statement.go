package statement

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"time"
)

// Person is a user, by identifier and by the name they had.
type Person struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// Statement says who decided what about a request.
type Statement struct {
	Version  int       `json:"v"`
	Approval string    `json:"approval"`
	Digest   string    `json:"digest"` // of everything that was decided on
	Person   Person    `json:"person"`
	For      *Person   `json:"for,omitzero"` // whom they stood in for
	Verdict  string    `json:"verdict"`      // approve or deny
	Reason   string    `json:"reason"`
	At       time.Time `json:"at"`
	Passkey  *Passkey  `json:"passkey,omitzero"` // the person's own signature
}

// version is that of the form of statements.
const version = 1

// Sign returns the canonical text of s and the signature of key over it, base64
// (Ed25519, RFC 8032).
func (s Statement) Sign(key ed25519.PrivateKey) (text, signature string, err error) {
	s.Version = version
	b, err := json.Marshal(s, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
	if err != nil {
		return "", "", err
	}
	return string(b), base64.StdEncoding.EncodeToString(ed25519.Sign(key, signed(string(b)))), nil
}

// signed separates these signatures from any other by the same kind of key.
func signed(text string) []byte { return append([]byte("countersign approval decision v1\n"), text...) }

// Errors of verification.
var (
	ErrSignature = errors.New("the signature is not by this key over this statement")
	ErrForm      = errors.New("the statement cannot be read")
)

// Verify returns what a statement says, if key signed it and the passkey in
// it, if there is one, signed what it says. The errors are ErrSignature, ErrForm
// and ErrPasskey.
func Verify(text, signature string, key ed25519.PublicKey) (Statement, error) {
	var s Statement
	raw, err := base64.StdEncoding.DecodeString(signature)
	if err != nil || len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, signed(text), raw) {
		return s, ErrSignature
	}
	if err := json.Unmarshal([]byte(text), &s); err != nil || s.Version != version {
		return s, ErrForm
	}
	if s.Passkey != nil {
		if err := s.Passkey.verify(s); err != nil {
			return s, err
		}
	}
	return s, nil
}

// Challenge returns what a passkey has to sign for this decision: it covers the
// request, everything that is decided on, who decides and how, and a nonce that
// the server made for this one answer.
func (s Statement) Challenge(nonce []byte) []byte {
	h := sha256.New()
	fmt.Fprintf(h, "countersign approval passkey v1\n%q\n%q\n%q\n%q\n%x\n", s.Approval, s.Digest, s.Person.ID, s.Verdict, nonce)
	return h.Sum(nil)
}
