package posture_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/posture"
	"github.com/countersign/countersign/internal/posture/framework"
	"github.com/countersign/countersign/internal/secrets"
)

func (w *world) evaluate(id string) posture.Evidence {
	w.t.Helper()
	r, err := w.Evaluate(ctx, audit.System, "test", id)
	w.must(err)
	return r.Evidence[0]
}

// whole gives the rooms that are not in this version yet.
func (w *world) whole() {
	w.SetReviews(func(context.Context) (map[string]time.Time, map[string][]string, error) {
		return map[string]time.Time{"payer-model": time.Now()}, nil, nil
	})
	w.SetReleases(func(context.Context) ([]posture.Pinned, error) {
		return []posture.Pinned{{Agent: "payer", Approved: "sha256:1", Running: "sha256:1"}}, nil
	})
}

// cases say for each predicate what makes it fail in a business in which it
// passes, and which object it must name then.
var cases = []struct {
	id     string
	breaks func(w *world, tool string)
	names  string
}{
	{"E1", func(w *world, tool string) {
		ev := w.event("ghost", "model", tool)
		ev.Owner = "olga"
		w.call(ev, true)
	}, "agent/ghost"},
	{"E2", func(w *world, _ string) {
		u, _ := w.ids.User("olga")
		u.Disabled = true
		_, err := w.ids.PutUser(ctx, audit.System, "test", u)
		w.must(err)
	}, "agent/payer"},
	{"E3", func(w *world, _ string) {
		_, err := w.log.Append(ctx, audit.Event{Type: "agent.updated", Actor: audit.System, Reason: "the password is leaked-before-it-was-known-42"})
		w.must(err)
		_, err = w.secrets.Put(ctx, audit.System, "test", secrets.Spec{Name: "late", Owner: "olga", Connection: "model"}, secrets.NewValue([]byte("leaked-before-it-was-known-42")))
		w.must(err)
	}, "event/"},
	{"E4", func(w *world, _ string) { w.ahead = 100 * 24 * time.Hour }, "secret/model-key"},
	{"E5", func(w *world, _ string) {
		_, err := w.policy.PutGrant(ctx, audit.System, "test", policy.Grant{Name: "payer-model", Agent: "payer", Connection: "model", Tools: []string{"*"}})
		w.must(err)
	}, "grant/payer-model"},
	{"E6", func(w *world, tool string) {
		ev := w.event("payer", "model", tool)
		ev.Owner = ""
		w.call(ev, true)
	}, "call/"},
	{"E7", func(w *world, _ string) { w.doors = "open" }, "no credential at /llm/model"},
	{"E8", func(w *world, _ string) { w.doors = "open" }, "key of an ended agent at /llm/model"},
	{"E9", func(w *world, _ string) {
		w.SetReleases(func(context.Context) ([]posture.Pinned, error) {
			return []posture.Pinned{{Agent: "payer", Approved: "sha256:1", Running: "sha256:2"}}, nil
		})
	}, "agent/payer"},
	{"E10", func(w *world, tool string) {
		w.call(w.event("payer", "model", tool), false)
		w.ahead = 3 * time.Hour
	}, "call/"},
	{"E11", func(w *world, _ string) {
		w.must(w.log.SetRetention(ctx, audit.System, "less to keep", audit.Retention{Days: 30}))
	}, "log/retention"},
	{"E12", func(w *world, tool string) { w.approved(tool, "another/tool") }, "approval/"},
}

func TestEveryPredicatePassesAndFails(t *testing.T) {
	if len(cases) != len(posture.Predicates()) {
		t.Fatalf("%d cases", len(cases))
	}
	for _, c := range cases {
		t.Run(c.id, func(t *testing.T) {
			t.Parallel()
			w := build(t)
			tool := w.business()
			w.approved(tool, tool)
			w.whole()
			good := w.evaluate(c.id)
			if good.Result != posture.Pass || good.Evaluated != good.Population || good.Population == 0 {
				t.Errorf("in order, it is %s (%s): %+v", good.Result, good.Reason, good.Checks)
			}
			if !good.Expires.After(good.Collected) || len(good.Log) == 0 {
				t.Errorf("it has no time or no place in the log: %+v", good)
			}
			c.breaks(w, tool)
			w.must(w.watch.Poll(ctx))
			bad := w.evaluate(c.id)
			if bad.Result != posture.Fail || !names(bad, c.names) {
				t.Errorf("broken, it is %s (%s) and does not name %s: %+v", bad.Result, bad.Reason, c.names, bad.Checks)
			}
		})
	}
}

func names(e posture.Evidence, object string) bool {
	return slices.ContainsFunc(e.Checks, func(c posture.Check) bool {
		return slices.ContainsFunc(c.Violations, func(v posture.Violation) bool { return strings.HasPrefix(v.Object, object) && v.Message != "" })
	})
}

// A check that does not catch its canary proves nothing, whatever is there.
func TestAMissedCanaryIsNoData(t *testing.T) {
	w := build(t)
	tool := w.business()
	w.approved(tool, tool)
	w.whole()
	for _, p := range posture.Predicates() {
		w.Blind(p.ID)
		e := w.evaluate(p.ID)
		if e.Result != posture.NoData || !strings.Contains(e.Reason, "did not catch the violation") {
			t.Errorf("%s is %s (%s)", p.ID, e.Result, e.Reason)
		}
		for _, c := range e.Checks {
			if c.Result == posture.Pass || c.Canary.What == "" {
				t.Errorf("%s %s: %+v", p.ID, c.Name, c)
			}
		}
	}
}

// Probes whose positive control fails prove nothing: a door that is shut to
// everybody refuses bad credentials too. One that does not answer was not tried.
func TestDoorsThatAreShutProveNothing(t *testing.T) {
	for _, doors := range []string{"shut", "gone"} {
		w := build(t)
		w.business()
		w.doors = doors
		for _, id := range []string{"E7", "E8", "E12"} {
			if e := w.evaluate(id); e.Result != posture.NoData {
				t.Errorf("doors %s: %s is %s (%s)", doors, id, e.Result, e.Reason)
			}
		}
		if len(w.ids.Agents()) != 1 {
			t.Errorf("doors %s: the throwaway agent is left: %v", doors, w.ids.Agents())
		}
	}
}

func TestNothingIsNoData(t *testing.T) {
	w := build(t)
	for range 2 { // the traces of the first run are no data for the second
		r, err := w.Evaluate(ctx, audit.System, "test")
		w.must(err)
		for _, e := range r.Evidence {
			if e.Result != posture.NoData || e.Reason == "" {
				t.Errorf("%s is %s (%s): %+v", e.Predicate, e.Result, e.Reason, e.Checks)
			}
		}
	}
	w.must(w.Due(ctx))
	o, err := w.Overview(ctx)
	w.must(err)
	for _, f := range o.Frameworks {
		if f.Results[posture.Pass] != 0 || f.Results[posture.NoData] == 0 {
			t.Errorf("%s: %v", f.ID, f.Results)
		}
	}
}

// What needs a room that is not there has no data, and says which.
func TestRoomsThatAreMissingAreSaid(t *testing.T) {
	w := build(t)
	w.business()
	for id, says := range map[string]string{"E5": "reviews of rights are not in this version", "E9": "releases, which pin"} {
		if e := w.evaluate(id); e.Result != posture.NoData || !strings.Contains(e.Reason, says) {
			t.Errorf("%s is %s (%s)", id, e.Result, e.Reason)
		}
	}
}

func TestARunIsAnEventWithItsDigests(t *testing.T) {
	w := build(t)
	w.business()
	r, err := w.Evaluate(ctx, audit.System, "test", "E2", "E4")
	w.must(err)
	rec, err := w.log.Get(ctx, r.Event)
	w.must(err)
	for _, e := range r.Evidence {
		digest, err := e.Digest()
		w.must(err)
		if !strings.Contains(string(rec.Raw), digest) || rec.Event.Type != posture.Evaluated {
			t.Errorf("the event of the run does not hold the digest of %s: %s", e.Predicate, rec.Raw)
		}
		got, err := w.Evidence(ctx, e.ID)
		if err != nil || got.Digest != digest || got.Result != e.Result {
			t.Errorf("%s is stored as %+v, %v", e.Predicate, got, err)
		}
	}
	if _, err := w.Evaluate(ctx, audit.System, "", "E99"); !errors.Is(err, posture.ErrUnknown) {
		t.Errorf("an unknown predicate: %v", err)
	}
	if _, err := w.Evidence(ctx, "evd_none"); !errors.Is(err, posture.ErrNotFound) {
		t.Errorf("unknown evidence: %v", err)
	}
}

// An expired PASS counts as NO_DATA; a requirement is what its predicates are.
func TestAPassExpires(t *testing.T) {
	w := build(t)
	w.business()
	if e := w.evaluate("E4"); e.Result != posture.Pass {
		t.Fatalf("%+v", e)
	}
	q, err := w.Requirement(ctx, "NHI-07", 90)
	if err != nil || q.Result != posture.Pass || q.ID != "NHI7:2025" || q.Asked != "NHI-07" {
		t.Errorf("%+v, %v", q, err)
	}
	w.ahead = 25 * time.Hour
	if q, err := w.Requirement(ctx, "NHI-07", 90); err != nil || q.Result != posture.NoData || !strings.Contains(q.Reason, "expired") {
		t.Errorf("after a day: %+v, %v", q, err)
	}
	if q, err := w.Requirement(ctx, "PR.AC-4", 90); err != nil || q.ID != "PR.AA-05" || !strings.Contains(q.Note, "moved to PR.AA-05") {
		t.Errorf("%+v, %v", q, err)
	}
	if q, err := w.Requirement(ctx, "PR.AT-01", 90); err != nil || q.Result != posture.ByHand {
		t.Errorf("%+v, %v", q, err)
	}
	if _, err := w.Requirement(ctx, "PR.AA-99", 90); !errors.Is(err, posture.ErrUnknown) {
		t.Error(err)
	}
}

func TestEveryPredicateIsMapped(t *testing.T) {
	for _, p := range framework.Lint(posture.IDs()) {
		t.Error(p)
	}
}

func TestWhatFailedIsAFinding(t *testing.T) {
	w := build(t)
	w.business()
	u, _ := w.ids.User("olga")
	u.Disabled = true
	_, err := w.ids.PutUser(ctx, audit.System, "test", u)
	w.must(err)
	w.evaluate("E2")
	recs, err := w.log.List(ctx, audit.Query{Types: []audit.Type{"finding.opened"}})
	w.must(err)
	if !slices.ContainsFunc(recs, func(r audit.Record) bool { return strings.Contains(string(r.Raw), "posture.failed") }) {
		t.Error("no finding was opened")
	}
}

func TestSharesOfAPeriod(t *testing.T) {
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	from := now.Add(-100 * time.Hour)
	at := func(h int) time.Time { return from.Add(time.Duration(h) * time.Hour) }
	got := posture.SharesOf([]posture.Stretch{
		{posture.Pass, at(-10), at(14)}, // begins before the period
		{posture.Fail, at(10), at(34)},  // replaces the one before
		{posture.Pass, at(50), at(74)},  // after a time without any
		{posture.Pass, at(90), at(114)}, // ends after now
	}, from, now)
	if got[posture.Pass] != 10+24+10 || got[posture.Fail] != 24 || got[posture.NoData] != 16+16 {
		t.Errorf("%v", got)
	}
	if got := posture.SharesOf(nil, from, now); got[posture.NoData] != 100 || got[posture.Pass] != 0 {
		t.Errorf("without any: %v", got)
	}
}

// What a run that was killed left is removed by the next.
func TestALeftThrowawayAgentIsRemoved(t *testing.T) {
	w := build(t)
	w.business()
	_, err := w.ids.PutAgent(ctx, audit.System, "test", identity.Agent{Name: "posture-probe-left", Owner: "root", Stage: "development", Purpose: "a throwaway agent by which posture tries the doors; it is removed again"})
	w.must(err)
	w.evaluate("E7")
	if len(w.ids.Agents()) != 1 {
		t.Errorf("%v", w.ids.Agents())
	}
}
