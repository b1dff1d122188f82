package approvals_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

var ctx = context.Background()

const wellAfter = time.Minute // of the clock of the room: what the log has recorded in the time of the machine came before

// wait waits until ok is true.
func wait(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not become true")
		}
	}
}

// clean redacts one word, so that tests see that something was redacted.
type clean struct{}

func (clean) Redact(b []byte) []byte {
	return bytes.ReplaceAll(b, []byte("hunter2"), []byte("[redacted:known]"))
}

// world is a room on a database, with people in it. other is a second replica.
type world struct {
	*approvals.Service
	t        *testing.T
	db       *storage.DB
	log      *audit.Log
	ids      *identity.Service
	findings *findings.Service
	watch    *storage.Watcher

	mu    sync.Mutex
	now   time.Time
	stale string
	tmpl  string
	looks func() // runs whenever the room looks at its clock
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	now, looks := w.now, w.looks
	w.mu.Unlock()
	if looks != nil {
		looks()
	}
	return now
}

// atLook runs fn, once, when the room looks at its clock for the nth time from
// now: in the middle of what it does then.
func (w *world) atLook(n int, fn func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looks = func() {
		w.mu.Lock()
		n--
		now := n == 0
		w.mu.Unlock()
		if now {
			fn()
		}
	}
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	w.now = w.now.Add(d)
	w.mu.Unlock()
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func derive(label string) []byte {
	sum := sha256.Sum256([]byte("test " + label))
	return sum[:]
}

func each(t *testing.T, fn func(w *world)) {
	t.Helper()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) { fn(build(t, db)) })
}

func build(t *testing.T, db *storage.DB) *world {
	w := &world{t: t, db: db, now: time.Now().UTC().Truncate(time.Microsecond)}
	log, err := audit.Open(ctx, db, audit.Options{Redactor: clean{}, Keeper: audittest.Keeper("k")})
	w.must(err)
	t.Cleanup(func() { log.Close(ctx) })
	w.log = log
	w.watch = storage.NewWatcher(db, quiet)
	w.findings = findings.New(db, log, nil)
	w.ids, err = identity.New(db, log, w.watch, identity.Options{Derive: derive})
	w.must(err)
	w.Service = w.room(approvals.Options{})
	w.must(w.watch.Start(ctx))
	t.Cleanup(w.watch.Stop)
	for _, u := range []identity.User{{Name: "root", Role: "admin"}, {Name: "fiona", Role: "approver"}, {Name: "carl", Role: "approver"}, {Name: "dora", Role: "approver"},
		{Name: "olga", Role: "owner"}, {Name: "lee", Role: "approver"}, {Name: "sam", Role: "viewer"}} {
		_, err := w.ids.PutUser(ctx, audit.System, "test", u)
		w.must(err)
	}
	w.team("finance", "fiona", "carl", "olga")
	w.team("legal", "lee", "carl")
	w.team("board", "dora")
	_, err = w.ids.PutAgent(ctx, audit.System, "test", identity.Agent{Name: "payer", Owner: "olga", Stage: "production", Purpose: "pays", BusinessProcess: "payables"})
	w.must(err)
	return w
}

// room is another replica's room on the same world.
func (w *world) room(o approvals.Options) *approvals.Service { return w.roomOn(w.watch, o) }

// roomOn is one that sees identities by its own watcher.
func (w *world) roomOn(watch *storage.Watcher, o approvals.Options) *approvals.Service {
	o.Identity, o.Findings, o.Derive, o.Redactor, o.Now = w.ids, w.findings, derive, clean{}, w.clock
	o.URL = "http://countersign.example"
	o.Stale = func(approvals.Binding) string {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.stale
	}
	o.Template = func(string, string) string {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.tmpl
	}
	o.Policy = func(id string) string { return "forbid (" + id + ");" }
	s, err := approvals.New(w.db, w.log, watch, o)
	w.must(err)
	return s
}

func (w *world) team(name string, members ...string) {
	w.t.Helper()
	_, err := w.ids.PutGroup(ctx, audit.System, "test", identity.Group{Name: name, Members: members})
	w.must(err)
}

func (w *world) disable(name string) {
	w.t.Helper()
	u, _ := w.ids.User(name)
	u.Disabled = true
	_, err := w.ids.PutUser(ctx, audit.System, "test", u)
	w.must(err)
}

// held is a call that needs need, with content as its bytes.
func (w *world) held(content string, needs ...approvals.Need) approvals.Held {
	if len(needs) == 0 {
		needs = []approvals.Need{need("four-eyes", 1, "finance")}
	}
	a, _ := w.ids.Agent("payer")
	return approvals.Held{
		Binding: approvals.Binding{Agent: "payer", AgentID: a.ID, Connection: "ledger", Target: "t", Tool: "pay", Definition: "d", Rules: []approvals.Rule{{Name: "four-eyes", Digest: "v1"}}, Content: approvals.Digest([]byte(content))},
		Call:    id.New(id.Call), Run: "run_1", Effect: "irreversible", Needs: needs, Reason: "needs approval", Args: []byte(content),
	}
}

func need(policy string, quorum int, groups ...string) approvals.Need {
	n := approvals.Need{Policy: policy, Quorum: quorum, DecideWithin: 4 * time.Hour, ExecuteWithin: 15 * time.Minute, Advice: "look twice"}
	for _, g := range groups {
		n.Groups = append(n.Groups, approvals.Group{Name: g})
	}
	return n
}

func (w *world) hold(h approvals.Held) approvals.Answer {
	w.t.Helper()
	a, err := w.Hold(ctx, h)
	w.must(err)
	return a
}

func (w *world) by(name string) approvals.By {
	w.t.Helper()
	u, ok := w.ids.User(name)
	if !ok {
		w.t.Fatalf("no user %s", name)
	}
	return approvals.By{Person: approvals.Person{ID: u.ID, Name: u.Name}, Channel: "api", Credential: "tok_1"}
}

func (w *world) approve(name, id string) approvals.Request {
	w.t.Helper()
	r, err := w.Decide(ctx, w.by(name), id, approvals.Approve, "fine")
	w.must(err)
	return r
}

func (w *world) state(id string) approvals.State {
	w.t.Helper()
	r, err := w.Get(ctx, id)
	w.must(err)
	return r.State
}

// events returns what the log says of a request, oldest first.
func (w *world) events(id string) []string {
	w.t.Helper()
	recs, err := w.log.List(ctx, audit.Query{Limit: 1000, Oldest: true})
	w.must(err)
	var out []string
	for _, r := range recs {
		if r.Event.Object == "approval/"+id {
			out = append(out, string(r.Event.Type))
		}
	}
	return out
}
