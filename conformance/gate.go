package main

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/mcp"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage"
)

// gate is Countersign before one upstream, and before that what the suite
// cannot do itself: send an agent's key.
type gate struct {
	url    string
	closes []func()
}

func (g *gate) close() {
	for i := len(g.closes) - 1; i >= 0; i-- {
		g.closes[i]()
	}
}

type toolTypes struct{ *connections.Service }

func (t toolTypes) ToolTypes() []policy.ToolType {
	var out []policy.ToolType
	for _, x := range t.Service.ToolTypes() {
		out = append(out, policy.ToolType(x))
	}
	return out
}

// rooms are the rooms that the line needs.
type rooms struct {
	watch   *storage.Watcher
	scanner *inspection.Scanner
	log     *audit.Log
	secrets *secrets.Service
	ids     *identity.Service
	conns   *connections.Service
	policy  *policy.Service
}

func openGate(ctx context.Context, dir, upstream string) (*gate, error) {
	g := &gate{}
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	r, err := openRooms(ctx, g, dir, logger)
	if err != nil {
		g.close()
		return nil, err
	}
	line := gateway.New(gateway.Options{Authenticator: r.ids, Decider: r.policy, Ledger: r.log, Injector: r.secrets, Redactor: r.scanner, Scanner: r.scanner, Logger: logger})
	g.closes = append(g.closes, func() { _ = line.Close(ctx) })
	front := mcp.New(mcp.Options{Line: line, Registry: r.conns, Key: r.secrets.Derive("mcp"), Logger: logger})
	g.closes = append(g.closes, front.Close)
	r.conns.SetDiscoverer(front)
	key, err := populate(ctx, r, upstream)
	if err != nil {
		g.close()
		return nil, err
	}
	g.serve(front, key)
	return g, nil
}

func openRooms(ctx context.Context, g *gate, dir string, logger *slog.Logger) (*rooms, error) {
	db, err := storage.Open(ctx, filepath.Join(dir, "countersign.db"))
	if err != nil {
		return nil, err
	}
	g.closes = append(g.closes, func() { _ = db.Close() })
	r := &rooms{watch: storage.NewWatcher(db, logger), scanner: inspection.New()}
	keeper, err := secrets.OpenKeeper(ctx, filepath.Join(dir, "key"))
	if err != nil {
		return nil, err
	}
	if r.log, err = audit.Open(ctx, db, audit.Options{Redactor: r.scanner, Keeper: keeper, Logger: logger}); err != nil {
		return nil, err
	}
	g.closes = append(g.closes, func() { _ = r.log.Close(ctx) })
	if r.secrets, err = secrets.New(db, r.log, r.watch, keeper, secrets.Options{Matcher: r.scanner.Known(), Logger: logger}); err != nil {
		return nil, err
	}
	if r.ids, err = identity.New(db, r.log, r.watch, identity.Options{Derive: r.secrets.Derive, Logger: logger}); err != nil {
		return nil, err
	}
	if r.conns, err = connections.New(db, r.log, r.watch, findings.New(db, r.log, time.Now), connections.Options{Redactor: r.scanner, Logger: logger}); err != nil {
		return nil, err
	}
	if r.policy, err = policy.New(db, r.log, r.watch, toolTypes{r.conns}, policy.Options{Logger: logger}); err != nil {
		return nil, err
	}
	g.closes = append(g.closes, r.watch.Stop)
	return r, r.watch.Start(ctx)
}

// populate registers an agent, the upstream and a policy that allows all, and
// returns the agent's key.
func populate(ctx context.Context, r *rooms, upstream string) (key string, err error) {
	const reason = "conformance run"
	by := audit.System
	if _, err = r.ids.PutUser(ctx, by, reason, identity.User{Name: "pat", Role: "admin"}); err != nil {
		return "", err
	}
	if _, err = r.ids.PutAgent(ctx, by, reason, identity.Agent{Name: "suite", Owner: "pat", Stage: "development"}); err != nil {
		return "", err
	}
	if _, key, err = r.ids.IssueKey(ctx, by, reason, "suite", time.Hour); err != nil {
		return "", err
	}
	c := connections.Connection{Name: "everything", Kind: connections.MCP, URL: upstream, Owner: "pat", AllowPrivate: true}
	if _, err = r.conns.Register(ctx, by, reason, c); err != nil {
		return "", err
	}
	if _, err = r.conns.Refresh(ctx, by, reason, c.Name); err != nil {
		return "", err
	}
	_, err = r.policy.PutPolicies(ctx, by, reason, "all.cedar", `@id("all") permit(principal, action, resource);`)
	return key, err
}

// serve opens the front and, before it, a proxy that adds the key and changes
// nothing else.
func (g *gate) serve(front *mcp.Front, key string) {
	inner := httptest.NewServer(front)
	target, _ := url.Parse(inner.URL)
	outer := httptest.NewServer(&httputil.ReverseProxy{
		FlushInterval: -1,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = target.Scheme, target.Host
			r.Out.Header.Set("Authorization", "Bearer "+key)
		},
	})
	g.closes = append(g.closes,
		func() { inner.CloseClientConnections(); inner.Close() },
		func() { outer.CloseClientConnections(); outer.Close() })
	g.url = outer.URL + "/mcp/everything"
}
