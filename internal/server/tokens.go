package server

import (
	"context"
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
	h.oauth = oauth.New(oauth.Options{Tokens: h.tokens, People: h.identity, Elsewhere: elsewhere{h}, Key: h.secrets.Derive("oauth/forms/v1"), Trap: func(credential, remote, client, door string) {
		h.leaks.Tripped(credential, remote, client, door) // built after this
	}})
	return nil
}

// elsewhere signs people in at their provider for the consent page. Its room is
// built after the door.
type elsewhere struct{ h *house }

// On is false where browsers reach the provider's callback under another name
// than the consent page: what they keep would not come along.
func (e elsewhere) On() bool { return e.h.signin.On() && e.h.browserURL() == e.h.tokens.Issuer() }

func (e elsewhere) StartLogin(ctx context.Context, redirect, challenge, remote string) (string, time.Time, error) {
	return e.h.signin.StartLogin(ctx, redirect, challenge, remote)
}

func (e elsewhere) FinishLogin(ctx context.Context, ticket, verifier, remote string) (identity.Token, string, error) {
	return e.h.signin.FinishLogin(ctx, ticket, verifier, remote)
}

// challenge tells a client that was refused at a door how to get a token.
func (h *house) challenge(ctx context.Context, who identity.Caller, path, scope string, presented bool) string {
	if scope != "" {
		h.tokens.Challenged(ctx, who.Lineage)
	}
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
