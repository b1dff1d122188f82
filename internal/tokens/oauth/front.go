package oauth

import (
	"context"
	"encoding/json/v2"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/tokens"
)

// People signs persons in and out; identity.Service does.
type People interface {
	Login(ctx context.Context, name, password, remote string) (identity.Token, string, error)
	AuthenticateUser(ctx context.Context, token string) (rest.Caller, error)
}

// Options are what a Front is made of.
type Options struct {
	Tokens *tokens.Service
	People People
	// Elsewhere lets persons sign in at their identity provider; may be nil.
	Elsewhere Elsewhere
	Key       []byte // 32 bytes that forms are bound with; the same on every replica
	// Trap is shown every credential that was refused, with who presented it and
	// where: it may be a canary. It must not block, nor keep the credential. May be nil.
	Trap func(credential, remote, client, door string)
}

// Front serves the doors. It is safe for concurrent use.
type Front struct {
	o      Options
	origin *http.CrossOriginProtection
}

// maxForm bounds a request body, in bytes.
const maxForm = 64 << 10

// New returns a Front.
func New(o Options) *Front {
	if o.Tokens == nil || o.People == nil || len(o.Key) != 32 {
		panic("oauth: Tokens, People and a Key of 32 bytes must be set")
	}
	return &Front{o: o, origin: http.NewCrossOriginProtection()}
}

// Routes mounts the doors on mux.
func (f *Front) Routes(mux *http.ServeMux) {
	mux.HandleFunc("POST /oauth2/token", f.token)
	mux.HandleFunc("POST /oauth2/device_authorization", f.enrol)
	mux.HandleFunc("POST /oauth2/revoke", f.revoke)
	mux.HandleFunc("POST /oauth2/register", f.register)
	mux.HandleFunc("GET /oauth2/jwks", f.jwks)
	mux.HandleFunc("GET /oauth2/authorize", f.authorize)
	mux.HandleFunc("POST /oauth2/login", f.login)
	mux.HandleFunc("GET /oauth2/elsewhere", f.elsewhere)
	mux.HandleFunc("GET "+signedIn, f.back)
	mux.HandleFunc("POST /oauth2/consent", f.consent)
	mux.HandleFunc("GET /.well-known/oauth-authorization-server", f.metadata)
	mux.HandleFunc("GET /.well-known/openid-configuration", f.metadata)
	mux.HandleFunc("GET "+resourceMetadata, f.resource)
	mux.HandleFunc("GET "+resourceMetadata+"/{path...}", f.resource)
}

// form reads a form, in which no parameter comes twice but the named ones
// (RFC 6749 section 3.2): with two values, two readers could see two requests.
func form(w http.ResponseWriter, r *http.Request, many ...string) (url.Values, error) {
	media, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	if !strings.EqualFold(strings.TrimSpace(media), "application/x-www-form-urlencoded") {
		return nil, tokens.ErrRequest.Say("send application/x-www-form-urlencoded")
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForm))
	if err != nil {
		return nil, tokens.ErrRequest.Say("the body is over %d bytes or did not come", maxForm).With(err)
	}
	q, err := url.ParseQuery(string(b))
	if err != nil {
		return nil, tokens.ErrRequest.Say("the body is no form").With(err)
	}
	for name, values := range q {
		if len(values) > 1 && !slices.Contains(many, name) {
			return nil, tokens.ErrRequest.Say("%.50q is given twice", name)
		}
	}
	return q, nil
}

func host(remote string) string {
	if h, _, err := net.SplitHostPort(remote); err == nil {
		return h
	}
	return remote
}

// trap shows the credentials of a refused request to whoever looks for canaries.
func (f *Front) trap(r *http.Request, credentials ...string) {
	for _, c := range credentials {
		if f.o.Trap != nil && c != "" {
			f.o.Trap(c, host(r.RemoteAddr), r.UserAgent(), r.URL.Path)
		}
	}
}

// answer sends v, never to be kept by anyone.
func answer(w http.ResponseWriter, status int, v any) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Pragma", "no-cache")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_ = json.MarshalWrite(w, v, json.Deterministic(true)) // a client that went away needs no answer
}

// refuse sends an error as RFC 6749 section 5.2 has it, and records it.
func (f *Front) refuse(w http.ResponseWriter, r *http.Request, what tokens.Refusal, err error) {
	what.Remote, what.Client = host(r.RemoteAddr), r.UserAgent()
	// What the person has not done yet is no refusal.
	if !errors.Is(err, tokens.ErrPending) && !errors.Is(err, tokens.ErrSlowDown) {
		f.o.Tokens.Refused(r.Context(), what, err)
	}
	public := fault.Public(err)
	status, code := public.Kind.Status(), public.Code
	switch {
	case public.Kind == fault.Internal:
		code = "server_error"
	case public.Kind == fault.Unavailable:
		code = "temporarily_unavailable"
		w.Header().Set("Retry-After", "1")
	case public.Kind == fault.Unauthenticated:
		w.Header().Set("WWW-Authenticate", `Bearer realm="countersign", error="invalid_client"`)
	case public.Kind == fault.Denied, public.Kind == fault.NotFound, public.Kind == fault.Conflict:
		status = http.StatusBadRequest
	}
	answer(w, status, struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}{code, ascii(public.Message)})
}

// ascii is what RFC 6749 allows in error_description.
func ascii(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '"':
			return '\''
		case r < 0x20 || r > 0x7e || r == '\\':
			return '?'
		}
		return r
	}, s)
}
