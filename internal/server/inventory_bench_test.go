package server_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// BenchmarkInventory asks a server for the whole inventory: 1,000 agents by 100
// tools of ten connections, each agent with a grant for half of one of them.
func BenchmarkInventory(b *testing.B) {
	p := start(b, b.TempDir(), storagetest.SQLite(b), "")
	p.api(b, "PUT", "/users/olga", map[string]any{"role": "owner"}, nil)
	api := client.New(p.url, p.token).WithReason("bench")
	for i := range 10 {
		name := fmt.Sprintf("api-%d", i)
		var paths []string
		for j := range 10 {
			paths = append(paths, fmt.Sprintf(`"/p%d":{"get":{"operationId":"get-%d","responses":{"200":{"description":"ok"}}}}`, j, j))
		}
		p.api(b, "PUT", "/connections/"+name, map[string]any{"kind": "http", "owner": "olga", "url": "https://" + name + ".example"}, nil)
		if _, err := api.ImportOpenAPI(b.Context(), name, `{"openapi":"3.0.0","info":{"title":"x","version":"1"},"paths":{`+strings.Join(paths, ",")+`}}`, nil); err != nil {
			b.Fatal(err)
		}
	}
	expires := time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339)
	for i := range 1000 {
		name := fmt.Sprintf("agent-%d", i)
		p.api(b, "PUT", "/agents/"+name, map[string]any{"owner": "olga", "stage": "development"}, nil)
		p.api(b, "PUT", "/grants/"+name, map[string]any{"agent": name, "connection": fmt.Sprintf("api-%d", i%10), "tools": []string{"get-0", "get-1", "get-2", "get-3", "get-4"}, "expires": expires, "reason": "bench"}, nil)
	}
	var took []time.Duration
	for b.Loop() {
		var all struct {
			Agents []struct {
				Reach struct {
					Tools int `json:"tools"`
				} `json:"reach"`
			} `json:"agents"`
		}
		began := time.Now()
		p.api(b, "GET", "/inventory", nil, &all)
		took = append(took, time.Since(began))
		if len(all.Agents) != 1000 || all.Agents[0].Reach.Tools != 5 {
			b.Fatalf("%d agents, %+v", len(all.Agents), all.Agents[:1])
		}
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "max-ms")
}
