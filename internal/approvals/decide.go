package approvals

import (
	"context"
	"encoding/json/jsontext"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/storage"
)

// By is a signed-in person who decides, and how they reached us.
type By struct {
	Person
	Credential string // identifier of the token presented
	Channel    string // api, slack
	// Assertion is the person's signature with their passkey over Challenge, as
	// the browser returned it (PublicKeyCredential.toJSON). Nil: there is none.
	Assertion jsontext.Value
}

// Actor returns the person as an actor of events.
func (b By) Actor() audit.Actor { return audit.Person(b.ID, b.Name) }

const decideAttempts = 16 // lost races against other deciders

// Decide records a person's answer. One entitled person's no settles the
// request; yeses approve it when every need has its quorum. Refusals:
// ErrNotFound, ErrSettled, ErrExpired, ErrVoid, ErrDecided, ErrSelf,
// ErrNotEntitled, ErrReason, ErrVerdict, ErrPerson; fault.Unavailable while
// identities cannot be seen.
func (s *Service) Decide(ctx context.Context, by By, id string, v Verdict, reason string) (Request, error) {
	if v != Approve && v != Deny {
		return Request{}, ErrVerdict
	}
	return s.answer(ctx, by, id, reason, func(tx *audit.Tx, r *Request, now time.Time) error {
		return s.decide(ctx, tx, by, r, v, reason, now)
	})
}

// answer runs one person's act on a pending request, again if somebody else
// changed it meanwhile.
func (s *Service) answer(ctx context.Context, by By, id, reason string, act func(tx *audit.Tx, r *Request, now time.Time) error) (Request, error) {
	if err := checkReason(reason); err != nil {
		return Request{}, err
	}
	if !s.watch.Fresh() {
		return Request{}, identityStale
	}
	if u, ok := s.identity.User(by.Name); !ok || u.Disabled || u.ID != by.ID {
		return Request{}, ErrPerson
	}
	for range decideAttempts {
		r, err := s.Get(ctx, id)
		if err != nil {
			return r, err
		}
		now := s.o.Now().UTC().Truncate(time.Microsecond)
		if r, err = s.open(ctx, r, now); err != nil {
			return r, err
		}
		c := r
		err = s.change(ctx, id, func(tx *audit.Tx) error {
			r = c
			return act(tx, &r, now)
		})
		switch {
		case errors.Is(err, ErrRaced):
			continue
		case storage.Duplicate(err):
			return r, ErrDecided
		case err != nil:
			return r, err
		}
		s.look()
		return s.Get(ctx, id)
	}
	return Request{}, ErrRaced
}

// open refuses a request that nobody can decide about any more, and settles it
// if that was not known yet.
func (s *Service) open(ctx context.Context, r Request, now time.Time) (Request, error) {
	if r.State != Pending {
		return r, notPending(&r)
	}
	if !now.Before(r.DecideBy) {
		if err := s.expire(ctx, &r, now); err != nil && !errors.Is(err, ErrRaced) {
			return r, err
		}
		return r, ErrExpired.Say("the time to decide was over at %s", r.DecideBy.Format(time.RFC3339))
	}
	if why := s.stale(r.Binding); why != "" {
		if err := s.void(ctx, &r, why, now); err != nil && !errors.Is(err, ErrRaced) {
			return r, err
		}
		return r, ErrVoid.Say("%s since the call was held, so it cannot be approved any more; the agent can ask again", why)
	}
	return r, nil
}

func (s *Service) stale(b Binding) string {
	if s.o.Stale == nil {
		return ""
	}
	return s.o.Stale(b)
}

func notPending(r *Request) error {
	switch r.State {
	case Expired:
		return ErrExpired.Say("the request expired: %s", r.Why)
	case Void:
		return ErrVoid.Say("the request is void: %s", r.Why)
	}
	return ErrSettled.Say("the request is %s already", r.State)
}

func (s *Service) decide(ctx context.Context, tx *audit.Tx, by By, r *Request, v Verdict, reason string, now time.Time) error {
	waited := now.Sub(r.Created)
	in, err := standIns(ctx, tx, now)
	if err != nil {
		return err
	}
	as, err := s.entitled(r, by.Person, waited, in)
	if err != nil {
		return err
	}
	d, err := s.signed(ctx, tx, r, by, Decision{Person: by.Person, Verdict: v, Reason: s.redact(reason), At: now, For: as, Channel: by.Channel, Credential: by.Credential})
	if err != nil {
		return err
	}
	if err := insertDecision(ctx, tx, r.ID, d); err != nil {
		return err
	}
	r.Decisions = append(r.Decisions, d)
	kind, next := audit.Type("approval.voted"), r.State
	switch {
	case v == Deny:
		kind, next, r.Decided, r.Why = "approval.denied", Denied, now, "denied by "+by.Name+": "+d.Reason
	case s.metBy(r, approvers(r), waited, in):
		_, execute := clocks(r.Needs)
		kind, next, r.Why = "approval.granted", Approved, "approved"
		r.allow(now, execute)
	}
	if next == r.State {
		err = save(ctx, tx, r, now)
	} else {
		err = advance(ctx, tx, r, next, now)
	}
	if err != nil {
		return err
	}
	tx.Record(decisionEvent(r, kind, by, d))
	return nil
}

// entitled returns whom a person counts for, or why they may not decide.
func (s *Service) entitled(r *Request, p Person, waited time.Duration, in []Delegation) (Person, error) {
	barred := 0
	for need := range r.Needs {
		if as, ok := s.fits(r, p, need, waited, in); ok {
			return as, nil
		}
		if s.barred(r, p, need) {
			barred++
		}
	}
	if barred == len(r.Needs) {
		return Person{}, ErrSelf
	}
	return Person{}, ErrNotEntitled
}

func approvers(r *Request) []string {
	var out []string
	for _, d := range r.Decisions {
		if d.Verdict == Approve {
			out = append(out, d.ID)
		}
	}
	return out
}

func decisionEvent(r *Request, kind audit.Type, by By, d Decision) audit.Event {
	detail := map[string]any{"verdict": string(d.Verdict), "statement": d.Statement, "signature": d.Signature, "channel": d.Channel}
	if d.For.ID != "" {
		detail["stands_in_for"] = d.For.Name
	}
	if !r.ExecuteBy.IsZero() {
		detail["execute_by"] = r.ExecuteBy
	}
	ev := r.event(kind, by.Actor(), d.Reason, detail)
	ev.Credential = by.Credential
	return ev
}

func (s *Service) redact(text string) string { return string(s.o.Redactor.Redact([]byte(text))) }

// Override breaks the glass: an administrator who is no part of the request
// approves it in an emergency. It names who and why, stays good for a short time only,
// is told to everyone who was passed over, and opens a finding that somebody
// has to review.
func (s *Service) Override(ctx context.Context, by By, id, reason string) (Request, error) {
	return s.answer(ctx, by, id, reason, func(tx *audit.Tx, r *Request, now time.Time) error {
		return s.override(ctx, tx, by, r, reason, now)
	})
}

// overrideFor is how long at most a broken glass lets the call through.
const overrideFor = 15 * time.Minute

func (s *Service) override(ctx context.Context, tx *audit.Tx, by By, r *Request, reason string, now time.Time) error {
	if !s.admin(by.Actor()) {
		return ErrBreakGlass
	}
	for need := range r.Needs {
		if s.barred(r, by.Person, need) {
			return ErrBreakGlass
		}
	}
	in, err := standIns(ctx, tx, now)
	if err != nil {
		return err
	}
	skipped := slices.DeleteFunc(s.candidates(r, r.DecideBy.Sub(r.Created), in), func(p Person) bool { return p.ID == by.ID })
	d, err := s.signed(ctx, tx, r, by, Decision{Person: by.Person, Verdict: Approve, Reason: "glass broken: " + s.redact(reason), At: now, Channel: by.Channel, Credential: by.Credential})
	if err != nil {
		return err
	}
	if err := insertDecision(ctx, tx, r.ID, d); err != nil {
		return err
	}
	_, execute := clocks(r.Needs)
	r.Decisions = append(r.Decisions, d)
	r.Override, r.Decided, r.ExecuteBy, r.Why = true, now, now.Add(min(execute, overrideFor)), "the glass was broken by "+by.Name
	if err := advance(ctx, tx, r, Approved, now); err != nil {
		return err
	}
	tx.Record(decisionEvent(r, "approval.overridden", by, d))
	if err := s.inform(ctx, tx, r, Overridden, by.Person, d.Reason, append(skipped, s.owner(r)...)...); err != nil {
		return err
	}
	return s.findings.OpenTx(ctx, tx, findings.Finding{
		Rule: "approval.overridden", Severity: findings.High, Object: "approval/" + r.ID, NotBy: by.ID,
		Title:  fmt.Sprintf("%s broke the glass for %s/%s by %s; review it", by.Name, r.Binding.Connection, r.Binding.Tool, r.Binding.Agent),
		Detail: fmt.Sprintf("Reason: %s\nPassed over: %s\nGood until %s.\nSee countersign approvals show %s; someone other than %s has to close this finding with what the review found.", s.redact(reason), list(names(skipped)), r.ExecuteBy.Format(time.RFC3339), r.ID, by.Name),
	})
}

func list(names []string) string {
	if len(names) == 0 {
		return "nobody"
	}
	out := names[0]
	for _, n := range names[1:] {
		out += ", " + n
	}
	return out
}

// Withdraw ends a pending request, because the agent cancelled it or a person
// has reason to.
func (s *Service) Withdraw(ctx context.Context, by audit.Actor, id, reason string) (Request, error) {
	for range decideAttempts {
		r, err := s.Get(ctx, id)
		if err != nil {
			return r, err
		}
		if r.State != Pending && r.State != Approved {
			return r, notPending(&r)
		}
		now, c := s.o.Now(), r
		err = s.change(ctx, id, func(tx *audit.Tx) error {
			r = c
			r.Why = "withdrawn by " + by.Name
			if err := advance(ctx, tx, &r, Void, now); err != nil {
				return err
			}
			tx.Record(r.event("approval.withdrawn", by, s.redact(reason), nil))
			return nil
		})
		if !errors.Is(err, ErrRaced) {
			return r, err
		}
	}
	return Request{}, ErrRaced
}

// WithdrawAllTx ends every request of an agent that is not settled, inside a
// change, and returns how many. What is being executed is left to its outcome.
// Who waits is woken when the change is seen.
func (s *Service) WithdrawAllTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, agent string) (int, error) {
	open, err := read(ctx, tx, ` WHERE agent = $1 AND state IN ('pending', 'approved') ORDER BY id`, agent)
	if err != nil {
		return 0, err
	}
	for i := range open {
		r := &open[i]
		r.Why = "withdrawn by " + by.Name
		if err := advance(ctx, tx, r, Void, s.o.Now()); err != nil {
			return 0, err
		}
		tx.Record(r.event("approval.withdrawn", by, s.redact(reason), nil))
	}
	return len(open), nil
}

// Comment adds a remark to a request. Who may see it may remark; ask says
// that the agent's owner is asked something.
func (s *Service) Comment(ctx context.Context, by By, id, remark string, ask bool) error {
	if err := checkReason(remark); err != nil {
		return err
	}
	r, err := s.Get(ctx, id)
	if err != nil {
		return err
	}
	kind := audit.Type("approval.commented")
	detail := map[string]any{}
	var told []Person
	as := Answered
	if ask {
		if told, as = s.owner(&r), Asked; len(told) == 0 {
			return ErrNoOwner
		}
		kind, detail["owner"] = "approval.asked", told[0].Name
	} else if told, err = s.askers(ctx, &r, by.Person); err != nil {
		return err
	}
	ev := r.event(kind, by.Actor(), remark, detail)
	ev.Credential = by.Credential
	return s.change(ctx, id, func(tx *audit.Tx) error {
		tx.Record(ev)
		return s.inform(ctx, tx, &r, as, by.Person, s.redact(remark), told...)
	})
}
