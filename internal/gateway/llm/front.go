package llm

import (
	"bytes"
	"context"
	"encoding/json/jsontext"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/llm/openai"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/runs"
)

// Prefix is the path beneath which the front serves: Prefix + connection +
// the provider's own path, as its clients build it from a base URL.
const Prefix = "/llm/"

// Errors about what was asked for.
var (
	errPathUnknown = fault.New(fault.NotFound, "unknown_path", "there is no such operation under this connection")
	errMethod      = fault.New(fault.Unsupported, "method_not_allowed", "the operation does not take this method")
	errNotLLM      = fault.New(fault.NotFound, "unknown_connection", "there is no model connection of this name that this agent may use; the path is /llm/CONNECTION/v1/...")
)

// Registry knows connections and tools; connections.Service is one.
type Registry interface {
	Connection(name string) (connections.Connection, bool)
	Tool(connection, name string) (connections.Tool, bool)
}

// Options configure a Front. Gateway and Registry must be set.
type Options struct {
	Gateway  *gateway.Gateway
	Registry Registry
	Logger   *slog.Logger
	// MaxBody is the largest request body in bytes; 0 means 32 MiB.
	MaxBody int64
	// ReadTimeout is how long a request's body may take to arrive; 0 means a minute.
	ReadTimeout time.Duration
	// WriteTimeout is how long a client may take to accept a piece of an
	// answer; 0 means a minute.
	WriteTimeout time.Duration
}

// Front serves models. It is an http.Handler for everything beneath Prefix; it
// must get paths as they were sent, not cleaned by a mux.
type Front struct{ o Options }

// New returns a front.
func New(o Options) *Front {
	if o.Gateway == nil || o.Registry == nil {
		panic("llm: Gateway and Registry must be set")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MaxBody == 0 {
		o.MaxBody = 32 << 20
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
	f       *Front
	w       http.ResponseWriter
	r       *http.Request
	dialect *dialect
	name    string // of the connection
	path    string // beneath the connection, escaped
	tool    string
	allow   string // the method that the path takes
	body    []byte // of the request, once it was read
	query   []string
	absent  bool // the agent may use nothing on the connection: to it there is none
	resumed bool // the server makes the call: there is no client that presents anything
}

// ServeHTTP takes one request the way of a call.
func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for waited := false; ; waited = true {
		x := f.exchange(w, r)
		in := x.incoming()
		credential, err := gateway.Credential(r.Header)
		if err != nil {
			x.refuse(f.o.Gateway.Unauthenticated(in, err))
			return
		}
		in.Credential = credential
		refusal := x.serve(in)
		if refusal == nil {
			return
		}
		if waited || !f.o.Gateway.AwaitPreferred(r.Context(), refusal, r.Header) {
			x.refuse(refusal)
			return
		}
		r = r.Clone(r.Context())
		r.Body = io.NopCloser(bytes.NewReader(x.body))
	}
}

// Resume makes a call that people approved, whose client may be gone: r is what
// its wire says, and it goes the way of every call from the beginning.
func (f *Front) Resume(w http.ResponseWriter, r *http.Request, resume *gateway.Resumed) {
	x := f.exchange(w, r)
	x.resumed = true
	in := x.incoming()
	in.Resume = resume
	if refusal := x.serve(in); refusal != nil {
		x.refuse(refusal)
	}
}

func (f *Front) exchange(w http.ResponseWriter, r *http.Request) *exchange {
	x := &exchange{f: f, w: w, r: r, dialect: guessDialect(r.Header)}
	rest := strings.TrimPrefix(r.URL.EscapedPath(), Prefix)
	x.name, x.path, _ = strings.Cut(rest, "/")
	x.path = "/" + x.path
	return x
}

func (x *exchange) incoming() gateway.Incoming {
	return gateway.Incoming{
		Front: "llm", Connection: x.name, Remote: x.r.RemoteAddr, Client: x.r.UserAgent(), Subject: gateway.SubjectOf(x.r.Header), Parse: x.parse, Wire: x.wire,
	}
}

// serve takes the request the way of a call; nil if it was answered.
func (x *exchange) serve(in gateway.Incoming) *gateway.Refusal {
	answer, err := x.f.o.Gateway.Serve(x.r.Context(), in)
	if err != nil {
		return gateway.Refuse(err)
	}
	x.pass(answer)
	return nil
}

// wire returns the request as the server can make it later without its client.
func (x *exchange) wire() *approvals.Wire {
	w := &approvals.Wire{Front: "llm", Method: x.r.Method, Path: x.r.URL.RequestURI(), Body: x.body, Header: map[string][]string{}}
	for _, name := range []string{"Content-Type", "Accept", "Anthropic-Beta", "Anthropic-Version", "Openai-Beta", "Openai-Organization", "Openai-Project"} {
		if v := x.r.Header[name]; len(v) > 0 {
			w.Header[name] = v
		}
	}
	return w
}

// parse turns the request into a call. The caller is known; the body is read
// only now.
func (x *exchange) parse(_ context.Context, who identity.Caller) (*gateway.Call, error) {
	call := &gateway.Call{}
	if !strings.HasPrefix(x.r.URL.EscapedPath(), Prefix) {
		return call, errPathUnknown
	}
	if err := gateway.CheckPath(x.r.URL.EscapedPath()); err != nil {
		return call, err
	}
	c, ok := x.f.o.Registry.Connection(x.name)
	if !ok || c.Kind != connections.LLM {
		return call, errNotLLM
	}
	if call.Connection = c; !x.known(who, c) { // before the body is read, as for one that is not there
		x.absent = true
		return call, gateway.ErrHidden
	}
	x.dialect = dialectOf(c)
	beneath, versioned := strings.CutPrefix(x.path, "/v1/")
	tool, model, method, ok := x.dialect.match("/" + beneath)
	if !versioned || !ok {
		return call, errPathUnknown
	}
	x.tool, x.allow = tool, method
	if call.Tool, ok = x.f.o.Registry.Tool(c.Name, tool); !ok {
		return call, errPathUnknown
	}
	if x.r.Method != method {
		return call, errMethod.Say("this operation takes %s, not %.20q", method, x.r.Method)
	}
	credential, err := gateway.Credential(x.r.Header)
	if err != nil && !x.resumed {
		return call, err
	}
	if x.query, err = readQuery(x.r.URL.RawQuery, credential); err != nil {
		return call, err
	}
	up := &gateway.Upstream{
		Method: method, Path: x.dialect.prefix(c.URL) + "/" + beneath, Query: x.r.URL.RawQuery, Header: x.r.Header,
	}
	if method == http.MethodGet {
		return call, x.lookup(call, up, who, model)
	}
	return call, x.generate(call, up)
}

// lookup is a call without a body: the list of models, or one of them.
func (x *exchange) lookup(call *gateway.Call, up *gateway.Upstream, who identity.Caller, model string) error {
	if x.r.ContentLength != 0 {
		return errNoBody
	}
	plain, err := unescape(model)
	if err != nil {
		return gateway.ErrPath
	}
	call.Args = withQuery(modelArgs(x.tool, plain), x.query)
	call.Digest = digestOf(up.Method, up.Path, up.Query)
	call.Observer = newObserver(x.dialect, false, gateway.CaptureLimit(call.Connection), "")
	call.Rewrite = x.checkAnswer
	if model == "" {
		// The list shows nothing that the agent may not use, so who may use
		// something here may ask what.
		call.Implied = func() bool { return x.sees(who, call.Connection) }
		call.Rewrite = func(resp *http.Response) error {
			return filterAnswer(resp, func(m string) bool { return x.usable(who, call.Connection, m) })
		}
	}
	call.Request = up
	return nil
}

// known reports whether who may use anything on the connection: else, to it,
// there is none.
func (x *exchange) known(who identity.Caller, c connections.Connection) bool {
	d := dialectOf(c)
	return x.anyOf(who, c, d.generating) || x.anyOf(who, c, []string{d.models})
}

// sees reports whether who may use any model at all for some arguments.
func (x *exchange) sees(who identity.Caller, c connections.Connection) bool {
	return x.anyOf(who, c, x.dialect.generating)
}

func (x *exchange) anyOf(who identity.Caller, c connections.Connection, tools []string) bool {
	for _, name := range tools {
		if tool, ok := x.f.o.Registry.Tool(c.Name, name); ok && x.f.o.Gateway.Visible(who, c, tool) {
			return true
		}
	}
	return false
}

// usable reports whether who may use a model for anything, were people to
// approve: what the list of models shows.
func (x *exchange) usable(who identity.Caller, c connections.Connection, model string) bool {
	for _, name := range x.dialect.generating {
		tool, ok := x.f.o.Registry.Tool(c.Name, name)
		// A policy may demand a limit, so a model that is usable within one is usable.
		for _, q := range []request{{model: model}, modest(model)} {
			if ok && x.f.o.Gateway.Would(who, c, tool, q.args(name)).Effect != policy.Deny {
				return true
			}
		}
	}
	return false
}

// modest asks for the least that can be asked of a model.
func modest(model string) request {
	return request{model: model, maxTokens: jsontext.Value("1"), n: jsontext.Value("1"), hasTools: true}
}

// generate is a call with a body that names a model.
func (x *exchange) generate(call *gateway.Call, up *gateway.Upstream) error {
	if err := checkHeader(x.r); err != nil {
		return err
	}
	body, err := readBody(x.w, x.r, x.f.o.MaxBody, x.f.o.ReadTimeout)
	if err != nil {
		return err
	}
	call.Request = up
	call.Reread = func(replace func([]byte) []byte) error { return x.take(call, replace(body)) }
	return x.take(call, body)
}

// take reads what policy and log need of a body.
func (x *exchange) take(call *gateway.Call, body []byte) error {
	q, err := scan(body, x.dialect.fields)
	if err != nil {
		return err
	}
	call.Request.Body, x.body = body, body
	call.Args = withQuery(q.args(x.tool), x.query)
	call.Said = func() []gateway.Said { return said(body, q.prompt) }
	call.Prompt = prompt(body, q.prompt, gateway.CaptureLimit(call.Connection))
	o := newObserver(x.dialect, x.tool != string(openai.Embeddings), gateway.CaptureLimit(call.Connection), lastSaid(body, q.prompt))
	o.model, call.Model, call.Odd = q.model, q.model, odd(q, body)
	call.Observer = o
	call.Fetches = len(q.provided) > 0
	call.Instructed = slices.Contains(q.provided, "prompt")
	call.Continues = func() []runs.Link { return links(body, q) }
	call.Rewrite = x.checkAnswer
	return nil
}

// prompt returns the parts of body that the log keeps.
func prompt(body []byte, spans []span, limit int) []audit.Payload {
	payloads := make([]audit.Payload, 0, len(spans))
	for _, s := range spans {
		payloads = append(payloads, audit.Payload{Name: s.name, Size: int64(s.end - s.start), Body: newest(body, s, limit)})
	}
	return payloads
}

// newest returns what the log keeps of a value. Clients send the whole
// conversation again with each request, so of a long one its last messages are
// kept: what is new. The digest in the event is that of the whole request.
func newest(body []byte, s span, limit int) []byte {
	whole := body[s.start:s.end:s.end]
	if len(whole) <= limit || len(s.parts) == 0 {
		return whole[:min(len(whole), limit+gateway.CaptureMargin)]
	}
	last := len(s.parts) - 1
	from := s.parts[last]
	for i := last; i >= 0 && s.end-s.parts[i] < limit; i-- {
		from = s.parts[i]
	}
	kept := make([]byte, 0, min(s.end-from, limit+gateway.CaptureMargin)+1)
	kept = append(kept, '[')
	return append(kept, body[from:min(s.end, from+cap(kept)-1)]...)
}
