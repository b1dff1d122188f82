package stdio

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/mcp/wire"
	"github.com/countersign/countersign/internal/secrets"
)

// Errors of this package.
var (
	ErrStart   = fault.New(fault.Upstream, "child_start", "the connection's command could not be started; ask its owner")
	ErrDied    = fault.New(fault.Upstream, "child_died", "the MCP server's process ended before it answered")
	ErrBackoff = fault.New(fault.Upstream, "child_restarting", "the MCP server's process keeps ending; it is started again after a pause")
	ErrMany    = fault.New(fault.Limited, "too_many_children", "this agent has too many processes of MCP servers running; those that it does not use end by themselves")
	ErrClosed  = fault.New(fault.Unavailable, "closing", "the server is shutting down")
)

// Injector hands out a secret against a receipt; secrets.Service is one.
type Injector interface {
	Inject(ctx context.Context, r audit.Receipt, u secrets.Use) (secrets.Value, error)
	Stamp(ctx context.Context, r audit.Receipt, u secrets.Use) (stamp string, until time.Time, err error)
}

// Ledger records that a child is started; audit.Log is one.
type Ledger interface {
	Append(ctx context.Context, ev audit.Event, p ...audit.Payload) (audit.Ref, error)
}

// Options are what a Transport is made of. Injector and Ledger must be set.
type Options struct {
	Injector Injector
	Ledger   Ledger
	Redact   func([]byte) []byte // applied to what children write to stderr; nil drops it
	Logger   *slog.Logger
	Now      func() time.Time

	Idle       time.Duration // a child without sessions' calls this long is stopped; 0 means 10 minutes
	Grace      time.Duration // between closing stdin, SIGTERM and SIGKILL; 0 means 2 seconds
	MinBackoff time.Duration // 0 means 100 ms
	MaxBackoff time.Duration // 0 means 30 s
	MaxLine    int           // bytes of one message from a child; 0 means 16 MiB

	MaxChildren int // of one agent at a time, over all connections; 0 means 32
	MaxSessions int // of one agent at a time; the one unused for longest gives way. 0 means 256
}

// maxChildren is how many children one agent may have on one connection.
const maxChildren = 4

// Limits on one agent over all connections, unless Options say else.
const (
	agentChildren = 32
	agentSessions = 256
)

// patience is how long a call waits for a child's pause to end.
const patience = 2 * time.Second

// Transport implements gateway.Transport. It is safe for concurrent use.
type Transport struct {
	o     Options
	spawn *spawner

	mu       sync.Mutex
	children map[key]*child
	sessions map[string]*session
	failures map[failKey]*failure
	closed   bool
	wg       sync.WaitGroup // supervisors of children
}

// key is what makes a child this one and no other.
type key struct {
	conn, agent string
	modern      bool
	spec        string // digest of command, environment and the client's capabilities
	stamp       string // of the credentials in its environment
}

type failKey struct{ conn, agent string }

type failure struct {
	count int
	until time.Time
}

// New returns a Transport. Close stops its children.
func New(o Options) *Transport {
	if o.Injector == nil || o.Ledger == nil {
		panic("stdio: Injector and Ledger must be set")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	for _, d := range []struct {
		at  *time.Duration
		std time.Duration
	}{{&o.Idle, 10 * time.Minute}, {&o.Grace, 2 * time.Second}, {&o.MinBackoff, 100 * time.Millisecond}, {&o.MaxBackoff, 30 * time.Second}} {
		if *d.at == 0 {
			*d.at = d.std
		}
	}
	for _, n := range []struct {
		at  *int
		std int
	}{{&o.MaxLine, 16 << 20}, {&o.MaxChildren, agentChildren}, {&o.MaxSessions, agentSessions}} {
		if *n.at == 0 {
			*n.at = n.std
		}
	}
	return &Transport{o: o, spawn: newSpawner(), children: map[key]*child{}, sessions: map[string]*session{}, failures: map[failKey]*failure{}}
}

// Close stops every child and waits for them.
func (t *Transport) Close() {
	t.mu.Lock()
	t.closed = true
	for _, c := range t.children {
		c.stop()
	}
	t.mu.Unlock()
	t.wg.Wait()
	t.spawn.close()
}

// Send implements gateway.Transport: one HTTP request of Streamable HTTP.
func (t *Transport) Send(ctx context.Context, receipt audit.Receipt, call *gateway.Call, req *http.Request) (*http.Response, error) {
	var body []byte
	if req.Body != nil {
		defer req.Body.Close()
		var err error
		if body, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
	}
	x := &request{t: t, ctx: ctx, receipt: receipt, call: call, req: req}
	if req.Method == http.MethodPost {
		m, err := wire.Scan(body)
		if err != nil {
			return nil, err
		}
		return x.post(m)
	}
	s := t.session(req.Header.Get(wire.HeaderSession), call)
	switch {
	case s == nil:
		return x.respond(http.StatusNotFound, nil), nil
	case req.Method == http.MethodGet:
		return x.listen(s), nil
	case req.Method == http.MethodDelete:
		t.end(s)
		return x.respond(http.StatusNoContent, nil), nil
	}
	return x.respond(http.StatusMethodNotAllowed, nil), nil
}

// session returns a session of the call's agent on its connection.
func (t *Transport) session(id string, call *gateway.Call) *session {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sessions[id]
	if s == nil || s.child.key.conn != call.Connection.Name || s.child.key.agent != call.Who.Agent.ID {
		return nil
	}
	s.used = t.o.Now()
	return s
}

// begin opens a session on c.
func (t *Transport) begin(c *child) *session {
	s := &session{id: rand.Text(), child: c}
	t.mu.Lock()
	s.used = t.o.Now()
	oldest := t.oldest(c.key.agent)
	t.sessions[s.id] = s
	c.users++
	t.mu.Unlock()
	if oldest != nil {
		t.end(oldest)
	}
	return s
}

// oldest returns the session that must give way before an agent may have
// another one: clients that crash leave theirs behind, so that the one unused
// for longest is most likely nobody's. The caller holds the mutex.
func (t *Transport) oldest(agent string) *session {
	var old *session
	n := 0
	for _, s := range t.sessions {
		if s.child.key.agent != agent {
			continue
		}
		if n++; old == nil || s.used.Before(old.used) {
			old = s
		}
	}
	if n < t.o.MaxSessions {
		return nil
	}
	return old
}

func (t *Transport) end(s *session) {
	s.close()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sessions[s.id] != s {
		return
	}
	delete(t.sessions, s.id)
	// A child of our own (discovery) has done its work.
	if s.child.users--; s.child.users == 0 && s.child.key.agent == "" {
		s.child.stop()
	}
}

// child returns the running child for a call, starting it if there is none.
func (x *request) child(modern bool, capabilities []byte) (*child, error) {
	t := x.t
	stamp, until, err := x.stamp()
	if err != nil {
		return nil, err
	}
	k := key{conn: x.call.Connection.Name, agent: x.call.Who.Agent.ID, modern: modern, spec: spec(x.call.Connection, capabilities), stamp: stamp}
	for {
		c, wait, err := t.claim(k)
		if err != nil || (c != nil && !c.starting()) {
			return c, err
		}
		if wait > 0 {
			select {
			case <-x.ctx.Done():
				return nil, context.Cause(x.ctx)
			case <-time.After(wait):
			}
			continue
		}
		if err := x.start(c); err != nil {
			t.failed(c, err)
			return nil, err
		}
		c.lives(until)
		return c, nil
	}
}

// claim returns the child of k: one that runs, or a new one that the caller
// must start, or how long to wait before one may be started.
func (t *Transport) claim(k key) (*child, time.Duration, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, 0, ErrClosed
	}
	if c := t.children[k]; c != nil {
		return c, 0, nil
	}
	siblings, all := 0, 0
	for other, c := range t.children {
		if other.agent == k.agent && k.agent != "" { // our own look at many connections
			if all++; all >= t.o.MaxChildren {
				return nil, 0, ErrMany
			}
		}
		if other.conn != k.conn || other.agent != k.agent {
			continue
		}
		if other.stamp != k.stamp { // its credentials are not good any more
			c.outlived()
			continue
		}
		if siblings++; siblings >= maxChildren {
			return nil, 0, ErrMany
		}
	}
	if f := t.failures[failKey{k.conn, k.agent}]; f != nil {
		if wait := f.until.Sub(t.o.Now()); wait > patience {
			return nil, 0, ErrBackoff
		} else if wait > 0 {
			return nil, wait, nil
		}
	}
	c := newChild(t, k)
	t.children[k] = c
	t.wg.Add(1)
	return c, 0, nil
}

// gone forgets a child that ended.
func (t *Transport) gone(c *child, lived time.Duration) {
	t.mu.Lock()
	if t.children[c.key] == c {
		delete(t.children, c.key)
	}
	var orphans []*session
	for id, s := range t.sessions {
		if s.child == c {
			delete(t.sessions, id)
			orphans = append(orphans, s)
		}
	}
	fk := failKey{c.key.conn, c.key.agent}
	switch f := t.failures[fk]; {
	case c.stopped() || lived > t.o.MaxBackoff:
		delete(t.failures, fk)
	case f == nil:
		t.failures[fk] = &failure{count: 1, until: t.o.Now().Add(t.o.MinBackoff)}
	default:
		pause := t.o.MinBackoff << min(f.count, 20)
		f.count++
		f.until = t.o.Now().Add(min(pause, t.o.MaxBackoff))
	}
	t.mu.Unlock()
	for _, s := range orphans {
		s.close()
	}
}

func (t *Transport) failed(c *child, err error) {
	c.veil.wipe()
	c.fail(err)
	t.gone(c, 0)
	t.wg.Done()
}

// spec is what a child depends on besides whom it serves.
func spec(c connections.Connection, capabilities []byte) string {
	h := sha256.New()
	for _, arg := range c.Command {
		h.Write([]byte(arg + "\x00"))
	}
	for _, kv := range environ(c.Env) {
		h.Write([]byte(kv + "\x01"))
	}
	h.Write(bytes.TrimSpace(capabilities))
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// isCancelled reports whether err is about the caller rather than the child.
func isCancelled(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
