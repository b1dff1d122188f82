package manifest_test

import (
	"bytes"
	"context"
	"encoding/json/jsontext"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/budget"
	"github.com/countersign/countersign/internal/channels"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/detection"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/manifest"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/tokens"
	"github.com/countersign/countersign/internal/tokens/remote"
)

var ctx = context.Background()

// known redacts the values it was told of.
type known struct {
	mu     sync.Mutex
	values [][]byte
}

func (k *known) Add(_ string, value []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.values = append(k.values, bytes.Clone(value))
}

func (k *known) Remove(string) {}

func (k *known) Redact(b []byte) []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, v := range k.values {
		b = bytes.ReplaceAll(b, v, []byte("[redacted:known]"))
	}
	return b
}

// upstreams answers discovery by connection; a missing one cannot be reached.
type upstreams map[string][]connections.Definition

func (u upstreams) Discover(_ context.Context, _ audit.Actor, c connections.Connection) ([]connections.Definition, error) {
	defs, ok := u[c.Name]
	if !ok {
		return nil, errors.New("connection refused")
	}
	return defs, nil
}

func tool(name, properties string, required ...string) connections.Definition {
	needed := `"` + strings.Join(required, `","`) + `"`
	if len(required) == 0 {
		needed = ""
	}
	return connections.Definition{Name: name, Raw: jsontext.Value(
		fmt.Sprintf(`{"name":%q,"inputSchema":{"type":"object","properties":{%s},"required":[%s]}}`, name, properties, needed))}
}

// toolTypes shows connections' tools to policy, as server does.
type toolTypes struct{ *connections.Service }

func (t toolTypes) ToolTypes() []policy.ToolType {
	var out []policy.ToolType
	for _, tt := range t.Service.ToolTypes() {
		out = append(out, policy.ToolType(tt))
	}
	return out
}

// world is all rooms on one database.
type world struct {
	*manifest.Service
	t           *testing.T
	log         *audit.Log
	watch       *storage.Watcher
	people      *identity.Service
	connections *connections.Service
	secrets     *secrets.Service
	policy      *policy.Service
	findings    *findings.Service
	upstreams   upstreams
	by          audit.Actor
	now         time.Time
}

func build(t *testing.T, db *storage.DB) *world {
	t.Helper()
	w := &world{t: t, watch: storage.NewWatcher(db, slog.New(slog.DiscardHandler)), now: time.Now().UTC(),
		upstreams: upstreams{
			"helpdesk": {tool("get_ticket", `"id":{"type":"integer"}`, "id"), tool("send_email", `"to":{"type":"string"}`, "to")},
			"ledger":   {tool("pay_invoice", `"amount_cents":{"type":"integer"},"currency":{"type":"string"}`, "amount_cents", "currency"), tool("list_invoices", "")},
		}}
	clock := func() time.Time { return w.now }
	matcher := &known{}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	w.log, err = audit.Open(ctx, db, audit.Options{Redactor: matcher, Keeper: audittest.Keeper("k")})
	must(err)
	t.Cleanup(func() { w.log.Close(ctx) })
	keeper, err := secrets.OpenKeeper(ctx, filepath.Join(t.TempDir(), "key"))
	must(err)
	t.Cleanup(func() { keeper.Close() })
	w.secrets, err = secrets.New(db, w.log, w.watch, keeper, secrets.Options{Matcher: matcher, Now: clock})
	must(err)
	w.people, err = identity.New(db, w.log, w.watch, identity.Options{Derive: w.secrets.Derive, Now: clock})
	must(err)
	w.findings = findings.New(db, w.log, clock)
	w.connections, err = connections.New(db, w.log, w.watch, w.findings, connections.Options{Redactor: matcher, Now: clock})
	must(err)
	w.connections.SetDiscoverer(w.upstreams)
	w.policy, err = policy.New(db, w.log, w.watch, toolTypes{w.connections}, policy.Options{Findings: w.findings, Now: clock})
	must(err)
	for _, fn := range []identity.BeforeDelete{w.connections.KeepOwners, w.secrets.KeepOwners, w.policy.BeforeDelete} {
		w.people.OnDelete(fn)
	}
	w.connections.OnDelete(w.secrets.KeepConnections)
	w.connections.OnDelete(w.policy.BeforeDelete)
	issuer, err := tokens.New(db, w.log, w.watch, w.people, tokens.Options{Derive: w.secrets.Derive, Fetcher: remote.New()})
	must(err)
	requests, err := approvals.New(db, w.log, w.watch, approvals.Options{Identity: w.people, Findings: w.findings, Derive: w.secrets.Derive, Redactor: matcher})
	if err != nil {
		t.Fatal(err)
	}
	tellers, err := channels.New(channels.Options{DB: db, Log: w.log, Watch: w.watch, Identity: w.people, Secrets: w.secrets, Findings: w.findings, Approvals: requests, Link: requests.Link, Redactor: matcher})
	if err != nil {
		t.Fatal(err)
	}
	limits, err := budget.New(db, w.log, w.watch, budget.Options{Findings: w.findings, Now: clock})
	must(err)
	t.Cleanup(func() { limits.Close(ctx) })
	watches, err := detection.New(db, w.log, w.watch, detection.Options{Findings: w.findings, Locks: locks.New(db, w.log, w.watch, locks.Options{})})
	if err != nil {
		t.Fatal(err)
	}
	w.Service, err = manifest.New(manifest.Options{Detection: watches, Channels: tellers, Budgets: limits, Log: w.log, Watch: w.watch, Identity: w.people, Connections: w.connections, Secrets: w.secrets, Policy: w.policy, Tokens: issuer, Now: clock})
	must(err)
	must(w.watch.Poll(ctx))
	_, err = w.people.PutUser(ctx, audit.System, "", identity.User{Name: "root", Role: identity.Admin})
	must(err)
	u, _ := w.people.User("root")
	w.by = audit.Person(u.ID, u.Name)
	return w
}

func value(v string) secrets.Value { return secrets.NewValue([]byte(v)) }

// apply applies and fails the test unless it ends as wanted.
func (w *world) apply(outcome string, req manifest.Request) manifest.Result {
	w.t.Helper()
	res, err := w.Apply(ctx, w.by, "test", req)
	if err != nil {
		w.t.Fatal(err)
	}
	if res.Outcome != outcome {
		w.t.Fatalf("%s, want %s: %v %v", res.Outcome, outcome, res.Problems, res.Warnings)
	}
	return res
}

func ops(res manifest.Result) map[string]string {
	out := map[string]string{}
	for _, c := range res.Changes {
		if c.Op != manifest.None {
			out[c.ID] = c.Op
		}
	}
	return out
}

func (w *world) events() int {
	w.t.Helper()
	list, err := w.log.List(ctx, audit.Query{Limit: 1000})
	if err != nil {
		w.t.Fatal(err)
	}
	return len(list)
}

// firm is a small company.
func firm() []manifest.File {
	return []manifest.File{
		{Name: "firm/people.yaml", Text: `kind: User
name: sam
spec: {role: owner, email: sam@firm.example, display_name: "Sam: support, lead"}
---
kind: User
name: pat
spec: {role: operator}
---
kind: Team
name: support
spec: {members: [sam, pat]}
`},
		{Name: "firm/agents.yaml", Text: `kind: Agent
name: helper
spec:
  owner: sam
  backup: pat
  team: support
  stage: production
  labels: {data: customer, tier: "1"}
`},
		{Name: "firm/connections.yaml", Text: `kind: Connection
name: openai
spec: {kind: llm, dialect: openai, url: "https://API.models.example/", secret: openai-key, owner: pat}
---
kind: Secret
name: openai-key
spec: {owner: pat, connection: openai, hosts: [api.models.example], from: {env: OPENAI_KEY}}
---
kind: Connection
name: ledger
spec:
  kind: mcp
  command: [ledger-server]
  env: {LEDGER_SECRET: "secret://ledger-secret", MODE: prod}
  owner: sam
  timeout: 30s
  capture: full
---
kind: Secret
name: ledger-secret
spec: {owner: sam, connection: ledger, from: {file: /run/ledger}}
`},
		{Name: "firm/access.yaml", Text: `kind: Tool
name: ledger/list_invoices
spec: {effect: read, subject: customer.email, objects: {invoice: "lines.*.number"}, template: "{agent} looks for {customer.email}", proposal: match}
---
kind: Grant
name: helper-reads
spec: {agent: helper, connection: ledger, tools: [list_invoices]}
---
kind: Grant
name: helper-pays
spec:
  agent: helper
  connection: ledger
  tools: [pay_invoice]
  when: context.args.currency == "EUR"
  expires: 90d
  reason: pays small ones
`},
		{Name: "firm/limits.cedar", Text: `@id("small-only")
forbid (principal, action == Action::"ledger/pay_invoice", resource)
when { context.args.amount_cents >= 500000 };
`},
	}
}

func firmRequest() manifest.Request {
	return manifest.Request{Files: firm(), Secrets: map[string]secrets.Value{"openai-key": value("sk-live-0123456789"), "ledger-secret": value("ledger-0123456789")}}
}

// edit replaces text in one file.
func edit(files []manifest.File, old, now string) []manifest.File {
	files = slices.Clone(files)
	for i, f := range files {
		if strings.Contains(f.Text, old) {
			files[i].Text = strings.Replace(f.Text, old, now, 1)
			return files
		}
	}
	panic("no file holds " + old)
}
