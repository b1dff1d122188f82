package posture_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/inventory"
	"github.com/countersign/countersign/internal/lifecycle"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/posture"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/internal/tokens"
)

var (
	ctx   = context.Background()
	quiet = slog.New(slog.DiscardHandler)
)

// world is the real rooms on one database, with doors that authenticate as the
// real ones do.
type world struct {
	*posture.Service
	t         *testing.T
	log       *audit.Log
	watch     *storage.Watcher
	scanner   *inspection.Scanner
	ids       *identity.Service
	conns     *connections.Service
	policy    *policy.Service
	secrets   *secrets.Service
	tokens    *tokens.Service
	approvals *approvals.Service
	findings  *findings.Service
	lifecycle *lifecycle.Service

	mu    sync.Mutex
	ahead time.Duration // of the clock of posture
	doors string        // "": as they should be; "open" lets everybody in, "shut" nobody, "gone" does not answer
	seal  string        // what is wrong with the tree
	sent  []posture.Delivery
	leaky []byte // if set, a planted secret is known to nobody who redacts

	db      *storage.DB
	slow    chan struct{} // if set, a door answers when it is closed
	waiting atomic.Bool   // somebody waits for one
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// soon waits until a condition holds.
func (w *world) soon(holds func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatal("it does not come to be")
		}
	}
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.ahead)
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

func derive(label string) []byte {
	sum := sha256.Sum256([]byte("test " + label))
	return sum[:]
}

func build(t *testing.T) *world {
	t.Helper()
	return buildOn(t, storagetest.SQLite(t))
}

func buildOn(t *testing.T, dsn string) *world {
	t.Helper()
	db, err := storage.Open(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	w := &world{t: t, db: db, scanner: inspection.New(), watch: storage.NewWatcher(db, quiet)}
	w.log, err = audit.Open(ctx, db, audit.Options{Redactor: w.scanner, Keeper: audittest.Keeper("k")})
	w.must(err)
	t.Cleanup(func() { w.log.Close(ctx) })
	keys, err := secrets.OpenKeys(ctx, filepath.Join(t.TempDir(), "key"), "")
	w.must(err)
	t.Cleanup(func() { keys.Close() })
	w.secrets, err = secrets.New(db, w.log, w.watch, keys, secrets.Options{Matcher: w.scanner.Known()})
	w.must(err)
	t.Cleanup(func() { w.secrets.Close(ctx) })
	found := findings.New(db, w.log, nil)
	w.findings = found
	stops := locks.New(db, w.log, w.watch, locks.Options{})
	w.ids, err = identity.New(db, w.log, w.watch, identity.Options{Derive: derive, Locks: stops})
	w.must(err)
	w.conns, err = connections.New(db, w.log, w.watch, found, connections.Options{Redactor: w.scanner})
	w.must(err)
	w.policy, err = policy.New(db, w.log, w.watch, toolTypes{w.conns}, policy.Options{Findings: found})
	w.must(err)
	w.tokens, err = tokens.New(db, w.log, w.watch, w.ids, tokens.Options{Derive: derive, Fetcher: nothing{}})
	w.must(err)
	w.must(w.tokens.SetIssuer("http://127.0.0.1:7470"))
	w.ids.SetVerifier(w.tokens)
	w.approvals, err = approvals.New(db, w.log, w.watch, approvals.Options{Identity: w.ids, Findings: found, Derive: derive, Redactor: w.scanner})
	w.must(err)
	w.lifecycle, err = lifecycle.New(lifecycle.Options{DB: db, Log: w.log, Watch: w.watch, Identity: w.ids, Locks: stops, Findings: found, Derive: derive, Doors: w.old(),
		Parts: []lifecycle.Part{{Name: "tokens", End: w.tokens.RetireTx}}})
	w.must(err)
	w.must(w.watch.Start(ctx))
	t.Cleanup(w.watch.Stop)
	w.must(stops.Start(ctx))
	t.Cleanup(func() { stops.Stop(ctx) })
	w.must(w.tokens.Start(ctx))
	t.Cleanup(func() { w.tokens.Stop(ctx) })
	w.Service, err = posture.New(posture.Options{
		DB: db, Log: w.log, Identity: w.ids, Connections: w.conns, Tools: toolTypes{w.conns}, Policy: w.policy, Secrets: w.secrets, Tokens: w.tokens, Locks: stops,
		Approvals: w.approvals, Findings: found, Lifecycle: w.lifecycle, Doors: w, Now: w.clock, Every: -1,
		Inventory: inventory.New(inventory.Options{DB: db, Identity: w.ids, Connections: w.conns, Policy: w.policy, Secrets: w.secrets, Findings: found, Users: w.tokens.SignedIn, Log: w.log, Now: time.Now, Probe: posture.IsProbe, Ignore: func(ev audit.Event) bool { return posture.IsProbe(ev.Agent) }}),
		Sealed: func(context.Context) (posture.Sealing, error) {
			return posture.Sealing{Checkpoint: time.Now(), Problem: w.seal}, nil
		},
		Deliveries: func(context.Context) ([]posture.Delivery, error) { return w.sent, nil },
		Prove:      func(context.Context, string) ([]byte, error) { return nil, errors.New("there is no tree here") },
		Derive:     derive,
		Version:    "test",
		Known: func(b []byte) (out []string) {
			for _, f := range w.scanner.Scan(b) {
				if f.Name != "" {
					out = append(out, f.Name)
				}
			}
			if len(w.leaky) > 1 && bytes.Contains(b, w.leaky) {
				out = append(out, "planted")
			}
			return out
		},
		Plant: func(name string, value []byte) {
			if w.leaky != nil {
				w.leaky = append([]byte{}, value...)
				return
			}
			if w.scanner.Known().Remove(name); value != nil {
				w.scanner.Known().Add(name, value)
			}
		},
	})
	w.must(err)
	return w
}

// Try implements posture.Doors by what decides at the real ones.
func (w *world) Try(ctx context.Context, path, credential string) (int, bool, error) {
	if w.slow != nil {
		w.waiting.Store(true)
		<-w.slow
	}
	switch w.doors {
	case "open":
		return 200, false, nil
	case "shut":
		return 401, true, nil
	case "gone":
		return 0, false, errors.New("no answer at " + path)
	}
	who, err := w.ids.Authenticate(ctx, credential)
	switch {
	case errors.Is(err, locks.ErrLocked):
		return 403, false, nil
	case err != nil || !who.At(path):
		return 401, true, nil
	}
	return 200, false, nil
}

// Ask implements posture.Doors.
func (w *world) Ask(ctx context.Context, d posture.Door, tool connections.Tool, credential string) error {
	if w.doors == "gone" {
		return errors.New("no answer at " + d.Path)
	}
	who, err := w.ids.Authenticate(ctx, credential)
	if err != nil {
		return err
	}
	ev := w.event(who.Agent.Name, d.Connection, tool.Name)
	if w.doors == "open" {
		ev.Call = id.New(id.Call)
		_, err := w.log.Intent(ctx, ev)
		return err
	}
	ev.Type = audit.CallDenied
	_, err = w.log.Append(ctx, ev)
	return err
}

// Exchange implements posture.Doors.
func (w *world) Exchange(ctx context.Context, credential, scope string, paths []string) (string, error) {
	var at []string
	for _, p := range paths {
		at = append(at, w.tokens.Issuer()+p)
	}
	t, err := w.tokens.Exchange(ctx, tokens.Subject{Token: credential}, tokens.Ask{Resources: at, Scope: scope})
	if w.doors == "open" && err != nil { // the issuer gives whatever is asked for
		return "anything", nil
	}
	return t.Token, err
}

// old are the doors as a decommission meets them.
type old struct{ w *world }

func (w *world) old() lifecycle.Doors { return old{w} }

func (o old) Of(identity.Agent) []string { return []string{"/mcp"} }

func (o old) Token(ctx context.Context, key string, paths []string) (string, error) {
	return o.w.Exchange(ctx, key, "", paths)
}

func (o old) Try(ctx context.Context, path, credential string) (int, bool, error) {
	if path == "/oauth2/token" {
		path = "/mcp"
	}
	return o.w.Try(ctx, path, credential)
}

func (w *world) event(agent, connection, tool string) audit.Event {
	a, _ := w.ids.Agent(agent)
	return audit.Event{Actor: audit.Actor{Kind: audit.KindAgent, ID: a.ID, Name: agent}, Agent: agent, Owner: a.Owner, Stage: a.Stage, Connection: connection, Tool: tool, Credential: "key_" + agent}
}

// call is a call that was let out and ended.
func (w *world) call(ev audit.Event, ends bool) {
	w.t.Helper()
	ev.Call = id.New(id.Call)
	r, err := w.log.Intent(ctx, ev)
	w.must(err)
	if !ends {
		return
	}
	w.ends(ev, r, audit.Event{Outcome: &audit.Outcome{Status: audit.Succeeded}})
}

// answered is a call that a model answered.
func (w *world) answered(ev audit.Event, model string) {
	w.t.Helper()
	ev.Call = id.New(id.Call)
	r, err := w.log.Intent(ctx, ev)
	w.must(err)
	w.ends(ev, r, audit.Event{Outcome: &audit.Outcome{Status: audit.Succeeded, Usage: &audit.Usage{Model: model}}})
}

// ends records how a call ended, and waits until it is in the log.
func (w *world) ends(ev audit.Event, r audit.Receipt, how audit.Event) {
	w.t.Helper()
	w.log.Outcome(r, how)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		recs, err := w.log.List(ctx, audit.Query{Call: ev.Call, Types: []audit.Type{audit.CallOutcome}})
		w.must(err)
		if len(recs) == 1 {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatal("the outcome is not recorded")
		}
	}
}

// business registers an owner, an agent with a key, a model with a secret, a
// grant for one tool of it, and makes a call.
func (w *world) business() (tool string) {
	w.t.Helper()
	for _, u := range []identity.User{{Name: "root", Role: "admin"}, {Name: "olga", Role: "owner"}, {Name: "fiona", Role: "approver"}} {
		_, err := w.ids.PutUser(ctx, audit.System, "test", u)
		w.must(err)
	}
	_, err := w.ids.PutGroup(ctx, audit.System, "test", identity.Group{Name: "finance", Members: []string{"fiona"}})
	w.must(err)
	_, err = w.ids.PutAgent(ctx, audit.System, "test", identity.Agent{Name: "payer", Owner: "olga", Stage: "production", Purpose: "pays"})
	w.must(err)
	_, _, err = w.ids.IssueKey(ctx, audit.System, "test", "payer", 0)
	w.must(err)
	for _, name := range []string{"model", "other"} {
		_, err = w.conns.Register(ctx, audit.System, "test", connections.Connection{Name: name, Kind: "llm", Dialect: "openai", URL: "https://model.example", Owner: "olga", Secret: name + "-key"})
		w.must(err)
	}
	_, err = w.secrets.Put(ctx, audit.System, "test", secrets.Spec{Name: "model-key", Owner: "olga", Connection: "model"}, secrets.NewValue([]byte("sk-the-secret-of-the-model-0123456789")))
	w.must(err)
	for _, t := range w.conns.Tools("model") {
		if !t.Protocol() {
			tool = t.Name
			break
		}
	}
	_, err = w.policy.PutGrant(ctx, audit.System, "test", policy.Grant{Name: "payer-model", Agent: "payer", Connection: "model", Tools: []string{tool}, Expires: time.Now().Add(24 * time.Hour)})
	w.must(err)
	w.call(w.event("payer", "model", tool), true)
	w.must(w.watch.Poll(ctx))
	return tool
}

// approved has a call held, approved and executed.
func (w *world) approved(tool, executes string) approvals.Request {
	w.t.Helper()
	a, _ := w.ids.Agent("payer")
	held := approvals.Held{
		Binding: approvals.Binding{Agent: "payer", AgentID: a.ID, Connection: "model", Target: "t", Tool: tool, Definition: "d", Rules: []approvals.Rule{{Name: "four-eyes", Digest: "v1"}}, Content: approvals.Digest([]byte(executes))},
		Call:    id.New(id.Call), Run: "run_1", Effect: "irreversible", Reason: "needs approval", Args: []byte(`{}`),
		Needs: []approvals.Need{{Policy: "four-eyes", Quorum: 1, DecideWithin: time.Hour, ExecuteWithin: time.Hour, Groups: []approvals.Group{{Name: "finance"}}}},
	}
	first, err := w.approvals.Hold(ctx, held)
	w.must(err)
	u, _ := w.ids.User("fiona")
	_, err = w.approvals.Decide(ctx, approvals.By{Person: approvals.Person{ID: u.ID, Name: u.Name}, Channel: "api", Credential: "tok_1"}, first.Request.ID, approvals.Approve, "fine")
	w.must(err)
	held.Call = id.New(id.Call)
	again, err := w.approvals.Hold(ctx, held)
	w.must(err)
	if again.Permit == nil {
		w.t.Fatalf("an approved call got no permit: %+v", again)
	}
	ev := w.event("payer", "model", executes)
	ev.Call = held.Call
	_, err = w.log.Intent(ctx, ev)
	w.must(err)
	again.Permit.Settle(ctx, audit.Succeeded, nil)
	again.Permit.Done()
	return first.Request
}
