package identity_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// clean redacts nothing: these tests look for what must not be there at all.
type clean struct{}

func (clean) Redact(b []byte) []byte { return b }

// clock is a clock that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func derive(server string) func(string) []byte {
	return func(label string) []byte {
		sum := sha256.Sum256([]byte(server + "/" + label))
		return sum[:]
	}
}

// world is the room on a real database, with people and an agent in it.
type world struct {
	*identity.Service
	t     testing.TB
	db    *storage.DB
	log   *audit.Log
	watch *storage.Watcher
	clock *clock
	admin audit.Actor
}

var ctx = context.Background()

func open(t testing.TB, db *storage.DB) *world {
	t.Helper()
	log, err := audit.Open(ctx, db, audit.Options{Redactor: clean{}, Keeper: audittest.Keeper("k")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close(ctx) })
	return join(t, db, log, newClock())
}

// join is another replica on the same database.
func join(t testing.TB, db *storage.DB, log *audit.Log, c *clock) *world {
	t.Helper()
	watch := storage.NewWatcher(db, quiet)
	s, err := identity.New(db, log, watch, identity.Options{Derive: derive("one"), Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{Service: s, t: t, db: db, log: log, watch: watch, clock: c}
	w.poll()
	return w
}

func (w *world) poll() {
	w.t.Helper()
	if err := w.watch.Poll(ctx); err != nil {
		w.t.Fatal(err)
	}
}

// settle makes the people and the agent that most tests need: root is the
// administrator, ada owns the agent bot, bob is its backup.
func settle(t testing.TB, db *storage.DB) *world {
	t.Helper()
	w := open(t, db)
	w.user("root", identity.Admin)
	root, _ := w.User("root")
	w.admin = audit.Person(root.ID, root.Name)
	w.user("ada", identity.Owner)
	w.user("bob", identity.Viewer)
	if _, err := w.PutAgent(ctx, w.admin, "needed", identity.Agent{Name: "bot", Owner: "ada", Backup: "bob", Stage: identity.Production, Labels: map[string]string{"tier": "1"}}); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) user(name, role string) {
	w.t.Helper()
	if _, err := w.PutUser(ctx, audit.System, "set up", identity.User{Name: name, Role: role}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) key(expiresIn time.Duration) (identity.Key, string) {
	w.t.Helper()
	k, value, err := w.IssueKey(ctx, w.admin, "", "bot", expiresIn)
	if err != nil {
		w.t.Fatal(err)
	}
	return k, value
}

func (w *world) run(expiresIn time.Duration) (identity.Run, string) {
	w.t.Helper()
	r, token, err := w.StartRun(ctx, w.admin, "", "bot", expiresIn)
	if err != nil {
		w.t.Fatal(err)
	}
	return r, token
}

// present authenticates with a view that is surely fresh.
func (w *world) present(credential string) (identity.Caller, error) {
	w.t.Helper()
	w.poll()
	return w.Authenticate(ctx, credential)
}

func (w *world) accepts(what, credential string) {
	w.t.Helper()
	if _, err := w.present(credential); err != nil {
		w.t.Errorf("%s: %v", what, err)
	}
}

func (w *world) refuses(what, credential string, want error) {
	w.t.Helper()
	if _, err := w.present(credential); !errors.Is(err, want) {
		w.t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// events returns the events of every change, oldest first.
func (w *world) events() (events []audit.Event) {
	w.t.Helper()
	rows, err := w.db.Query(ctx, `SELECT record FROM events WHERE lane = 0 ORDER BY sn`)
	w.must(err)
	defer rows.Close()
	for rows.Next() {
		var raw []byte
		w.must(rows.Scan(&raw))
		ev, err := audit.DecodeRecord(raw)
		w.must(err)
		events = append(events, ev)
	}
	w.must(rows.Err())
	return events
}

func each(t *testing.T, fn func(t *testing.T, w *world)) {
	t.Helper()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) { fn(t, settle(t, db)) })
}
