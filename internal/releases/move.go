package releases

import (
	"context"
	"errors"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/storage"
)

// Restored is what putting a release in force changed beside the pins.
type Restored struct {
	Given    []string `json:"given" doc:"grants given back or changed back"`
	Revoked  []string `json:"revoked" doc:"grants that the release does not have"`
	Policies []string `json:"policies" doc:"policy files restored"`
	// Shared are policy files that differ from the release's and are about other
	// agents too: they stay as they are.
	Shared []string `json:"shared" doc:"policy files that differ and stay, because they are about other agents too; countersign policy rollback restores one"`
	// Kept are policy files about the agent alone that came later and forbid: a
	// rollback takes no protection away.
	Kept []string `json:"kept" doc:"later policy files about the agent alone that stay, because they forbid something"`
	// Withheld are grants of the release that stay away: a review revoked them or, on
	// the way back, they would let an agent in production do without an end what
	// cannot be undone. What it has by now under such a name stays.
	Withheld []string `json:"withheld" doc:"grants that a review revoked since, or that need an end or an exception by now: a person would have to give them anew"`
	// ByHand are grants of the release that a person revoked or narrowed: they stay
	// as they are.
	ByHand  []string `json:"by_hand" doc:"grants that a person revoked or narrowed by hand since, and that stay so; countersign grant rollback gives one back"`
	Removed []string `json:"removed" doc:"later policy files about the agent alone that only allow"`
}

// Moved is a move and what it changed.
type Moved struct {
	Move
	Restored Restored `json:"restored"`
}

// Back is what a rollback is asked for with.
type Back struct {
	Agent string
	To    int64 // a release that was in force; the one before if 0
	// Gives says that whoever asks may give grants: what people revoked while they
	// prepared the release that is left comes back too.
	Gives bool
}

// Rollback puts the release in force that was before, or number, and ends a
// canary: pins, grants and the agent's own policies return in one transaction.
// Without a number, while a canary is tried, the release in force stays. Only what
// was in force in this stage can be returned to: anything else is a promotion. The
// calls in flight of what is left are cut (Stands). Needs a reason.
func (s *Service) Rollback(ctx context.Context, by audit.Actor, reason string, back Back) (Moved, error) {
	if err := checkReason(reason); err != nil {
		return Moved{}, err
	}
	var m Moved
	err := s.change(ctx, func(tx *audit.Tx) error {
		st, err := readState(ctx, tx, back.Agent)
		if err != nil {
			return err
		}
		m, err = s.rollbackTx(ctx, tx, by, reason, st, back)
		return err
	})
	return m, err
}

// rollbackTx is Rollback of what was read as st, inside a change.
func (s *Service) rollbackTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, st State, back Back) (Moved, error) {
	if st.Active == 0 && st.Canary == 0 {
		return Moved{}, ErrNothing.Say("no release of %q is in force", st.Agent)
	}
	moves, err := readMoves(ctx, tx, st.Agent)
	if err != nil {
		return Moved{}, err
	}
	to, err := target(st, moves, back.To)
	if err != nil {
		return Moved{}, err
	}
	m := Move{Kind: MoveRolledBack, Number: to, Previous: st.Active}
	if st.Canary > 0 {
		m.Previous = st.Canary
	}
	st.left(to)
	st.Active = to
	return s.moveTx(ctx, tx, by, reason, st, m, "release.rolled_back", back.Gives)
}

// target is the release that a rollback goes to: number, or that before the one in
// force, or with a canary the one in force.
func target(st State, moves []Move, number int64) (int64, error) {
	switch {
	case number == 0 && st.Canary > 0:
		return st.Active, nil
	case number == 0:
		for _, m := range moves {
			if m.Kind == MovePromoted && m.Stage == st.Stage && m.Number == st.Active {
				number = m.Previous
				break
			}
		}
		if number == 0 {
			return 0, ErrNothing.Say("release %d of %s is the first in %s: there is none before; countersign stop %s stops the agent", st.Active, st.Agent, st.Stage, st.Agent)
		}
	}
	for _, m := range moves {
		if m.Kind == MovePromoted && m.Stage == st.Stage && m.Number == number {
			return number, nil
		}
	}
	return 0, ErrNothing.Say("release %d of %s was never in force in %s, so it cannot be returned to; countersign release promote %s %d does that", number, st.Agent, st.Stage, st.Agent, number)
}

// moveTx writes a state that ends what was tried, restores what the release in
// force keeps, and records the move.
func (s *Service) moveTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, st State, m Move, kind audit.Type, gives bool) (Moved, error) {
	st.Canary, st.Percent, st.Signals, st.position = 0, 0, nil, ""
	out := Moved{Restored: nothing()}
	digest := ""
	if st.Active > 0 {
		r, err := readRelease(ctx, tx, st.Agent, st.Active)
		if err != nil {
			return out, err
		}
		from, err := s.giver(ctx, tx, st.Agent, m.Previous, gives)
		if err != nil {
			return out, err
		}
		want, err := s.wanted(ctx, tx, r, from, &out.Restored)
		if err == nil && m.Kind == MoveRolledBack {
			want, err = s.givable(ctx, tx, want, &out.Restored)
		}
		if err != nil {
			return out, err
		}
		if err := s.restoreTx(ctx, tx, by, reason, r, want, st.Stage, &out.Restored); err != nil {
			return out, err
		}
		if m.took, err = s.took(ctx, tx, out.Restored); err != nil {
			return out, err
		}
		digest = r.Digest
	}
	var err error
	out.Move, err = s.writeMove(ctx, tx, by, reason, st, m)
	if err != nil {
		return out, err
	}
	tx.Record(audit.Event{Type: kind, Actor: by, Object: "agent/" + st.Agent, Agent: st.Agent, Stage: st.Stage, Reason: reason, Digest: digest,
		Detail: detail(map[string]any{"release": m.Number, "previous": m.Previous, "stage": st.Stage, "restored": out.Restored})})
	return out, nil
}

// writeMove writes a state and the move that led to it.
func (s *Service) writeMove(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, st State, m Move) (Move, error) {
	now := storage.Time(storage.Micros(s.o.Now()))
	st.Since = now
	if err := putState(ctx, tx, st); err != nil {
		return m, err
	}
	m.ID, m.Agent, m.Stage, m.Reason, m.By, m.At = id.New(MoveID), st.Agent, st.Stage, reason, by.Name, now
	if err := insertMove(ctx, tx, m); err != nil {
		return m, err
	}
	return m, storage.Bump(ctx, tx.Tx, Version)
}

func nothing() Restored {
	return Restored{Given: []string{}, Revoked: []string{}, Policies: []string{}, Shared: []string{}, Kept: []string{}, Removed: []string{}, Withheld: []string{}, ByHand: []string{}}
}

// restoreTx gives the agent, which is or comes to be in stage, the grants in want
// and its own policies of a release.
func (s *Service) restoreTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, r Release, want []policy.Grant, stage string, out *Restored) error {
	given, revoked, err := s.o.Policy.RestoreGrantsTx(ctx, tx, by, reason, r.Agent, want)
	if err != nil {
		return err
	}
	out.Given, out.Revoked = append(out.Given, given...), append(out.Revoked, revoked...)
	a, ok := s.o.Identity.Agent(r.Agent)
	if !ok {
		return ErrNoAgent.Say("there is no agent %q", r.Agent)
	}
	a.Stage = stage
	list, err := s.o.Policy.ConcernsTx(ctx, tx, policyAgent(a))
	if err != nil {
		return err
	}
	now := map[string]policy.Concern{}
	for _, f := range list {
		now[f.Name] = f
	}
	kept := map[string]bool{}
	for _, p := range r.Policies {
		kept[p.Name] = true
		// What is about others too, then or now, is not this agent's to return.
		if f, there := now[p.Name]; !p.Own || there && !f.Own {
			if !there || f.Text != p.Text {
				out.Shared = append(out.Shared, p.Name)
			}
			continue
		}
		changed, err := s.o.Policy.RestoreTx(ctx, tx, by, reason, p.Name, p.Text)
		if err != nil {
			return err
		}
		if changed {
			out.Policies = append(out.Policies, p.Name)
		}
	}
	return s.dropLater(ctx, tx, by, reason, list, kept, out)
}

// givable are those of the grants that may be given by now; of the others what the
// agent has under their names stays. A promotion is refused for them, but a rollback
// must not wait.
func (s *Service) givable(ctx context.Context, tx *audit.Tx, all []policy.Grant, out *Restored) (want []policy.Grant, err error) {
	for _, g := range all {
		may, err := s.o.Policy.MayGiveTx(ctx, tx, g)
		if err != nil {
			return nil, err
		}
		if may {
			want = append(want, g)
			continue
		}
		out.Withheld = append(out.Withheld, g.Name)
		now, err := s.o.Policy.GrantTx(ctx, tx, g.Name)
		if err != nil && !errors.Is(err, policy.ErrNoGrant) {
			return nil, err
		}
		if err == nil && now.Agent == g.Agent {
			want = append(want, now)
		}
	}
	return want, nil
}

// dropLater deletes the policy files about the agent alone that the release does
// not know and that only allow.
func (s *Service) dropLater(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, now []policy.Concern, kept map[string]bool, out *Restored) error {
	for _, f := range now {
		switch {
		case kept[f.Name] || !f.Own:
		case f.Forbids:
			out.Kept = append(out.Kept, f.Name)
		default:
			if err := s.o.Policy.DeletePolicyTx(ctx, tx, by, reason, f.Name); err != nil {
				return err
			}
			out.Removed = append(out.Removed, f.Name)
		}
	}
	return nil
}

func policyAgent(a identity.Agent) policy.Agent {
	return policy.Agent{Name: a.Name, Team: a.Team, Stage: a.Stage, Owner: a.Owner, Labels: a.Labels}
}
