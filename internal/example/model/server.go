package model

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json/v2"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

const (
	maxBody           = 64 << 20
	defaultRemembered = 100_000
)

// Options configure a [Server].
type Options struct {
	// Key is the API key that callers must present. It must not be empty.
	Key string
	// Remember is how many requests GET /_requests can return: 0 means 100,000,
	// a negative number remembers none (for benchmarks).
	Remember int
	// Now is the clock for time stamps in answers and records; nil means time.Now.
	Now func() time.Time
}

// Server is the scripted model provider. It is an [http.Handler].
type Server struct {
	key     [sha256.Size]byte
	now     func() time.Time
	records recorder
}

// ErrNoKey says that a server was asked for without an API key to demand.
var ErrNoKey = errors.New("the model server needs an API key to demand from its callers: set Options.Key")

// New returns a server that demands opts.Key.
func New(opts Options) (*Server, error) {
	if opts.Key == "" {
		return nil, ErrNoKey
	}
	s := &Server{key: sha256.Sum256([]byte(opts.Key)), now: opts.Now}
	if s.now == nil {
		s.now = time.Now
	}
	s.records.limit = opts.Remember
	if opts.Remember == 0 {
		s.records.limit = defaultRemembered
	}
	return s, nil
}

// Requests returns what the server remembers, oldest first, and how many older
// requests fell out of its memory.
func (s *Server) Requests() (kept []Request, dropped int64) { return s.records.list() }

// ServeHTTP implements [http.Handler]. It routes by hand: a router that answers
// odd paths with redirects of its own would answer requests it never recorded.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method + " " + r.URL.Path {
	case "GET /_requests":
		s.listRequests(w, r)
	case "DELETE /_requests":
		s.dropRequests(w, r)
	case "POST /v1/chat/completions":
		s.serve(w, r, openAI, (*exchange).chat)
	case "POST /v1/responses":
		s.serve(w, r, openAI, (*exchange).responses)
	case "POST /v1/embeddings":
		s.serve(w, r, openAI, (*exchange).embeddings)
	case "POST /v1/messages":
		s.serve(w, r, anthropic, (*exchange).messages)
	case "POST /v1/messages/count_tokens":
		s.serve(w, r, anthropic, (*exchange).countTokens)
	case "GET /v1/models":
		s.serve(w, r, either, (*exchange).listModels)
	default:
		if r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/v1/models/") {
			s.serve(w, r, either, (*exchange).getModel)
			return
		}
		s.serve(w, r, either, func(x *exchange) {
			x.fail(http.StatusNotFound, "there is nothing at "+x.r.Method+" "+x.r.URL.Path)
		})
	}
}

// Serve answers on l until ctx is done, then closes every connection (streams
// that never end included) and returns nil. It owns l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	err := srv.Serve(l)
	if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// dialect is whose wire format a door speaks.
type dialect int

const (
	openAI dialect = iota
	anthropic
	// either is decided by the request: Anthropic's clients send their version.
	either
)

// exchange is one request on its way to an answer.
type exchange struct {
	s       *Server
	w       http.ResponseWriter
	r       *http.Request
	dialect dialect
	body    []byte
	// id is derived from the body, so equal requests get equal identifiers.
	id string
	// knobs are set by the name of the model.
	knobs knobs
}

// serve reads the body, writes the request down, checks the key and then lets
// the endpoint answer.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, d dialect, endpoint func(*exchange)) {
	x := &exchange{s: s, w: w, r: r, dialect: d}
	if d == either {
		x.dialect = openAI
		if r.Header.Get("Anthropic-Version") != "" || r.Header.Get("X-Api-Key") != "" {
			x.dialect = anthropic
		}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	key := x.credential()
	ok := s.authorised(key)
	rec := newRequest(r, body, key, ok, s.now())
	x.body, x.id = body, rec.BodySHA256[:20]
	s.records.add(rec)
	header := "X-Request-Id"
	if x.dialect == anthropic {
		header = "Request-Id"
	}
	w.Header().Set(header, "req_"+x.id)
	switch {
	case err != nil:
		x.fail(http.StatusBadRequest, "the body could not be read: "+err.Error())
	case !ok:
		x.fail(http.StatusUnauthorized, "the API key is missing or not the one of this provider")
	default:
		endpoint(x)
	}
}

// credential is the presented key, where this dialect's clients put it.
func (x *exchange) credential() string {
	if x.dialect == anthropic {
		return x.r.Header.Get("X-Api-Key")
	}
	scheme, key, _ := strings.Cut(x.r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(key)
}

func (s *Server) authorised(key string) bool {
	sum := sha256.Sum256([]byte(key))
	return subtle.ConstantTimeCompare(sum[:], s.key[:]) == 1
}

// guard admits a reader of the records: either form of the key will do.
func (s *Server) guard(w http.ResponseWriter, r *http.Request) bool {
	for _, d := range []dialect{openAI, anthropic} {
		if s.authorised((&exchange{r: r, dialect: d}).credential()) {
			return true
		}
	}
	writeJSON(w, http.StatusUnauthorized, obj{"error": "present the provider's API key to read its records"})
	return false
}

func (s *Server) listRequests(w http.ResponseWriter, r *http.Request) {
	if s.guard(w, r) {
		kept, dropped := s.Requests()
		writeJSON(w, http.StatusOK, obj{"requests": kept, "dropped": dropped})
	}
}

func (s *Server) dropRequests(w http.ResponseWriter, r *http.Request) {
	if s.guard(w, r) {
		s.records.reset()
		w.WriteHeader(http.StatusNoContent)
	}
}

// obj is a JSON object for answers; keys are written in order of the alphabet.
type obj map[string]any

func marshal(v any) []byte {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		// Only values built in this package come here; one that cannot be written is a bug.
		panic(err)
	}
	return b
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(marshal(v))
}

// idOf derives a short identifier from parts, for calls and items.
func idOf(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:12])
}

// errorBody is an error in the dialect's own shape.
func (x *exchange) errorBody(status int, message string) obj {
	if x.dialect == anthropic {
		kinds := map[int]string{400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
			413: "request_too_large", 429: "rate_limit_error", 529: "overloaded_error"}
		kind := kinds[status]
		if kind == "" {
			kind = "api_error"
		}
		return obj{"type": "error", "error": obj{"type": kind, "message": message}, "request_id": "req_" + x.id}
	}
	kind, code := "invalid_request_error", any(nil)
	switch {
	case status == 401:
		code = "invalid_api_key"
	case status == 404:
		code = "model_not_found"
	case status == 429:
		kind, code = "rate_limit_error", "rate_limit_exceeded"
	case status >= 500:
		kind, code = "server_error", "internal_error"
	}
	return obj{"error": obj{"message": message, "type": kind, "param": nil, "code": code}}
}

func (x *exchange) fail(status int, message string) {
	writeJSON(x.w, status, x.errorBody(status, message))
}
