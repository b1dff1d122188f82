package locks_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

var (
	ctx   = context.Background()
	quiet = slog.New(slog.DiscardHandler)
	root  = audit.Person("usr_root", "root")
)

type clean struct{}

func (clean) Redact(b []byte) []byte { return b }

// replica is the room on a database that others may use too.
type replica struct {
	*locks.Service
	watch *storage.Watcher
	log   *audit.Log
	db    *storage.DB
}

// logs holds the one log of each database file: SQLite has one process, in
// which replicas of this room share it.
var logs sync.Map

func join(t testing.TB, db *storage.DB, o locks.Options) *replica {
	t.Helper()
	var log *audit.Log
	if known, ok := logs.Load(db); ok && db.Dialect() == storage.SQLite {
		log = known.(*audit.Log)
	} else {
		var err error
		if log, err = audit.Open(ctx, db, audit.Options{Redactor: clean{}, Keeper: audittest.Keeper("k")}); err != nil {
			t.Fatal(err)
		}
		logs.Store(db, log)
		t.Cleanup(func() { logs.Delete(db); log.Close(ctx) })
	}
	watch := storage.NewWatcher(db, quiet)
	r := &replica{locks.New(db, log, watch, o), watch, log, db}
	if err := watch.Poll(ctx); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *replica) poll(t testing.TB) {
	t.Helper()
	if err := r.watch.Poll(ctx); err != nil {
		t.Fatal(err)
	}
}

var call = locks.Subject{Agents: []string{"bot", "caller"}, Owners: []string{"ada", "uma"}, Team: "ops", Credential: "key_1", Lineage: []string{"key_0"}, Run: "run_1", Connection: "ledger", Tool: "pay"}

// Every kind of lock stops what it names, on a replica that did not place it,
// and nothing else.
func TestWhatALockStops(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		here, there := join(t, db, locks.Options{}), join(t, db, locks.Options{})
		for _, c := range []struct{ kind, name, other string }{
			{locks.Agent, "bot", "bot2"}, {locks.Agent, "caller", "Bot"}, {locks.Owner, "ada", "bob"}, {locks.Owner, "uma", "um"}, {locks.Team, "ops", "bot"},
			{locks.Tool, "ledger/pay", "ledger/pa"}, {locks.Connection, "ledger", "led"}, {locks.Credential, "key_1", "key_2"}, {locks.Credential, "key_0", "key_00"}, {locks.Run, "run_1", "key_1"}, {locks.Everything, "", ""},
		} {
			l, err := here.Add(ctx, root, locks.Lock{Kind: c.kind, Name: c.name, Reason: "test"}, 0)
			if err != nil {
				t.Fatal(err)
			}
			there.poll(t)
			for _, r := range []*replica{here, there} {
				if err := r.Check(call); !errors.Is(err, locks.ErrLocked) {
					t.Errorf("%s: %v", l.On(), err)
				}
			}
			if !l.Covers(call) {
				t.Errorf("%s does not cover the call", l.On())
			}
			if err := there.Check(locks.Subject{}); (err != nil) != (c.kind == locks.Everything) {
				t.Errorf("%s stops nobody: %v", l.On(), err)
			}
			if _, err := here.Lift(ctx, root, "over", l.ID); err != nil {
				t.Fatal(err)
			}
			if _, err := here.Lift(ctx, root, "over", l.ID); !errors.Is(err, locks.ErrEnded) {
				t.Errorf("lifted twice: %v", err)
			}
			there.poll(t)
			if err := errors.Join(here.Check(call), there.Check(call)); err != nil {
				t.Errorf("%s was lifted: %v", l.On(), err)
			}
			if c.kind == locks.Everything {
				continue
			}
			l, err = here.Add(ctx, root, locks.Lock{Kind: c.kind, Name: c.other, Reason: "test"}, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := here.Check(call); err != nil || l.Covers(call) {
				t.Errorf("%s stops the call: %v", l.On(), err)
			}
		}
	})
}

// A long principal chain is covered to its end.
func TestALongChainIsCovered(t *testing.T) {
	sub := call
	for _, n := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"} {
		sub.Agents = append(sub.Agents, "agent-"+n)
		sub.Owners = append(sub.Owners, "user-"+n)
	}
	for _, l := range []locks.Lock{{Kind: locks.Owner, Name: "user-j"}, {Kind: locks.Agent, Name: "agent-j"}} {
		if !l.Covers(sub) || l.Covers(call) {
			t.Errorf("%s", l.On())
		}
	}
}

func TestBadLocksAreRefused(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		r := join(t, db, locks.Options{Known: func(_ context.Context, kind, name string) (bool, error) {
			if name == "broken" {
				return false, storage.ErrUnavailable
			}
			return name == "bot", nil
		}})
		for _, c := range []struct {
			lock locks.Lock
			life time.Duration
			want error
		}{
			{locks.Lock{Kind: "agnet", Name: "bot", Reason: "x"}, 0, locks.ErrInvalid},
			{locks.Lock{Kind: locks.Agent, Reason: "x"}, 0, locks.ErrInvalid},
			{locks.Lock{Kind: locks.Everything, Name: "bot", Reason: "x"}, 0, locks.ErrInvalid},
			{locks.Lock{Kind: locks.Tool, Name: "bot", Reason: "x"}, 0, locks.ErrInvalid},
			{locks.Lock{Kind: locks.Agent, Name: "bot"}, 0, locks.ErrReason},
			{locks.Lock{Kind: locks.Agent, Name: "bot", Reason: " "}, 0, locks.ErrReason},
			{locks.Lock{Kind: locks.Agent, Name: "bot", Reason: "a\x1b[2Jb"}, 0, locks.ErrReason},
			{locks.Lock{Kind: locks.Agent, Name: "bot", Reason: "x"}, -time.Second, locks.ErrInvalid},
			{locks.Lock{Kind: locks.Agent, Name: "bot", Reason: "x"}, 2 * locks.LongestLife, locks.ErrInvalid},
			{locks.Lock{Kind: locks.Agent, Name: "bott", Reason: "x"}, 0, locks.ErrNotFound}, // a typo is no stop
			{locks.Lock{Kind: locks.Agent, Name: "broken", Reason: "x"}, 0, storage.ErrUnavailable},
		} {
			if _, err := r.Add(ctx, root, c.lock, c.life); !errors.Is(err, c.want) {
				t.Errorf("%+v: %v, want %v", c.lock, err, c.want)
			}
		}
		if len(r.Active()) != 0 {
			t.Errorf("in force: %v", r.Active())
		}
		l, err := r.Add(ctx, root, locks.Lock{Kind: locks.Agent, Name: "bot", Reason: "x"}, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Lift(ctx, root, "", l.ID); !errors.Is(err, locks.ErrReason) {
			t.Errorf("lifted without a reason: %v", err)
		}
		if _, err := r.Lift(ctx, root, "x", "lck_none"); !errors.Is(err, locks.ErrNotFound) {
			t.Errorf("lifted nothing: %v", err)
		}
	})
}

// Invariant 7: who cannot see locks refuses.
func TestWithoutAViewEverythingIsRefused(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		log, err := audit.Open(ctx, db, audit.Options{Redactor: clean{}, Keeper: audittest.Keeper("k")})
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close(ctx)
		watch := storage.NewWatcher(db, quiet)
		s := locks.New(db, log, watch, locks.Options{})
		if err := s.Check(locks.Subject{}); !errors.Is(err, locks.ErrStale) {
			t.Errorf("before the first look: %v", err)
		}
		if err := watch.Poll(ctx); err != nil {
			t.Fatal(err)
		}
		if err := s.Check(locks.Subject{}); err != nil {
			t.Errorf("after it: %v", err)
		}
		deadline := time.Now().Add(20 * time.Second)
		for s.Check(locks.Subject{}) == nil && time.Now().Before(deadline) { // nobody polls
			time.Sleep(20 * time.Millisecond)
		}
		if err := s.Check(locks.Subject{}); !errors.Is(err, locks.ErrStale) {
			t.Errorf("with an old view: %v", err)
		}
	})
}

// running is a replica whose watcher and background work run.
func running(t testing.TB, db *storage.DB, o locks.Options, enforcers ...locks.Enforcer) *replica {
	t.Helper()
	r := join(t, db, o)
	for _, e := range enforcers {
		r.Enforce(e)
	}
	if err := r.watch.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := r.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Stop(ctx); err != nil {
			t.Error(err)
		}
		r.watch.Stop()
	})
	return r
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 seconds: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Every replica says when what the lock covers has ended there, an enforcer
// that fails is asked again, and a replica that came later is not waited for.
func TestEveryReplicaAcknowledges(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		var tries atomic.Int64
		flaky := func(context.Context, locks.Lock) (int, error) {
			if tries.Add(1) < 3 {
				return 0, errors.New("not yet")
			}
			return 2, nil
		}
		here := running(t, db, locks.Options{Host: "here"}, func(context.Context, locks.Lock) (int, error) { return 5, nil })
		running(t, db, locks.Options{Host: "there"}, flaky)
		l, err := here.Add(ctx, root, locks.Lock{Kind: locks.Agent, Name: "bot", Reason: "test"}, 0)
		if err != nil {
			t.Fatal(err)
		}
		var st locks.State
		eventually(t, "both acknowledge", func() bool {
			if st, err = here.State(ctx, l.ID); err != nil {
				t.Fatal(err)
			}
			return len(st.Silent) == 0
		})
		if len(st.Acks) != 2 || st.Cut != 7 || st.Millis <= 0 || tries.Load() < 3 {
			t.Errorf("%+v after %d tries", st, tries.Load())
		}
		running(t, db, locks.Options{Host: "late"}, func(context.Context, locks.Lock) (int, error) { return 1, nil })
		if st, err = here.State(ctx, l.ID); err != nil || len(st.Silent) != 0 || len(st.Acks) != 2 {
			t.Errorf("with a late replica: %+v %v", st, err)
		}
	})
}

// A replica that was there and says nothing is named.
func TestASilentReplicaIsNamed(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		here := running(t, db, locks.Options{Host: "here"})
		stuck := make(chan struct{})
		running(t, db, locks.Options{Host: "stuck"}, func(ctx context.Context, _ locks.Lock) (int, error) {
			select {
			case <-stuck:
				return 0, nil
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		})
		l, err := here.Add(ctx, root, locks.Lock{Kind: locks.Everything, Reason: "test"}, 0)
		if err != nil {
			t.Fatal(err)
		}
		var st locks.State
		eventually(t, "one acknowledges", func() bool { st, _ = here.State(ctx, l.ID); return len(st.Acks) == 1 })
		if len(st.Silent) != 1 || st.Silent[0][:6] != "stuck/" {
			t.Errorf("%+v", st)
		}
		close(stuck)
		eventually(t, "the other does", func() bool { st, _ = here.State(ctx, l.ID); return len(st.Silent) == 0 })
	})
}

// An expired lock stands until its end is recorded, which one replica does, once.
func TestLocksExpire(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		one, two := running(t, db, locks.Options{}), running(t, db, locks.Options{})
		if _, err := one.Add(ctx, root, locks.Lock{Kind: locks.Agent, Name: "bot", Reason: "test"}, 300*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the lock ends", func() bool { return one.Check(call) == nil && two.Check(call) == nil })
		kinds := []string{}
		for _, ev := range events(t, db) {
			if ev.Type != "lock.enforced" {
				kinds = append(kinds, string(ev.Type)+" "+ev.Object)
			}
		}
		if !slices.Equal(kinds, []string{"lock.placed agent/bot", "lock.expired agent/bot"}) {
			t.Errorf("events: %v", kinds)
		}
	})
}

func events(t testing.TB, db *storage.DB) (found []audit.Event) {
	t.Helper()
	rows, err := db.Query(ctx, `SELECT record FROM events WHERE lane = 0 ORDER BY sn`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var raw []byte
		if err := rows.Scan(&raw); err != nil {
			t.Fatal(err)
		}
		ev, err := audit.DecodeRecord(raw)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, ev)
	}
	return found
}

// LiftAll lifts all or nothing.
func TestLiftAll(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		r := join(t, db, locks.Options{})
		for _, by := range []string{"ada", "root"} {
			if _, err := r.Add(ctx, audit.Person("", by), locks.Lock{Kind: locks.Agent, Name: "bot", Reason: "test"}, 0); err != nil {
				t.Fatal(err)
			}
		}
		no := errors.New("no")
		if lifted, err := r.LiftAll(ctx, root, "over", locks.Agent, "bot", func(l locks.Lock) error {
			if l.By == "root" {
				return no
			}
			return nil
		}); !errors.Is(err, no) || r.Check(call) == nil || len(r.Active()) != 2 {
			t.Errorf("%v %v", lifted, err)
		}
		if lifted, err := r.LiftAll(ctx, root, "over", locks.Agent, "bot", nil); err != nil || len(lifted) != 2 || r.Check(call) != nil {
			t.Errorf("%v %v", lifted, err)
		}
		if lifted, err := r.LiftAll(ctx, root, "over", locks.Agent, "bot", nil); err != nil || len(lifted) != 0 {
			t.Errorf("%v %v", lifted, err)
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	db := storagetest.Open(b, storagetest.SQLite(b))
	r := join(b, db, locks.Options{})
	for range 50 {
		if _, err := r.Add(ctx, root, locks.Lock{Kind: locks.Agent, Name: "other", Reason: "test"}, 0); err != nil {
			b.Fatal(err)
		}
	}
	if err := r.watch.Start(ctx); err != nil {
		b.Fatal(err)
	}
	defer r.watch.Stop()
	b.ReportAllocs()
	for b.Loop() {
		if err := r.Check(call); err != nil {
			b.Fatal(err)
		}
	}
}
