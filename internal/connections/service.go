package connections

import (
	"context"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/rates"
	"github.com/countersign/countersign/internal/storage"
)

// Watched is the name under which changes of this room are announced. Who
// derives something from tools (policy's schema) registers with the watcher
// under it, after New: callbacks run in the order of their registration.
const Watched = "connections"

// ErrReason is returned when an act that a person must explain has no reason.
var ErrReason = fault.New(fault.Invalid, "reason_required", "say why (--reason), in 1 to 1000 bytes of text")

// ErrRaced is returned when somebody else changed the same thing meanwhile.
var ErrRaced = fault.New(fault.Conflict, "changed_meanwhile", "somebody changed this in the meantime; look again")

// Discoverer asks an upstream for its tools, on behalf of a person, through
// the line (with a receipt). gateway/mcp is one.
type Discoverer interface {
	Discover(ctx context.Context, by audit.Actor, c Connection) ([]Definition, error)
}

// Options of a Service.
type Options struct {
	// Redactor replaces secrets in what upstreams say about themselves before
	// it is stored, and tells whether a connection holds one in plain. Required.
	Redactor audit.Redactor
	// Instructs returns the names of what a text holds that addresses a model. It
	// may be nil.
	Instructs func(text []byte) []string
	Now       func() time.Time // time.Now if nil
	Logger    *slog.Logger     // discards if nil
}

// Service is the room's verbs and its view of the store. It is safe for
// concurrent use.
type Service struct {
	db        *storage.DB
	log       *audit.Log
	watch     *storage.Watcher
	findings  *findings.Service
	redactor  audit.Redactor
	instructs func(text []byte) []string
	now       func() time.Time
	logger    *slog.Logger
	discover  atomic.Pointer[Discoverer]
	current   atomic.Pointer[snapshot]
	before    []identity.BeforeDelete
	seen      sync.Map // connection and tool -> digested, to compare unchanged lists cheaply
	noted     throttle
	rates     *rates.Service
	uses      uses
	cancel    context.CancelFunc // of what Start began
	done      chan struct{}
}

// New returns a Service and registers its view with watch. Until watch has
// polled there are no connections.
func New(db *storage.DB, log *audit.Log, watch *storage.Watcher, f *findings.Service, o Options) (*Service, error) {
	if o.Redactor == nil {
		return nil, errors.New("connections: Options.Redactor is required")
	}
	counted := rates.New(db, o.Now, o.Logger) // by the database's clock, if none is given
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Service{db: db, log: log, watch: watch, findings: f, rates: counted, redactor: o.Redactor, instructs: o.Instructs, now: o.Now, logger: o.Logger}
	s.current.Store(build(nil, nil))
	watch.On(Watched, s.reload)
	return s, nil
}

// SetDiscoverer says who asks upstreams for their tools.
func (s *Service) SetDiscoverer(d Discoverer) { s.discover.Store(&d) }

// OnDelete registers fn to be asked, inside the transaction, before a
// connection ("connection/ledger") is deleted: it may clean up or refuse. It
// must be called before the Service is used.
func (s *Service) OnDelete(fn identity.BeforeDelete) { s.before = append(s.before, fn) }

// KeepOwners refuses to delete a user who owns connections; server registers
// it with identity's OnDelete.
func (s *Service) KeepOwners(ctx context.Context, tx *audit.Tx, _ audit.Actor, _, object string) error {
	user, ok := strings.CutPrefix(object, "user/")
	if !ok {
		return nil
	}
	conns, err := connectionRows(ctx, tx)
	if err != nil {
		return err
	}
	for _, c := range conns {
		if c.Owner == user {
			return identity.ErrInUse.Say("user %q owns the connection %s; give it another owner first", user, c.Name)
		}
	}
	return nil
}

// change commits what fn does together with its events and brings the view up
// to date. Callers of the …Tx verbs poll the watcher after their commit.
func (s *Service) change(ctx context.Context, fn func(tx *audit.Tx) error) error {
	if err := s.log.Change(ctx, fn); err != nil {
		return err
	}
	if err := s.watch.Poll(ctx); err != nil {
		// The change stands; the watcher refuses calls until it can look again.
		s.logger.Warn("connections changed, but the view could not be reloaded", "error", err)
	}
	return nil
}

func record(ctx context.Context, tx *audit.Tx, ev audit.Event, payloads ...audit.Payload) error {
	tx.Record(ev, payloads...)
	return storage.Bump(ctx, tx.Tx, Watched)
}

func checkReason(reason string, must bool) error {
	if len(reason) > 1000 || !utf8.ValidString(reason) || (must && strings.TrimSpace(reason) == "") {
		return ErrReason
	}
	return nil
}

// Register creates or updates a connection; it reports whether anything
// changed. ID, Created, Updated and Discovered of c are ignored. The tools of
// an mcp connection are found by Refresh, those of an http connection given by
// Import or Declare.
func (s *Service) Register(ctx context.Context, by audit.Actor, reason string, c Connection) (changed bool, err error) {
	err = s.change(ctx, func(tx *audit.Tx) error {
		changed, err = s.RegisterTx(ctx, tx, by, reason, c)
		return err
	})
	return changed, err
}

// RegisterTx is Register inside a change.
func (s *Service) RegisterTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, c Connection) (bool, error) {
	c, err := s.check(c)
	if err != nil {
		return false, err
	}
	if err := checkReason(reason, false); err != nil {
		return false, err
	}
	old, found, err := connectionRow(ctx, tx, c.Name)
	switch {
	case err != nil:
		return false, err
	case found && old.same(c):
		return false, nil
	case found && (old.Kind != c.Kind || (c.Kind == HTTP || c.Kind == Retrieval) && old.Dialect != c.Dialect):
		return false, bad("kind", "connection %s is of kind %s; delete it first to register another kind under its name", c.Name, strings.TrimSpace(old.Kind+" "+old.Dialect))
	}
	now := s.now()
	kind := audit.Type("connection.updated")
	if !found {
		kind, old = "connection.registered", Connection{ID: id.At(id.Connection, now), Created: now}
		if c.Dialect != "" { // its tools are built in
			old.Discovered = now
		}
	}
	detail := changes(old, c)
	c.ID, c.Created, c.Discovered, c.Updated = old.ID, old.Created, old.Discovered, now
	if err := putConnection(ctx, tx.Tx, c); err != nil {
		if storage.Referenced(err) {
			fe := &FieldError{Field: "owner", Message: "there is no user " + c.Owner + "; create it first"}
			return false, ErrOwner.Say("%s", fe.Error()).With(fe)
		}
		return false, err
	}
	return true, record(ctx, tx, connectionEvent(kind, by, reason, c, detail))
}

// Check returns c with its defaults filled in, or what is wrong with it, as
// Register would see it before it looks at the store.
func (s *Service) Check(c Connection) (Connection, error) { return s.check(c) }

func (s *Service) check(c Connection) (Connection, error) {
	c, err := c.Normalize()
	if err != nil {
		return c, err
	}
	texts := map[string]string{"url": c.URL, "description": c.Description}
	for i, arg := range c.Command {
		texts["command["+itoa(i)+"]"] = arg
	}
	for k, v := range c.Env {
		texts["env."+k] = v
	}
	for field, text := range texts {
		if string(s.redactor.Redact([]byte(text))) != text {
			return c, bad(field, "looks like a credential; put it in a secret and name that (secret://name in env)")
		}
	}
	return c, nil
}

// Delete removes a connection and what is known of its tools. Needs a reason.
func (s *Service) Delete(ctx context.Context, by audit.Actor, reason, name string) error {
	return s.change(ctx, func(tx *audit.Tx) error {
		found, err := s.DeleteTx(ctx, tx, by, reason, name)
		if err == nil && !found {
			return ErrNotFound.Say("there is no connection %q", clip(name))
		}
		return err
	})
}

// DeleteTx is Delete inside a change; it reports whether there was anything to
// delete.
func (s *Service) DeleteTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, name string) (bool, error) {
	c, found, err := connectionRow(ctx, tx, name)
	if err != nil || !found {
		return false, err
	}
	if err := checkReason(reason, true); err != nil {
		return false, err
	}
	for _, fn := range s.before {
		if err := fn(ctx, tx, by, reason, "connection/"+name); err != nil {
			return false, err
		}
	}
	for _, q := range []string{`DELETE FROM tools WHERE connection = $1`, `DELETE FROM connections WHERE name = $1`} {
		if _, err := tx.Exec(ctx, q, name); err != nil {
			return false, err
		}
	}
	return true, record(ctx, tx, connectionEvent("connection.deleted", by, reason, c, map[string]any{"id": c.ID}))
}

func connectionEvent(t audit.Type, by audit.Actor, reason string, c Connection, detail any) audit.Event {
	return audit.Event{Type: t, Actor: by, Reason: reason, Object: "connection/" + c.Name, Connection: c.Name, Owner: c.Owner, Detail: object(detail)}
}

func toolEvent(t audit.Type, by audit.Actor, reason string, tool Tool, detail any) audit.Event {
	return audit.Event{Type: t, Actor: by, Reason: reason, Object: toolObject(tool.Connection, tool.Name), Connection: tool.Connection,
		Tool: tool.Name, Effect: tool.Effect, Digest: tool.Digest, Detail: object(detail)}
}

func toolObject(connection, tool string) string { return "tool/" + connection + "/" + tool }

func object(v any) jsontext.Value {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil || string(b) == "null" {
		return nil
	}
	return b
}

// changes returns what differs, as field -> [old, new].
func changes(old, c Connection) map[string][2]any {
	d := map[string][2]any{}
	add := func(field string, differs bool, a, b any) {
		if differs {
			d[field] = [2]any{a, b}
		}
	}
	add("dialect", old.Dialect != c.Dialect, old.Dialect, c.Dialect)
	add("kind", old.Kind != c.Kind, old.Kind, c.Kind)
	add("url", old.URL != c.URL, old.URL, c.URL)
	add("command", !slices.Equal(old.Command, c.Command), old.Command, c.Command)
	add("env", string(object(old.Env)) != string(object(c.Env)), old.Env, c.Env)
	add("owner", old.Owner != c.Owner, old.Owner, c.Owner)
	add("secret", old.Secret != c.Secret, old.Secret, c.Secret)
	add("auth", old.Auth != c.Auth, old.Auth, c.Auth)
	add("description", old.Description != c.Description, old.Description, c.Description)
	add("allow_private", old.AllowPrivate != c.AllowPrivate, old.AllowPrivate, c.AllowPrivate)
	add("capture", old.Capture != c.Capture, old.Capture, c.Capture)
	add("inspect", string(object(old.Inspect)) != string(object(c.Inspect)), old.Inspect, c.Inspect)
	add("stages", !slices.Equal(old.Stages, c.Stages), old.Stages, c.Stages)
	add("proposal", old.Proposal != c.Proposal, old.Proposal, c.Proposal)
	add("retrieval", !reflect.DeepEqual(old.Retrieval, c.Retrieval), old.Retrieval, c.Retrieval)
	add("timeout", old.Timeout != c.Timeout, old.Timeout.String(), c.Timeout.String())
	return d
}
