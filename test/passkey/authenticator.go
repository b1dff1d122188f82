package passkey

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
)

// B64 is how WebAuthn writes bytes in JSON.
var B64 = base64.RawURLEncoding.EncodeToString

// Authenticator holds one passkey with a P-256 key.
type Authenticator struct {
	ID    []byte
	Count uint32
	key   *ecdsa.PrivateKey
}

// New returns an Authenticator with a new key.
func New() *Authenticator {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err) // without randomness there is no test
	}
	a := &Authenticator{key: key, ID: make([]byte, 16)}
	_, _ = rand.Read(a.ID) // never fails
	return a
}

// Signing is what an answer says; a test changes it as an attacker would.
type Signing struct {
	RP, Origin, Type string
	Flags            byte // 1: somebody is there, 4: and is verified
	Extra            string
}

// COSE returns the public key as COSE has it: kty EC2, alg ES256, crv P-256.
func (a *Authenticator) COSE() []byte {
	point, err := a.key.PublicKey.Bytes()
	if err != nil {
		panic(err) // it was made above
	}
	out := []byte{0xa5, 0x01, 0x02, 0x03, 0x26, 0x20, 0x01, 0x21, 0x58, 0x20}
	out = append(out, point[1:33]...)
	return append(append(out, 0x22, 0x58, 0x20), point[33:]...)
}

func (s Signing) client(challenge []byte) []byte {
	return fmt.Appendf(nil, `{"type":%q,"challenge":%q,"origin":%q,"crossOrigin":false%s}`, s.Type, B64(challenge), s.Origin, s.Extra)
}

func (a *Authenticator) data(s Signing) []byte {
	rp := sha256.Sum256([]byte(s.RP))
	return binary.BigEndian.AppendUint32(append(rp[:], s.Flags), a.Count)
}

// Sign signs a challenge, as navigator.credentials.get answers.
func (a *Authenticator) Sign(challenge []byte, s Signing) []byte {
	if s.Type == "" {
		s.Type = "webauthn.get"
	}
	a.Count++
	client, data := s.client(challenge), a.data(s)
	hash := sha256.Sum256(client)
	sum := sha256.Sum256(append(slices.Clone(data), hash[:]...))
	sig, err := ecdsa.SignASN1(rand.Reader, a.key, sum[:])
	if err != nil {
		panic(err) // as above
	}
	return fmt.Appendf(nil, `{"id":%q,"rawId":%q,"type":"public-key","clientExtensionResults":{},"response":{"clientDataJSON":%q,"authenticatorData":%q,"signature":%q}}`,
		B64(a.ID), B64(a.ID), B64(client), B64(data), B64(sig))
}

// Make answers as navigator.credentials.create does, without an attestation.
func (a *Authenticator) Make(challenge []byte, s Signing) []byte {
	if s.Type == "" {
		s.Type = "webauthn.create"
	}
	s.Flags |= 0x40 // there is a credential in it
	data := append(a.data(s), make([]byte, 16)...)
	data = binary.BigEndian.AppendUint16(data, uint16(len(a.ID)))
	data = append(append(data, a.ID...), a.COSE()...)
	object := append([]byte{0xa3, 0x63}, "fmt"...)
	object = append(append(object, 0x64), "none"...)
	object = append(append(object, 0x67), "attStmt"...)
	object = append(append(object, 0xa0, 0x68), "authData"...)
	object = append(binary.BigEndian.AppendUint16(append(object, 0x59), uint16(len(data))), data...)
	return a.Wrap(s.client(challenge), object)
}

// Wrap is the answer to a registration with any attestation object.
func (a *Authenticator) Wrap(client, object []byte) []byte {
	return fmt.Appendf(nil, `{"id":%q,"rawId":%q,"type":"public-key","clientExtensionResults":{},"response":{"clientDataJSON":%q,"attestationObject":%q,"transports":["internal"]}}`,
		B64(a.ID), B64(a.ID), B64(client), B64(object))
}
