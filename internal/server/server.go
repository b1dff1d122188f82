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
	h, err := build(ctx, cfg, version, log)
	if err != nil {
		return err
	}
	defer h.close(log)
	admin, created, err := h.identity.EnsureAdmin(ctx)
	if err != nil {
		return err
	}
	doors, err := h.open(cfg, log)
	if err != nil {
		return err
	}
	at := loopback(doors[0].listener)
	h.front.Store(&at)
	r := Ready{URL: doors.url(cfg), AdminName: adminName}
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
func (h *house) open(cfg config.Config, log *slog.Logger) (doors, error) {
	all, api := http.NewServeMux(), http.NewServeMux()
	h.mountLine(all)
	h.mountHealth(all)
	if cfg.AdminListen == "" || cfg.AdminListen == cfg.Listen {
		all.Handle("/api/", h.api)
		all.Handle("/", h.console)
		return listen(cfg, log, map[string]http.Handler{cfg.Listen: h.raw(all)})
	}
	all.Handle("/", http.HandlerFunc(front))
	api.Handle("/api/", h.api)
	api.Handle("/", h.console)
	h.mountHealth(api)
	return listen(cfg, log, map[string]http.Handler{cfg.Listen: h.raw(all), cfg.AdminListen: h.straight(api)})
}

func listen(cfg config.Config, log *slog.Logger, at map[string]http.Handler) (doors, error) {
	var ds doors
	for addr, handler := range at {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			ds.shut(0)
			return nil, fmt.Errorf("cannot listen on %s: %w (another server? choose an address with --listen)", addr, err)
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

// url is how to reach the first door: as configured, or, when the port was
// chosen by the system (:0), as it turned out.
func (ds doors) url(cfg config.Config) string {
	_, port, err := net.SplitHostPort(cfg.Listen)
	if err != nil || port != "0" {
		return cfg.URL
	}
	return "http://" + ds[0].listener.Addr().String()
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
