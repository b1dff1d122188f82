package lifecycle

import (
	"context"
	"fmt"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/job"
)

// lookIdle warns of agents that nobody uses, and suspends those of whom it has
// warned for long enough. Whoever is not warned of is not suspended, however
// old their last call is.
func (s *Service) lookIdle(ctx context.Context, lease *job.Lease) error {
	if s.o.IdleAfter <= 0 {
		return nil
	}
	since, err := readIdle(ctx, s.o.DB)
	if err != nil {
		return err
	}
	all, err := s.o.Identity.ListAgents(ctx) // from the store: the view does not follow last calls
	if err != nil {
		return err
	}
	for _, a := range all {
		if a.Suspended || !a.Retired.IsZero() {
			continue
		}
		last := a.Created
		for _, t := range []time.Time{a.LastCall, since[a.Name]} {
			if t.After(last) {
				last = t
			}
		}
		if err := s.judge(ctx, lease, a, last); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) judge(ctx context.Context, lease *job.Lease, a identity.Agent, last time.Time) error {
	now := s.o.Now()
	due := last.Add(s.o.IdleAfter)
	open, err := s.o.Findings.List(ctx, findings.Query{Rule: RuleIdle, Object: object(a.Name), Status: findings.Open})
	switch {
	case err != nil:
		return err
	case now.Before(due.Add(-s.o.WarnBefore)):
		if len(open) == 0 {
			return nil
		}
		return s.fenced(ctx, lease, func(tx *audit.Tx) error {
			return s.o.Findings.CloseObjectTx(ctx, tx, audit.System, object(a.Name), "it was used", RuleIdle)
		})
	case len(open) == 0:
		return s.warnIdle(ctx, lease, a, last, later(due, now.Add(s.o.WarnBefore)))
	case now.Before(due) || now.Before(open[0].Opened.Add(s.o.WarnBefore)):
		return nil
	}
	return s.suspendIdle(ctx, lease, a, last)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (s *Service) warnIdle(ctx context.Context, lease *job.Lease, a identity.Agent, last, due time.Time) error {
	return s.fenced(ctx, lease, func(tx *audit.Tx) error {
		return s.o.Findings.OpenTx(ctx, tx, findings.Finding{Rule: RuleIdle, Severity: findings.Low, Object: object(a.Name), Title: "Agent " + a.Name + " is idle",
			Detail: fmt.Sprintf("It was last used at %s, and is suspended at %s unless it is used. If nobody needs it: countersign agent decommission %s", last.UTC().Format(time.RFC3339), due.UTC().Format(time.RFC3339), a.Name)})
	})
}

func (s *Service) suspendIdle(ctx context.Context, lease *job.Lease, a identity.Agent, last time.Time) error {
	return s.fenced(ctx, lease, func(tx *audit.Tx) error {
		did, err := s.o.Identity.SuspendTx(ctx, tx, audit.System, fmt.Sprintf("idle: not used since %s", last.UTC().Format(time.RFC3339)), a.Name)
		if err != nil {
			return err
		}
		if !did {
			return errNothing
		}
		return s.o.Findings.OpenTx(ctx, tx, findings.Finding{Rule: RuleIdle, Severity: findings.Medium, Object: object(a.Name), Title: "Agent " + a.Name + " is suspended: nobody uses it",
			Detail: fmt.Sprintf("It was last used at %s. Resume it (countersign agent resume %s) or, if nobody needs it, end it for good (countersign agent decommission %s).", last.UTC().Format(time.RFC3339), a.Name, a.Name)})
	})
}
