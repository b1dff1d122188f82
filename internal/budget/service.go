package budget

import (
	"context"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
)

// Version is the name under which changes of budgets and prices are announced.
const Version = "budgets"

// Options of a Service.
type Options struct {
	// Known says whether an agent, a team, a tool (CONNECTION/TOOL) or a
	// connection is there: a typo must not look like a limit. Nil knows everything.
	Known func(ctx context.Context, kind, name string) (bool, error)
	// Findings is told of limits that are reached. Required.
	Findings *findings.Service
	// Now is the time by which periods begin and reservations age; the database's
	// clock if nil, which is the same for all replicas.
	Now    func() time.Time
	Logger *slog.Logger // discards if nil

	// Valid is how long after it was asked for a reservation holds without the
	// call's intent in the log: its call does not go out later. 0 means 20 seconds.
	Valid time.Duration
	// Look is how old a reservation must be before it is looked up what became of
	// its call. 0 means 10 seconds.
	Look time.Duration
	// Sweep is how often that is. 0 means 5 seconds.
	Sweep time.Duration
}

// Service is the room's verbs, its view of budgets and prices, and the desk at
// which calls reserve and settle. It is safe for concurrent use.
type Service struct {
	db    *storage.DB
	log   *audit.Log
	watch *storage.Watcher
	o     Options

	view   atomic.Pointer[index]
	prices atomic.Pointer[Prices]

	desk    chan *ask
	settles chan *settlement
	quit    chan struct{}
	closing sync.Once
	work    sync.WaitGroup // the desk's two clerks
	notices sync.WaitGroup
	told    sync.Map  // notices of this process that were given
	tight   time.Time // when something last did not fit; the first clerk's alone

	cancel context.CancelFunc
	swept  sync.WaitGroup
}

// New returns a Service whose desk is open, and registers its view with watch.
// Until watch has polled, every call is refused. Close closes the desk.
func New(db *storage.DB, log *audit.Log, watch *storage.Watcher, o Options) (*Service, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	for d, standard := range map[*time.Duration]time.Duration{&o.Valid: 20 * time.Second, &o.Look: 10 * time.Second, &o.Sweep: 5 * time.Second} {
		if *d == 0 {
			*d = standard
		}
	}
	p, err := newPrices(nil)
	if err != nil {
		return nil, err
	}
	s := &Service{db: db, log: log, watch: watch, o: o, desk: make(chan *ask, queue), settles: make(chan *settlement, queue), quit: make(chan struct{})}
	s.prices.Store(p)
	s.view.Store(newIndex(nil))
	watch.On(Version, s.reload)
	s.work.Add(2)
	go s.reserving()
	go s.settling()
	return s, nil
}

func (s *Service) reload(ctx context.Context) error {
	all, err := readBudgets(ctx, s.db, ` ORDER BY name`)
	if err != nil {
		return err
	}
	own, err := readPrices(ctx, s.db)
	if err != nil {
		return err
	}
	p, err := newPrices(own)
	if err != nil {
		return err
	}
	s.prices.Store(p)
	s.view.Store(newIndex(all))
	return nil
}

// Prices returns what models cost, as this replica sees it.
func (s *Service) Prices() *Prices { return s.prices.Load() }

// Budgets lists them by name, as this replica sees them.
func (s *Service) Budgets() []Budget { return s.view.Load().all }

// change commits what fn does with its events and brings the view up to date.
func (s *Service) change(ctx context.Context, fn func(tx *audit.Tx) error) error {
	if err := s.log.Change(ctx, fn); err != nil {
		return err
	}
	if err := s.watch.Poll(ctx); err != nil {
		// The change stands; the watcher refuses calls until it can look again.
		s.o.Logger.Warn("budgets changed, but the view could not be reloaded", "error", err)
	}
	return nil
}

// Put sets a budget. One that counts something else than before begins at
// nothing; if only its limits change, what was used stays used. Needs a reason.
func (s *Service) Put(ctx context.Context, by audit.Actor, reason string, b Budget) (Budget, error) {
	if err := checkReason(reason); err != nil {
		return b, err
	}
	err := s.change(ctx, func(tx *audit.Tx) error {
		_, err := s.PutTx(ctx, tx, by, reason, b)
		return err
	})
	if err != nil {
		return b, err
	}
	return s.Get(ctx, b.Name)
}

// PutTx is Put inside a change, and reports whether anything changed; whoever
// commits it polls the watcher.
func (s *Service) PutTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, b Budget) (bool, error) {
	b, err := b.Normalize()
	if err != nil {
		return false, err
	}
	if err := s.known(ctx, b); err != nil {
		return false, err
	}
	now, err := s.clock(ctx, tx.Tx)
	if err != nil {
		return false, err
	}
	found, err := readBudgets(ctx, tx, ` WHERE name = $1`, b.Name)
	if err != nil {
		return false, err
	}
	b.ID, b.Reason, b.By, b.Created, b.Updated = id.New(ID), reason, by.Name, now, now
	kind := audit.Type("budget.created")
	if len(found) > 0 {
		old := found[0]
		if old.same(b) && old.Hard == b.Hard && old.Soft == b.Soft {
			return false, nil
		}
		kind, b.Created = "budget.updated", old.Created
		if old.same(b) {
			b.ID = old.ID
		}
		if err := deleteBudget(ctx, tx, old, old.ID != b.ID); err != nil {
			return false, err
		}
	}
	if err := insertBudget(ctx, tx, b); err != nil {
		return false, err
	}
	tx.Record(audit.Event{Type: kind, Actor: by, Object: "budget/" + b.Name, Agent: b.Agent, Reason: reason, Detail: detail(map[string]any{
		"budget": b.ID, "meter": b.Meter, "agent": b.Agent, "team": b.Team, "tool": b.Tool, "each": b.Each, "period": b.Period, "zone": b.Zone, "hard": b.Hard, "soft": b.Soft,
	})})
	return true, storage.Bump(ctx, tx.Tx, Version)
}

func (s *Service) known(ctx context.Context, b Budget) error {
	if s.o.Known == nil {
		return nil
	}
	tool, kind := b.Tool, "tool"
	if conn, all := strings.CutSuffix(tool, "/*"); all {
		tool, kind = conn, "connection"
	}
	for _, named := range []struct{ kind, name string }{{"agent", b.Agent}, {"team", b.Team}, {kind, tool}} {
		if named.name == "" {
			continue
		}
		switch known, err := s.o.Known(ctx, named.kind, named.name); {
		case err != nil:
			return err
		case !known:
			return ErrNotFound.Say("there is no %s %q, so the budget would limit nothing", named.kind, named.name)
		}
	}
	return nil
}

// Delete removes a budget and what it counted. Needs a reason.
func (s *Service) Delete(ctx context.Context, by audit.Actor, reason, name string) error {
	if err := checkReason(reason); err != nil {
		return err
	}
	return s.change(ctx, func(tx *audit.Tx) error { return s.DeleteTx(ctx, tx, by, reason, name) })
}

// DeleteTx is Delete inside a change; whoever commits it polls the watcher.
func (s *Service) DeleteTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, name string) error {
	found, err := readBudgets(ctx, tx, ` WHERE name = $1`, name)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return ErrNotFound.Say("there is no budget %q", name)
	}
	if err := deleteBudget(ctx, tx, found[0], true); err != nil {
		return err
	}
	tx.Record(audit.Event{Type: "budget.deleted", Actor: by, Object: "budget/" + name, Reason: reason, Detail: detail(map[string]any{"budget": found[0].ID})})
	return storage.Bump(ctx, tx.Tx, Version)
}

// Get returns a budget.
func (s *Service) Get(ctx context.Context, name string) (Budget, error) {
	found, err := readBudgets(ctx, s.db, ` WHERE name = $1`, name)
	switch {
	case err != nil:
		return Budget{}, err
	case len(found) == 0:
		return Budget{}, ErrNotFound.Say("there is no budget %q", name)
	}
	return found[0], nil
}

// SetPrice sets what a model costs, from now on. Needs a reason.
func (s *Service) SetPrice(ctx context.Context, by audit.Actor, reason string, p Price) (Price, error) {
	if err := checkReason(reason); err != nil {
		return p, err
	}
	p, err := p.normalize()
	if err != nil {
		return p, err
	}
	err = s.change(ctx, func(tx *audit.Tx) error {
		now, err := s.clock(ctx, tx.Tx)
		if err != nil {
			return err
		}
		p.By, p.Dated = by.Name, now.Format(time.DateOnly)
		if err := putPrice(ctx, tx, p); err != nil {
			return err
		}
		tx.Record(audit.Event{Type: "price.set", Actor: by, Object: "price/" + p.Model, Reason: reason, Detail: detail(p)})
		return storage.Bump(ctx, tx.Tx, Version)
	})
	return p, err
}

// RemovePrice removes a price that was set; that of the table counts again, if
// there is one. Needs a reason.
func (s *Service) RemovePrice(ctx context.Context, by audit.Actor, reason, model string) error {
	if err := checkReason(reason); err != nil {
		return err
	}
	return s.change(ctx, func(tx *audit.Tx) error {
		if err := dropPrice(ctx, tx, model); err != nil {
			return err
		}
		tx.Record(audit.Event{Type: "price.removed", Actor: by, Object: "price/" + model, Reason: reason})
		return storage.Bump(ctx, tx.Tx, Version)
	})
}

func checkReason(reason string) error {
	if strings.TrimSpace(reason) == "" || utf8.RuneCountInString(reason) > 1000 || !utf8.ValidString(reason) || strings.ContainsRune(reason, 0) {
		return ErrReason
	}
	return nil
}

// detail returns v, plain values of ours, as an event's detail.
func detail(v any) jsontext.Value {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return nil // cannot be: checked texts and numbers
	}
	return b
}
