package server

import (
	"context"
	"strings"

	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/rest"
)

// owns says whose an object is, by the room that keeps it. What no room
// knows is nobody's.
func (h *house) owns(ctx context.Context, user, object string) (bool, error) {
	kind, name, _ := strings.Cut(object, "/")
	switch kind {
	case "agent", "run":
		return h.identity.Owns(ctx, user, kind, name)
	case "lock":
		return h.locks.LiftableBy(ctx, user, name, h.owns)
	case "connection":
		c, ok := h.connections.Connection(name)
		return ok && c.Owner == user, nil
	case "grant": // whoever answers for its agent
		agent, err := h.use.AgentOf(ctx, name)
		if err != nil || agent == "" {
			return false, err
		}
		return h.identity.Owns(ctx, user, "agent", agent)
	case "secret":
		s, ok := h.secrets.Secret(name)
		return ok && s.Owner == user, nil
	}
	return false, nil
}

// known says whether what a lock names is there.
func (h *house) known(ctx context.Context, kind, name string) (bool, error) {
	var ok bool
	switch kind {
	case locks.Agent:
		_, ok = h.identity.Agent(name)
	case locks.Owner:
		_, ok = h.identity.User(name)
	case locks.Team:
		_, ok = h.identity.Team(name)
	case locks.Connection:
		_, ok = h.connections.Connection(name)
	case locks.Tool:
		connection, tool, _ := strings.Cut(name, "/")
		_, ok = h.connections.Tool(connection, tool)
	case locks.Credential:
		switch kind, _, _ := strings.Cut(name, "_"); kind {
		case "key", "rtk", "rto":
			return h.identity.KnowsCredential(ctx, name)
		default: // a token that is checked without the store
			return id.Is(id.Kind(kind), name), nil
		}
	case locks.Run:
		// A run that the gateway derived is known to the log alone.
		return id.Is(id.Run, name), nil
	}
	return ok, nil
}

var _ rest.Owns = (*house)(nil).owns
