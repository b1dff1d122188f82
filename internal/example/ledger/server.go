package ledger

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// SecretEnv is the environment variable that holds the ledger's secret.
const SecretEnv = "LEDGER_SECRET"

// minSecret is the shortest secret in bytes that is taken for one.
const minSecret = 8

// ErrSecret says that the ledger was started without its secret.
var ErrSecret = errors.New("the ledger does not start without its secret: put it into the environment variable " +
	SecretEnv + " (at least 8 characters); never into its arguments")

// Options configure a [Server].
type Options struct {
	// Dir is where ledger.db lives; it is created when missing. Several
	// processes may use one directory.
	Dir string
	// Secret is the value of [SecretEnv].
	Secret string
	// Arrivals, when positive, is how often [Server.Run] lets a new invoice come
	// in while fewer than four are open.
	Arrivals time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Log may be nil. It must not write to standard output, which belongs to the
	// protocol.
	Log *slog.Logger
}

// Server is the ledger.
type Server struct {
	store    *store
	arrivals time.Duration
	log      *slog.Logger
	mcp      *mcp.Server
}

// New opens the database and returns the server. Close it after use.
func New(ctx context.Context, opts Options) (*Server, error) {
	if len(opts.Secret) < minSecret {
		return nil, ErrSecret
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
	s := &Server{store: st, arrivals: opts.Arrivals, log: opts.Log}
	s.mcp = s.mcpServer()
	return s, nil
}

// Close closes the database.
func (s *Server) Close() error { return s.store.db.Close() }

// MCP is the protocol server itself, for callers that bring another transport.
func (s *Server) MCP() *mcp.Server { return s.mcp }

// Payments lists every payment ever made, oldest first.
func (s *Server) Payments(ctx context.Context) ([]Payment, error) { return s.store.payments(ctx) }

// Run speaks MCP over in and out until in ends or ctx is done; both are nil.
// Lines longer than 16 MiB end the session.
func (s *Server) Run(ctx context.Context, in io.ReadCloser, out io.WriteCloser) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if s.arrivals > 0 {
		go s.receive(ctx)
	}
	err := s.mcp.Run(ctx, &mcp.IOTransport{Reader: in, Writer: out})
	if ctx.Err() != nil || errors.Is(err, io.EOF) || errors.Is(err, mcp.ErrConnectionClosed) {
		return nil
	}
	return err
}

// receive lets invoices arrive until ctx is done.
func (s *Server) receive(ctx context.Context) {
	const open = 4
	tick := time.NewTicker(s.arrivals)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := s.store.arrive(ctx, open); err != nil && ctx.Err() == nil {
				s.log.Warn("no new invoice", "error", err)
			}
		}
	}
}
