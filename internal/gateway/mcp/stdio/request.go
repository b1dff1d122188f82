package stdio

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/mcp/wire"
)

// subscriptionID in _meta names the subscriptions/listen request that a
// notification belongs to (2026-07-28).
const subscriptionID = "io.modelcontextprotocol/subscriptionId"

// maxQueue is how many messages wait for a reader; a listener that falls behind
// loses its stream, a request its answer.
const maxQueue = 1024

// request is one HTTP request made of a child.
type request struct {
	t       *Transport
	ctx     context.Context
	receipt audit.Receipt
	call    *gateway.Call
	req     *http.Request
}

// post handles one message from the client.
func (x *request) post(m wire.Message) (*http.Response, error) {
	if wire.IsModern(x.req.Header, m) {
		c, err := x.child(true, nil)
		if err != nil {
			return nil, err
		}
		if m.Kind == wire.Request {
			return x.ask(c, nil, m)
		}
		return x.tell(c, nil, m)
	}
	if m.Method == "initialize" && m.Kind == wire.Request {
		return x.initialize(m)
	}
	s := x.t.session(x.req.Header.Get(wire.HeaderSession), x.call)
	if s == nil {
		return x.respond(http.StatusNotFound, nil), nil
	}
	switch stale, err := x.stale(s); {
	case err != nil:
		return nil, err
	case stale:
		x.t.end(s)
		return x.respond(http.StatusNotFound, nil), nil
	}
	if m.Kind == wire.Request {
		return x.ask(s.child, s, m)
	}
	return x.tell(s.child, s, m)
}

// initialize begins a session. The child is initialised once, by the first
// session; later ones with the same capabilities get the same answer.
func (x *request) initialize(m wire.Message) (*http.Response, error) {
	c, err := x.child(false, wire.Find(m.Raw, m.Params, "capabilities").Of(m.Raw))
	if err != nil {
		return nil, err
	}
	for {
		c.mu.Lock()
		hello, greeting := c.hello, c.greeting
		if hello == nil && greeting == nil {
			c.greeting = make(chan struct{})
		}
		c.mu.Unlock()
		switch {
		case hello != nil:
			return x.greet(c, m, hello)
		case greeting == nil:
			return x.first(c, m)
		}
		select {
		case <-greeting:
		case <-c.dead:
			return nil, ErrDied
		case <-x.ctx.Done():
			return nil, context.Cause(x.ctx)
		}
	}
}

// first passes initialize to the child and remembers its result.
func (x *request) first(c *child, m wire.Message) (*http.Response, error) {
	defer func() {
		c.mu.Lock()
		close(c.greeting)
		c.greeting = nil
		c.mu.Unlock()
	}()
	p, err := x.begin(c, nil, m)
	if err != nil {
		return nil, err
	}
	var b []byte
	for last := false; !last; { // what a server says before it greeted is for nobody
		if b, last, err = p.first(x.ctx); err != nil {
			c.forget(p)
			return nil, err
		}
	}
	result := wire.Find(b, wire.Whole(b), "result")
	if !result.Present() {
		return x.respond(http.StatusOK, b), nil
	}
	c.mu.Lock()
	c.hello = result.Of(b)
	c.mu.Unlock()
	return x.greet(c, m, result.Of(b))
}

func (x *request) greet(c *child, m wire.Message, hello []byte) (*http.Response, error) {
	s := x.t.begin(c)
	resp := x.respond(http.StatusOK, wire.AppendResult(nil, m.ID.Of(m.Raw), hello))
	resp.Header.Set(wire.HeaderSession, s.id)
	return resp, nil
}

// tell passes on a message that has no answer.
func (x *request) tell(c *child, s *session, m wire.Message) (*http.Response, error) {
	raw, pass := m.Raw, true
	c.mu.Lock()
	switch {
	case m.Kind == wire.Response:
		id := string(m.ID.Of(m.Raw))
		asked, open := c.asked[id]
		pass = open && asked == s
		if pass {
			delete(c.asked, id)
		}
	case m.Method == "notifications/initialized":
		pass = !c.greeted
		c.greeted = true
	case m.Method == "notifications/cancelled":
		if pass = s != nil; pass { // in the modern era a client closes its stream instead
			raw, pass = c.cancelled(s, m)
		}
	}
	c.mu.Unlock()
	if pass {
		if err := c.write(x.ctx, raw); err != nil {
			return nil, err
		}
	}
	return x.respond(http.StatusAccepted, nil), nil
}

// cancelled translates the id of the request to cancel; false if it is not one
// of this session's. The caller holds the mutex.
func (c *child) cancelled(s *session, m wire.Message) ([]byte, bool) {
	at := wire.Find(m.Raw, m.Params, "requestId")
	for n, p := range c.waiting {
		if at.Present() && p.session == s && bytes.Equal(p.id, at.Of(m.Raw)) {
			return wire.Splice(m.Raw, wire.Edit{At: at, With: strconv.AppendInt(nil, n, 10)}), true
		}
	}
	return nil, false
}

// begin passes on a request under an id of ours.
func (x *request) begin(c *child, s *session, m wire.Message) (*pending, error) {
	p := &pending{queue: newQueue(), session: s, id: bytes.Clone(m.ID.Of(m.Raw))}
	edits := []wire.Edit{{At: m.ID}}
	if token := wire.Find(m.Raw, m.Meta, "progressToken"); token.Present() {
		p.token = bytes.Clone(token.Of(m.Raw))
		edits = append(edits, wire.Edit{At: token})
	}
	number, err := c.reserve(p)
	if err != nil {
		return nil, err
	}
	for i := range edits {
		edits[i].With = strconv.AppendInt(nil, number, 10)
	}
	if err := c.write(x.ctx, wire.Splice(m.Raw, edits...)); err != nil {
		c.forget(p)
		return nil, err
	}
	return p, nil
}

// ask passes on a request and returns the answer as it comes: as JSON if
// nothing precedes it, else as a stream.
func (x *request) ask(c *child, s *session, m wire.Message) (*http.Response, error) {
	p, err := x.begin(c, s, m)
	if err != nil {
		return nil, err
	}
	first, ended, err := p.first(x.ctx)
	switch {
	case err != nil:
		if isCancelled(err) || x.ctx.Err() != nil {
			c.forget(p)
		}
		return nil, err
	case ended:
		return x.respond(http.StatusOK, first), nil
	}
	return x.stream(&stream{queue: p.queue, ctx: x.ctx, out: wire.AppendEvent(nil, "", first), leave: func() { c.forget(p) }}), nil
}

// listen opens a session's stream; an older one of it ends.
func (x *request) listen(s *session) *http.Response {
	q := s.listen()
	return x.stream(&stream{queue: q, ctx: x.ctx, leave: func() { s.leave(q) }})
}

func (x *request) respond(status int, body []byte) *http.Response {
	h := http.Header{}
	if len(body) > 0 {
		h.Set("Content-Type", "application/json")
	}
	return &http.Response{
		Status: http.StatusText(status), StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: h, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)), Request: x.req,
	}
}

func (x *request) stream(s *stream) *http.Response {
	return &http.Response{
		Status: "OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"text/event-stream"}, "Cache-Control": {"no-cache, no-transform"}},
		Body:   s, ContentLength: -1, Request: x.req,
	}
}

// pending is a request whose answer the child owes.
type pending struct {
	*queue
	child   *child
	session *session // nil in the modern era
	number  int64
	id      []byte // as the client sent it
	token   []byte // progress token as the client sent it; nil if none
}

// session is one client's session with a child.
type session struct {
	id    string
	child *child
	used  time.Time // under the transport's mutex

	mu     sync.Mutex
	stream *queue // of a GET, if one is open
	closed bool
}

func (s *session) listen() *queue {
	q := newQueue()
	s.mu.Lock()
	old, closed := s.stream, s.closed
	s.stream = q
	s.mu.Unlock()
	if old != nil {
		old.end(nil)
	}
	if closed {
		q.end(nil)
		return q
	}
	c := s.child
	c.mu.Lock()
	defer c.mu.Unlock()
	if old == nil {
		c.open = append(c.open, s)
	}
	return q
}

func (s *session) leave(q *queue) {
	s.mu.Lock()
	current := s.stream == q
	if current {
		s.stream = nil
	}
	s.mu.Unlock()
	if current {
		s.child.unlisten(s)
	}
}

func (c *child) unlisten(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, o := range c.open {
		if o == s {
			c.open = append(c.open[:i:i], c.open[i+1:]...)
			return
		}
	}
}

func (s *session) push(message []byte) {
	s.mu.Lock()
	q := s.stream
	s.mu.Unlock()
	if q != nil {
		q.push(message)
	}
}

func (s *session) close() {
	s.mu.Lock()
	q := s.stream
	s.stream, s.closed = nil, true
	s.mu.Unlock()
	if q != nil {
		q.end(nil)
	}
	s.child.unlisten(s)
}

// queue holds messages until they are read.
type queue struct {
	mu    sync.Mutex
	items [][]byte
	ended bool
	err   error
	wake  chan struct{} // holds one token when there is something to see
}

var errBehind = errors.New("the client does not keep up")

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

func (q *queue) push(message []byte) {
	q.mu.Lock()
	if !q.ended {
		if q.items = append(q.items, bytes.Clone(message)); len(q.items) > maxQueue {
			q.items, q.ended, q.err = nil, true, errBehind
		}
	}
	q.mu.Unlock()
	q.signal()
}

func (q *queue) end(err error) {
	q.mu.Lock()
	if !q.ended {
		q.ended, q.err = true, err
	}
	q.mu.Unlock()
	q.signal()
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take returns the next message; last says that it is the last one. At the end
// it returns io.EOF or why the queue ended.
func (q *queue) take(ctx context.Context) (message []byte, last bool, err error) {
	for {
		q.mu.Lock()
		if len(q.items) > 0 {
			message, q.items = q.items[0], q.items[1:]
			last = q.ended && len(q.items) == 0 && q.err == nil
			q.mu.Unlock()
			return message, last, nil
		}
		ended, err := q.ended, q.err
		q.mu.Unlock()
		if ended {
			if err == nil {
				err = io.EOF
			}
			return nil, false, err
		}
		select {
		case <-q.wake:
		case <-ctx.Done():
			return nil, false, context.Cause(ctx)
		}
	}
}

// first waits for the first message of an answer. Its end may come a moment
// after it, so a lone message that is a response counts as the last.
func (p *pending) first(ctx context.Context) (message []byte, last bool, err error) {
	message, last, err = p.take(ctx)
	if err != nil || last {
		return message, last, err
	}
	if wire.Find(message, wire.Whole(message), "method").Present() {
		return message, false, nil
	}
	return message, true, nil
}

// stream is a queue as a body of server-sent events.
type stream struct {
	queue *queue
	ctx   context.Context
	out   []byte
	leave func()
	once  sync.Once
}

func (s *stream) Read(b []byte) (int, error) {
	if len(s.out) == 0 {
		message, _, err := s.queue.take(s.ctx)
		if err != nil {
			return 0, err
		}
		s.out = wire.AppendEvent(nil, "", message)
	}
	n := copy(b, s.out)
	s.out = s.out[n:]
	return n, nil
}

func (s *stream) Close() error {
	s.once.Do(s.leave)
	return nil
}
