package server_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// What is done with releases when the server dies.
const (
	actAsk      = "ask"      // for release 2
	actApprove  = "approve"  // the promotion of release 2
	actTry      = "try"      // approve a canary of release 2
	actEnd      = "end"      // roll a canary back
	actRollBack = "rollback" // from release 2 to release 1
)

// releasePlace is a moment of an act.
type releasePlace struct {
	act string
	deadPlace
	short bool
}

// moved is a moment at a change of a table's rows.
func moved(table, operation string, committed bool) deadPlace {
	verb := map[string]string{"INSERT": "INSERT INTO ", "UPDATE": "UPDATE ", "DELETE": "DELETE FROM "}[operation]
	p := deadPlace{name: "before " + operation + " " + table, postgres: stop{sql: verb + table}, sqlite: table + " " + operation, when: "within"}
	if committed {
		p.name, p.when = operation+" "+table+" durable, not known", "committed"
		p.postgres.commit, p.postgres.after = true, true
	}
	return p
}

var releasePlaces = []releasePlace{
	{act: actAsk, deadPlace: moved("release_requests", "INSERT", false)},
	{act: actAsk, deadPlace: moved("release_requests", "INSERT", true)},
	{act: actApprove, deadPlace: moved("release_requests", "UPDATE", false)},
	{act: actApprove, deadPlace: moved("grant_versions", "INSERT", false), short: true},
	{act: actApprove, deadPlace: moved("release_states", "UPDATE", false)},
	{act: actApprove, deadPlace: moved("release_moves", "INSERT", false)},
	{act: actApprove, deadPlace: moved("release_moves", "INSERT", true), short: true},
	{act: actTry, deadPlace: moved("release_states", "UPDATE", false)},
	{act: actTry, deadPlace: moved("release_moves", "INSERT", true)},
	{act: actEnd, deadPlace: moved("release_states", "UPDATE", false)},
	{act: actEnd, deadPlace: moved("release_moves", "INSERT", true)},
	{act: actRollBack, deadPlace: moved("grant_versions", "INSERT", false)},
	{act: actRollBack, deadPlace: moved("release_states", "UPDATE", false), short: true},
	{act: actRollBack, deadPlace: moved("release_moves", "INSERT", false)},
	{act: actRollBack, deadPlace: moved("release_moves", "INSERT", true)},
}

// Whatever the moment at which the server dies while a release is promoted, tried
// or rolled back: afterwards the agent is on one release as a whole, as it was
// before the act or as it is after it, and nothing came into force without its
// approval.
func TestKillOfARelease(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes")
	}
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		own := dsn
		var wire *tap
		if strings.HasPrefix(dsn, "postgres") {
			wire, dsn = newTap(t, dsn)
		}
		r := newReleased(t, newPlant(t, t.TempDir(), dsn))
		rounds := 1
		if long() {
			rounds = 3
		}
		for range rounds {
			for _, place := range releasePlaces {
				if !place.short && !long() || place.when == "committed" && wire == nil && !hasStrace(t) {
					continue
				}
				r.dies(place, wire)
			}
		}
		r.dsn = own
		r.whole()
	})
}

// released is a plant whose agent is in staging on release 1; release 2 has a grant
// that 1 has not.
type released struct {
	*plant
	other string // the session of another person, who approves
}

func newReleased(t *testing.T, p *plant) *released {
	t.Helper()
	r := &released{p, p.person(t, "oskar", "operator")}
	p.api(t, "PUT", "/agents/worker", map[string]any{"owner": "olga", "backup": "ben", "stage": "development", "purpose": "tests", "business_process": "testing"}, nil)
	upstream, err := r.by(p.token).Connection(t.Context(), "up")
	r.must(err)
	p.api(t, "PUT", "/connections/up", map[string]any{"kind": "llm", "dialect": "openai", "url": upstream.Spec.URL, "owner": "olga", "allow_private": true, "secret": "up-key", "auth": "bearer", "stages": []string{"development", "staging"}}, nil)
	p.budgetSet(t, "worker", "calls", 1_000_000)
	tests := []any{map[string]any{"name": "it talks", "agent": "worker", "tool": "up/chat.completions", "args": map[string]any{"model": "m", "stream": false}, "expect": "allow"}}
	create := func() {
		p.api(t, "POST", "/agents/worker/releases", map[string]any{"models": []string{"up/m"}, "tests": tests}, nil)
	}
	create()
	p.api(t, "PUT", "/grants/extra", map[string]any{"agent": "worker", "connection": "up", "tools": []string{"embeddings"}, "reason": "test"}, nil)
	create()
	r.approve(r.ask(1, 0))
	r.stands(1, 0)
	return r
}

// by is the API as a person uses it.
func (r *released) by(token string) *client.Client {
	return client.New(r.url, token).WithReason("test")
}

func (r *released) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// asking is what a release is asked for with, what is missing accepted.
func (r *released) asking(number, percent int64) client.ReleaseAsk {
	r.t.Helper()
	report, err := r.by(r.token).CheckRelease(r.t.Context(), "worker", number, "staging", nil)
	r.must(err)
	ask := client.ReleaseAsk{Number: number, Stage: "staging", Percent: percent}
	for _, it := range report.Items {
		if !it.OK && it.May {
			ask.Accept = append(ask.Accept, it.ID)
		}
	}
	return ask
}

func (r *released) ask(number, percent int64) (request string) {
	r.t.Helper()
	q, err := r.by(r.token).PromoteRelease(r.t.Context(), "worker", r.asking(number, percent))
	r.must(err)
	return q.ID
}

func (r *released) approve(request string) {
	r.t.Helper()
	_, err := r.by(r.other).DecideRelease(r.t.Context(), request, true)
	r.must(err)
}

// stands fails unless a release is in force as a whole and a canary is tried, if
// canary is not 0; and unless all that came into force was approved.
func (r *released) stands(active, canary int64) {
	r.t.Helper()
	c := r.by(r.token)
	st, err := c.ReleaseState(r.t.Context(), "worker")
	r.must(err)
	agent, err := c.Agent(r.t.Context(), "worker")
	r.must(err)
	grants, err := c.Grants(r.t.Context(), "worker")
	r.must(err)
	extra := slices.ContainsFunc(grants, func(g client.Grant) bool { return g.Name == "extra" })
	if st.Active != active || st.Canary != canary || agent.Stage != "staging" || extra != (active == 2 || canary == 2) {
		r.t.Errorf("release %d, canary %d, stage %s, the grant of release 2 is there: %t; want %d and %d", st.Active, st.Canary, agent.Stage, extra, active, canary)
	}
	all, err := c.ReleaseRequests(r.t.Context(), true)
	r.must(err)
	approved := 0
	for _, q := range all {
		if q.State == "approved" {
			approved++
		}
	}
	for _, m := range st.Moves {
		if m.Kind != "rolled_back" {
			approved--
		}
	}
	if approved != 0 {
		r.t.Errorf("%d more approvals than promotions: %+v", approved, st.Moves)
	}
}

// is reports whether a release is in force and a canary tried.
func (r *released) is(want [2]int64) bool {
	r.t.Helper()
	st, err := r.by(r.token).ReleaseState(r.t.Context(), "worker")
	r.must(err)
	return want == [2]int64{st.Active, st.Canary}
}

// dies has the server die in an act, starts it again and looks what is in force.
func (r *released) dies(at releasePlace, wire *tap) {
	r.t.Helper()
	var request string
	var before, after [2]int64
	switch before = [2]int64{1, 0}; at.act {
	case actApprove:
		request, after = r.ask(2, 0), [2]int64{2, 0}
	case actTry:
		request, after = r.ask(2, 50), [2]int64{1, 2}
	case actEnd:
		r.approve(r.ask(2, 50))
		before, after = [2]int64{1, 2}, [2]int64{1, 0}
	case actRollBack:
		r.approve(r.ask(2, 0))
		before, after = [2]int64{2, 0}, [2]int64{1, 0}
	default:
		after = before
	}
	ask := r.asking(2, 0)
	r.arm(at.deadPlace, wire)
	victim := r.process
	gone := make(chan struct{})
	go func() { _ = victim.cmd.Wait(); close(gone) }()
	mine, other := r.by(r.token), r.by(r.other)
	go func() { // it dies over it
		switch {
		case request != "":
			_, _ = other.DecideRelease(r.t.Context(), request, true)
		case at.act == actAsk:
			_, _ = mine.PromoteRelease(r.t.Context(), "worker", ask)
		default:
			_, _ = mine.RollBackRelease(r.t.Context(), "worker", 0)
		}
	}()
	select {
	case <-gone:
	case <-time.After(60 * time.Second):
		_ = victim.cmd.Process.Kill()
		<-gone
		r.t.Errorf("%s, %s: it was never reached\n%s", at.act, at.name, tailOf(victim.stderr.Bytes()))
	}
	if !r.wasKilled(at.deadPlace) {
		return
	}
	r.again()
	r.recovers(30 * time.Second)
	want := before
	if at.when == "committed" && (wire != nil || r.is(after)) { // on SQLite another file's sync may come first
		want = after
	}
	r.t.Logf("%s, %s", at.act, at.name)
	r.stands(want[0], want[1])
	// What was interrupted can be done now, and back.
	if want == before && request != "" {
		r.approve(request)
		r.stands(after[0], after[1])
	}
	if !r.is([2]int64{1, 0}) {
		_, err := r.by(r.token).RollBackRelease(r.t.Context(), "worker", 0)
		r.must(err)
	}
	r.stands(1, 0)
}
