package rotation_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/secrets/provider/command"
	"github.com/countersign/countersign/internal/secrets/provider/openai"
	"github.com/countersign/countersign/internal/secrets/provider/postgres"
	"github.com/countersign/countersign/internal/secrets/provider/webhook"
	"github.com/countersign/countersign/internal/secrets/rotation"
	"github.com/countersign/countersign/internal/storage"
	pgtest "github.com/countersign/countersign/test/postgres"
)

var ctx = context.Background()

const (
	dieEnv  = "COUNTERSIGN_TEST_DIE_AT"
	storeAt = "COUNTERSIGN_TEST_STORE"
	tool    = "COUNTERSIGN_TEST_TOOL"
)

// TestMain makes the test binary be a replica that ends at a given point, or the
// program that rotates.
func TestMain(m *testing.M) {
	switch {
	case os.Getenv(dieEnv) != "":
		dyingReplica()
	case len(os.Args) > 1 && os.Args[1] == "rotate":
		os.Exit(rotateTool(os.Args[2]))
	}
	code := m.Run()
	pgtest.Stop()
	os.Exit(code)
}

// world is one replica.
type world struct {
	*rotation.Service
	secrets  *secrets.Service
	log      *audit.Log
	watch    *storage.Watcher
	findings *findings.Service
	people   *identity.Service
	scanner  *inspection.Scanner

	mu    sync.Mutex
	now   time.Time
	close []func()
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func replica(db *storage.DB, wrap func(rotation.Rotator) rotation.Rotator) (*world, error) {
	w := &world{now: time.Now(), scanner: inspection.New()}
	var err error
	if w.log, err = audit.Open(ctx, db, audit.Options{Redactor: w.scanner, Keeper: audittest.Keeper("k")}); err != nil {
		return nil, err
	}
	w.close = append(w.close, func() { w.log.Close(ctx) })
	w.watch = storage.NewWatcher(db, nil)
	keeper, err := secrets.OpenKeeper(ctx, "base64key://"+base64.URLEncoding.EncodeToString([]byte("0123456789abcdef0123456789abcdef")))
	if err != nil {
		return nil, err
	}
	if w.secrets, err = secrets.New(db, w.log, w.watch, keeper, secrets.Options{Matcher: w.scanner.Known(), Now: w.clock}); err != nil {
		return nil, err
	}
	w.close = append(w.close, func() { w.secrets.Close(ctx) })
	if w.people, err = identity.New(db, w.log, w.watch, identity.Options{Derive: w.secrets.Derive}); err != nil {
		return nil, err
	}
	w.findings = findings.New(db, w.log, w.clock)
	w.Service = rotation.New(rotation.Options{DB: db, Log: w.log, Watch: w.watch, Secrets: w.secrets, Findings: w.findings, Now: w.clock,
		Backoff:  func(int) time.Duration { return time.Minute },
		Rotators: map[string]rotation.Rotator{"postgres": wrap(postgres.Rotator{}), "command": wrap(command.Rotator{}), "openai": openai.Rotator{}, "http": webhook.Rotator{}}})
	return w, w.watch.Poll(ctx)
}

func same(r rotation.Rotator) rotation.Rotator { return r }

// open returns a replica on db, with the user pat.
func open(t testing.TB, db *storage.DB, wrap func(rotation.Rotator) rotation.Rotator) *world {
	t.Helper()
	w, err := replica(db, wrap)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.stop)
	if _, err := w.people.PutUser(ctx, audit.System, "set-up", identity.User{Name: "pat", Role: identity.Admin}); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) stop() {
	if w.close == nil {
		return
	}
	w.Stop(ctx)
	for i := len(w.close) - 1; i >= 0; i-- {
		w.close[i]()
	}
	w.close = nil
}

func (w *world) put(t testing.TB, name, value string, rot map[string]string) {
	t.Helper()
	s := secrets.Spec{Name: name, Owner: "pat", Connection: "ledger", Rotation: rot}
	if _, err := w.secrets.Put(ctx, audit.System, "because", s, secrets.NewValue([]byte(value))); err != nil {
		t.Fatal(err)
	}
}

// value returns the current value of a secret, as a call gets it.
func (w *world) value(t testing.TB, name string) string {
	t.Helper()
	call := id.New(id.Call)
	r, err := w.log.Intent(ctx, audit.Event{Actor: audit.System, Call: call})
	if err != nil {
		t.Fatal(err)
	}
	defer w.log.Outcome(r, audit.Event{Actor: audit.System, Outcome: &audit.Outcome{Status: audit.Succeeded}})
	_, versions, err := w.secrets.Reveal(ctx, r, call, name)
	if err != nil {
		t.Fatal(err)
	}
	return string(versions[secrets.Current].Value.Expose())
}

func (w *world) look(t testing.TB) {
	t.Helper()
	if err := w.Look(ctx); err != nil {
		t.Fatal(err)
	}
	if err := w.watch.Poll(ctx); err != nil {
		t.Fatal(err)
	}
}

func (w *world) last(t testing.TB, name string) rotation.Rotation {
	t.Helper()
	all, err := w.Rotations(ctx, name, 10)
	if err != nil || len(all) == 0 {
		t.Fatal(len(all), err)
	}
	return all[0]
}

// account is a pair of users on the real server, and a secret "db" for it.
type account struct {
	pg   *pgtest.Server
	a, b string
}

var accounts struct {
	sync.Mutex
	n int
}

const firstPassword = "first-password-5521"

func newAccount(t testing.TB) account {
	t.Helper()
	accounts.Lock()
	accounts.n++
	n := accounts.n
	accounts.Unlock()
	x := account{pg: pgtest.Shared(t), a: fmt.Sprintf("app_%d_a", n), b: fmt.Sprintf("app_%d_b", n)}
	x.pg.Exec(t, `CREATE ROLE `+x.a+` LOGIN PASSWORD '`+firstPassword+`'`, `CREATE ROLE `+x.b+` NOLOGIN`)
	return x
}

// rotated registers the secret "db" and its admin's.
func (x account) rotated(t testing.TB, w *world, more ...string) {
	t.Helper()
	w.put(t, "db-admin", x.pg.DSN, nil)
	rot := map[string]string{"by": "postgres", "users": x.a + "," + x.b, "admin": "db-admin", "overlap": "10m"}
	for i := 0; i+1 < len(more); i += 2 {
		rot[more[i]] = more[i+1]
	}
	w.put(t, "db", x.pg.User(x.a, firstPassword), rot)
}

// dyingReplica works until the point of its name, and then is killed.
func dyingReplica() {
	db, err := storage.Open(ctx, os.Getenv(storeAt))
	if err != nil {
		fatal(err)
	}
	w, err := replica(db, same)
	if err != nil {
		fatal(err)
	}
	w.Point(func(at string) {
		if at == os.Getenv(dieEnv) {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	})
	for range 3 {
		if err := w.Look(ctx); err != nil {
			fatal(err)
		}
		w.pass(time.Hour)
	}
	fatal(errors.New("it never came to " + os.Getenv(dieEnv)))
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(3)
}
