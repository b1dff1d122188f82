package server_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/storage/storagetest"
)

type budgetUsage struct {
	Windows []struct {
		Spent    int64 `json:"spent"`
		Reserved int64 `json:"reserved"`
	} `json:"windows"`
}

// budgetUsed waits until nothing is reserved of a budget and returns what was spent.
func (p *process) budgetUsed(t testing.TB, name string) int64 {
	t.Helper()
	var u budgetUsage
	for deadline := time.Now().Add(120 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		p.api(t, "GET", "/budgets/"+name+"/usage", nil, &u)
		if len(u.Windows) == 1 && u.Windows[0].Reserved == 0 {
			return u.Windows[0].Spent
		}
	}
	t.Fatalf("%s: something stays reserved: %+v", name, u)
	return 0
}

func (p *process) budgetSet(t testing.TB, name, meter string, hard int64) {
	t.Helper()
	p.api(t, "PUT", "/budgets/"+name, map[string]any{"meter": meter, "agent": "worker", "period": "total", "hard": hard, "reason": "test"}, nil)
}

// 200 calls at once on three replicas against a budget for 50: exactly 50 pass
// and reach the upstream. Then a replica is killed under load: of its calls
// nothing stays reserved, and every call that the upstream got is counted.
func TestBudgetRace(t *testing.T) {
	if testing.Short() {
		t.Skip("starts and kills processes")
	}
	t.Parallel() // it waits for what the dead one reserved
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		t.Parallel()
		up := &witness{seen: map[string]int{}}
		upstream := httptest.NewServer(up)
		defer upstream.Close()
		data := t.TempDir()
		var all []*process
		if strings.HasPrefix(dsn, "postgres") {
			all = replicas(t, dsn, 3)
		} else {
			all = append(all, start(t, data, dsn, ""))
		}
		p := all[0]
		key := p.company(t)
		p.model(t, "up", "openai", upstream.URL, "budget-secret-0123456789")
		p.budgetSet(t, "fifty", "calls", 50)
		knowBudgets(t, all, "prober")
		received := up.requests()
		var passed, refused atomic.Int64
		race(200, func(i int) {
			status, body := try(t.Context(), all[i%len(all)].url, key, int64(i))
			switch {
			case status == http.StatusOK:
				passed.Add(1)
			case status == http.StatusTooManyRequests && strings.Contains(body, `"budget_exceeded"`) && strings.Contains(body, "fifty"):
				refused.Add(1)
			default:
				t.Errorf("%d %s", status, body)
			}
		})
		if passed.Load() != 50 || refused.Load() != 150 || up.requests()-received != 50 {
			t.Fatalf("%d passed, %d were refused, %d reached the upstream", passed.Load(), refused.Load(), up.requests()-received)
		}
		if spent := p.budgetUsed(t, "fifty"); spent != 50 {
			t.Errorf("%d spent", spent)
		}

		p.api(t, "DELETE", "/budgets/fifty?reason=next", nil, nil)
		p.budgetSet(t, "wide", "calls", 100_000)
		knowBudgets(t, all, "prober-2")
		before := up.requests()
		ctx, cancel := context.WithCancel(t.Context())
		last := all[len(all)-1]
		var number, answered atomic.Int64
		number.Store(1000)
		var load sync.WaitGroup
		for i := range 12 {
			load.Go(func() {
				for ctx.Err() == nil {
					if call(ctx, all[i%len(all)].url, key, number.Add(1)) && answered.Add(1) == 40 {
						last.kill()
						cancel()
					}
				}
			})
		}
		load.Wait()
		cancel()
		if len(all) == 1 {
			p = start(t, data, dsn, p.token)
		}
		spent := p.budgetUsed(t, "wide")
		if got := int64(up.requests() - before); spent < got || spent > number.Load()-1000 {
			t.Errorf("the upstream got %d requests, %d calls were tried, and %d are counted", got, number.Load()-1000, spent)
		}
	})
}

// race calls fn n times at once.
func race(n int, fn func(i int)) {
	gate := make(chan struct{})
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { <-gate; fn(i) })
	}
	close(gate)
	all.Wait()
}

// requests is how many requests were received.
func (w *witness) requests() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, times := range w.seen {
		n += times
	}
	return n
}

// knowBudgets waits until every replica knows the budgets that were set before:
// the one of an agent that may nothing is set after them.
func knowBudgets(t testing.TB, all []*process, agent string) {
	t.Helper()
	p := all[0]
	p.api(t, "PUT", "/agents/"+agent, map[string]any{"owner": "olga", "backup": "ben", "stage": "development"}, nil)
	var issued struct {
		Key string `json:"key"`
	}
	p.api(t, "POST", "/agents/"+agent+"/keys", map[string]any{}, &issued)
	p.api(t, "PUT", "/grants/"+agent, map[string]any{"agent": agent, "connection": "up", "tools": []string{"*"},
		"expires": time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339), "reason": "test"}, nil)
	p.api(t, "PUT", "/budgets/"+agent, map[string]any{"meter": "tokens", "agent": agent, "period": "total", "hard": 1, "reason": "test"}, nil)
	for _, r := range all {
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			status, body := try(t.Context(), r.url, issued.Key, 0)
			if status == http.StatusTooManyRequests {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal(status, body)
			}
		}
	}
}
