package tokens

import (
	"context"
	"database/sql"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/storage"
)

// stepUpFor is how long after a challenge for a wider scope the refresh tokens
// of a consent give nothing.
const stepUpFor = time.Minute

func stepUp(session string) string { return "step-up/" + session }

// Challenged notes that a client was told to get a wider scope, with an access
// token of this lineage (MCP, authorization, step-up: it then begins a new
// authorization). Some clients refresh instead, are given the scope that their
// person consented to, and give up: for a minute a refresh that names no scope is
// refused (invalid_grant, RFC 6749 section 5.2), which tells them to begin anew.
// On whichever replica; the consent and its tokens stay. That it could not be
// noted is for our own log: the challenge says all that a client needs.
func (s *Service) Challenged(ctx context.Context, lineage []string) {
	if len(lineage) != 1 || !strings.HasPrefix(lineage[0], string(sessionID)+"_") {
		return // not what a client has of its own consent
	}
	session := lineage[0]
	until, err := s.stepsUp(ctx, session)
	if err == nil && until.Sub(s.now()) < stepUpFor/2 { // a client that asks again and again writes twice a minute
		err = s.db.Tx(ctx, func(tx *storage.Tx) error {
			_, err := tx.Exec(ctx, `INSERT INTO token_revocations (id, until) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET until = excluded.until`,
				stepUp(session), storage.Micros(s.now().Add(stepUpFor)))
			return err
		})
	}
	if err != nil {
		s.logger.Warn("a step-up could not be noted", "error", err)
	}
}

// stepsUp returns until when a session's refresh tokens give nothing; zero if
// they do.
func (s *Service) stepsUp(ctx context.Context, session string) (time.Time, error) {
	found, err := collect(ctx, s.db, func(rows *sql.Rows) (until int64, err error) { return until, rows.Scan(&until) },
		`SELECT until FROM token_revocations WHERE id = $1 AND until > $2`, stepUp(session), storage.Micros(s.now()))
	if err != nil || len(found) == 0 {
		return time.Time{}, err
	}
	return storage.Time(found[0]), nil
}
