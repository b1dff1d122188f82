package posture

import (
	"context"
	"encoding/json/v2"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/inventory"
	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/lifecycle"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/tokens"
)

// The events of this room.
const (
	Evaluated audit.Type = "posture.evaluated" // a run; its detail has the digest of every result
	Expired   audit.Type = "posture.expired"   // results were deleted that were older than they are kept
	Tried     audit.Type = "posture.tried"     // a secret that was made up was recorded, to see what is kept of it
)

// The prefixes of identifiers.
const (
	runID      id.Kind = "prn"
	evidenceID id.Kind = "evd"
)

// Errors of this package.
var (
	ErrNotFound = fault.New(fault.NotFound, "not_found", "there is no such evidence; countersign posture list shows what there is")
	ErrUnknown  = fault.New(fault.Invalid, "unknown_requirement", "this names no predicate (E1 to E12), no framework and no requirement; countersign posture list shows them")
	ErrBusy     = fault.New(fault.Conflict, "posture_running", "another run is under way; try again when it has ended")
	ErrReason   = fault.New(fault.Invalid, "reason_too_long", "a reason has at most 1000 characters")
)

// Pinned is what a release pins of an agent's prompts, and what runs.
type Pinned struct {
	Agent, Approved, Running string
	Bad                      string // what is wrong, if it is not that they differ
	Events                   []string
}

// Options of a Service. All are required unless they say otherwise.
type Options struct {
	DB          *storage.DB
	Log         *audit.Log
	Identity    *identity.Service
	Connections *connections.Service
	Tools       policy.Tools // what policies are about, for compiling the saved ones
	Policy      *policy.Service
	Secrets     *secrets.Service
	Tokens      *tokens.Service
	Locks       *locks.Service
	Approvals   *approvals.Service
	Inventory   *inventory.Service
	Findings    *findings.Service
	Lifecycle   *lifecycle.Service
	Doors       Doors

	// Sealed says how the tree over the log goes, Deliveries where the log is sent,
	// and Prove returns the proof file of an event.
	Sealed     func(ctx context.Context) (Sealing, error)
	Deliveries func(ctx context.Context) ([]Delivery, error)
	Prove      func(ctx context.Context, event string) ([]byte, error)
	// Derive returns 32 secret bytes for a label, the same on every replica and
	// after every restart: bundles are signed with it.
	Derive func(label string) []byte
	// Known returns the names of the secrets whose values are in a text, and Plant
	// makes a value known under a name, or the name forgotten if it is nil.
	Known func(text []byte) []string
	Plant func(name string, value []byte)

	// Releases says what is pinned of the agents that ask models, Reviews when grants were reviewed and
	// which duties of agents conflict (nil: none are declared). Nil: there is no such
	// room, and what needs it has no data.
	Releases func(ctx context.Context) ([]Pinned, error)
	Reviews  func(ctx context.Context) (at map[string]time.Time, conflicts map[string][]string, err error)

	Version   string           // of the product
	SecretAge time.Duration    // after which a secret's value must be replaced; 0 means 90 days
	Keep      time.Duration    // how long results are kept; 0 means 400 days
	Every     time.Duration    // how often the clock looks what is due; 0 means 10 minutes, negative never
	Now       func() time.Time // time.Now if nil
	Logger    *slog.Logger     // discards if nil
}

// Service computes and keeps evidence. It is safe for concurrent use.
type Service struct {
	o     Options
	lease *job.Lease
	busy  sync.Mutex

	blind   map[string]bool // a test's: checks that see nothing wrong any more
	life    context.Context // ends with Stop
	end     context.CancelFunc
	started bool
	done    sync.WaitGroup
}

// leaseTTL is longer than a predicate takes.
const leaseTTL = 5 * time.Minute

// New returns a stopped Service.
func New(o Options) (*Service, error) {
	if o.DB == nil || o.Log == nil || o.Identity == nil || o.Connections == nil || o.Tools == nil || o.Policy == nil || o.Secrets == nil || o.Tokens == nil || o.Locks == nil ||
		o.Approvals == nil || o.Inventory == nil || o.Findings == nil || o.Lifecycle == nil || o.Doors == nil || o.Sealed == nil || o.Deliveries == nil || o.Prove == nil || o.Derive == nil || o.Known == nil || o.Plant == nil {
		return nil, errors.New("posture: an option is missing")
	}
	if o.SecretAge == 0 {
		o.SecretAge = 90 * day
	}
	if o.Keep == 0 {
		o.Keep = mostDays * day
	}
	if o.Every == 0 {
		o.Every = 10 * time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Service{o: o, lease: job.NewLease(o.DB, "posture", leaseTTL)}
	s.life, s.end = context.WithCancel(context.Background())
	return s, nil
}

// Run is one computation of evidence.
type Run struct {
	ID       string     `json:"id"`
	By       string     `json:"by"`
	Reason   string     `json:"reason,omitempty"`
	Started  time.Time  `json:"started"`
	Ended    time.Time  `json:"ended"`
	Event    string     `json:"event" doc:"of the log, with the digest of every result"`
	Evidence []Evidence `json:"evidence"`
}

// pass is what the predicates of one run share.
type pass struct {
	s     *Service
	ctx   context.Context
	now   time.Time
	blind map[string]bool
	seen  *traffic
	guest *guest
	late  string // an expired key
}

func (p *pass) evaluate(run string, pred Predicate) (Evidence, error) {
	e := Evidence{ID: id.New(evidenceID), Run: run, Predicate: pred.ID, Version: pred.Version, Name: pred.Name, Kind: pred.Kind, Limits: pred.Limits}
	e.Checks = pred.run(p)
	if err := p.ctx.Err(); err != nil {
		return e, err
	}
	e.combine()
	e.Collected = p.s.o.Now().UTC().Truncate(time.Microsecond)
	e.Expires, e.Since = e.Collected.Add(pred.good), p.now.Add(-window).UTC().Truncate(time.Microsecond)
	if p.seen != nil {
		e.Since = p.seen.since.UTC().Truncate(time.Microsecond)
	}
	head, err := p.s.o.Log.Head(p.ctx)
	for _, lane := range slices.Sorted(maps.Keys(head)) {
		e.Log = append(e.Log, Span{Lane: lane, To: head[lane]})
	}
	return e, err
}

// outcome is what the event of a run says of a predicate.
type outcome struct {
	Predicate string `json:"predicate"`
	Version   int    `json:"version"`
	Result    Result `json:"result"`
	Evidence  string `json:"evidence"`
	Digest    string `json:"digest"`
}

// keep stores a run with its event, and makes findings of what failed.
func (s *Service) keep(ctx context.Context, by audit.Actor, r Run) (Run, error) {
	var results []outcome
	for _, e := range r.Evidence {
		digest, err := e.Digest()
		if err != nil {
			return r, err
		}
		results = append(results, outcome{e.Predicate, e.Version, e.Result, e.ID, digest})
	}
	detail, err := json.Marshal(map[string]any{"run": r.ID, "results": results}, json.Deterministic(true))
	if err != nil {
		return r, err
	}
	r.Event = id.At(id.Event, r.Ended)
	err = s.o.Log.Change(ctx, func(tx *audit.Tx) error {
		if err := s.lease.Check(ctx, tx.Tx); err != nil {
			return err
		}
		tx.Record(audit.Event{ID: r.Event, Type: Evaluated, Actor: by, Reason: r.Reason, Object: "posture/" + r.ID, Detail: detail})
		for i, e := range r.Evidence {
			if err := s.finding(ctx, tx, e); err != nil {
				return err
			}
			if err := insert(ctx, tx, r, e, results[i].Digest); err != nil {
				return err
			}
		}
		return insertRun(ctx, tx, r)
	})
	return r, err
}

// finding opens a finding about a predicate that failed, and closes it when it
// passes again.
func (s *Service) finding(ctx context.Context, tx *audit.Tx, e Evidence) error {
	object := "posture/" + e.Predicate
	switch e.Result {
	case Fail:
		var first []string
		for _, c := range e.Checks {
			for _, v := range c.Violations {
				if len(first) < 3 {
					first = append(first, v.Object+": "+v.Message)
				}
			}
		}
		return s.o.Findings.OpenTx(ctx, tx, findings.Finding{Rule: "posture.failed", Severity: findings.Medium, Object: object, Title: e.Predicate + " fails: " + e.Name,
			Detail: cut(strings.Join(first, "; "), 900) + ". countersign posture show " + e.Predicate + " lists them all."})
	case Pass:
		return s.o.Findings.CloseObjectTx(ctx, tx, audit.System, object, "it passes again", "posture.failed")
	}
	return nil
}
