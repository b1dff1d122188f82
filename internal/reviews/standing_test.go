package reviews_test

import (
	"context"
	"encoding/json/v2"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/reviews"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

type paysAndNotes struct{}

func (paysAndNotes) Discover(context.Context, audit.Actor, connections.Connection) ([]connections.Definition, error) {
	return []connections.Definition{{Name: "pay", Raw: []byte(`{"name":"pay","inputSchema":{"type":"object"}}`)}, {Name: "note", Raw: []byte(`{"name":"note","inputSchema":{"type":"object"}}`)}}, nil
}

// ledger registers a connection with a tool that cannot be undone and one that can.
func (w *world) ledger() {
	w.t.Helper()
	_, err := w.conns.Register(ctx, audit.System, "test", connections.Connection{Name: "ledger", Kind: "mcp", URL: "https://ledger.example", Owner: "bob", Auth: connections.AuthNone})
	w.must(err)
	w.conns.SetDiscoverer(paysAndNotes{})
	_, err = w.conns.Refresh(ctx, w.person("dan"), "test", "ledger")
	w.must(err)
	_, err = w.conns.SetEffect(ctx, w.person("dan"), "test", "ledger", "note", "write")
	w.must(err)
}

func (w *world) give(g policy.Grant) error {
	_, err := w.policy.PutGrant(ctx, w.person("dan"), "test", g)
	return err
}

// stood puts a grant there as an installation of before has it.
func (w *world) stood(name, agent string, tools ...string) {
	w.t.Helper()
	w.must(w.give(policy.Grant{Name: name, Agent: agent, Connection: "ledger", Tools: tools, Expires: w.clock().Add(day)}))
	w.must(w.log.Change(ctx, func(tx *audit.Tx) error {
		tx.Record(audit.Event{Type: "grant.changed", Actor: audit.System, Object: "grant/" + name})
		_, err := tx.Exec(ctx, `UPDATE grants SET expires = 0 WHERE name = $1`, name)
		return err
	}))
	w.must(w.watch.Poll(ctx))
}

// Nobody gives an agent in production what cannot be undone without an end or an
// exception, in whichever way; what is given otherwise goes through.
func TestStandingRightIsRefused(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		w := build(t, dsn)
		w.ledger()
		dan := w.person("dan")
		pays := policy.Grant{Name: "pays", Agent: "payer", Connection: "ledger", Tools: []string{"pay"}}
		with := func(change func(*policy.Grant)) policy.Grant { g := pays; change(&g); return g }
		for name, g := range map[string]policy.Grant{
			"by name": pays, "by *": with(func(g *policy.Grant) { g.Tools = []string{"*"} }), "under a condition": with(func(g *policy.Grant) { g.When = "principal.team == \"x\"" }),
			"with an end that is none": with(func(g *policy.Grant) { g.Expires = w.clock().AddDate(5, 0, 0) }),
		} {
			err := w.give(g)
			if !errors.Is(err, policy.ErrStanding) {
				t.Fatalf("%s: %v", name, err)
			}
			for _, way := range []string{"--expires 90d", "grant exception add pays --agent payer --connection ledger", "grant request", "ledger/pay", "tool effect"} {
				if !strings.Contains(err.Error(), way) {
					t.Errorf("%s: it does not say %q: %v", name, way, err)
				}
			}
		}
		w.must(w.give(with(func(g *policy.Grant) { g.Name, g.Tools = "notes", []string{"note"} })))
		w.must(w.give(with(func(g *policy.Grant) { g.Expires = w.clock().Add(90 * day) })))
		if err := w.give(pays); !errors.Is(err, policy.ErrStanding) {
			t.Errorf("its end is taken away: %v", err)
		}
		w.must(w.policy.RevokeGrant(ctx, dan, "test", "pays"))

		// Before the grant, for what it gives, and no more.
		soon := w.clock().Add(30 * day)
		if _, err := w.Except(ctx, dan, "the bank wants it", reviews.Exception{Grant: "pays", Owner: "ada", Until: soon}); !errors.Is(err, policy.ErrNoGrant) {
			t.Errorf("an exception for nothing: %v", err)
		}
		_, err := w.Except(ctx, dan, "the bank wants it", reviews.Exception{Grant: "pays", Agent: "payer", Connection: "ledger", Tools: []string{"pay"}, Owner: "ada", Until: soon})
		w.must(err)
		if err := w.give(with(func(g *policy.Grant) { g.Tools = []string{"*"} })); !errors.Is(err, policy.ErrStanding) {
			t.Errorf("more than its exception: %v", err)
		}
		w.must(w.give(pays))
		if _, err := w.policy.RollbackGrant(ctx, dan, "as it was", "pays", 1); err != nil { // with an end
			t.Error(err)
		}
		w.pass(31 * day)
		if _, err := w.policy.RollbackGrant(ctx, dan, "as it was", "pays", 3); !errors.Is(err, policy.ErrStanding) && !errors.Is(err, policy.ErrExpired) {
			t.Errorf("a rollback after the exception: %v", err)
		}
	})
}

// An agent does not bring to production what it could not be given there; what is
// changed on the way counts as it is in the end.
func TestStandingRightsDoNotComeToProduction(t *testing.T) {
	w := build(t, storagetest.SQLite(t))
	w.ledger()
	_, err := w.ids.PutAgent(ctx, audit.System, "test", identity.Agent{Name: "young", Owner: "ada", Stage: "staging", Purpose: "learns"})
	w.must(err)
	w.must(w.give(policy.Grant{Name: "learns", Agent: "young", Connection: "ledger", Tools: []string{"pay"}}))
	promote := func(also func(tx *audit.Tx) error) error {
		defer func() { w.must(w.watch.Poll(ctx)) }()
		return w.log.Change(ctx, func(tx *audit.Tx) error {
			_, err := w.ids.SetStageTx(ctx, tx, w.person("dan"), "grown up", "young", "production")
			return errors.Join(err, also(tx))
		})
	}
	if err := promote(func(*audit.Tx) error { return nil }); !errors.Is(err, policy.ErrStanding) {
		t.Errorf("promoted: %v", err)
	}
	if a, _ := w.ids.Agent("young"); a.Stage != "staging" {
		t.Errorf("it is in %s", a.Stage)
	}
	w.must(promote(func(tx *audit.Tx) error {
		_, err := w.policy.PutGrantTx(ctx, tx, w.person("dan"), "bounded", policy.Grant{Name: "learns", Agent: "young", Connection: "ledger", Tools: []string{"pay"}, Expires: w.clock().Add(day)})
		return err
	}))
}

// What stood before goes on working, may shrink and is a finding with a day; it
// cannot be kept by a review, nor by silence.
func TestWhatStoodBefore(t *testing.T) {
	w := build(t, storagetest.SQLite(t))
	w.ledger()
	w.stood("pays", "payer", "pay", "note")
	w.tick()
	open := w.open(reviews.RuleStanding)
	if len(open) != 1 || open[0].Severity != findings.Medium || !strings.Contains(open[0].Detail, "Decide until "+open[0].Opened.Add(90*day).UTC().Format(time.DateOnly)) || !w.has("pays") {
		t.Fatalf("%+v", open)
	}
	w.must(w.give(policy.Grant{Name: "pays", Agent: "payer", Connection: "ledger", Tools: []string{"pay"}}))
	if err := w.give(policy.Grant{Name: "pays", Agent: "payer", Connection: "ledger", Tools: []string{"pay", "note"}}); !errors.Is(err, policy.ErrStanding) {
		t.Errorf("it grows again: %v", err)
	}
	r := w.begin(reviews.Rules{Silence: reviews.Keep}, "pays")
	if _, err := w.decide("ada", r.Name, 1, reviews.Keep, "needed"); !errors.Is(err, policy.ErrStanding) {
		t.Errorf("kept: %v", err)
	}
	if _, err := w.Close(ctx, w.person("dan"), "over", r.Name); !errors.Is(err, policy.ErrStanding) {
		t.Errorf("kept by an early end: %v", err)
	}
	w.pass(91 * day)
	w.tick()
	w.tick()
	if open := w.open(reviews.RuleStanding); len(open) != 1 || open[0].Severity != findings.High || !w.has("pays") {
		t.Errorf("its day is over: %+v", open)
	}
	if it := w.get(r.Name).Items[0]; it.Decision != "" || it.Escalated.IsZero() {
		t.Errorf("silence kept it: %+v", it)
	}
	wide := func() bool {
		t.Helper()
		found, err := w.policy.Lint(ctx, policy.Trial{}, time.Time{})
		w.must(err)
		return slices.ContainsFunc(found, func(l policy.Lint) bool { return l.Kind == policy.LintWide && strings.Contains(l.File, "pays") })
	}
	if !wide() {
		t.Error("lint does not find it")
	}
	_, err := w.Except(ctx, w.person("dan"), "the bank", reviews.Exception{Grant: "pays", Owner: "ada", Until: w.clock().Add(10 * day)})
	w.must(err)
	if wide() {
		t.Error("lint finds what somebody answers for")
	}
	if open := w.open(reviews.RuleStanding); len(open) != 0 {
		t.Errorf("there is an exception: %+v", open)
	}
	if _, err := w.decide("root", r.Name, 1, reviews.Keep, "needed"); err != nil {
		t.Error(err)
	}
	w.pass(11 * day)
	w.tick()
	if open := w.open(reviews.RuleStanding); len(open) != 1 || open[0].Severity != findings.High {
		t.Errorf("its exception is over: %+v", open)
	}
}

// An exception of before is for what its grant gave at the upgrade.
func TestExceptionsOfBefore(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		w := build(t, dsn)
		w.ledger()
		w.stood("pays", "payer", "pay")
		g, err := w.policy.Grant(ctx, "pays")
		w.must(err)
		old, err := json.Marshal(map[string]any{"id": "gex_1", "grant": "pays", "grant_id": g.ID, "owner": "ada", "reason": "r", "until": w.clock().Add(day), "by": "dan", "created": w.clock()})
		w.must(err)
		w.upgrade("00560_exceptions_ahead.sql", func(tx *storage.Tx) error {
			_, err := tx.Exec(ctx, `INSERT INTO grant_exceptions (id, grant_id, until, body) VALUES ('gex_1', $1, 1, $2), ('gex_2', 'grt_gone', 1, $2)`, g.ID, string(old))
			return err
		})
		all, err := w.Exceptions(ctx)
		w.must(err)
		if len(all) != 2 {
			t.Fatalf("%+v", all)
		}
		w.tick()
		if open := w.open(reviews.RuleStanding); len(open) != 0 {
			t.Errorf("%+v", open)
		}
	})
}

// upgrade takes a migration back, has fn fill the tables of before, and migrates.
func (w *world) upgrade(migration string, fn func(tx *storage.Tx) error) {
	w.t.Helper()
	engine := "sqlite"
	if w.db.Dialect() == storage.Postgres {
		engine = "postgres"
	}
	text, err := os.ReadFile("../storage/migrations/" + engine + "/" + migration)
	w.must(err)
	up, down, _ := strings.Cut(string(text), "-- +goose Down")
	w.must(w.db.Tx(ctx, func(tx *storage.Tx) error {
		run := func(script string) error {
			for q := range strings.SplitSeq(script, ";\n") {
				if strings.TrimSpace(q) == "" {
					continue
				}
				if _, err := tx.Exec(ctx, q); err != nil {
					return err
				}
			}
			return nil
		}
		return errors.Join(run(down), fn(tx), run(up))
	}))
}
