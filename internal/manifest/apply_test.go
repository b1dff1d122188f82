package manifest_test

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/example"
	"github.com/countersign/countersign/internal/manifest"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

func TestApplyExportRoundTrip(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := build(t, db)
		before := w.events()
		dry := firmRequest()
		dry.DryRun = true
		planned := w.apply(manifest.Planned, dry)
		if n := w.events(); n != before {
			t.Fatalf("a dry run left %d events", n-before)
		}
		done := w.apply(manifest.Applied, firmRequest())
		want := map[string]string{"user/sam": "create", "user/pat": "create", "team/support": "create", "agent/helper": "create", "connection/openai": "create",
			"connection/ledger": "create", "secret/openai-key": "create", "secret/ledger-secret": "create", "tool/ledger/list_invoices": "update",
			"grant/helper-reads": "create", "grant/helper-pays": "create", "policy/limits": "create"}
		for name, res := range map[string]manifest.Result{"planned": planned, "applied": done} {
			if d := cmp.Diff(want, ops(res)); d != "" {
				t.Errorf("%s: %s", name, d)
			}
		}
		if len(done.Warnings) == 0 || !strings.Contains(strings.Join(done.Warnings, "\n"), "two transactions") {
			t.Errorf("does not say that it took two transactions: %q", done.Warnings)
		}
		// Applying twice changes nothing, and writes nothing.
		before = w.events()
		again := w.apply(manifest.Applied, firmRequest())
		if got := ops(again); len(got) > 0 || w.events() != before {
			t.Errorf("applying twice: %v, %d events", got, w.events()-before)
		}
		// What is exported is what is there: applied, it changes nothing.
		files, err := w.Export(ctx)
		if err != nil {
			t.Fatal(err)
		}
		res := w.apply(manifest.Applied, manifest.Request{Files: files})
		if got := ops(res); len(got) > 0 || w.events() != before {
			t.Errorf("applying the export: %v", got)
		}
		if twice, err := w.Export(ctx); err != nil || !cmp.Equal(files, twice) {
			t.Errorf("export differs from export: %v", err)
		}
		text := fmt.Sprint(files)
		for _, s := range []string{"sk-live-0123456789", "ledger-0123456789"} {
			if strings.Contains(text, s) {
				t.Error("a secret is exported")
			}
		}
		// And elsewhere it makes the same.
		elsewhere := build(t, storagetest.Open(t, storagetest.SQLite(t)))
		req := manifest.Request{Files: files, Secrets: firmRequest().Secrets}
		elsewhere.apply(manifest.Applied, req)
		if copied, err := elsewhere.Export(ctx); err != nil || cmp.Diff(files, copied) != "" {
			t.Errorf("%v\n%s", err, cmp.Diff(files, copied))
		}
	})
}

func TestApplyInForce(t *testing.T) {
	w := build(t, storagetest.Open(t, storagetest.SQLite(t)))
	w.apply(manifest.Applied, firmRequest())
	decide := func(cents int) policy.Effect {
		return w.policy.Decide(policy.Request{
			Agent:  policy.Agent{Name: "helper", Team: "support", Stage: "production"},
			Action: policy.Action{Connection: "ledger", Tool: "pay_invoice", Effect: "irreversible", Kind: "mcp"},
			Args:   []byte(fmt.Sprintf(`{"amount_cents":%d,"currency":"EUR"}`, cents)), Now: w.now,
		}).Effect
	}
	if small, large := decide(100), decide(500000); small != policy.Allow || large != policy.Deny {
		t.Errorf("small %v, large %v", small, large)
	}
	if tool, _ := w.connections.Tool("ledger", "list_invoices"); tool.Effect != "read" || tool.PinnedBy != "root" {
		t.Errorf("%+v", tool)
	}
}

func TestApplyChangesAndDeletes(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := build(t, db)
		w.apply(manifest.Applied, firmRequest())
		files := edit(edit(edit(firm(), "tier: \"1\"", "tier: \"2\""), "timeout: 30s", "timeout: 1m"), "500000", "400000")
		req := firmRequest()
		req.Files, req.Secrets["openai-key"] = files, value("sk-live-rotated-1234")
		want := map[string]string{"agent/helper": "update", "connection/ledger": "update", "secret/openai-key": "update", "policy/limits": "update"}
		req.DryRun = true
		if got := ops(w.apply(manifest.Planned, req)); !cmp.Equal(got, want) {
			t.Errorf("planned %v", got)
		}
		req.DryRun = false
		res := w.apply(manifest.Applied, req)
		if got := ops(res); !cmp.Equal(got, want) {
			t.Errorf("applied %v", got)
		}
		for _, c := range res.Changes {
			if c.ID == "agent/helper" && !cmp.Equal(c.Diff, []manifest.FieldDiff{{Field: "labels", Old: `{"data":"customer","tier":"1"}`, New: `{"data":"customer","tier":"2"}`}}) {
				t.Errorf("%+v", c.Diff)
			}
			if c.ID == "secret/openai-key" && !cmp.Equal(c.Diff, []manifest.FieldDiff{{Field: "value", Old: secrets.Redacted, New: secrets.Redacted}}) {
				t.Errorf("%+v", c.Diff)
			}
		}
		// A policy moves to another file; what is absent goes, dependents first.
		gone := manifest.Request{Files: []manifest.File{{Name: "gone.yaml", Text: strings.ReplaceAll(`kind: User
name: pat
state: absent
---
kind: Connection
name: openai
state: absent
---
kind: Secret
name: openai-key
state: absent
---
kind: Policy
name: limits
state: absent
---
kind: Grant
name: never-was
state: absent
---
kind: Team
name: support
spec: {members: [sam]}
---
kind: Agent
name: helper
spec: {owner: sam, team: support, stage: staging}
`, "", "")}, {Name: "payments.cedar", Text: files[4].Text}}}
		want = map[string]string{"user/pat": "delete", "connection/openai": "delete", "secret/openai-key": "delete", "policy/limits": "delete",
			"policy/payments": "create", "team/support": "update", "agent/helper": "update"}
		if got := ops(w.apply(manifest.Applied, gone)); !cmp.Equal(got, want) {
			t.Errorf("%s", cmp.Diff(want, got))
		}
		if got := ops(w.apply(manifest.Applied, gone)); len(got) > 0 {
			t.Errorf("again: %v", got)
		}
		if _, ok := w.connections.Connection("openai"); ok {
			t.Error("openai is still there")
		}
	})
}

func TestGrantDurationsNeverProlong(t *testing.T) {
	w := build(t, storagetest.Open(t, storagetest.SQLite(t)))
	w.apply(manifest.Applied, firmRequest())
	first, err := w.policy.Grant(ctx, "helper-pays")
	if err != nil || first.Reason != "pays small ones" {
		t.Fatal(first, err)
	}
	w.now = w.now.Add(30 * 24 * time.Hour)
	req := firmRequest()
	req.Files = edit(firm(), `"EUR"`, `"CHF"`)
	w.apply(manifest.Applied, req)
	second, err := w.policy.Grant(ctx, "helper-pays")
	if err != nil || !second.Expires.Equal(first.Expires) || second.When == first.When {
		t.Errorf("%v, then %v (%v)", first.Expires, second.Expires, err)
	}
	w.now = w.now.Add(90 * 24 * time.Hour)
	if res := w.apply(manifest.Applied, req); len(ops(res)) > 0 || !strings.Contains(fmt.Sprint(res.Warnings), "helper-pays has expired") {
		t.Errorf("%v %v", ops(res), res.Warnings)
	}
	res := w.apply(manifest.Refused, firmRequest())
	if got := res.Problems[0].String(); !strings.HasPrefix(got, "firm/access.yaml:16:12: spec.expires: ") {
		t.Error(got)
	}
}

func TestBadFilesChangeNothing(t *testing.T) {
	w := build(t, storagetest.Open(t, storagetest.SQLite(t)))
	w.apply(manifest.Applied, firmRequest())
	before := w.events()
	for _, c := range []struct{ name, old, now, want string }{
		{"syntax", "role: operator", "role: [", "firm/people.yaml:"},
		{"unknown owner", "owner: sam\n  backup", "owner: sma\n  backup", `firm/agents.yaml:4:10: spec.owner: there is no user "sma"; did you mean sam?`},
		{"unknown member", "members: [sam, pat]", "members: [sam, pta]", `firm/people.yaml:11:17: spec.members: there is no user "pta"; did you mean pat?`},
		{"unknown team", "team: support", "team: suport", `firm/agents.yaml:6:9: spec.team: there is no team "suport"; did you mean support?`},
		{"role", "role: operator", "role: boss", "firm/people.yaml:7:14: spec.role: "},
		{"stage", "stage: production", "stage: prod", "firm/agents.yaml:7:10: spec.stage: "},
		{"backup is owner", "backup: pat", "backup: sam", "firm/agents.yaml:5:11: spec.backup: "},
		{"plain http", "https://API", "http://API", "firm/connections.yaml:3:41: spec.url: must begin with https://"},
		{"relative command", "[ledger-server]", "[./ledger-server]", "firm/connections.yaml:13:13: spec.command[0]: "},
		{"no engine", "kind: mcp", "kind: retrieval", "firm/connections.yaml:12:3: spec.dialect: a retrieval connection names its engine: embedded, postgres, opensearch, qdrant, search, not \"\""},
		{"env", "MODE: prod", "MODE: \"secret://No Name\"", "firm/connections.yaml:14:56: spec.env.MODE: "},
		{"known secret in the clear", "MODE: prod", "MODE: ledger-0123456789", "firm/connections.yaml:14:56: spec.env.MODE: looks like a credential"},
		{"secret without value", "name: openai-key\nspec: {owner", "name: openai-key2\nspec: {owner", "firm/connections.yaml:7:75: spec.from: the secret does not exist yet and no value was sent for it"},
		{"secret of no connection", "connection: openai, hosts", "connection: opena, hosts", `firm/connections.yaml:7:32: spec.connection: there is no connection "opena"; did you mean openai?`},
		{"hosts", "[api.models.example]", "[https://x]", "firm/connections.yaml:7:47: spec.hosts: "},
		{"unknown tool", "ledger/list_invoices", "ledger/list_invoice", `firm/access.yaml:2:7: name: ledger has no tool "list_invoice"; did you mean list_invoices?`},
		{"built-in tool", "ledger/list_invoices", "openai/models", "firm/access.yaml:2:7: name: built-in tools"},
		{"effect", "effect: read", "effect: harmless", `firm/access.yaml:3:16: spec.effect: "harmless" must be`},
		{"grant to nobody", "agent: helper,", "agent: helpr,", `firm/access.yaml:7:15: spec.agent: there is no agent "helpr"; did you mean helper?`},
		{"grant of no tool", "[list_invoices]", "[drop_invoices]", `firm/access.yaml:7:51: spec.tools[0]: ledger has no tool "drop_invoices"`},
		{"when", `context.args.currency == "EUR"`, `context.args.curency == "EUR"`, "firm/access.yaml:15:9: spec.when: "},
		{"when is no expression", `context.args.currency == "EUR"`, `context.args.currency == `, "firm/access.yaml:15:9: spec.when: "},
		{"policy syntax", "forbid (", "forbidd (", "firm/limits.cedar:2:9: "},
		{"policy argument", "amount_cents >=", "amount_cent >=", "firm/limits.cedar:3:"},
		{"policy action", `"ledger/pay_invoice"`, `"ledger/pay_invoices"`, "firm/limits.cedar:2:"},
		{"last admin", "name: pat\nspec: {role: operator}", "name: root\nspec: {role: viewer}", "firm/people.yaml:"},
	} {
		t.Run(c.name, func(t *testing.T) {
			req := manifest.Request{Files: edit(firm(), c.old, c.now)}
			// The good parts of the files would change something, too.
			req.Files = append(req.Files, manifest.File{Name: "new.yaml", Text: "kind: User\nname: newcomer\nspec: {role: viewer}\n"})
			res := w.apply(manifest.Refused, req)
			if got := res.Problems[0].String(); !strings.HasPrefix(got, c.want) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if n := w.events(); n != before {
				t.Errorf("%d events", n-before)
			}
			req.DryRun = true
			w.apply(manifest.Refused, req)
		})
	}
	if res := w.apply(manifest.Refused, manifest.Request{Files: firm(), Secrets: map[string]secrets.Value{"openai-kye": value("0123456789")}}); !strings.Contains(res.Problems[0].Message, "openai-kye") {
		t.Error(res.Problems)
	}
}

func TestPoliciesAreCheckedBeforeNewConnections(t *testing.T) {
	w := build(t, storagetest.Open(t, storagetest.SQLite(t)))
	before := w.events()
	for _, c := range []struct{ old, now, want string }{
		{"forbid (", "forbidd (", "firm/limits.cedar:2:9: "},
		{`forbid (principal, action == Action::"ledger/pay_invoice", resource)`, `forbid (principal, action == Action::"openai/chat", resource)`, "firm/limits.cedar:2:"},
	} {
		req := firmRequest()
		req.Files = edit(firm(), c.old, c.now)
		res := w.apply(manifest.Refused, req)
		if got := res.Problems[0].String(); !strings.HasPrefix(got, c.want) || w.events() != before {
			t.Errorf("%s, %d events", got, w.events()-before)
		}
	}
}

func TestUnreachableUpstreamIsSaidAndMended(t *testing.T) {
	w := build(t, storagetest.Open(t, storagetest.SQLite(t)))
	tools := w.upstreams["ledger"]
	delete(w.upstreams, "ledger")
	res := w.apply(manifest.Partly, firmRequest())
	if len(res.Problems) == 0 || !strings.Contains(fmt.Sprint(res.Warnings), "tools of ledger could not be discovered") {
		t.Errorf("%v %v", res.Problems, res.Warnings)
	}
	if _, ok := w.connections.Connection("ledger"); !ok {
		t.Error("the first transaction is not there")
	}
	w.upstreams["ledger"] = tools
	if got := ops(w.apply(manifest.Applied, firmRequest())); len(got) != 4 {
		t.Errorf("%v", got)
	}
	if got := ops(w.apply(manifest.Applied, firmRequest())); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

func TestOnlyAdministratorsApplyUsers(t *testing.T) {
	w := build(t, storagetest.Open(t, storagetest.SQLite(t)))
	w.apply(manifest.Applied, firmRequest())
	u, _ := w.people.User("pat")
	res, err := w.Apply(ctx, audit.Person(u.ID, "pat"), "", manifest.Request{Files: []manifest.File{{Name: "u.yaml", Text: "kind: User\nname: x\nspec: {role: admin}\n"}}})
	if err != nil || res.Outcome != manifest.Refused || !strings.Contains(res.Problems[0].Message, "administrator") {
		t.Errorf("%+v, %v", res, err)
	}
	if res, err := w.Apply(ctx, audit.Person(u.ID, "pat"), "", manifest.Request{Files: edit(firm(), "tier: \"1\"", "tier: \"3\"")}); err != nil || res.Outcome != manifest.Applied {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestStoreFailureIsAnError(t *testing.T) {
	db := storagetest.Open(t, storagetest.SQLite(t))
	w := build(t, db)
	db.Close()
	if _, err := w.Apply(ctx, w.by, "", firmRequest()); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("%v", err)
	}
}

func TestExampleBusiness(t *testing.T) {
	w := build(t, storagetest.Open(t, storagetest.SQLite(t)))
	args := map[string]string{"pay_invoice": `"number":{"type":"string"},"amount_cents":{"type":"integer"},"currency":{"type":"string"},"payee":{"type":"string"},"iban":{"type":"string"}`,
		"send_email": `"to":{"type":"string"},"subject":{"type":"string"},"body":{"type":"string"}`, "send_reply": `"number":{"type":"string"},"body":{"type":"string"}`, "track_parcel": `"number":{"type":"string"}`}
	need := map[string][]string{"pay_invoice": {"amount_cents", "currency"}, "send_email": {"to", "body"}, "send_reply": {"body"}, "track_parcel": {"number"}}
	clear(w.upstreams)
	files, err := example.Files(example.Addresses{OpenAI: "http://127.0.0.1:9001", Anthropic: "http://127.0.0.1:9001", Helpdesk: "http://127.0.0.1:9002/mcp", Courier: "http://127.0.0.1:9003/mcp", Ledger: []string{"/usr/bin/true", "example", "ledger"}})
	if err != nil {
		t.Fatal(err)
	}
	req := manifest.Request{Secrets: map[string]secrets.Value{}}
	for _, f := range files {
		req.Files = append(req.Files, manifest.File{Name: f.Name, Text: string(f.Text)})
	}
	parsed, problems := manifest.Parse(req.Files)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	for _, r := range parsed {
		switch r.Kind {
		case manifest.KindTool:
			conn, name, _ := strings.Cut(r.Name, "/")
			w.upstreams[conn] = append(w.upstreams[conn], tool(name, args[name], need[name]...))
		case manifest.KindSecret:
			req.Secrets[r.Name] = value("example-" + r.Name + "-0123456789")
		}
	}
	w.apply(manifest.Applied, req)
	if got := ops(w.apply(manifest.Applied, req)); len(got) > 0 {
		t.Errorf("applying twice: %v", maps.Keys(got))
	}
	exported, err := w.Export(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got := ops(w.apply(manifest.Applied, manifest.Request{Files: exported})); len(got) > 0 {
		t.Errorf("applying the export: %v", got)
	}
}
