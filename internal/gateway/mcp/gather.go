package mcp

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/mcp/wire"
	"github.com/countersign/countersign/internal/identity"
)

// maxGathered is how many streams of the aggregated endpoint one agent may have
// open at a time; each stands for one at every upstream.
const maxGathered = 16

// ErrStreams refuses a stream too many.
var ErrStreams = fault.New(fault.Limited, "too_many_streams", "this agent has too many streams of /mcp open; close those that it does not need")

// changes are the notifications that a client of the newer era asks for, by
// the member of its request that does.
var changes = map[string]string{
	"toolsListChanged":     "notifications/tools/list_changed",
	"promptsListChanged":   "notifications/prompts/list_changed",
	"resourcesListChanged": "notifications/resources/list_changed",
}

const (
	acknowledged    = "notifications/subscriptions/acknowledged"
	resourceUpdated = "notifications/resources/updated"
	subscription    = "io.modelcontextprotocol/subscriptionId"
)

// gathered is what a client of the aggregated endpoint hears outside of
// answers: the streams of all connections that it may use, as one. Events lose
// their ids, so nothing is resumed: what passed while a client was away, it
// finds in the lists. A stream that an upstream ends is opened again after a
// pause; an upstream without one is silent.
type gathered struct {
	a      *aggregate
	ctx    context.Context
	cancel context.CancelFunc
	id     []byte            // of the newer era's request, nil in the older one
	wants  map[string]bool   // the newer era's: notifications asked for
	uris   map[string]string // and resources: connection

	mu sync.Mutex // one event at a time
}

// get is the older era's stream of a session.
func (a *aggregate) get() error {
	x := a.x
	if a.r.Header.Get(wire.HeaderVersion) >= wire.Modern {
		return ErrMethod
	}
	if _, stream := accepts(a.r.Header); !stream {
		x.status = http.StatusNotAcceptable
		return ErrAccept
	}
	if a.r.Header.Get(wire.HeaderSession) == "" {
		return ErrSession
	}
	if err := a.open(); err != nil {
		return err
	}
	return a.gather(&gathered{a: a}, nil)
}

// listen is the newer era's stream: what the client asked for and may hear.
func (a *aggregate) listen() error {
	g := &gathered{a: a, id: a.x.id(), wants: map[string]bool{}, uris: map[string]string{}}
	b := a.x.msg.Raw
	asked := wire.Find(b, a.x.msg.Params, "notifications")
	var honoured []string
	for _, name := range []string{"toolsListChanged", "promptsListChanged", "resourcesListChanged"} {
		if string(wire.Find(b, asked, name).Of(b)) == "true" {
			g.wants[changes[name]] = true
			honoured = append(honoured, strconv.Quote(name)+":true")
		}
	}
	var uris []string
	for _, item := range wire.Items(b, wire.Find(b, asked, "resourceSubscriptions")) {
		uri, _ := wire.Text(b, item)
		if conn := a.mayWatch(uri, item.Of(b)); conn != "" {
			g.uris[uri] = conn
			uris = append(uris, string(item.Of(b)))
		}
	}
	if len(uris) > 0 {
		g.wants[resourceUpdated] = true
		honoured = append(honoured, `"resourceSubscriptions":[`+strings.Join(uris, ",")+"]")
	}
	ack := fmt.Appendf(nil, `{"jsonrpc":"2.0","method":%q,"params":{"notifications":{%s},"_meta":{%q:%s}}}`, acknowledged, strings.Join(honoured, ","), subscription, g.id)
	return a.gather(g, ack)
}

// mayWatch returns the connection of a resource that the agent may read and
// whose server can tell of changes, or nothing: then it is not honoured.
func (a *aggregate) mayWatch(uri string, raw []byte) string {
	name, known := a.f.peers.owner(a.who.Agent.ID, uri)
	if !known || name == several || !a.serves(name) {
		return ""
	}
	c, _ := a.f.o.Registry.Connection(name)
	if !a.f.may(a.who, c, "mcp:resources/read", object("uri", raw)) {
		return ""
	}
	if p, _, err := a.peer(c); err != nil || !p.modern {
		return ""
	}
	return name
}

// gather keeps the stream open until the client leaves.
func (a *aggregate) gather(g *gathered, first []byte) error {
	if !a.f.peers.enter(a.who.Agent.ID) {
		return ErrStreams
	}
	defer a.f.peers.leave(a.who.Agent.ID)
	g.ctx, g.cancel = context.WithCancel(a.r.Context())
	h := a.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	a.w.WriteHeader(http.StatusOK)
	if first != nil {
		g.write(first)
	}
	_ = http.NewResponseController(a.w).Flush()
	var wg sync.WaitGroup
	defer wg.Wait() // nobody may write afterwards
	defer g.cancel()
	for _, c := range a.f.o.Registry.Connections() {
		if a.serves(c.Name) && (g.id == nil || len(g.wants) > 0) {
			wg.Go(func() { g.follow(c.Name) })
		}
	}
	g.wait()
	return nil
}

// standEvery is how often it is looked whether the agent may still listen.
const standEvery = 500 * time.Millisecond

// wait returns when the client has left, or may not call any more.
func (g *gathered) wait() {
	tick := time.NewTicker(standEvery)
	defer tick.Stop()
	for {
		select {
		case <-g.ctx.Done():
			return
		case <-tick.C:
		}
		_, err := g.a.f.o.Line.Identify(g.ctx, g.a.in)
		if err != nil && gateway.Refuse(err).Kind != fault.Unavailable { // a stale view cuts nothing
			return
		}
	}
}

// Pauses before an upstream's stream is opened again.
const (
	followPause = time.Second
	maxFollow   = time.Minute
)

// follow hears one connection for as long as the client hears us.
func (g *gathered) follow(name string) {
	for pause := followPause; ; pause = min(2*pause, maxFollow) {
		began := time.Now()
		c, ok := g.a.f.o.Registry.Connection(name)
		if !ok || !g.a.serves(name) || !g.hear(c) {
			return
		}
		if time.Since(began) > maxFollow {
			pause = followPause
		}
		select {
		case <-g.ctx.Done():
			return
		case <-time.After(pause + rand.N(pause/2)): //nolint:gosec // spreads load
		}
	}
}

// hear opens the connection's stream, the way of all calls, and passes it on to
// its end. It reports whether there may be another one.
func (g *gathered) hear(c connections.Connection) bool {
	p, k, err := g.a.peer(c)
	if err != nil {
		return true
	}
	again, silent, forgotten := g.hearOn(p, c)
	if forgotten {
		g.a.f.peers.drop(k)
	}
	if !silent || p.modern {
		return again
	}
	// A server of both eras may have no stream in the older one.
	newer := &peer{f: g.a.f, conn: c, send: g.a.sender(), caps: []byte("{}")}
	if modern, err := newer.probe(g.ctx); err != nil || !modern {
		return false
	}
	again, _, _ = g.hearOn(newer, c)
	return again
}

// hearOn is hear in the era of p; silent says that there is no stream in it.
func (g *gathered) hearOn(p *peer, c connections.Connection) (again, silent, forgotten bool) {
	a, err := g.a, error(nil)
	x := &exchange{f: a.f, w: a.w, r: a.r, modern: a.x.modern, asks: a.session, peer: p, conn: c}
	up := &gateway.Upstream{Method: http.MethodGet, Header: p.header("", ""), Idle: -1}
	if p.modern {
		x.method = "subscriptions/listen"
		up.Method, up.Header, up.Body = http.MethodPost, p.header(x.method, ""), g.request(p)
		if x.msg, err = wire.Scan(up.Body); err != nil {
			return false, false, false // of our own making: it does not happen
		}
	}
	in := a.in
	in.Connection = c.Name
	in.Parse = func(_ context.Context, who identity.Caller) (*gateway.Call, error) {
		x.who = who
		t, ok := a.f.o.Registry.Tool(c.Name, "mcp:subscriptions/listen")
		if !ok {
			return nil, ErrNoMethod
		}
		return &gateway.Call{Connection: c, Tool: t, Rewrite: x.rewrite, Observer: x, Implied: x.anything, Request: up}, nil
	}
	answer, err := a.f.o.Line.Serve(g.ctx, in)
	if err != nil {
		r := gateway.Refuse(err)
		return x.forgotten || r.Kind == fault.Upstream || r.Kind == fault.Unavailable, false, x.forgotten
	}
	defer answer.Body.Close()
	if answer.Status != http.StatusOK || media(answer.Header.Get("Content-Type")) != "text/event-stream" {
		return answer.Status >= 500, answer.Status == http.StatusMethodNotAllowed, false
	}
	for events := wire.NewReader(answer.Body, maxAnswer); ; {
		e, err := events.Next()
		if err != nil {
			return g.ctx.Err() == nil, false, false
		}
		if len(e.Data) > 0 && !g.pass(p, c, e.Data) {
			return false, false, false
		}
	}
}

// request asks an upstream of the newer era for what the client wants to hear,
// or, for one of the older era, for all there is.
func (g *gathered) request(p *peer) []byte {
	var wants []string
	for member, method := range changes {
		if g.id == nil || g.wants[method] {
			wants = append(wants, strconv.Quote(member)+":true")
		}
	}
	var uris []string
	for uri, conn := range g.uris {
		if conn == p.conn.Name {
			uris = append(uris, string(wire.Quote(uri)))
		}
	}
	if len(uris) > 0 {
		wants = append(wants, `"resourceSubscriptions":[`+strings.Join(uris, ",")+"]")
	}
	return fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%d,"method":"subscriptions/listen","params":{"notifications":{%s},"_meta":%s}}`,
		p.f.ids.Add(1), strings.Join(wants, ","), p.meta())
}

// pass hands one message of a connection to the client, if it is for it. False
// means that the client has left.
func (g *gathered) pass(p *peer, c connections.Connection, b []byte) bool {
	whole := wire.Whole(b)
	method, _ := wire.Text(b, wire.Find(b, whole, "method"))
	switch {
	case method == "" || method == acknowledged:
		return true // answers to requests of ours
	case g.id == nil:
		return g.write(b)
	case !g.wants[method] || wire.Find(b, whole, "id").Present():
		return true // a client must not get what it did not ask for
	}
	if method == resourceUpdated {
		uri, _ := wire.Text(b, wire.Path(b, whole, "params", "uri"))
		if g.uris[uri] != c.Name || !p.modern {
			return true
		}
	}
	return g.write(subscribed(b, g.id))
}

// subscribed says in a notification which of the client's subscriptions it
// belongs to.
func subscribed(b, id []byte) []byte {
	whole := wire.Whole(b)
	params := wire.Find(b, whole, "params")
	meta := wire.Find(b, params, "_meta")
	switch {
	case meta.Present() && b[meta.Start] == '{':
		return wire.Splice(b, wire.Set(b, meta, subscription, id))
	case params.Present() && b[params.Start] == '{':
		return wire.Splice(b, wire.Set(b, params, "_meta", fmt.Appendf(nil, "{%q:%s}", subscription, id)))
	}
	return wire.Splice(b, wire.Set(b, whole, "params", fmt.Appendf(nil, `{"_meta":{%q:%s}}`, subscription, id)))
}

// write sends one event to the client.
func (g *gathered) write(b []byte) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ctx.Err() != nil {
		return false
	}
	control := http.NewResponseController(g.a.w)
	_ = control.SetWriteDeadline(time.Now().Add(writeTime)) // who reads nothing must not hold the upstreams
	if _, err := g.a.w.Write(wire.AppendEvent(nil, "", b)); err != nil || control.Flush() != nil {
		g.cancel()
		return false
	}
	_ = control.SetWriteDeadline(time.Time{})
	return true
}

// enter counts a stream of the aggregated endpoint; false if there are too many.
func (p *peers) enter(agent string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.streams[agent] >= maxGathered {
		return false
	}
	p.streams[agent]++
	return true
}

func (p *peers) leave(agent string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.streams[agent]--; p.streams[agent] == 0 {
		delete(p.streams, agent)
	}
}

// declineTime is how long an upstream may take to accept that nobody answers
// its question.
const declineTime = 10 * time.Second

// decline answers a question that an upstream asks a client which declared
// nothing that would let it ask, so that the upstream does not wait for ever.
func (x *exchange) decline(id []byte, method string) {
	body := wire.AppendError(nil, id, wire.CodeNoMethod, "The client cannot be asked: it declared no capability for "+clip(method), nil)
	if method == "ping" {
		body = wire.AppendResult(nil, id, []byte("{}"))
	}
	t, ok := x.f.o.Registry.Tool(x.conn.Name, connections.Protocol+"response")
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(x.r.Context(), declineTime)
	defer cancel()
	answer, err := x.peer.send(ctx, x.peer.call(t, &gateway.Upstream{Method: http.MethodPost, Header: x.peer.header("", ""), Body: body}))
	if err == nil {
		discard(answer.Body)
	}
}
