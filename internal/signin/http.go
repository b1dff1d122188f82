package signin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/rest"
)

// maxAnswer bounds what the provider may send at once, in bytes.
const maxAnswer = 1 << 20

// carrier returns what puts the HTTP client for the provider into a context. It
// follows no redirects: what is asked carries secrets.
func carrier(ca []byte) (func(context.Context) context.Context, error) {
	var roots *x509.CertPool
	if len(ca) > 0 {
		if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM(ca) {
			return nil, errors.New("oidc.ca: there is no PEM certificate in it")
		}
	}
	client := &http.Client{
		Timeout: askWithin,
		Transport: bounded{&http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
			TLSHandshakeTimeout: askWithin, ResponseHeaderTimeout: askWithin, MaxResponseHeaderBytes: 64 << 10, IdleConnTimeout: time.Minute,
		}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return func(ctx context.Context) context.Context { return oidc.ClientContext(ctx, client) }, nil
}

// bounded asks by https alone and cuts answers that are too long.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" {
		return nil, errors.New("the identity provider names an address that is not https")
	}
	resp, err := b.next.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	}
	return resp, err
}

type methods struct {
	Password bool      `json:"password"`
	OIDC     *external `json:"oidc,omitempty"`
}

type external struct {
	Issuer string `json:"issuer"`
	Device bool   `json:"device" doc:"whether it can be approved on another device"`
}

type startLogin struct {
	Body struct {
		Redirect  string `json:"redirect" maxLength:"500" doc:"a path of this server, or http://127.0.0.1:PORT/PATH"`
		Challenge string `json:"challenge" maxLength:"64" doc:"base64url SHA-256 of a verifier that you keep"`
	}
}

type started struct {
	URL     string    `json:"url" doc:"where the person's browser must go"`
	Expires time.Time `json:"expires"`
}

type finishLogin struct {
	Body struct {
		Ticket   string `json:"ticket" maxLength:"8192" doc:"from the query of the redirect, or the handle of a device sign-in"`
		Verifier string `json:"verifier" maxLength:"128"`
	}
}

type startDevice struct {
	Body struct {
		Challenge string `json:"challenge" maxLength:"64" doc:"base64url SHA-256 of a verifier that you keep"`
	}
}

type loggedIn struct {
	Token   string        `json:"token" doc:"a user token (csu_…), shown this once"`
	Expires time.Time     `json:"expires"`
	User    identity.User `json:"user"`
}

// Routes declares the room's operations.
func (s *Service) Routes(api *rest.API) {
	const path, tag = "/api/v1/login", "identity"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path, Summary: "Show the ways to sign in", Tag: tag, Need: rest.Public},
		func(ctx context.Context, _ rest.Caller, _ *struct{}) (*methods, error) {
			m := &methods{Password: true}
			if s.On() {
				m.OIDC = &external{Issuer: s.o.Config.Issuer}
				if found, err := s.provider.discover(ctx); err == nil {
					m.OIDC.Device = found.Endpoint().DeviceAuthURL != ""
				}
			}
			return m, nil
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/oidc/start", Summary: "Begin to sign in at the identity provider", Tag: tag, Need: rest.Public},
		func(ctx context.Context, c rest.Caller, r *startLogin) (*started, error) {
			at, expires, err := s.StartLogin(ctx, r.Body.Redirect, r.Body.Challenge, c.Remote)
			return &started{at, expires}, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/oidc/finish", Summary: "Get a session for a finished sign-in", Tag: tag, Need: rest.Public},
		func(ctx context.Context, c rest.Caller, r *finishLogin) (*loggedIn, error) {
			t, value, err := s.FinishLogin(ctx, r.Body.Ticket, r.Body.Verifier, c.Remote)
			return s.session(t, value, err)
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/oidc/device", Summary: "Begin to sign in on another device", Tag: tag, Need: rest.Public},
		func(ctx context.Context, c rest.Caller, r *startDevice) (*Device, error) {
			d, err := s.StartDevice(ctx, r.Body.Challenge, c.Remote)
			return &d, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/oidc/device/finish", Summary: "Ask whether a sign-in on another device was approved", Tag: tag, Need: rest.Public},
		func(ctx context.Context, c rest.Caller, r *finishLogin) (*loggedIn, error) {
			t, value, err := s.FinishDevice(ctx, r.Body.Ticket, r.Body.Verifier, c.Remote)
			return s.session(t, value, err)
		})
}

func (s *Service) session(t identity.Token, value string, err error) (*loggedIn, error) {
	u, _ := s.o.Identity.User(t.User)
	return &loggedIn{Token: value, Expires: t.Expires, User: u}, err
}

// ServeHTTP is the provider's redirect URI (CallbackPath): a browser comes with
// its answer and is sent on to whoever began.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	head := w.Header()
	head.Set("Cache-Control", "no-store")
	head.Set("Referrer-Policy", "no-referrer") // the code is in our URL
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	q := r.URL.Query()
	for _, name := range []string{"state", "code", "iss", "error"} {
		if len(q[name]) > 1 {
			page(w, ErrRequest.Say("%s is given twice", name))
			return
		}
	}
	remote, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		remote = r.RemoteAddr
	}
	if !s.o.Identity.AllowLogin(remote) {
		page(w, identity.ErrLoginLimit)
		return
	}
	next, err := s.Callback(r.Context(), Answer{State: q.Get("state"), Code: q.Get("code"), Issuer: q.Get("iss"), Error: q.Get("error"), Remote: remote})
	if err != nil {
		page(w, err)
		return
	}
	http.Redirect(w, r, next, http.StatusSeeOther)
}

// page tells a person why a sign-in goes no further.
func page(w http.ResponseWriter, err error) {
	f := fault.Public(err)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusBadRequest)
	_, _ = fmt.Fprintf(w, "You were not signed in: %s\n", f.Message) // a browser that left needs no answer
}
