package approvals

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"encoding/json/v2"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/storage"
)

// version is the name under which changes of this room are announced.
const version = "approvals"

// Options of a Service. Identity, Findings, Derive and Redactor are required.
type Options struct {
	Identity *identity.Service
	Findings *findings.Service
	// Derive returns 32 secret bytes for a label, the same on every replica and
	// after every restart.
	Derive   func(label string) []byte
	Redactor audit.Redactor // applied to what people write
	// Stale says why a binding is not current any more (its tool's definition,
	// its connection or the policies changed), "" if it is. Nil: always current.
	Stale func(Binding) string
	// Template returns the sentence that says a tool's call in plain words,
	// if there is none. Nil: there is none for any.
	Template func(connection, tool string) string
	// Undone returns what undoes a tool's call, in plain words; empty, as without
	// it, if nobody declared that anything does.
	Undone func(connection, tool string) string
	// Policy returns the text of a policy by its id, "" if it is not in force any
	// more. Nil: none is shown.
	Policy func(id string) string
	// Tell has news told in channels, inside the change that makes them. Nil: none is.
	Tell func(ctx context.Context, tx *audit.Tx, n News) error
	// Passkeys knows people's passkeys. Nil: nobody has one, and what demands one
	// cannot be approved.
	Passkeys Passkeys
	URL      string // where people reach this server, without a trailing slash
	Now      func() time.Time
	Logger   *slog.Logger
	// MaxPending is how many requests of one agent may wait for people; 0 means 100.
	MaxPending int
	// Orphaned is how long a call may have ended without the replica that made
	// it saying so, before another one settles its request; 0 means 10 s.
	Orphaned time.Duration
}

// Service is the room's verbs. It is safe for concurrent use.
type Service struct {
	db       *storage.DB
	log      *audit.Log
	watch    *storage.Watcher
	identity *identity.Service
	findings *findings.Service
	o        Options
	aead     cipher.AEAD
	sign     ed25519.PrivateKey
	holder   string
	hub      *hub
	repeats  *repeats
	dirty    atomic.Bool // something that requests are bound to may have changed
	execute  func(context.Context, Request, Wire) error
	ready    chan struct{} // something may be ready to be executed

	liveMu  sync.Mutex
	live    map[string]*Permit // what this process executes
	running map[string]bool    // what its executor is about

	cancel context.CancelFunc
	done   sync.WaitGroup
}

// New returns a Service and registers with watch.
func New(db *storage.DB, log *audit.Log, watch *storage.Watcher, o Options) (*Service, error) {
	if o.Identity == nil || o.Findings == nil || o.Derive == nil || o.Redactor == nil {
		return nil, errors.New("approvals: Identity, Findings, Derive and Redactor are required")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MaxPending == 0 {
		o.MaxPending = 100
	}
	if o.Orphaned == 0 {
		o.Orphaned = 10 * time.Second
	}
	block, err := aes.NewCipher(o.Derive("approvals/payload/v1"))
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	s := &Service{
		db: db, log: log, watch: watch, identity: o.Identity, findings: o.Findings, o: o, aead: aead, sign: ed25519.NewKeyFromSeed(o.Derive("approvals/decision/v1")),
		holder: job.Holder(""), hub: newHub(), repeats: newRepeats(), ready: make(chan struct{}, 1), live: map[string]*Permit{}, running: map[string]bool{},
	}
	watch.On(version, s.changed)
	for _, name := range []string{"policy", "connections"} {
		watch.On(name, func(context.Context) error { s.dirty.Store(true); return nil })
	}
	return s, nil
}

// Wire is a held call's request, kept sealed so that the server can make it
// when it is approved. It holds no credential.
type Wire struct {
	Front  string              `json:"front"`
	Method string              `json:"method"`
	Path   string              `json:"path"` // as the front serves it, query included
	Header map[string][]string `json:"header"`
	Body   []byte              `json:"body"`
}

// Kept is the answer to an executed call, kept sealed for an identical call.
type Kept struct {
	Status int                 `json:"status"`
	Header map[string][]string `json:"header"`
	Body   []byte              `json:"body"`
	Call   string              `json:"call"`
}

// KeepMost is the largest answer that is kept, in bytes.
const KeepMost = 1 << 20

func (s *Service) seal(id, what string, v any) ([]byte, error) {
	plain, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return s.aead.Seal(nil, nil, plain, []byte("countersign approval\x00"+what+"\x00"+id)), nil
}

func (s *Service) unseal(id, what string, sealed []byte, into any) error {
	plain, err := s.aead.Open(nil, nil, sealed, []byte("countersign approval\x00"+what+"\x00"+id))
	if err != nil {
		return ErrStored.With(err)
	}
	if err := json.Unmarshal(plain, into); err != nil {
		return ErrStored.With(err)
	}
	return nil
}

// change commits what fn does with its events and wakes who waits for r. A
// lost race is ErrRaced.
func (s *Service) change(ctx context.Context, id string, fn func(tx *audit.Tx) error) error {
	err := s.log.Change(ctx, func(tx *audit.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		return s.tell(ctx, tx, id)
	})
	if err == nil {
		s.hub.wake(id)
	}
	return err
}

// Get returns a request with its decisions.
func (s *Service) Get(ctx context.Context, id string) (Request, error) { return get(ctx, s.db, id) }

// Query selects requests; zero fields select all.
type Query struct {
	State  State
	Agent  string
	Before string // older than this request, for paging
	Limit  int    // 0 means 100; at most 1000
}

// List returns requests, newest first, without their decisions.
func (s *Service) List(ctx context.Context, q Query) ([]Request, error) {
	if q.Limit <= 0 {
		q.Limit = 100
	}
	return read(ctx, s.db, ` WHERE ($1 = '' OR state = $1) AND ($2 = '' OR agent = $2) AND ($3 = '' OR id < $3) ORDER BY id DESC LIMIT $4`,
		string(q.State), q.Agent, q.Before, min(q.Limit, 1000))
}

// Link returns where a person reads about a request and decides: its page.
func (s *Service) Link(id string) string { return s.o.URL + "/approvals/" + id }
