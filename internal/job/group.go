package job

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Service is something that runs in the background. Start returns when it runs
// and must not tie it to ctx; Stop returns when it has ended, at the latest
// when ctx does. Stop of a service that does not run does nothing.
type Service interface {
	Start(ctx context.Context) error
	Stop(ctx context.Context) error
}

// Group starts services in order and stops them in reverse.
type Group struct {
	mu      sync.Mutex
	running []named
}

type named struct {
	name string
	Service
}

// Start starts a service and remembers to stop it. If it fails the services
// before it keep running: stop the group.
func (g *Group) Start(ctx context.Context, name string, s Service) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := s.Start(ctx); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	g.running = append(g.running, named{name, s})
	return nil
}

// Stop stops what runs, last started first, every one of them even if others
// fail. It may be called more than once.
func (g *Group) Stop(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []error
	for len(g.running) > 0 {
		s := g.running[len(g.running)-1]
		g.running = g.running[:len(g.running)-1]
		if err := s.Stop(ctx); err != nil {
			all = append(all, fmt.Errorf("stop %s: %w", s.name, err))
		}
	}
	return errors.Join(all...)
}
