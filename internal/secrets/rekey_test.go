package secrets_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// member is a replica whose log and secrets are both sealed by a key file.
type member struct {
	*secrets.Service
	t       testing.TB
	db      *storage.DB
	log     *audit.Log
	watch   *storage.Watcher
	rekeyer *secrets.Rekeyer
	found   *findings.Service
	clock   *clock
	by      audit.Actor
}

// join starts a replica with the key file at key; alive says who is there.
func join(t testing.TB, dsn, key, name string, alive ...string) (*member, error) {
	t.Helper()
	db, err := storage.Open(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	m := &member{t: t, db: db, by: audit.System, clock: &clock{t: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)}}
	keys, err := secrets.OpenKeeper(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	scanner := inspection.New()
	if m.log, err = audit.Open(ctx, db, audit.Options{Redactor: scanner, Keeper: keys}); err != nil {
		db.Close()
		return nil, err
	}
	m.watch = storage.NewWatcher(db, nil)
	if m.Service, err = secrets.New(db, m.log, m.watch, keys, secrets.Options{Matcher: scanner.Known(), Now: m.clock.now}); err != nil {
		m.log.Close(ctx)
		db.Close()
		return nil, err
	}
	m.found = findings.New(db, m.log, m.clock.now)
	m.rekeyer = m.Rekeyer(secrets.RekeyOptions{Findings: m.found, Replica: name, Batch: 3,
		Alive: func(context.Context) ([]string, error) { return slices.Clone(append(alive, name)), nil }})
	if m.watch.Poll(ctx) != nil {
		t.Fatal("poll")
	}
	t.Cleanup(m.leave)
	return m, nil
}

// leave ends a replica; without it a killed one is only forgotten.
func (m *member) leave() {
	if m.db == nil {
		return
	}
	m.rekeyer.Stop(ctx)
	m.Close(ctx)
	m.log.Close(ctx)
	m.db.Close()
	m.db = nil
}

func mustJoin(t testing.TB, dsn, key, name string, alive ...string) *member {
	t.Helper()
	m, err := join(t, dsn, key, name, alive...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *member) fill(n int) {
	m.t.Helper()
	people, err := identity.New(m.db, m.log, m.watch, identity.Options{Derive: m.Derive})
	if err == nil {
		_, err = people.PutUser(ctx, audit.System, "set-up", identity.User{Name: "pat", Role: identity.Admin})
	}
	if err != nil {
		m.t.Fatal(err)
	}
	for i := range n {
		name := fmt.Sprintf("s%02d", i)
		for _, v := range []string{"first value of " + name, "value of " + name} { // the first becomes the previous version
			if _, err := m.Put(ctx, m.by, "", spec(name), secrets.NewValue([]byte(v))); err != nil {
				m.t.Fatal(err)
			}
		}
	}
}

// whole fails the test unless every value opens, of both versions.
func (m *member) whole(n int) {
	m.t.Helper()
	all, err := m.List(ctx)
	if err != nil || len(all) != n {
		m.t.Fatalf("%d secrets, %v", len(all), err)
	}
	call := "call_x"
	r, err := m.log.Intent(ctx, audit.Event{Type: audit.CallIntent, Actor: audit.System, Call: call})
	if err != nil {
		m.t.Fatal(err)
	}
	defer m.log.Outcome(r, audit.Event{Type: audit.CallOutcome, Actor: audit.System, Call: call, Outcome: &audit.Outcome{Status: audit.Succeeded}})
	for _, s := range all {
		_, held, err := m.Reveal(ctx, r, call, s.Name)
		if err != nil || s.Broken || string(held[secrets.Current].Value.Expose()) != "value of "+s.Name ||
			string(held[secrets.Previous].Value.Expose()) != "first value of "+s.Name {
			m.t.Fatalf("%s is lost: broken %v, %v", s.Name, s.Broken, err)
		}
	}
}

func (m *member) phase() string {
	m.t.Helper()
	st, err := m.rekeyer.Status(ctx)
	if err != nil || st.Rekey == nil {
		m.t.Fatalf("%+v, %v", st, err)
	}
	return st.Rekey.Phase
}

func (m *member) look() {
	m.t.Helper()
	if _, err := m.rekeyer.Look(ctx); err != nil {
		m.t.Fatal(err)
	}
}

// A process that goes on from what is in the database after each step, whose
// memory is gone, loses nothing and ends with the new key alone.
func TestARekeyGoesOnAfterEveryStepInAnotherProcess(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		key := keyPath(t)
		m := mustJoin(t, dsn, key, "a")
		m.fill(7)
		derived := m.Derive("x")
		old, _ := os.ReadFile(key)
		if _, err := m.rekeyer.Begin(ctx, m.by, "yearly", false); err != nil {
			t.Fatal(err)
		}
		steps := 0
		for m.phase() != secrets.PhaseDone {
			m.leave()
			m = mustJoin(t, dsn, key, fmt.Sprint("a", steps))
			m.whole(7)
			m.look()
			m.whole(7)
			if steps++; steps > 50 {
				t.Fatal("it does not end")
			}
		}
		if steps < 5 {
			t.Errorf("only %d steps: the batches were not small", steps)
		}
		m.leave()
		m = mustJoin(t, dsn, key, "z")
		m.whole(7)
		if string(m.Derive("x")) != string(derived) {
			t.Error("derived keys are others")
		}
		if now, _ := os.ReadFile(key); string(now) == string(old) {
			t.Error("the key file is the old one")
		}
		if kept, _ := os.ReadFile(key + ".old"); string(kept) != string(old) {
			t.Error("the old key is not kept beside it")
		}
		if _, err := os.Stat(key + ".next"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the next key file is still there: %v", err)
		}
		m.leave()
		other := keyPath(t)
		os.MkdirAll(filepath.Dir(other), 0o700)
		os.WriteFile(other, old, 0o600)
		if _, err := join(t, dsn, other, "old"); err == nil {
			t.Fatal("the old key still opens the database")
		} else if !errors.Is(err, audit.ErrKeeper) {
			t.Errorf("got %v", err)
		}
	})
}

func copyKey(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		os.MkdirAll(filepath.Dir(to), 0o700)
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Replicas that know the key, the next key, or have not even heard of the
// keyset's new key go on reading and writing; the old key ends only when all
// hold the next.
func TestReplicasOfDifferentKnowledge(t *testing.T) {
	dsn := storagetest.Postgres(t)
	keyA, keyB := keyPath(t), keyPath(t)
	a := mustJoin(t, dsn, keyA, "a", "b")
	a.fill(4)
	copyKey(t, keyA, keyB)
	b := mustJoin(t, dsn, keyB, "b", "a")
	if _, err := a.rekeyer.Begin(ctx, a.by, "", false); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		a.look()
	}
	// b's watcher has not looked since: it writes all the same, under the new key.
	if _, err := b.Put(ctx, b.by, "", spec("s02"), secrets.NewValue([]byte("first value of s02"))); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Put(ctx, b.by, "", spec("s02"), secrets.NewValue([]byte("value of s02"))); err != nil {
		t.Fatal(err)
	}
	b.whole(4)
	b.look()
	if got := a.phase(); got != secrets.PhaseDistribute {
		t.Fatalf("phase %s although b does not hold the next key", got)
	}
	st, err := a.rekeyer.Status(ctx)
	if err != nil || !slices.Equal(st.Rekey.Missing, []string{"b"}) || !strings.Contains(st.Rekey.Error, "b") {
		t.Fatalf("%+v, %v", st.Rekey, err)
	}
	a.clock.add(2 * time.Hour)
	a.look()
	open, err := a.found.List(ctx, findings.Query{Status: "open", Rule: secrets.RuleRekey})
	if err != nil || len(open) != 1 {
		t.Fatalf("findings %v, %v", open, err)
	}
	// b is restarted, still with the old key alone; then it gets the next one.
	b.leave()
	b = mustJoin(t, dsn, keyB, "b", "a")
	b.whole(4)
	copyKey(t, keyA+".next", keyB+".next")
	b.look()
	a.look()
	if got := a.phase(); got != secrets.PhaseDone {
		t.Fatalf("phase %s", got)
	}
	if open, _ := a.found.List(ctx, findings.Query{Status: "open", Rule: secrets.RuleRekey}); len(open) != 0 {
		t.Error("the finding is still open")
	}
	b.whole(4)
	if err := b.watch.Poll(ctx); err != nil {
		t.Fatal(err)
	}
	b.leave()
	b = mustJoin(t, dsn, keyB, "b", "a")
	b.whole(4)
	if one, _ := os.ReadFile(keyA); len(one) == 0 {
		t.Fatal("no key")
	} else if two, _ := os.ReadFile(keyB); string(one) != string(two) {
		t.Error("the replicas have different keys")
	}
}

// A value that cannot be opened keeps the old key alive: nothing is dropped that
// might still be needed.
func TestABrokenValueHoldsTheRekeyUp(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		m := mustJoin(t, dsn, keyPath(t), "a")
		m.fill(2)
		exec(t, m.db, `UPDATE secrets SET hosts = '["evil.example"]' WHERE name = 's00'`)
		if _, err := m.rekeyer.Begin(ctx, m.by, "", false); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			m.look()
		}
		st, err := m.rekeyer.Status(ctx)
		if err != nil || st.Rekey.Phase != secrets.PhaseReseal || !strings.Contains(st.Rekey.Error, "s00") {
			t.Fatalf("%+v, %v", st.Rekey, err)
		}
		exec(t, m.db, `UPDATE secrets SET hosts = '[]' WHERE name = 's00'`)
		for range 10 {
			m.look()
		}
		if m.phase() != secrets.PhaseDone {
			t.Fatal("it does not go on when the row is mended")
		}
		m.whole(2)
	})
}

// Between the commit that ends a rekey and the change of the key file a process
// may die; and a next key may be lost before the end.
func TestKeyFilesSurviveDeathAndLoss(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		key := keyPath(t)
		m := mustJoin(t, dsn, key, "a", "b")
		m.fill(2)
		if _, err := m.rekeyer.Begin(ctx, m.by, "", false); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			m.look()
		}
		if err := os.Remove(key + ".next"); err != nil { // lost while b was waited for
			t.Fatal(err)
		}
		m.look()
		m.leave()
		m = mustJoin(t, dsn, key, "a")
		m.look()
		if m.phase() != secrets.PhaseDistribute {
			t.Fatal("it ended without the key")
		}
		if _, err := m.rekeyer.Begin(ctx, m.by, "lost", false); err != nil || m.phase() != secrets.PhaseDistribute {
			t.Fatal(err)
		}
		m.look()
		if m.phase() != secrets.PhaseDistribute {
			t.Fatal("it went to another key without being told to")
		}
		if _, err := m.rekeyer.Begin(ctx, m.by, "lost", true); err != nil {
			t.Fatal(err)
		}
		old, _ := os.ReadFile(key)
		next, _ := os.ReadFile(key + ".next")
		m.look()
		if m.phase() != secrets.PhaseDone {
			t.Fatal("not done")
		}
		m.leave()
		// As a process that died right after the commit left it:
		os.WriteFile(key, old, 0o600)
		os.WriteFile(key+".next", next, 0o600)
		m = mustJoin(t, dsn, key, "a")
		m.whole(2)
		if now, _ := os.ReadFile(key); string(now) != string(next) {
			t.Error("the key file is not the new one")
		}
	})
}
