package posture

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/job"
)

// Progress is how far a run is.
type Progress struct {
	Running bool      `json:"running"`
	Run     string    `json:"run,omitempty" doc:"the newest run; none: there was none yet"`
	By      string    `json:"by,omitempty"`
	Started time.Time `json:"started,omitzero"`
	Ended   time.Time `json:"ended,omitzero"`
	Asked   []string  `json:"asked" doc:"the predicates of the run, in the order in which they are computed"`
	Done    []string  `json:"done" doc:"those that are computed"`
	Problem string    `json:"problem,omitempty" doc:"why the run ended without a result"`

	touched time.Time
}

// errGone is what became of a run whose process ended.
const errGone = "it was given up: the server that computed it ended meanwhile; begin another"

// order is a run that may be carried out: it has the lease.
type order struct {
	run  Run
	by   audit.Actor
	only []Predicate
}

// Evaluate computes predicates now, all of them if none is named, and records
// the run. ErrBusy if one is under way, here or on another replica.
func (s *Service) Evaluate(ctx context.Context, by audit.Actor, reason string, only ...string) (Run, error) {
	o, err := s.begin(ctx, by, reason, only)
	if err != nil {
		return Run{}, err
	}
	return s.carryOut(ctx, o)
}

// Begin is Evaluate without waiting for it: Progress tells how far it is. A run
// is given up when the server stops.
func (s *Service) Begin(ctx context.Context, by audit.Actor, reason string, only ...string) (Progress, error) {
	o, err := s.begin(ctx, by, reason, only)
	if err != nil {
		return Progress{}, err
	}
	s.done.Go(func() {
		if _, err := s.carryOut(s.life, o); err != nil && s.life.Err() == nil {
			s.o.Logger.Error("posture could not be computed", "run", o.run.ID, "error", err)
		}
	})
	return s.Progress(ctx)
}

// begin takes the lease for a run and notes it; carryOut gives it back.
func (s *Service) begin(ctx context.Context, by audit.Actor, reason string, only []string) (o order, err error) {
	if utf8.RuneCountInString(reason) > 1000 {
		return o, ErrReason
	}
	for _, name := range only {
		if _, ok := find(name); !ok {
			return o, ErrUnknown.Say("there is no predicate %.20q; they are E1 to E12", name)
		}
	}
	if !s.busy.TryLock() {
		return o, ErrBusy
	}
	if ours, err := s.lease.Acquire(ctx); err != nil || !ours {
		s.busy.Unlock()
		return o, errors.Join(err, ErrBusy)
	}
	o = order{run: Run{ID: id.New(runID), By: by.Name, Reason: reason, Started: s.o.Now()}, by: by}
	var asked []string
	for _, p := range predicates {
		if len(only) == 0 || slices.Contains(only, p.ID) {
			o.only, asked = append(o.only, p), append(asked, p.ID)
		}
	}
	if err := s.note(ctx, Progress{Run: o.run.ID, By: o.run.By, Started: o.run.Started, Asked: asked}); err != nil {
		s.release(ctx)
		return o, err
	}
	return o, nil
}

func (s *Service) release(ctx context.Context) {
	_ = s.lease.Release(context.WithoutCancel(ctx)) // it expires by itself
	s.busy.Unlock()
}

// carryOut computes a run, and says how it ended.
func (s *Service) carryOut(ctx context.Context, o order) (r Run, err error) {
	defer s.release(ctx)
	r, err = s.compute(ctx, o)
	what := ""
	switch f, ok := errors.AsType[*fault.Error](err); {
	case err != nil && ok:
		what = f.Message
	case err != nil:
		what = "it could not be computed; the server's own log says why"
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return r, errors.Join(err, s.over(last, o.run.ID, what))
}

func (s *Service) compute(ctx context.Context, o order) (Run, error) {
	r := o.run
	p := &pass{s: s, ctx: ctx, now: r.Started, blind: s.blind}
	defer p.leave()
	for _, pred := range o.only {
		if ours, err := s.lease.Acquire(ctx); err != nil || !ours {
			return Run{}, errors.Join(err, job.ErrFenced)
		}
		e, err := p.evaluate(r.ID, pred)
		if err == nil {
			err = s.step(ctx, r.ID, pred.ID)
		}
		if err != nil {
			return Run{}, err
		}
		r.Evidence = append(r.Evidence, e)
	}
	p.leave()
	r.Ended = s.o.Now()
	return s.keep(ctx, o.by, r)
}

// Progress tells how far the run under way is, or how the last one ended.
func (s *Service) Progress(ctx context.Context) (Progress, error) {
	p, err := s.noted(ctx)
	if err != nil || p.Run == "" {
		return p, err
	}
	if p.Running = p.Ended.IsZero(); p.Running && s.o.Now().Sub(p.touched) > leaseTTL {
		p.Running, p.Problem = false, errGone
	}
	return p, nil
}

func fields(s string) []string { return append([]string{}, strings.Fields(s)...) }
