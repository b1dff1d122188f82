package secrets

import (
	"context"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
)

// The states of a version.
const (
	Pending  = "pending"  // made by a rotation, not used yet
	Current  = "current"  // the one that is used
	Previous = "previous" // the one before; Rollback makes it current again
)

// Version is one of the values that a secret has at a time: the current one, at
// most one pending and at most one previous.
type Version struct {
	Number   int64     `json:"version"`
	State    string    `json:"state" enum:"pending,current,previous"`
	Created  time.Time `json:"created" doc:"when the value was made or put"`
	Rotation string    `json:"rotation,omitempty" doc:"the rotation that made it"`
	Ref      string    `json:"ref,omitempty" doc:"what the provider calls it"`
}

// Errors about versions.
var (
	ErrNoPrevious = fault.New(fault.Conflict, "no_previous_version", "there is no previous version to go back to; put the value again")
	ErrNoPending  = fault.New(fault.Conflict, "no_pending_version", "the pending version of this rotation is gone: somebody put another value, or changed or deleted the secret")
)

// Versions returns the versions of a secret, newest number first.
func (s *Service) Versions(ctx context.Context, name string) ([]Version, error) {
	r, found, err := secretRow(ctx, s.db, name)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, ErrNotFound.Say("there is no secret %.63q", name)
	}
	beside, err := versionRows(ctx, s.db, r.ID)
	if err != nil {
		return nil, err
	}
	out := []Version{{Number: r.Version, State: Current, Created: r.Rotated, Ref: r.Ref}}
	for _, v := range beside {
		out = append(out, v.Version)
	}
	slices.SortFunc(out, func(a, b Version) int { return int(b.Number - a.Number) })
	return out, nil
}

// shift brings the versions beside the current one in line with a change of the
// secret from old to now, inside the change that made it: what was current
// becomes previous if the value is another, and then a pending version of a
// rotation is dropped, for a person has decided otherwise; and all are sealed
// anew if what they are sealed with has changed.
func (s *Service) shift(ctx context.Context, tx *audit.Tx, m *master, old, now row, rotated bool) error {
	if rotated {
		if err := deleteVersions(ctx, tx, old.ID, ""); err != nil {
			return err
		}
		v, err := m.open(old.Secret, old.sealed)
		defer v.Wipe()
		if err != nil || v.IsZero() {
			return nil // there was nothing to go back to
		}
		return s.keepAs(ctx, tx, m, Previous, now.Secret, old, v, "")
	}
	beside, err := versionRows(ctx, tx, old.ID)
	if err != nil {
		return err
	}
	for _, b := range beside {
		v, err := m.open(old.at(b.Number), b.sealed)
		if err == nil {
			b.sealed, err = m.seal(now.at(b.Number), v)
			v.Wipe()
		}
		if err != nil {
			return err
		}
		if err := resealVersion(ctx, tx, b); err != nil {
			return err
		}
	}
	return nil
}

// at returns s as it was sealed with as version n.
func (s Secret) at(n int64) Secret {
	s.Version = n
	return s
}

// keepAs stores the version that was the current one of old under a state.
func (s *Service) keepAs(ctx context.Context, tx *audit.Tx, m *master, state string, now Secret, old row, v Value, rotation string) error {
	sealed, err := m.seal(now.at(old.Version), v)
	if err != nil {
		return err
	}
	return insertVersion(ctx, tx, versionRow{
		Version: Version{Number: old.Version, State: state, Created: old.Rotated, Rotation: rotation, Ref: old.Ref}, secret: old.ID, sealed: sealed,
	})
}

// Rollback makes the previous version the current one, and the current one the
// previous. A rotation that is under way loses its pending version.
func (s *Service) Rollback(ctx context.Context, by audit.Actor, reason, name string) error {
	if err := checkReason(reason); err != nil {
		return err
	}
	return s.change(ctx, func(tx *audit.Tx) error {
		m, err := s.fenced(ctx, tx.Tx)
		if err != nil {
			return err
		}
		old, found, err := secretRow(ctx, tx, name)
		if err != nil {
			return err
		}
		if !found {
			return ErrNotFound.Say("there is no secret %.63q", name)
		}
		now, err := s.swap(ctx, tx, m, old, Previous, Previous, "")
		if err != nil {
			return err
		}
		return s.record(ctx, tx, "secret.rolled_back", by, reason, now, nil)
	})
}

// swap makes the version in state from the current one, and keeps the one that
// was current in state to; "" drops it. rotation must have made the version
// unless it is empty.
func (s *Service) swap(ctx context.Context, tx *audit.Tx, m *master, old row, from, to, rotation string) (Secret, error) {
	beside, err := versionRows(ctx, tx, old.ID)
	if err != nil {
		return Secret{}, err
	}
	i := slices.IndexFunc(beside, func(v versionRow) bool { return v.State == from && (rotation == "" || v.Rotation == rotation) })
	switch {
	case i < 0 && from == Previous:
		return Secret{}, ErrNoPrevious.Say("the secret %s has no previous version to go back to; put the value again", old.Name)
	case i < 0:
		return Secret{}, ErrNoPending
	}
	next := beside[i]
	now := old
	now.Version, now.Ref, now.Rotated, now.sealed = next.Number, next.Ref, s.now(), next.sealed
	v, err := m.open(now.Secret, now.sealed) // never make current what cannot be opened
	if err != nil {
		return Secret{}, err
	}
	v.Wipe()
	if err := updateSecret(ctx, tx, now, old); err != nil {
		return Secret{}, err
	}
	if err := deleteVersions(ctx, tx, old.ID, ""); err != nil {
		return Secret{}, err
	}
	was, err := m.open(old.Secret, old.sealed)
	defer was.Wipe()
	if err != nil || was.IsZero() || to == "" {
		return now.Secret, nil
	}
	return now.Secret, s.keepAs(ctx, tx, m, to, now.Secret, old, was, "")
}

// PendTx stores v as the pending version of a secret, made by a rotation, in
// place of any other, and returns its number.
func (s *Service) PendTx(ctx context.Context, tx *audit.Tx, name, rotation, ref string, v Value) (int64, error) {
	if err := checkValue(v); err != nil {
		return 0, err
	}
	learn(s.matcher, name, v) // first, so that nothing below can write it
	m, err := s.fenced(ctx, tx.Tx)
	if err != nil {
		return 0, err
	}
	r, found, err := secretRow(ctx, tx, name)
	if err != nil {
		return 0, err
	}
	if !found {
		return 0, ErrNotFound.Say("there is no secret %.63q", name)
	}
	if err := deleteVersions(ctx, tx, r.ID, Pending); err != nil {
		return 0, err
	}
	next := r
	next.Newest++
	sealed, err := m.seal(r.at(next.Newest), v)
	if err != nil {
		return 0, err
	}
	if err := updateSecret(ctx, tx, next, r); err != nil {
		return 0, err
	}
	err = insertVersion(ctx, tx, versionRow{
		Version: Version{Number: next.Newest, State: Pending, Created: s.now(), Rotation: rotation, Ref: ref}, secret: r.ID, sealed: sealed,
	})
	return next.Newest, err
}

// PromoteTx makes the pending version of a rotation the current one and records
// it. The one before becomes previous. ErrNoPending if it is gone.
func (s *Service) PromoteTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, name, rotation string) (was Secret, err error) {
	m, err := s.fenced(ctx, tx.Tx)
	if err != nil {
		return Secret{}, err
	}
	old, found, err := secretRow(ctx, tx, name)
	if err != nil {
		return Secret{}, err
	}
	if !found {
		return Secret{}, ErrNoPending
	}
	now, err := s.swap(ctx, tx, m, old, Pending, Previous, rotation)
	if err != nil {
		return Secret{}, err
	}
	return old.Secret, s.record(ctx, tx, "secret.rotated", by, reason, now, nil)
}

// DropTx forgets the version of a secret in a state, if there is one: the
// pending one of a rotation that failed, or a previous one whose value is dead.
// With a number, only that one.
func (s *Service) DropTx(ctx context.Context, tx *audit.Tx, name, state string, number int64) error {
	_, err := tx.Exec(ctx, `DELETE FROM secret_versions WHERE state = $1 AND secret IN (SELECT id FROM secrets WHERE name = $2) AND ($3 = 0 OR version = $3)`,
		state, name, number)
	return err
}

// Held is a version with its value, for a rotation. The holder should Wipe it.
type Held struct {
	Version
	Value Value
}

// Reveal returns a secret with the values of its versions, from the store, for
// work on the secret itself that r proves to be recorded: its rotation, or that
// of another secret which it administers. What is not there has a zero Value.
func (s *Service) Reveal(ctx context.Context, r audit.Receipt, call, name string) (Secret, map[string]Held, error) {
	if !r.For(call) {
		return Secret{}, nil, ErrNoReceipt
	}
	row, found, err := secretRow(ctx, s.db, name)
	if err != nil {
		return Secret{}, nil, err
	}
	if !found {
		return Secret{}, nil, ErrNotFound.Say("there is no secret %.63q", name)
	}
	beside, err := versionRows(ctx, s.db, row.ID)
	if err != nil {
		return Secret{}, nil, err
	}
	out := map[string]Held{}
	beside = append(beside, versionRow{Version: Version{Number: row.Version, State: Current, Created: row.Rotated, Ref: row.Ref}, sealed: row.sealed})
	for _, b := range beside {
		v, err := s.openRow(ctx, row.at(b.Number), b.sealed)
		if err != nil {
			return Secret{}, nil, err
		}
		if b.State == Current && row.Source != "" {
			if v, err = s.sourced(ctx, row.Secret); err != nil {
				return Secret{}, nil, err
			}
		}
		learn(s.matcher, name, v)
		out[b.State] = Held{b.Version, v}
	}
	return row.Secret, out, nil
}
