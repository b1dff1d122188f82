package llm_test

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/budget"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/releases"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/test/line"
	"github.com/countersign/countersign/test/upstream"
)

// pins is a release that includes one model and one prompt.
type pins struct {
	model, prompt string // any prompt if it is empty
	canary        bool
}

func (p pins) Check(q *releases.Question) (releases.Bound, error) {
	seventh := releases.Bound{Release: policy.Release{Number: 7, Stage: q.Stage, Canary: p.canary}}
	if q.Model != "" && q.Model != p.model {
		return seventh, releases.ErrOutside.Say("not the model")
	}
	if q.Prompt != nil && p.prompt != "" {
		if text, ok := q.Prompt(); !ok || strings.TrimSpace(text) != p.prompt {
			return seventh, releases.ErrOutside.Say("not the prompt")
		}
	}
	return seventh, nil
}

func (pins) Stands(string, releases.Bound) error { return nil }

func (pins) Shows(string, string, string) bool { return true }

// Every form in which a request can name a model or instruct it is seen by the
// release; what it does not include never reaches the provider.
func TestAReleaseSeesModelAndPrompt(t *testing.T) {
	l, up := small(t, line.Options{Releases: pins{model: "m", prompt: "Be brief."}})
	const chat, resp, claude = "/llm/openai/v1/chat/completions", "/llm/openai/v1/responses", "/llm/anthropic/v1/messages"
	for _, c := range []struct{ name, path, body, want string }{
		{"the prompt", chat, `{"model":"m","messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"hi"}]}`, ""},
		{"as a developer, in parts", chat, `{"model":"m","messages":[{"role":"developer","content":[{"type":"text","text":" Be brief. "}]}]}`, ""},
		{"as instructions", resp, `{"model":"m","instructions":"Be brief.","input":"hi"}`, ""},
		{"as system", claude, `{"model":"m","max_tokens":1,"system":[{"type":"text","text":"Be brief."}],"messages":[{"role":"user","content":"hi"}]}`, ""},
		{"embeddings", "/llm/openai/v1/embeddings", `{"model":"m","input":"hi"}`, ""},
		{"an alias", chat, `{"model":"m-latest","messages":[{"role":"system","content":"Be brief."}]}`, "not the model"},
		{"none", chat, `{"model":"m","messages":[{"role":"user","content":"Be brief."}]}`, "not the prompt"},
		{"a second one", chat, `{"model":"m","messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"hi"},{"role":"system","content":"Not."}]}`, "not the prompt"},
		{"another beside it", resp, `{"model":"m","instructions":"Be brief.","input":[{"role":"developer","content":"Not."}]}`, "not the prompt"},
		{"one the provider keeps", resp, `{"model":"m","instructions":"Be brief.","prompt":{"id":"pmpt_1"},"input":"hi"}`, "not the prompt"},
	} {
		before := len(up.Requests())
		a := do(t, l, "POST", c.path, c.body)
		sent := len(up.Requests()) - before
		if c.want == "" && (a.status != 200 || sent != 1) || c.want != "" && (a.status != 403 || sent != 0 || !strings.Contains(a.body, c.want)) {
			t.Errorf("%s: %d %s, %d sent", c.name, a.status, a.body, sent)
		}
	}
	for _, r := range l.Events(5, audit.CallDenied) {
		if !strings.Contains(string(r.Event.Detail), `"release":7`) {
			t.Errorf("the event does not name the release: %s", r.Raw)
		}
	}
}

// Policies are asked with the release that binds a call and with what is left of
// its budgets, which its event keeps. Where that cannot be seen, the call is refused.
func TestPoliciesSeeReleaseAndBudget(t *testing.T) {
	up := upstream.Start(t, upstream.JSON(200, okChat))
	var budgets *budget.Service
	l := line.Start(t, storagetest.Open(t, storagetest.SQLite(t)), line.Options{Releases: pins{model: "m", canary: true}, Tune: func(l *line.Line, o *gateway.Options) {
		var err error
		if budgets, err = budget.New(l.DB, l.Log, l.Watch, budget.Options{Findings: l.Findings}); err != nil {
			t.Fatal(err)
		}
		o.Budgets = budgets
	}})
	t.Cleanup(func() { _ = budgets.Close(t.Context()) })
	if _, err := budgets.Put(t.Context(), line.By, line.Reason, budget.Budget{Name: "b", Meter: budget.Calls, Agent: "invoice-checker", Period: budget.Total, Hard: 4, Soft: 1}); err != nil {
		t.Fatal(err)
	}
	l.Connect("openai", connections.OpenAI, up.URL)
	ask := func(condition string) answer {
		l.Policies(line.AllowAll + `@id("x") forbid (principal, action, resource) when { ` + condition + ` };`)
		return do(t, l, "POST", "/llm/openai/v1/chat/completions", `{"model":"m","messages":[]}`)
	}
	if a := ask(`context.release.number == 7 && context.release.canary && context.release.pinned && context.release.stage == "production"`); a.status != 403 {
		t.Errorf("the release: %d %s", a.status, a.body)
	}
	if a := ask(`context.budget.left_percent < 100 || context.budget.soft_passed || !context.budget.limited`); a.status != 200 {
		t.Errorf("nothing used: %d %s", a.status, a.body)
	}
	l.Events(1, audit.CallOutcome)
	if a := ask(`context.budget.left_percent == 75 && context.budget.limited`); a.status != 403 {
		t.Errorf("one used: %d %s", a.status, a.body)
	}
	for i, r := range l.Events(2, audit.CallDenied) {
		if want := []string{`"budget":{"left":100,"limited":true}`, `"budget":{"left":75,"limited":true`}[i]; !strings.Contains(string(r.Event.Detail), want) || !strings.Contains(string(r.Event.Detail), `"canary":true`) {
			t.Errorf("%s has not %s", r.Event.Detail, want)
		}
	}
	sent := len(up.Requests())
	if _, err := l.DB.Writer().ExecContext(t.Context(), `ALTER TABLE budget_windows RENAME TO gone`); err != nil {
		t.Fatal(err)
	}
	if a := ask(`context.budget.soft_passed`); a.status != 503 || len(up.Requests()) != sent {
		t.Errorf("budgets cannot be seen: %d %s", a.status, a.body)
	}
}

// An agent of one stage does not reach a connection of others, nor through an
// agent that may.
func TestStagesAreNotCrossed(t *testing.T) {
	var chained atomic.Bool
	as := func(c identity.Caller) identity.Caller {
		if chained.Load() {
			c.Behind = []identity.Agent{{Name: "tester", Stage: identity.Development}}
			c.OnBehalfOf = []audit.Actor{{Kind: audit.KindAgent, Name: "tester"}}
		}
		return c
	}
	up := upstream.Start(t, upstream.JSON(200, okChat))
	l := line.Start(t, storagetest.Open(t, storagetest.SQLite(t)), line.Options{As: as})
	for stages, want := range map[string]int{"": 200, "staging": 403, "production": 200, "production,staging": 200, "development": 403} {
		c := connections.Connection{Name: "openai", Kind: connections.LLM, Dialect: connections.OpenAI, URL: up.URL, Owner: "pat", Secret: "provider-key-openai", AllowPrivate: true}
		if stages != "" {
			c.Stages = strings.Split(stages, ",")
		}
		l.Register(c)
		l.Policies(line.AllowAll)
		for _, through := range []bool{false, true} {
			chained.Store(through)
			want := want
			if through && stages != "" && !slices.Contains(c.Stages, identity.Development) {
				want = 403
			}
			a := do(t, l, "POST", "/llm/openai/v1/chat/completions", `{"model":"m","messages":[]}`)
			if a.status != want || want == 403 && a.code != "other_stage" {
				t.Errorf("stages %q, through an agent in development %t: %d %s", stages, through, a.status, a.body)
			}
		}
	}
}
