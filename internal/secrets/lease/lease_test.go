package lease_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/secrets/leaktest"
	"github.com/countersign/countersign/internal/secrets/lease"
	"github.com/countersign/countersign/internal/secrets/provider/postgres"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
	pgtest "github.com/countersign/countersign/test/postgres"
)

var ctx = context.Background()

func TestMain(m *testing.M) {
	code := m.Run()
	pgtest.Stop()
	os.Exit(code)
}

// world is one replica with the secret "db", whose leases are readers.
type world struct {
	*lease.Service
	t        *testing.T
	secrets  *secrets.Service
	log      *audit.Log
	watch    *storage.Watcher
	findings *findings.Service
	pg       *pgtest.Server
	readers  string

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

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, db *storage.DB, m lease.Maker) *world {
	t.Helper()
	w := &world{t: t, now: time.Now(), pg: pgtest.Shared(t)}
	scanner := inspection.New()
	var err error
	w.log, err = audit.Open(ctx, db, audit.Options{Redactor: scanner, Keeper: audittest.Keeper("k")})
	must(t, err)
	w.close = append(w.close, func() { w.log.Close(ctx) })
	w.watch = storage.NewWatcher(db, nil)
	keeper, err := secrets.OpenKeeper(ctx, "base64key://"+base64.URLEncoding.EncodeToString([]byte("0123456789abcdef0123456789abcdef")))
	must(t, err)
	w.secrets, err = secrets.New(db, w.log, w.watch, keeper, secrets.Options{Matcher: scanner.Known(), Now: w.clock})
	must(t, err)
	people, err := identity.New(db, w.log, w.watch, identity.Options{Derive: w.secrets.Derive})
	must(t, err)
	w.findings = findings.New(db, w.log, w.clock)
	w.Service = lease.New(lease.Options{DB: db, Log: w.log, Watch: w.watch, Secrets: w.secrets, Findings: w.findings, Now: w.clock,
		Backoff: func(int) time.Duration { return time.Minute }, Makers: map[string]lease.Maker{"postgres": m}})
	w.close = append(w.close, func() { w.Settle(ctx) }, func() { w.secrets.Close(ctx) }, func() { w.Stop(ctx) })
	t.Cleanup(w.stop)
	must(t, w.watch.Poll(ctx))
	_, err = people.PutUser(ctx, audit.System, "set-up", identity.User{Name: "pat", Role: identity.Admin})
	must(t, err)
	return w
}

func (w *world) stop() {
	for i := len(w.close) - 1; i >= 0; i-- {
		w.close[i]()
	}
	w.close = nil
}

var groups struct {
	sync.Mutex
	n int
}

// database makes a group of readers with a table to read, and the secret.
func (w *world) database() {
	w.t.Helper()
	groups.Lock()
	groups.n++
	n := groups.n
	groups.Unlock()
	w.readers = fmt.Sprintf("readers_%d", n)
	w.pg.Exec(w.t, `CREATE ROLE `+w.readers+` NOLOGIN`, fmt.Sprintf(`CREATE TABLE orders_%d (id int)`, n), fmt.Sprintf(`GRANT SELECT ON orders_%d TO %s`, n, w.readers),
		fmt.Sprintf(`INSERT INTO orders_%d VALUES (7)`, n))
	w.put(w.pg.DSN)
}

func (w *world) put(root string) {
	w.t.Helper()
	s := secrets.Spec{Name: "db", Owner: "pat", Connection: "ledger", Kind: "postgres", Settings: map[string]string{"roles": w.readers, "ttl": "30m"}}
	_, err := w.secrets.Put(ctx, audit.System, "because", s, secrets.NewValue([]byte(root)))
	must(w.t, err)
}

func (w *world) get(agent string) (string, error) {
	w.t.Helper()
	must(w.t, w.watch.Poll(ctx))
	call := id.New(id.Call)
	r, err := w.log.Intent(ctx, audit.Event{Actor: audit.System, Call: call, Agent: agent})
	must(w.t, err)
	defer w.log.Outcome(r, audit.Event{Actor: audit.System, Outcome: &audit.Outcome{Status: audit.Succeeded}})
	must(w.t, w.watch.Poll(ctx))
	v, err := w.secrets.Inject(ctx, r, secrets.Use{Call: call, Secret: "db", Connection: "ledger", Agent: agent})
	return string(v.Expose()), err
}

func (w *world) mustGet(agent string) string {
	w.t.Helper()
	dsn, err := w.get(agent)
	must(w.t, err)
	return dsn
}

func (w *world) list() []lease.Lease {
	w.t.Helper()
	all, err := w.List(ctx, lease.Which{})
	must(w.t, err)
	return all
}

func (w *world) look() {
	w.t.Helper()
	must(w.t, w.Look(ctx))
}

func each(t *testing.T, m lease.Maker, fn func(t *testing.T, w *world)) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := open(t, db, m)
		w.database()
		fn(t, w)
	})
}

func (w *world) events(t audit.Type) int {
	recs, err := w.log.List(ctx, audit.Query{Types: []audit.Type{t}, Limit: 50})
	must(w.t, err)
	return len(recs)
}

func TestALeaseLivesAndDies(t *testing.T) {
	each(t, postgres.Maker{}, func(t *testing.T, w *world) {
		dsn := w.mustGet("robo")
		if w.mustGet("robo") != dsn {
			t.Error("each use makes another role")
		}
		conn, err := pgx.Connect(ctx, dsn)
		must(t, err)
		defer conn.Close(ctx)
		table := "orders_" + strings.TrimPrefix(w.readers, "readers_")
		var n int
		must(t, conn.QueryRow(ctx, "SELECT id FROM "+table).Scan(&n))
		if _, err := conn.Exec(ctx, "DELETE FROM "+table); err == nil {
			t.Error("a reader may write")
		}
		w.pg.Exec(t, "GRANT CREATE ON SCHEMA public TO "+w.readers) // so that it owns something at its end
		_, err = conn.Exec(ctx, "CREATE TABLE mine_"+w.readers+" (x int)")
		must(t, err)
		all := w.list()
		if len(all) != 1 || all[0].State != lease.Live || all[0].Agent != "robo" || !strings.HasPrefix(all[0].Name, "cs_robo_") {
			t.Fatalf("%+v", all)
		}
		var until time.Time
		super, err := pgx.Connect(ctx, w.pg.DSN)
		must(t, err)
		defer super.Close(ctx)
		must(t, super.QueryRow(ctx, "SELECT rolvaliduntil FROM pg_roles WHERE rolname = $1", all[0].Name).Scan(&until))
		if !until.Equal(all[0].Expires) {
			t.Errorf("valid until %s, expires %s", until, all[0].Expires)
		}
		w.pass(29 * time.Minute)
		w.look()
		if !w.pg.Logs(t, dsn) || len(w.list()) != 1 {
			t.Error("it ended before its time")
		}
		w.pass(2 * time.Minute)
		w.look()
		if w.pg.Logs(t, dsn) {
			t.Error("it logs in after its end")
		}
		if err := conn.QueryRow(ctx, "SELECT 1").Scan(&n); err == nil {
			t.Error("its session goes on")
		}
		if left := w.list(); len(left) != 0 || w.events("lease.issued") != 1 || w.events("lease.revoked") != 1 {
			t.Errorf("%+v, %d issued, %d revoked", left, w.events("lease.issued"), w.events("lease.revoked"))
		}
		must(t, super.QueryRow(ctx, "SELECT count(*) FROM pg_roles WHERE rolname = $1", all[0].Name).Scan(&n))
		if n != 0 {
			t.Error("its role is still there")
		}
		if next := w.mustGet("robo"); next == dsn || !w.pg.Logs(t, next) {
			t.Error("no new one after its end")
		}
		password, _, _ := strings.Cut(strings.Split(dsn, ":")[2], "@")
		leaktest.Bytes(t, leaktest.Secrets{"the lease's password": password}, "the server's log", []byte(w.pg.Log(t)))
	})
}

func TestEndingOneAgentsLeaseLeavesTheOthers(t *testing.T) {
	each(t, postgres.Maker{}, func(t *testing.T, w *world) {
		bad, good := w.mustGet("bad"), w.mustGet("good")
		n, err := w.End(ctx, audit.System, "it went rogue", lease.Which{Agent: "bad"})
		must(t, err)
		w.look()
		if n != 1 || w.pg.Logs(t, bad) || !w.pg.Logs(t, good) || w.mustGet("good") != good {
			t.Errorf("ended %d; bad logs in: %v, good: %v", n, w.pg.Logs(t, bad), w.pg.Logs(t, good))
		}
		if again := w.mustGet("bad"); again == bad || !w.pg.Logs(t, again) {
			t.Error("a lease that was ended is given out again")
		}
		if err := w.secrets.Delete(ctx, audit.System, "because", "db"); !errors.Is(err, lease.ErrAlive) {
			t.Errorf("deleted with leases: %v", err)
		}
		_, err = w.End(ctx, audit.System, "no more", lease.Which{Secret: "db"})
		must(t, err)
		w.look()
		must(t, w.secrets.Delete(ctx, audit.System, "because", "db"))
		if w.pg.Logs(t, good) || len(w.list()) != 0 {
			t.Error("something is left")
		}
	})
}

func TestZombiesAreCountedAndTriedForEver(t *testing.T) {
	each(t, postgres.Maker{}, func(t *testing.T, w *world) {
		dsn := w.mustGet("robo")
		w.put(strings.Replace(w.pg.DSN, pgtest.Password, "not-the-password", 1)) // nobody can end it now
		w.pass(31 * time.Minute)
		for i := range 12 {
			w.look()
			w.pass(2 * time.Minute)
			if all := w.list(); len(all) != 1 || all[0].State != lease.Zombie || all[0].Attempts != i+1 || all[0].Error == "" {
				t.Fatalf("%d: %+v", i, all)
			}
		}
		found, err := w.findings.List(ctx, findings.Query{Status: findings.Open, Rule: "lease.not_ended"})
		if err != nil || len(found) != 1 || strings.Contains(fmt.Sprint(found), "not-the-password") {
			t.Errorf("%+v, %v", found, err)
		}
		w.put(w.pg.DSN)
		w.look()
		if len(w.list()) != 0 || w.pg.Logs(t, dsn) {
			t.Error("it was given up")
		}
		if found, _ := w.findings.List(ctx, findings.Query{Status: findings.Open}); len(found) != 0 {
			t.Errorf("%+v", found)
		}
	})
}

// lossy loses the answer to Make, after it took effect or before.
type lossy struct {
	lease.Maker
	applied bool
}

func (l lossy) Make(ctx context.Context, x lease.Lease, root, credential secrets.Value, settings map[string]string) error {
	if l.applied {
		if err := l.Maker.Make(ctx, x, root, credential, settings); err != nil {
			return err
		}
	}
	return fault.New(fault.Upstream, "lost", "the provider did not answer in time")
}

func TestALeaseWhoseAnswerWasLostIsEnded(t *testing.T) {
	for _, applied := range []bool{true, false} {
		each(t, lossy{postgres.Maker{}, applied}, func(t *testing.T, w *world) {
			if _, err := w.get("robo"); fault.KindOf(err) != fault.Upstream {
				t.Fatal(err)
			}
			must(t, w.Settle(ctx))
			all := w.list()
			if len(all) != 1 {
				t.Fatalf("nobody knows of it: %+v", all)
			}
			w.pass(time.Minute)
			w.look()
			super, err := pgx.Connect(ctx, w.pg.DSN)
			must(t, err)
			defer super.Close(ctx)
			var n int
			must(t, super.QueryRow(ctx, "SELECT count(*) FROM pg_roles WHERE rolname = $1", all[0].Name).Scan(&n))
			if n != 0 || len(w.list()) != 0 {
				t.Errorf("role there: %d, %+v", n, w.list())
			}
		})
	}
}

// A replica that stops gives its leases back; one that is killed leaves them to
// the others, who know them from the database.
func TestLeasesOutliveTheirReplica(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := open(t, db, postgres.Maker{})
		w.database()
		dsn := w.mustGet("robo")
		w.stop()
		after := open(t, db, postgres.Maker{})
		after.look()
		if after.pg.Logs(t, dsn) || len(after.list()) != 0 {
			t.Error("what a replica gave back lives on")
		}
	})
}

func TestAnAdminWhoIsNoSuperuser(t *testing.T) {
	each(t, postgres.Maker{}, func(t *testing.T, w *world) {
		w.pg.Exec(t, "CREATE ROLE maker_"+w.readers+" LOGIN CREATEROLE PASSWORD 'makers-own-5521'", "GRANT "+w.readers+" TO maker_"+w.readers+" WITH ADMIN OPTION")
		w.put(w.pg.User("maker_"+w.readers, "makers-own-5521"))
		dsn := w.mustGet("robo")
		conn, err := pgx.Connect(ctx, dsn)
		must(t, err)
		defer conn.Close(ctx)
		w.pass(31 * time.Minute)
		w.look()
		if w.pg.Logs(t, dsn) || len(w.list()) != 0 {
			t.Errorf("%+v", w.list())
		}
	})
}

func TestSettings(t *testing.T) {
	each(t, postgres.Maker{}, func(t *testing.T, w *world) {
		for _, set := range []map[string]string{{}, {"roles": `a"; DROP`}, {"roles": "a", "ttl": "1s"}, {"roles": "a", "ttl": "48h"}, {"roles": "a", "connections": "0"}, {"roles": "a", "x": "y"}} {
			s := secrets.Spec{Name: "other", Owner: "pat", Connection: "ledger", Kind: "postgres", Settings: set}
			if _, err := w.secrets.Put(ctx, audit.System, "because", s, secrets.NewValue([]byte(w.pg.DSN))); fault.KindOf(err) != fault.Invalid {
				t.Errorf("%v: %v", set, err)
			}
		}
	})
}
