package line

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/llm"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage"
)

// By is who sets things up.
var By = audit.System

// Reason is why.
const Reason = "a test needs it"

// Secret is the value of the secret "provider-key", which every connection
// made by Connect uses.
const Secret = "sk-live-9f3b1c7d5e2a8046-provider" //nolint:gosec // made up

// Options change what is built.
type Options struct {
	Idle    time.Duration
	MaxBody int64
	Read    time.Duration
	Logger  *slog.Logger
	// Releases says what agents' releases include; nil pins nothing.
	Releases gateway.Releases
	As       func(identity.Caller) identity.Caller // changes who a credential stands for; nil: nothing
	// Tune changes what the gateway is made of, with the other rooms open; nil: nothing.
	Tune func(*Line, *gateway.Options)
}

// as is identity with whom callers act for set by a test.
type as struct {
	*identity.Service
	change func(identity.Caller) identity.Caller
}

// Authenticate implements gateway.Authenticator.
func (a as) Authenticate(ctx context.Context, credential string) (identity.Caller, error) {
	c, err := a.Service.Authenticate(ctx, credential)
	if err == nil && a.change != nil {
		c = a.change(c)
	}
	return c, err
}

// Line is a running line.
type Line struct {
	URL         string // of the server
	Key         string // of the agent "invoice-checker", owned by "pat"
	DB          *storage.DB
	Log         *audit.Log
	Watch       *storage.Watcher
	Scanner     *inspection.Scanner
	Identity    *identity.Service
	Connections *connections.Service
	Findings    *findings.Service
	Secrets     *secrets.Service
	Gateway     *gateway.Gateway
	Server      *httptest.Server

	tb    testing.TB
	rules rules
}

// rules is policy without a store: the same Cedar, compiled from text.
type rules struct{ set atomic.Pointer[policy.Set] }

func (r *rules) Decide(q policy.Request) policy.Decision { return r.set.Load().Decide(q) }

func (r *rules) Visible(a policy.Agent, act policy.Action) bool {
	return r.set.Load().Visible(a, act, time.Now())
}

// Provenance reports that no policy asks where values come from.
func (r *rules) Provenance() bool { return false }

// Budget has what is left of budgets looked up for every call, if there are any.
func (r *rules) Budget() bool { return true }

func (r *rules) MayHold(a policy.Agent, act policy.Action) bool { return r.set.Load().MayHold(a, act) }

// Start builds a line on db that stops with the test.
func Start(tb testing.TB, db *storage.DB, o Options) *Line {
	tb.Helper()
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	ctx := context.Background()
	l := &Line{tb: tb, DB: db, Scanner: inspection.New(), Watch: storage.NewWatcher(db, o.Logger)}
	l.buildRooms(ctx, o)
	opts := gateway.Options{
		Authenticator: as{l.Identity, o.As}, Decider: &l.rules, Ledger: l.Log, Injector: l.Secrets, Redactor: l.Scanner, Scanner: l.Scanner,
		Logger: o.Logger, IdleTimeout: o.Idle, Releases: o.Releases,
	}
	if o.Tune != nil {
		o.Tune(l, &opts)
	}
	l.Gateway = gateway.New(opts)
	front := llm.New(llm.Options{Gateway: l.Gateway, Registry: l.Connections, Logger: o.Logger, MaxBody: o.MaxBody, ReadTimeout: o.Read})
	l.Server = httptest.NewServer(front)
	l.URL = l.Server.URL
	tb.Cleanup(l.stop)
	l.Policies("")
	return l
}

func (l *Line) buildRooms(ctx context.Context, o Options) {
	l.tb.Helper()
	keeper, err := secrets.OpenKeeper(ctx, filepath.Join(l.tb.TempDir(), "key"))
	l.must(err)
	l.Log, err = audit.Open(ctx, l.DB, audit.Options{Redactor: l.Scanner, Keeper: keeper, Logger: o.Logger})
	l.must(err)
	l.Secrets, err = secrets.New(l.DB, l.Log, l.Watch, keeper, secrets.Options{Matcher: l.Scanner.Known(), Logger: o.Logger})
	l.must(err)
	l.must(keeper.Close())
	l.Findings = findings.New(l.DB, l.Log, time.Now)
	l.Identity, err = identity.New(l.DB, l.Log, l.Watch, identity.Options{Derive: l.Secrets.Derive, Logger: o.Logger})
	l.must(err)
	l.Connections, err = connections.New(l.DB, l.Log, l.Watch, l.Findings, connections.Options{Redactor: l.Scanner, Logger: o.Logger})
	l.must(err)
	l.must(l.Watch.Start(ctx))
	_, err = l.Identity.PutUser(ctx, By, Reason, identity.User{Name: "pat", Email: "pat@hanse-trade.example", Role: "admin"})
	l.must(err)
	_, err = l.Identity.PutAgent(ctx, By, Reason, identity.Agent{Name: "invoice-checker", Owner: "pat", Stage: identity.Production})
	l.must(err)
	_, l.Key, err = l.Identity.IssueKey(ctx, By, Reason, "invoice-checker", 24*time.Hour)
	l.must(err)
}

// stop ends everything in the order that a server does.
func (l *Line) stop() {
	l.Server.CloseClientConnections()
	l.Server.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := l.Gateway.Close(ctx); err != nil {
		l.tb.Errorf("calls are still under way: %v", err)
	}
	l.Watch.Stop()
	for _, err := range []error{l.Secrets.Close(ctx), l.Log.Close(ctx)} {
		if err != nil {
			l.tb.Error(err)
		}
	}
}

// Connect registers a model connection to base with the secret.
func (l *Line) Connect(name, dialect, base string) connections.Connection {
	l.tb.Helper()
	auth := connections.AuthBearer
	if dialect == connections.Anthropic {
		auth = connections.AuthAPIKey
	}
	return l.Register(connections.Connection{
		Name: name, Kind: connections.LLM, Dialect: dialect, URL: base, Owner: "pat", Secret: "provider-key-" + name, Auth: auth, AllowPrivate: true,
	})
}

// Register registers c, and its secret if it names one, bound to its host.
func (l *Line) Register(c connections.Connection) connections.Connection {
	l.tb.Helper()
	ctx := context.Background()
	_, err := l.Connections.Register(ctx, By, Reason, c)
	l.must(err)
	if c.Secret != "" {
		u, err := url.Parse(c.URL)
		l.must(err)
		spec := secrets.Spec{Name: c.Secret, Owner: "pat", Connection: c.Name, Hosts: []string{u.Host}}
		_, err = l.Secrets.Put(ctx, By, Reason, spec, secrets.NewValue([]byte(Secret)))
		l.must(err)
	}
	l.must(l.Watch.Poll(ctx))
	l.Policies("")
	got, ok := l.Connections.Connection(c.Name)
	if !ok {
		l.tb.Fatalf("connection %s is not there", c.Name)
	}
	return got
}

// Policies replaces all policies by text (Cedar). The tools are those
// registered now.
func (l *Line) Policies(text string) {
	l.tb.Helper()
	var types []policy.ToolType
	for _, t := range l.Connections.ToolTypes() {
		types = append(types, policy.ToolType(t))
	}
	set, problems, err := policy.Compile(map[string]string{"test": text}, nil, types)
	l.must(err)
	if len(problems) > 0 {
		l.tb.Fatalf("policies: %v", problems)
	}
	l.rules.set.Store(set)
}

// AllowAll is a policy that allows everything.
const AllowAll = `@id("all") permit (principal, action, resource);`

// Client returns an HTTP client that sends the agent's key.
func (l *Line) Client() *http.Client { return l.Server.Client() }

// Events waits until the log holds n events of the given types about calls and
// returns them, oldest first. More than n fail the test.
func (l *Line) Events(n int, types ...audit.Type) []audit.Record {
	l.tb.Helper()
	var got []audit.Record
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		got = l.list(types)
		if len(got) >= n {
			break
		}
	}
	if len(got) != n {
		l.tb.Fatalf("the log holds %d events of %v, want %d", len(got), types, n)
	}
	return got
}

func (l *Line) list(types []audit.Type) []audit.Record {
	l.tb.Helper()
	got, err := l.Log.List(context.Background(), audit.Query{Types: types, Oldest: true, Limit: 1000, Payloads: true})
	l.must(err)
	return got
}

func (l *Line) must(err error) {
	l.tb.Helper()
	if err != nil {
		l.tb.Fatal(err)
	}
}
