package server

import (
	"log/slog"
	"time"

	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/tokens"
	"github.com/countersign/countersign/internal/tokens/oauth"
	"github.com/countersign/countersign/internal/tokens/remote"
)

// buildTokens builds the issuer and its door.
func (h *house) buildTokens(log *slog.Logger) error {
	o := tokens.Options{
		Derive: h.secrets.Derive, Fetcher: remote.New(), Doors: h.doorsFor, Now: time.Now, Logger: log,
		Registration: h.cfg.OAuth.Registration, PrivateClients: h.cfg.OAuth.PrivateClients,
	}
	var err error
	if h.tokens, err = tokens.New(h.db, h.log, h.watch, h.identity, o); err != nil {
		return err
	}
	h.oauth = oauth.New(oauth.Options{Tokens: h.tokens, People: h.identity, Key: h.secrets.Derive("oauth/forms/v1"), Trap: func(credential, remote, client, door string) {
		h.leaks.Tripped(credential, remote, client, door) // built after this
	}})
	return nil
}

// challenge tells a client that was refused at a door how to get a token.
func (h *house) challenge(path, scope string, presented bool) string {
	return oauth.Challenge(h.tokens, path, scope, presented)
}

// doorsFor lists the connections of which an agent may use something: a list
// shows nothing else.
func (h *house) doorsFor(who identity.Caller) []tokens.Door {
	var out []tokens.Door
	for _, c := range h.connections.Connections() {
		for _, t := range h.connections.Tools(c.Name) {
			if h.gateway.Visible(who, c, t) {
				out = append(out, tokens.Door{Name: c.Name, Kind: c.Kind, Dialect: c.Dialect})
				break
			}
		}
	}
	return out
}
