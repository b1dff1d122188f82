package secrets

import (
	"context"
	"encoding/json/v2"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
)

// Watched is the name under which changes of this room are announced.
const Watched = "secrets"

// Matcher learns values so that they can be found and redacted. It must not
// keep them in plain. inspection.Known is one.
type Matcher interface {
	Add(name string, value []byte)
}

// Options of a Service.
type Options struct {
	// Matcher learns every value before it is stored or used, and keeps those
	// of former versions until the process ends: answers on the way may still
	// hold them. Required.
	Matcher Matcher
	Now     func() time.Time // time.Now if nil
	Logger  *slog.Logger     // discards if nil
}

// Service is the room's verbs and its view of the store. It is safe for
// concurrent use.
type Service struct {
	db      *storage.DB
	log     *audit.Log
	watch   *storage.Watcher
	matcher Matcher
	now     func() time.Time
	logger  *slog.Logger
	master  *master
	live    live
}

const startTimeout = 30 * time.Second

// New returns a Service, makes all stored values known to the Matcher, and
// registers its view with watch. At the first start it makes the keyset. It
// fails with ErrWrongKey if keeper does not open the keyset that is there. The
// keeper is not needed afterwards; the caller closes it.
func New(db *storage.DB, log *audit.Log, watch *storage.Watcher, keeper Keeper, o Options) (*Service, error) {
	if o.Matcher == nil {
		return nil, errors.New("secrets: Options.Matcher is required")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	m, err := openMaster(ctx, db, log, keeper, o.Now)
	if err != nil {
		return nil, err
	}
	s := &Service{db: db, log: log, watch: watch, matcher: o.Matcher, now: o.Now, logger: o.Logger, master: m}
	if err := s.reload(ctx); err != nil { // the log's redactor must know all values from now on
		return nil, err
	}
	watch.On(Watched, s.reload)
	return s, nil
}

// Derive returns a 32-byte key for label, the same on every replica and after
// every restart, and unrelated to that of any other label. Labels carry a
// version: "identity/run-token/v1".
func (s *Service) Derive(label string) []byte { return s.master.derive(label) }

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
	if err := checkReason(reason); err != nil {
		return false, err
	}
	if !v.IsZero() {
		if err := checkValue(v); err != nil {
			return false, err
		}
		s.matcher.Add(spec.Name, v.Expose()) // first, so that nothing below can write it
	}
	old, found, err := secretRow(ctx, tx, spec.Name)
	switch {
	case err != nil:
		return false, err
	case !found && v.IsZero():
		return false, ErrNoValue.Say("the secret %s does not exist yet and needs a value", spec.Name)
	case !found:
		return true, s.create(ctx, tx, by, reason, spec, v)
	}
	return s.update(ctx, tx, by, reason, spec, v, old)
}

func (s *Service) create(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, spec Spec, v Value) error {
	now := s.now()
	r := row{Secret: Secret{ID: id.At(id.Secret, now), Spec: spec, Version: 1, Created: now, Rotated: now}}
	var err error
	if r.sealed, err = s.master.seal(r.Secret, v); err != nil {
		return err
	}
	if err := insertSecret(ctx, tx, r); err != nil {
		return ownerError(err, spec)
	}
	return s.record(ctx, tx, "secret.created", by, reason, r.Secret, nil)
}

func (s *Service) update(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, spec Spec, v Value, old row) (bool, error) {
	stored, err := s.master.open(old.Secret, old.sealed)
	defer stored.Wipe()
	if err != nil && v.IsZero() {
		return false, err
	}
	rotated := err != nil || !v.IsZero() && !v.Equal(stored)
	if !rotated && spec.same(old.Spec) {
		return false, nil
	}
	r := old
	r.Spec = spec
	kind := audit.Type("secret.updated")
	if rotated {
		kind = "secret.rotated"
		r.Version, r.Rotated = old.Version+1, s.now()
	} else {
		v = stored
	}
	if r.sealed, err = s.master.seal(r.Secret, v); err != nil {
		return false, err
	}
	if err := updateSecret(ctx, tx, r, old.sealed); err != nil {
		return false, ownerError(err, spec)
	}
	return true, s.record(ctx, tx, kind, by, reason, r.Secret, &old.Spec)
}

func ownerError(err error, spec Spec) error {
	if storage.Referenced(err) {
		return ErrOwner.Say("owner: there is no user %s; create it first", spec.Owner)
	}
	return err
}

// Delete removes a secret. Calls that need it fail from then on.
func (s *Service) Delete(ctx context.Context, by audit.Actor, reason, name string) error {
	return s.change(ctx, func(tx *audit.Tx) error {
		found, err := s.DeleteTx(ctx, tx, by, reason, name)
		if err == nil && !found {
			return ErrNotFound.Say("there is no secret %.63q", name)
		}
		return err
	})
}

// DeleteTx is Delete inside a change; it reports whether there was anything to
// delete.
func (s *Service) DeleteTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, name string) (bool, error) {
	if err := checkReason(reason); err != nil {
		return false, err
	}
	old, found, err := secretRow(ctx, tx, name)
	if err != nil || !found {
		return false, err
	}
	if err := deleteSecret(ctx, tx, old.ID); err != nil {
		return false, err
	}
	return true, s.record(ctx, tx, "secret.deleted", by, reason, old.Secret, nil)
}

// KeepOwners refuses to delete a user who owns secrets; server registers it
// with identity's OnDelete.
func (s *Service) KeepOwners(ctx context.Context, tx *audit.Tx, _ audit.Actor, _, object string) error {
	return s.keep(ctx, tx, object, "user/", `WHERE owner = $1`, "owns the secret %s; give that another owner first")
}

// KeepConnections refuses to delete a connection that secrets are bound to:
// whoever took its name next would get them. server registers it with
// connections' OnDelete.
func (s *Service) KeepConnections(ctx context.Context, tx *audit.Tx, _ audit.Actor, _, object string) error {
	return s.keep(ctx, tx, object, "connection/", `WHERE connection = $1`, "has the secret %s; delete that first")
}

func (s *Service) keep(ctx context.Context, tx *audit.Tx, object, kind, where, why string) error {
	name, ok := strings.CutPrefix(object, kind)
	if !ok {
		return nil
	}
	rows, err := secretRows(ctx, tx, where, name)
	if err != nil || len(rows) == 0 {
		return err
	}
	return ErrInUse.Say("%s "+why, name, rows[0].Name)
}

// List returns all secrets from the store, by name.
func (s *Service) List(ctx context.Context) ([]Secret, error) {
	rows, err := secretRows(ctx, s.db, "")
	if err != nil {
		return nil, err
	}
	out := make([]Secret, 0, len(rows))
	for _, r := range rows {
		v, err := s.master.open(r.Secret, r.sealed)
		r.Broken = err != nil
		v.Wipe()
		out = append(out, r.Secret)
	}
	return out, nil
}

// change commits what fn does together with its events and brings the view up
// to date, so that the caller's next request sees the change.
func (s *Service) change(ctx context.Context, fn func(tx *audit.Tx) error) error {
	switch err := s.log.Change(ctx, fn); {
	case err == nil:
	case storage.Duplicate(err):
		return ErrRaced.With(err)
	default:
		return err
	}
	if err := s.watch.Poll(ctx); err != nil {
		// The change stands; the watcher refuses calls until it can look again.
		s.logger.Warn("secrets changed, but the view could not be reloaded", "error", err)
	}
	return nil
}

func (s *Service) record(ctx context.Context, tx *audit.Tx, t audit.Type, by audit.Actor, reason string, sec Secret, was *Spec) error {
	detail := map[string]any{"id": sec.ID, "version": sec.Version, "hosts": sec.Hosts}
	if was != nil {
		if was.Owner != sec.Owner {
			detail["owner_was"] = was.Owner
		}
		if was.Connection != sec.Connection {
			detail["connection_was"] = was.Connection
		}
		if !(Spec{Hosts: was.Hosts}).same(Spec{Hosts: sec.Hosts}) {
			detail["hosts_were"] = was.Hosts
		}
	}
	raw, err := json.Marshal(detail, json.Deterministic(true))
	if err != nil {
		return err
	}
	tx.Record(audit.Event{Type: t, Actor: by, Reason: reason, Object: "secret/" + sec.Name, Owner: sec.Owner, Connection: sec.Connection, Detail: raw})
	return storage.Bump(ctx, tx.Tx, Watched)
}
