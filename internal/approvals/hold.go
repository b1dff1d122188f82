package approvals

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
)

// Held is a call that policy holds, as the line knows it.
type Held struct {
	Binding Binding
	Version string // of all policies and grants, for the record
	Call    string // call_…
	Run     string // run_…
	Effect  string
	Needs   []Need
	Reason  string
	Labels  []string
	Origin  Origin
	Args    []byte        // what policy read; people see it redacted
	Values  []Value       // of the arguments that matter, and where each comes from
	Wire    *Wire         // not nil: the server may execute it
	Server  bool          // the server executes it when it is approved
	Window  time.Duration // how long it waits when it may be made, and can be cancelled
	// Allowed says that nobody has to approve the call: it waits for its window alone.
	Allowed bool
	// Ready, if set, is asked before an approval is used up, when everything else
	// that was approved still holds; an error leaves the approval as it is. It may
	// be asked more than once.
	Ready func(ctx context.Context) error
	// Only, if set, is the one request that this call may use: it is the call
	// that the server makes for it.
	Only string
	// Do, if set, is what the server does in the place of a call, in the change that
	// uses the approval up: both stand, or neither. There is no Permit then; the
	// request is executed. An error leaves the approval as it is. It may be called
	// more than once, of which one stands.
	Do func(ctx context.Context, tx *audit.Tx, r Request) error
}

// Answer is what there is to say to a held call.
type Answer struct {
	Request Request
	Permit  *Permit // not nil: the call may be made, this once
	Kept    *Kept   // not nil: it was made; this was its answer
	New     bool    // the request was made for this call
	Self    bool    // the agent's owner, who may sit at its client, may decide
}

// Hold asks people about a held call, or finds what they have said. The first
// call with a binding makes a request. An identical one attaches to it while it
// is open; when it was approved, the first to come gets the Permit; when it is
// settled, the first to come is told so, and after that the same call is a new
// request. A denied request stays closed to the agent until its decide-by.
func (s *Service) Hold(ctx context.Context, h Held) (Answer, error) {
	digest := h.Binding.Digest()
	if digest == "" {
		return Answer{}, ErrStored
	}
	same := h.Binding.same()
	if !s.repeats.allow(same, s.o.Now()) {
		return Answer{}, ErrFlood
	}
	for range 8 {
		r, found, err := openOf(ctx, s.db, same)
		if err != nil {
			return Answer{}, err
		}
		if h.Only != "" && (!found || r.ID != h.Only) {
			return Answer{}, ErrVoid.Say("the call is not the one that was approved any more")
		}
		var a Answer
		switch {
		case found && r.Digest != digest && !r.told():
			err = s.outdated(ctx, &r)
		case found:
			a, err = s.attach(ctx, h, &r)
		default:
			a, err = s.request(ctx, h, digest)
		}
		if !errors.Is(err, errAgain) && !errors.Is(err, ErrRaced) {
			a.Self = err == nil && s.self(&a.Request, s.o.Now())
			return a, err
		}
	}
	return Answer{}, ErrRaced
}

// told reports whether what became of the request is told to an identical
// call whatever decides about it by now: the call was made, or is being made.
func (r *Request) told() bool { return r.State == Executing || r.State == Executed }

// outdated closes a request about which other rules decide by now than those
// that people saw: what they said, or would say, is not about this any more.
// The call that found it asks anew.
func (s *Service) outdated(ctx context.Context, r *Request) error {
	if r.State.Settled() {
		return again(s.shut(ctx, r))
	}
	return again(s.void(ctx, r, rulesChanged, s.o.Now()))
}

const rulesChanged = "the policies or grants that decide about the call changed"

// errAgain says that the request changed and has to be looked at again.
var errAgain = errors.New("again")

// request makes a new request.
func (s *Service) request(ctx context.Context, h Held, digest string) (Answer, error) {
	needs, err := s.resolve(h.Needs)
	if err != nil {
		return Answer{}, err
	}
	if len(needs) == 0 {
		return s.prepare(ctx, h, digest)
	}
	excluded, err := s.excluded(ctx, h.Binding.Chain, h.Run)
	if err != nil {
		return Answer{}, err
	}
	now := s.o.Now().UTC().Truncate(time.Microsecond)
	decide, _ := clocks(needs)
	r := Request{
		ID: id.At(id.Approval, now), Digest: digest, same: h.Binding.same(), State: Pending, Binding: h.Binding, Call: h.Call, Run: h.Run, Event: id.At(id.Event, now), Effect: h.Effect,
		Needs: needs, Window: h.Window, Excluded: excluded, Labels: h.Labels, Reason: h.Reason, Origin: h.Origin, Created: now, DecideBy: now.Add(decide), open: true, revision: 1,
		Server: h.Wire != nil && (h.Server || slices.ContainsFunc(needs, func(n Need) bool { return n.Server })),
	}
	in, err := standIns(ctx, s.db, now)
	if err != nil {
		return Answer{}, err
	}
	if ok, err := s.possible(ctx, &r, in); err != nil {
		return Answer{}, err
	} else if !ok {
		return Answer{Request: r}, ErrImpossible.Say("%s", s.whyImpossible(&r))
	}
	if r.Server {
		if r.wire, err = s.seal(r.ID, "wire", h.Wire); err != nil {
			return Answer{}, err
		}
	}
	waiting, err := count(ctx, s.db, `agent = $1 AND state = $2`, r.Binding.Agent, string(Pending))
	if err != nil {
		return Answer{}, err
	}
	if waiting >= int64(s.o.MaxPending) {
		return Answer{}, ErrTooMany
	}
	err = s.change(ctx, r.ID, func(tx *audit.Tx) error {
		if err := insert(ctx, tx, &r); err != nil {
			return err
		}
		ev := r.event("approval.requested", audit.Actor{Kind: audit.KindAgent, ID: r.Binding.AgentID, Name: r.Binding.Agent}, "",
			map[string]any{"needs": needs, "excluded": excluded, "decide_by": r.DecideBy, "binding": r.Binding})
		ev.ID, ev.Time, ev.Digest = r.Event, now, digest
		ev.Decision = &audit.Decision{Effect: "hold", Reason: r.Reason, Policies: s.policies(&r), Version: h.Version}
		payloads := []audit.Payload{{Name: "arguments", Body: h.Args, Size: int64(len(h.Args))}}
		if len(h.Values) > 0 {
			b := marshal(h.Values)
			payloads = append(payloads, audit.Payload{Name: "origins", Body: b, Size: int64(len(b))})
		}
		tx.Record(ev, payloads...)
		return storage.Bump(ctx, tx.Tx, version)
	})
	if storage.Duplicate(err) {
		return Answer{}, errAgain // an identical call was faster
	}
	return Answer{Request: r, New: true}, err
}

func (s *Service) policies(r *Request) []string {
	var out []string
	for _, n := range r.Needs {
		out = append(out, strings.Split(n.Policy, ", ")...)
	}
	return out
}

// whyImpossible says what is missing, without naming people: the agent reads it.
func (s *Service) whyImpossible(r *Request) string {
	var groups []string
	for _, n := range r.Needs {
		for _, g := range n.Groups {
			groups = append(groups, g.Name)
		}
	}
	with := ""
	if r.needsPasskey() {
		with = " with a passkey"
	}
	return "this call needs the approval of " + strings.Join(slices.Compact(groups), " and ") + with +
		", but without the people who take part in it themselves there are not enough who could give it; the call is refused. Ask an administrator to add someone"
}

// attach is a call that finds an open request of its digest.
func (s *Service) attach(ctx context.Context, h Held, r *Request) (Answer, error) {
	now := s.o.Now()
	switch r.State {
	case Pending:
		if !now.Before(r.DecideBy) {
			return Answer{}, again(s.expire(ctx, r, now))
		}
		if h.Server && h.Wire != nil && !r.Server {
			return Answer{}, again(s.serve(ctx, r, h.Wire))
		}
		return Answer{Request: *r}, nil
	case Approved:
		if !now.Before(r.ExecuteBy) {
			return Answer{}, again(s.expire(ctx, r, now))
		}
		if now.Before(r.SendAt) {
			return Answer{Request: *r}, nil
		}
		return s.claim(ctx, h, r, now)
	case Executing:
		if s.hasEnded(ctx, r.ID) {
			return Answer{}, errAgain
		}
		if now, err := s.Get(ctx, r.ID); err != nil || now.State != Executing { // it ended since it was read
			return Answer{}, again(err)
		}
		return Answer{Request: *r}, nil
	case Executed:
		if s.hasEnded(ctx, r.ID) {
			return Answer{}, errAgain
		}
		return s.replay(ctx, r)
	case Denied:
		if !now.Before(r.DecideBy) {
			return Answer{}, again(s.shut(ctx, r))
		}
		return Answer{Request: *r}, nil
	default: // expired or void: told once, then the same call is a new request
		return Answer{Request: *r}, s.shut(ctx, r)
	}
}

func again(err error) error {
	if err == nil {
		return errAgain
	}
	return err
}

// hasEnded waits a moment for a call of this process that is just ending and
// reports whether it did: an agent that repeats a call right after its answer
// means another call.
func (s *Service) hasEnded(ctx context.Context, id string) bool {
	s.liveMu.Lock()
	p := s.live[id]
	s.liveMu.Unlock()
	if p == nil {
		return false
	}
	wait := time.NewTimer(2 * time.Second)
	defer wait.Stop()
	select {
	case <-p.done:
		return true
	case <-wait.C:
	case <-ctx.Done():
	}
	return false
}

// replay hands the kept answer of an executed call to one identical call. By the
// request's id it can be collected still: whoever it was for may not get it.
func (s *Service) replay(ctx context.Context, r *Request) (Answer, error) {
	sealed, err := blob(ctx, s.db, "kept", r.ID)
	if err != nil {
		return Answer{}, err
	}
	a := Answer{Request: *r}
	if len(sealed) > 0 {
		a.Kept = &Kept{}
		if err := s.unseal(r.ID, "kept", sealed, a.Kept); err != nil {
			return Answer{}, err
		}
		return a, s.collected(ctx, r)
	}
	return a, s.shut(ctx, r)
}

// shut ends what identical calls can learn from a settled request. That an
// answer was told is no change a person makes; the call that was told is
// recorded itself.
func (s *Service) shut(ctx context.Context, r *Request) error {
	return s.db.Tx(ctx, func(tx *storage.Tx) error {
		err := tx.ExecOne(ctx, `UPDATE approvals SET open = $1, kept = NULL, due = 0, revision = revision + 1 WHERE id = $2 AND revision = $3`, false, r.ID, r.revision)
		if errors.Is(err, storage.ErrNotFound) {
			return ErrRaced
		}
		return err
	})
}

// serve makes the server execute a request whose first call did not ask for it.
func (s *Service) serve(ctx context.Context, r *Request, w *Wire) error {
	sealed, err := s.seal(r.ID, "wire", w)
	if err != nil {
		return err
	}
	return s.db.Tx(ctx, func(tx *storage.Tx) error {
		err := tx.ExecOne(ctx, `UPDATE approvals SET server = $1, wire = $2, revision = revision + 1 WHERE id = $3 AND revision = $4`, true, sealed, r.ID, r.revision)
		if errors.Is(err, storage.ErrNotFound) {
			return ErrRaced
		}
		return err
	})
}

// expire ends a request whose time is over.
func (s *Service) expire(ctx context.Context, r *Request, now time.Time) error {
	c := *r
	return s.change(ctx, r.ID, func(tx *audit.Tx) error {
		*r = c
		r.Why = "nobody decided in time"
		if r.State == Approved {
			r.Why = "it was approved, but the call was not made in time"
		}
		if err := advance(ctx, tx, r, Expired, now); err != nil {
			return err
		}
		tx.Record(r.event("approval.expired", audit.System, "", map[string]any{"why": r.Why}))
		return nil
	})
}

// void ends a request that cannot be executed any more.
func (s *Service) void(ctx context.Context, r *Request, why string, now time.Time) error {
	c := *r
	return s.change(ctx, r.ID, func(tx *audit.Tx) error {
		*r = c
		r.Why = why
		if err := advance(ctx, tx, r, Void, now); err != nil {
			return err
		}
		tx.Record(r.event("approval.voided", audit.System, "", map[string]any{"why": why}))
		return nil
	})
}

// repeats bounds how often one call may be repeated while it is held.
type repeats struct {
	mu     sync.Mutex
	window time.Time
	seen   map[string]int
}

const (
	repeatsMost   = 120 // in a window
	repeatsWindow = time.Minute
	repeatsMemory = 100_000 // digests
)

func newRepeats() *repeats { return &repeats{seen: map[string]int{}} }

func (r *repeats) allow(digest string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.window) > repeatsWindow || len(r.seen) > repeatsMemory {
		r.window = now
		clear(r.seen)
	}
	r.seen[digest]++
	return r.seen[digest] <= repeatsMost
}
