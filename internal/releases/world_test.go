package releases_test

import (
	"cmp"
	"context"
	"encoding/json/jsontext"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/releases"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

var (
	ctx   = context.Background()
	quiet = slog.New(slog.DiscardHandler)
	olga  = audit.Person("usr_olga", "olga")
	oskar = audit.Person("usr_oskar", "oskar")
)

const why = "a test needs it"

// replica is one server's rooms on a database.
type replica struct {
	*releases.Service
	t        *testing.T
	db       *storage.DB
	log      *audit.Log
	watch    *storage.Watcher
	ids      *identity.Service
	conns    *connections.Service
	policy   *policy.Service
	findings *findings.Service
	locks    *locks.Service

	mu    sync.Mutex
	defs  map[string]string // what the ledger says of its tools
	ahead time.Duration     // of the clock
	ends  string            // how calls end
}

type toolTypes struct{ *connections.Service }

func (t toolTypes) ToolTypes() []policy.ToolType {
	var out []policy.ToolType
	for _, x := range t.Service.ToolTypes() {
		out = append(out, policy.ToolType(x))
	}
	return out
}

// Discover implements connections.Discoverer.
func (r *replica) Discover(context.Context, audit.Actor, connections.Connection) ([]connections.Definition, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []connections.Definition
	for name, about := range r.defs {
		out = append(out, connections.Definition{Name: name, Raw: jsontext.Value(fmt.Sprintf(`{"name":%q,"description":%q,"inputSchema":{"type":"object","properties":{"amount":{"type":"integer"}}}}`, name, about))})
	}
	return out, nil
}

func (r *replica) now() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Now().Add(r.ahead)
}

func (r *replica) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// join opens the rooms on a database, as another replica does.
func join(t *testing.T, dsn string) *replica { t.Helper(); return joinWith(t, dsn, releases.Options{}) }

// joinWith is join with options that may say what is asked of others.
func joinWith(t *testing.T, dsn string, o releases.Options) *replica {
	t.Helper()
	r := &replica{t: t, db: storagetest.Open(t, dsn), defs: map[string]string{"pay": "Pays an invoice.", "read": "Reads an invoice."}, ends: audit.Succeeded}
	r.watch = storage.NewWatcher(r.db, quiet)
	scanner := inspection.New()
	var err error
	r.log, err = audit.Open(ctx, r.db, audit.Options{Redactor: scanner, Keeper: audittest.Keeper("k")})
	r.must(err)
	t.Cleanup(func() { _ = r.log.Close(ctx) })
	r.findings = findings.New(r.db, r.log, nil)
	r.locks = locks.New(r.db, r.log, r.watch, locks.Options{})
	r.ids, err = identity.New(r.db, r.log, r.watch, identity.Options{Derive: func(string) []byte { return make([]byte, 32) }, Locks: r.locks})
	r.must(err)
	r.conns, err = connections.New(r.db, r.log, r.watch, r.findings, connections.Options{Redactor: scanner})
	r.must(err)
	r.conns.SetDiscoverer(r)
	r.policy, err = policy.New(r.db, r.log, r.watch, toolTypes{r.conns}, policy.Options{Findings: r.findings, Agents: func(name string) (policy.Agent, bool) {
		a, ok := r.ids.Agent(name)
		return policy.Agent{Name: a.Name, Stage: a.Stage, Owner: a.Owner}, ok
	}})
	r.must(err)
	o.DB, o.Log, o.Watch, o.Identity, o.Connections, o.Policy, o.Locks, o.Findings, o.Now = r.db, r.log, r.watch, r.ids, r.conns, r.policy, r.locks, r.findings, r.now
	r.Service = releases.New(o)
	r.ids.OnDelete(r.BeforeDelete)
	r.must(r.watch.Start(ctx))
	t.Cleanup(r.watch.Stop)
	return r
}

// business registers people, an agent in development, a ledger and a model.
func (r *replica) business() {
	r.t.Helper()
	for _, u := range []identity.User{{Name: "olga", Email: "olga@hanse.example", Role: "owner"}, {Name: "oskar", Email: "oskar@hanse.example", Role: "operator"}} {
		_, err := r.ids.PutUser(ctx, audit.System, why, u)
		r.must(err)
	}
	_, err := r.ids.PutAgent(ctx, audit.System, why, identity.Agent{Name: "payer", Owner: "olga", Backup: "oskar", Stage: identity.Development, Purpose: "pays invoices", BusinessProcess: "accounts payable"})
	r.must(err)
	for _, c := range []connections.Connection{
		{Name: "ledger", Kind: connections.MCP, URL: "https://ledger.example/mcp", Owner: "olga", Auth: connections.AuthNone, Stages: identity.Stages},
		{Name: "openai", Kind: connections.LLM, Dialect: connections.OpenAI, URL: "https://api.openai.example/v1", Owner: "olga", Secret: "model-key", Stages: identity.Stages},
	} {
		_, err := r.conns.Register(ctx, audit.System, why, c)
		r.must(err)
	}
	_, err = r.conns.Refresh(ctx, olga, why, "ledger")
	r.must(err)
	r.grant("models", "openai", "chat.completions", "responses", "embeddings")
	r.grant("invoices", "ledger", "read")
}

func (r *replica) grant(name, connection string, tools ...string) {
	r.t.Helper()
	_, err := r.policy.PutGrant(ctx, oskar, why, policy.Grant{Name: name, Agent: "payer", Connection: connection, Tools: tools})
	r.must(err)
}

// ask asks whether the agent's release includes a call.
func (r *replica) ask(q releases.Question) error {
	q.Agent = "payer"
	if a, ok := r.ids.Agent("payer"); ok {
		q.Stage = a.Stage
	}
	if t, ok := r.conns.Tool(q.Connection, q.Tool); ok {
		q.Digest, q.Effect = cmp.Or(q.Digest, t.Digest), cmp.Or(q.Effect, t.Effect)
	}
	_, err := r.Check(&q)
	return err
}

// spec is a release that passes the gate, but for what missing accepts.
func spec() releases.Spec {
	return releases.Spec{Models: []string{"openai/gpt-5"}, Tests: []policy.Case{{Name: "reads", Agent: "payer", Tool: "ledger/read", Expect: "allow"}}}
}

// missing is what the gate finds missing and lets people accept.
func (r *replica) missing(stage string) (out []string) {
	r.t.Helper()
	rep, err := r.Gate(ctx, "payer", 0, stage, nil)
	r.must(err)
	for _, it := range rep.Items {
		if !it.OK && it.May {
			out = append(out, it.ID)
		}
	}
	return out
}

// called puts a decided call of a run into the log, as the line does, and its end.
func (r *replica) called(run string, kind audit.Type) {
	r.t.Helper()
	ev := audit.Event{Type: kind, Actor: audit.Actor{Kind: audit.KindAgent, Name: "payer"}, Agent: "payer", Run: run, Call: id.New(id.Call), Connection: "ledger", Tool: "read"}
	if kind != audit.CallIntent {
		r.must(second(r.log.Append(ctx, ev)))
		return
	}
	receipt, err := r.log.Intent(ctx, ev)
	r.must(err)
	ev.Type, ev.Outcome = "", &audit.Outcome{Status: r.ends}
	r.log.Outcome(receipt, ev)
}

// until waits for a condition.
func until(t *testing.T, what string, fn func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !fn(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}
