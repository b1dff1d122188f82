package policy_test

import (
	"context"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

var (
	ctx   = context.Background()
	fiona = audit.Person("usr_1", "fiona")
)

// registry is a tools' room with nothing but tools.
type registry struct {
	mu  sync.Mutex
	tts []policy.ToolType
}

func (r *registry) ToolTypes() []policy.ToolType {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.tts)
}

func (r *registry) set(tts []policy.ToolType) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tts = tts
}

type world struct {
	*policy.Service
	db       *storage.DB
	log      *audit.Log
	watch    *storage.Watcher
	findings *findings.Service
	tools    *registry
}

func open(t testing.TB, db *storage.DB, log ...*audit.Log) *world {
	t.Helper()
	if len(log) == 0 {
		log = append(log, openLog(t, db))
	}
	w := &world{db: db, log: log[0], watch: storage.NewWatcher(db, slog.New(slog.DiscardHandler)), findings: findings.New(db, log[0], nil), tools: &registry{tts: tools()}}
	var err error
	w.Service, err = policy.New(db, w.log, w.watch, w.tools, policy.Options{
		Now: func() time.Time { return now }, Findings: w.findings,
		Agents: func(name string) (policy.Agent, bool) {
			return policy.Agent{Name: name, Team: "finance", Labels: map[string]string{"tier": "gold"}}, name == "invoice-checker"
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.watch.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.watch.Stop)
	return w
}

func openLog(t testing.TB, db *storage.DB) *audit.Log {
	t.Helper()
	log, err := audit.Open(ctx, db, audit.Options{Redactor: inspection.New(), Keeper: audittest.Keeper("k")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close(ctx) })
	return log
}

// each runs fn on each engine.
func each(t *testing.T, fn func(t *testing.T, w *world)) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) { fn(t, open(t, db, openLog(t, db))) })
}

func (w *world) put(t testing.TB, name, text string) {
	t.Helper()
	if changed, err := w.PutPolicies(ctx, fiona, "because", name, text); err != nil || !changed {
		t.Fatalf("put %s: %v %v", name, changed, err)
	}
}

// recorded returns the types of events about an object, oldest first.
func (w *world) recorded(t *testing.T, object string) []string {
	t.Helper()
	recs, err := w.log.List(ctx, audit.Query{Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, r := range recs {
		if r.Event.Object == object {
			kinds = append(kinds, string(r.Event.Type))
		}
	}
	slices.Sort(kinds)
	return kinds
}

const args = `{"invoice_id":"i","amount_cents":10}`

func TestFiles(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		if d := w.Decide(pay(args)); d.Effect != policy.Deny {
			t.Error("an empty store allowed something")
		}
		w.put(t, "base", permitAll)
		if d := w.Decide(pay(args)); d.Effect != policy.Allow || !slices.Equal(d.Policies, []string{"all"}) {
			t.Errorf("after saving: %v %s", d.Effect, d.Reason)
		}
		before := w.Decide(pay(args)).Version
		if changed, err := w.PutPolicies(ctx, fiona, "again", "base", permitAll); changed || err != nil {
			t.Errorf("saving the same again: %v %v", changed, err)
		}
		w.put(t, "base", permitAll+`@id("no") forbid (principal, action in Action::"ledger", resource);`)
		if d := w.Decide(pay(args)); d.Effect != policy.Deny || d.Version == before {
			t.Errorf("after changing: %v %s", d.Effect, d.Version)
		}
		for text, want := range map[string]error{`permit (`: policy.ErrProblems, `permit (principal, action, resource) when { context.args.amount < 5 };`: policy.ErrProblems} {
			if _, err := w.PutPolicies(ctx, fiona, "", "bad", text); !errors.Is(err, want) {
				t.Errorf("%s: %v", text, err)
			}
		}
		if _, err := w.PutPolicies(ctx, fiona, "", "second", `@id("no") permit (principal, action, resource);`); !errors.Is(err, policy.ErrProblems) || !strings.Contains(err.Error(), "also used in base") {
			t.Errorf("an id twice: %v", err)
		}
		for _, name := range []string{"", "Base", "a/b", "grant:x", strings.Repeat("a", 101)} {
			if _, err := w.PutPolicies(ctx, fiona, "", name, permitAll); !errors.Is(err, policy.ErrName) {
				t.Errorf("name %q: %v", name, err)
			}
		}
		if err := w.DeletePolicy(ctx, fiona, "done", "base"); err != nil {
			t.Fatal(err)
		}
		if err := w.DeletePolicy(ctx, fiona, "done", "base"); !errors.Is(err, policy.ErrNotFound) {
			t.Errorf("deleting again: %v", err)
		}
		w.put(t, "base", permitAll)
		history, err := w.History(ctx, "base")
		if err != nil || len(history) != 4 || !history[1].Deleted || history[0].Version != 4 || history[3].Text != permitAll || history[2].SavedBy != "fiona" || history[1].Reason != "done" {
			t.Errorf("%+v %v", history, err)
		}
		if got := w.recorded(t, "policy/base"); !slices.Equal(got, []string{"policy.created", "policy.created", "policy.deleted", "policy.updated"}) {
			t.Errorf("recorded %q", got)
		}
		f, err := w.File(ctx, "base")
		if err != nil || f.Version != 4 || f.Text != permitAll || !f.Saved.Equal(now) {
			t.Errorf("%+v %v", f, err)
		}
	})
}

func TestGrants(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		g := policy.Grant{Name: "pay", Agent: "invoice-checker", Connection: "ledger", Tools: []string{"pay_invoice", "list_invoices"}, When: "context.run.calls < 10", Expires: now.Add(time.Hour)}
		if changed, err := w.PutGrant(ctx, fiona, "month end", g); !changed || err != nil {
			t.Fatal(changed, err)
		}
		if d := w.Decide(pay(args)); d.Effect != policy.Allow || !slices.Equal(d.Grants, []string{"pay"}) || len(d.Policies) > 0 {
			t.Errorf("%+v", d)
		}
		late := pay(args)
		late.Now = now.Add(time.Hour)
		if d := w.Decide(late); d.Effect != policy.Deny {
			t.Error("an expired grant counted")
		}
		if changed, err := w.PutGrant(ctx, fiona, "again", g); changed || err != nil {
			t.Errorf("giving the same again: %v %v", changed, err)
		}
		got, err := w.Grant(ctx, "pay")
		if err != nil || got.GivenBy != "fiona" || got.Reason != "month end" || !got.Expires.Equal(g.Expires) || !slices.Equal(got.Tools, g.Tools) || got.ID == "" {
			t.Errorf("%+v %v", got, err)
		}
		g.Tools = []string{"list_invoices"}
		if changed, err := w.PutGrant(ctx, fiona, "less", g); !changed || err != nil {
			t.Fatal(changed, err)
		}
		if d := w.Decide(pay(args)); d.Effect != policy.Deny {
			t.Error("a tool that was taken away")
		}
		for name, bad := range map[string]func(*policy.Grant){
			"tool":    func(g *policy.Grant) { g.Tools = []string{"pay_invoce"} },
			"none":    func(g *policy.Grant) { g.Tools = nil },
			"star":    func(g *policy.Grant) { g.Tools = []string{"*", "pay_invoice"} },
			"when":    func(g *policy.Grant) { g.When = "context.args.nothing == 1" },
			"smuggle": func(g *policy.Grant) { g.When = "true }; permit (principal, action, resource) when { true" },
			"conn":    func(g *policy.Grant) { g.Connection = "leger" },
			"agent":   func(g *policy.Grant) { g.Agent = "nobody" },
			"expired": func(g *policy.Grant) { g.Expires = now },
			"name":    func(g *policy.Grant) { g.Name = "A b" },
			"utf8":    func(g *policy.Grant) { g.Tools = []string{"\xff"} },
		} {
			h := g
			bad(&h)
			if _, err := w.PutGrant(ctx, fiona, "", h); fault.KindOf(err) != fault.Invalid {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := w.RevokeGrant(ctx, fiona, "enough", "pay"); err != nil {
			t.Fatal(err)
		}
		if err := w.RevokeGrant(ctx, fiona, "enough", "pay"); !errors.Is(err, policy.ErrNoGrant) {
			t.Errorf("revoking again: %v", err)
		}
		if got := w.recorded(t, "grant/pay"); !slices.Equal(got, []string{"grant.changed", "grant.given", "grant.revoked"}) {
			t.Errorf("recorded %q", got)
		}
	})
}

// A namesake of a deleted agent must not inherit its grants.
func TestGrantsGoWithTheirAgent(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		if _, err := w.PutGrant(ctx, fiona, "", policy.Grant{Name: "pay", Agent: "invoice-checker", Connection: "ledger", Tools: []string{"*"}}); err != nil {
			t.Fatal(err)
		}
		err := w.log.Change(ctx, func(tx *audit.Tx) error {
			return w.BeforeDelete(ctx, tx, fiona, "gone", "agent/invoice-checker")
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.watch.Poll(ctx); err != nil {
			t.Fatal(err)
		}
		if d := w.Decide(pay(args)); d.Effect != policy.Deny {
			t.Error("the grant outlived its agent")
		}
		if got := w.recorded(t, "grant/pay"); !slices.Contains(got, "grant.revoked") {
			t.Errorf("recorded %q", got)
		}
	})
}

func TestTwoReplicasAgree(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		other := open(t, w.db, w.log)
		w.put(t, "base", permitAll)
		waitFor(t, "the policy", func() bool { return other.Decide(pay(args)).Effect == policy.Allow })
		if a, b := w.Decide(pay(args)).Version, other.Decide(pay(args)).Version; a != b {
			t.Errorf("versions %s and %s", a, b)
		}
		if err := other.DeletePolicy(ctx, fiona, "", "base"); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "its end", func() bool { return w.Decide(pay(args)).Effect == policy.Deny })
	})
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-deadline:
			t.Fatal("never saw " + what)
		case <-tick.C:
		}
	}
}

// Two people who save the same file at once: one of them wins or both do, one
// after the other; no version is lost.
func TestConcurrentSaves(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.put(t, "base", permitAll)
		var saved int
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				_, err := w.PutPolicies(ctx, fiona, "", "base", permitAll+"// "+strings.Repeat("x", i+1))
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					saved++
				} else if !errors.Is(err, policy.ErrChanged) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		history, err := w.History(ctx, "base")
		if err != nil || len(history) != saved+1 || saved == 0 {
			t.Errorf("%d saved, %d versions, %v", saved, len(history), err)
		}
		f, err := w.File(ctx, "base")
		if err != nil || f.Text != history[0].Text || f.Version != history[0].Version {
			t.Errorf("the file is not its last version: %v", err)
		}
	})
}

func TestStaleReplicaDenies(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		watch := storage.NewWatcher(db, slog.New(slog.DiscardHandler))
		s, err := policy.New(db, openLog(t, db), watch, &registry{tts: tools()}, policy.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if d := s.Decide(pay(args)); d.Effect != policy.Deny || s.Visible(policy.Agent{Name: "a"}, policy.Action{}) {
			t.Error("decided before anything was loaded")
		}
		if _, err := s.Check("x", permitAll); !errors.Is(err, policy.ErrNotReady) {
			t.Error(err)
		}
		if err := watch.Poll(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := s.PutPolicies(ctx, fiona, "", "base", permitAll); err != nil {
			t.Fatal(err)
		}
		if d := s.Decide(pay(args)); d.Effect != policy.Allow {
			t.Fatal(d.Reason)
		}
		waitFor(t, "it go stale", func() bool { return s.Decide(pay(args)).Effect == policy.Deny })
		if s.Visible(pay(args).Agent, pay(args).Action) {
			t.Error("a stale replica lists tools")
		}
	})
}

func TestToolsChangeUnderPolicies(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.put(t, "base", permitAll+`@id("cap") forbid (principal, action == Action::"ledger/pay_invoice", resource) when { context.args.amount_cents > 100 };`)
		if d := w.Decide(pay(args)); d.Effect != policy.Allow {
			t.Fatal(d.Reason)
		}
		moved := tools()
		moved[0].InputSchema = jsontext.Value(`{"type":"object","properties":{"amount":{"type":"integer"}}}`)
		w.tools.set(moved)
		w.announce(t)
		d := w.Decide(pay(`{"amount":1}`))
		if d.Effect != policy.Deny || !slices.Equal(d.Policies, []string{"cap"}) {
			t.Errorf("%v %s", d.Effect, d.Reason)
		}
		open, err := w.findings.List(ctx, findings.Query{Status: findings.Open})
		if err != nil || len(open) != 1 || open[0].Object != "policy/base" || len(w.Problems()) == 0 {
			t.Errorf("%+v %v %v", open, err, w.Problems())
		}
		w.tools.set(tools())
		w.announce(t)
		if d := w.Decide(pay(args)); d.Effect != policy.Allow {
			t.Error(d.Reason)
		}
		if open, err := w.findings.List(ctx, findings.Query{Status: findings.Open}); err != nil || len(open) != 0 {
			t.Errorf("%+v %v", open, err)
		}
	})
}

// announce tells every replica that tools changed, as their room does.
func (w *world) announce(t *testing.T) {
	t.Helper()
	if err := w.db.Tx(ctx, func(tx *storage.Tx) error { return storage.Bump(ctx, tx, "connections") }); err != nil {
		t.Fatal(err)
	}
	if err := w.watch.Poll(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestAPI(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		mux := http.NewServeMux()
		api := rest.New(mux, "test", func(context.Context, string) (rest.Caller, error) {
			return rest.Caller{ID: "usr_1", Name: "fiona", Role: "operator"}, nil
		}, slog.New(slog.DiscardHandler))
		w.Routes(api)
		server := httptest.NewServer(mux)
		defer server.Close()
		ev, err := w.log.Append(ctx, audit.Event{Type: audit.CallDenied, Actor: audit.System, Agent: "invoice-checker", Connection: "ledger", Tool: "pay_invoice", Call: "call_1", Time: now}, audit.Payload{Name: "arguments", Body: []byte(args)})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			method, path, body string
			status             int
			has                string
		}{
			{"PUT", "/policies/base", `{"text":"@id(\"all\") permit (principal in Team::\"finance\", action, resource);","reason":"first"}`, 200, `"changed":true`},
			{"PUT", "/policies/bad", `{"text":"permit (principal, action, resource) when { context.run.lables };"}`, 400, "did you mean labels?"},
			{"GET", "/policies/base", "", 200, `"version":1`},
			{"GET", "/policies", "", 200, `"reason":"first"`},
			{"GET", "/policies/base/history", "", 200, `"saved_by":"fiona"`},
			{"GET", "/policies/none", "", 404, "policy_not_found"},
			{"PUT", "/grants/pay", `{"agent":"invoice-checker","connection":"ledger","tools":["pay_invoice"],"when":"context.args.amount_cents < 1000"}`, 200, `"given_by":"fiona"`},
			{"GET", "/grants?agent=invoice-checker", "", 200, `"name":"pay"`},
			{"GET", "/grants?agent=other", "", 200, `[]`},
			{"GET", "/grants/pay", "", 200, `"id":"grt_`},
			{"POST", "/policy/check", `{"files":[{"name":"x","text":"permit (principal, action, resource) when { 1 };"}]}`, 200, `"line":1`},
			{"POST", "/policy/check", `{}`, 200, `"problems":[]`},
			{"POST", "/policy/test", `{"cases":[{"name":"one","agent":"invoice-checker","tool":"ledger/pay_invoice","args":{"invoice_id":"i","amount_cents":1},"expect":"allow","by":["pay","all"]}]}`, 200, `"passed":true`},
			{"POST", "/policy/test", `{"cases":[{"name":"one","agent":"invoice-checker","tool":"ledger/pay_invoice","args":{"invoice_id":"i","amount_cents":1},"expect":"deny","by":["no"]}],"files":[{"name":"new","text":"@id(\"no\") forbid (principal, action, resource);"}]}`, 200, `"passed":true`},
			{"POST", "/policy/why", `{"case":{"name":"","agent":"invoice-checker","tool":"ledger/pay_invoice","args":{"invoice_id":"i","amount_cents":1},"expect":"allow"}}`, 200, `"effect":"allow"`},
			{"POST", "/policy/why", `{"event":"` + ev.ID + `"}`, 200, `"grant:pay"`},
			{"POST", "/policy/why", `{}`, 400, "bad_case"},
			{"GET", "/policy/schema", "", 200, `ledger/pay_invoice`},
			{"DELETE", "/grants/pay", "", 204, ""},
			{"DELETE", "/policies/base", "", 204, ""},
			{"DELETE", "/policies/base", "", 404, ""},
		} {
			status, body := request(t, c.method, server.URL+"/api/v1"+c.path, c.body)
			if status != c.status || !strings.Contains(body, c.has) {
				t.Errorf("%s %s: %d %s", c.method, c.path, status, body)
			}
			if body != "" && !jsontext.Value(body).IsValid() {
				t.Errorf("%s %s: not JSON: %s", c.method, c.path, body)
			}
		}
	})
}

func request(t *testing.T, method, url, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer x")
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestDecisionAsJSON(t *testing.T) {
	set := compile(t, permitAll+`@id("big") @approval("f") forbid (principal, action, resource);`)
	b, err := json.Marshal(set.Decide(pay(args)))
	if err != nil || !strings.Contains(string(b), `"effect":"hold"`) || !strings.Contains(string(b), `"decide_within":"4h0m0s"`) {
		t.Errorf("%s %v", b, err)
	}
}

func TestUnmatched(t *testing.T) {
	for text, want := range map[string]bool{
		"":        true,
		permitAll: false,
		`permit (principal, action, resource) when { context.run.calls > 100 };`: true,
		`forbid (principal, action, resource);`:                                  false,
		`@approval("f") forbid (principal, action, resource);`:                   false,
	} {
		if d := compile(t, text).Decide(pay(args)); d.Unmatched != want {
			t.Errorf("%s: %+v", text, d)
		}
	}
	if d := compile(t, "").Decide(pay(`{`)); d.Unmatched {
		t.Error("arguments that cannot be read are not merely unmatched")
	}
}

// What a run has read is looked for as soon as any policy asks about the run: its
// labels would otherwise be empty, and a policy that forbids by them would let
// everything pass.
func TestWhatARunReadIsLookedFor(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for text, want := range map[string]bool{
			`@id("x") forbid (principal, action, resource) when { context.run.labels.contains("untrusted") };`:                     true,
			`@id("x") forbid (principal, action == Action::"ledger/pay_invoice", resource) when { context.provenance.untrusted };`: true,
			`@id("x") forbid (principal, action, resource) when { context.caller.credential == "key" };`:                           false,
		} {
			w.put(t, "x", text)
			if got := w.Provenance(); got != want {
				t.Errorf("%v: %s", got, text)
			}
		}
	})
}
