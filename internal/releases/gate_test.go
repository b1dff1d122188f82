package releases_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/releases"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// Every item of the gate is missing when what it asks for is, says what mends it,
// and refuses the promotion.
func TestTheGate(t *testing.T) {
	owner, rotated, bounded, reviewed := "olga", true, true, time.Now()
	r := joinWith(t, storagetest.SQLite(t), releases.Options{Rooms: releases.Rooms{
		Secret:   func(string) (string, bool, bool) { return owner, rotated, true },
		Budgeted: func(identity.Agent) bool { return bounded },
		Reviewed: func(context.Context) (map[string]time.Time, error) {
			return map[string]time.Time{"models": reviewed, "invoices": reviewed, "all": reviewed}, nil
		},
	}})
	r.business()
	r.must(second(r.policy.PutPolicies(ctx, oskar, why, "hold", `@id("ask") @approval("controllers") @quorum("2") forbid (principal, action == Action::"ledger/read", resource) when { context.args has amount && context.args.amount > 5 };`)))
	r.must(second(r.ids.PutGroup(ctx, audit.System, why, identity.Group{Name: "controllers", Members: []string{"olga", "oskar"}})))
	missing := func() (out []string) {
		t.Helper()
		rep, err := r.Gate(ctx, "payer", 0, identity.Production, nil)
		r.must(err)
		for _, it := range rep.Items {
			if !it.OK {
				out = append(out, it.ID)
				if it.Mend == "" || !strings.HasPrefix(it.Mend, "countersign ") {
					t.Errorf("%s does not say what mends it: %q", it.ID, it.Mend)
				}
			}
		}
		if rep.Ready != (len(out) == 0) {
			t.Errorf("ready: %t, missing: %v", rep.Ready, out)
		}
		return out
	}
	if got := missing(); !slices.Contains(got, "release") || !slices.Contains(got, "models") || !slices.Contains(got, "tests") {
		t.Errorf("an agent without a release lacks %v", got)
	}
	r.must(second(r.Create(ctx, olga, why, "payer", spec())))
	r.must(second(r.conns.SetEffect(ctx, olga, why, "ledger", "read", connections.Read)))
	r.must(second(r.Create(ctx, olga, why, "payer", spec())))
	if got := missing(); len(got) != 0 {
		t.Fatalf("what is well is found missing: %v", got)
	}

	agent, _ := r.ids.Agent("payer")
	put := func(change func(*identity.Agent)) func() {
		return func() { a := agent; change(&a); r.must(second(r.ids.PutAgent(ctx, audit.System, why, a))) }
	}
	conn := func(change func(*connections.Connection)) func() {
		c, _ := r.conns.Connection("ledger")
		return func() { c := c; change(&c); r.must(second(r.conns.Register(ctx, audit.System, why, c))) }
	}
	user := func(u identity.User) func() {
		return func() { r.must(second(r.ids.PutUser(ctx, audit.System, why, u))) }
	}
	oskarIs := identity.User{Name: "oskar", Email: "oskar@hanse.example", Role: "operator"}
	gone := oskarIs
	gone.Disabled = true
	for _, c := range []struct {
		item      string
		spoil, un func()
	}{
		{"owner", put(func(a *identity.Agent) { a.Backup = "" }), put(func(*identity.Agent) {})},
		{"purpose", put(func(a *identity.Agent) { a.BusinessProcess = "" }), put(func(*identity.Agent) {})},
		{"logging", conn(func(c *connections.Connection) { c.Capture = connections.CaptureDigest }), conn(func(*connections.Connection) {})},
		{"stages", conn(func(c *connections.Connection) { c.Stages = nil }), conn(func(*connections.Connection) {})},
		{"stages", conn(func(c *connections.Connection) { c.Stages = []string{identity.Staging} }), conn(func(*connections.Connection) {})},
		{"secret:model-key", func() { owner = "nobody" }, func() { owner = "olga" }},
		{"rotation:model-key", func() { rotated = false }, func() { rotated = true }},
		{"budget", func() { bounded = false }, func() { bounded = true }},
		{"review", func() { reviewed = time.Time{} }, func() { reviewed = time.Now() }},
		{"review", func() { reviewed = time.Now().Add(-releases.ReviewedWithin - time.Hour) }, func() { reviewed = time.Now() }},
		{"approvals", user(gone), user(oskarIs)},
	} {
		c.spoil()
		if got := missing(); !slices.Contains(got, c.item) {
			t.Errorf("%s is not missed: %v", c.item, got)
		}
		if _, err := r.Promote(ctx, olga, why, releases.Ask{Agent: "payer", Stage: identity.Production}); !errors.Is(err, releases.ErrGate) || !strings.Contains(err.Error(), c.item) {
			t.Errorf("%s is missing and it is promoted: %v", c.item, err)
		}
		c.un()
		if got := missing(); len(got) != 0 {
			t.Fatalf("%s was mended and %v is missing", c.item, got)
		}
	}
	for item, want := range map[string]error{"budget": releases.ErrInvalid, "nonsense": releases.ErrInvalid} {
		bounded = false
		if _, err := r.Promote(ctx, olga, why, releases.Ask{Agent: "payer", Stage: identity.Production, Accepted: []string{item}}); !errors.Is(err, want) {
			t.Errorf("the lack of %s is accepted: %v", item, err)
		}
		bounded = true
	}
	r.grant("all", "ledger", "*")
	bad := spec()
	bad.Tests = append(bad.Tests, policy.Case{Name: "never", Agent: "payer", Tool: "ledger/pay", Expect: "deny"})
	r.must(second(r.Create(ctx, olga, why, "payer", bad)))
	if got := missing(); !slices.Equal(got, []string{"wildcards", "undo:ledger/pay", "tests"}) {
		t.Errorf("a wildcard, an effect and a failing test: %v", got)
	}
}

// canary puts release 1 in force in development and tries release 2 with half of
// the runs.
func (r *replica) canary(signals releases.Signals) {
	r.t.Helper()
	r.release(spec(), releases.Ask{})
	r.grant("payments", "ledger", "pay")
	r.release(spec(), releases.Ask{Percent: 50, Signals: &signals})
}

// runs returns runs that try release 2, or not.
func runs(tried bool, n int) (out []string) {
	for len(out) < n {
		if run := id.New(id.Run); releases.Chosen("payer", 2, 50, run) == tried {
			out = append(out, run)
		}
	}
	return out
}

// A canary's share is bound by it and the rest is not; what is bad about its own
// calls, and only that, rolls it back; and a person may be faster.
func TestCanaries(t *testing.T) {
	pay := releases.Question{Connection: "ledger", Tool: "pay"}
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		r := join(t, dsn)
		r.business()
		r.canary(releases.Signals{Refusals: 20, Least: 5})
		judge := r.NewJudge()
		in, out := runs(true, 1)[0], runs(false, 1)[0]
		for run, refused := range map[string]bool{in: false, out: true} {
			q := pay
			if q.Run = run; outside(r.ask(q)) != refused {
				t.Errorf("a run of the canary: %t, refused: %t", !refused, !refused)
			}
		}
		for range 9 { // others' refusals, and a canary that is well
			r.called(out, audit.CallDenied)
			r.called(in, audit.CallIntent)
		}
		r.must(r.findings.Open(ctx, findings.Finding{Rule: "x", Severity: findings.Critical, Object: "agent/payer", Title: "not asked for"}))
		r.must(judge.Look(ctx))
		if st, _ := r.State(ctx, "payer"); st.Canary != 2 {
			t.Fatalf("a good canary was rolled back: %+v", st)
		}
		for range 3 {
			r.called(in, audit.CallDenied)
		}
		// Another replica takes over in the middle: it comes to the same.
		judge = r.NewJudge()
		until(t, "a bad canary is rolled back", func() bool {
			r.must(r.watch.Poll(ctx))
			r.must(judge.Look(ctx))
			st, _ := r.State(ctx, "payer")
			return st.Canary == 0 && st.Active == 1
		})
		q := pay
		if q.Run = in; !outside(r.ask(q)) {
			t.Error("a run of the canary may still pay")
		}
		if g, err := r.policy.Grants(ctx, "payer"); err != nil || len(g) != 2 {
			t.Errorf("the canary's grant stays: %v %v", g, err)
		}
		moves, err := r.Moves(ctx, "payer")
		r.must(err)
		if moves[0].Kind != releases.MoveRolledBack || moves[0].By != audit.System.Name || !strings.Contains(moves[0].Reason, "3 of its 12 calls were refused") {
			t.Errorf("the automatic move: %+v", moves[0])
		}
		if recs, err := r.log.List(ctx, audit.Query{Types: []audit.Type{"release.rolled_back"}}); err != nil || len(recs) != 1 {
			t.Errorf("%d events, %v", len(recs), err)
		}
	})
	t.Run("a finding", func(t *testing.T) {
		r := join(t, storagetest.SQLite(t))
		r.business()
		r.canary(releases.Signals{Finding: findings.High})
		r.must(r.findings.Open(ctx, findings.Finding{Rule: "x", Severity: findings.Medium, Object: "agent/payer", Title: "less"}))
		judge := r.NewJudge()
		r.must(judge.Look(ctx))
		if st, _ := r.State(ctx, "payer"); st.Canary != 2 {
			t.Fatal("a finding under the limit counts")
		}
		r.must(r.findings.Open(ctx, findings.Finding{Rule: "y", Severity: findings.High, Object: "agent/payer", Title: "enough"}))
		r.must(judge.Look(ctx))
		if st, _ := r.State(ctx, "payer"); st.Canary != 0 {
			t.Error("a finding does not count")
		}
	})
	t.Run("calls that fail", func(t *testing.T) {
		r := join(t, storagetest.SQLite(t))
		r.business()
		r.canary(releases.Signals{Errors: 50, Least: 4})
		judge := r.NewJudge()
		for i, ends := range []string{audit.Cancelled, audit.Cancelled, audit.Failed, audit.Succeeded, audit.Broken, audit.Broken} {
			r.ends = ends
			r.called(runs(true, 1)[0], audit.CallIntent)
			r.must(judge.Look(ctx))
			if st, _ := r.State(ctx, "payer"); i < 5 && st.Canary != 2 {
				t.Fatal("it was rolled back early")
			}
		}
		until(t, "it is rolled back", func() bool {
			r.must(judge.Look(ctx))
			st, _ := r.State(ctx, "payer")
			return st.Canary == 0
		})
	})
	t.Run("a person is faster", func(t *testing.T) {
		r := join(t, storagetest.SQLite(t))
		r.business()
		r.canary(releases.Signals{Refusals: 1, Least: 1})
		judge := r.NewJudge()
		r.must(judge.Look(ctx)) // knows the canary
		run := runs(true, 1)[0]
		m, err := r.Rollback(ctx, oskar, why, releases.Back{Agent: "payer", Gives: true})
		r.must(err)
		if m.Number != 1 || m.Previous != 2 {
			t.Errorf("a rollback of a canary goes from %d to %d", m.Previous, m.Number)
		}
		r.called(run, audit.CallDenied)
		r.must(judge.Look(ctx))
		if moves, err := r.Moves(ctx, "payer"); err != nil || len(moves) != 3 {
			t.Errorf("moves: %+v %v", moves, err)
		}
		again := releases.Ask{Agent: "payer", Number: 2, Percent: 50, Signals: &releases.Signals{Refusals: 1, Least: 1}}
		r.must(second(r.Promote(ctx, olga, why, again)))
		r.must(judge.Look(ctx))
		r.must(second(r.Rollback(ctx, oskar, why, releases.Back{Agent: "payer", Gives: true})))
		r.must(second(r.Promote(ctx, olga, why, again)))
		r.called(run, audit.CallDenied)
		r.must(judge.Look(ctx))
		if st, err := r.State(ctx, "payer"); err != nil || st.Canary != 0 {
			t.Errorf("a trial that began anew is not judged: %+v %v", st, err)
		}
	})
	t.Run("a replica that is behind", func(t *testing.T) {
		r := join(t, storagetest.SQLite(t))
		r.business()
		r.canary(releases.Signals{Refusals: 1, Least: 1})
		watch := storage.NewWatcher(r.db, quiet)
		behind := releases.New(releases.Options{DB: r.db, Log: r.log, Watch: watch, Identity: r.ids, Connections: r.conns, Policy: r.policy, Findings: r.findings, Now: r.now})
		r.must(watch.Start(ctx))
		watch.Stop() // it goes on with the canary that it knows
		r.called(runs(true, 1)[0], audit.CallDenied)
		r.must(second(r.Rollback(ctx, oskar, why, releases.Back{Agent: "payer", Gives: true})))
		r.must(second(r.Promote(ctx, olga, why, releases.Ask{Agent: "payer", Number: 2, Percent: 50, Signals: &releases.Signals{Refusals: 1, Least: 1}})))
		r.must(behind.NewJudge().Look(ctx))
		if st, err := r.State(ctx, "payer"); err != nil || st.Canary != 2 {
			t.Errorf("the same release under trial anew is rolled back for what an earlier trial did: %+v %v", st, err)
		}
	})
}

// A rollback that cannot be whole changes nothing.
func TestARollbackIsWholeOrNothing(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		r := join(t, dsn)
		r.business()
		r.release(spec(), releases.Ask{})
		r.grant("payments", "ledger", "pay")
		r.must(r.policy.RevokeGrant(ctx, oskar, why, "models"))
		r.release(spec(), releases.Ask{})
		r.must(second(r.ids.PutAgent(ctx, audit.System, why, identity.Agent{Name: "other", Owner: "olga", Stage: identity.Development})))
		r.must(second(r.policy.PutGrant(ctx, oskar, why, policy.Grant{Name: "models", Agent: "other", Connection: "ledger", Tools: []string{"read"}})))
		if _, err := r.Rollback(ctx, oskar, why, releases.Back{Agent: "payer", Gives: true}); !errors.Is(err, policy.ErrChanged) {
			t.Fatalf("another agent's grant was taken: %v", err)
		}
		st, err := r.State(ctx, "payer")
		r.must(err)
		grants, err := r.policy.Grants(ctx, "payer")
		r.must(err)
		if st.Active != 2 || len(grants) != 2 {
			t.Errorf("half a rollback: %+v, %d grants", st, len(grants))
		}
		if err := r.ask(releases.Question{Connection: "ledger", Tool: "pay"}); err != nil {
			t.Errorf("half a rollback: %v", err)
		}
	})
}
