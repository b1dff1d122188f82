package mcp

import (
	"cmp"
	"context"
	"encoding/json/jsontext"
	"errors"
	"net/http"
	"strings"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/mcp/wire"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/policy"
)

// exchange is one request to one connection and its answer.
type exchange struct {
	f *Front
	w http.ResponseWriter
	r *http.Request

	name   string // of the connection, as the path has it
	absent bool   // the agent has no business on the connection: to it there is none
	who    identity.Caller
	conn   connections.Connection
	msg    wire.Message // of a POST
	call   *gateway.Call
	modern bool
	method string // of JSON-RPC; empty for a GET stream

	sent   []byte      // the body as the client sent it
	linked linked      // the client's person was shown where to decide
	links  bool        // a client of the older era can show its person a URL
	task   wantedTask  // a client of the older era asks for a task
	wrong  *wire.Error // what the client sent wrong, in JSON-RPC's terms
	status int         // the HTTP status for wrong; 0 means 400

	// behind the aggregated endpoint
	peer      *peer  // whose era the upstream speaks
	shown     string // the name the client used
	asks      string // the client's session, to which questions of the upstream belong
	forgotten bool   // the upstream no longer knows our session

	// what was seen of the answer
	content  string // its media type
	kept     []byte
	size     int64
	failed   string
	code     int
	answered bool // the response to the request has passed
	resumes  bool // events have ids: the client can come back for the rest
}

// parse turns the request into a Call. The caller is known, the body is not
// yet read.
func (x *exchange) parse(ctx context.Context, who identity.Caller) (*gateway.Call, error) {
	x.who = who
	conn, ok := x.f.o.Registry.Connection(x.name)
	if !ok || !conn.ServesTools() {
		return nil, gateway.ErrConnection
	}
	if x.conn = conn; !x.anything() { // before the body is read, as for one that is not there
		x.absent = true
		return &gateway.Call{Connection: conn}, gateway.ErrHidden
	}
	switch x.r.Method {
	case http.MethodPost:
		return x.post()
	case http.MethodGet:
		return x.session("mcp:subscriptions/listen")
	case http.MethodDelete:
		return x.session("mcp:session/delete")
	}
	return nil, ErrMethod
}

// post reads one message.
func (x *exchange) post() (*gateway.Call, error) {
	if err := x.readMessage(); err != nil {
		return nil, err
	}
	if x.isOwn() || x.answersLink() {
		return nil, gateway.ErrOwn
	}
	if err := x.plain(); err != nil {
		return nil, err
	}
	header, err := x.header()
	if err != nil {
		return nil, err
	}
	tool, args, err := x.resolve()
	call := &gateway.Call{
		Connection: x.conn, Tool: tool, Args: args, Bound: x.bound(), Rewrite: x.rewrite, Observer: x, Server: x.tasks(),
		Request: &gateway.Upstream{Method: http.MethodPost, Header: header, Body: x.msg.Raw, Idle: idleAnswer},
	}
	if err != nil {
		return call, err
	}
	x.call = call
	call.Reread = func(replace func([]byte) []byte) error {
		err := x.reread(call, replace)
		call.Request.Body = x.msg.Raw
		return err
	}
	call.Implied = x.implied(tool)
	if x.method == "subscriptions/listen" {
		call.Request.Idle = -1
	}
	return call, nil
}

// plain takes out of the message what is between the client and us alone: what
// people approve, and what is forwarded, is the call without it.
func (x *exchange) plain() error {
	if err := x.unlink(); err != nil {
		return err
	}
	return x.wantTask()
}

// reread makes the call from what replace leaves of the message.
func (x *exchange) reread(call *gateway.Call, replace func([]byte) []byte) error {
	m, err := wire.Scan(replace(x.msg.Raw))
	if err != nil {
		return x.fail(err, 0)
	}
	x.msg = m
	call.Tool, call.Args, err = x.resolve()
	call.Bound = x.bound()
	return err
}

func (x *exchange) readMessage() error {
	if media(x.r.Header.Get("Content-Type")) != "application/json" {
		return ErrMedia
	}
	if json, stream := accepts(x.r.Header); !json || !stream {
		x.status = http.StatusNotAcceptable
		return ErrAccept
	}
	body, err := x.f.body(x.w, x.r)
	if err != nil {
		return err
	}
	m, err := wire.Scan(body)
	if err != nil {
		return x.fail(err, 0)
	}
	x.sent, x.msg, x.method, x.modern = body, m, m.Method, wire.IsModern(x.r.Header, m)
	if err := wire.CheckHeaders(x.r.Header, m); err != nil {
		return x.fail(err, 0)
	}
	return nil
}

// fail refuses what the client sent, in JSON-RPC's terms and with an HTTP
// status (0 means 400).
func (x *exchange) fail(err error, status int) error {
	e, ok := errors.AsType[*wire.Error](err)
	if !ok {
		return err
	}
	x.wrong, x.status = e, status
	if e.Code == wire.CodeNoMethod {
		return ErrNoMethod.Say("%s", e.Message)
	}
	return ErrMessage.Say("%s", e.Message)
}

// header returns the header for the upstream: the client's, with the session
// that the upstream knows.
func (x *exchange) header() (http.Header, error) {
	h := x.r.Header.Clone()
	h.Del("Origin") // ours to check; the upstream would refuse it
	if x.modern {
		h.Del(wire.HeaderSession)
		return h, nil
	}
	tokens := h.Values(wire.HeaderSession)
	if len(tokens) == 0 {
		return h, nil
	}
	if len(tokens) > 1 { // none of them may reach the upstream unopened
		return nil, ErrSession
	}
	token := tokens[0]
	session, ok := x.openSession(token)
	if !ok {
		return nil, ErrSession
	}
	h.Set(wire.HeaderSession, session)
	return h, nil
}

// session is a GET (the stream of a session) or a DELETE (its end): both only
// exist in the eras with sessions.
func (x *exchange) session(tool string) (*gateway.Call, error) {
	if x.r.Header.Get(wire.HeaderVersion) >= wire.Modern {
		return nil, ErrMethod
	}
	listen := x.r.Method == http.MethodGet
	if _, stream := accepts(x.r.Header); listen && !stream {
		x.status = http.StatusNotAcceptable
		return nil, ErrAccept
	}
	if !listen && x.r.Header.Get(wire.HeaderSession) == "" {
		return nil, ErrSession
	}
	header, err := x.header()
	if err != nil {
		return nil, err
	}
	t, ok := x.f.o.Registry.Tool(x.conn.Name, tool)
	if !ok {
		return nil, ErrNoMethod
	}
	return &gateway.Call{
		Connection: x.conn, Tool: t, Rewrite: x.rewrite, Observer: x, Implied: x.anything,
		Request: &gateway.Upstream{Method: x.r.Method, Header: header, Idle: -1},
	}, nil
}

// resolve says which tool the message is a call of, and with which arguments.
func (x *exchange) resolve() (connections.Tool, jsontext.Value, error) {
	if x.msg.Kind == wire.Request && x.method == "tools/call" {
		return x.resolveTool()
	}
	name := connections.Protocol + x.method
	if x.msg.Kind == wire.Response {
		name = connections.Protocol + "response"
	}
	t, ok := x.f.o.Registry.Tool(x.conn.Name, name)
	if !ok || (x.msg.Kind == wire.Request && ours[x.method]) || (x.modern && removed[x.method]) || (x.msg.Kind == wire.Notification) != strings.HasPrefix(x.method, "notifications/") {
		status := http.StatusOK // older clients give up on a 404
		if x.modern || x.msg.Kind == wire.Notification {
			status = http.StatusNotFound
		}
		return t, nil, x.fail(&wire.Error{Code: wire.CodeNoMethod, Message: "Method not found: " + clip(x.method), ID: x.id()}, status)
	}
	if x.method == "subscriptions/listen" {
		if err := x.mayHear(); err != nil {
			return t, nil, err
		}
	}
	return t, x.arguments(), nil
}

// ours are the names that we gave to what is no method on the wire.
var ours = map[string]bool{"response": true, "session/delete": true}

// removed are methods that the newer era replaced by subscriptions/listen.
var removed = map[string]bool{"resources/subscribe": true, "resources/unsubscribe": true}

// resolveTool answers for an unknown tool and for one that the agent may not
// see in the same words.
func (x *exchange) resolveTool() (connections.Tool, jsontext.Value, error) {
	name := x.msg.Name
	t, ok := x.f.o.Registry.Tool(x.conn.Name, name)
	if !ok || !t.Offered() || !x.f.o.Line.Visible(x.who, x.conn, t) {
		_ = x.fail(&wire.Error{Code: wire.CodeParams, Message: "Unknown tool: " + clip(cmp.Or(x.shown, name)), ID: x.id()}, http.StatusOK)
		if ok && t.Offered() {
			return t, nil, ErrNoTool.Say("the tool exists, but nothing allows this agent to use it, so to the agent it does not exist")
		}
		return connections.Tool{Name: clip(name)}, nil, ErrNoTool
	}
	if err := wire.CheckParams(x.r.Header, x.msg, t.InputSchema); err != nil {
		return t, nil, x.fail(err, 0)
	}
	if !x.msg.Arguments.Present() {
		return t, jsontext.Value("{}"), nil
	}
	return t, x.msg.Arguments.Of(x.msg.Raw), nil
}

// policyReads names the members of params that are a protocol tool's arguments.
var policyReads = map[string][]string{
	"resources/read": {"uri"}, "resources/subscribe": {"uri"}, "resources/unsubscribe": {"uri"},
	"prompts/get": {"name", "arguments"}, "completion/complete": {"ref", "argument"},
	"tasks/get": {"taskId"}, "tasks/result": {"taskId"}, "tasks/update": {"taskId"}, "tasks/cancel": {"taskId"},
}

func (x *exchange) arguments() jsontext.Value {
	out := []byte{'{'}
	for _, name := range policyReads[x.method] {
		at := wire.Find(x.msg.Raw, x.msg.Params, name)
		if !at.Present() {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(append(out, wire.Quote(name)...), ':'), at.Of(x.msg.Raw)...)
	}
	return append(out, '}')
}

// decided are the protocol tools that say something about content: a policy or
// grant must allow them. The rest is plumbing.
var decided = []string{"resources/read", "prompts/get", "completion/complete", "tasks/list"}

// implied returns under which condition the message is allowed where no policy
// speaks about it; nil for what must be decided.
func (x *exchange) implied(t connections.Tool) func() bool {
	if !t.Protocol() {
		return nil
	}
	for _, method := range decided {
		if x.method == method {
			return nil
		}
	}
	if x.method == "resources/subscribe" {
		return func() bool { return x.may("mcp:resources/read", x.arguments()) }
	}
	return x.anything
}

// anything reports whether the agent may use something on the connection.
func (x *exchange) anything() bool { return x.f.anything(x.who, x.conn) }

func (f *Front) anything(who identity.Caller, c connections.Connection) bool {
	for _, t := range f.o.Registry.Tools(c.Name) {
		if f.o.Line.Visible(who, c, t) {
			return true
		}
	}
	return false
}

// may asks what policy would say to another call on this connection.
func (x *exchange) may(tool string, args jsontext.Value) bool {
	return x.f.may(x.who, x.conn, tool, args)
}

func (f *Front) may(who identity.Caller, c connections.Connection, tool string, args jsontext.Value) bool {
	t, ok := f.o.Registry.Tool(c.Name, tool)
	return ok && f.o.Line.Would(who, c, t, args).Effect != policy.Deny
}

// mayHear refuses a subscription to a resource that the agent may not read.
func (x *exchange) mayHear() error {
	b := x.msg.Raw
	for _, item := range wire.Items(b, wire.Path(b, x.msg.Params, "notifications", "resourceSubscriptions")) {
		if !x.may("mcp:resources/read", object("uri", item.Of(b))) {
			return x.fail(&wire.Error{Code: wire.CodeParams, Message: "a resource in resourceSubscriptions cannot be read", ID: x.id()}, 0)
		}
	}
	return nil
}

func object(name string, raw []byte) jsontext.Value {
	return append(append(append(append([]byte{'{'}, wire.Quote(name)...), ':'), raw...), '}')
}

func (x *exchange) id() []byte {
	if x.msg.Kind != wire.Request {
		return nil
	}
	return x.msg.ID.Of(x.msg.Raw)
}

// Begin implements gateway.Observer.
func (x *exchange) Begin(_ int, h http.Header) { x.content = media(h.Get("Content-Type")) }

// Chunk implements gateway.Observer.
func (x *exchange) Chunk(b []byte) {
	x.size += int64(len(b))
	if room := gateway.CaptureLimit(x.conn) + gateway.CaptureMargin - len(x.kept); room > 0 {
		x.kept = append(x.kept, b[:min(room, len(b))]...)
	}
}

// Done implements gateway.Observer.
func (x *exchange) Done(error) gateway.Seen {
	s := gateway.Seen{Failed: x.failed, Code: x.code}
	if len(x.kept) > 0 {
		s.Payloads = []audit.Payload{{Name: "result", Body: x.kept, Size: x.size}}
	}
	return s
}

func clip(s string) string {
	const most = 200
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
