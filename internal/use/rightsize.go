package use

import (
	"context"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/storage"
)

// Errors of right-sizing.
var (
	ErrNoProposal = fault.New(fault.NotFound, "proposal_not_found", "there is no such proposal; countersign grant rightsize AGENT makes them")
	ErrWindow     = fault.New(fault.Invalid, "bad_window", "use can be judged over a time of at most 400 days")
	ErrState      = fault.New(fault.Conflict, "proposal_state", "the proposal is not in a state in which this can be done")
	ErrStale      = fault.New(fault.Conflict, "proposal_stale", "the grant is not what it was when this was proposed; look again: countersign grant rightsize AGENT")
	ErrNewUse     = fault.New(fault.Conflict, "proposal_new_use", "calls were made since this was proposed that it would refuse; look again, or accept it all the same (--force)")
	ErrReason     = fault.New(fault.Invalid, "bad_reason", "a reason must be at most 1000 characters of plain text")
)

// mostCalls is how many calls of an agent are decided again for a proposal, the
// newest.
const mostCalls = 100_000

// Propose judges the grants of an agent over a window that ends now, and keeps
// what it proposes in place of what was proposed before; what is tried, or was
// accepted or dropped, stays. by is recorded: proposals tell what arguments were.
func (s *Service) Propose(ctx context.Context, by audit.Actor, agent string, window time.Duration) ([]Proposal, Watched, error) {
	if window == 0 {
		window = defaultWindow
	}
	if window < 0 || window > 400*24*time.Hour {
		return nil, Watched{}, ErrWindow
	}
	now := s.o.Now()
	made, w, err := s.judgeAll(ctx, agent, now.Add(-window), now)
	if err != nil {
		return nil, w, err
	}
	decided, err := s.rightsizings(ctx, `agent = $1 AND state <> $2`, agent, Proposed)
	if err != nil {
		return nil, w, err
	}
	made = slices.DeleteFunc(made, func(p Proposal) bool {
		return slices.ContainsFunc(decided, func(d Proposal) bool { return d.ID == p.ID && d.State != Reverted })
	})
	if err := s.backtest(ctx, made, agent); err != nil {
		return nil, w, err
	}
	err = s.log.Change(ctx, func(tx *audit.Tx) error {
		tx.Record(audit.Event{Type: "rightsizing.evaluated", Actor: by, Object: "agent/" + agent, Agent: agent, Detail: detail(map[string]any{"proposals": len(made), "since": now.Add(-window).UTC()})})
		return s.store.replaceProposed(ctx, tx, agent, made)
	})
	return made, w, err
}

func (s *Service) judgeAll(ctx context.Context, agent string, since, now time.Time) ([]Proposal, Watched, error) {
	all, err := s.o.Policy.Grants(ctx, "")
	if err != nil {
		return nil, Watched{}, err
	}
	used, w, err := s.find(ctx, Query{Agent: agent, Since: since})
	if err != nil {
		return nil, w, err
	}
	var out []Proposal
	for _, g := range all {
		if g.Agent != agent {
			continue
		}
		for _, p := range s.judge(g, all, used, since, later(g.Created, w.Since), now) {
			if !slices.ContainsFunc(p.After, func(g policy.Grant) bool { return s.o.Policy.CheckGrant(g) != nil }) {
				p.Made, p.Changed = now, now
				out = append(out, p)
			}
		}
	}
	return out, w, nil
}

// trial is the proposal as a change of grants.
func (p *Proposal) trial() policy.Trial {
	t := policy.Trial{Grants: p.After}
	if !p.keeps() {
		t.Revoke = []string{p.Grant}
	}
	return t
}

// keeps reports whether a grant of the name stays.
func (p *Proposal) keeps() bool {
	return slices.ContainsFunc(p.After, func(g policy.Grant) bool { return g.Name == p.Grant })
}

// backtest says of each proposal what it would have refused.
func (s *Service) backtest(ctx context.Context, made []Proposal, agent string) error {
	if len(made) == 0 {
		return nil
	}
	trials := make([]policy.Trial, len(made))
	for i := range made {
		trials[i] = made[i].trial()
	}
	tests, err := s.o.Policy.Backtests(ctx, trials, policy.Window{Since: made[0].Since, Agent: agent, Most: mostCalls})
	if err != nil {
		return err
	}
	for i, b := range tests {
		p := &made[i]
		p.Calls, p.Unseen, p.Partial = b.Calls, b.Unseen, b.Next != ""
		p.Changes, p.Refused = refusals(b)
	}
	return nil
}

// refusals are the changes that refuse, and how many calls they are.
func refusals(b policy.Backtest) (out []policy.Change, n int64) {
	for _, c := range b.Changes {
		if c.To == policy.Deny.String() {
			out, n = append(out, c), n+c.Count
		}
	}
	return out, n
}

// Proposals lists proposals in a state, or in any, of an agent or of all, the
// newest first.
func (s *Service) Proposals(ctx context.Context, agent, state string) ([]Proposal, error) {
	out, err := s.rightsizings(ctx, `($1 = '' OR agent = $1) AND ($2 = '' OR state = $2)`, agent, state)
	if err != nil {
		return nil, err
	}
	for i := range out {
		if err := s.observedOf(ctx, &out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// observedOf fills in what a proposal would have refused since it is tried.
func (s *Service) observedOf(ctx context.Context, p *Proposal) error {
	if p.State != Tried {
		p.LastRefusal = storage.Time(p.noticed)
		return nil
	}
	found, _, err := s.find(ctx, Query{Agent: p.Agent, Rule: grantRule + p.Grant + triedRule, Since: p.Changed})
	for _, t := range found {
		if last := storage.Time(max(t.last, t.lastHeld)); !last.Before(p.Changed) {
			p.WouldRefuse += t.allowed + t.held
			p.LastRefusal = later(p.LastRefusal, last)
		}
	}
	return err
}

// Proposal returns one by its identifier.
func (s *Service) Proposal(ctx context.Context, id string) (Proposal, error) {
	grant, _, _ := strings.Cut(id, ":")
	found, err := s.rightsizings(ctx, `grant_name = $1 AND id = $2`, grant, id)
	if err != nil {
		return Proposal{}, err
	}
	if len(found) == 0 {
		return Proposal{}, ErrNoProposal.Say("there is no proposal %q; countersign grant rightsize AGENT makes them", id)
	}
	return found[0], s.observedOf(ctx, &found[0])
}

// AgentOf returns the agent that a grant is or was given to, as far as it is
// there or was right-sized.
func (s *Service) AgentOf(ctx context.Context, grant string) (string, error) {
	if g, err := s.o.Policy.Grant(ctx, grant); err == nil {
		return g.Agent, nil
	}
	found, err := s.rightsizings(ctx, `grant_name = $1`, grant)
	if err != nil || len(found) == 0 {
		return "", err
	}
	return found[0].Agent, nil
}

// Try notes, beside every decision that rests on the grant, whether it would be
// refused were the proposal accepted. Nothing is refused.
func (s *Service) Try(ctx context.Context, by audit.Actor, reason, id string) (Proposal, error) {
	return s.move(ctx, by, reason, id, "rightsizing.tried", Tried, []string{Proposed, Dropped}, func(tx *audit.Tx, p *Proposal) error {
		if err := s.unchanged(ctx, p); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE use_rightsizings SET state = $1 WHERE grant_name = $2 AND state = $3`, Proposed, p.Grant, Tried); err != nil {
			return err
		}
		return s.o.Policy.ShadowTx(ctx, tx, p.Grant, p.After)
	})
}

// Drop says that a proposal is not wanted; it ends its trial.
func (s *Service) Drop(ctx context.Context, by audit.Actor, reason, id string) (Proposal, error) {
	return s.move(ctx, by, reason, id, "rightsizing.dropped", Dropped, []string{Proposed, Tried}, func(tx *audit.Tx, p *Proposal) error {
		if p.State != Tried {
			return nil
		}
		return s.o.Policy.UnshadowTx(ctx, tx, p.Grant)
	})
}

// Accept makes the grant what the proposal says. It is refused if calls came
// since then that it would refuse, unless force is true.
func (s *Service) Accept(ctx context.Context, by audit.Actor, reason, id string, force bool) (Proposal, error) {
	p, err := s.Proposal(ctx, id)
	if err != nil {
		return p, err
	}
	if !force {
		tests, err := s.o.Policy.Backtests(ctx, []policy.Trial{p.trial()}, policy.Window{Since: p.Made, Agent: p.Agent, Most: mostCalls})
		if err != nil {
			return p, err
		}
		if changes, n := refusals(tests[0]); n > 0 {
			return p, ErrNewUse.Say("%d calls were made since this was proposed that it would refuse, such as %s; look again (countersign grant rightsize %s), or accept it all the same (--force)", n, changes[0].Events[0], p.Agent)
		}
	}
	return s.move(ctx, by, reason, id, "rightsizing.accepted", Accepted, []string{Proposed, Tried}, func(tx *audit.Tx, p *Proposal) error {
		if err := s.unchanged(ctx, p); err != nil {
			return err
		}
		if err := s.o.Policy.UnshadowTx(ctx, tx, p.Grant); err != nil {
			return err
		}
		return s.replace(ctx, tx, by, why(reason, "right-sizing "+p.ID), p.Before, p.After)
	})
}

// Revert gives back what an accepted proposal took.
func (s *Service) Revert(ctx context.Context, by audit.Actor, reason, id string) (Proposal, error) {
	return s.move(ctx, by, reason, id, "rightsizing.rolled_back", Reverted, []string{Accepted}, func(tx *audit.Tx, p *Proposal) error {
		for _, g := range p.After {
			now, err := s.o.Policy.Grant(ctx, g.Name)
			if err != nil || !now.Same(g) {
				return ErrStale.Say("the grant %s is not as the right-sizing left it; what is wanted has to be given by hand: countersign grant add", g.Name)
			}
		}
		if _, err := s.o.Policy.Grant(ctx, p.Grant); err == nil && !p.keeps() {
			return ErrStale.Say("there is another grant %s by now", p.Grant)
		}
		for _, g := range p.After {
			if g.Name != p.Grant {
				if err := s.o.Policy.RevokeGrantTx(ctx, tx, by, why(reason, "right-sizing "+p.ID+" is taken back"), g.Name); err != nil {
					return err
				}
			}
		}
		if err := s.o.Policy.ResizeGrantTx(ctx, tx, by, why(reason, "right-sizing "+p.ID+" is taken back"), p.Before); err != nil {
			return err
		}
		if s.o.Findings == nil {
			return nil
		}
		return s.o.Findings.CloseObjectTx(ctx, tx, by, "grant/"+p.Grant, "the right was given back", ruleRefused)
	})
}

func why(reason, otherwise string) string {
	if reason == "" {
		return otherwise
	}
	return reason
}

// unchanged refuses a proposal about a grant that is not what it was.
func (s *Service) unchanged(ctx context.Context, p *Proposal) error {
	g, err := s.o.Policy.Grant(ctx, p.Grant)
	if err != nil || !g.Same(p.Before) {
		return ErrStale.Say("the grant %s is not what it was when this was proposed; look again: countersign grant rightsize %s", p.Grant, p.Agent)
	}
	for _, a := range p.After {
		if _, err := s.o.Policy.Grant(ctx, a.Name); err == nil && a.Name != p.Grant {
			return ErrStale.Say("there is a grant %s by now; look again: countersign grant rightsize %s", a.Name, p.Agent)
		}
	}
	return nil
}

// replace puts grants in the place of one.
func (s *Service) replace(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, before policy.Grant, after []policy.Grant) error {
	kept := false
	for _, g := range after {
		kept = kept || g.Name == before.Name
		if err := s.o.Policy.ResizeGrantTx(ctx, tx, by, reason, g); err != nil {
			return err
		}
	}
	if kept {
		return nil
	}
	return s.o.Policy.RevokeGrantTx(ctx, tx, by, reason, before.Name)
}

// move brings a proposal from one of some states into another, with what do
// does, in one change.
func (s *Service) move(ctx context.Context, by audit.Actor, reason, id string, kind audit.Type, to string, from []string, do func(*audit.Tx, *Proposal) error) (Proposal, error) {
	p, err := s.Proposal(ctx, id)
	if err != nil {
		return p, err
	}
	if !slices.Contains(from, p.State) {
		return p, ErrState.Say("the proposal %s is %s; only what is %s can become %s", id, p.State, strings.Join(from, " or "), to)
	}
	now := s.o.Now()
	err = s.o.Policy.Change(ctx, func(tx *audit.Tx) error {
		if err := do(tx, &p); err != nil {
			return err
		}
		if err := s.store.move(ctx, tx, &p, to, now, by.Name, reason); err != nil {
			return err
		}
		tx.Record(audit.Event{Type: kind, Actor: by, Object: "grant/" + p.Grant, Agent: p.Agent, Connection: p.Before.Connection, Reason: reason, Detail: detail(map[string]any{"proposal": p.ID, "kind": p.Kind})})
		return nil
	})
	if err != nil {
		return p, err
	}
	return s.Proposal(ctx, id)
}

func detail(m map[string]any) jsontext.Value {
	b, err := json.Marshal(m, json.Deterministic(true))
	if err != nil {
		return fmt.Appendf(nil, `{"error":%q}`, "cannot be written") // cannot be: texts, numbers and times
	}
	return b
}
