package connections_test

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/rates"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// Replicas count together, a refused call counts for nothing, and what was used
// comes back evenly.
func TestRatesCountOnAllReplicas(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		a := open(t, db)
		b := replica(t, db, a.log)
		a.ledger(def("pay", "pays"))
		say := func(limits map[string]string) connections.Tool {
			t.Helper()
			tool, _ := a.Tool("ledger", "pay")
			r := tool.References
			r.Limits = limits
			if _, err := a.SetReferences(ctx, pat, "why", "ledger", "pay", r); err != nil {
				t.Fatal(err)
			}
			a.poll()
			b.poll()
			tool, _ = b.Tool("ledger", "pay")
			return tool
		}
		tool := say(map[string]string{"calls": "10/1m"})
		var passed, refused atomic.Int32
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				retry, err := []*room{a, b}[i%2].Take(ctx, tool, "agt_1", false)
				switch {
				case err != nil:
					t.Error(err)
				case retry == 0:
					passed.Add(1)
				case retry > 6*time.Second:
					t.Errorf("to wait %s for a share of six seconds", retry)
				default:
					refused.Add(1)
				}
			})
		}
		wg.Wait()
		if passed.Load() != 10 || refused.Load() != 30 {
			t.Errorf("%d of 40 calls passed", passed.Load())
		}
		*a.now = a.now.Add(12 * time.Second)
		for i, want := range []bool{true, true, false} {
			if retry, err := a.Take(ctx, tool, "agt_2", false); err != nil || (retry == 0) != want {
				t.Errorf("call %d after twelve seconds: %s %v", i, retry, err)
			}
		}
		// Each agent has its own; a call that one rate refuses uses up no other.
		*a.now = a.now.Add(time.Hour)
		tool = say(map[string]string{"agent_calls": "1/1m", "calls": "2/1m"})
		for _, c := range []struct {
			agent string
			want  bool
		}{{"agt_1", true}, {"agt_1", false}, {"agt_1", false}, {"agt_2", true}, {"agt_3", false}} {
			if retry, err := a.Take(ctx, tool, c.agent, false); err != nil || (retry == 0) != c.want {
				t.Errorf("%s: %s %v", c.agent, retry, err)
			}
		}
		// What is made in any case counts, and the others wait for it.
		*a.now = a.now.Add(time.Hour)
		for i, c := range []struct {
			agent      string
			sure, want bool
		}{{"agt_1", true, true}, {"agt_1", false, false}, {"agt_1", true, false}, {"agt_2", false, false}} {
			if retry, err := a.Take(ctx, tool, c.agent, c.sure); err != nil || (retry == 0) != c.want {
				t.Errorf("call %d of %s: %s %v", i, c.agent, retry, err)
			}
		}
		*a.now = a.now.Add(time.Hour)
		if _, err := a.Take(ctx, tool, "agt_1", false); err != nil {
			t.Error(err)
		}
		var n int
		if err := db.QueryRow(ctx, `SELECT COUNT(*) FROM tool_rates`).Scan(&n); err != nil || n != 2 {
			t.Errorf("%d rates are kept (%v)", n, err)
		}
		db.Close()
		if _, err := a.Take(ctx, tool, "agt_1", false); !errors.Is(err, storage.ErrUnavailable) {
			t.Errorf("counted without a database: %v", err)
		}
	})
}

func TestLimitsAreChecked(t *testing.T) {
	r := open(t, storagetest.Open(t, storagetest.SQLite(t)))
	r.ledger(def("pay", "pays"))
	for name, value := range map[string]string{"calls": "0/1m", "agent_calls": "5/1ms", "result": "-1", "Calls": "1/1m"} {
		_, err := r.SetReferences(ctx, pat, "why", "ledger", "pay", connections.References{Limits: map[string]string{name: value}})
		if !errors.Is(err, connections.ErrReferences) || !strings.Contains(err.Error(), "limits."+name) {
			t.Errorf("%s=%s: %v", name, value, err)
		}
	}
	for _, value := range []string{"9/1", "x/1m", "1000001/1m", "1/25h", "2GiB", "1.5MiB", "2000MiB", "KiB"} {
		if _, err := r.SetReferences(ctx, pat, "why", "ledger", "pay", connections.References{Limits: map[string]string{"calls": value}}); err == nil {
			t.Errorf("a rate of %s", value)
		}
		if _, err := r.SetReferences(ctx, pat, "why", "ledger", "pay", connections.References{Limits: map[string]string{"result": value}}); err == nil {
			t.Errorf("a size of %s", value)
		}
	}
	if changed, err := r.SetReferences(ctx, pat, "why", "ledger", "pay", connections.References{Limits: map[string]string{"result": "64KiB", "calls": "60/1m"}}); err != nil || !changed {
		t.Fatal(changed, err)
	}
	r.poll()
	if tool, _ := r.Tool("ledger", "pay"); tool.Limits() != (connections.Limits{Result: 64 << 10, Calls: rates.Rate{Calls: 60, Per: time.Minute}}) {
		t.Errorf("%+v", tool.Limits())
	}
}
