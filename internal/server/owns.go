package server

import (
	"context"
	"strings"

	"github.com/countersign/countersign/internal/rest"
)

// owns says whose an object is, by the room that keeps it. What no room
// knows is nobody's.
func (h *house) owns(ctx context.Context, user, object string) (bool, error) {
	kind, name, _ := strings.Cut(object, "/")
	switch kind {
	case "agent", "run":
		return h.identity.Owns(ctx, user, kind, name)
	case "connection":
		c, ok := h.connections.Connection(name)
		return ok && c.Owner == user, nil
	case "secret":
		s, ok := h.secrets.Secret(name)
		return ok && s.Owner == user, nil
	}
	return false, nil
}

var _ rest.Owns = (*house)(nil).owns
