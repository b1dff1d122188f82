package rotation_test

import (
	"context"
	"encoding/json/v2"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/secrets/rotation"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

func TestUsersAlternate(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w, x := open(t, db, same), newAccount(t)
		x.rotated(t, w)
		former := w.value(t, "db")
		for i, user := range []string{x.b, x.a, x.b} {
			if _, err := w.Rotate(ctx, audit.System, "a test", "db", false); err != nil {
				t.Fatal(err)
			}
			w.look(t)
			now := w.value(t, "db")
			if r := w.last(t, "db"); r.Step != rotation.Done || !strings.Contains(now, "//"+user+":") {
				t.Fatalf("turn %d: %+v, user of %s", i, r, user)
			}
			if !x.pg.Logs(t, now) || !x.pg.Logs(t, former) {
				t.Errorf("turn %d: during the overlap both must log in", i)
			}
			w.pass(11 * time.Minute)
			w.look(t)
			if !x.pg.Logs(t, now) || x.pg.Logs(t, former) {
				t.Errorf("turn %d: after the overlap the new one alone may log in", i)
			}
			all, _ := w.secrets.Versions(ctx, "db")
			if len(all) != 1 {
				t.Errorf("turn %d: a dead version can be gone back to: %+v", i, all)
			}
			former = now
		}
		for _, password := range []string{strings.Split(former, ":")[2]} {
			if p, _, _ := strings.Cut(password, "@"); strings.Contains(x.pg.Log(t), p) {
				t.Error("the server's log holds a password")
			}
		}
	})
}

func TestALeakedValueDiesAtOnceWithItsSessions(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w, x := open(t, db, same), newAccount(t)
		x.rotated(t, w)
		leaked := w.value(t, "db")
		alive := session(t, leaked)
		if _, err := w.Rotate(ctx, audit.System, "found on a forge", "db", true); err != nil {
			t.Fatal(err)
		}
		w.look(t)
		w.look(t)
		if x.pg.Logs(t, leaked) || !x.pg.Logs(t, w.value(t, "db")) {
			t.Error("the leaked value lives, or the new one does not")
		}
		if err := alive(); err == nil {
			t.Error("a session of the leaked value lives")
		}
	})
}

// faulty answers for a provider: a step that fails before anything happened, or
// whose answer is lost after it took effect.
type faulty struct {
	rotation.Rotator
	step    string
	applied bool
	times   int
}

var errLost = fault.New(fault.Upstream, "lost", "the provider did not answer in time")

func (f *faulty) hit(step string) bool {
	if f.step != step || f.times == 0 {
		return false
	}
	f.times--
	return true
}

func (f *faulty) do(step string, fn func() error) error {
	if !f.hit(step) {
		return fn()
	}
	if f.applied {
		if err := fn(); err != nil {
			return err
		}
	}
	return errLost
}

func (f *faulty) Create(ctx context.Context, w rotation.Work) (v secrets.Value, ref string, err error) {
	err = f.do("create", func() error { v, ref, err = f.Rotator.Create(ctx, w); return err })
	return v, ref, err
}

func (f *faulty) Set(ctx context.Context, w rotation.Work) error {
	return f.do("set", func() error { return f.Rotator.Set(ctx, w) })
}

func (f *faulty) Test(ctx context.Context, w rotation.Work) error {
	return f.do("test", func() error { return f.Rotator.Test(ctx, w) })
}

func (f *faulty) Retire(ctx context.Context, w rotation.Work, ref string) error {
	return f.do("retire", func() error { return f.Rotator.Retire(ctx, w, ref) })
}

// Whatever a provider answers at a step, some version authenticates at every
// moment, and in the end the new one alone does.
func TestProvidersAnswers(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		f := &faulty{}
		w := open(t, db, func(r rotation.Rotator) rotation.Rotator { return &passing{r, f} })
		x := newAccount(t)
		x.rotated(t, w)
		for _, step := range []string{"create", "set", "test", "retire"} {
			for _, applied := range []bool{false, true} {
				*f = faulty{step: step, applied: applied, times: 2}
				former := w.value(t, "db")
				if _, err := w.Rotate(ctx, audit.System, "a test", "db", false); err != nil {
					t.Fatal(err)
				}
				for range 5 {
					w.look(t)
					if !x.pg.Logs(t, w.value(t, "db")) {
						t.Fatalf("%s, applied %v: nothing authenticates at %+v", step, applied, w.last(t, "db"))
					}
					w.pass(11 * time.Minute)
				}
				if r := w.last(t, "db"); r.Step != rotation.Done || w.value(t, "db") == former || x.pg.Logs(t, former) {
					t.Errorf("%s, applied %v: %+v; the former logs in: %v", step, applied, r, x.pg.Logs(t, former))
				}
				if left, _ := w.Leftovers(ctx); len(left) != 0 || f.times != 0 {
					t.Errorf("%s, applied %v: left over %+v, faults left %d", step, applied, left, f.times)
				}
			}
		}
	})
}

// passing shares one fault among rotators.
type passing struct {
	rotation.Rotator
	f *faulty
}

func (p *passing) Create(ctx context.Context, w rotation.Work) (secrets.Value, string, error) {
	p.f.Rotator = p.Rotator
	return p.f.Create(ctx, w)
}
func (p *passing) Set(ctx context.Context, w rotation.Work) error {
	p.f.Rotator = p.Rotator
	return p.f.Set(ctx, w)
}
func (p *passing) Test(ctx context.Context, w rotation.Work) error {
	p.f.Rotator = p.Rotator
	return p.f.Test(ctx, w)
}
func (p *passing) Retire(ctx context.Context, w rotation.Work, ref string) error {
	p.f.Rotator = p.Rotator
	return p.f.Retire(ctx, w, ref)
}

func TestAFailedRotationNeverBlocksTheNext(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		f := &faulty{step: "set", times: 100}
		w := open(t, db, func(r rotation.Rotator) rotation.Rotator { return &passing{r, f} })
		x := newAccount(t)
		x.rotated(t, w)
		former := w.value(t, "db")
		if _, err := w.Rotate(ctx, audit.System, "a test", "db", false); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			w.look(t)
			w.pass(2 * time.Minute)
		}
		if r := w.last(t, "db"); r.Step != rotation.Failed || r.Attempts != 8 || r.Error != errLost.Message {
			t.Fatalf("%+v", r)
		}
		if w.value(t, "db") != former || !x.pg.Logs(t, former) {
			t.Error("the former value must go on")
		}
		found, err := w.findings.List(ctx, findings.Query{Status: findings.Open, Rule: "secret.rotation_failed"})
		if err != nil || len(found) != 1 {
			t.Errorf("%d findings, %v", len(found), err)
		}
		f.times = 0
		if _, err := w.Rotate(ctx, audit.System, "mended", "db", false); err != nil {
			t.Fatal(err)
		}
		w.look(t)
		if r := w.last(t, "db"); r.Step != rotation.Done || !x.pg.Logs(t, w.value(t, "db")) {
			t.Errorf("%+v", r)
		}
		if found, _ := w.findings.List(ctx, findings.Query{Status: findings.Open}); len(found) != 0 {
			t.Errorf("still open: %+v", found)
		}
	})
}

func TestWhoPutsAValueWins(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		f := &faulty{step: "set", times: 1}
		w := open(t, db, func(r rotation.Rotator) rotation.Rotator { return &passing{r, f} })
		x := newAccount(t)
		x.rotated(t, w)
		if _, err := w.Rotate(ctx, audit.System, "a test", "db", false); err != nil {
			t.Fatal(err)
		}
		w.look(t) // stops before set
		byHand := x.pg.User(x.a, "put-by-hand-91827")
		x.pg.Exec(t, `ALTER ROLE `+x.a+` PASSWORD 'put-by-hand-91827'`)
		x.rotated(t, w)
		s, _ := w.secrets.Secret("db")
		if _, err := w.secrets.Put(ctx, audit.System, "by hand", s.Spec, secrets.NewValue([]byte(byHand))); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			w.pass(2 * time.Minute)
			w.look(t)
		}
		if r := w.last(t, "db"); r.Step != rotation.Failed || w.value(t, "db") != byHand || !x.pg.Logs(t, byHand) {
			t.Errorf("%+v", r)
		}
		if left, _ := w.Leftovers(ctx); len(left) != 0 {
			t.Errorf("%+v", left)
		}
	})
}

func TestSchedule(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w, x := open(t, db, same), newAccount(t)
		x.rotated(t, w, "every", "30d")
		w.look(t)
		if all, _ := w.Rotations(ctx, "db", 10); len(all) != 0 {
			t.Fatalf("too early: %+v", all)
		}
		w.pass(26 * 24 * time.Hour) // at most a tenth of the period early
		w.look(t)
		if all, _ := w.Rotations(ctx, "db", 10); len(all) != 0 {
			t.Fatalf("too early: %+v", all)
		}
		w.pass(4 * 24 * time.Hour)
		w.look(t)
		w.look(t)
		if all, _ := w.Rotations(ctx, "db", 10); len(all) != 1 || all[0].Step != rotation.Done || all[0].Cause != rotation.OnSchedule {
			t.Errorf("%+v", all)
		}
	})
}

func TestOneReplicaWorks(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		if !strings.HasPrefix(dsn, "postgres") {
			t.Skip("SQLite has one replica")
		}
		db := storagetest.Open(t, dsn)
		w, x := open(t, db, same), newAccount(t)
		x.rotated(t, w)
		other, err := replica(db, same)
		if err != nil {
			t.Fatal(err)
		}
		defer other.stop()
		w.look(t) // has the lease
		if _, err := other.Rotate(ctx, audit.System, "a test", "db", false); err != nil {
			t.Fatal(err)
		}
		other.look(t)
		if r := w.last(t, "db"); r.Step != rotation.Create {
			t.Errorf("a replica without the lease worked: %+v", r)
		}
		if err := w.Stop(ctx); err != nil {
			t.Fatal(err)
		}
		w.pass(time.Minute) // the replicas' clocks differ
		w.look(t)
		if r := w.last(t, "db"); r.Step != rotation.Done {
			t.Errorf("%+v", r)
		}
	})
}

func TestSettings(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := open(t, db, same)
		for _, rot := range []map[string]string{
			{"by": "postgres"}, {"by": "postgres", "users": "a"}, {"by": "postgres", "users": "a,a"}, {"by": "postgres", "users": `a,b"; DROP`},
			{"by": "postgres", "users": "a,b", "every": "never"}, {"by": "postgres", "users": "a,b", "every": "1h", "overlap": "2h"},
			{"by": "postgres", "users": "a,b", "admin": "db"}, {"by": "postgres", "users": "a,b", "colour": "red"}, {"by": "command"},
			{"by": "command", "command": "./x"}, {"by": "command", "command": `["-x"]`}, {"by": "command", "command": `[`},
		} {
			s := secrets.Spec{Name: "db", Owner: "pat", Connection: "ledger", Rotation: rot}
			if _, err := w.secrets.Put(ctx, audit.System, "because", s, secrets.NewValue([]byte("postgres://a:b@c/d"))); fault.KindOf(err) != fault.Invalid {
				t.Errorf("%v: %v", rot, err)
			}
		}
		if _, err := w.Rotate(ctx, audit.System, "x", "nothing", false); !errors.Is(err, secrets.ErrNotFound) {
			t.Error(err)
		}
		w.put(t, "plain", "a-plain-value", nil)
		if _, err := w.Rotate(ctx, audit.System, "x", "plain", false); !errors.Is(err, rotation.ErrNoRotator) {
			t.Error(err)
		}
	})
}

// points are all instants between two steps and around each answer.
var points = []string{
	"before create", "after create", "committed create", "before set", "after set", "committed set", "before test", "after test", "committed test",
	"before finish", "after finish", "committed finish", "before retire", "after retire", "committed retire",
}

// Killed at any of them, another process goes on and comes to the same end.
func TestKilledAnywhere(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		x := newAccount(t)
		db, err := storage.Open(ctx, dsn)
		if err != nil {
			t.Fatal(err)
		}
		w := open(t, db, same)
		x.rotated(t, w)
		w.stop()
		db.Close()
		for _, at := range points {
			killed(t, dsn, x, at)
		}
	})
}

func killed(t *testing.T, dsn string, x account, at string) {
	t.Helper()
	db, err := storage.Open(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { db.Close() }()
	w, err := replica(db, same)
	if err != nil {
		t.Fatal(err)
	}
	former := w.value(t, "db")
	if _, err := w.Rotate(ctx, audit.System, "a test", "db", false); err != nil {
		t.Fatal(err)
	}
	w.stop()
	db.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), dieEnv+"="+at, storeAt+"="+dsn)
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != -1 {
		t.Fatalf("%s: the replica was not killed: %v\n%s", at, err, out)
	}
	if db, err = storage.Open(ctx, dsn); err != nil {
		t.Fatal(err)
	}
	free(t, db)
	if w, err = replica(db, same); err != nil {
		t.Fatal(err)
	}
	defer w.stop()
	if !x.pg.Logs(t, w.value(t, "db")) {
		t.Errorf("killed %s: nothing authenticates", at)
	}
	for range 3 {
		w.look(t)
		if !x.pg.Logs(t, w.value(t, "db")) {
			t.Errorf("killed %s: nothing authenticates", at)
		}
		w.pass(11 * time.Minute)
	}
	now := w.value(t, "db")
	if r := w.last(t, "db"); r.Step != rotation.Done || now == former || x.pg.Logs(t, former) || !x.pg.Logs(t, now) {
		t.Errorf("killed %s: %+v; the former logs in: %v", at, r, x.pg.Logs(t, former))
	}
	if left, _ := w.Leftovers(ctx); len(left) != 0 {
		t.Errorf("killed %s: left over %+v", at, left)
	}
}

// free lets the dead process's lease expire.
func free(t *testing.T, db *storage.DB) {
	t.Helper()
	if err := db.Tx(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE leases SET until = 1 WHERE name = 'secrets/rotation'`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// rotateTool is an operator's program: its provider is a file with the values
// that it accepts, one a line.
func rotateTool(file string) int {
	b, _ := io.ReadAll(os.Stdin)
	var q struct{ Step, Token, Secret, Current, Pending, Previous, Admin, Ref string }
	if err := json.Unmarshal(b, &q, json.MatchCaseInsensitiveNames(true)); err != nil {
		return 2
	}
	for _, arg := range append(os.Args, os.Environ()...) {
		if q.Current != "" && strings.Contains(arg, q.Current) {
			return 4
		}
	}
	text, _ := os.ReadFile(file)
	accepted := strings.Fields(string(text))
	switch q.Step {
	case "create":
		os.Stdout.WriteString(`{"ref": "key-of-` + q.Token + `"}`)
	case "set":
		accepted = append(accepted, q.Pending)
	case "test":
		if !strings.Contains(string(text), q.Pending) {
			return 5
		}
	case "retire":
		if q.Previous == "" {
			return 6
		}
		accepted = []string{q.Current}
	}
	if os.WriteFile(file, []byte(strings.Join(accepted, "\n")), 0o600) != nil {
		return 7
	}
	return 0
}

func TestCommand(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := open(t, db, same)
		file := filepath.Join(t.TempDir(), "provider")
		command, err := json.Marshal([]string{os.Args[0], "rotate", file})
		if err != nil {
			t.Fatal(err)
		}
		w.put(t, "key", "the-first-value-1", map[string]string{"by": "command", "command": string(command), "overlap": "0s"})
		if _, err := w.Rotate(ctx, audit.System, "a test", "key", false); err != nil {
			t.Fatal(err)
		}
		w.look(t)
		w.look(t)
		now := w.value(t, "key")
		if b, _ := os.ReadFile(file); string(b) != now || now == "the-first-value-1" {
			t.Errorf("%+v: the provider accepts %q", w.last(t, "key"), b)
		}
		sec, _ := w.secrets.Secret("key")
		if !strings.HasPrefix(sec.Ref, "key-of-rot_") {
			t.Errorf("ref %q", sec.Ref)
		}
		if left, _ := w.Leftovers(ctx); len(left) != 0 {
			t.Errorf("%+v", left)
		}
	})
}
