package mcp

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/mcp/wire"
)

// Limits on discovery.
const (
	maxPages     = 100
	discoverTime = 2 * time.Minute
)

// Discover asks the upstream of c for all its tools, in the name of by. It
// implements connections.Discoverer. Each message goes the way of all calls:
// recorded before it leaves. Server requests and tools that c does not list are
// none of its business. Errors are faults: gateway's, or ErrDiscovery.
func (f *Front) Discover(ctx context.Context, by audit.Actor, c connections.Connection) ([]connections.Definition, error) {
	ctx, cancel := context.WithTimeout(ctx, discoverTime)
	defer cancel()
	p := &peer{f: f, conn: c, caps: []byte("{}")}
	p.send = func(ctx context.Context, call *gateway.Call) (*gateway.Answer, error) {
		return f.o.Line.Reach(ctx, by, "discovery of tools", call)
	}
	if err := p.open(ctx); err != nil {
		return nil, discovery(err)
	}
	defer func() { p.end(context.WithoutCancel(ctx)) }()
	return p.tools(ctx)
}

// tools reads every page of tools/list.
func (p *peer) tools(ctx context.Context) ([]connections.Definition, error) {
	var all []connections.Definition
	err := p.pages(ctx, "tools/list", func(b []byte, items []wire.Span) error {
		defs, err := definitions(b, items)
		if err != nil {
			return ErrDiscovery.Say("%s", err)
		}
		if all = append(all, defs...); len(all) > connections.MaxTools {
			return ErrDiscovery.Say("the MCP server lists more than %d tools", connections.MaxTools)
		}
		return nil
	})
	return all, err
}

// pages calls fn with each page of a list: the result and the items in it.
func (p *peer) pages(ctx context.Context, method string, fn func(b []byte, items []wire.Span) error) error {
	var members []byte
	for range maxPages {
		b, err := p.ask(ctx, method, "", members)
		if err != nil {
			return discovery(err)
		}
		whole := wire.Whole(b)
		if err := fn(b, wire.Items(b, wire.Find(b, whole, lists[method]))); err != nil {
			return err
		}
		cursor, more := wire.Text(b, wire.Find(b, whole, "nextCursor"))
		if !more || cursor == "" {
			return nil
		}
		members = append([]byte(`"cursor":`), wire.Quote(cursor)...)
	}
	return ErrDiscovery.Say("the MCP server's %s has more than %d pages", method, maxPages)
}

// discovery turns a refusal into a fault, which is what other rooms know.
func discovery(err error) error {
	r, ok := errors.AsType[*gateway.Refusal](err)
	if !ok {
		return err
	}
	f := *ErrDiscovery
	f.Kind, f.Code, f.Message = r.Kind, r.Code, r.Reason
	return f.With(r)
}

// changedPause is how often at most one connection is looked at because it says
// that its tools changed.
const changedPause = 10 * time.Second

// watch looks again at the tools of connections that say they changed, so that
// a changed tool is refused even if no agent lists tools.
type watch struct {
	f      *Front
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	next   map[string]time.Time // by connection: not before
	queued map[string]bool
	closed bool
}

func newWatch(f *Front) *watch {
	ctx, cancel := context.WithCancel(context.Background())
	return &watch{f: f, ctx: ctx, cancel: cancel, next: map[string]time.Time{}, queued: map[string]bool{}}
}

// changed has c looked at soon; at most one look is under way or waiting.
func (w *watch) changed(c connections.Connection) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || w.queued[c.Name] {
		return
	}
	now := w.f.o.Now()
	wait := max(0, w.next[c.Name].Sub(now))
	w.queued[c.Name] = true
	w.next[c.Name] = now.Add(wait + changedPause)
	w.wg.Go(func() { w.look(c, wait) })
}

func (w *watch) look(c connections.Connection, wait time.Duration) {
	select {
	case <-w.ctx.Done():
		return
	case <-time.After(wait):
	}
	w.mu.Lock()
	delete(w.queued, c.Name) // a change from here on is another one
	w.mu.Unlock()
	defs, err := w.f.Discover(w.ctx, audit.System, c)
	if err == nil {
		_, err = w.f.o.Registry.Observe(w.ctx, c.Name, defs)
	}
	if err != nil && w.ctx.Err() == nil {
		w.f.o.Logger.Warn("cannot look at changed tools", slog.String("connection", c.Name), slog.Any("error", err))
	}
}

func (w *watch) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.cancel()
	w.wg.Wait()
}
