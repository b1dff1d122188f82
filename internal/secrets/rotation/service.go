package rotation

import (
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage"
)

// Options of a Service.
type Options struct {
	DB       *storage.DB
	Log      *audit.Log
	Watch    *storage.Watcher
	Secrets  *secrets.Service
	Findings *findings.Service
	Rotators map[string]Rotator // by name

	// Held reports whether nothing may be rotated now (a restored database that
	// nobody has looked at). May be nil.
	Held func(context.Context) bool
	Now  func() time.Time
	// Backoff is how long the n-th repetition of a step waits; nil: a second,
	// doubled each time, at most five minutes.
	Backoff func(n int) time.Duration
	// Attempts is after how many failed attempts of its steps a rotation is given
	// up; 0 means 8.
	Attempts int
	Logger   *slog.Logger
}

// Service starts rotations and, on one replica at a time, does them.
type Service struct {
	Options
	lease *job.Lease
	wake  chan struct{}

	mu     sync.Mutex
	cancel context.CancelFunc
	done   chan struct{}

	point func(string) // tests end the process here; nil otherwise
}

const leaseTTL = time.Minute

// New returns a stopped Service and makes its rotators known to o.Secrets.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Backoff == nil {
		o.Backoff = func(n int) time.Duration { return min(time.Second<<min(n, 9), 5*time.Minute) }
	}
	if o.Attempts == 0 {
		o.Attempts = 8
	}
	s := &Service{Options: o, lease: job.NewLease(o.DB, "secrets/rotation", leaseTTL), wake: make(chan struct{}, 1)}
	for name, r := range o.Rotators {
		o.Secrets.Rotates(name, func(spec secrets.Spec) error {
			p, err := planOf(spec.Rotation)
			if err != nil {
				return err
			}
			if p.admin == spec.Name {
				return ErrSettings.Say("rotation: admin: must be another secret")
			}
			return r.Check(spec, p.rest)
		})
	}
	o.Secrets.Notes(s.notes)
	return s
}

// Rotate begins to rotate a secret, or hastens the rotation that is under way.
// urgent means that its value leaked: it is retired without overlap, and what
// uses it is cut where the provider can do that.
func (s *Service) Rotate(ctx context.Context, by audit.Actor, reason, name string, urgent bool) (Rotation, error) {
	var r Rotation
	err := s.Log.Change(ctx, func(tx *audit.Tx) error {
		var err error
		r, err = s.RotateTx(ctx, tx, by, reason, name, urgent)
		return err
	})
	if storage.Duplicate(err) {
		return r, secrets.ErrRaced.With(err)
	}
	s.Wake()
	return r, err
}

// RotateTx is Rotate inside a change: what another room calls when a credential
// has leaked. The caller calls Wake after its commit, or the rotation begins
// within a second or two.
func (s *Service) RotateTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, name string, urgent bool) (Rotation, error) {
	if len(reason) > 1000 || !utf8.ValidString(reason) {
		return Rotation{}, secrets.ErrReason
	}
	sec, err := s.secret(name)
	if err != nil {
		return Rotation{}, err
	}
	cause := OnDemand
	if urgent {
		cause = OnLeak
	}
	return s.beginTx(ctx, tx, by, reason, sec, cause, urgent)
}

func (s *Service) secret(name string) (secrets.Secret, error) {
	sec, ok := s.Secrets.Secret(name)
	switch {
	case !ok:
		return sec, secrets.ErrNotFound.Say("there is no secret %.63q", name)
	case s.Rotators[sec.Rotation["by"]] == nil:
		return sec, ErrNoRotator.Say("the secret %s has no rotator: countersign secret put %s --rotate by=...", name, name)
	}
	return sec, nil
}

func (s *Service) beginTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, sec secrets.Secret, cause string, urgent bool) (Rotation, error) {
	now := s.Now()
	open, err := rotationRows(ctx, tx, `WHERE secret_id = $1 AND `+isOpen, sec.ID)
	if err != nil {
		return Rotation{}, err
	}
	if len(open) > 0 {
		r := open[0]
		r.Urgent = r.Urgent || urgent
		if err := hasten(ctx, tx, r.ID, urgent, now); err != nil {
			return r, err
		}
		s.record(tx, "secret.rotation_hastened", by, reason, r, nil)
		return r, nil
	}
	r := Rotation{ID: id.At("rot", now), Secret: sec.Name, secretID: sec.ID, Step: Create, Cause: cause, Reason: reason, By: by, Urgent: urgent, NextTry: now, Started: now, Updated: now}
	if err := insertRotation(ctx, tx, r); err != nil {
		return r, err
	}
	s.record(tx, "secret.rotation_started", by, reason, r, nil)
	return r, nil
}

func (s *Service) record(tx *audit.Tx, t audit.Type, by audit.Actor, reason string, r Rotation, more map[string]string) {
	detail := map[string]string{"rotation": r.ID, "cause": r.Cause, "step": r.Step}
	for k, v := range more {
		detail[k] = v
	}
	raw, err := json.Marshal(detail, json.Deterministic(true))
	if err != nil {
		raw = nil // cannot be: texts made by us
	}
	tx.Record(audit.Event{Type: t, Actor: by, Reason: reason, Object: "secret/" + r.Secret, Detail: raw})
}

// Rotations returns the rotations of a secret, newest first, at most limit.
func (s *Service) Rotations(ctx context.Context, name string, limit int) ([]Rotation, error) {
	sec, ok := s.Secrets.Secret(name)
	if !ok {
		return nil, secrets.ErrNotFound.Say("there is no secret %.63q", name)
	}
	return rotationRows(ctx, s.DB, `WHERE secret_id = $1 ORDER BY started DESC, id DESC LIMIT $2`, sec.ID, limit)
}

// Leftovers returns what is alive at providers and must not be; what waits for
// its overlap to end is among it.
func (s *Service) Leftovers(ctx context.Context) ([]Leftover, error) {
	return leftoverRows(ctx, s.DB, `ORDER BY due`)
}

// notes adds what is known of rotations to a listing of secrets.
func (s *Service) notes(ctx context.Context, all map[string]secrets.Note) error {
	rows, err := rotationRows(ctx, s.DB, `WHERE id IN (SELECT max(id) FROM secret_rotations GROUP BY secret_id)
		OR id IN (SELECT max(id) FROM secret_rotations WHERE step = 'done' GROUP BY secret_id) ORDER BY id`)
	if err != nil {
		return err
	}
	last := map[string]Rotation{}
	for _, r := range rows {
		n := all[r.Secret]
		n.RotationStatus = r.Step
		if r.Step == Done {
			n.LastRotation = r.Updated
		}
		all[r.Secret], last[r.secretID] = n, r
	}
	for _, sec := range s.Secrets.Secrets() {
		if p, err := planOf(sec.Rotation); err == nil && p.every > 0 {
			n := all[sec.Name]
			n.NextRotation = s.next(sec, p, last[sec.ID])
			all[sec.Name] = n
		}
	}
	return nil
}

// next says when the schedule begins a rotation: when the value is due; after
// one that failed, a tenth of the period later, at most an hour.
func (s *Service) next(sec secrets.Secret, p plan, last Rotation) time.Time {
	at := due(sec, p.every)
	if last.Step == Failed {
		if again := last.Updated.Add(min(p.every/10, time.Hour)); again.After(at) {
			return again
		}
	}
	return at
}

// Wake makes the worker look now.
func (s *Service) Wake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

const lookEvery = time.Second

// Start implements job.Service.
func (s *Service) Start(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel != nil {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel, s.done = cancel, make(chan struct{})
	go s.loop(ctx, s.done)
	return nil
}

func (s *Service) loop(ctx context.Context, done chan struct{}) {
	defer close(done)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if err := s.Look(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, job.ErrFenced) {
			s.Logger.Warn("rotations could not be looked at; they are tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-tick.C:
		}
	}
}

// Stop implements job.Service. A step under way is given up; it is repeated.
func (s *Service) Stop(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel != nil {
		s.cancel()
		select {
		case <-s.done:
		case <-ctx.Done():
			return fmt.Errorf("rotation: a step does not end: %w", ctx.Err())
		}
		s.cancel = nil
	}
	return s.lease.Release(ctx)
}
