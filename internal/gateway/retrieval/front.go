package retrieval

import (
	"bytes"
	"context"
	"encoding/json/v2"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/identity"
)

// Prefix is the path beneath which the front serves: Prefix + connection for a
// search, and Prefix + connection + "/get" for one document.
const Prefix = "/retrieve/"

var (
	errConnection = fault.New(fault.NotFound, "unknown_connection", "there is no retrieval connection of this name that this agent may use; POST to /retrieve/CONNECTION or /retrieve/CONNECTION/get")
	errMethod     = fault.New(fault.Unsupported, "method_not_allowed", "POST a JSON object")
	errType       = fault.New(fault.Unsupported, "bad_content_type", "send the body as Content-Type: application/json, without a Content-Encoding")
)

// Registry knows connections and tools; connections.Service is one.
type Registry interface {
	Connection(name string) (connections.Connection, bool)
	Tool(connection, name string) (connections.Tool, bool)
	Tools(connection string) []connections.Tool
}

// Options configure a Front. Gateway and Registry must be set.
type Options struct {
	Gateway  *gateway.Gateway
	Registry Registry
	// ReadTimeout is how long a body may take to arrive; 0 means 30 seconds.
	ReadTimeout time.Duration
}

// maxBody is the largest request, in bytes.
const maxBody = 256 << 10

// Front serves searches over HTTP. It is an http.Handler for everything beneath
// Prefix; it must get paths as they were sent, not cleaned by a mux.
type Front struct{ o Options }

// New returns a front.
func New(o Options) *Front {
	if o.Gateway == nil || o.Registry == nil {
		panic("retrieval: Gateway and Registry must be set")
	}
	if o.ReadTimeout == 0 {
		o.ReadTimeout = 30 * time.Second
	}
	return &Front{o: o}
}

// exchange is one request and its answer.
type exchange struct {
	f    *Front
	w    http.ResponseWriter
	r    *http.Request
	name string // of the connection
	tool string // search or get; empty: there is nothing at the path

	conn   connections.Connection
	body   []byte
	absent bool // the agent may use nothing on the connection: to it there is none
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
		refusal := x.take(in)
		if refusal == nil {
			return
		}
		if waited || !refusal.Held() || !f.o.Gateway.Await(r.Context(), refusal.Approval, gateway.PreferWait(r.Header)) {
			x.refuse(refusal)
			return
		}
		r = r.Clone(r.Context())
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(x.body)), int64(len(x.body))
	}
}

// Resume makes a call that people approved, whose client may be gone.
func (f *Front) Resume(w http.ResponseWriter, r *http.Request, resume *gateway.Resumed) {
	x := f.exchange(w, r)
	in := x.incoming()
	in.Resume = resume
	if refusal := x.take(in); refusal != nil {
		x.refuse(refusal)
	}
}

func (f *Front) exchange(w http.ResponseWriter, r *http.Request) *exchange {
	x := &exchange{f: f, w: w, r: r}
	name, rest, beneath := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), Prefix), "/")
	switch {
	case !beneath:
		x.tool = connections.RetrieveSearch
	case rest == "get":
		x.tool = connections.RetrieveGet
	}
	if plain, err := url.PathUnescape(name); err == nil {
		x.name = plain
	}
	return x
}

func (x *exchange) incoming() gateway.Incoming {
	return gateway.Incoming{
		Front: "retrieve", Connection: x.name, Tool: x.tool, Remote: x.r.RemoteAddr, Client: x.r.UserAgent(), Subject: gateway.SubjectOf(x.r.Header), Parse: x.parse, Wire: x.wire,
	}
}

// take takes the request the way of a call; nil if it was answered.
func (x *exchange) take(in gateway.Incoming) *gateway.Refusal {
	a, err := x.f.o.Gateway.Serve(x.r.Context(), in)
	if err != nil {
		return gateway.Refuse(err)
	}
	x.pass(a)
	return nil
}

// wire is the request without its client.
func (x *exchange) wire() *approvals.Wire {
	w := &approvals.Wire{Front: "retrieve", Method: http.MethodPost, Path: Prefix + x.name, Body: x.body, Header: map[string][]string{"Content-Type": {"application/json"}}}
	if x.tool == connections.RetrieveGet {
		w.Path += "/get"
	}
	return w
}

// parse turns the request into a call. The caller is known; the body is read
// only now.
func (x *exchange) parse(_ context.Context, who identity.Caller) (*gateway.Call, error) {
	call := &gateway.Call{}
	c, ok := x.f.o.Registry.Connection(x.name)
	if !ok || c.Kind != connections.Retrieval {
		x.absent = true
		return call, errConnection
	}
	x.conn, call.Connection = c, c
	if !x.visible(who) { // before the body is read, as for one that is not there
		x.absent = true
		return call, gateway.ErrHidden
	}
	if call.Tool, ok = x.f.o.Registry.Tool(c.Name, x.tool); !ok || x.tool == "" {
		return call, errConnection
	}
	if err := x.read(); err != nil {
		return call, err
	}
	var err error
	if x.tool == connections.RetrieveGet {
		_, err = parseGet(x.body)
	} else {
		_, err = parseSearch(x.body)
	}
	if err != nil {
		return call, err
	}
	call.Args = x.body
	call.Request = &gateway.Upstream{Method: http.MethodPost, Path: plainPath, Body: x.body}
	call.Observer = &observer{limit: gateway.CaptureLimit(c) + gateway.CaptureMargin}
	return call, nil
}

// visible reports whether who may use anything on the connection.
func (x *exchange) visible(who identity.Caller) bool {
	for _, t := range x.f.o.Registry.Tools(x.conn.Name) {
		if !t.Protocol() && x.f.o.Gateway.Visible(who, x.conn, t) {
			return true
		}
	}
	return false
}

// read reads the body, which is small.
func (x *exchange) read() error {
	media, _, _ := strings.Cut(x.r.Header.Get("Content-Type"), ";")
	switch {
	case x.r.Method != http.MethodPost:
		return errMethod
	case x.r.URL.RawQuery != "":
		return errQuery.Say("the parameters go into the body, not into the URL")
	case !strings.EqualFold(strings.TrimSpace(media), "application/json") || x.r.Header.Get("Content-Encoding") != "":
		return errType
	}
	control := http.NewResponseController(x.w)
	_ = control.SetReadDeadline(time.Now().Add(x.f.o.ReadTimeout)) // not every ResponseWriter has one
	b, err := io.ReadAll(http.MaxBytesReader(x.w, x.r.Body, maxBody))
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return gateway.ErrSlow
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return gateway.ErrTooLarge.Say("the request is over the limit of %d bytes", maxBody)
	}
	if err != nil {
		return gateway.ErrBody.With(err)
	}
	_ = control.SetReadDeadline(time.Time{})
	x.body = b
	return nil
}

// pass writes the answer, which is whole.
func (x *exchange) pass(a *gateway.Answer) {
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		x.refuse(gateway.Refuse(err))
		return
	}
	h := x.w.Header()
	for name, values := range a.Header {
		h[name] = values
	}
	h.Set("X-Countersign-Call", a.Call)
	h.Set("Content-Length", strconv.Itoa(len(b)))
	x.w.WriteHeader(a.Status)
	if _, err := x.w.Write(b); err != nil {
		return // the client left
	}
	if a.Told != nil && http.NewResponseController(x.w).Flush() == nil && x.r.Context().Err() == nil {
		a.Told()
	}
}

// problem is a refusal as RFC 9457 has it.
type problem struct {
	Type     string   `json:"type"`
	Title    string   `json:"title"`
	Status   int      `json:"status"`
	Detail   string   `json:"detail"`
	Code     string   `json:"code"`
	Advice   []string `json:"advice,omitzero"`
	Event    string   `json:"event,omitzero"`
	Call     string   `json:"call,omitzero"`
	Approval string   `json:"approval,omitzero"`
}

// refuse writes a refusal: 202 for a call that waits for people, else what its
// kind says.
func (x *exchange) refuse(r *gateway.Refusal) {
	if x.absent { // the same bytes as for one that is not there
		r = &gateway.Refusal{Kind: errConnection.Kind, Code: errConnection.Code, Reason: errConnection.Message, Event: r.Event}
	}
	h, status := x.w.Header(), r.Kind.Status()
	if r.Call != "" {
		h.Set("X-Countersign-Call", r.Call)
	}
	p := problem{Type: "about:blank", Detail: r.Reason, Code: r.Code, Advice: r.Advice, Event: r.Event, Call: r.Call}
	switch {
	case r.Held():
		status, p.Approval = http.StatusAccepted, r.Approval.ID
		h.Set("Location", r.Approval.URL)
		p.Detail += ". Repeat the identical request to learn what people decided; it is made then if they approved"
	case status == http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="countersign"`)
	case r.Code == errMethod.Code:
		status = http.StatusMethodNotAllowed
		h.Set("Allow", http.MethodPost)
	}
	p.Title, p.Status = http.StatusText(status), status
	if r.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int((r.RetryAfter+time.Second-1)/time.Second)))
	}
	body, err := json.Marshal(p)
	if err != nil { // texts of ours, and valid UTF-8
		body = []byte(`{"type":"about:blank"}`)
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	x.w.WriteHeader(status)
	_, _ = x.w.Write(body) // if this fails, the client has left
}

// observer keeps the answer for the log.
type observer struct {
	limit int
	kept  []byte
	size  int64
}

// Begin implements gateway.Observer.
func (o *observer) Begin(int, http.Header) {}

// Chunk implements gateway.Observer.
func (o *observer) Chunk(b []byte) {
	o.size += int64(len(b))
	if room := o.limit - len(o.kept); room > 0 {
		o.kept = append(o.kept, b[:min(len(b), room)]...)
	}
}

// Done implements gateway.Observer.
func (o *observer) Done(error) gateway.Seen {
	if o.size == 0 {
		return gateway.Seen{}
	}
	return gateway.Seen{Payloads: []audit.Payload{{Name: "answer", Body: o.kept, Size: o.size}}}
}
