package tokens

import (
	"context"
	"database/sql"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/storage"
)

// Revoke ends a token that somebody gives back (RFC 7009): who holds it may.
// An access token takes what was exchanged for it with it, a refresh token its
// session, a run token its run. A token that is not known, or has ended, is no
// error.
func (s *Service) Revoke(ctx context.Context, token, remote string) error {
	if found, err := s.refreshSession(ctx, token); err != nil || found != "" {
		if err != nil {
			return err
		}
		return s.announced(ctx, func(tx *audit.Tx) error {
			all, err := readSessions(ctx, tx, sessionFilter{id: found})
			if err != nil || len(all) == 0 {
				return err
			}
			return s.endSessionTx(ctx, tx, audit.Person(all[0].userID, all[0].User), "the client gave its refresh token back", all[0])
		})
	}
	who, err := s.identity.Authenticate(ctx, token)
	if err != nil {
		return nil //nolint:nilerr // RFC 7009 section 2.2: what is not valid is as good as revoked
	}
	switch who.Credential.Kind {
	case identity.KindRun:
		return s.identity.EndRun(ctx, who.Agent.Actor(), "the program gave its token back", who.Run)
	case identity.KindAccess:
		return s.announced(ctx, func(tx *audit.Tx) error {
			ev := about(event("token.revoked", who.Agent.Actor(), "given back", "agent/"+who.Agent.Name, map[string]any{"token": who.Credential.ID}), who.Agent)
			ev.Credential, ev.OnBehalfOf, ev.Remote = who.Credential.ID, who.OnBehalfOf, remote
			tx.Record(ev)
			return s.kill(ctx, tx, who.Credential.ID)
		})
	}
	return ErrUnallowed.Say("this credential is revoked by a person: countersign agent key revoke")
}

// RevokeLeakedTx ends an access token that somebody found where it does not
// belong, and what was exchanged for it, inside a change. Its streams are cut
// when replicas see it.
func (s *Service) RevokeLeakedTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, l identity.Leaked) error {
	ev := event("token.revoked", by, reason, "agent/"+l.Agent, map[string]any{"token": l.ID})
	if a, ok := s.identity.Agent(l.Agent); ok {
		ev = about(ev, a)
	}
	ev.Credential, ev.Run = l.ID, l.Run
	tx.Record(ev)
	if err := s.kill(ctx, tx, l.ID); err != nil {
		return err
	}
	return storage.Bump(ctx, tx.Tx, Version)
}

func (s *Service) refreshSession(ctx context.Context, token string) (string, error) {
	found, err := collect(ctx, s.db, func(rows *sql.Rows) (id string, err error) { return id, rows.Scan(&id) }, `SELECT session FROM refresh_tokens WHERE hash = $1`, digest(token))
	if err != nil || len(found) == 0 {
		return "", err
	}
	return found[0], nil
}
