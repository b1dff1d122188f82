package releases

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/storage"
)

// The states of a request.
const (
	StateOpen     = "open"
	StateApproved = "approved"
	StateDenied   = "denied"
	StateExpired  = "expired"
	StateDone     = "done" // of a promotion that needed nobody
)

// AskFor is how long a request waits for another person.
const AskFor = 72 * time.Hour

// Request is a promotion that somebody asks for.
type Request struct {
	ID        string    `json:"id"`
	Agent     string    `json:"agent"`
	Number    int64     `json:"number"`
	Digest    string    `json:"digest" doc:"of the release: what is approved is exactly that"`
	Stage     string    `json:"stage"`
	Percent   int64     `json:"percent,omitzero" doc:"of a canary: the share of the runs that try it"`
	Signals   *Signals  `json:"signals,omitempty"`
	Accepted  []string  `json:"accepted" doc:"what the gate found missing and the asker accepts by name"`
	State     string    `json:"state" enum:"open,approved,denied,expired,done"`
	Reason    string    `json:"reason"`
	By        string    `json:"by"`
	Asked     time.Time `json:"asked"`
	Expires   time.Time `json:"expires,omitzero"`
	DecidedBy string    `json:"decided_by,omitempty"`
	Decided   time.Time `json:"decided,omitzero"`
	Answer    string    `json:"answer,omitempty" doc:"why it was decided so"`

	asker string // identifier of the person
}

// Ask is what a promotion is asked for with.
type Ask struct {
	Agent    string
	Number   int64    // the newest if 0
	Stage    string   // the agent's if empty
	Percent  int64    // 1 to 100 makes a canary; 0 puts the release in force for all runs
	Signals  *Signals // of a canary; DefaultSignals if nil
	Accepted []string // items of the gate that may be missing
	Gives    bool     // whoever asks may give grants; see Back
}

// Promote puts a release in force, or as a canary under trial. In development it
// does so at once; above, it passes the readiness gate and then waits for another
// person (Approve). Needs a reason.
func (s *Service) Promote(ctx context.Context, by audit.Actor, reason string, ask Ask) (Request, error) {
	if err := checkReason(reason); err != nil {
		return Request{}, err
	}
	q, err := s.request(ctx, by, reason, ask)
	if err != nil {
		return q, err
	}
	err = s.change(ctx, func(tx *audit.Tx) error {
		q := q // a retry begins with what was asked
		if q.Stage == identity.Development {
			return s.promoteTx(ctx, tx, by, reason, q, ask.Gives)
		}
		if err := s.insertRequest(ctx, tx, q); err != nil {
			return err
		}
		tx.Record(q.event("release.requested", by, reason))
		return nil
	})
	if err == nil && q.Stage == identity.Development {
		q.State = StateDone
	}
	return q, err
}

// request checks what is asked for and makes a request of it.
func (s *Service) request(ctx context.Context, by audit.Actor, reason string, ask Ask) (Request, error) {
	a, ok := s.o.Identity.Agent(ask.Agent)
	if !ok {
		return Request{}, ErrNoAgent.Say("there is no agent %q", ask.Agent)
	}
	if ask.Stage == "" {
		ask.Stage = a.Stage
	}
	if !slices.Contains(identity.Stages, ask.Stage) {
		return Request{}, ErrInvalid.Say("stage: %.80q must be one of %s", ask.Stage, strings.Join(identity.Stages, ", "))
	}
	r, err := s.Get(ctx, ask.Agent, ask.Number)
	if err != nil {
		return Request{}, err
	}
	now := storage.Time(storage.Micros(s.o.Now()))
	q := Request{ID: id.New(RequestID), Agent: a.Name, Number: r.Number, Digest: r.Digest, Stage: ask.Stage, Percent: ask.Percent, Signals: ask.Signals, Accepted: append([]string{}, ask.Accepted...),
		State: StateOpen, Reason: reason, By: by.Name, Asked: now, asker: by.ID}
	if q.Stage != identity.Development {
		q.Expires = now.Add(AskFor)
	}
	if q.Percent < 0 || q.Percent > 100 {
		return q, ErrInvalid.Say("percent: a canary is 1 to 100 percent of the runs")
	}
	if q.Percent == 0 {
		q.Signals = nil
	} else if q.Signals, err = q.Signals.normalize(); err != nil {
		return q, err
	}
	if err := s.unlocked(a); err != nil {
		return q, err
	}
	return q, s.ready(ctx, a, r, q)
}

// unlocked refuses to promote what a lock is on.
func (s *Service) unlocked(a identity.Agent) error {
	if s.o.Locks == nil {
		return nil
	}
	if err := s.o.Locks.Check(locks.Subject{Agents: []string{a.Name}, Owners: []string{a.Owner}, Team: a.Team}); err != nil {
		return ErrLocked.With(err)
	}
	return nil
}

// Approve lets a promotion happen that somebody else asked for: at once, if it is
// still as it was asked for, passes the gate still, and no lock is on the agent.
// Needs a reason.
func (s *Service) Approve(ctx context.Context, by audit.Actor, reason, request string) (Request, error) {
	if err := checkReason(reason); err != nil {
		return Request{}, err
	}
	q, err := s.Request(ctx, request)
	if err != nil {
		return q, err
	}
	a, ok := s.o.Identity.Agent(q.Agent)
	if !ok {
		return q, ErrNoAgent.Say("there is no agent %q any more", q.Agent)
	}
	r, err := s.Get(ctx, q.Agent, q.Number)
	switch {
	case err != nil:
		return q, err
	case by.ID == q.asker || by.Name == q.By:
		return q, ErrSelf
	case r.Digest != q.Digest:
		return q, ErrRaced.Say("the release is not the one that was asked for")
	}
	if err := s.ready(ctx, a, r, q); err != nil {
		return q, err
	}
	err = s.change(ctx, func(tx *audit.Tx) error {
		if err := s.unlocked(a); err != nil { // as late as can be; a lock that comes later stops every call all the same
			return err
		}
		if err := s.decideTx(ctx, tx, &q, by, reason, StateApproved); err != nil {
			return err
		}
		tx.Record(q.event("release.approved", by, reason))
		return s.promoteTx(ctx, tx, by, q.Reason, q, true) // who may approve may give grants
	})
	return q, err
}

// Deny refuses a promotion that was asked for, also one's own. Needs a reason.
func (s *Service) Deny(ctx context.Context, by audit.Actor, reason, request string) (Request, error) {
	if err := checkReason(reason); err != nil {
		return Request{}, err
	}
	q, err := s.Request(ctx, request)
	if err != nil {
		return q, err
	}
	err = s.change(ctx, func(tx *audit.Tx) error {
		if err := s.decideTx(ctx, tx, &q, by, reason, StateDenied); err != nil {
			return err
		}
		tx.Record(q.event("release.denied", by, reason))
		return nil
	})
	return q, err
}

// promoteTx does what was asked for, inside a change.
func (s *Service) promoteTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, q Request, gives bool) error {
	st, err := readState(ctx, tx, q.Agent)
	if err != nil {
		return err
	}
	if q.Percent > 0 {
		return s.tryTx(ctx, tx, by, reason, st, q, gives)
	}
	if _, err := s.o.Identity.SetStageTx(ctx, tx, by, reason, q.Agent, q.Stage); err != nil {
		return err
	}
	m := Move{Kind: MovePromoted, Number: q.Number}
	if st.Stage == q.Stage {
		m.Previous = st.Active
	}
	st.Stage, st.Active = q.Stage, q.Number
	_, err = s.moveTx(ctx, tx, by, reason, st, m, "release.promoted", gives)
	return err
}

// tryTx begins a canary, inside a change. Its grants and the agent's own policies
// are in force from now on for all runs; the pins are for its share alone.
func (s *Service) tryTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, st State, q Request, gives bool) error {
	a, ok := s.o.Identity.Agent(q.Agent)
	switch {
	case !ok:
		return ErrNoAgent.Say("there is no agent %q", q.Agent)
	case a.Stage != q.Stage || st.Active > 0 && st.Stage != q.Stage:
		return ErrStage.Say("a canary is tried in the agent's own stage, %s; promote a release to %s first", a.Stage, q.Stage)
	case st.Active == q.Number:
		return ErrInvalid.Say("release %d of %s is in force already", q.Number, q.Agent)
	}
	r, err := readRelease(ctx, tx, q.Agent, q.Number)
	if err != nil {
		return err
	}
	restored := nothing()
	want, err := s.beside(ctx, tx, r, st.Active, gives, &restored)
	if err != nil {
		return err
	}
	if err := s.restoreTx(ctx, tx, by, reason, r, want, q.Stage, &restored); err != nil {
		return err
	}
	if st.position, err = s.here(ctx, tx); err != nil {
		return err
	}
	m := Move{Kind: MoveCanary, Number: q.Number, Previous: st.Active}
	if m.took, err = s.took(ctx, tx, restored); err != nil {
		return err
	}
	st.Stage, st.Canary, st.Percent, st.Signals = q.Stage, q.Number, q.Percent, q.Signals
	if _, err = s.writeMove(ctx, tx, by, reason, st, m); err != nil {
		return err
	}
	tx.Record(audit.Event{Type: "release.canary_started", Actor: by, Object: "agent/" + q.Agent, Agent: q.Agent, Stage: q.Stage, Reason: reason, Digest: q.Digest,
		Detail: detail(map[string]any{"release": q.Number, "beside": st.Active, "percent": q.Percent, "signals": q.Signals, "restored": restored})})
	return nil
}

// beside are the grants that a canary's runs need and, of the release in force,
// those that the others need.
func (s *Service) beside(ctx context.Context, tx *audit.Tx, r Release, active int64, gives bool, out *Restored) ([]policy.Grant, error) {
	from, err := s.giver(ctx, tx, r.Agent, active, gives)
	if err != nil {
		return nil, err
	}
	want, err := s.wanted(ctx, tx, r, from, out)
	if err != nil || active == 0 {
		return want, err
	}
	before := from.left
	before.Grants = slices.DeleteFunc(slices.Clone(before.Grants), func(g Grant) bool {
		return slices.ContainsFunc(r.Grants, func(o Grant) bool { return o.Name == g.Name })
	})
	from.left = r // what was revoked to make it, the others still need
	more, err := s.wanted(ctx, tx, before, from, out)
	return append(want, more...), err
}

// event returns an event about a request.
func (q Request) event(t audit.Type, by audit.Actor, reason string) audit.Event {
	return audit.Event{Type: t, Actor: by, Object: "agent/" + q.Agent, Agent: q.Agent, Stage: q.Stage, Reason: reason, Digest: q.Digest,
		Detail: detail(map[string]any{"request": q.ID, "release": q.Number, "stage": q.Stage, "percent": q.Percent, "asked_by": q.By, "accepted": q.Accepted})}
}
