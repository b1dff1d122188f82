package secrets_test

import (
	"context"
	"encoding/base64"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage"
)

var ctx = context.Background()

// plain is a value that no rule of the scanner would find by its form.
const plain = "correct horse battery staple"

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// world is one replica.
type world struct {
	*secrets.Service
	t       testing.TB
	db      *storage.DB
	log     *audit.Log
	watch   *storage.Watcher
	scanner *inspection.Scanner
	people  *identity.Service
	clock   *clock
	by      audit.Actor
}

func keyURL() string {
	return "base64key://" + base64.URLEncoding.EncodeToString([]byte("0123456789abcdef0123456789abcdef"))
}

// settle opens a replica on db with one user, pat.
func settle(t testing.TB, db *storage.DB) *world {
	t.Helper()
	w := replica(t, db, keyURL())
	if _, err := w.people.PutUser(ctx, audit.System, "set-up", identity.User{Name: "pat", Role: identity.Admin}); err != nil {
		t.Fatal(err)
	}
	u, _ := w.people.User("pat")
	w.by = audit.Person(u.ID, u.Name)
	return w
}

func replica(t testing.TB, db *storage.DB, key string) *world {
	t.Helper()
	w := &world{t: t, db: db, scanner: inspection.New(), clock: &clock{t: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)}}
	w.by = audit.System
	var err error
	if w.log, err = audit.Open(ctx, db, audit.Options{Redactor: w.scanner, Keeper: audittest.Keeper("k")}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.log.Close(ctx) })
	w.watch = storage.NewWatcher(db, nil)
	keeper, err := secrets.OpenKeeper(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keeper.Close() })
	if w.Service, err = secrets.New(db, w.log, w.watch, keeper, secrets.Options{Matcher: w.scanner.Known(), Now: w.clock.now}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close(ctx) })
	if w.people, err = identity.New(db, w.log, w.watch, identity.Options{Derive: w.Derive}); err != nil {
		t.Fatal(err)
	}
	w.poll()
	return w
}

func (w *world) poll() {
	w.t.Helper()
	if err := w.watch.Poll(ctx); err != nil {
		w.t.Fatal(err)
	}
}

func spec(name string, hosts ...string) secrets.Spec {
	return secrets.Spec{Name: name, Owner: "pat", Connection: "openai", Hosts: hosts}
}

// put puts a secret that must change something.
func (w *world) put(s secrets.Spec, value string) {
	w.t.Helper()
	if changed, err := w.Put(ctx, w.by, "because", s, secrets.NewValue([]byte(value))); err != nil || !changed {
		w.t.Fatalf("put: changed %v, %v", changed, err)
	}
}

// receipt returns a receipt for a fresh call.
func (w *world) receipt() (audit.Receipt, string) {
	w.t.Helper()
	call := id.New(id.Call)
	r, err := w.log.Intent(ctx, audit.Event{Type: audit.CallIntent, Actor: audit.System, Call: call, Connection: "openai"})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		w.log.Outcome(r, audit.Event{Type: audit.CallOutcome, Actor: audit.System, Call: call, Outcome: &audit.Outcome{Status: audit.Succeeded}})
	})
	return r, call
}

// inject injects name to host with a valid receipt.
func (w *world) inject(name, host string) (string, error) {
	w.t.Helper()
	w.poll()
	r, call := w.receipt()
	v, err := w.Inject(ctx, r, secrets.Use{Call: call, Secret: name, Connection: "openai", Host: host})
	return string(v.Expose()), err
}

func keyPath(t testing.TB) string { return filepath.Join(t.TempDir(), "keys", "master.key") }
