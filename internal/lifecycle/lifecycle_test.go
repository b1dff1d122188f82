package lifecycle_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/lifecycle"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

var ctx = context.Background()

const day = 24 * time.Hour

type clean struct{}

func (clean) Redact(b []byte) []byte { return b }

type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) get() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// doors are a server that asks identity, as the fronts do.
type doors struct {
	w    *world
	down bool
	open bool // lets everybody through
	seen []string
}

func (d *doors) Of(identity.Agent) []string { return []string{"/mcp", "/mcp/ledger"} }

func (d *doors) Token(context.Context, string, []string) (string, error) {
	return "", errors.New("this world issues none")
}

func (d *doors) Try(_ context.Context, path, credential string) (int, bool, error) {
	if d.down {
		return 0, false, errors.New("down")
	}
	d.seen = append(d.seen, path)
	if err := d.w.watch.Poll(ctx); err != nil { // nothing else keeps the view fresh here
		return 0, false, err
	}
	_, err := d.w.ids.Authenticate(ctx, credential)
	if d.open || err == nil {
		return 200, false, nil
	}
	return 401, true, nil
}

type world struct {
	*lifecycle.Service
	t        *testing.T
	db       *storage.DB
	log      *audit.Log
	watch    *storage.Watcher
	ids      *identity.Service
	locks    *locks.Service
	findings *findings.Service
	doors    *doors
	clock    *clock
	lease    *job.Lease
	users    map[string]audit.Actor
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func derive(label string) []byte { sum := sha256.Sum256([]byte(label)); return sum[:] }

// join is a replica.
func join(t *testing.T, db *storage.DB, log *audit.Log, c *clock, change func(*lifecycle.Options)) *world {
	t.Helper()
	w := &world{t: t, db: db, log: log, clock: c, watch: storage.NewWatcher(db, nil), users: map[string]audit.Actor{}}
	w.locks = locks.New(db, log, w.watch, locks.Options{})
	var err error
	w.ids, err = identity.New(db, log, w.watch, identity.Options{Derive: derive, Locks: w.locks, Now: c.get})
	w.must(err)
	w.findings = findings.New(db, log, c.get)
	w.doors = &doors{w: w}
	o := lifecycle.Options{DB: db, Log: log, Watch: w.watch, Identity: w.ids, Locks: w.locks, Findings: w.findings, Derive: derive, Doors: w.doors, Now: c.get,
		Grace: 3 * day, IdleAfter: 90 * day, WarnBefore: 14 * day}
	if change != nil {
		change(&o)
	}
	w.Service, err = lifecycle.New(o)
	w.must(err)
	w.lease = w.NewLease()
	w.must(w.watch.Poll(ctx))
	return w
}

// settle makes: ada owns prod and dev, bob is the backup of both, cyd is an owner.
func settle(t *testing.T, db *storage.DB, change func(*lifecycle.Options)) *world {
	t.Helper()
	log, err := audit.Open(ctx, db, audit.Options{Redactor: clean{}, Keeper: audittest.Keeper("k")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close(ctx) })
	w := join(t, db, log, &clock{now: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)}, change)
	for name, role := range map[string]string{"root": identity.Admin, "ada": identity.Owner, "bob": identity.Owner, "cyd": identity.Owner, "vic": identity.Viewer} {
		_, err := w.ids.PutUser(ctx, audit.System, "set up", identity.User{Name: name, Role: role})
		w.must(err)
		u, _ := w.ids.User(name)
		w.users[name] = audit.Person(u.ID, u.Name)
	}
	for name, stage := range map[string]string{"prod": identity.Production, "dev": identity.Development} {
		_, err := w.ids.PutAgent(ctx, audit.System, "set up", identity.Agent{Name: name, Owner: "ada", Backup: "bob", Stage: stage})
		w.must(err)
	}
	return w
}

func each(t *testing.T, change func(*lifecycle.Options), fn func(t *testing.T, w *world)) {
	t.Helper()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) { fn(t, settle(t, db, change)) })
}

func (w *world) key(agent string) string {
	w.t.Helper()
	_, value, err := w.ids.IssueKey(ctx, audit.System, "", agent, 80*day)
	w.must(err)
	return value
}

func (w *world) turn(user string, disabled bool) {
	w.t.Helper()
	u, _ := w.ids.User(user)
	u.Disabled = disabled
	_, err := w.ids.PutUser(ctx, w.users["root"], "left the company", u)
	w.must(err)
}

func (w *world) tick() {
	w.t.Helper()
	w.must(w.Look(ctx, w.lease))
}

func (w *world) call(key string) (identity.Caller, error) {
	w.t.Helper()
	w.must(w.watch.Poll(ctx))
	return w.ids.Authenticate(ctx, key)
}

func (w *world) expect(what, key string, want error) {
	w.t.Helper()
	if _, err := w.call(key); !errors.Is(err, want) {
		w.t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

func (w *world) caller(name string) rest.Caller {
	u, _ := w.ids.User(name)
	return rest.Caller{ID: u.ID, Name: u.Name, Role: u.Role}
}

func (w *world) open(rule, agent string) []findings.Finding {
	w.t.Helper()
	found, err := w.findings.List(ctx, findings.Query{Rule: rule, Object: "agent/" + agent, Status: findings.Open})
	w.must(err)
	return found
}

func (w *world) events(kind audit.Type) (n int) {
	w.t.Helper()
	rows, err := w.db.Query(ctx, `SELECT record FROM events`)
	w.must(err)
	defer rows.Close()
	for rows.Next() {
		var raw []byte
		w.must(rows.Scan(&raw))
		ev, err := audit.DecodeRecord(raw)
		w.must(err)
		if ev.Type == kind {
			n++
		}
	}
	return n
}

func TestAnOwnerLeaves(t *testing.T) {
	each(t, nil, func(t *testing.T, w *world) {
		prod, dev := w.key("prod"), w.key("dev")
		w.turn("ada", true)
		w.expect("production, at once", prod, identity.ErrSuspended)
		c, err := w.call(dev)
		if err != nil || c.Owner.Name != "bob" {
			t.Errorf("development: the backup answers for it: %v %v", c.Owner, err)
		}
		if f := w.open(lifecycle.RuleOwnerLeft, "prod"); len(f) != 1 || f[0].Severity != findings.High || !strings.Contains(f[0].Detail, "bob") {
			t.Errorf("%+v", f)
		}
		if _, err := w.ids.Resume(ctx, w.users["root"], "I need it", "prod"); !errors.Is(err, lifecycle.ErrOwnerOff) {
			t.Error("resumed without an owner:", err)
		}
		// Another replica sees it the same, and so does one that starts again.
		other := join(t, w.db, w.log, w.clock, func(o *lifecycle.Options) { o.Grace = 3 * day })
		other.expect("on another replica", prod, identity.ErrSuspended)
		other.expect("on another replica", dev, nil)
		w.clock.pass(3*day - time.Second)
		w.tick()
		w.expect("just before the deadline", dev, nil)
		w.clock.pass(2 * time.Second)
		w.expect("after the deadline, before the clock", dev, identity.ErrNoOwner)
		other.tick()
		w.tick() // does not hold the lease
		w.expect("after the clock", dev, identity.ErrSuspended)
		if n := w.events("agent.grace_ended"); n != 2 {
			t.Error(n, "ends of graces")
		}
		for _, agent := range []string{"prod", "dev"} {
			w.must(w.Accept(ctx, w.caller("bob"), "I run it now", agent))
			a, _ := w.ids.Agent(agent)
			if a.Owner != "bob" || a.Backup != "" || a.Suspended || len(w.open(lifecycle.RuleOwnerLeft, agent)) != 0 {
				t.Errorf("%+v", a)
			}
		}
		w.expect("accepted", prod, nil)
		w.expect("accepted", dev, nil)
		if n := w.events("agent.accepted"); n != 2 {
			t.Error(n, "acceptances")
		}
	})
}

func TestAnAgentWithoutAnybodyMakesNoCall(t *testing.T) {
	each(t, nil, func(t *testing.T, w *world) {
		dev := w.key("dev")
		_, run, err := w.ids.StartRun(ctx, audit.System, "", "dev", time.Hour)
		w.must(err)
		w.turn("bob", true)
		if len(w.open(lifecycle.RuleBackupLeft, "dev")) != 1 {
			t.Error("nobody was told that the backup left")
		}
		w.turn("ada", true)
		w.expect("key", dev, identity.ErrNoOwner)
		w.expect("run", run, identity.ErrNoOwner)
		if _, _, err := w.ids.StartRun(ctx, audit.System, "", "dev", time.Hour); !errors.Is(err, identity.ErrNoOwner) {
			t.Error("a run begins:", err)
		}
		w.turn("bob", false)
		w.expect("the backup is back, within the grace", dev, nil)
		if len(w.open(lifecycle.RuleBackupLeft, "dev")) != 0 {
			t.Error("still told")
		}
	})
}

func TestTheOwnerComesBack(t *testing.T) {
	each(t, nil, func(t *testing.T, w *world) {
		prod := w.key("prod")
		_, err := w.ids.Suspend(ctx, w.users["root"], "broken", "dev")
		w.must(err)
		w.turn("ada", true)
		w.clock.pass(4 * day)
		w.tick()
		w.turn("ada", false)
		w.expect("back", prod, nil)
		if a, _ := w.ids.Agent("dev"); !a.Suspended {
			t.Error("resumed what somebody had suspended before")
		}
		if v := w.open(lifecycle.RuleOwnerLeft, "prod"); len(v) != 0 {
			t.Error(v)
		}
	})
}

func TestWhoMayAccept(t *testing.T) {
	each(t, nil, func(t *testing.T, w *world) {
		accept := func(who, agent string) error { return w.Accept(ctx, w.caller(who), "mine now", agent) }
		for _, who := range []string{"bob", "cyd", "root"} {
			if err := accept(who, "prod"); !errors.Is(err, lifecycle.ErrNothing) {
				t.Errorf("%s, while the owner is there: %v", who, err)
			}
		}
		w.turn("ada", true)
		for _, who := range []string{"cyd", "root"} { // an operator gives it an owner instead
			if err := accept(who, "prod"); !errors.Is(err, lifecycle.ErrNothing) {
				t.Errorf("%s: %v", who, err)
			}
		}
		bob := w.caller("bob")
		bob.Role = identity.Viewer
		if err := w.Accept(ctx, bob, "mine", "prod"); !errors.Is(err, rest.ErrRole) {
			t.Error("a viewer:", err)
		}
		if err := w.Accept(ctx, w.caller("bob"), " ", "prod"); !errors.Is(err, lifecycle.ErrReason) {
			t.Error("no reason:", err)
		}
		w.must(accept("bob", "prod"))
		if err := accept("bob", "prod"); !errors.Is(err, lifecycle.ErrNothing) {
			t.Error("twice:", err)
		}
	})
}

func TestAnAgentIsGiven(t *testing.T) {
	each(t, nil, func(t *testing.T, w *world) {
		ada := w.users["ada"]
		for to, want := range map[string]error{"vic": lifecycle.ErrOffer, "ada": lifecycle.ErrOffer, "nobody": identity.ErrNotFound} {
			if _, err := w.Give(ctx, ada, "to her", "prod", to); !errors.Is(err, want) {
				t.Errorf("%s: %v", to, err)
			}
		}
		_, err := w.Give(ctx, ada, "she knows it", "prod", "cyd")
		w.must(err)
		if a, _ := w.ids.Agent("prod"); a.Owner != "ada" {
			t.Error("given before it was accepted")
		}
		w.clock.pass(8 * day)
		if err := w.Accept(ctx, w.caller("cyd"), "yes", "prod"); !errors.Is(err, lifecycle.ErrNothing) {
			t.Error("too late:", err)
		}
		w.tick()
		if n := w.events("agent.offer_expired"); n != 1 {
			t.Error(n)
		}
		_, err = w.Give(ctx, ada, "she knows it", "prod", "cyd")
		w.must(err)
		w.must(w.Accept(ctx, w.caller("cyd"), "yes", "prod"))
		if a, _ := w.ids.Agent("prod"); a.Owner != "cyd" || a.Backup != "bob" {
			t.Errorf("%+v", a)
		}
	})
}

func TestAnOwnerMovesToAnotherTeam(t *testing.T) {
	each(t, nil, func(t *testing.T, w *world) {
		team := func(name string, members ...string) {
			_, err := w.ids.PutTeam(ctx, w.users["root"], "reorganised", identity.Team{Name: name, Members: members})
			w.must(err)
		}
		team("pay", "ada", "bob")
		team("ops")
		a, _ := w.ids.Agent("prod")
		a.Team = "pay"
		_, err := w.ids.PutAgent(ctx, audit.System, "", a)
		w.must(err)
		team("pay", "bob")
		team("ops", "ada")
		if len(w.open(lifecycle.RuleOwnerMoved, "prod")) != 1 {
			t.Fatal("nobody was told")
		}
		a.Team = "ops"
		_, err = w.ids.PutAgent(ctx, audit.System, "moves with her", a)
		w.must(err)
		if len(w.open(lifecycle.RuleOwnerMoved, "prod")) != 0 {
			t.Error("still told")
		}
	})
}

func TestPromotedWithoutAnOwner(t *testing.T) {
	each(t, nil, func(t *testing.T, w *world) {
		dev := w.key("dev")
		w.turn("ada", true)
		w.expect("development", dev, nil)
		a, _ := w.ids.Agent("dev")
		a.Stage = identity.Production
		_, err := w.ids.PutAgent(ctx, w.users["root"], "", a)
		w.must(err)
		w.expect("production", dev, identity.ErrNoOwner)
	})
}

func TestIdleAgents(t *testing.T) {
	each(t, nil, func(t *testing.T, w *world) {
		w.clock.pass(75 * day)
		w.tick()
		if len(w.open(lifecycle.RuleIdle, "prod")) != 0 {
			t.Fatal("warned too early")
		}
		w.clock.pass(2 * day)
		w.tick()
		if f := w.open(lifecycle.RuleIdle, "prod"); len(f) != 1 || f[0].Severity != findings.Low {
			t.Fatalf("%+v", f)
		}
		key := w.key("dev")
		c, err := w.call(key)
		w.must(err)
		w.ids.Used(c, w.clock.get())
		w.must(w.ids.Flush(ctx))
		w.tick()
		if len(w.open(lifecycle.RuleIdle, "dev")) != 0 {
			t.Error("it was used, and is still called idle")
		}
		w.clock.pass(13*day - time.Hour)
		w.tick()
		if a, _ := w.ids.Agent("prod"); a.Suspended {
			t.Fatal("suspended before its time")
		}
		w.clock.pass(day + 2*time.Hour)
		w.tick()
		w.tick()
		if a, _ := w.ids.Agent("prod"); !a.Suspended || w.events("agent.suspended") != 1 {
			t.Fatal("not suspended, or twice", a.Suspended, w.events("agent.suspended"))
		}
		if a, _ := w.ids.Agent("dev"); a.Suspended {
			t.Error("suspended though used")
		}
		_, err = w.ids.Resume(ctx, w.users["root"], "needed once a year", "prod")
		w.must(err)
		w.tick()
		if a, _ := w.ids.Agent("prod"); a.Suspended || len(w.open(lifecycle.RuleIdle, "prod")) != 0 {
			t.Error("suspended again at once")
		}
	})
}

// Whoever was not warned of is not suspended, even years after.
func TestNobodyIsSuspendedUnwarned(t *testing.T) {
	each(t, nil, func(t *testing.T, w *world) {
		w.clock.pass(1000 * day)
		w.tick()
		if a, _ := w.ids.Agent("prod"); a.Suspended || len(w.open(lifecycle.RuleIdle, "prod")) != 1 {
			t.Error("unwarned")
		}
		w.clock.pass(14 * day)
		w.tick()
		if a, _ := w.ids.Agent("prod"); !a.Suspended {
			t.Error("warned, and still there")
		}
	})
}

func TestDecommission(t *testing.T) {
	part := func(o *lifecycle.Options) {
		o.Parts = []lifecycle.Part{{Name: "x", End: func(context.Context, *audit.Tx, audit.Actor, string, identity.Agent) (map[string]int, error) {
			return map[string]int{"things": 3}, nil
		}}}
	}
	each(t, part, func(t *testing.T, w *world) {
		key := w.key("prod")
		_, run, err := w.ids.StartRun(ctx, audit.System, "", "prod", time.Hour)
		w.must(err)
		d, err := w.Decommission(ctx, w.users["root"], "not needed any more", "prod")
		w.must(err)
		if d.State != lifecycle.Refused || d.Removed["keys"] != 2 || d.Removed["runs"] != 2 || d.Removed["things"] != 3 || len(d.Probes) != 6 {
			t.Errorf("%+v", d)
		}
		for _, p := range d.Probes {
			if !p.Worked || !p.Refused || p.Before != 200 || p.After != 401 {
				t.Errorf("%+v", p)
			}
		}
		w.expect("key", key, identity.ErrRevoked)
		w.expect("run", run, identity.ErrRevoked)
		for what, err := range map[string]error{
			"resume": second(w.ids.Resume(ctx, w.users["root"], "back", "prod")),
			"update": second(w.ids.PutAgent(ctx, w.users["root"], "back", identity.Agent{Name: "prod", Owner: "bob", Stage: identity.Staging})),
			"again":  second(w.Decommission(ctx, w.users["root"], "again", "prod")),
		} {
			if !errors.Is(err, identity.ErrRetired) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if _, _, err := w.ids.IssueKey(ctx, w.users["root"], "", "prod", 0); !errors.Is(err, identity.ErrRetired) {
			t.Error("a new key:", err)
		}
		if w.events("agent.decommissioned") != 1 || w.events("agent.decommission_proved") != 1 {
			t.Error("events")
		}
		w.must(w.ids.DeleteAgent(ctx, w.users["root"], "tidy", "prod"))
	})
}

func second[T any](_ T, err error) error { return err }

func TestAProbeThatIsLetThrough(t *testing.T) {
	each(t, nil, func(t *testing.T, w *world) {
		w.doors.open = true
		d, err := w.Decommission(ctx, w.users["root"], "not needed any more", "prod")
		w.must(err)
		if d.State != lifecycle.LetThrough {
			t.Errorf("%+v", d)
		}
		if f := w.open(lifecycle.RuleProbe, "prod"); len(f) != 1 || f[0].Severity != findings.Critical {
			t.Errorf("%+v", f)
		}
		w.must(w.watch.Poll(ctx))
		if err := w.locks.Check(locks.Subject{Agents: []string{"prod"}}); !errors.Is(err, locks.ErrLocked) {
			t.Error("not locked:", err)
		}
	})
}

func TestADoorThatIsDownIsAskedAgain(t *testing.T) {
	each(t, nil, func(t *testing.T, w *world) {
		w.doors.down = true
		d, err := w.Decommission(ctx, w.users["root"], "not needed any more", "prod")
		w.must(err)
		if d.State != lifecycle.Removed || d.Tries != 1 {
			t.Errorf("%+v", d)
		}
		for range 5 {
			w.clock.pass(10 * time.Minute)
			w.tick()
		}
		if len(w.open(lifecycle.RuleProbe, "prod")) != 1 {
			t.Error("nobody was told")
		}
		w.doors.down = false
		w.clock.pass(10 * time.Minute)
		w.tick()
		all, err := w.Decommissions(ctx)
		w.must(err)
		if all[0].State != lifecycle.Refused || len(w.open(lifecycle.RuleProbe, "prod")) != 0 {
			t.Errorf("%+v", all[0])
		}
	})
}

// Killed after any step, by itself or by whoever asks again, it comes to the
// same end, and nothing stays half done.
func TestKilledAtEveryStep(t *testing.T) {
	killed := errors.New("killed")
	for _, at := range []string{"prepared", "before", "removing", "removed", "tried"} {
		for _, how := range []string{"the clock", "a person", "another replica"} {
			t.Run(at+", then "+how, func(t *testing.T) {
				run := func(t *testing.T, w *world) {
					key := w.key("prod")
					w.Die(func(step string) error {
						if step == at {
							return killed
						}
						return nil
					})
					if _, err := w.Decommission(ctx, w.users["root"], "not needed any more", "prod"); !errors.Is(err, killed) {
						t.Fatal(err)
					}
					gone := slices.Contains([]string{"removed", "tried"}, at)
					if _, err := w.call(key); (err != nil) != gone {
						t.Errorf("half done: %v", err)
					}
					next := w
					if how == "another replica" {
						next = join(t, w.db, w.log, w.clock, nil)
					} else {
						w.Die(func(string) error { return nil })
					}
					if how == "a person" {
						second(next.Decommission(ctx, w.users["root"], "again", "prod"))
					} else {
						w.clock.pass(time.Minute)
						next.tick()
					}
					all, err := next.Decommissions(ctx)
					w.must(err)
					if len(all) != 1 || all[0].State != lifecycle.Refused || all[0].Reason != "not needed any more" {
						t.Errorf("%+v", all)
					}
					for _, p := range all[0].Probes {
						if !p.Worked || !p.Refused {
							t.Errorf("%+v", p)
						}
					}
					next.expect("key", key, identity.ErrRevoked)
					if n := w.events("agent.decommissioned"); n != 1 {
						t.Error(n, "times")
					}
				}
				if how == "another replica" {
					each(t, nil, run)
					return
				}
				run(t, settle(t, storagetest.Open(t, storagetest.SQLite(t)), nil))
			})
		}
	}
}

func TestProbesAreKeptSealed(t *testing.T) {
	each(t, nil, func(t *testing.T, w *world) {
		w.Die(func(step string) error {
			if step == "removed" {
				return errors.New("killed")
			}
			return nil
		})
		_, _ = w.Decommission(ctx, w.users["root"], "x", "prod")
		var sealed []byte
		w.must(w.db.QueryRow(ctx, `SELECT sealed FROM decommissions`).Scan(&sealed))
		if len(sealed) == 0 || strings.Contains(string(sealed), identity.KeyPrefix) {
			t.Errorf("%q", sealed)
		}
	})
}
