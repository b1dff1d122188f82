package secrets

import (
	"context"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
)

// Put creates a secret, gives it another value, or changes what is said of it;
// changed is false if all of it was so already. A zero v keeps the value that
// there is.
func (s *Service) Put(ctx context.Context, by audit.Actor, reason string, spec Spec, v Value) (changed bool, err error) {
	err = s.change(ctx, func(tx *audit.Tx) error {
		changed, err = s.PutTx(ctx, tx, by, reason, spec, v)
		return err
	})
	return changed && err == nil, err
}

// PutTx is Put inside a change. The caller polls the watcher after its commit.
func (s *Service) PutTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, spec Spec, v Value) (bool, error) {
	spec, err := spec.Normalize()
	if err != nil {
		return false, err
	}
	if err := s.known(spec); err != nil {
		return false, err
	}
	if !v.IsZero() && spec.Source != "" {
		return false, ErrInvalid.Say("source: the value of %s is kept elsewhere, so none can be stored; leave one of them out", spec.Name)
	}
	if err := checkReason(reason); err != nil {
		return false, err
	}
	if !v.IsZero() {
		if err := checkValue(v); err != nil {
			return false, err
		}
		learn(s.matcher, spec.Name, v) // first, so that nothing below can write it
	}
	m, err := s.fenced(ctx, tx.Tx)
	if err != nil {
		return false, err
	}
	old, found, err := secretRow(ctx, tx, spec.Name)
	switch {
	case err != nil:
		return false, err
	case !found && v.IsZero() && s.NeedsValue(spec):
		return false, ErrNoValue.Say("the secret %s does not exist yet and needs a value", spec.Name)
	case !found:
		return true, s.create(ctx, tx, m, by, reason, spec, v)
	}
	return s.update(ctx, tx, m, by, reason, spec, v, old)
}

func (s *Service) create(ctx context.Context, tx *audit.Tx, m *master, by audit.Actor, reason string, spec Spec, v Value) error {
	now := s.now()
	r := row{Secret: Secret{ID: id.At(id.Secret, now), Spec: spec, Version: 1, Newest: 1, Created: now, Rotated: now}}
	var err error
	if r.sealed, err = m.seal(r.Secret, v); err != nil {
		return err
	}
	if err := insertSecret(ctx, tx, r); err != nil {
		return ownerError(err, spec)
	}
	return s.record(ctx, tx, "secret.created", by, reason, r.Secret, nil)
}

func (s *Service) update(ctx context.Context, tx *audit.Tx, m *master, by audit.Actor, reason string, spec Spec, v Value, old row) (bool, error) {
	stored, err := m.open(old.Secret, old.sealed)
	defer stored.Wipe()
	if err != nil && v.IsZero() && s.NeedsValue(spec) {
		return false, err
	}
	rotated := err != nil || !v.IsZero() && !v.Equal(stored)
	if spec.Source != "" && !stored.IsZero() {
		stored, rotated = Value{}, true // it is kept elsewhere from now on
	}
	switch {
	case !rotated && spec.same(old.Spec):
		return false, nil
	case stored.IsZero() && v.IsZero() && s.NeedsValue(spec):
		return false, ErrNoValue.Say("the secret %s was kept elsewhere and needs a value now", spec.Name)
	}
	r := old
	r.Spec = spec
	kind := audit.Type("secret.updated")
	if rotated {
		kind = "secret.rotated"
		r.Newest++
		r.Version, r.Rotated, r.Ref = r.Newest, s.now(), ""
	} else {
		v = stored
	}
	if r.sealed, err = m.seal(r.Secret, v); err != nil {
		return false, err
	}
	if err := updateSecret(ctx, tx, r, old); err != nil {
		return false, ownerError(err, spec)
	}
	if err := s.shift(ctx, tx, m, old, r, rotated); err != nil {
		return false, err
	}
	return true, s.record(ctx, tx, kind, by, reason, r.Secret, &old.Spec)
}

func ownerError(err error, spec Spec) error {
	if storage.Referenced(err) {
		return ErrOwner.Say("owner: there is no user %s; create it first", spec.Owner)
	}
	return err
}
