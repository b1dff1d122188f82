package approvals_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// The one way to another state refuses what is not listed, whoever asks for it.
func TestAStateIsReachedInOneWay(t *testing.T) {
	each(t, func(w *world) {
		id := w.hold(w.held("x")).Request.ID
		if err := w.Force(ctx, id, approvals.Executing); !errors.Is(err, approvals.ErrSettled) || w.state(id) != approvals.Pending {
			t.Errorf("%v %s", err, w.state(id))
		}
		w.must(w.Force(ctx, id, approvals.Denied))
		if err := w.Force(ctx, id, approvals.Approved); !errors.Is(err, approvals.ErrSettled) || w.state(id) != approvals.Denied {
			t.Errorf("%v %s", err, w.state(id))
		}
	})
}

// Two that read the same request and change it one after the other: the second
// sees what the first did. The room looks at its clock between reading and
// changing.
func TestWhoReadsAnOldStateLosesTheRace(t *testing.T) {
	each(t, func(w *world) {
		other := w.room(approvals.Options{})
		// Two votes that make a quorum together.
		id := w.hold(w.held("votes", need("two", 2, "finance"))).Request.ID
		w.atLook(1, func() {
			_, err := other.Decide(ctx, w.by("carl"), id, approvals.Approve, "fine")
			w.must(err)
		})
		if r := w.approve("fiona", id); r.State != approvals.Approved || len(r.Approvers()) != 2 {
			t.Errorf("two votes at the same instant: %s by %v", r.State, r.Approvers())
		}
		// Two identical calls that find it approved.
		h := w.held("permits")
		id = w.hold(h).Request.ID
		w.approve("fiona", id)
		var first approvals.Answer
		w.atLook(2, func() {
			var err error
			first, err = other.Hold(ctx, h)
			w.must(err)
		})
		if second := w.hold(h); first.Permit == nil || second.Permit != nil {
			t.Errorf("two permits, or none: %+v %+v", first.Permit, second.Permit)
		}
		// Two that find the answer of one that was made.
		first.Permit.Settle(ctx, audit.Succeeded, &approvals.Kept{Status: 200, Body: []byte("paid")})
		first.Permit.Done()
		w.atLook(2, func() {
			var err error
			first, err = other.Hold(ctx, h)
			w.must(err)
		})
		if second := w.hold(h); first.Kept == nil || second.Kept != nil || !second.New {
			t.Errorf("the answer is given twice: %+v %+v", first.Kept, second)
		}
		// A denial while an approval is on its way.
		id = w.hold(w.held("no")).Request.ID
		w.atLook(1, func() {
			_, err := other.Decide(ctx, w.by("carl"), id, approvals.Deny, "no")
			w.must(err)
		})
		if _, err := w.Decide(ctx, w.by("fiona"), id, approvals.Approve, "fine"); !errors.Is(err, approvals.ErrSettled) || w.state(id) != approvals.Denied {
			t.Errorf("approved over a denial: %v %s", err, w.state(id))
		}
	})
}

// Several policies that ask the same people: the strictest of each counts.
func TestNeedsOfTheSameGroupAreMerged(t *testing.T) {
	each(t, func(w *world) {
		lax, strict := need("lax", 1, "finance"), need("strict", 2, "finance")
		strict.DecideWithin, strict.ExecuteWithin, strict.ExcludeOwner, strict.Server = time.Hour, time.Minute, true, true
		for name, needs := range map[string][]approvals.Need{"the strict one first": {strict, lax}, "the strict one last": {lax, strict}} {
			h := w.held(name, needs...)
			h.Wire = &approvals.Wire{Front: "mcp"}
			r := w.hold(h).Request
			if len(r.Needs) != 1 || r.Needs[0].Quorum != 2 || !r.Needs[0].ExcludeOwner || !r.Server || !r.DecideBy.Equal(w.clock().Add(time.Hour)) {
				t.Errorf("%s: %+v until %s, by the server %t", name, r.Needs, r.DecideBy, r.Server)
			}
			w.approve("fiona", r.ID)
			if _, err := w.Decide(ctx, w.by("olga"), r.ID, approvals.Approve, "mine"); !errors.Is(err, approvals.ErrSelf) {
				t.Errorf("%s: the owner: %v", name, err)
			}
			if r = w.approve("carl", r.ID); !r.ExecuteBy.Equal(w.clock().Add(time.Minute)) {
				t.Errorf("%s: execute by %s", name, r.ExecuteBy)
			}
		}
		// The same groups with another way up are asked apart.
		up := need("up", 1, "finance")
		up.Tiers = []approvals.Tier{{Group: approvals.Group{Name: "board"}, After: time.Hour}}
		if r := w.hold(w.held("tiers", need("plain", 1, "finance"), up)).Request; len(r.Needs) != 2 {
			t.Errorf("%+v", r.Needs)
		}
	})
}

func TestNeedsAndBindingsThatCannotBe(t *testing.T) {
	each(t, func(w *world) {
		for name, spoil := range map[string]func(n *approvals.Need){
			"no time to decide": func(n *approvals.Need) { n.DecideWithin = 0 }, "no time to execute": func(n *approvals.Need) { n.ExecuteWithin = 0 },
			"less than none": func(n *approvals.Need) { n.DecideWithin = -time.Hour },
		} {
			n := need("x", 1, "finance")
			spoil(&n)
			if _, err := w.Hold(ctx, w.held(name, n)); !errors.Is(err, approvals.ErrNeed) {
				t.Errorf("%s: %v", name, err)
			}
		}
		h := w.held("nobody is asked")
		h.Needs = nil
		if _, err := w.Hold(ctx, h); !errors.Is(err, approvals.ErrNeed) {
			t.Errorf("%v", err)
		}
		// Names that are no text cannot be told apart once they are written down.
		h = w.held("x")
		h.Binding.Path = "/\xff"
		if _, err := w.Hold(ctx, h); !errors.Is(err, approvals.ErrStored) {
			t.Errorf("%v", err)
		}
		if approvals.Digest([]byte("ab"), []byte("c")) == approvals.Digest([]byte("a"), []byte("bc")) {
			t.Error("two lists of parts have one digest")
		}
	})
}

// Who cannot be seen to be active decides nothing and uses nothing up.
func TestNothingHappensWhileIdentitiesCannotBeSeen(t *testing.T) {
	each(t, func(w *world) {
		blind := w.roomOn(storage.NewWatcher(w.db, slog.New(slog.DiscardHandler)), approvals.Options{})
		h := w.held("x")
		id := w.hold(h).Request.ID
		if _, err := blind.Decide(ctx, w.by("fiona"), id, approvals.Approve, "fine"); fault.KindOf(err) != fault.Unavailable || w.state(id) != approvals.Pending {
			t.Errorf("%v %s", err, w.state(id))
		}
		w.approve("fiona", id)
		if a, err := blind.Hold(ctx, h); fault.KindOf(err) != fault.Unavailable || a.Permit != nil || w.state(id) != approvals.Approved {
			t.Errorf("%v %+v", err, a)
		}
	})
}

// What people are told who come too late.
func TestWhoComesTooLateIsToldWhy(t *testing.T) {
	each(t, func(w *world) {
		decide := func(name, id string) error {
			_, err := w.Decide(ctx, w.by(name), id, approvals.Approve, "fine")
			return err
		}
		gone, void := w.hold(w.held("gone")).Request.ID, w.hold(w.held("void")).Request.ID
		_, err := w.Withdraw(ctx, audit.System, void, "not needed")
		w.must(err)
		w.pass(5 * time.Hour)
		for range 2 { // when it is found out, and when it is known
			if err := decide("fiona", gone); !errors.Is(err, approvals.ErrExpired) {
				t.Errorf("expired: %v", err)
			}
		}
		if err := decide("fiona", void); !errors.Is(err, approvals.ErrVoid) {
			t.Errorf("void: %v", err)
		}
		if _, err := w.Withdraw(ctx, audit.System, void, "again"); !errors.Is(err, approvals.ErrVoid) {
			t.Errorf("withdrawn twice: %v", err)
		}
		h := w.held("left")
		left := w.hold(h).Request.ID
		w.disable("fiona")
		if err := decide("fiona", left); !errors.Is(err, approvals.ErrPerson) {
			t.Errorf("someone who left: %v", err)
		}
		if err := decide("carl", left); err != nil {
			t.Error(err)
		}
		// What was approved and is not made lapses without anybody asking.
		w.pass(time.Hour)
		w.must(w.Tick(ctx))
		if s := w.state(left); s != approvals.Expired {
			t.Errorf("%s", s)
		}
	})
}

// What is sealed goes when nothing can need it any more.
func TestWhatIsSealedGoesWithItsRequest(t *testing.T) {
	each(t, func(w *world) {
		h := w.held("x")
		h.Wire, h.Server = &approvals.Wire{Front: "mcp", Body: []byte("call")}, true
		wires := func() (n int) {
			w.must(w.db.QueryRow(ctx, `SELECT count(*) FROM approvals WHERE wire IS NOT NULL`).Scan(&n))
			return n
		}
		id := w.hold(h).Request.ID
		if wires() != 1 {
			t.Fatal("the call is not kept")
		}
		w.approve("fiona", id)
		p := w.hold(h).Permit
		if wires() != 0 {
			t.Error("the call stays after its approval was used up")
		}
		p.Settle(ctx, audit.Succeeded, nil)
		h = w.held("y")
		h.Wire, h.Server = &approvals.Wire{Front: "mcp"}, true
		id = w.hold(h).Request.ID
		_, err := w.Decide(ctx, w.by("fiona"), id, approvals.Deny, "no")
		w.must(err)
		if wires() != 0 {
			t.Error("the call stays after it was denied")
		}
	})
}

// alone runs fn on SQLite: what is tried is the same on every engine, and many calls.
func alone(t *testing.T, fn func(w *world)) {
	t.Helper()
	fn(build(t, storagetest.Open(t, storagetest.SQLite(t))))
}

// executor is a room whose executor is watched.
func (w *world) executor(run func(id string) error) *approvals.Service {
	s := w.room(approvals.Options{MaxPending: 1000})
	w.must(s.Start(ctx, func(_ context.Context, r approvals.Request, _ approvals.Wire) error { return run(r.ID) }))
	w.t.Cleanup(func() { w.must(s.Stop(ctx)) })
	return s
}

func (w *world) served(s *approvals.Service, content string) string {
	w.t.Helper()
	h := w.held(content)
	h.Wire, h.Server = &approvals.Wire{Front: "mcp"}, true
	a, err := s.Hold(ctx, h)
	w.must(err)
	return a.Request.ID
}

// The server begins each approved call once, so many at a time, and none that
// it was not asked to make.
func TestTheServerBeginsEachCallOnce(t *testing.T) {
	alone(t, func(w *world) {
		var mu sync.Mutex
		began, now, most := map[string]int{}, 0, 0
		release := make(chan struct{})
		s := w.executor(func(id string) error {
			mu.Lock()
			began[id]++
			now++
			most = max(most, now)
			mu.Unlock()
			<-release
			mu.Lock()
			now--
			mu.Unlock()
			_, err := w.Withdraw(ctx, audit.System, id, "made")
			return err
		})
		h := w.held("its client makes it")
		theirs := w.hold(h).Request.ID
		w.approve("fiona", theirs)
		const calls = 66
		for i := range calls {
			id := w.served(s, fmt.Sprint(i))
			_, err := s.Decide(ctx, w.by("fiona"), id, approvals.Approve, "fine")
			w.must(err)
		}
		wait(t, func() bool { mu.Lock(); defer mu.Unlock(); return now == 64 })
		close(release)
		wait(t, func() bool { mu.Lock(); defer mu.Unlock(); return len(began) == calls && now == 0 })
		mu.Lock()
		defer mu.Unlock()
		if most != 64 || began[theirs] != 0 {
			t.Errorf("%d at a time; one that is its client's to make was begun %d times", most, began[theirs])
		}
		for id, n := range began {
			if n != 1 {
				t.Errorf("%s was begun %d times", id, n)
			}
		}
	})
}

// A call that the line refuses is over, unless what is in the way may pass.
func TestACallThatTheServerCannotMake(t *testing.T) {
	alone(t, func(w *world) {
		var tried atomic.Int32
		s := w.executor(func(string) error {
			if tried.Add(1) == 1 {
				return storage.ErrUnavailable
			}
			return approvals.ErrNotEntitled.Say("a lock")
		})
		id := w.served(s, "x")
		_, err := s.Decide(ctx, w.by("fiona"), id, approvals.Approve, "fine")
		w.must(err)
		wait(t, func() bool { return tried.Load() == 1 })
		if got := w.state(id); got != approvals.Approved {
			t.Errorf("after what may pass it is %s", got)
		}
		wait(t, func() bool { return w.state(id) == approvals.Void }) // it is looked for every few seconds
		r, err := w.Get(ctx, id)
		if err != nil || r.Why != "the call could not be made: a lock" {
			t.Errorf("%v %s", err, r.Why)
		}
	})
}

// What waits for something that has changed is voided by the clock, though
// nobody asks again.
func TestTheClockVoidsWhatIsStale(t *testing.T) {
	each(t, func(w *world) {
		pending, approved := w.hold(w.held("a")).Request.ID, w.hold(w.held("b")).Request.ID
		w.approve("fiona", approved)
		w.mu.Lock()
		w.stale = "the tool changed"
		w.mu.Unlock()
		s := w.room(approvals.Options{})
		w.must(s.Start(ctx, nil))
		t.Cleanup(func() { w.must(s.Stop(ctx)) })
		for _, id := range []string{pending, approved} {
			wait(t, func() bool { return w.state(id) == approvals.Void })
		}
	})
}

// Breaking the glass is for administrators who take no part, by their own name.
func TestTheGlassBreaksForFew(t *testing.T) {
	each(t, func(w *world) {
		h := w.held("x")
		h.Binding.Chain = []audit.Actor{audit.Person(w.by("root").ID, "root")}
		id := w.hold(h).Request.ID
		if _, err := w.Override(ctx, w.by("root"), id, "mine"); !errors.Is(err, approvals.ErrBreakGlass) {
			t.Errorf("their own: %v", err)
		}
		id = w.hold(w.held("y")).Request.ID
		if _, err := w.Override(ctx, w.by("fiona"), id, "urgent"); !errors.Is(err, approvals.ErrBreakGlass) {
			t.Errorf("no administrator: %v", err)
		}
		_, err := w.ids.PutUser(ctx, audit.System, "test", identity.User{Name: "rita", Role: "admin"})
		w.must(err)
		h = w.held("z")
		id = w.hold(h).Request.ID
		_, err = w.Override(ctx, w.by("rita"), id, "urgent")
		w.must(err)
		w.disable("rita")
		if a := w.hold(h); a.Permit != nil || a.Request.State != approvals.Void {
			t.Errorf("an administrator who left: %+v", a.Request)
		}
	})
}

// Who is in a group and may not decide, is no person any more or takes part by
// name alone.
func TestWhoIsInTheGroupAndMayNotDecide(t *testing.T) {
	each(t, func(w *world) {
		w.team("mixed", "sam", "fiona") // sam may see, not decide
		id := w.hold(w.held("x", need("mixed", 1, "mixed"))).Request.ID
		if _, err := w.Decide(ctx, w.by("sam"), id, approvals.Approve, "fine"); !errors.Is(err, approvals.ErrNotEntitled) {
			t.Errorf("a viewer: %v", err)
		}
		if _, err := w.Hold(ctx, w.held("two", need("two", 2, "mixed"))); !errors.Is(err, approvals.ErrImpossible) {
			t.Errorf("a viewer counts: %v", err)
		}
		h := w.held("named", need("mixed", 1, "mixed", "legal"))
		h.Binding.Chain = []audit.Actor{audit.Person("", "fiona")}
		id = w.hold(h).Request.ID
		if _, err := w.Decide(ctx, w.by("fiona"), id, approvals.Approve, "mine"); !errors.Is(err, approvals.ErrSelf) {
			t.Errorf("in the chain by name: %v", err)
		}
		n := need("ghost", 1, "finance")
		n.ExcludeOwner = true
		h = w.held("ghost", n)
		h.Binding.Agent = "ghost"
		if _, err := w.Hold(ctx, h); !errors.Is(err, approvals.ErrImpossible) {
			t.Errorf("whose owner nobody knows: %v", err)
		}
	})
}

// What people write is redacted, and nobody says nothing.
func TestWhatPeopleWriteIsRedacted(t *testing.T) {
	each(t, func(w *world) {
		id := w.hold(w.held("x")).Request.ID
		r, err := w.Decide(ctx, w.by("fiona"), id, approvals.Deny, "it says hunter2")
		if err != nil || strings.Contains(r.Decisions[0].Reason+r.Why+r.Decisions[0].Statement, "hunter2") || !strings.Contains(r.Why, "it says") {
			t.Errorf("%v %+v", err, r.Decisions)
		}
		for _, remark := range []string{"", " ", "a\x00b", strings.Repeat("a", 1001)} {
			if err := w.Comment(ctx, w.by("fiona"), id, remark, false); !errors.Is(err, approvals.ErrReason) {
				t.Errorf("%.5q: %v", remark, err)
			}
		}
		w.must(w.Comment(ctx, w.by("fiona"), id, strings.Repeat("é", 1000), false))
	})
}

// A broken glass is good for a quarter of an hour, whatever the policy allows.
func TestABrokenGlassIsNotGoodForLong(t *testing.T) {
	each(t, func(w *world) {
		n := need("slow", 1, "finance")
		n.ExecuteWithin = 4 * time.Hour
		id := w.hold(w.held("x", n)).Request.ID
		r, err := w.Override(ctx, w.by("root"), id, "urgent")
		if err != nil || !r.ExecuteBy.Equal(w.clock().Add(15*time.Minute)) {
			t.Errorf("%v %s", err, r.ExecuteBy)
		}
		n.ExecuteWithin = time.Minute
		id = w.hold(w.held("y", n)).Request.ID
		r, err = w.Override(ctx, w.by("root"), id, "urgent")
		if err != nil || !r.ExecuteBy.Equal(w.clock().Add(time.Minute)) {
			t.Errorf("%v %s", err, r.ExecuteBy)
		}
	})
}

// All of an agent's requests end with it, but what is being made.
func TestAllRequestsOfAnAgentAreWithdrawn(t *testing.T) {
	each(t, func(w *world) {
		pending, approved, making := w.held("a"), w.held("b"), w.held("c")
		ids := map[string]approvals.State{w.hold(pending).Request.ID: approvals.Void}
		id := w.hold(approved).Request.ID
		w.approve("fiona", id)
		ids[id] = approvals.Void
		id = w.hold(making).Request.ID
		w.approve("fiona", id)
		w.hold(making)
		ids[id] = approvals.Executing
		n := 0
		w.must(w.log.Change(ctx, func(tx *audit.Tx) (err error) {
			n, err = w.WithdrawAllTx(ctx, tx, audit.System, "it ends", "payer")
			return err
		}))
		for id, want := range ids {
			if got := w.state(id); got != want {
				t.Errorf("%s, not %s", got, want)
			}
		}
		if n != 2 {
			t.Errorf("%d", n)
		}
	})
}
