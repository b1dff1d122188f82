package mcp

import (
	"crypto/rand"
	"encoding/base64"
	"strings"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/identity"
)

// sealed begins what we give a client in place of something an upstream gave
// us.
const sealed = "cs1."

// sealFor encrypts an upstream's session id for one agent on one connection.
// What the client gets is of no use to another agent, for another connection,
// or to whoever reads a client's logs and can reach the upstream.
func (f *Front) sealFor(who identity.Caller, c connections.Connection, purpose, plain string) string {
	nonce := make([]byte, f.seal.NonceSize())
	rand.Read(nonce) // never fails
	return sealed + base64.RawURLEncoding.EncodeToString(f.seal.Seal(nonce, nonce, []byte(plain), binding(who, c, purpose)))
}

// openFor is the reverse; false for anything that was not sealed for exactly
// this agent, connection and purpose.
func (f *Front) openFor(who identity.Caller, c connections.Connection, purpose, token string) (string, bool) {
	body, ok := strings.CutPrefix(token, sealed)
	if !ok || len(token) > 16<<10 {
		return "", false
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil || len(raw) < f.seal.NonceSize() {
		return "", false
	}
	n := f.seal.NonceSize()
	plain, err := f.seal.Open(nil, raw[:n], raw[n:], binding(who, c, purpose))
	return string(plain), err == nil
}

// binding is authenticated, not sent. Names hold no NUL.
func binding(who identity.Caller, c connections.Connection, purpose string) []byte {
	return []byte(strings.Join([]string{"countersign/mcp", purpose, who.Agent.ID, c.Name}, "\x00"))
}
