package identity

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/countersign/countersign/internal/audit"
)

// Leaked is a credential of ours that somebody found where it does not belong,
// without its value.
type Leaked struct {
	ID      string
	Kind    string // KindKey, KindRun, KindAccess or "token" (of a user)
	Agent   string // of an agent's
	User    string // of a user's token; else the agent's owner
	Run     string
	Expires time.Time
	Dead    bool // it was revoked, ended or expired already
}

// Decoy returns a credential that looks like those with a prefix, KeyPrefix or
// TokenPrefix, and is nobody's.
func Decoy(prefix string) string { return mint(prefix) }

// Recognise tells whether value is, or was, a credential of ours. It asks the
// store: what is found out here decides about revocation, not about a call.
func (s *Service) Recognise(ctx context.Context, value string) (l Leaked, ok bool, err error) {
	switch {
	case WellFormed(KeyPrefix, value):
		l, ok, err = s.recogniseKey(ctx, digestOf(value))
	case WellFormed(TokenPrefix, value):
		var t Token
		t, err = readTokenByHash(ctx, s.db, digestOf(value))
		if errors.Is(err, ErrNotFound) {
			return l, false, nil
		}
		l, ok = Leaked{ID: t.ID, Kind: kindToken, User: t.User, Expires: t.Expires, Dead: t.Status(s.now()) != Active}, err == nil
	case looksLikeAccess(value), looksLikeRun(value):
		c, refused := s.Authenticate(ctx, value)
		if c.Credential.ID == "" { // not ours, or not to be told now
			if errors.Is(refused, ErrStale) {
				return l, false, ErrStale
			}
			return l, false, nil
		}
		l, ok = Leaked{ID: c.Credential.ID, Kind: c.Credential.Kind, Agent: c.Agent.Name, Run: c.Run, Expires: c.Credential.Expires}, true
		l.Dead = errors.Is(refused, ErrRevoked) || errors.Is(refused, ErrExpired)
	}
	if ok && l.Agent != "" {
		if a, known := s.Agent(l.Agent); known {
			l.User = a.Owner
		}
	}
	return l, ok, err
}

func (s *Service) recogniseKey(ctx context.Context, d digest) (Leaked, bool, error) {
	found, err := collect(ctx, s.db, func(rows *sql.Rows) (id string, err error) { return id, rows.Scan(&id) }, `SELECT id FROM agent_keys WHERE hash = $1`, d.String())
	if err != nil || len(found) == 0 {
		return Leaked{}, false, err
	}
	k, err := readKey(ctx, s.db, found[0])
	if err != nil {
		return Leaked{}, false, err
	}
	dead := !k.Revoked.IsZero() || !s.now().Before(k.Expires)
	return Leaked{ID: k.ID, Kind: KindKey, Agent: k.Agent, Expires: k.Expires, Dead: dead}, true, nil
}

// RevokeLeakedTx ends a leaked credential, for whoever reported it. Access
// tokens are ended by the room that issues them.
func (s *Service) RevokeLeakedTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, l Leaked) error {
	switch l.Kind {
	case KindKey:
		return s.RevokeKeyTx(ctx, tx, by, reason, l.ID)
	case KindRun:
		return s.EndRunTx(ctx, tx, by, reason, l.Run)
	case kindToken:
		if err := s.endTokensTx(ctx, tx, l.ID); err != nil {
			return err
		}
		ev := event("user.token_revoked", by, reason, object("user", l.User), map[string]any{"token": l.ID})
		ev.Credential = l.ID
		tx.Record(ev)
	}
	return nil
}
