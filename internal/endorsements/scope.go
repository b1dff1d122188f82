package endorsements

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/flow"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
)

// Allow says what a run may do: by is who starts it, or answers for its agent.
func (s *Service) Allow(ctx context.Context, by audit.Actor, reason, run string, scopes []flow.Scope) ([]Endorsement, error) {
	if err := checkReason(reason); err != nil {
		return nil, err
	}
	agent, agentID, expires, err := s.o.Run(ctx, run)
	if err != nil {
		return nil, err
	}
	if len(scopes) == 0 || len(scopes) > mostScopes {
		return nil, ErrScope.Say("say what the run may do: 1 to %d tools", mostScopes)
	}
	for _, x := range scopes {
		if err := s.check(x); err != nil {
			return nil, err
		}
	}
	return s.allow(ctx, by, reason, Endorsement{Agent: agent, agentID: agentID, Run: run, People: []string{by.Name}, Expires: expires}, scopes)
}

// check refuses a scope that names no tool that is there, or arguments of it that
// do not matter.
func (s *Service) check(x flow.Scope) error {
	connection, tool, ok := strings.Cut(x.Tool, "/")
	if !ok {
		return ErrScope.Say("%q is not CONNECTION/TOOL", x.Tool)
	}
	roles, ok := s.o.Roles(connection, tool)
	if !ok {
		return ErrScope.Say("there is no tool %q", x.Tool)
	}
	if wrong := flow.CheckScope(x, roles); wrong != "" {
		return ErrScope.Say("%s", wrong)
	}
	return nil
}

func (s *Service) allow(ctx context.Context, by audit.Actor, reason string, e Endorsement, scopes []flow.Scope) (made []Endorsement, err error) {
	now := s.o.Now()
	if !now.Before(e.Expires) {
		return nil, ErrRun
	}
	e.Kind, e.Reason, e.Created = RunScope, reason, now
	err = s.log.Change(ctx, func(tx *audit.Tx) error {
		made = nil
		if err := s.sweep(ctx, tx, now); err != nil {
			return err
		}
		have, err := s.read(ctx, tx, ` WHERE run = $1 AND kind = $2 AND ended = 0 AND expires > $3`, e.Run, RunScope, storage.Micros(now))
		if err != nil {
			return err
		}
		if len(have)+len(scopes) > mostScopes {
			return ErrScope.Say("a run has at most %d scopes", mostScopes)
		}
		for _, x := range scopes {
			one := e
			one.ID, one.Scope = id.At(kind, now), &x
			one.Connection, one.Tool, _ = strings.Cut(x.Tool, "/")
			if err := s.insert(ctx, tx, one); err != nil {
				return err
			}
			made = append(made, one)
			tx.Record(s.event("run.scope_granted", by, reason, one, map[string]any{"arguments": args(x), "approval": one.Approval, "expires": one.Expires}))
		}
		return nil
	})
	return made, err
}

func args(x flow.Scope) []string {
	var out []string
	for name := range x.Args {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// runLife is how long what was approved for a run holds that has no token of its
// own: the longest life of a run.
const runLife = 12 * time.Hour

// Extend makes what somebody approved one time good for the rest of the run of
// the held call: the same tool, to the same values that matter. The one person
// whose approval sufficed may do that, within the life of the run.
func (s *Service) Extend(ctx context.Context, by audit.Actor, reason, approval string) ([]Endorsement, error) {
	if err := checkReason(reason); err != nil {
		return nil, err
	}
	r, err := s.o.Approval(ctx, approval)
	if err != nil {
		return nil, err
	}
	if err := sole(by, r); err != nil {
		return nil, err
	}
	found, err := s.read(ctx, s.db, ` WHERE approval = $1 AND kind = $2`, approval, held)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 || found[0].Scope == nil {
		return nil, ErrScope.Say("nothing in this call can be approved beforehand: no declared argument says to whom, to what or how much")
	}
	e := found[0]
	if err := s.check(*e.Scope); err != nil {
		return nil, err
	}
	e.People, e.Expires = []string{by.Name}, r.Created.Add(runLife)
	return s.allow(ctx, by, reason, e, []flow.Scope{*e.Scope})
}

// sole refuses who did not approve a held call alone.
func sole(by audit.Actor, r approvals.Request) error {
	switch r.State {
	case approvals.Approved, approvals.Executing, approvals.Executed:
	default:
		return ErrApproval.Say("the held call is %s; approve it first", r.State)
	}
	for _, n := range r.Needs {
		if n.Passkey || n.Quorum > 1 {
			return ErrApproval.Say("the held call needs %d people or a passkey; that is for one call, not for a run", n.Quorum)
		}
	}
	if r.Override || len(r.Needs) != 1 || !slices.ContainsFunc(r.Decisions, func(d approvals.Decision) bool { return d.ID == by.ID && d.Verdict == approvals.Approve }) {
		return ErrApproval
	}
	return nil
}
