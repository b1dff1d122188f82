package server_test

import (
	"slices"
	"testing"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// A decommission tries every kind of credential at the doors of every front,
// before and after; nothing of it reaches an upstream.
func TestADecommissionTriesEveryFront(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	upstream, began := hanging(t)
	p := start(t, t.TempDir(), storagetest.SQLite(t), "")
	p.company(t)
	p.api(t, "PUT", "/connections/desk", map[string]any{"kind": "mcp", "owner": "olga", "url": upstream + "/mcp", "allow_private": true}, nil)
	p.api(t, "PUT", "/connections/forge", map[string]any{"kind": "http", "owner": "olga", "url": upstream, "allow_private": true}, nil)
	const document = `{"openapi":"3.0.0","info":{"title":"forge","version":"1"},"paths":{"/watch":{"get":{"operationId":"watch","responses":{"200":{"description":"ok"}}}}}}`
	if _, err := client.New(p.url, p.token).WithReason("test").ImportOpenAPI(t.Context(), "forge", document, nil); err != nil {
		t.Fatal(err)
	}
	p.grant(t, "desk")
	p.grant(t, "forge")
	p.model(t, "openai", "openai", upstream, "decommission-model-key-0123")
	var d struct {
		State  string `json:"state"`
		Probes []struct {
			Door    string `json:"door"`
			Kind    string `json:"kind"`
			Worked  bool   `json:"worked"`
			Refused bool   `json:"refused"`
		} `json:"probes"`
	}
	p.api(t, "POST", "/agents/worker/decommission", map[string]any{}, &d)
	var tried []string
	for _, x := range d.Probes {
		if !x.Worked || !x.Refused {
			t.Errorf("%+v", x)
		}
		tried = append(tried, x.Kind+" "+x.Door)
	}
	for _, kind := range []string{"key", "run", "access"} {
		for _, door := range []string{"/mcp", "/mcp/desk", "/http/forge", "/llm/openai"} {
			if !slices.Contains(tried, kind+" "+door) {
				t.Errorf("a credential of kind %s was not tried at %s", kind, door)
			}
		}
	}
	if d.State != "refused" {
		t.Errorf("%s: %v", d.State, tried)
	}
	select {
	case <-began:
		t.Error("a probe reached the upstream")
	default:
	}
}
