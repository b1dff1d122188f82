package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/countersign/countersign/internal/config"
)

// Ready says how to reach a server whose doors are open.
type Ready struct {
	URL        string
	AdminName  string
	AdminToken string // at the first start only
}

// Run serves until ctx ends, then lets calls in flight finish for at most
// cfg.Limits.ShutdownWait and stops. It calls ready once, when every door is
// open.
func Run(ctx context.Context, cfg config.Config, version string, log *slog.Logger, ready func(Ready)) error {
	early, err := bind(&cfg)
	if err != nil {
		return err
	}
	if early != nil {
		defer early.Close() // a second time, if it was served
	}
	h, err := build(ctx, cfg, version, log)
	if err != nil {
		return err
	}
	defer h.close(log)
	admin, created, err := h.identity.EnsureAdmin(ctx)
	if err != nil {
		return err
	}
	doors, err := h.open(cfg, early, log)
	if err != nil {
		return err
	}
	at := loopback(doors[0].listener)
	h.front.Store(&at)
	r := Ready{URL: cfg.URL, AdminName: adminName}
	if err := h.tokens.SetIssuer(r.URL); err != nil {
		return err
	}
	if created {
		r.AdminToken = admin
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, d := range doors {
		g.Go(func() error { return d.serve() })
	}
	g.Go(func() error {
		<-ctx.Done()
		doors.shut(cfg.Limits.ShutdownWait)
		return nil
	})
	ready(r)
	return g.Wait()
}

// adminName is the name of the first administrator.
const adminName = "admin"

// door is one listening address.
type door struct {
	listener net.Listener
	server   *http.Server
}

type doors []*door

// open listens before anything is served, so that a busy port is told at once.
func (h *house) open(cfg config.Config, early net.Listener, log *slog.Logger) (doors, error) {
	all, api := http.NewServeMux(), http.NewServeMux()
	h.mountLine(all)
	h.mountHealth(all)
	if cfg.AdminListen == "" || cfg.AdminListen == cfg.Listen {
		all.Handle("/api/", h.api)
		all.Handle("/", h.console)
		return listen(cfg, early, log, map[string]http.Handler{cfg.Listen: h.raw(all)})
	}
	all.Handle("/", http.HandlerFunc(front))
	api.Handle("/api/", h.api)
	api.Handle("/", h.console)
	h.mountHealth(api)
	return listen(cfg, early, log, map[string]http.Handler{cfg.Listen: h.raw(all), cfg.AdminListen: h.straight(api)})
}

func listen(cfg config.Config, early net.Listener, log *slog.Logger, at map[string]http.Handler) (doors, error) {
	var ds doors
	for addr, handler := range at {
		l := early
		if l == nil || addr != cfg.Listen {
			var err error
			if l, err = net.Listen("tcp", addr); err != nil {
				ds.shut(0)
				return nil, busy(addr, err)
			}
		}
		d := &door{listener: l, server: &http.Server{
			Handler:           bounded(handler, cfg.Limits.ReadTimeout),
			ReadHeaderTimeout: 10 * time.Second,
			IdleTimeout:       2 * time.Minute,
			MaxHeaderBytes:    cfg.Limits.HeaderBytes,
			ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		}}
		if addr == cfg.Listen {
			ds = append(doors{d}, ds...) // the line's door comes first
		} else {
			ds = append(ds, d)
		}
	}
	return ds, nil
}

// bounded gives every request's body a time by which it must have come, also
// one that nobody reads: net/http drains it before a refusal is sent, and who
// never sends it, without any credential, would hold a connection for good. A
// front that reads a body sets its own limit.
func bounded(next http.Handler, within time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(within)) // a server's connection has one
		}
		next.ServeHTTP(w, r)
	})
}

func (d *door) serve() error {
	if err := d.server.Serve(d.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// bind listens at once where the system chooses the port (:0), before anything is
// built: links to approvals and all else that names the server's address name the
// port that is really bound. A URL that was configured stays. Without :0 it returns
// nil, and doors are opened when everything behind them is there.
func bind(cfg *config.Config) (net.Listener, error) {
	if _, port, err := net.SplitHostPort(cfg.Listen); err != nil || port != "0" {
		return nil, nil //nolint:nilerr // it is told when the door is opened
	}
	l, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, busy(cfg.Listen, err)
	}
	if cfg.URL == "http://"+cfg.Listen { // as it is without a configured one
		cfg.URL = loopback(l)
	}
	if cfg.AdminListen == cfg.Listen {
		cfg.AdminListen = ""
	}
	cfg.Listen = l.Addr().String()
	return l, nil
}

func busy(addr string, err error) error {
	return fmt.Errorf("cannot listen on %s: %w (another server? choose an address with --listen)", addr, err)
}

func (ds doors) shut(wait time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	for _, d := range ds {
		if d.server.Shutdown(ctx) != nil {
			d.server.Close() // streams that outlast the wait
		}
		d.listener.Close() // if it was never served
	}
}
