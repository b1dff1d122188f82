package forge

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json/v2"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"path/filepath"
	"strings"
	"time"
)

// Options configure a [Server].
type Options struct {
	// Dir is where the repository and what stands beside it live; it is created
	// when missing.
	Dir string
	// Token is what callers present, as a bearer token or as the password of
	// basic authentication. It must not be empty.
	Token string
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Repository is the path of the repository beneath /git.
const Repository = "shop.git"

const (
	maxBody = 1 << 20  // bytes of a request to the API
	maxPush = 64 << 20 // bytes of a request to git
)

// Errors of [New].
var (
	ErrNoToken = errors.New("the forge needs a token to demand from its callers: set Options.Token")
	ErrNoGit   = errors.New("there is no git with its http-backend on this machine: install git, and the release-bot of the example works too")
)

// Server is an [http.Handler].
type Server struct {
	repository *repository
	book       *book
	token      [sha256.Size]byte
	git        http.Handler
}

// New makes the repository if there is none and returns the server.
func New(ctx context.Context, opts Options) (*Server, error) {
	if opts.Token == "" {
		return nil, ErrNoToken
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	backend, err := Backend(ctx)
	if err != nil {
		return nil, err
	}
	r, err := openRepository(ctx, opts.Dir)
	if err != nil {
		return nil, err
	}
	b, err := openBook(filepath.Join(opts.Dir, "forge.json"), opts.Now)
	if err != nil {
		return nil, err
	}
	s := &Server{repository: r, book: b, token: sha256.Sum256([]byte(opts.Token))}
	s.git = http.StripPrefix("/git", &cgi.Handler{Path: backend, Stderr: io.Discard, InheritEnv: []string{"PATH"},
		Env: []string{"GIT_PROJECT_ROOT=" + r.root, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=hanse", "GIT_CONFIG_NOSYSTEM=1", "HOME=" + r.root}})
	return s, nil
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.knows(r) {
		w.Header().Set("WWW-Authenticate", `Basic realm="forge"`)
		http.Error(w, "the forge demands its token", http.StatusUnauthorized)
		return
	}
	switch route := r.Method + " " + r.URL.Path; {
	case strings.HasPrefix(r.URL.Path, "/git/"+Repository+"/"):
		r.Body = http.MaxBytesReader(w, r.Body, maxPush)
		s.git.ServeHTTP(w, r)
	case route == "GET /api/pulls":
		answer(w, http.StatusOK, s.book.pulls())
	case route == "POST /api/pulls":
		s.openPull(w, r)
	case route == "GET /api/deployments":
		answer(w, http.StatusOK, s.book.deployments())
	case route == "POST /api/deployments":
		s.deploy(w, r)
	default:
		problem(w, http.StatusNotFound, "there is nothing at "+route)
	}
}

func (s *Server) knows(r *http.Request) bool {
	_, token, basic := r.BasicAuth()
	if !basic {
		scheme, value, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return false
		}
		token = strings.TrimSpace(value)
	}
	sum := sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(sum[:], s.token[:]) == 1
}

func (s *Server) openPull(w http.ResponseWriter, r *http.Request) {
	var p Pull
	if !readBody(w, r, &p) {
		return
	}
	for _, branch := range []string{p.Head, p.Base} {
		if _, err := s.repository.commit(r.Context(), "refs/heads/"+branch); err != nil {
			problem(w, http.StatusUnprocessableEntity, "there is no branch "+branch)
			return
		}
	}
	if strings.TrimSpace(p.Title) == "" {
		problem(w, http.StatusUnprocessableEntity, "a pull request has a title")
		return
	}
	p, err := s.book.open(p)
	finish(w, p, err)
}

func (s *Server) deploy(w http.ResponseWriter, r *http.Request) {
	var d Deployment
	if !readBody(w, r, &d) {
		return
	}
	if d.Environment != "staging" && d.Environment != "production" {
		problem(w, http.StatusUnprocessableEntity, "environment must be staging or production")
		return
	}
	commit, err := s.repository.commit(r.Context(), "refs/heads/"+d.Ref)
	if err != nil {
		problem(w, http.StatusUnprocessableEntity, "there is no branch "+d.Ref)
		return
	}
	d.Commit = commit
	d, err = s.book.deploy(d)
	finish(w, d, err)
}

func readBody(w http.ResponseWriter, r *http.Request, into any) bool {
	if err := json.UnmarshalRead(http.MaxBytesReader(w, r.Body, maxBody), into); err != nil {
		problem(w, http.StatusBadRequest, "the body is not what this takes: "+err.Error())
		return false
	}
	return true
}

func finish(w http.ResponseWriter, v any, err error) {
	if err != nil {
		problem(w, http.StatusInternalServerError, "it could not be kept: "+err.Error())
		return
	}
	answer(w, http.StatusCreated, v)
}

func problem(w http.ResponseWriter, status int, text string) {
	answer(w, status, map[string]string{"message": text})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.MarshalWrite(w, v) // a client that left needs none
}

// Serve answers on l until ctx is done, then closes every connection and
// returns nil. It owns l.
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
