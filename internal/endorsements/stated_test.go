package endorsements_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/endorsements"
	"github.com/countersign/countersign/internal/flow"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

var (
	rule  = approvals.Rule{Name: "reaches-out", Digest: "d1"}
	agent = endorsements.Asker{Actor: audit.Actor{Kind: audit.KindAgent, ID: "agt_1", Name: "worker"}, Run: "run_1"}
)

func statement(calls int64) endorsements.Statement {
	return endorsements.Statement{Scopes: []endorsements.Stating{{Scope: flow.Scope{Tool: "mail/send", Args: map[string][]string{"to": {"ann@example.com", "*@partner.example"}, "amount": {"100"}}}, Calls: calls}}}
}

// approve plays approvals: what was held is approved by olga, and put into force.
func (w *world) approve(t *testing.T, calls int64) {
	t.Helper()
	if _, err := w.Ask(ctx, agent, "three invoices", statement(calls)); err != nil {
		t.Fatal(err)
	}
	w.request.State = approvals.Approved
	w.request.Decisions = []approvals.Decision{{Person: approvals.Person{ID: "usr_1", Name: "olga"}, Verdict: approvals.Approve}}
	if err := w.Give(ctx, w.request, w.wire); err != nil {
		t.Fatal(err)
	}
}

func held() endorsements.Hold {
	return endorsements.Hold{Tool: tool, Definition: "def", Call: "call_1", Rules: []approvals.Rule{rule},
		Values: []flow.Value{{Arg: "to", Role: flow.Recipient, Value: "ann@example.com"}, {Arg: "amount", Role: flow.Amount, Value: "99"}}}
}

func (w *world) lifts(t *testing.T, h endorsements.Hold) bool {
	t.Helper()
	r, err := w.Lift(ctx, h)
	if err != nil {
		t.Fatal(err)
	}
	return r != nil
}

func value(arg, role, v string) []flow.Value { return []flow.Value{{Arg: arg, Role: role, Value: v}} }

// A stated scope covers what was stated and approved, in its run, and nothing else.
func TestAStatedScopeCoversWhatWasApproved(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := open(t, db)
		if w.lifts(t, held()) {
			t.Fatal("a call went through before anybody approved")
		}
		w.approve(t, 1000)
		for name, change := range map[string]func(h *endorsements.Hold){
			"another run":        func(h *endorsements.Hold) { h.Tool.Run = "run_2" },
			"no run":             func(h *endorsements.Hold) { h.Tool.Run = "" },
			"another agent":      func(h *endorsements.Hold) { h.Tool.AgentID = "agt_2" },
			"another tool":       func(h *endorsements.Hold) { h.Tool.Name = "delete" },
			"another server":     func(h *endorsements.Hold) { h.Tool.Target = "t2" },
			"another definition": func(h *endorsements.Hold) { h.Definition = "other" },
			"another recipient":  func(h *endorsements.Hold) { h.Values[0].Value = "eve@evil.test" },
			"too much":           func(h *endorsements.Hold) { h.Values[1].Value = "101" },
			"one beside": func(h *endorsements.Hold) {
				h.Values = append(h.Values, value("to", flow.Recipient, "eve@evil.test")...)
			},
			"one not stated": func(h *endorsements.Hold) {
				h.Values = append(h.Values, value("cc", flow.Recipient, "ann@example.com")...)
			},
			"none of them":     func(h *endorsements.Hold) { h.Values = nil },
			"not all of them":  func(h *endorsements.Hold) { h.Values = h.Values[:1] },
			"another rule":     func(h *endorsements.Hold) { h.Rules = append(h.Rules, approvals.Rule{Name: "four-eyes", Digest: "d"}) },
			"a changed rule":   func(h *endorsements.Hold) { h.Rules[0].Digest = "d2" },
			"no rule":          func(h *endorsements.Hold) { h.Rules = nil },
			"its own approver": func(h *endorsements.Hold) { h.Chain = []audit.Actor{olga} },
		} {
			h := held()
			if change(&h); w.lifts(t, h) {
				t.Errorf("%s went through", name)
			}
		}
		inside := held()
		inside.Values[0].Value = "Sales@partner.example"
		if !w.lifts(t, held()) || !w.lifts(t, inside) {
			t.Error("a call inside the scope was held")
		}
		w.stands = "olga left"
		if w.lifts(t, held()) {
			t.Error("somebody who is not entitled any more approved it")
		}
		w.stands = ""
		w.request.Override = true
		if w.lifts(t, held()) {
			t.Error("a broken glass is good for a run")
		}
		w.request.Override = false
		found, err := w.List(ctx, "worker", endorsements.Stated, "")
		if err != nil || len(found) != 1 || found[0].Used != 2 {
			t.Fatalf("%+v, %v", found, err)
		}
		if g, err := w.Given(ctx, tool, "", nil); err != nil || len(g.Scopes) != 0 {
			t.Errorf("it endorses values without being counted: %+v, %v", g, err)
		}
		w.now = w.now.Add(59 * time.Minute)
		if !w.lifts(t, held()) {
			t.Error("it ended before its time")
		}
		w.now = w.now.Add(2 * time.Minute)
		if w.lifts(t, held()) {
			t.Error("it goes on after its time")
		}
	})
}

// A row that is changed in the database is worth nothing.
func TestATamperedScopeIsWorthNothing(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := open(t, db)
		w.approve(t, 1)
		for _, change := range []string{`run = 'run_2'`, `agent_id = 'agt_2'`, `most = 100`, `expires = expires + 1`, `approval = 'apr_2'`, `connection = 'post'`} {
			err := db.Tx(ctx, func(tx *storage.Tx) error {
				_, err := tx.Exec(ctx, `INSERT INTO endorsements (id, kind, agent_id, agent, run, connection, tool, digest, sealed, approval, people, reason, created, expires, most)
					SELECT id || '2', kind, agent_id, agent, run, connection, tool, digest, sealed, approval, people, reason, created, expires, most FROM endorsements`)
				if err != nil {
					return err
				}
				if _, err = tx.Exec(ctx, `DELETE FROM endorsements WHERE id LIKE '%2'`); err != nil {
					return err
				}
				_, err = tx.Exec(ctx, `UPDATE endorsements SET `+change)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, run := range []string{"run_1", "run_2"} {
				for _, id := range []string{"agt_1", "agt_2"} {
					for _, connection := range []string{"mail", "post"} {
						h := held()
						h.Tool.Run, h.Tool.AgentID, h.Tool.Connection = run, id, connection
						if w.lifts(t, h) {
							t.Errorf("%s: a call went through", change)
						}
					}
				}
			}
			back := map[string]string{`run = 'run_2'`: `run = 'run_1'`, `agent_id = 'agt_2'`: `agent_id = 'agt_1'`, `most = 100`: `most = 1`, `expires = expires + 1`: `expires = expires - 1`, `approval = 'apr_2'`: `approval = 'apr_1'`, `connection = 'post'`: `connection = 'mail'`}[change]
			if err := db.Tx(ctx, func(tx *storage.Tx) error { _, err := tx.Exec(ctx, `UPDATE endorsements SET `+back); return err }); err != nil {
				t.Fatal(err)
			}
		}
		if !w.lifts(t, held()) {
			t.Error("restored, it covers nothing")
		}
	})
}

// However many calls come at once, as many go through as were stated.
func TestNoMoreCallsThanStated(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := open(t, db)
		w.approve(t, 3)
		var through atomic.Int64
		var wg sync.WaitGroup
		for range 12 {
			wg.Go(func() {
				r, err := w.Lift(ctx, held())
				if err != nil {
					t.Error(err)
				}
				if r != nil {
					through.Add(1)
				}
			})
		}
		wg.Wait()
		if through.Load() != 3 {
			t.Errorf("%d of 3 went through", through.Load())
		}
		a, err := w.Ask(ctx, agent, "again", statement(3))
		if err != nil || a.State != "ended" {
			t.Errorf("used up, it is %+v, %v", a, err)
		}
	})
}

func TestWhatIsReadyFirst(t *testing.T) {
	w := open(t, storagetest.Open(t, storagetest.SQLite(t)))
	w.approve(t, 1)
	h := held()
	full := errors.New("the budget is used up")
	h.Ready = func(context.Context) error { return full }
	if r, err := w.Lift(ctx, h); r == nil || !errors.Is(err, full) {
		t.Errorf("%v, %v", r, err)
	}
	if !w.lifts(t, held()) {
		t.Error("a call that could not be made used the scope up")
	}
}

func TestAStatementThatIsRefused(t *testing.T) {
	w := open(t, storagetest.Open(t, storagetest.SQLite(t)))
	two := statement(1)
	two.Scopes = append(two.Scopes, two.Scopes[0])
	other := statement(1)
	other.Scopes = append(other.Scopes, endorsements.Stating{Scope: flow.Scope{Tool: "post/send"}, Calls: 1})
	long := statement(1)
	long.For = "13h"
	content := statement(1)
	content.Scopes[0].Args = map[string][]string{"text": {"*"}}
	for name, c := range map[string]struct {
		who  endorsements.Asker
		st   endorsements.Statement
		want error
	}{
		"nothing":        {agent, endorsements.Statement{}, endorsements.ErrScope},
		"no calls":       {agent, statement(0), endorsements.ErrScope},
		"many calls":     {agent, statement(1001), endorsements.ErrScope},
		"twice":          {agent, two, endorsements.ErrScope},
		"two servers":    {agent, other, endorsements.ErrScope},
		"too long":       {agent, long, endorsements.ErrScope},
		"content":        {agent, content, endorsements.ErrScope},
		"another's run":  {endorsements.Asker{Actor: audit.Actor{Kind: audit.KindAgent, ID: "agt_2", Name: "other"}, Run: "run_1"}, statement(1), endorsements.ErrRun},
		"a run that was": {endorsements.Asker{Actor: agent.Actor, Run: "run_0"}, statement(1), nil},
	} {
		if _, err := w.Ask(ctx, c.who, "because", c.st); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.needs = nil
	if _, err := w.Ask(ctx, agent, "because", statement(1)); !errors.Is(err, endorsements.ErrNotHeld) {
		t.Errorf("nothing holds it: %v", err)
	}
	if _, err := w.Ask(ctx, agent, "", statement(1)); !errors.Is(err, endorsements.ErrReason) {
		t.Error(err)
	}
}

// What was approved comes into force as it was approved, or not at all.
func TestGivingWhatWasApproved(t *testing.T) {
	w := open(t, storagetest.Open(t, storagetest.SQLite(t)))
	person := endorsements.Asker{Actor: olga, Run: "run_1"}
	if _, err := w.Ask(ctx, person, "because", statement(2)); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(w.request.Binding.Chain, olga) {
		t.Error("who asks may approve")
	}
	if said := string(w.args); !strings.Contains(said, "ann@example.com or *@partner.example") || !strings.Contains(said, "2 times at most") || !strings.Contains(said, "amount = 100") {
		t.Errorf("people read %s", said)
	}
	if err := w.Give(ctx, w.request, []byte(strings.Replace(string(w.wire), "ann@example.com", "eve@evil.test", 1))); err == nil {
		t.Error("another scope than was approved came into force")
	}
	w.request.Override = true
	if err := w.Give(ctx, w.request, w.wire); !errors.Is(err, endorsements.ErrApproval) {
		t.Errorf("a broken glass: %v", err)
	}
	w.request.Override = false
	w.rule = "d2"
	if why, ours := w.Stale(w.request.Binding); why == "" || !ours || w.Give(ctx, w.request, w.wire) == nil {
		t.Error("the policy changed, and it came into force")
	}
	w.rule = "d1"
	w.definition = "other"
	if why, _ := w.Stale(w.request.Binding); why == "" {
		t.Error("the tool changed, and it stands")
	}
	w.definition = "def"
	w.over = true
	if why, _ := w.Stale(w.request.Binding); why == "" {
		t.Error("the run is over, and it stands")
	}
	if _, ours := w.Stale(approvals.Binding{Tool: "send", Method: "POST"}); ours {
		t.Error("a call is taken for a scope")
	}
}
