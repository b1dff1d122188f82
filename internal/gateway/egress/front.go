package egress

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/connections/operation"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/identity"
)

// Prefix is the path beneath which the front serves: Prefix + connection + the
// API's own path.
const Prefix = "/http/"

// Errors about what was asked for.
var (
	errConnection = fault.New(fault.NotFound, "unknown_connection", "there is no HTTP connection of this name that this agent may use; the path is /http/CONNECTION/...")
	errOperation  = fault.New(fault.NotFound, "unknown_operation", "the connection has no operation with this path; what is not registered is refused")
	errMethod     = fault.New(fault.Unsupported, "method_not_allowed", "the connection has no operation with this path and method")
	errAmbiguous  = fault.New(fault.Conflict, "ambiguous_operation", "two operations of the connection have this path and method; ask its owner to remove one")
	errOverride   = fault.New(fault.Invalid, "method_override", "a header that changes what the request asks for is refused; send the method and the path that are meant")
	errArgument   = fault.New(fault.Invalid, "bad_argument", "a parameter of the request is not what the operation takes")
	errTrailer    = fault.New(fault.Invalid, "request_trailer", "a request may have no trailer: it would come after the request was decided")
	errNoBody     = fault.New(fault.Invalid, "unexpected_body", "this operation takes no body")
	errBodyNeeded = fault.New(fault.Invalid, "body_missing", "this operation needs a body")
	errType       = fault.New(fault.Unsupported, "bad_content_type", "the operation does not take a body of this type")
	errEncoding   = fault.New(fault.Unsupported, "bad_content_encoding", "send the body without a Content-Encoding: what policy reads must be what is forwarded")
	errForm       = fault.New(fault.Invalid, "bad_form", "the form could not be understood")
	errUpgrade    = fault.New(fault.Invalid, "bad_upgrade", "this operation can be upgraded to a WebSocket of version 13 by a GET alone, and nothing else can be upgraded")
)

// Registry knows connections and tools; connections.Service is one.
type Registry interface {
	Connection(name string) (connections.Connection, bool)
	Connections() []connections.Connection
	Tool(connection, name string) (connections.Tool, bool)
	Tools(connection string) []connections.Tool
}

// Options configure a Front. Gateway and Registry must be set.
type Options struct {
	Gateway  *gateway.Gateway
	Registry Registry
	Logger   *slog.Logger
	// MaxBody is the largest body that policy reads, in bytes, and how much of a
	// larger one is looked at before it is streamed; 0 means 8 MiB.
	MaxBody int64
	// ReadTimeout is how long a body that policy reads may take to arrive, and
	// how long a streamed one may be silent; 0 means a minute.
	ReadTimeout time.Duration
	// WriteTimeout is how long a client may take to accept a piece of an
	// answer; 0 means a minute.
	WriteTimeout time.Duration
}

// Front serves HTTP APIs. It is an http.Handler for everything beneath Prefix;
// it must get paths as they were sent, not cleaned by a mux.
type Front struct {
	o     Options
	known catalogue
}

// New returns a front.
func New(o Options) *Front {
	if o.Gateway == nil || o.Registry == nil {
		panic("egress: Gateway and Registry must be set")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MaxBody == 0 {
		o.MaxBody = 8 << 20
	}
	if o.ReadTimeout == 0 {
		o.ReadTimeout = time.Minute
	}
	if o.WriteTimeout == 0 {
		o.WriteTimeout = time.Minute
	}
	return &Front{o: o}
}

// exchange is one request on its way to an answer.
type exchange struct {
	f    *Front
	w    http.ResponseWriter
	r    *http.Request
	name string // of the connection
	path string // beneath the connection, escaped; begins with a slash or is empty
	door string // what a location beneath the connection is prefixed with for the client

	secret string // the agent's credential, if it came with the tunnel
	status int    // of a refusal, if its kind does not say

	conn   connections.Connection
	op     *known   // nil with the dialect git
	body   []byte   // what was read of the request's body
	allow  []string // the methods that the path takes, if not this one
	absent bool     // the agent may use nothing on the connection: to it there is none
	ws     *handshake
	git    *gitRequest
}

// ServeHTTP takes one request the way of a call.
func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, path, _ := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), Prefix), "/")
	f.serve(w, r, exchange{name: name, path: "/" + path, door: Prefix + name})
}

func (f *Front) serve(w http.ResponseWriter, r *http.Request, at exchange) {
	for waited := false; ; waited = true {
		x := at
		x.f, x.w, x.r = f, w, r
		in := x.incoming()
		credential, err := x.credential()
		if err != nil {
			x.refuse(f.o.Gateway.Unauthenticated(in, err))
			return
		}
		in.Credential = credential
		refusal := x.take(in)
		if refusal == nil {
			return
		}
		if waited || !refusal.Held() || !f.o.Gateway.Await(r.Context(), refusal.Approval, gateway.PreferWait(r.Header)) {
			x.refuse(refusal)
			return
		}
		r = again(r, x.body)
	}
}

// again is the request with its body unread. Only one whose body was read whole
// can be held.
func again(r *http.Request, body []byte) *http.Request {
	r = r.Clone(r.Context())
	if r.ContentLength != 0 {
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}
	return r
}

// Resume makes a call that people approved, whose client may be gone: r is what
// its wire says, and it goes the way of every call from the beginning.
func (f *Front) Resume(w http.ResponseWriter, r *http.Request, resume *gateway.Resumed) {
	name, path, _ := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), Prefix), "/")
	x := exchange{f: f, w: w, r: r, name: name, path: "/" + path, door: Prefix + name}
	in := x.incoming()
	in.Resume = resume
	if refusal := x.take(in); refusal != nil {
		x.refuse(refusal)
	}
}

func (x *exchange) incoming() gateway.Incoming {
	return gateway.Incoming{
		Front: "http", Connection: x.name, Remote: x.r.RemoteAddr, Client: x.r.UserAgent(), Subject: gateway.SubjectOf(x.r.Header), Parse: x.parse, Wire: x.wire,
	}
}

// take takes the request the way of a call; nil if it was answered.
func (x *exchange) take(in gateway.Incoming) *gateway.Refusal {
	answer, err := x.f.o.Gateway.Serve(x.r.Context(), in)
	if err != nil {
		return gateway.Refuse(err)
	}
	if x.ws != nil && answer.Upgraded != nil {
		x.upgraded(answer)
		return nil
	}
	x.pass(answer)
	return nil
}

func (x *exchange) credential() (string, error) {
	if x.secret != "" {
		return x.secret, nil
	}
	return credential(x.r.Header)
}

// credential returns what a client presented: as other fronts take it, as
// Authorization: token, which GitHub's own SDK sends, or as the password of
// Authorization: Basic, which is all that git and many a client of an API can
// send. The user's name is not looked at.
func credential(h http.Header) (string, error) {
	values := h["Authorization"]
	scheme, rest := "", ""
	if len(values) == 1 {
		scheme, rest, _ = strings.Cut(values[0], " ")
	}
	switch strings.ToLower(scheme) {
	case "token":
		return bearer(h, rest)
	case "basic":
	default:
		return gateway.Credential(h)
	}
	_, password, ok := (&http.Request{Header: h}).BasicAuth()
	if !ok || password == "" {
		return "", gateway.ErrCredential.Say("no credential was presented; with Authorization: Basic send the agent's key as the password")
	}
	return bearer(h, password)
}

// bearer reads a credential as other fronts do.
func bearer(h http.Header, secret string) (string, error) {
	plain := h.Clone()
	plain["Authorization"] = []string{"Bearer " + secret}
	return gateway.Credential(plain)
}

// parse turns the request into a call. The caller is known; the body is read
// only now.
func (x *exchange) parse(ctx context.Context, who identity.Caller) (*gateway.Call, error) {
	call := &gateway.Call{}
	c, ok := x.f.o.Registry.Connection(x.name)
	if !ok || c.Kind != connections.HTTP {
		x.absent = true
		return call, errConnection
	}
	x.conn, call.Connection = c, c
	found, err := x.match(call)
	if !x.visible(who, call.Tool) { // before the body is read, as for one that is not there
		x.absent = true
		return call, gateway.ErrHidden
	}
	if err != nil {
		return call, err
	}
	if err := checkHeaders(x.r); err != nil {
		return call, err
	}
	call.Request = &gateway.Upstream{Method: x.r.Method, Path: x.path, Query: x.r.URL.RawQuery, Header: x.r.Header, Redirects: true}
	call.Rewrite = func(resp *http.Response) error { return x.rewrite(call, resp) }
	call.Observer = &observer{limit: gateway.CaptureLimit(c) + gateway.CaptureMargin}
	if err := found(ctx, call); err != nil {
		return call, err
	}
	if x.ws != nil && x.f.o.Gateway.Strict(&gateway.Call{Connection: c, Tool: call.Tool, Who: who}) {
		return call, errUpgrade.Say("the connection hands out untrusted text by reference, and of the messages of a WebSocket there can be none")
	}
	return call, nil
}

// match finds the tool that the request is. What it returns reads the rest.
func (x *exchange) match(call *gateway.Call) (func(context.Context, *gateway.Call) error, error) {
	if x.conn.Dialect == connections.Git {
		return x.matchGit(call)
	}
	op, values, allow, err := x.f.known.of(x.f.o.Registry, x.conn).match(x.r.Method, x.path)
	if err != nil {
		x.allow = allow
		return nil, err
	}
	x.op, call.Tool, x.path = op, op.tool, operation.Slashes(x.path)
	return func(_ context.Context, call *gateway.Call) error { return x.operation(call, values) }, nil
}

// visible reports whether who may use the tool, or anything on the connection:
// else, to it, there is none.
func (x *exchange) visible(who identity.Caller, tool connections.Tool) bool {
	if tool.Name != "" && x.f.o.Gateway.Visible(who, x.conn, tool) {
		return true
	}
	for _, t := range x.f.o.Registry.Tools(x.conn.Name) {
		if x.f.o.Gateway.Visible(who, x.conn, t) {
			return true
		}
	}
	return false
}

// overrides are the headers by which some servers take a request for another.
var overrides = []string{"X-Http-Method-Override", "X-Http-Method", "X-Method-Override", "X-Original-Url", "X-Original-Uri", "X-Rewrite-Url", "X-Forwarded-Prefix", "X-Forwarded-Path"}

func checkHeaders(r *http.Request) error {
	for _, name := range overrides {
		if len(r.Header[name]) > 0 {
			return errOverride.Say("the header %s changes what the request asks for and is refused; send the method and the path that are meant", name)
		}
	}
	if len(r.Trailer) > 0 {
		return errTrailer
	}
	return nil
}
