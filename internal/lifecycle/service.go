package lifecycle

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/json/v2"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/storage"
)

// version is the name under which changes of this room are announced.
const version = "lifecycle"

// The rules of this room's findings.
const (
	RuleOwnerLeft  = "agent.owner_left"
	RuleBackupLeft = "agent.backup_left"
	RuleOwnerMoved = "agent.owner_moved"
	RuleIdle       = "agent.idle"
	RuleProbe      = "agent.probe"
)

// Part is what a decommission ends in one room. End runs inside the
// transaction and returns how many of what it ended; After runs when that has
// committed, and may be nil.
type Part struct {
	Name  string
	End   func(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, a identity.Agent) (map[string]int, error)
	After func()
}

// Doors are the server's doors as a probe meets them.
type Doors interface {
	// Of lists the paths at which an agent may do something, such as /mcp/ledger.
	Of(a identity.Agent) []string
	// Token exchanges a key for an access token that is good at the paths.
	Token(ctx context.Context, key string, paths []string) (string, error)
	// Try presents a credential at a path, over the network, as the agent would,
	// without asking for anything, and returns the status of the answer. refused
	// says that the answer is the refusal of a credential.
	Try(ctx context.Context, path, credential string) (status int, refused bool, err error)
}

// Options of a Service; all but the durations, Now and Logger are required.
// Production and Grace are for how long the backup answers for agents of a user
// who left; IdleAfter is after how long without a call an agent is suspended
// (never if not positive), WarnBefore how long before a finding says so.
type Options struct {
	DB       *storage.DB
	Log      *audit.Log
	Watch    *storage.Watcher
	Identity *identity.Service
	Locks    *locks.Service
	Findings *findings.Service
	Derive   func(label string) []byte
	Doors    Doors
	Parts    []Part

	Production, Grace     time.Duration
	IdleAfter, WarnBefore time.Duration
	Now                   func() time.Time
	Logger                *slog.Logger
}

// Service is the room's verbs and its view of who answers meanwhile. It is
// identity's Follower.
type Service struct {
	o    Options
	aead cipher.AEAD
	view atomic.Pointer[map[string]time.Time] // agents for whom the backup answers, and until when

	step   func(string) error // tests die here
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// New returns a stopped Service that follows Options.Identity.
func New(o Options) (*Service, error) {
	if o.DB == nil || o.Log == nil || o.Watch == nil || o.Identity == nil || o.Locks == nil || o.Findings == nil || o.Derive == nil || o.Doors == nil {
		return nil, errors.New("lifecycle: an option is missing")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	block, err := aes.NewCipher(o.Derive("lifecycle/probes/v1"))
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	s := &Service{o: o, aead: aead, step: func(string) error { return nil }}
	s.view.Store(&map[string]time.Time{})
	// A backup acts from the moment that the owner is seen to be gone, not from
	// one after it: in between the agent's calls would be refused and cut.
	o.Watch.Ahead(version, s.reload)
	o.Identity.Follow(s)
	return s, nil
}

func (s *Service) reload(ctx context.Context) error {
	found, err := readDepartures(ctx, s.o.DB, ` WHERE suspended = 0`)
	if err != nil {
		return err
	}
	next := make(map[string]time.Time, len(found))
	for _, d := range found {
		next[d.Agent] = d.Deadline
	}
	s.view.Store(&next)
	return nil
}

// Acting implements identity.Follower.
func (s *Service) Acting(agent string, now time.Time) bool {
	until, ok := (*s.view.Load())[agent]
	return ok && now.Before(until)
}

// change commits what fn does with its events; the views follow.
func (s *Service) change(ctx context.Context, fn func(tx *audit.Tx) error) error {
	switch err := s.o.Log.Change(ctx, fn); {
	case err == nil:
	case storage.Duplicate(err):
		return ErrGone.With(err)
	default:
		return err
	}
	if err := s.o.Watch.Poll(ctx); err != nil {
		// The change stands; the watcher refuses calls until it can look again.
		s.o.Logger.Warn("agents changed, but the view could not be reloaded", "error", err)
	}
	return nil
}

func bump(ctx context.Context, tx *audit.Tx) error { return storage.Bump(ctx, tx.Tx, version) }

func object(agent string) string { return "agent/" + agent }

// event returns an event about an agent.
func event(t audit.Type, by audit.Actor, reason string, a identity.Agent, detail map[string]any) audit.Event {
	b, err := json.Marshal(detail, json.Deterministic(true))
	if err != nil {
		b = nil // cannot be: plain values
	}
	return audit.Event{Type: t, Actor: by, Object: object(a.Name), Reason: reason, Detail: b, Agent: a.Name, Owner: a.Owner, Team: a.Team, Stage: a.Stage}
}

// checkReason wants 1 to 1000 characters that cannot paint over a terminal.
func checkReason(reason string) error {
	if strings.TrimSpace(reason) == "" || utf8.RuneCountInString(reason) > 1000 || !utf8.ValidString(reason) {
		return ErrReason
	}
	for _, r := range reason {
		if r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)) {
			return ErrReason.Say("a reason must not hold control characters")
		}
	}
	return nil
}
