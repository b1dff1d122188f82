package identity

import (
	"context"
	"errors"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
)

// The life of agent keys.
const (
	KeyUsual     = 30 * 24 * time.Hour
	KeyMost      = 90 * 24 * time.Hour
	OverlapUsual = 24 * time.Hour
	OverlapMost  = 7 * 24 * time.Hour
)

// NoOverlap makes RotateKey end the old key at once. (A zero overlap means the
// usual one.)
const NoOverlap time.Duration = -1

// Key is an agent key without its value.
type Key struct {
	ID        string
	Agent     string
	Prefix    string // the value's first characters
	Created   time.Time
	Expires   time.Time
	Revoked   time.Time // zero if it was not
	LastUsed  time.Time // about a minute exact; zero if never
	Successor string    // the key that a rotation put in its place
	hash      digest
}

// The states of keys and tokens.
const (
	Active   = "active"
	Rotating = "rotating" // has a successor and lives on for the overlap
	Expired  = "expired"
	Revoked  = "revoked"
)

// Status returns the state of the key at now.
func (k Key) Status(now time.Time) string {
	switch {
	case !k.Revoked.IsZero():
		return Revoked
	case !now.Before(k.Expires):
		return Expired
	case k.Successor != "":
		return Rotating
	}
	return Active
}

// Keys returns the keys of an agent, oldest first, dead ones included.
func (s *Service) Keys(ctx context.Context, agent string) ([]Key, error) {
	if _, err := readAgent(ctx, s.db, agent); err != nil {
		return nil, err
	}
	return readKeys(ctx, s.db, keyFilter{agent: agent})
}

// IssueKey makes a key for an agent and returns it with its value, which is
// not kept. It expires after expiresIn, KeyUsual if that is zero.
func (s *Service) IssueKey(ctx context.Context, by audit.Actor, reason, agent string, expiresIn time.Duration) (k Key, value string, err error) {
	err = s.change(ctx, func(tx *audit.Tx) error {
		k, value, err = s.IssueKeyTx(ctx, tx, by, reason, agent, expiresIn)
		return err
	})
	return k, value, err
}

// IssueKeyTx is IssueKey inside a change.
func (s *Service) IssueKeyTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, agent string, expiresIn time.Duration) (Key, string, error) {
	life, err := lifetime("the life of a key", expiresIn, KeyUsual, KeyMost)
	if err != nil {
		return Key{}, "", err
	}
	if err := checkReason(reason, false); err != nil {
		return Key{}, "", err
	}
	switch a, err := readAgent(ctx, tx, agent); {
	case err != nil:
		return Key{}, "", err
	case !a.Retired.IsZero():
		return Key{}, "", ErrRetired
	}
	k, value, err := s.insertKey(ctx, tx, agent, life)
	if err != nil {
		return Key{}, "", err
	}
	ev := keyEvent("agent.key_issued", by, reason, k, map[string]any{"key": k.ID, "expires": k.Expires})
	return k, value, record(ctx, tx, ev)
}

func (s *Service) insertKey(ctx context.Context, tx *audit.Tx, agent string, life time.Duration) (Key, string, error) {
	now, value := s.now().UTC().Truncate(time.Microsecond), mint(KeyPrefix)
	k := Key{ID: id.At(id.Key, now), Agent: agent, Prefix: value[:shownChars], Created: now, Expires: now.Add(life), hash: digestOf(value)}
	_, err := tx.Exec(ctx, `INSERT INTO agent_keys (id, agent, prefix, hash, created, expires, revoked, last_used, successor)
		VALUES ($1, $2, $3, $4, $5, $6, 0, 0, '')`, k.ID, k.Agent, k.Prefix, k.hash.String(), storage.Micros(k.Created), storage.Micros(k.Expires))
	return k, value, err
}

func keyEvent(t audit.Type, by audit.Actor, reason string, k Key, v any) audit.Event {
	ev := event(t, by, reason, object("agent", k.Agent), v)
	ev.Agent, ev.Credential = k.Agent, k.ID
	return ev
}

// RotateKey puts a new key in the place of an active one, which lives on for
// overlap: OverlapUsual if zero, not at all if NoOverlap. Of several rotations
// of one key at the same time, one succeeds.
func (s *Service) RotateKey(ctx context.Context, by audit.Actor, reason, id string, overlap, expiresIn time.Duration) (k Key, value string, err error) {
	err = s.change(ctx, func(tx *audit.Tx) error {
		k, value, err = s.RotateKeyTx(ctx, tx, by, reason, id, overlap, expiresIn)
		return err
	})
	return k, value, err
}

// RotateKeyTx is RotateKey inside a change.
func (s *Service) RotateKeyTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, id string, overlap, expiresIn time.Duration) (Key, string, error) {
	life, err := lifetime("the life of a key", expiresIn, KeyUsual, KeyMost)
	if err != nil {
		return Key{}, "", err
	}
	if overlap == NoOverlap {
		overlap = 0
	} else if overlap, err = lifetime("the overlap", overlap, OverlapUsual, OverlapMost); err != nil {
		return Key{}, "", err
	}
	if err := checkReason(reason, false); err != nil {
		return Key{}, "", err
	}
	old, err := readKey(ctx, tx, id)
	if err != nil {
		return Key{}, "", err
	}
	k, value, err := s.insertKey(ctx, tx, old.Agent, life)
	if err != nil {
		return Key{}, "", err
	}
	end := k.Created.Add(overlap)
	err = tx.ExecOne(ctx, `UPDATE agent_keys SET successor = $1, expires = CASE WHEN expires < $2 THEN expires ELSE $2 END
		WHERE id = $3 AND revoked = 0 AND successor = '' AND expires > $4`, k.ID, storage.Micros(end), id, storage.Micros(k.Created))
	if errors.Is(err, storage.ErrNotFound) {
		return Key{}, "", ErrInactive
	}
	if err != nil {
		return Key{}, "", err
	}
	if old.Expires.Before(end) {
		end = old.Expires
	}
	ev := keyEvent("agent.key_rotated", by, reason, k, map[string]any{"key": k.ID, "expires": k.Expires, "old": old.ID, "old_expires": end})
	return k, value, record(ctx, tx, ev)
}

// RevokeKey ends a key at once. Revoking a revoked key changes nothing.
func (s *Service) RevokeKey(ctx context.Context, by audit.Actor, reason, id string) error {
	return s.change(ctx, func(tx *audit.Tx) error { return s.RevokeKeyTx(ctx, tx, by, reason, id) })
}

// RevokeKeyTx is RevokeKey inside a change.
func (s *Service) RevokeKeyTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, id string) error {
	if err := checkReason(reason, false); err != nil {
		return err
	}
	k, err := readKey(ctx, tx, id)
	if err != nil || !k.Revoked.IsZero() {
		return err
	}
	// Without comparing: whoever comes second revokes what is revoked.
	if _, err := tx.Exec(ctx, `UPDATE agent_keys SET revoked = $1 WHERE id = $2`, storage.Micros(s.now()), id); err != nil {
		return err
	}
	return record(ctx, tx, keyEvent("agent.key_revoked", by, reason, k, map[string]any{"key": id}))
}
