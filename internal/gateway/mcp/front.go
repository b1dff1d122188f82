package mcp

import (
	"context"
	"crypto/cipher"
	"encoding/json/jsontext"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/policy"
)

// Errors of this package, beside those of gateway.
var (
	ErrOrigin    = fault.New(fault.Denied, "origin_refused", "requests from web pages of this origin are refused")
	ErrMethod    = fault.New(fault.Unsupported, "method_not_allowed", "this endpoint takes POST; GET and DELETE only with a session of protocol 2025-11-25 or older")
	ErrPath      = fault.New(fault.NotFound, "unknown_path", "there is nothing at this path; an MCP server is at /mcp/{connection}, all of them at /mcp")
	ErrMedia     = fault.New(fault.Unsupported, "content_type", "send one JSON-RPC message as application/json")
	ErrAccept    = fault.New(fault.Invalid, "accept", "accept both application/json and text/event-stream")
	ErrMessage   = fault.New(fault.Invalid, "bad_message", "the message could not be understood")
	ErrNoMethod  = fault.New(fault.NotFound, "unknown_method", "there is no such method")
	ErrNoTool    = fault.New(fault.NotFound, "unknown_tool", "there is no such tool")
	ErrSession   = fault.New(fault.NotFound, "unknown_session", "there is no such session; begin a new one with initialize")
	ErrDiscovery = fault.New(fault.Upstream, "discovery_failed", "the MCP server could not be asked for its tools")
)

// Registry is what the front needs to know of connections;
// connections.Service is one.
type Registry interface {
	Connection(name string) (connections.Connection, bool)
	Connections() []connections.Connection
	Tool(connection, name string) (connections.Tool, bool)
	Tools(connection string) []connections.Tool
	Observe(ctx context.Context, connection string, defs []connections.Definition) (map[string]connections.Verdict, error)
}

// Line is the way of a call; *gateway.Gateway is it.
type Line interface {
	Serve(ctx context.Context, in gateway.Incoming) (*gateway.Answer, error)
	Reach(ctx context.Context, by audit.Actor, reason string, call *gateway.Call) (*gateway.Answer, error)
	Identify(ctx context.Context, in gateway.Incoming) (identity.Caller, error)
	Unauthenticated(in gateway.Incoming, err error) *gateway.Refusal
	Visible(who identity.Caller, c connections.Connection, t connections.Tool) bool
	Listed(who identity.Caller, c connections.Connection, t connections.Tool) bool
	Await(ctx context.Context, w *gateway.Waiting, most time.Duration) bool
	Ask(ctx context.Context, who identity.Caller, request string, most time.Duration) (*gateway.Waiting, error)
	Collect(ctx context.Context, in gateway.Incoming, who identity.Caller, w *gateway.Waiting, call *gateway.Call) (*approvals.Kept, error)
	Keep(ctx context.Context, who identity.Caller, connection, tool string, k *approvals.Kept) (*gateway.Waiting, error)
	Withdraw(ctx context.Context, who identity.Caller, w *gateway.Waiting) error
	MayHold(who identity.Caller, c connections.Connection, t connections.Tool) bool
	Learn(call *gateway.Call, result []byte)
	Strict(call *gateway.Call) bool
	Refer(call *gateway.Call, result []byte) ([]byte, error)
	Would(who identity.Caller, c connections.Connection, t connections.Tool, args jsontext.Value) policy.Decision
}

// Limits.
const (
	// MaxBody is the largest request body, in bytes, unless Options say else.
	MaxBody = 4 << 20
	// maxAnswer is the largest JSON answer that is read as a whole, and the
	// largest single event of a stream.
	maxAnswer = 16 << 20
	// bodyTime is how long a client may take to send its body, unless Options
	// say else.
	bodyTime = 30 * time.Second
	// writeTime is how long a client may take to accept a piece of an answer.
	writeTime = time.Minute
	// idleAnswer is how long a stream that answers a request may be silent.
	idleAnswer = 10 * time.Minute
)

// Options are what a Front is made of. Line, Registry and Key must be set.
type Options struct {
	Line     Line
	Registry Registry
	Key      []byte   // 32 bytes that seal session ids; the same on every replica, derived from the master key
	Origins  []string // origins ("https://host") of web pages that may call, beside those on this machine
	MaxBody  int64    // 0 means MaxBody
	// ReadTimeout is how long a request's body may take to arrive; 0 means 30
	// seconds.
	ReadTimeout time.Duration
	Version     string        // of Countersign, told to peers
	Progress    time.Duration // how often a client that waits for people hears of it; 0 means 10 s
	Now         func() time.Time
	Logger      *slog.Logger
	// Grants lets agents ask for grants; nil: they cannot.
	Grants Grants
	// Scopes lets agents state the scope of their runs; nil: none can.
	Scopes Scopes
	// Challenge returns the WWW-Authenticate header of a refusal at a path; nil
	// names the scheme alone.
	Challenge func(ctx context.Context, who identity.Caller, path, scope string, presented bool) string
}

// Front serves /mcp and /mcp/{connection}. It is an http.Handler and safe for
// concurrent use.
type Front struct {
	o     Options
	seal  cipher.AEAD
	watch *watch
	peers *peers
	shown shown
	ids   atomic.Int64 // of requests that we make as a client
}

// New returns a Front. Close stops what it does in the background.
func New(o Options) *Front {
	if o.Line == nil || o.Registry == nil || len(o.Key) != chacha20poly1305.KeySize {
		panic("mcp: Line, Registry and a Key of 32 bytes must be set")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MaxBody == 0 {
		o.MaxBody = MaxBody
	}
	if o.ReadTimeout == 0 {
		o.ReadTimeout = bodyTime
	}
	if o.Progress == 0 {
		o.Progress = 10 * time.Second
	}
	if o.Version == "" {
		o.Version = "0"
	}
	aead, err := chacha20poly1305.NewX(o.Key)
	if err != nil {
		panic(err) // the length was checked
	}
	f := &Front{o: o, seal: aead, shown: shown{open: map[string]context.CancelFunc{}}}
	f.watch = newWatch(f)
	f.peers = newPeers(f)
	return f
}

// Close ends background work and forgets upstream sessions.
func (f *Front) Close() {
	f.watch.close()
	f.peers.close()
}

// prefix is the path of the aggregated endpoint; a connection's is beneath it.
const prefix = "/mcp"

// ServeHTTP takes one request the way of a call. It must get paths as they were
// sent, not cleaned by a mux: what a mux would redirect is refused here, and
// recorded.
func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &exchange{f: f, w: w, r: r}
	path := r.URL.EscapedPath()
	rest, under := strings.CutPrefix(path, prefix)
	if !under || (rest != "" && rest[0] != '/') || gateway.CheckPath(path) != nil {
		x.nowhere(gateway.ErrPath)
		return
	}
	if rest == "" || rest == "/" {
		f.serveAll(w, r)
		return
	}
	name, _, beneath := strings.Cut(rest[1:], "/")
	var err error
	if x.name, err = url.PathUnescape(name); err != nil {
		x.nowhere(gateway.ErrPath)
		return
	}
	if beneath { // beneath a connection there is nothing
		x.nowhere(ErrPath)
		return
	}
	x.serve()
}

// serve is one request to one connection. A client that can hear of it is kept
// while people decide about a held call, which then begins again.
func (x *exchange) serve() {
	late := &late{ResponseWriter: x.w}
	defer late.finish()
	x.w = late
	for waited := false; ; waited = true {
		in, refused := x.f.incoming(x.r, x.name, x.parse)
		if refused != nil {
			x.refuse(refused)
			return
		}
		in.Wire = x.wire
		answer, err := x.f.o.Line.Serve(x.r.Context(), in)
		if err == nil {
			x.answer(answer)
			return
		}
		refusal := gateway.Refuse(err)
		if refusal.Code == gateway.ErrOwn.Code {
			x.own()
			return
		}
		if waited || !x.await(late, refusal) {
			x.refuse(refusal)
			return
		}
		x = &exchange{f: x.f, w: late, r: again(x.r, x.sent), name: x.name}
	}
}

// nowhere refuses a path at which there is nothing; why says so.
func (x *exchange) nowhere(why error) {
	in, refused := x.f.incoming(x.r, x.name, func(context.Context, identity.Caller) (*gateway.Call, error) { return nil, why })
	if refused == nil {
		_, err := x.f.o.Line.Serve(x.r.Context(), in)
		refused = gateway.Refuse(err)
	}
	x.refuse(refused)
}

// incoming checks what can be checked before anyone knows who calls.
func (f *Front) incoming(r *http.Request, name string, parse func(context.Context, identity.Caller) (*gateway.Call, error)) (gateway.Incoming, *gateway.Refusal) {
	in := gateway.Incoming{Front: "mcp", Connection: name, Remote: r.RemoteAddr, Client: r.UserAgent(), Subject: gateway.SubjectOf(r.Header), Parse: parse}
	if !f.originAllowed(r.Header) {
		return in, f.o.Line.Unauthenticated(in, ErrOrigin)
	}
	credential, err := gateway.Credential(r.Header)
	if err != nil {
		return in, f.o.Line.Unauthenticated(in, err)
	}
	in.Credential = credential
	return in, nil
}

// originAllowed refuses web pages: a page whose name was rebound to this
// machine must not reach its tools (MCP, transports, security warning). Agents
// send no Origin.
func (f *Front) originAllowed(h http.Header) bool {
	for _, origin := range h.Values("Origin") {
		if slices.Contains(f.o.Origins, origin) {
			continue
		}
		u, err := url.Parse(origin)
		if err != nil || u.Host == "" || !local(u.Hostname()) {
			return false
		}
	}
	return true
}

func local(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || (ip != nil && ip.IsLoopback())
}

// body reads a request's body, which must come in time and within the limit.
func (f *Front) body(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength > f.o.MaxBody {
		return nil, tooLarge(f.o.MaxBody)
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(f.o.ReadTimeout)) // not supported by test recorders; the server's own limit stays
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, f.o.MaxBody))
	if err == nil {
		_ = control.SetReadDeadline(time.Time{})
		return b, nil
	}
	// The deadline stays: net/http drains what is left of a body before it sends
	// the refusal, and who never sends it would hold the connection for good.
	if e, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, tooLarge(e.Limit)
	}
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		return nil, gateway.ErrSlow
	}
	return nil, gateway.ErrBody.With(err)
}

func tooLarge(limit int64) error {
	return gateway.ErrTooLarge.Say("the message is over the limit of %d bytes", limit)
}

// accepts reports which of the two media types an Accept header allows.
func accepts(h http.Header) (json, stream bool) {
	for _, v := range h.Values("Accept") {
		for part := range strings.SplitSeq(v, ",") {
			switch media(part) {
			case "*/*":
				return true, true
			case "application/json", "application/*":
				json = true
			case "text/event-stream", "text/*":
				stream = true
			}
		}
	}
	return json, stream
}

func media(v string) string {
	base, _, _ := strings.Cut(v, ";")
	return strings.ToLower(strings.TrimSpace(base))
}
