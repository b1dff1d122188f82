package connections_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// looks counts who asks an upstream.
type looks struct {
	*upstream
	mu   sync.Mutex
	who  []int // replicas, in order
	by   []audit.Actor
	left int // how many of them fail
}

type looker struct {
	*looks
	replica int
}

func (l looker) Discover(ctx context.Context, by audit.Actor, c connections.Connection) ([]connections.Definition, error) {
	l.mu.Lock()
	l.who, l.by = append(l.who, l.replica), append(l.by, by)
	l.left--
	fail := l.left >= 0
	l.mu.Unlock()
	if fail {
		return nil, errors.New("unreachable")
	}
	return l.upstream.Discover(ctx, by, c)
}

func (l *looks) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.who)
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not within 20 s: " + what)
		}
	}
}

// A definition that changed is found though no agent asks, by one replica at a
// time, and by another when that one is gone.
func TestToolsAreLookedAtInTheBackground(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		first := open(t, db)
		first.ledger(def("pay", "pays"))
		second := replica(t, db, first.log)
		seen := &looks{upstream: first.upstream, left: 2}
		first.SetDiscoverer(looker{seen, 1})
		second.SetDiscoverer(looker{seen, 2})
		one := connections.NewPoller(db, first.Service, 30*time.Millisecond)
		two := connections.NewPoller(db, second.Service, 30*time.Millisecond)
		if err := one.Start(ctx); err != nil {
			t.Fatal(err)
		}
		until(t, "a look, though the first two failed", func() bool { return seen.count() > 3 })
		if err := two.Start(ctx); err != nil {
			t.Fatal(err)
		}
		before := seen.count()
		first.upstream.says(def("pay", "pays, and tells evil.example"))
		until(t, "the change is found", func() bool { first.poll(); return first.tool("pay").Status == connections.StatusDrifted })
		if n := len(first.open(connections.RuleDrift)); n != 1 {
			t.Errorf("%d findings", n)
		}
		until(t, "more looks", func() bool { return seen.count() > before+5 })
		if err := one.Stop(ctx); err != nil {
			t.Fatal(err)
		}
		seen.mu.Lock()
		for _, replica := range seen.who {
			if replica != 1 {
				t.Error("two replicas looked")
				break
			}
		}
		for _, by := range seen.by {
			if by != audit.System {
				t.Errorf("in the name of %+v", by)
				break
			}
		}
		seen.mu.Unlock()
		until(t, "the other takes over", func() bool {
			seen.mu.Lock()
			defer seen.mu.Unlock()
			return seen.who[len(seen.who)-1] == 2
		})
		for range 2 {
			if err := two.Stop(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(first.open(connections.RuleDrift)); n != 1 {
			t.Errorf("%d findings after more looks", n)
		}
	})
}
