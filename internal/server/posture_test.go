package server_test

import (
	"strings"
	"testing"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

func (p *process) posture(t testing.TB, only ...string) (out map[string]client.Evidence, event string) {
	t.Helper()
	run, err := client.New(p.url, p.token).WithReason("test").RunPosture(t.Context(), only...)
	if err != nil {
		t.Fatal(err)
	}
	out = map[string]client.Evidence{}
	for _, e := range run.Evidence {
		out[e.Predicate] = e
	}
	return out, run.Event
}

func checkOf(t testing.TB, e client.Evidence, name string) client.PostureCheck {
	t.Helper()
	for _, c := range e.Checks {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("%s has no check %q", e.Predicate, name)
	return client.PostureCheck{}
}

// An empty system has no data anywhere: nothing passes, and nothing fails.
func TestPostureOfAnEmptySystem(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		p := start(t, t.TempDir(), dsn, "")
		all, _ := p.posture(t)
		if len(all) != 12 {
			t.Errorf("%d predicates", len(all))
		}
		for id, e := range all {
			if e.Result != "NO_DATA" {
				t.Errorf("%s is %s (%s): %+v", id, e.Result, e.Reason, e.Checks)
			}
			if e.Reason == "" {
				t.Errorf("%s does not say why", id)
			}
		}
		all, _ = p.posture(t) // our own traces are no data either
		for id, e := range all {
			if e.Result != "NO_DATA" {
				t.Errorf("after a run, %s is %s (%s): %+v", id, e.Result, e.Reason, e.Checks)
			}
		}
	})
}

// The probes go to every front over the network, are refused, and reach no
// upstream.
func TestPostureProbesEveryFront(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	upstream, began := hanging(t)
	p := start(t, t.TempDir(), storagetest.SQLite(t), "")
	p.company(t)
	p.api(t, "PUT", "/connections/desk", map[string]any{"kind": "mcp", "owner": "olga", "url": upstream + "/mcp", "allow_private": true}, nil)
	p.grant(t, "desk")
	p.model(t, "openai", "openai", upstream, "posture-model-key-0123")
	p.model(t, "claude", "anthropic", upstream, "posture-other-key-0123")
	all, event := p.posture(t)
	for id, e := range all {
		t.Logf("%s %s %s (%d of %d)", id, e.Result, e.Reason, e.Evaluated, e.Population)
		for _, c := range e.Checks {
			t.Logf("   %s: %s %s (%d of %d, %d bad) %+v %+v", c.Name, c.Result, c.Reason, c.Evaluated, c.Population, c.Violated, c.Violations, c.Unreachable)
		}
	}
	for _, name := range []string{"no credential", "forged token", "expired", "wrong audience", "out of grant"} {
		if c := checkOf(t, all["E7"], name); c.Result != "PASS" || c.Evaluated != c.Population || !c.Canary.Caught {
			t.Errorf("%+v", c)
		}
	}
	if !strings.HasPrefix(event, "evt_") {
		t.Errorf("the run's event is %q", event)
	}
	select {
	case <-began:
		t.Error("a probe reached the upstream")
	default:
	}
	agents, err := client.New(p.url, p.token).Agents(t.Context())
	if err != nil || len(agents) != 1 {
		t.Errorf("the throwaway agent is still there: %v", agents)
	}
}
