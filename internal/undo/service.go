package undo

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/storage"
)

// Act is a call that undoes something, or looks whether it was undone.
type Act struct {
	Call             string // its identifier
	Undo             string
	Agent            string
	By               audit.Actor // the person who undoes
	Connection, Tool string
	Args             jsontext.Value
	Before           time.Time // after which it may not go out
}

// Prepared is a call that waits to be sent, or did.
type Prepared struct {
	Approval, Call, Tool, Agent string
	At, SendAt                  time.Time
	Waits                       bool
	Sent                        string // the call that it was sent as
}

// Options of a Service. All but Now, Logger and Orphaned are required.
type Options struct {
	DB  *storage.DB
	Log *audit.Log
	// Tool and Kind look up a tool, and what kind a connection is.
	Tool func(connection, tool string) (connections.Tool, bool)
	Kind func(connection string) string
	// May reports whether anything could allow an agent to call a tool. nil says
	// nothing about it.
	May func(agent, connection, tool string) bool
	// Make makes a call through the line and returns what was answered. How it
	// ended is in the log.
	Make func(ctx context.Context, a Act) ([]byte, error)
	// Approval says how a request for an approval stands: pending, approved or another.
	Approval func(ctx context.Context, id string) (state, why string, err error)
	// Prepared returns the calls that wait to be sent, of a call or of a run, and
	// those of the call that were; nil knows none.
	Prepared func(ctx context.Context, call, run string) ([]Prepared, error)
	// Cancel cancels a call that waits to be sent. sent is the call that it was sent
	// as before; empty: it was not, and never will be.
	Cancel func(ctx context.Context, by audit.Actor, approval, reason string) (sent string, err error)
	Derive func(label string) []byte // 32 bytes for a label
	Now    func() time.Time
	Logger *slog.Logger
	// Orphaned is how long after a call was begun nobody can be about to send it
	// any more. 0 means 40 seconds.
	Orphaned time.Duration
}

// Service plans and carries out. It is safe for concurrent use.
type Service struct {
	o     Options
	aead  cipher.AEAD
	lease *job.Lease
	wake  chan struct{}

	cancel context.CancelFunc
	done   sync.WaitGroup
}

// New returns a stopped Service.
func New(o Options) (*Service, error) {
	if o.DB == nil || o.Log == nil || o.Tool == nil || o.Kind == nil || o.Make == nil || o.Approval == nil || o.Derive == nil {
		return nil, errors.New("undo: every option but Now, Logger and Orphaned is required")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Orphaned == 0 {
		o.Orphaned = 40 * time.Second
	}
	block, err := aes.NewCipher(o.Derive("undo/step/v1"))
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &Service{o: o, aead: aead, lease: job.NewLease(o.DB, "undo", leaseTTL), wake: make(chan struct{}, 1)}, nil
}

// Begin carries out a plan that the person looked at: digest is the plan's. The
// work goes on in the background.
func (s *Service) Begin(ctx context.Context, by audit.Actor, reason, call, run, as, digest string) (Undo, error) {
	if strings.TrimSpace(reason) == "" || utf8.RuneCountInString(reason) > 1000 || !utf8.ValidString(reason) || strings.ContainsRune(reason, 0) {
		return Undo{}, ErrReason
	}
	p, err := s.Plan(ctx, call, run, as)
	if err != nil {
		return Undo{}, err
	}
	if digest != p.Digest {
		return Undo{}, ErrChanged
	}
	now := s.o.Now().UTC().Truncate(time.Microsecond)
	u := Undo{ID: id.At(ID, now), Object: p.Object, State: Running, By: by.Name, byID: by.ID, Reason: reason, Created: now, Updated: now, Steps: p.Steps}
	if !anyPlanned(p.Steps) {
		return Undo{}, ErrNothing.Say("nothing of it can be undone: %s", p.Steps[0].Why)
	}
	err = s.o.Log.Change(ctx, func(tx *audit.Tx) error {
		if err := s.insert(ctx, tx, u); err != nil {
			return err
		}
		cannot := 0
		for _, st := range u.Steps {
			if st.State == Cannot {
				cannot++
			}
		}
		tx.Record(s.event("undo.begun", by, u, reason, map[string]any{"undo": u.ID, "steps": len(u.Steps), "cannot": cannot}))
		return nil
	})
	if storage.Duplicate(err) {
		return Undo{}, ErrTaken
	}
	if err != nil {
		return Undo{}, err
	}
	s.cancelled(ctx, u)
	s.nudge()
	return s.Get(ctx, u.ID)
}

// cancelled cancels at once what was not sent yet: it must not wait until other
// undos are through. What goes wrong here is done by whoever carries the undo out.
func (s *Service) cancelled(ctx context.Context, u Undo) {
	for _, st := range u.Steps {
		if !st.cancels() {
			continue
		}
		if _, err := s.cancelStep(ctx, u, st); err != nil && !errors.Is(err, ErrTaken) {
			s.o.Logger.Warn("a prepared call could not be cancelled; it is tried again", "undo", u.ID, "call", st.Call, "error", err)
		}
	}
}

func anyPlanned(steps []Step) bool {
	for _, st := range steps {
		if st.State == Planned {
			return true
		}
	}
	return false
}

// Get returns an undo with its steps.
func (s *Service) Get(ctx context.Context, undo string) (Undo, error) {
	found, err := readUndos(ctx, s.o.DB, ` WHERE id = $1`, undo)
	if err != nil {
		return Undo{}, err
	}
	if len(found) == 0 {
		return Undo{}, ErrNotFound
	}
	found[0].Steps, err = s.readSteps(ctx, s.o.DB, undo)
	return found[0], err
}

// Settle has a person say of steps that failed or are unknown that they were done,
// or that they are to be made again, and goes on. Needs a reason.
func (s *Service) Settle(ctx context.Context, by audit.Actor, reason, undo string, done, again []int) (Undo, error) {
	if strings.TrimSpace(reason) == "" || utf8.RuneCountInString(reason) > 1000 || !utf8.ValidString(reason) {
		return Undo{}, ErrReason
	}
	u, err := s.Get(ctx, undo)
	if err != nil {
		return u, err
	}
	says := map[int]string{}
	for _, n := range done {
		says[n] = Undone
	}
	for _, n := range again {
		says[n] = Planned
	}
	err = s.o.Log.Change(ctx, func(tx *audit.Tx) error {
		settled := 0
		for _, st := range u.Steps {
			state, said := says[st.N]
			if !said {
				continue
			}
			if st.State != Failed && st.State != Doubt {
				return ErrNoStep
			}
			next := st
			next.State, next.Made, next.Approval, next.Why = state, "", "", "as "+by.Name+" said"
			if state == Undone {
				next.Made = st.Made
			}
			if err := putStep(ctx, tx, u.ID, st, next); err != nil {
				return taken(err)
			}
			settled++
		}
		if settled != len(says) || settled == 0 {
			return ErrNoStep
		}
		tx.Record(s.event("undo.resumed", by, u, reason, map[string]any{"undo": u.ID, "done": done, "again": again}))
		return putState(ctx, tx, u, Running, storage.Micros(s.o.Now()))
	})
	if err != nil {
		return u, err
	}
	s.nudge()
	return s.Get(ctx, undo)
}

func taken(err error) error {
	if errors.Is(err, storage.ErrNotFound) {
		return ErrTaken
	}
	return err
}

func (s *Service) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// event returns an event about an undo. It belongs to the run or the call that is undone.
func (s *Service) event(t audit.Type, by audit.Actor, u Undo, reason string, v map[string]any) audit.Event {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		b = nil // cannot be: plain values
	}
	ev := audit.Event{Type: t, Actor: by, Object: u.Object, Reason: reason, Detail: b}
	if run, ok := strings.CutPrefix(u.Object, "run/"); ok {
		ev.Run = run
	}
	return ev
}
