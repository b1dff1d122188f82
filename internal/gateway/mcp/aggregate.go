package mcp

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/mcp/wire"
	"github.com/countersign/countersign/internal/identity"
)

// between stands between a connection's name and a tool's or prompt's.
const between = "__"

// oldVersions are the versions of the older era, newest first.
var oldVersions = []string{legacy, "2025-06-18", "2025-03-26", "2024-11-05"}

// aggregate is one request to /mcp: everything an agent may use as one server.
// It answers the protocol itself and takes each call to the one upstream it is
// for, in that upstream's era, the way of all calls. Resources keep their URIs;
// which connection has one is known from its lists, and a URI that two
// connections list is refused.
type aggregate struct {
	f       *Front
	w       http.ResponseWriter
	r       *http.Request
	in      gateway.Incoming
	x       *exchange // of the request as the client sent it
	who     identity.Caller
	session string // the client's, empty in the newer era
	caps    []byte // what we may declare to upstreams for the client
	late    *late
}

func (f *Front) serveAll(w http.ResponseWriter, r *http.Request) { f.all(w, r, nil) }

// Resume makes a call that people approved, whose client may be gone: r is what
// its wire says, and it goes the way of every call from the beginning.
func (f *Front) Resume(w http.ResponseWriter, r *http.Request, resume *gateway.Resumed) {
	f.all(w, r, resume)
}

func (f *Front) all(w http.ResponseWriter, r *http.Request, resume *gateway.Resumed) {
	late := &late{ResponseWriter: w}
	defer late.finish()
	a := &aggregate{f: f, w: late, r: r, late: late, caps: []byte("{}")}
	a.x = &exchange{f: f, w: late, r: r}
	in, refused := gateway.Incoming{Front: "mcp", Remote: r.RemoteAddr, Client: r.UserAgent(), Resume: resume}, (*gateway.Refusal)(nil)
	if resume == nil {
		in, refused = f.incoming(r, "", nil)
	}
	if refused != nil {
		a.x.refuse(refused)
		return
	}
	who, err := f.o.Line.Identify(r.Context(), in)
	if err != nil {
		a.x.refuse(gateway.Refuse(err))
		return
	}
	a.in, a.who, a.x.who = in, who, who
	switch r.Method {
	case http.MethodPost:
		err = a.post()
	case http.MethodDelete:
		err = a.end()
	case http.MethodGet:
		err = a.get()
	default:
		err = ErrMethod
	}
	if err != nil {
		a.refuse(a.x, err)
	}
}

// refuse records a refusal as Serve does for what cannot be parsed, and tells
// the client.
func (a *aggregate) refuse(x *exchange, err error) {
	in := a.in
	in.Connection, in.Tool = x.conn.Name, clip(x.msg.Name)
	in.Parse = func(context.Context, identity.Caller) (*gateway.Call, error) { return nil, err }
	if _, serr := a.f.o.Line.Serve(a.r.Context(), in); serr != nil {
		x.refuse(gateway.Refuse(serr))
	}
}

// open reads the client's session.
func (a *aggregate) open() error {
	token := a.r.Header.Get(wire.HeaderSession)
	switch {
	case a.x.modern:
		return nil
	case token == "": // an older client before or without a session
		a.session = "none"
		return nil
	}
	plain, ok := a.f.openFor(a.who, connections.Connection{}, "all", token)
	nonce, caps, cut := strings.Cut(plain, "|")
	if !ok || !cut {
		return ErrSession
	}
	a.session, a.caps = nonce, []byte(caps)
	return nil
}

// end ends the client's session and those behind it.
func (a *aggregate) end() error {
	if a.r.Header.Get(wire.HeaderSession) == "" {
		return ErrSession
	}
	if err := a.open(); err != nil {
		return err
	}
	for _, p := range a.f.peers.take(a.who.Agent.ID, a.session) {
		p.send = a.sender()
		p.end(a.r.Context())
	}
	a.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *aggregate) post() error {
	x := a.x
	if err := x.readMessage(); err != nil {
		return err
	}
	if err := a.open(); err != nil {
		return err
	}
	if x.msg.Kind == wire.Response {
		return a.response()
	}
	if x.msg.Kind == wire.Notification {
		return a.notification()
	}
	if x.modern && x.msg.Version != wire.Modern {
		a.write(http.StatusBadRequest, wire.AppendError(nil, x.id(), wire.CodeVersion, "Unsupported protocol version",
			fmt.Appendf(nil, `{"supported":[%q],"requested":%s}`, wire.Modern, wire.Quote(x.msg.Version))))
		return nil
	}
	if x.isOwn() {
		x.own()
		return nil
	}
	if x.aboutTask() { // of none of ours
		return x.fail(&wire.Error{Code: errNoTask.Code, Message: errNoTask.Message, ID: x.id()}, http.StatusOK)
	}
	switch x.method {
	case "server/discover":
		return a.discover()
	case "initialize":
		return a.initialize()
	case "ping", "logging/setLevel":
		a.result(nil)
		return nil
	case "tools/list", "prompts/list", "resources/list", "resources/templates/list":
		return a.list()
	case "subscriptions/listen":
		return a.listen()
	case "tools/call", "prompts/get":
		return a.named(x.msg.NameAt)
	case "resources/read":
		return a.resource(x.msg.URI)
	case "completion/complete":
		return a.complete()
	}
	status := http.StatusOK
	if x.modern {
		status = http.StatusNotFound
	}
	return x.fail(&wire.Error{Code: wire.CodeNoMethod, Message: "Method not found: " + clip(x.method), ID: x.id()}, status)
}

// result answers with members of a result object.
func (a *aggregate) result(members []byte) {
	out := append([]byte{'{'}, members...)
	if a.x.modern {
		if len(members) > 0 {
			out = append(out, ',')
		}
		out = append(out, `"resultType":"complete"`...)
	}
	a.write(http.StatusOK, wire.AppendResult(nil, a.x.id(), append(out, '}')))
}

func (a *aggregate) write(status int, body []byte) { a.x.json(status, body) }

const (
	ourCapabilities    = `"capabilities":{"tools":{"listChanged":true},"resources":{"listChanged":true},"prompts":{"listChanged":true},"completions":{}`
	modernCapabilities = `"capabilities":{"tools":{"listChanged":true},"resources":{"listChanged":true},"prompts":{"listChanged":true},"completions":{},"extensions":{"` + extTasks + `":{}}}`
)

func (a *aggregate) serverInfo() []byte {
	return fmt.Appendf(nil, `{"name":"countersign","title":"Countersign","version":%s}`, wire.Quote(a.f.o.Version))
}

const instructions = `"instructions":"Tools and prompts are named connection__name. A refusal says why; do not retry it unchanged."`

func (a *aggregate) discover() error {
	a.result(fmt.Appendf(nil, `"supportedVersions":[%q],%s,"serverInfo":%s,%s,"ttlMs":0,"cacheScope":"private"`, wire.Modern, modernCapabilities, a.serverInfo(), instructions))
	return nil
}

// maxCaps bounds what a session id has to carry.
const maxCaps = 4 << 10

func (a *aggregate) initialize() error {
	b := a.x.msg.Raw
	version, _ := wire.Text(b, wire.Find(b, a.x.msg.Params, "protocolVersion"))
	if !slices.Contains(oldVersions, version) {
		version = oldVersions[0]
	}
	caps := wire.Find(b, a.x.msg.Params, "capabilities").Of(b)
	if len(caps) > maxCaps || len(caps) == 0 || caps[0] != '{' {
		caps = []byte("{}")
	}
	a.w.Header().Set(wire.HeaderSession, a.f.sealFor(a.who, connections.Connection{}, "all", rand.Text()+"|"+string(caps)))
	caps = []byte(ourCapabilities + "}")
	if version == legacy {
		caps = []byte(ourCapabilities + `,"tasks":` + oldTaskCapability + "}")
	}
	a.result(fmt.Appendf(nil, `"protocolVersion":%q,%s,"serverInfo":%s,%s`, version, caps, a.serverInfo(), instructions))
	return nil
}

// notification is for us, except where it cancels what an upstream does.
func (a *aggregate) notification() error {
	x := a.x
	if x.method == "notifications/cancelled" {
		b := x.msg.Raw
		id := string(wire.Find(b, x.msg.Params, "requestId").Of(b))
		if name := a.f.peers.where(flightKey{a.who.Agent.ID, a.session, id}); name != "" {
			return a.forward(name, b)
		}
	}
	a.w.WriteHeader(http.StatusAccepted)
	return nil
}

// response is the client's answer to a question that an upstream asked; the id
// says which.
func (a *aggregate) response() error {
	if a.x.answersLink() {
		a.x.own()
		return nil
	}
	m := a.x.msg
	token, _ := wire.Text(m.Raw, m.ID)
	plain, ok := a.f.openFor(a.who, connections.Connection{Name: a.session}, "question", token)
	name, id, cut := strings.Cut(plain, "|")
	if !ok || !cut {
		return ErrMessage.Say("nobody asked what this answers")
	}
	return a.forward(name, wire.Splice(m.Raw, wire.Edit{At: m.ID, With: []byte(id)}))
}

// named forwards a message whose name, at at, begins with the connection's.
func (a *aggregate) named(at wire.Span) error {
	b := a.x.msg.Raw
	full, _ := wire.Text(b, at)
	conn, name, cut := strings.Cut(full, between)
	if !cut || !a.serves(conn) {
		if a.x.method == "tools/call" {
			_ = a.x.fail(&wire.Error{Code: wire.CodeParams, Message: "Unknown tool: " + clip(full), ID: a.x.id()}, http.StatusOK)
			return ErrNoTool
		}
		return a.x.fail(&wire.Error{Code: wire.CodeParams, Message: "Unknown name: " + clip(full), ID: a.x.id()}, http.StatusOK)
	}
	a.x.shown = full
	return a.forward(conn, wire.Splice(b, wire.Edit{At: at, With: wire.Quote(name)}))
}

// serves reports whether the agent may use something on an mcp connection.
func (a *aggregate) serves(name string) bool {
	c, ok := a.f.o.Registry.Connection(name)
	return ok && c.ServesTools() && a.f.anything(a.who, c)
}

// resource forwards a message about a resource to the connection that lists it.
func (a *aggregate) resource(uri string) error {
	conn, known := a.f.peers.owner(a.who.Agent.ID, uri)
	if !known {
		a.f.peers.forget(a.who.Agent.ID)
		a.collect("resources/list")
		a.collect("resources/templates/list")
		conn, known = a.f.peers.owner(a.who.Agent.ID, uri)
	}
	code := wire.CodeParams
	if !a.x.modern {
		code = -32002 // resource not found, until 2025-11-25
	}
	switch {
	case !known || (conn != several && !a.serves(conn)):
		return a.x.fail(&wire.Error{Code: code, Message: "Resource not found: " + clip(uri), ID: a.x.id()}, http.StatusOK)
	case conn == several:
		return a.x.fail(&wire.Error{Code: code, Message: "More than one connection lists this resource; read it under /mcp/{connection}", ID: a.x.id()}, http.StatusOK)
	}
	return a.forward(conn, a.x.msg.Raw)
}

func (a *aggregate) complete() error {
	b := a.x.msg.Raw
	ref := wire.Find(b, a.x.msg.Params, "ref")
	if name := wire.Find(b, ref, "name"); name.Present() {
		return a.named(name)
	}
	uri, _ := wire.Text(b, wire.Find(b, ref, "uri"))
	return a.resource(uri)
}

// sender takes messages of our own making for the client the way of all calls,
// in the agent's name.
func (a *aggregate) sender() sender {
	return func(ctx context.Context, call *gateway.Call) (*gateway.Answer, error) {
		in := a.in
		in.Connection = call.Connection.Name
		in.Parse = func(_ context.Context, who identity.Caller) (*gateway.Call, error) {
			call.Implied = func() bool { return a.f.anything(who, call.Connection) }
			return call, nil
		}
		return a.f.o.Line.Serve(ctx, in)
	}
}

func (a *aggregate) peer(c connections.Connection) (*peer, peerKey, error) {
	k := peerKey{a.who.Agent.ID, a.session, c.Name}
	p, err := a.f.peers.get(a.r.Context(), k, c, a.caps, !a.x.modern, a.sender())
	return p, k, err
}

// forward takes a message, already in the upstream's names, to a connection. A
// session that the upstream forgot is begun again, once: it did nothing then.
func (a *aggregate) forward(name string, raw []byte) error {
	c, ok := a.f.o.Registry.Connection(name)
	if !ok || !c.ServesTools() {
		return gateway.ErrConnection
	}
	waited := false
	for attempt := 0; ; attempt++ {
		x := &exchange{f: a.f, w: a.w, r: a.r, who: a.who, modern: a.x.modern, shown: a.x.shown, asks: a.session, links: opens(a.caps, wire.Whole(a.caps))}
		p, k, err := a.peer(c)
		if err == nil {
			err = x.behind(p, raw)
		}
		if err != nil {
			a.x.conn = c
			a.x.refuse(gateway.Refuse(err))
			return nil
		}
		if id := x.id(); id != nil {
			flight := flightKey{a.who.Agent.ID, a.session, string(id)}
			a.f.peers.fly(flight, name)
			defer a.f.peers.land(flight)
		}
		in := a.in
		in.Connection, in.Parse, in.Wire = name, x.parseBehind, x.wire
		answer, err := a.f.o.Line.Serve(a.r.Context(), in)
		if err != nil {
			if x.forgotten && attempt == 0 {
				a.f.peers.drop(k)
				continue
			}
			refusal := gateway.Refuse(err)
			if in.Resume == nil && !waited && x.await(a.late, refusal) {
				waited = true
				continue
			}
			x.refuse(refusal)
			return nil
		}
		x.answer(answer)
		return nil
	}
}

// discard reads what is left of a body so that its connection can be used again.
func discard(r io.ReadCloser) {
	_, _ = io.Copy(io.Discard, io.LimitReader(r, 1<<16))
	_ = r.Close()
}

// without returns the object at s without the named members.
func without(b []byte, s wire.Span, names ...string) []byte {
	var parts [][]byte
	for _, m := range wire.Members(b, s) {
		if !slices.Contains(names, m.Name) {
			parts = append(parts, b[m.Key.Start:m.Val.End])
		}
	}
	return append(append([]byte{'{'}, bytes.Join(parts, []byte{','})...), '}')
}
