package endorsements_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/endorsements"
	"github.com/countersign/countersign/internal/flow"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

var (
	ctx  = context.Background()
	olga = audit.Person("usr_1", "olga")
	tool = endorsements.Tool{AgentID: "agt_1", Agent: "worker", Run: "run_1", Connection: "mail", Name: "send", Target: "t1"}
)

type world struct {
	*endorsements.Service
	now     time.Time
	request approvals.Request

	// What is played of approvals and policy.
	needs      []approvals.Need
	rule       string // digest of the rule that holds
	definition string
	stands     string
	over       bool
	wire, args []byte
	log        *audit.Log
}

// hold is approvals as far as a stated scope needs it: one request, which is used up
// by what is to be done in its place.
func (w *world) hold(ctx context.Context, h approvals.Held) (approvals.Answer, error) {
	if h.Do == nil {
		if w.request.State != approvals.Executed {
			w.wire, w.args = h.Wire.Body, h.Args
			w.request = approvals.Request{ID: "apr_1", State: approvals.Pending, Binding: h.Binding, Run: h.Run, Needs: h.Needs, Reason: h.Reason, Created: w.now}
		}
		return approvals.Answer{Request: w.request, New: true}, nil
	}
	err := w.log.Change(ctx, func(tx *audit.Tx) error { return h.Do(ctx, tx, w.request) })
	if err == nil {
		w.request.State = approvals.Executed
	}
	return approvals.Answer{Request: w.request}, err
}

func open(t *testing.T, db *storage.DB) *world {
	t.Helper()
	log, err := audit.Open(ctx, db, audit.Options{Keeper: audittest.Keeper("k"), Redactor: inspection.New()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close(ctx) })
	w := &world{now: time.Now().UTC().Truncate(time.Microsecond), log: log, needs: []approvals.Need{{Policy: "reaches-out", Quorum: 1}}, rule: "d1", definition: "def"}
	began := w.now
	w.Service, err = endorsements.New(db, log, endorsements.Options{
		Derive: func(label string) []byte { sum := sha256.Sum256([]byte(label)); return sum[:] },
		Roles: func(c, name string) (map[string]string, bool) {
			return map[string]string{"to": flow.Recipient, "amount": flow.Amount, "text": flow.Content}, c == "mail" && name == "send"
		},
		Run: func(_ context.Context, run string) (string, string, time.Time, error) {
			if run != "run_1" {
				return "", "", time.Time{}, errors.New("no such run")
			}
			if w.over {
				return "worker", "agt_1", began, nil
			}
			return "worker", "agt_1", w.now.Add(time.Hour), nil
		},
		Asks: endorsements.Asks{Hold: w.hold, Link: func(id string) string { return id }, Stands: func(context.Context, approvals.Request) (string, error) { return w.stands, nil },
			Needs: func(string, string, string) ([]approvals.Need, []approvals.Rule) {
				return w.needs, []approvals.Rule{{Name: "reaches-out", Digest: w.rule}}
			},
			Rule: func(string) string { return w.rule },
			Tool: func(_, name string) (string, string, string, bool) {
				return "t1", w.definition, "write", name == "send"
			}},
		Approval: func(context.Context, string) (approvals.Request, error) { return w.request, nil },
		Now:      func() time.Time { return w.now },
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func approved(by string, needs ...approvals.Need) approvals.Request {
	if len(needs) == 0 {
		needs = []approvals.Need{{Quorum: 1}}
	}
	return approvals.Request{ID: "apr_1", State: approvals.Executed, Needs: needs, Created: time.Now(),
		Decisions: []approvals.Decision{{Person: approvals.Person{ID: by, Name: "olga"}, Verdict: approvals.Approve}}}
}

func (w *world) met(t *testing.T, x endorsements.Tool, arg, value string) bool {
	t.Helper()
	g, err := w.Given(ctx, x, arg, []string{value})
	if err != nil {
		t.Fatal(err)
	}
	return g.Met != nil && g.Met(value)
}

// A counterparty is known to the agent and tool that people approved it for, as
// that argument, for its time, and until it is revoked.
func TestWhoIsKnown(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := open(t, db)
		if w.met(t, tool, "to", "ann@example.com") {
			t.Fatal("known before anybody approved")
		}
		for range 2 { // the second time makes it longer, not two
			if err := w.Met(ctx, tool, "to", []string{"ann@example.com", "ben@example.com", "ann@example.com"}, approved("usr_1"), time.Hour); err != nil {
				t.Fatal(err)
			}
		}
		other := func(change func(*endorsements.Tool)) endorsements.Tool { x := tool; change(&x); return x }
		for name, x := range map[string]struct {
			tool       endorsements.Tool
			arg, value string
			want       bool
		}{
			"the same":           {tool, "to", "ann@example.com", true},
			"in other letters":   {tool, "to", "ANN@example.com", true},
			"in another run":     {other(func(x *endorsements.Tool) { x.Run = "run_2" }), "to", "ben@example.com", true},
			"somebody else":      {tool, "to", "eve@evil.test", false},
			"another argument":   {tool, "cc", "ann@example.com", false},
			"another agent":      {other(func(x *endorsements.Tool) { x.AgentID = "agt_2" }), "to", "ann@example.com", false},
			"another tool":       {other(func(x *endorsements.Tool) { x.Name = "delete" }), "to", "ann@example.com", false},
			"another connection": {other(func(x *endorsements.Tool) { x.Connection = "post" }), "to", "ann@example.com", false},
			"another server":     {other(func(x *endorsements.Tool) { x.Target = "t2" }), "to", "ann@example.com", false},
		} {
			if got := w.met(t, x.tool, x.arg, x.value); got != x.want {
				t.Errorf("%s: %v", name, got)
			}
		}
		found, err := w.List(ctx, "worker", endorsements.Counterparty, "")
		if err != nil || len(found) != 2 {
			t.Fatalf("%+v %v", found, err)
		}
		if _, err := w.Revoke(ctx, olga, "", "worker", found[0].ID); !errors.Is(err, endorsements.ErrReason) {
			t.Error(err)
		}
		if _, err := w.Revoke(ctx, olga, "left", "other", found[0].ID); !errors.Is(err, endorsements.ErrNotFound) {
			t.Error(err)
		}
		e, err := w.Revoke(ctx, olga, "left", "worker", found[0].ID)
		if err != nil || e.EndedBy != "olga" || w.met(t, tool, "to", e.Value) {
			t.Errorf("after it was revoked: %+v %v", e, err)
		}
		if !w.met(t, tool, "to", found[1].Value) {
			t.Error("the other is forgotten, too")
		}
		w.now = w.now.Add(time.Hour)
		if w.met(t, tool, "to", found[1].Value) {
			t.Error("known after its time")
		}
	})
}

func TestWhatTeachesNobody(t *testing.T) {
	w := open(t, storagetest.Open(t, storagetest.SQLite(t)))
	glass := approved("usr_1")
	glass.Override = true
	for name, r := range map[string]approvals.Request{"a broken glass": glass, "nobody approved": {ID: "apr_1"}} {
		if err := w.Met(ctx, tool, "to", []string{"ann@example.com"}, r, time.Hour); err != nil || w.met(t, tool, "to", "ann@example.com") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What a run may do holds in that run, for that agent and tool, while it lasts.
func TestWhatARunMayDo(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := open(t, db)
		scope := flow.Scope{Tool: "mail/send", Args: map[string][]string{"to": {"*@example.com"}}}
		scopes := func(x endorsements.Tool) int {
			t.Helper()
			g, err := w.Given(ctx, x, "", nil)
			if err != nil {
				t.Fatal(err)
			}
			return len(g.Scopes)
		}
		for name, bad := range map[string]flow.Scope{
			"no tool":               {Tool: "mail", Args: scope.Args},
			"another tool":          {Tool: "mail/delete", Args: scope.Args},
			"no arguments":          {Tool: "mail/send"},
			"what does not matter":  {Tool: "mail/send", Args: map[string][]string{"text": {"hello"}}},
			"everybody":             {Tool: "mail/send", Args: map[string][]string{"to": {"*"}}},
			"no declared arguments": {Tool: "mail/send", Args: map[string][]string{"bcc": {"x"}}},
		} {
			if _, err := w.Allow(ctx, olga, "a task", "run_1", []flow.Scope{bad}); !errors.Is(err, endorsements.ErrScope) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := w.Allow(ctx, olga, "a task", "run_9", []flow.Scope{scope}); err == nil {
			t.Error("a run that is not there")
		}
		if _, err := w.Allow(ctx, olga, " ", "run_1", []flow.Scope{scope}); !errors.Is(err, endorsements.ErrReason) {
			t.Error(err)
		}
		made, err := w.Allow(ctx, olga, "a task", "run_1", []flow.Scope{scope})
		if err != nil || len(made) != 1 || scopes(tool) != 1 {
			t.Fatalf("%+v %v", made, err)
		}
		for _, change := range []func(*endorsements.Tool){func(x *endorsements.Tool) { x.Run = "run_2" }, func(x *endorsements.Tool) { x.Run = "" },
			func(x *endorsements.Tool) { x.AgentID = "agt_2" }, func(x *endorsements.Tool) { x.Name = "delete" }} {
			if x := tool; true {
				change(&x)
				if scopes(x) != 0 {
					t.Errorf("it holds for %+v", x)
				}
			}
		}
		if _, err := w.Revoke(ctx, olga, "enough", "worker", made[0].ID); err != nil || scopes(tool) != 0 {
			t.Error("revoked, it still holds", err)
		}
		for i := range 33 {
			if _, err = w.Allow(ctx, olga, "a task", "run_1", []flow.Scope{scope}); (err == nil) != (i < 32) {
				t.Fatalf("scope %d: %v", i, err)
			}
		}
		w.now = w.now.Add(2 * time.Hour)
		if scopes(tool) != 0 {
			t.Error("it holds when the run is over")
		}
	})
}

// Who approved a held call alone can do so for its run; nobody else can, and a
// call that takes two people or a passkey is approved by itself.
func TestWhoExtendsAnApproval(t *testing.T) {
	w := open(t, storagetest.Open(t, storagetest.SQLite(t)))
	values := []flow.Value{{Arg: "to", Role: flow.Recipient, Value: "ann@example.com"}, {Arg: "to", Role: flow.Recipient, Value: "ben@example.com"}}
	if err := w.Held(ctx, tool, "apr_1", values); err != nil {
		t.Fatal(err)
	}
	if g, err := w.Given(ctx, tool, "", nil); err != nil || len(g.Scopes) != 0 {
		t.Fatalf("a held call endorses itself: %+v %v", g, err)
	}
	waiting, denied := approved("usr_1"), approved("usr_1")
	waiting.State, denied.Decisions[0].Verdict = approvals.Pending, approvals.Deny
	for name, r := range map[string]approvals.Request{
		"it waits": waiting, "somebody else approved": approved("usr_2"), "it was denied": denied,
		"two people":   approved("usr_1", approvals.Need{Quorum: 2}),
		"two policies": approved("usr_1", approvals.Need{Quorum: 1}, approvals.Need{Quorum: 1}),
		"a passkey":    approved("usr_1", approvals.Need{Quorum: 1, Passkey: true}),
	} {
		w.request = r
		if _, err := w.Extend(ctx, olga, "the two of the project", "apr_1"); !errors.Is(err, endorsements.ErrApproval) {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.request = approved("usr_1")
	if _, err := w.Extend(ctx, olga, "no such", "apr_2"); !errors.Is(err, endorsements.ErrScope) {
		t.Error(err)
	}
	made, err := w.Extend(ctx, olga, "the two of the project", "apr_1")
	if err != nil || len(made) != 1 || strings.Join(made[0].Scope.Args["to"], " ") != "ann@example.com ben@example.com" {
		t.Fatalf("%+v %v", made, err)
	}
	if g, err := w.Given(ctx, tool, "", nil); err != nil || len(g.Scopes) != 1 {
		t.Errorf("%+v %v", g, err)
	}
	w.now = w.now.Add(13 * time.Hour)
	if _, err := w.Extend(ctx, olga, "late", "apr_1"); !errors.Is(err, endorsements.ErrRun) {
		t.Errorf("after the run: %v", err)
	}
}
