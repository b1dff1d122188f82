package tokens

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/storage"
)

// Version is the name under which changes of this room are announced.
const Version = "tokens"

// The life of what is issued.
const (
	Life        = 10 * time.Minute // of an access token; one that is exchanged ends no later than what it came from
	SessionLife = 12 * time.Hour   // of a person's consent: refresh tokens end with it
	RunUsual    = time.Hour        // of a run begun with a proof, unless the rule says else
	RunMost     = identity.RunMost
	MaxChain    = 5           // principals: a user and four agents, or five agents
	skew        = time.Minute // that clocks may differ by
)

// Fetcher gets a document from outside; remote.Client is one.
type Fetcher interface {
	Fetch(ctx context.Context, url string, f Fetch) ([]byte, error)
}

// Fetch bounds a fetch.
type Fetch struct {
	Private bool   // loopback and private addresses are allowed; metadata services never are
	CA      []byte // PEM certificates to trust instead of the system's
}

// Door is a connection that an agent may use something of.
type Door struct {
	Name    string `json:"name"`
	Kind    string `json:"kind"`
	Dialect string `json:"dialect,omitempty"`
}

// Options of a Service. Derive and Fetcher are required.
type Options struct {
	Derive  func(label string) []byte // 32 secret bytes for a label, the same on every replica
	Fetcher Fetcher
	// Doors lists what an agent may use, for programs started with a proof
	// instead of a person's token. Nil lists nothing.
	Doors          func(who identity.Caller) []Door
	Registration   bool // RFC 7591: any client may register itself
	PrivateClients bool // client metadata documents may have private addresses
	ClientCA       []byte
	Now            func() time.Time
	Logger         *slog.Logger
}

// Service is the room's verbs and its view of the store.
type Service struct {
	db       *storage.DB
	log      *audit.Log
	watch    *storage.Watcher
	identity *identity.Service
	o        Options
	now      func() time.Time
	logger   *slog.Logger

	issuer   atomic.Pointer[string]
	view     atomic.Pointer[view]
	verified verified
	jwks     *keySources
	clients  *documents
	refused  refusals
	cancel   context.CancelFunc
	done     chan struct{}
}

// New returns a Service and registers its view with watch. SetIssuer must be
// called before anything is issued or checked.
func New(db *storage.DB, log *audit.Log, watch *storage.Watcher, who *identity.Service, o Options) (*Service, error) {
	if o.Derive == nil || o.Fetcher == nil {
		return nil, errors.New("tokens: Options.Derive and Fetcher are required")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Service{db: db, log: log, watch: watch, identity: who, o: o, now: o.Now, logger: o.Logger}
	s.jwks = newKeySources(o.Fetcher, o.Now)
	s.clients = newDocuments()
	s.refused.limit = rate.NewLimiter(1, 30)
	s.view.Store(&view{})
	watch.On(Version, s.reload)
	who.SetVerifier(s)
	who.OnDelete(s.BeforeDelete)
	who.OnTokenEnd(s.endUserTokens)
	return s, nil
}

// SetIssuer says the URL at which clients reach this server: the issuer of its
// tokens, and the beginning of every resource. It has no path.
func (s *Service) SetIssuer(base string) error {
	base = strings.TrimRight(base, "/")
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || (u.Scheme != "http" && u.Scheme != "https") {
		return ErrInvalid.Say("url: %q is no http(s) URL of a server", base)
	}
	s.issuer.Store(&base)
	return nil
}

// Issuer returns what SetIssuer was given, empty before.
func (s *Service) Issuer() string {
	if p := s.issuer.Load(); p != nil {
		return *p
	}
	return ""
}

// change commits what fn does together with its events and brings the view up
// to date. A unique value that exists already means a lost race.
func (s *Service) change(ctx context.Context, fn func(tx *audit.Tx) error) error {
	err := s.log.Change(ctx, fn)
	switch {
	case err == nil:
	case storage.Duplicate(err):
		return ErrConflict.With(err)
	case storage.Referenced(err):
		return ErrConflict.Say("something that this names was deleted in the meantime; look again").With(err)
	default:
		return err
	}
	return nil
}

// announced is change for what replicas keep in memory.
func (s *Service) announced(ctx context.Context, fn func(tx *audit.Tx) error) error {
	err := s.change(ctx, func(tx *audit.Tx) error {
		before := tx.Writes()
		if err := fn(tx); err != nil || tx.Writes() == before {
			return err
		}
		return storage.Bump(ctx, tx.Tx, Version)
	})
	if err != nil {
		return err
	}
	if err := s.watch.Poll(ctx); err != nil {
		// The change stands; the watcher refuses calls until it can look again.
		s.logger.Warn("tokens changed, but the view could not be reloaded", "error", err)
	}
	return nil
}

func answersFor(c rest.Caller, a identity.Agent) bool {
	return c.Name != "" && (c.Name == a.Owner || c.Name == a.Backup)
}

// mayManage refuses whoever does not answer for an agent and may not change
// things in general.
func (s *Service) mayManage(c rest.Caller, a identity.Agent) error {
	if c.May(rest.Write) || c.May(rest.Own) && answersFor(c, a) {
		return nil
	}
	return ErrNotOwner
}

func (s *Service) agent(name string) (identity.Agent, error) {
	a, ok := s.identity.Agent(name)
	if !ok {
		return a, ErrNotFound.Say("there is no agent %q", name)
	}
	return a, nil
}
