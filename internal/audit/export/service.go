package export

import (
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/storage"
)

// Alert is something wrong with a target that someone must see, or, if Over,
// that was wrong and is not any more.
type Alert struct {
	Rule, Object, Title, Detail string
	Over                        bool
}

// Options of a Service.
type Options struct {
	Targets []Target
	Version string                         // of this product
	Kind    func(connection string) string // see Mapper
	Redact  func([]byte) []byte            // removes secrets from what targets answer; nil leaves it
	// Alert is told, in the change that notes it, what someone must see; nil: nobody.
	Alert  func(ctx context.Context, tx *audit.Tx, a Alert) error
	Logger *slog.Logger     // nil discards
	Now    func() time.Time // nil means time.Now
	// Backoff is the first pause after a failure; it doubles up to 64 times
	// itself. Default 1s. AlertAfter is how long a target fails before someone is
	// told. Default 10m.
	Backoff, AlertAfter time.Duration
}

// Service follows the log for every target. It is safe for concurrent use.
type Service struct {
	store     store
	db        *storage.DB
	log       *audit.Log
	o         Options
	followers []*follower
}

// New returns a stopped service. A target whose destination is new, or another
// than before, is recorded: the log leaves the house there.
func New(ctx context.Context, db *storage.DB, log *audit.Log, o Options) (*Service, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Redact == nil {
		o.Redact = func(b []byte) []byte { return b }
	}
	if o.Backoff <= 0 {
		o.Backoff = time.Second
	}
	if o.AlertAfter <= 0 {
		o.AlertAfter = 10 * time.Minute
	}
	s := &Service{store: store{db}, db: db, log: log, o: o}
	seen := map[string]bool{}
	for _, t := range slices.Clone(o.Targets) {
		if err := t.check(); err != nil {
			return nil, err
		}
		if seen[t.Name] {
			return nil, ErrTarget.Say("two export targets are called %s", t.Name)
		}
		seen[t.Name] = true
		if err := s.ensure(ctx, &t); err != nil {
			return nil, err
		}
		f, err := s.newFollower(t)
		if err != nil {
			return nil, err
		}
		s.followers = append(s.followers, f)
	}
	return s, nil
}

func (s *Service) newFollower(t Target) (*follower, error) {
	f := &follower{s: s, t: t, lease: job.ReplicaLease(s.db, "export/"+t.Name, 2*t.Timeout+leaseSlack)}
	f.runs = f.follower()
	m := &Mapper{Version: s.o.Version, Kind: s.o.Kind, Payloads: t.Payloads}
	if t.Kind == OCSF {
		f.sink = &directory{f: f, m: m}
		return f, nil
	}
	p, err := newPoster(&t)
	if err != nil {
		return nil, err
	}
	f.sink = &collector{f: f, m: m, post: p, intents: map[string]*audit.Record{}}
	return f, nil
}

func (s *Service) ensure(ctx context.Context, t *Target) error {
	head := audit.Cursor{}
	if t.FromNow {
		var err error
		if head, err = s.log.Head(ctx); err != nil {
			return err
		}
	}
	if st, err := s.store.state(ctx, t.Name); err != nil || st.destination == t.destination() {
		return err
	}
	return s.log.Change(ctx, func(tx *audit.Tx) error {
		changed, isNew, err := s.store.ensure(ctx, tx.Tx, t.Name, t.destination())
		if err != nil {
			return err
		}
		if changed {
			tx.Record(event("export.configured", audit.System, t.Name, "as configured", map[string]string{"kind": t.Kind, "destination": t.destination()}))
		}
		if !isNew {
			return nil
		}
		for lane, sn := range head {
			if _, err := s.store.advance(ctx, tx.Tx, t.Name, lane, 0, sn); err != nil {
				return err
			}
		}
		return nil
	})
}

// event returns an administrative event about a target.
func event(t audit.Type, by audit.Actor, target, reason string, detail map[string]string) audit.Event {
	b, err := json.Marshal(detail, json.Deterministic(true))
	if err != nil {
		b = nil // strings always marshal
	}
	return audit.Event{Type: t, Actor: by, Object: "export/" + target, Reason: reason, Detail: b}
}

// Start begins to follow the log.
func (s *Service) Start(ctx context.Context) error {
	for _, f := range s.followers {
		if err := f.runs.Start(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Stop ends following. What was under way is either delivered and counted, or
// will be sent again.
func (s *Service) Stop(ctx context.Context) error {
	var all sync.WaitGroup // each has all the time there is
	errs := make([]error, len(s.followers))
	for i, f := range s.followers {
		all.Go(func() { errs[i] = f.runs.Stop(ctx) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// The states of a target.
const (
	Following = "following" // or has caught up
	Failing   = "failing"   // it is tried again
	Blocked   = "blocked"   // it refuses an event, or everything, and waits for a person
)

// Status is how a target does.
type Status struct {
	ID          string    `json:"id" doc:"name of the target"`
	Kind        string    `json:"kind" enum:"otlp,ocsf"`
	Destination string    `json:"destination"`
	State       string    `json:"state" enum:"following,failing,blocked"`
	Behind      int64     `json:"behind" doc:"events it has yet to get"`
	Sent        int64     `json:"sent" doc:"events delivered, those sent again included"`
	Rejected    int64     `json:"rejected,omitzero" doc:"log records and spans that the target took and threw away"`
	Skipped     int64     `json:"skipped,omitzero" doc:"events that a person had left out"`
	LastSent    time.Time `json:"last_sent,omitzero"`
	Since       time.Time `json:"failing_since,omitzero"`
	Error       string    `json:"error,omitempty" doc:"the last problem"`
	BlockedAt   string    `json:"blocked_at,omitempty" doc:"the event that the target refuses; everything if it takes none"`
	Help        string    `json:"help,omitempty" doc:"what to do"`
}

// Status returns how every configured target does, on whichever replica sends.
func (s *Service) Status(ctx context.Context) ([]Status, error) {
	out := []Status{}
	head, err := s.log.Head(ctx)
	if err != nil {
		return nil, err
	}
	for _, f := range s.followers {
		st, err := s.store.state(ctx, f.t.Name)
		if err != nil {
			return nil, err
		}
		at, err := s.store.positions(ctx, f.t.Name)
		if err != nil {
			return nil, err
		}
		x := Status{
			ID: f.t.Name, Kind: f.t.Kind, Destination: f.t.destination(), State: Following, Sent: st.sent, Rejected: st.rejected, Skipped: st.skipped,
			LastSent: st.sentAt, Since: st.failing, Error: st.err, BlockedAt: st.blocked,
		}
		for lane, sn := range head {
			x.Behind += max(0, sn-at[lane])
		}
		switch {
		case st.blocked != "":
			x.State, x.Help = Blocked, help(f.t.Name, st.blocked)
		case !st.failing.IsZero():
			x.State = Failing
		}
		out = append(out, x)
	}
	return out, nil
}

func help(target, blocked string) string {
	if blocked == everything {
		return fmt.Sprintf("mend the target or its configuration, then: countersign log export resume %s", target)
	}
	return fmt.Sprintf("mend the target, then: countersign log export resume %s; or leave the event out: countersign log export skip %s --reason ...", target, target)
}

// Resume has a target that stopped try again.
func (s *Service) Resume(ctx context.Context, by audit.Actor, target, reason string) error {
	return s.goOn(ctx, by, target, reason, false)
}

// Skip has a target that stopped at an event go on without it. The event stays
// in the log.
func (s *Service) Skip(ctx context.Context, by audit.Actor, target, reason string) error {
	return s.goOn(ctx, by, target, reason, true)
}

func (s *Service) goOn(ctx context.Context, by audit.Actor, target, reason string, skip bool) error {
	reason = strings.TrimSpace(reason)
	switch i := slices.IndexFunc(s.followers, func(f *follower) bool { return f.t.Name == target }); {
	case i < 0:
		return ErrNoTarget
	case skip && reason == "", utf8.RuneCountInString(reason) > 1000, !utf8.ValidString(reason), strings.ContainsRune(reason, 0):
		return ErrReason
	}
	return s.log.Change(ctx, func(tx *audit.Tx) error {
		var blocked string
		if err := tx.QueryRow(ctx, `SELECT blocked FROM export_targets WHERE name = $1`, target).Scan(&blocked); err != nil {
			return storage.ErrUnavailable.With(err)
		}
		if !skip {
			tx.Record(event("export.resumed", by, target, reason, map[string]string{"blocked_at": blocked}))
			return s.store.order(ctx, tx.Tx, target, "")
		}
		if blocked == "" {
			return ErrNotBlocked
		}
		if blocked == everything {
			return ErrNotBlocked.Say("the target refuses everything, not one event: mend it, then countersign log export resume %s", target)
		}
		tx.Record(event("export.skipped", by, target, reason, map[string]string{"event": blocked}))
		return s.store.order(ctx, tx.Tx, target, blocked)
	})
}
