package mcp

import (
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/identity"
)

// Seal and Unseal are a session id's way out and back.
func (f *Front) Seal(agent, conn, plain string) string {
	return f.sealFor(identity.Caller{Agent: identity.Agent{ID: agent}}, connections.Connection{Name: conn}, "session", plain)
}

func (f *Front) Unseal(agent, conn, token string) (string, bool) {
	return f.openFor(identity.Caller{Agent: identity.Agent{ID: agent}}, connections.Connection{Name: conn}, "session", token)
}
