package budget

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/storage"
)

const (
	sweepMost = 500                  // reservations looked at in one sweep
	freedFor  = 24 * time.Hour       // reservations without a call
	windowFor = 400 * 24 * time.Hour // what was used in a period
	pastEvery = 5 * time.Minute
)

// errTold rolls a notice back that another replica gave.
var errTold = errors.New("budget: told already")

// Start begins to look for reservations whose process died.
func (s *Service) Start(ctx context.Context) error {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	s.swept.Go(func() { s.sweeping(run) })
	return nil
}

// Stop ends it. It may be called without Start and more than once.
func (s *Service) Stop(context.Context) error {
	if s.cancel != nil {
		s.cancel()
		s.swept.Wait()
	}
	return nil
}

func (s *Service) sweeping(ctx context.Context) {
	tick := time.NewTicker(s.o.Sweep)
	defer tick.Stop()
	var past time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := s.Sweep(ctx)
		if time.Since(past) > pastEvery {
			past = time.Now()
			s.sweepTold()
			err = errors.Join(err, s.forget(ctx))
		}
		if err != nil && ctx.Err() == nil {
			s.o.Logger.Warn("reservations of ended processes could not be looked for", "error", err)
		}
	}
}

func (s *Service) forget(ctx context.Context) error {
	now, err := s.clock(ctx, s.db)
	if err != nil {
		return err
	}
	return s.sweepPast(ctx, now)
}

// Sweep settles reservations whose calls have an outcome in the log and that
// nobody settled, and frees those whose calls never got an intent. A call that
// is under way keeps what is reserved for it, and so does one whose outcome is
// unknown: that counts as used. It is safe on every replica at once.
func (s *Service) Sweep(ctx context.Context) error {
	now, err := s.clock(ctx, s.db)
	if err != nil {
		return err
	}
	all, err := readHeld(ctx, s.db, now.Add(-s.o.Look), sweepMost)
	if err != nil {
		return err
	}
	var batch []*settlement
	for _, h := range all {
		o, began, err := s.ended(ctx, h.call)
		switch {
		case err != nil:
			return err
		case o != nil:
			p := s.Prices()
			batch = append(batch, &settlement{h.call, func(meter string, reserved int64) int64 { return used(p, meter, reserved, *o, true) }})
		case !began && now.Sub(storage.Time(h.at)) > s.o.Valid+s.o.Look: // its process would not send it any more
			if err := s.free(ctx, h.call, now); err != nil {
				return err
			}
		}
	}
	if len(batch) == 0 {
		return nil
	}
	return s.settleAll(batch)
}

// ended looks up in the log how a call ended, and whether it began at all.
func (s *Service) ended(ctx context.Context, call string) (o *audit.Outcome, began bool, err error) {
	recs, err := s.log.List(ctx, audit.Query{Call: call, Types: []audit.Type{audit.CallIntent, audit.CallOutcome}, Limit: 10})
	if err != nil {
		return nil, false, err
	}
	for _, r := range recs {
		began = began || r.Event.Type == audit.CallIntent
		if r.Event.Type == audit.CallOutcome {
			o = r.Event.Outcome
		}
	}
	return o, began, nil
}

// free gives back what is reserved for a call that never left.
func (s *Service) free(ctx context.Context, call string, now time.Time) error {
	return s.db.Tx(ctx, func(tx *storage.Tx) error {
		rows, err := freeReservations(ctx, tx, call, now)
		if err != nil {
			return err
		}
		slices.SortFunc(rows, func(a, b reservation) int { return a.key.compare(b.key) })
		for _, r := range rows {
			if err := unhold(ctx, tx, r.key, r.amount); err != nil {
				return err
			}
		}
		return nil
	})
}

// recordNotice tells people that a limit was reached.
func (s *Service) recordNotice(ctx context.Context, tx *audit.Tx, n notice) error {
	b := n.budget
	f := findings.Finding{Rule: "budget.soft", Severity: findings.Medium, Object: "budget/" + b.Name, Title: "the budget " + b.Name + " has reached its soft limit of " + b.Says(b.Soft)}
	kind := audit.Type("budget.warned")
	if n.level == toldHard {
		kind, f.Rule, f.Severity = "budget.exhausted", "budget.exhausted", findings.High
		f.Title = "calls are refused: they would go over the budget " + b.Name + " of " + b.Says(b.Hard)
	}
	var said []string
	if n.part != "" {
		said = append(said, "the "+b.Each+" "+n.part)
	}
	if n.start != 0 {
		said = append(said, "since "+storage.Time(n.start).Format(time.RFC3339))
	}
	said = append(said, Amount(b.Meter, n.spent)+" used. countersign budget usage "+b.Name+" shows by whom; countersign budget set changes the limits")
	f.Detail = strings.Join(said, ", ")
	agent := b.Agent
	if b.Each == EachAgent {
		agent = n.part
	}
	ev := audit.Event{Type: kind, Actor: audit.System, Object: f.Object, Agent: agent,
		Detail: detail(map[string]any{"budget": b.ID, "part": n.part, "meter": b.Meter, "spent": n.spent, "hard": b.Hard, "soft": b.Soft})}
	if b.Each == EachRun {
		ev.Run = n.part
	}
	tx.Record(ev)
	return s.o.Findings.OpenTx(ctx, tx, f)
}
