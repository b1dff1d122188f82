package reviews_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/reviews"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/internal/tokens"
)

var (
	ctx   = context.Background()
	quiet = slog.New(slog.DiscardHandler)
)

const day = 24 * time.Hour

// world is the real rooms on one database, with doors that authenticate and
// decide as the real ones do.
type world struct {
	*reviews.Service
	t        *testing.T
	db       *storage.DB
	log      *audit.Log
	watch    *storage.Watcher
	ids      *identity.Service
	conns    *connections.Service
	policy   *policy.Service
	secrets  *secrets.Service
	tokens   *tokens.Service
	locks    *locks.Service
	asks     *approvals.Service
	findings *findings.Service
	lease    *job.Lease

	mu    sync.Mutex
	ahead time.Duration
	doors string       // "": as they should be; "open" lets everything out, "gone" does not answer
	says  *audit.Event // what the log has of a call, with status, if that is not 0
	told  []reviews.Notice
	used  map[string]reviews.Use

	status int

	presented, refusals []string // at the token service
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.ahead)
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ahead += d
}

type toolTypes struct{ *connections.Service }

func (t toolTypes) ToolTypes() []policy.ToolType {
	var out []policy.ToolType
	for _, x := range t.Service.ToolTypes() {
		out = append(out, policy.ToolType(x))
	}
	return out
}

type nothing struct{}

func (nothing) Fetch(context.Context, string, tokens.Fetch) ([]byte, error) {
	return nil, errors.New("there is no network here")
}

func derive(label string) []byte { sum := sha256.Sum256([]byte("test " + label)); return sum[:] }

// Ask implements reviews.Doors by what decides at the real ones.
func (w *world) Ask(ctx context.Context, connection, tool, credential string) (int, error) {
	if w.doors == "gone" {
		return 0, errors.New("no answer")
	}
	who, err := w.ids.Authenticate(ctx, credential)
	if err != nil {
		return 401, nil
	}
	ev := audit.Event{Actor: who.Agent.Actor(), Agent: who.Agent.Name, Connection: connection, Tool: tool, Credential: who.Credential.ID, Call: id.New(id.Call)}
	if w.status != 0 {
		if w.says == nil {
			return w.status, nil
		}
		ev.Type, ev.Detail = w.says.Type, w.says.Detail
		if w.says.Credential != "" {
			ev.Credential = w.says.Credential
		}
		_, err := w.log.Append(ctx, ev)
		return w.status, err
	}
	a, c := who.Agent, connection
	t, _ := w.conns.Tool(c, tool)
	locked := w.locks.Check(locks.Subject{Connection: connection})
	d := w.policy.Decide(policy.Request{Agent: policy.Agent{Name: a.Name, Team: a.Team, Stage: a.Stage, Owner: a.Owner}, Action: policy.Action{Connection: c, Tool: tool, Effect: t.Effect, Kind: connections.LLM}, Args: []byte(`{}`)})
	if w.doors == "open" || locked == nil && d.Effect == policy.Allow {
		_, err := w.log.Intent(ctx, ev)
		return 200, err
	}
	ev.Type, ev.Decision = audit.CallDenied, &audit.Decision{Effect: "deny", Reason: d.Reason}
	_, err = w.log.Append(ctx, ev)
	return 403, err
}

// Present implements reviews.Doors by the token service itself.
func (w *world) Present(ctx context.Context, token, agent, credential string) (int, error) {
	w.presented = append(w.presented, token)
	switch {
	case w.doors == "gone":
		return 0, errors.New("no answer")
	case w.doors == "open":
		return 200, nil
	}
	var err error
	if credential != "" {
		_, err = w.tokens.Exchange(ctx, tokens.Subject{Token: token, Type: tokens.TypeID, Agent: agent, Actor: credential}, tokens.Ask{})
	} else {
		_, err = w.tokens.Federate(ctx, token, agent, tokens.Ask{})
	}
	w.refusals = append(w.refusals, fmt.Sprint(err))
	return fault.KindOf(err).Status(), nil
}

// build opens the rooms: dan gives ada's agent payer two grants, bob is its
// backup, fin is of the group finance, root the only administrator.
func build(t *testing.T, dsn string) *world {
	t.Helper()
	db := storagetest.Open(t, dsn)
	w := &world{t: t, db: db, watch: storage.NewWatcher(db, quiet), used: map[string]reviews.Use{}}
	scanner := inspection.New()
	var err error
	w.log, err = audit.Open(ctx, db, audit.Options{Redactor: scanner, Keeper: audittest.Keeper("k")})
	w.must(err)
	t.Cleanup(func() { w.log.Close(ctx) })
	keys, err := secrets.OpenKeys(ctx, filepath.Join(t.TempDir(), "key"), "")
	w.must(err)
	t.Cleanup(func() { keys.Close() })
	w.secrets, err = secrets.New(db, w.log, w.watch, keys, secrets.Options{Matcher: scanner.Known()})
	w.must(err)
	t.Cleanup(func() { w.secrets.Close(ctx) })
	w.findings = findings.New(db, w.log, nil)
	w.locks = locks.New(db, w.log, w.watch, locks.Options{})
	w.ids, err = identity.New(db, w.log, w.watch, identity.Options{Derive: derive, Locks: w.locks})
	w.must(err)
	w.conns, err = connections.New(db, w.log, w.watch, w.findings, connections.Options{Redactor: scanner})
	w.must(err)
	w.policy, err = policy.New(db, w.log, w.watch, toolTypes{w.conns}, policy.Options{Findings: w.findings, All: w.agents})
	w.must(err)
	w.tokens, err = tokens.New(db, w.log, w.watch, w.ids, tokens.Options{Derive: derive, Fetcher: nothing{}})
	w.must(err)
	w.asks, err = approvals.New(db, w.log, w.watch, approvals.Options{Identity: w.ids, Findings: w.findings, Derive: derive, Redactor: scanner,
		Stale: func(b approvals.Binding) string { why, _ := w.Stale(b); return why }})
	w.must(err)
	w.Service = w.process()
	w.must(w.watch.Start(ctx)) // when every room has its view
	t.Cleanup(w.watch.Stop)
	w.must(w.locks.Start(ctx))
	t.Cleanup(func() { w.locks.Stop(ctx) })
	w.lease = w.NewLease()
	w.settle()
	return w
}

// agents are the registered ones, as policy knows them.
func (w *world) agents() (out []policy.Agent) {
	for _, a := range w.ids.Agents() {
		out = append(out, policy.Agent{Name: a.Name, Team: a.Team, Stage: a.Stage, Owner: a.Owner})
	}
	return out
}

// process is the room as another process has it.
func (w *world) process() *reviews.Service {
	w.t.Helper()
	s, err := reviews.New(reviews.Options{DB: w.db, Log: w.log, Watch: w.watch, Identity: w.ids, Policy: w.policy, Connections: w.conns, Secrets: w.secrets, Tokens: w.tokens, Locks: w.locks,
		Findings: w.findings, Approvals: w.asks, Doors: w, Now: w.clock,
		Uses: func(context.Context) (map[string]reviews.Use, error) { return w.used, nil },
		Tell: func(_ context.Context, _ *audit.Tx, n reviews.Notice) error { w.told = append(w.told, n); return nil }})
	w.must(err)
	return s
}

func (w *world) settle() {
	w.t.Helper()
	for name, role := range map[string]string{"root": "admin", "dan": "operator", "ada": "owner", "bob": "owner", "fin": "approver", "vic": "viewer"} {
		_, err := w.ids.PutUser(ctx, audit.System, "test", identity.User{Name: name, Role: role})
		w.must(err)
	}
	_, err := w.ids.PutGroup(ctx, audit.System, "test", identity.Group{Name: "finance", Members: []string{"ada", "fin"}})
	w.must(err)
	_, err = w.ids.PutAgent(ctx, audit.System, "test", identity.Agent{Name: "payer", Owner: "ada", Backup: "bob", Stage: "production", Purpose: "pays"})
	w.must(err)
	_, err = w.conns.Register(ctx, audit.System, "test", connections.Connection{Name: "model", Kind: "llm", Dialect: "openai", URL: "https://model.example", Owner: "bob", Secret: "model-key"})
	w.must(err)
	_, err = w.secrets.Put(ctx, audit.System, "test", secrets.Spec{Name: "model-key", Owner: "bob", Connection: "model"}, secrets.NewValue([]byte("sk-the-secret-of-the-model-0123456789")))
	w.must(err)
	w.grant("dan", "one", "chat.completions")
	w.grant("dan", "two", "embeddings")
}

func (w *world) user(name string) rest.Caller {
	w.t.Helper()
	u, ok := w.ids.User(name)
	if !ok {
		w.t.Fatalf("no user %q", name)
	}
	return rest.Caller{ID: u.ID, Name: u.Name, Role: u.Role}
}

func (w *world) person(name string) audit.Actor {
	c := w.user(name)
	return audit.Person(c.ID, c.Name)
}

func (w *world) grant(by, name, tool string) {
	w.t.Helper()
	_, err := w.policy.PutGrant(ctx, w.person(by), "test", policy.Grant{Name: name, Agent: "payer", Connection: "model", Tools: []string{tool}})
	w.must(err)
}

func (w *world) begin(rules reviews.Rules, names ...string) reviews.Review {
	w.t.Helper()
	r, err := w.Begin(ctx, w.person("dan"), "quarterly", reviews.Review{Name: "q" + id.New("x")[20:], Scope: reviews.Scope{Names: names}, Rules: rules})
	w.must(err)
	return r
}

func (w *world) tick() {
	w.t.Helper()
	w.must(w.watch.Poll(ctx))
	w.must(w.Tick(ctx, w.lease))
}

func (w *world) decide(who, review string, n int, decision, reason string) (reviews.Item, error) {
	return w.Decide(ctx, w.user(who), review, n, reviews.Answer{Decision: decision, Reason: reason})
}

func (w *world) get(review string) reviews.Review {
	w.t.Helper()
	r, err := w.Get(ctx, review)
	w.must(err)
	return r
}

func (w *world) open(rule string) []findings.Finding {
	w.t.Helper()
	all, err := w.findings.List(ctx, findings.Query{Rule: rule, Status: findings.Open})
	w.must(err)
	return all
}

func (w *world) has(grant string) bool {
	w.t.Helper()
	_, err := w.policy.Grant(ctx, grant)
	if err != nil && !errors.Is(err, policy.ErrNoGrant) {
		w.t.Fatal(err)
	}
	return err == nil
}

func (w *world) disable(name string) {
	w.t.Helper()
	u, _ := w.ids.User(name)
	u.Disabled = true
	_, err := w.ids.PutUser(ctx, w.person("root"), "left", u)
	w.must(err)
}
