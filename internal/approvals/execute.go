package approvals

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/audit"
)

// Permit is the right to make one approved call, once. Whoever got it must
// call Settle, and Told if the client got the whole answer.
type Permit struct {
	s       *Service
	request Request
	done    chan struct{} // closed when the answer was told, or never will be

	mu      sync.Mutex
	settled bool
	told    bool
	once    sync.Once
}

// Request returns what was approved, by whom.
func (p *Permit) Request() Request { return p.request }

// Approvers names the people who approved.
func (r Request) Approvers() []string {
	var out []string
	for _, d := range r.Decisions {
		if d.Verdict == Approve {
			out = append(out, d.Name)
		}
	}
	return out
}

// claim uses an approval up: everything is looked at again, and then one call
// of all that come gets the Permit.
func (s *Service) claim(ctx context.Context, h Held, r *Request, now time.Time) (Answer, error) {
	why, err := s.notAnyMore(ctx, h, r, now)
	if err != nil {
		return Answer{}, err
	}
	if why != "" {
		return Answer{}, again(s.void(ctx, r, why, now))
	}
	if h.Ready != nil {
		if err := h.Ready(ctx); err != nil {
			return Answer{Request: *r}, err
		}
	}
	c := *r
	err = s.change(ctx, r.ID, func(tx *audit.Tx) error {
		*r = c
		r.ExecCall, r.holder = h.Call, s.holder
		if err := advance(ctx, tx, r, Executing, now); err != nil {
			return err
		}
		ev := r.event("approval.used", audit.Actor{Kind: audit.KindAgent, ID: r.Binding.AgentID, Name: r.Binding.Agent}, "",
			map[string]any{"executed_as": h.Call, "approvers": r.Approvers(), "override": r.Override})
		ev.Call = h.Call
		tx.Record(ev)
		if h.Do == nil {
			return nil
		}
		if err := h.Do(ctx, tx, *r); err != nil {
			return err
		}
		return executed(ctx, tx, r, audit.Succeeded, false, now)
	})
	if err != nil {
		return Answer{}, err
	}
	if h.Do != nil {
		return Answer{Request: *r}, nil
	}
	p := &Permit{s: s, request: *r, done: make(chan struct{})}
	s.liveMu.Lock()
	s.live[r.ID] = p
	s.liveMu.Unlock()
	return Answer{Request: *r, Permit: p}, nil
}

// notAnyMore says why an approved call may not be made any more, "" if it may.
// That the identities are active, nothing is locked and the policy, the tool and
// the bytes are the same the line has seen to before: it authenticated and
// decided anew, and its binding is the request's.
func (s *Service) notAnyMore(ctx context.Context, h Held, r *Request, now time.Time) (string, error) {
	if !s.watch.Fresh() {
		return "", identityStale
	}
	if r.prepared() { // the line has decided anew, by what the run has read since
		if !h.Allowed {
			return "it may not be made without an approval any more", nil
		}
		return "", nil
	}
	for _, l := range h.Labels {
		if !slices.Contains(r.Labels, l) {
			return "the run has gathered the label " + l + " since people approved", nil
		}
	}
	if r.Override {
		d := r.Decisions[len(r.Decisions)-1]
		if u, ok := s.userByID(d.ID); !ok || u.Role != "admin" {
			return d.Name + ", who broke the glass, is no administrator any more", nil
		}
		return "", nil
	}
	// Who stood in for someone must do so still, not only when they decided.
	in, err := readDelegations(ctx, s.db, ` WHERE ended = 0 AND since <= $1 AND until > $2`, micros(r.Decided), micros(now))
	if err != nil {
		return "", err
	}
	var people []string
	for _, d := range r.Decisions {
		if d.Verdict == Approve {
			people = append(people, d.ID)
		}
	}
	if !s.metBy(r, people, r.Decided.Sub(r.Created), in) {
		return "someone who approved is not entitled to any more", nil
	}
	return "", nil
}

// Stands says why what people approved is not good any more, although it is used up:
// what they said is good for more than one call. "" if it is.
func (s *Service) Stands(ctx context.Context, r Request) (string, error) {
	return s.notAnyMore(ctx, Held{}, &r, s.o.Now())
}

// Settle records how the call ended and keeps its answer for an identical call,
// unless the client got it. kept may be nil. It is safe to call twice; the
// first counts.
func (p *Permit) Settle(ctx context.Context, outcome string, kept *Kept) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.settled {
		return
	}
	p.settled = true
	s, r := p.s, p.request
	if kept != nil && len(kept.Body) <= KeepMost {
		sealed, err := s.seal(r.ID, "kept", kept)
		if err != nil {
			s.o.Logger.Error("the answer to an approved call could not be kept", "approval", r.ID, "error", err)
		}
		r.kept = sealed
	}
	if err := s.settle(ctx, &r, outcome, p.told); err != nil {
		s.o.Logger.Error("an approved call's end could not be recorded; it is looked up in the log later", "approval", r.ID, "error", err)
		p.finish()
		return
	}
	p.request = r
	if p.told {
		p.finish()
	}
}

// Told says that the client has the whole answer: the same call again is a new
// request.
func (p *Permit) Told(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told = true
	if !p.settled {
		return
	}
	if err := p.s.shut(ctx, &p.request); err != nil && !errors.Is(err, ErrRaced) {
		p.s.o.Logger.Warn("an answer was told, but stays for an identical call", "approval", p.request.ID, "error", err)
	}
	p.finish()
}

// Done says that nothing more will be told: what is kept is for an identical
// call. It may be called more than once.
func (p *Permit) Done() { p.finish() }

func (p *Permit) finish() {
	p.once.Do(func() {
		p.s.liveMu.Lock()
		delete(p.s.live, p.request.ID)
		p.s.liveMu.Unlock()
		close(p.done)
		p.s.hub.wake(p.request.ID)
	})
}

// settle ends an executing request.
func (s *Service) settle(ctx context.Context, r *Request, outcome string, told bool) error {
	c, now := *r, s.o.Now()
	return s.change(ctx, r.ID, func(tx *audit.Tx) error {
		*r = c
		return executed(ctx, tx, r, outcome, told, now)
	})
}

// executed is settle inside a change.
func executed(ctx context.Context, tx *audit.Tx, r *Request, outcome string, told bool, now time.Time) error {
	r.Outcome, r.Why, r.open = outcome, ended(outcome), !told
	if told {
		r.kept = nil
	}
	if err := advance(ctx, tx, r, Executed, now); err != nil {
		return err
	}
	ev := r.event("approval.executed", audit.System, "", map[string]any{"executed_as": r.ExecCall, "outcome": outcome})
	ev.Call = r.ExecCall
	tx.Record(ev)
	return nil
}

// NotSent is the outcome of an approved call that never left.
const NotSent = "not_sent"

func ended(outcome string) string {
	switch outcome {
	case audit.Succeeded:
		return "the call was made and succeeded"
	case audit.Failed:
		return "the call was made and the upstream answered that it failed"
	case NotSent:
		return "the call was not sent"
	case audit.Unknown:
		return "the call may have been made; nobody was left to see how it ended, and it is not repeated"
	}
	return "the call was made, and its answer did not arrive whole"
}
