package connections

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/storage"
)

// PollEvery is how often a Poller looks at each connection's tools unless it is
// told otherwise.
const PollEvery = 15 * time.Minute

// pollLease is longer than a look at one connection may take.
const pollLease = 5 * time.Minute

// Poller looks at the tools of every mcp connection again and again, so that a
// definition that changed is found, and refused, even if no agent lists tools
// and the server says nothing. Of all replicas one polls. Each look goes the
// way of all calls: recorded before it leaves.
type Poller struct {
	s      *Service
	every  time.Duration
	lease  *job.Lease
	cancel context.CancelFunc
	done   chan struct{}
}

// NewPoller returns a stopped Poller that looks at each connection every now
// and then, about as often as every says (0: PollEvery).
func NewPoller(db *storage.DB, s *Service, every time.Duration) *Poller {
	if every <= 0 {
		every = PollEvery
	}
	return &Poller{s: s, every: every, lease: job.NewLease(db, "tools", pollLease)}
}

// Start begins to poll. The first look at a connection comes at a random moment
// of the first interval.
func (p *Poller) Start(ctx context.Context) error {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p.cancel, p.done = cancel, make(chan struct{})
	go p.run(run)
	return nil
}

// Stop ends polling, a look under way included. It may be called without Start
// and more than once.
func (p *Poller) Stop(ctx context.Context) error {
	if p.cancel == nil {
		return nil
	}
	p.cancel()
	<-p.done
	p.cancel = nil
	return p.lease.Release(ctx)
}

func (p *Poller) run(ctx context.Context) {
	defer close(p.done)
	tick := time.NewTicker(max(time.Millisecond, min(p.every/20, 20*time.Second)))
	defer tick.Stop()
	next := map[string]time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p.round(ctx, next)
	}
}

// round looks at the connections that are due.
func (p *Poller) round(ctx context.Context, next map[string]time.Time) {
	if ours, err := p.lease.Acquire(ctx); err != nil || !ours {
		clear(next) // another replica does it, or nobody can say
		return
	}
	there := map[string]bool{}
	for _, c := range p.s.Connections() {
		if c.Kind != MCP || c.Discovered.IsZero() {
			continue
		}
		there[c.Name] = true
		at, known := next[c.Name]
		switch now := time.Now(); {
		case !known:
			next[c.Name] = now.Add(rand.N(p.every)) //nolint:gosec // spreads load
			continue
		case now.Before(at):
			continue
		}
		if ours, err := p.lease.Acquire(ctx); err != nil || !ours { // again: the one before may have taken long
			return
		}
		next[c.Name] = time.Now().Add(p.every*9/10 + rand.N(p.every/5+1)) //nolint:gosec // spreads load
		if err := p.s.look(ctx, c); err != nil && ctx.Err() == nil {
			p.s.logger.Warn("the tools of a connection could not be looked at", slog.String("connection", c.Name), slog.Any("error", err))
		}
	}
	for name := range next {
		if !there[name] {
			delete(next, name)
		}
	}
}

// look asks a connection for its tools and compares them with their pins.
func (s *Service) look(ctx context.Context, c Connection) error {
	d := s.discover.Load()
	if d == nil {
		return ErrUndiscover
	}
	defs, err := (*d).Discover(ctx, audit.System, c)
	if err != nil {
		return err
	}
	_, err = s.Observe(ctx, c.Name, defs)
	return err
}
