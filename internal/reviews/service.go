package reviews

import (
	"context"
	"encoding/json/v2"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/tokens"
)

// The rules of this room's findings.
const (
	RuleNobody = "review.nobody"     // nobody is left who could decide
	RuleFailed = "review.not_held"   // what was revoked still works
	RuleStuck  = "review.not_tried"  // a revoke could not be executed or tried
	RuleLate   = "review.overdue"    // its time is over and something is open
	RuleUsed   = "review.used_since" // it was used between decision and revocation
)

// Use is what is known of the use of a grant.
type Use struct {
	Watched time.Time `json:"watched,omitzero" doc:"since when uses are seen; absent: they are not"`
	Last    time.Time `json:"last,omitzero" doc:"the last allowed call; absent: none was seen"`
}

// Doors is the server's front as a probe meets it.
type Doors interface {
	// Ask makes a call of a tool with a credential, over the network, as the agent
	// would, and returns the status of the answer. What came of it is in the log.
	Ask(ctx context.Context, connection, tool, credential string) (status int, err error)
	// Present shows a token of another issuer at the token service, as the agent's
	// own proof or, with a credential of the agent's, as that of a person for whom it
	// acts, and returns the status.
	Present(ctx context.Context, token, agent, credential string) (status int, err error)
}

// Notice is what people are told, wherever they are.
type Notice struct {
	Text   string // one line
	People []Person
}

// Options of a Service. All are required unless they say otherwise.
type Options struct {
	DB          *storage.DB
	Log         *audit.Log
	Watch       *storage.Watcher
	Identity    *identity.Service
	Policy      *policy.Service
	Connections *connections.Service
	Secrets     *secrets.Service
	Tokens      *tokens.Service
	Locks       *locks.Service
	Findings    *findings.Service
	Approvals   *approvals.Service
	Doors       Doors

	// Uses returns the use of grants, by name. Nil: they are not watched.
	Uses func(ctx context.Context) (map[string]Use, error)
	// Rotate replaces the value of a secret that has a rotator. Nil: none is.
	Rotate func(ctx context.Context, by audit.Actor, reason, secret string) error
	// Prove returns the proof file of an event. Nil: nothing can be exported.
	Prove func(ctx context.Context, event string) ([]byte, error)
	// Tell has channels tell people something, inside the change that it is about.
	// Nil: nobody is told.
	Tell func(ctx context.Context, tx *audit.Tx, n Notice) error

	Now    func() time.Time // time.Now if nil
	Logger *slog.Logger     // discards if nil
}

// Service is the room's verbs. It is safe for concurrent use.
type Service struct {
	o Options

	step   func(string) error // tests die here
	dirty  atomic.Bool        // grants or tools may have changed
	looked time.Time          // at standing rights, by the clock alone
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// New returns a stopped Service.
func New(o Options) (*Service, error) {
	if o.DB == nil || o.Log == nil || o.Watch == nil || o.Identity == nil || o.Policy == nil || o.Connections == nil || o.Secrets == nil || o.Tokens == nil || o.Locks == nil ||
		o.Findings == nil || o.Approvals == nil || o.Doors == nil {
		return nil, errors.New("reviews: an option is missing")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Service{o: o, step: func(string) error { return nil }}
	o.Policy.Guard(s.CheckGrantTx)
	o.Policy.Meant(s.meant)
	o.Identity.OnStage(s.CheckAgentTx)
	for _, room := range []string{"policy", "connections"} {
		o.Watch.On(room, func(context.Context) error { s.dirty.Store(true); return nil })
	}
	return s, nil
}

// now is the time as the store keeps it, so that what is written equals what is read.
func (s *Service) now() time.Time { return s.o.Now().UTC().Truncate(time.Microsecond) }

// change commits what fn does with its events, and sees to it that this replica
// knows.
func (s *Service) change(ctx context.Context, fn func(tx *audit.Tx) error) error {
	if err := s.o.Log.Change(ctx, fn); err != nil {
		return err
	}
	if err := s.o.Watch.Poll(ctx); err != nil {
		s.o.Logger.Warn("a review changed something, but the views could not be reloaded", "error", err)
	}
	return nil
}

func (s *Service) tell(ctx context.Context, tx *audit.Tx, text string, people []Person) error {
	if s.o.Tell == nil || len(people) == 0 {
		return nil
	}
	return s.o.Tell(ctx, tx, Notice{Text: text, People: people})
}

func object(r *Review) string { return "review/" + r.ID }

// event returns an event about a review.
func (r *Review) event(t audit.Type, by audit.Actor, reason string, detail map[string]any) audit.Event {
	detail["review"] = r.Name
	return audit.Event{Type: t, Actor: by, Reason: reason, Object: object(r), Detail: marshal(detail)}
}

// itemEvent returns an event about an item of a review, which it joins.
func (r *Review) itemEvent(it *Item, id string, t audit.Type, by audit.Actor, reason string, detail map[string]any) audit.Event {
	detail["item"], detail["n"], detail["about"], detail["about_id"], detail["about_digest"] = it.ID, it.N, it.Subject.Object(), it.Subject.ID, it.Subject.Digest
	ev := r.event(t, by, reason, detail)
	ev.ID, ev.Agent, ev.Connection, ev.Owner = id, it.Subject.Agent, it.Subject.Connection, it.Subject.Owner
	it.Events = append(it.Events, id)
	return ev
}

// marshal is for plain values, which always marshal.
func marshal(v any) []byte {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return []byte(`null`)
	}
	return b
}
