package secrets

import (
	"context"
	"encoding/json/v2"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

// Watched is the name under which changes of this room are announced.
const Watched = "secrets"

// Matcher learns values so that they can be found and redacted. It must not
// keep them in plain. inspection.Known is one.
type Matcher interface {
	Add(name string, value []byte)
	Remove(name string) // all values of that name
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
	keys    *Keys
	master  atomic.Pointer[master]
	turn    sync.Mutex // held while master is replaced
	live    live
	minted  *cache // what was made of values, and values kept elsewhere

	sources  map[string]Source
	minters  map[string]Minter
	rotators map[string]func(Spec) error
	before   []func(context.Context, *audit.Tx, Secret) error
	reseals  []Resealer
	notes    []func(context.Context, map[string]Note) error
}

const startTimeout = 30 * time.Second

// New returns a Service, makes all stored values known to the Matcher, and
// registers its view with watch. At the first start it makes the keyset. It
// fails with ErrWrongKey if keys do not open the keyset that is there. The
// caller closes keys, after the Service.
func New(db *storage.DB, log *audit.Log, watch *storage.Watcher, keys *Keys, o Options) (*Service, error) {
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
	m, err := openMaster(ctx, db, log, keys, o.Now)
	if err != nil {
		return nil, err
	}
	s := &Service{db: db, log: log, watch: watch, matcher: o.Matcher, now: o.Now, logger: o.Logger, keys: keys, minted: newCache(o.Now, o.Matcher),
		sources: map[string]Source{}, minters: map[string]Minter{}, rotators: map[string]func(Spec) error{}}
	s.master.Store(m)
	s.reseals = []Resealer{s.resealSecrets}
	if err := s.reload(ctx); err != nil { // the log's redactor must know all values from now on
		return nil, err
	}
	watch.On(Watched, s.reload)
	return s, nil
}

// Derive returns a 32-byte key for label, the same on every replica and after
// every restart, and unrelated to that of any other label. Labels carry a
// version: "identity/run-token/v1".
func (s *Service) Derive(label string) []byte { return s.master.Load().derive(label) }

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
	for _, fn := range s.before {
		if err := fn(ctx, tx, old.Secret); err != nil {
			return false, err
		}
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
		v, err := s.openRow(ctx, r.Secret, r.sealed)
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
		if !slices.Equal(was.Hosts, sec.Hosts) {
			detail["hosts_were"] = was.Hosts
		}
	}
	for name, v := range map[string]string{"kind": sec.Kind, "source": sec.Source, "rotator": sec.Rotation["by"]} {
		if v != "" {
			detail[name] = v
		}
	}
	if len(sec.Settings) > 0 {
		detail["settings"] = sec.Settings
	}
	raw, err := json.Marshal(detail, json.Deterministic(true))
	if err != nil {
		return err
	}
	tx.Record(audit.Event{Type: t, Actor: by, Reason: reason, Object: "secret/" + sec.Name, Owner: sec.Owner, Connection: sec.Connection, Detail: raw})
	return storage.Bump(ctx, tx.Tx, Watched)
}
