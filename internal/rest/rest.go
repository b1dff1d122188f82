package rest

import (
	"cmp"
	"context"
	"encoding/json/v2"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/id"
)

// Errors of this package.
var (
	ErrNoToken = fault.New(fault.Unauthenticated, "no_token", "no valid user token was presented; set COUNTERSIGN_TOKEN or run countersign login")
)

// Caller is the signed-in person on whose behalf an operation runs.
type Caller struct {
	ID      string // usr_…
	Name    string
	Role    string
	Reason  string // X-Countersign-Reason: why the person does it, for the log
	Request string // the request's identifier, also in the answer's X-Request-Id
	Remote  string // network address of the client, without the port

	Credential string // identifier of the token presented, never its value
	Program    bool   // the token was made for programs: no person signed in for it
}

// Authenticator resolves the bearer token of a request to a person. It returns
// a fault when the token is missing, unknown, expired or revoked.
type Authenticator func(ctx context.Context, token string) (Caller, error)

// API collects operations and serves them with their OpenAPI 3.1 description
// at /api/openapi.json.
type API struct {
	huma huma.API
	auth Authenticator
	log  *slog.Logger
	room string // whose operation is being declared

	// Owns decides who may do what needs Own without being allowed to Write.
	// Nil lets nobody.
	Owns Owns

	// Refused is told of every request that was refused before it was decoded:
	// who asked is not known, or may not. c names the person as far as known. It
	// must not block. Nil tells nobody.
	Refused func(c Caller, op Op, p *Problem)
}

// MaxBody is the largest request body an operation accepts unless it says
// otherwise, in bytes.
const MaxBody = 4 << 20

// New mounts an empty API on mux.
func New(mux *http.ServeMux, version string, auth Authenticator, log *slog.Logger) *API {
	cfg := huma.DefaultConfig("Countersign", version)
	cfg.OpenAPIPath = "/api/openapi"
	cfg.DocsPath, cfg.SchemasPath = "", "/api/schemas"
	cfg.CreateHooks = nil // no $schema member in answers
	cfg.Formats = map[string]huma.Format{"application/json": strict, "json": strict}
	cfg.Transformers = append(cfg.Transformers, withoutValues)
	cfg.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"user": {Type: "http", Scheme: "bearer", Description: "A user token (csu_…)"},
	}
	api := &API{auth: auth, log: log}
	cfg.Components.Schemas = huma.NewMapRegistry("#/components/schemas/", api.schemaName)
	api.huma = humago.New(mux, cfg)
	return api
}

// strict reads and writes JSON by the one parser: duplicate names, invalid
// UTF-8 and trailing data are refused.
var strict = huma.Format{
	Marshal:   func(w io.Writer, v any) error { return json.MarshalWrite(w, v) },
	Unmarshal: func(b []byte, v any) error { return json.Unmarshal(b, v) },
}

// schemaName puts the room before the type, because rooms name their types
// without asking each other.
func (api *API) schemaName(t reflect.Type, hint string) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	room := api.room
	if pkg := t.PkgPath(); pkg != "" {
		room = path.Base(pkg)
	}
	name := huma.DefaultSchemaNamer(t, hint)
	if room == "" {
		return name
	}
	return strings.ToUpper(room[:1]) + room[1:] + name
}

// Op describes an operation.
type Op struct {
	Method, Path string
	Summary      string // one line, imperative
	Tag          string // the room
	Need         Need
	Of           string // for Own: whose object it is, such as "agent/{name}" with a parameter of Path
	Status       int    // of success; 0 means 200, or 204 when the answer has no body
	// MaxBody is the largest request body in bytes; 0 means MaxBody.
	MaxBody int64
}

type callerKey struct{}

// Handle declares an operation. Req carries path:, query:, header: and Body
// fields as huma reads them; unknown body fields are refused. Resp is the
// answer's JSON body; use None for an empty one.
func Handle[Req, Resp any](api *API, op Op, fn func(ctx context.Context, c Caller, req *Req) (*Resp, error)) {
	type output struct{ Body *Resp }
	op = op.said()
	o := api.operation(op)
	if _, none := any((*Resp)(nil)).(*None); none {
		if o.DefaultStatus == 0 {
			o.DefaultStatus = http.StatusNoContent
		}
		huma.Register(api.huma, o, func(ctx context.Context, req *Req) (*struct{}, error) {
			c, _ := ctx.Value(callerKey{}).(Caller)
			_, err := fn(ctx, c, req)
			return nil, api.problem(c, op, err)
		})
		return
	}
	huma.Register(api.huma, o, func(ctx context.Context, req *Req) (*output, error) {
		c, _ := ctx.Value(callerKey{}).(Caller)
		resp, err := fn(ctx, c, req)
		if err != nil {
			return nil, api.problem(c, op, err)
		}
		return &output{Body: resp}, nil
	})
}

// None is the answer of an operation without a body.
type None struct{}

// Stream writes an answer piece by piece (text/event-stream, JSON Lines).
// An error before the first write becomes a problem document.
type Stream func(w http.ResponseWriter) error

// HandleStream declares a GET operation whose answer is streamed.
func HandleStream[Req any](api *API, op Op, contentType string, fn func(ctx context.Context, c Caller, req *Req) (Stream, error)) {
	op = op.said()
	o := api.operation(op)
	o.Responses = map[string]*huma.Response{"200": {Description: "stream", Content: map[string]*huma.MediaType{contentType: {}}}}
	huma.Register(api.huma, o, func(ctx context.Context, req *Req) (*huma.StreamResponse, error) {
		c, _ := ctx.Value(callerKey{}).(Caller)
		ctx, end := api.whileWelcome(ctx, op)
		stream, err := fn(ctx, c, req)
		if err != nil {
			end()
			return nil, api.problem(c, op, err)
		}
		return &huma.StreamResponse{Body: func(hc huma.Context) {
			defer end()
			_, w := humago.Unwrap(hc)
			w.Header().Set("Content-Type", contentType)
			w.Header().Set("Cache-Control", "no-store")
			if err := stream(w); err != nil && ctx.Err() == nil {
				api.log.Warn("stream ended", "path", op.Path, "error", err)
			}
		}}, nil
	})
}

// askAgain is how often a stream's caller is looked at again.
const askAgain = time.Second

type tokenKey struct{}

// whileWelcome returns a context that ends when the caller's token does: a
// stream can outlive the right to see it.
func (api *API) whileWelcome(ctx context.Context, op Op) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	token, _ := ctx.Value(tokenKey{}).(string)
	if op.Need == Public {
		return ctx, cancel
	}
	go func() {
		tick := time.NewTicker(askAgain)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if c, err := api.auth(ctx, token); err != nil || c.Refuse(op.Need) != nil {
				cancel()
				return
			}
		}
	}()
	return ctx, cancel
}

// said returns the operation with its need: Read if a GET does not say. What
// may change something must say what it takes, so that nothing is open because
// nobody thought of it.
func (op Op) said() Op {
	switch {
	case op.Need != unsaid:
	case op.Method == http.MethodGet:
		op.Need = Read
	default:
		panic("rest: " + op.Method + " " + op.Path + " does not say what it needs")
	}
	if (op.Need == Own) != (op.Of != "") {
		panic("rest: " + op.Method + " " + op.Path + ": Own and Of go together")
	}
	return op
}

func (api *API) operation(op Op) huma.Operation {
	api.room = op.Tag
	o := huma.Operation{
		OperationID: operationID(op), Method: op.Method, Path: op.Path, Summary: op.Summary, DefaultStatus: op.Status,
		MaxBodyBytes: cmp.Or(op.MaxBody, MaxBody), Middlewares: huma.Middlewares{api.authenticate(op)},
		Extensions: map[string]any{"x-countersign-need": op.Need.String()},
	}
	if op.Tag != "" {
		o.Tags = []string{op.Tag}
	}
	if op.Need != Public {
		o.Security = []map[string][]string{{"user": {}}}
	}
	return o
}

func operationID(op Op) string {
	path := strings.NewReplacer("/api/v1/", "", "/", "-", "{", "", "}", "").Replace(op.Path)
	return strings.ToLower(op.Method) + "-" + path
}

// authenticate resolves and checks the caller before the body is read.
func (api *API) authenticate(op Op) func(huma.Context, func(huma.Context)) {
	return func(hc huma.Context, next func(huma.Context)) {
		request := id.New("req")
		hc.SetHeader("X-Request-Id", request)
		hc.SetHeader("Cache-Control", "no-store")
		c := Caller{}
		if op.Need != Public {
			var err error
			if c, err = api.caller(hc, op); err != nil {
				c.Request, c.Remote = request, host(hc.RemoteAddr())
				api.refuse(hc, c, op, err)
				return
			}
		}
		c.Request, c.Reason, c.Remote = request, hc.Header("X-Countersign-Reason"), host(hc.RemoteAddr())
		token, _ := strings.CutPrefix(hc.Header("Authorization"), "Bearer ")
		next(huma.WithValue(huma.WithValue(hc, callerKey{}, c), tokenKey{}, token))
	}
}

func host(addr string) string {
	if h, _, err := net.SplitHostPort(addr); err == nil {
		return h
	}
	return addr
}

func (api *API) caller(hc huma.Context, op Op) (Caller, error) {
	token, ok := strings.CutPrefix(hc.Header("Authorization"), "Bearer ")
	if !ok {
		return Caller{}, ErrNoToken
	}
	c, err := api.auth(hc.Context(), token)
	if err != nil {
		return Caller{}, err
	}
	return c, api.permit(hc.Context(), c, op, hc.Param)
}

func (api *API) refuse(hc huma.Context, c Caller, op Op, err error) {
	p := api.document(c, op, err)
	if api.Refused != nil {
		api.Refused(c, op, p)
	}
	if p.Status == http.StatusUnauthorized {
		hc.SetHeader("WWW-Authenticate", `Bearer realm="countersign"`)
	}
	hc.SetHeader("Content-Type", "application/problem+json")
	hc.SetStatus(p.Status)
	if err := json.MarshalWrite(hc.BodyWriter(), p); err != nil {
		api.log.Debug("the client left before its refusal", "request", c.Request, "error", err)
	}
}

// Problem is an RFC 9457 problem document.
type Problem struct {
	Type    string `json:"type"`
	Title   string `json:"title"`
	Status  int    `json:"status"`
	Code    string `json:"code" doc:"stable, for programs"`
	Detail  string `json:"detail" doc:"for people: what happened and what to do"`
	Request string `json:"request_id"`
}

// Error implements error.
func (p *Problem) Error() string { return p.Detail }

// GetStatus implements huma.StatusError.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType makes huma label the document as RFC 9457 asks.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// ErrRequest is answered when a request does not have the form its operation declares.
var ErrRequest = fault.New(fault.Invalid, "invalid_request", "the request does not have the declared form")

// withoutValues turns the framework's own refusals into Problems. They would
// show what was sent, and so the passwords and secrets in it.
func withoutValues(hc huma.Context, _ string, v any) (any, error) {
	m, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	c, _ := hc.Context().Value(callerKey{}).(Caller)
	details := []string{m.Detail}
	for _, e := range m.Errors {
		details = append(details, strings.TrimPrefix(e.Location+": "+e.Message, ": "))
	}
	return &Problem{Type: "about:blank", Title: m.Title, Status: m.Status, Code: ErrRequest.Code, Detail: strings.Join(details, "; "), Request: c.Request}, nil
}

func (api *API) problem(c Caller, op Op, err error) error {
	if err == nil {
		return nil
	}
	var ready huma.StatusError
	if errors.As(err, &ready) {
		return ready
	}
	return api.document(c, op, err)
}

// document is what may be shown of err.
func (api *API) document(c Caller, op Op, err error) *Problem {
	public := fault.Public(err)
	if public.Kind == fault.Internal {
		api.log.Error("request failed", "request", c.Request, "operation", operationID(op), "error", err)
	}
	status := public.Kind.Status()
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Code: public.Code, Detail: public.Message, Request: c.Request}
}
