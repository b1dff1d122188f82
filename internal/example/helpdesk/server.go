package helpdesk

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// Options configure a [Server].
type Options struct {
	// Dir is where helpdesk.db lives; it is created when missing.
	Dir string
	// Token is the bearer token that callers must present. It must not be empty.
	Token string
	// Sessions makes the server keep MCP sessions, as servers did before protocol
	// version 2026-07-28. Without it every request stands alone and both eras of
	// clients are served.
	Sessions bool
	// Arrivals, when positive, is how often [Server.Serve] lets a new ticket come
	// in while fewer than three are open.
	Arrivals time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Log may be nil.
	Log *slog.Logger
}

// Server is the helpdesk. It is an [http.Handler]; its MCP endpoint is [Path].
type Server struct {
	store    *store
	token    [sha256.Size]byte
	mcp      *mcp.Server
	handler  http.Handler
	arrivals time.Duration
	log      *slog.Logger
}

// Path is the path of the MCP endpoint.
const Path = "/mcp"

const maxBody = 1 << 20

// ErrNoToken says that a server was asked for without a token to demand.
var ErrNoToken = errors.New("the helpdesk needs a bearer token to demand from its callers: set Options.Token")

// New opens the database and returns the server. Close it after use.
func New(ctx context.Context, opts Options) (*Server, error) {
	if opts.Token == "" {
		return nil, ErrNoToken
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	st, err := open(ctx, opts.Dir, opts.Now)
	if err != nil {
		return nil, err
	}
	s := &Server{store: st, token: sha256.Sum256([]byte(opts.Token)), arrivals: opts.Arrivals, log: opts.Log}
	s.mcp = s.mcpServer()
	s.handler = mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s.mcp }, &mcp.StreamableHTTPOptions{
		Stateless: !opts.Sessions, SessionTimeout: 30 * time.Minute, MaxRequestBodyBytes: maxBody, PropagateRequestCancellation: true,
	})
	return s, nil
}

// Close closes the database.
func (s *Server) Close() error { return s.store.db.Close() }

// MCP is the protocol server itself, for callers that bring another transport.
func (s *Server) MCP() *mcp.Server { return s.mcp }

// Outbox lists every message that left the house, oldest first.
func (s *Server) Outbox(ctx context.Context) ([]Email, error) { return s.store.outbox(ctx) }

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	sum := sha256.Sum256([]byte(strings.TrimSpace(token)))
	if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(sum[:], s.token[:]) != 1 {
		w.Header().Set("WWW-Authenticate", `Bearer realm="helpdesk", error="invalid_token"`)
		http.Error(w, "the helpdesk demands its bearer token", http.StatusUnauthorized)
		return
	}
	if r.URL.Path != Path {
		http.Error(w, "the MCP endpoint is "+Path, http.StatusNotFound)
		return
	}
	s.handler.ServeHTTP(w, r)
}

// Serve answers on l until ctx is done, then closes every connection and
// returns nil. It owns l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if s.arrivals > 0 {
		go s.receive(ctx)
	}
	err := srv.Serve(l)
	if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// receive lets tickets arrive until ctx is done.
func (s *Server) receive(ctx context.Context) {
	const open = 3
	tick := time.NewTicker(s.arrivals)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := s.store.arrive(ctx, open); err != nil && ctx.Err() == nil {
				s.log.Warn("no new ticket", "error", err)
			}
		}
	}
}
