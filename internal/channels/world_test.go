package channels_test

import (
	"context"
	"encoding/base64"
	"encoding/json/v2"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/channels"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/passkeys"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

var ctx = context.Background()

const key = "a-key-of-sixteen-bytes-and-more"

// world is the rooms that a channel needs, with people in them.
type world struct {
	*channels.Service
	t         *testing.T
	db        *storage.DB
	log       *audit.Log
	ids       *identity.Service
	secrets   *secrets.Service
	findings  *findings.Service
	approvals *approvals.Service
	passkeys  *passkeys.Service

	mu  sync.Mutex
	now time.Time
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
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

func each(t *testing.T, fn func(w *world)) {
	t.Helper()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) { fn(build(t, db)) })
}

func build(t *testing.T, db *storage.DB) *world {
	t.Helper()
	w := &world{t: t, db: db, now: time.Now().UTC().Truncate(time.Second)}
	scanner := inspection.New()
	var err error
	w.log, err = audit.Open(ctx, db, audit.Options{Redactor: scanner, Keeper: audittest.Keeper("k")})
	w.must(err)
	t.Cleanup(func() { w.log.Close(ctx) })
	watch := storage.NewWatcher(db, slog.New(slog.DiscardHandler))
	keeper, err := secrets.OpenKeeper(ctx, "base64key://"+base64.URLEncoding.EncodeToString([]byte("0123456789abcdef0123456789abcdef")))
	w.must(err)
	w.secrets, err = secrets.New(db, w.log, watch, keeper, secrets.Options{Matcher: scanner.Known()})
	w.must(err)
	t.Cleanup(func() { w.secrets.Close(ctx) })
	w.findings = findings.New(db, w.log, nil)
	w.ids, err = identity.New(db, w.log, watch, identity.Options{Derive: w.secrets.Derive})
	w.must(err)
	w.passkeys, err = passkeys.New(passkeys.Options{DB: db, Log: w.log, Identity: w.ids, URL: func() string { return "http://countersign.example" }, Now: w.clock})
	w.must(err)
	w.approvals, err = approvals.New(db, w.log, watch, approvals.Options{Identity: w.ids, Findings: w.findings, Derive: w.secrets.Derive, Redactor: scanner, Now: w.clock,
		URL: "http://countersign.example", Passkeys: w.passkeys,
		Template: func(string, string) string { return "{agent} wants to pay {cents|money:EUR} to {to}" },
		Tell:     func(ctx context.Context, tx *audit.Tx, n approvals.News) error { return w.Tell(ctx, tx, n) }})
	w.must(err)
	w.Service, err = channels.New(channels.Options{DB: db, Log: w.log, Watch: watch, Identity: w.ids, Secrets: w.secrets, Findings: w.findings, Approvals: w.approvals,
		Link: w.approvals.Link, Redactor: scanner, Now: w.clock, Attempts: 3, Backoff: func(int) time.Duration { return time.Minute }})
	w.must(err)
	w.must(watch.Start(ctx))
	t.Cleanup(func() { w.Stop(ctx); watch.Stop() })
	for _, u := range []identity.User{{Name: "root", Role: "admin", Email: "root@firm.example"}, {Name: "fiona", Role: "approver", Email: "fiona@firm.example"}, {Name: "carl", Role: "approver"},
		{Name: "olga", Role: "owner", Email: "olga@firm.example"}} {
		_, err := w.ids.PutUser(ctx, audit.System, "test", u)
		w.must(err)
	}
	for name, members := range map[string][]string{"finance": {"fiona", "carl"}, "legal": {"carl"}} {
		_, err = w.ids.PutGroup(ctx, audit.System, "test", identity.Group{Name: name, Members: members})
		w.must(err)
	}
	_, err = w.ids.PutAgent(ctx, audit.System, "test", identity.Agent{Name: "payer", Owner: "olga", Stage: "production"})
	w.must(err)
	return w
}

// add adds a channel and its secrets.
func (w *world) add(name string, spec channels.Spec, values map[string]string) {
	w.t.Helper()
	spec.Owner = "root"
	for secret, value := range values {
		_, err := w.secrets.Put(ctx, audit.System, "test", secrets.Spec{Name: secret, Owner: "root", Connection: channels.Connection(name)}, secrets.NewValue([]byte(value)))
		w.must(err)
	}
	_, err := w.Put(ctx, audit.System, "test", channels.Channel{Name: name, Spec: spec})
	w.must(err)
}

// hold makes a request of the group and returns its id.
func (w *world) hold(args, group string) string {
	w.t.Helper()
	return w.holds(args, approvals.Need{Policy: "four-eyes", Groups: []approvals.Group{{Name: group}}, Quorum: 1, DecideWithin: time.Hour, ExecuteWithin: time.Hour})
}

// holds makes a request that needs n.
func (w *world) holds(args string, n approvals.Need) string {
	w.t.Helper()
	group := n.Groups[0].Name
	a, _ := w.ids.Agent("payer")
	got, err := w.approvals.Hold(ctx, approvals.Held{
		Binding: approvals.Binding{Agent: "payer", AgentID: a.ID, Connection: "ledger", Tool: "pay", Content: approvals.Digest([]byte(args + group))},
		Call:    id.New(id.Call), Run: "run_1", Effect: "irreversible", Reason: "needs approval", Args: []byte(args),
		Needs: []approvals.Need{n},
	})
	w.must(err)
	return got.Request.ID
}

func (w *world) by(name string) approvals.By {
	w.t.Helper()
	u, ok := w.ids.User(name)
	if !ok {
		w.t.Fatalf("no user %s", name)
	}
	return approvals.By{Person: approvals.Person{ID: u.ID, Name: u.Name}, Channel: "api"}
}

// until looks until ok is true.
func (w *world) until(ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatal("it does not become true")
		}
		w.must(w.Look(ctx))
	}
}

// row returns how a channel's deliveries stand.
func (w *world) stand(name, state string) (n int) {
	w.t.Helper()
	c, _ := w.Channel(name)
	w.must(w.db.QueryRow(ctx, `SELECT count(*) FROM channel_deliveries WHERE channel = $1 AND state = $2`, c.ID, state).Scan(&n))
	return n
}

// failed counts the attempts that are known to have failed of a channel's deliveries
// that are tried again, a minute later. One that is under way is due later than that.
func (w *world) failed(name string) (n int) {
	w.t.Helper()
	c, _ := w.Channel(name)
	w.must(w.db.QueryRow(ctx, `SELECT coalesce(sum(attempts), 0) FROM channel_deliveries WHERE channel = $1 AND state = 'waiting' AND error <> '' AND next < $2`, c.ID, storage.Micros(w.clock().Add(70*time.Second))).Scan(&n))
	return n
}

// got is one request that a receiver took.
type got struct {
	path   string
	header http.Header
	body   []byte
}

// receiver is a server on the other side.
type receiver struct {
	*httptest.Server
	mu  sync.Mutex
	got []got
}

func (w *world) receiver(answer func(rw http.ResponseWriter, n int)) *receiver {
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		r.mu.Lock()
		r.got = append(r.got, got{req.URL.Path, req.Header, body})
		n := len(r.got)
		r.mu.Unlock()
		answer(rw, n)
	}))
	w.t.Cleanup(r.Close)
	return r
}

func (r *receiver) all() []got {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]got{}, r.got...)
}

func decode(t *testing.T, b []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
}
