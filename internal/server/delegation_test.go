package server_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// machine registers an agent with a key of its own.
func (p *process) machine(t testing.TB, agent string) client.AgentKey {
	t.Helper()
	key, err := client.NewAgentKey(p.url, agent)
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.JWK.Public().MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.New(p.url, p.token).AddClientKey(t.Context(), agent, client.ClientKeySpec{JWK: public}); err != nil {
		t.Fatal(err)
	}
	return key
}

// Rights only shrink: what a sub-agent may do for an agent is what both may.
func TestDelegationGivesNobodyMore(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	upstream := httptest.NewServer(http.HandlerFunc(echo))
	defer upstream.Close()
	p := start(t, t.TempDir(), storagetest.SQLite(t), "")
	p.company(t)
	p.model(t, "up", "openai", upstream.URL, "sk-upstream-0123456789") // worker may use it
	p.api(t, "PUT", "/agents/front", map[string]any{"owner": "ben", "stage": "development"}, nil)
	c := client.New(p.url, "")
	worker, front := p.machine(t, "worker"), p.machine(t, "front")
	ask := func(token string) int {
		t.Helper()
		req, _ := http.NewRequest("POST", p.url+"/llm/up/v1/chat/completions", strings.NewReader(`{"model":"m","messages":[{"role":"user","content":"hello"}]}`))
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	get := func(token string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	alone := get(c.AccessToken(t.Context(), worker, "", p.url+"/llm/up"))
	if s := ask(alone); s != 200 {
		t.Fatalf("the worker alone: %d", s)
	}
	first := get(c.AccessToken(t.Context(), front, "", p.url+"/llm/up"))
	if s := ask(first); s != 403 && s != 404 {
		t.Fatalf("the front has no grant: %d", s)
	}
	through := get(c.ActFor(t.Context(), worker, first, "", p.url+"/llm/up"))
	if s := ask(through); s != 403 && s != 404 {
		t.Errorf("the front gets through the worker what it may not do itself: %d", s)
	}
	p.api(t, "PUT", "/grants/front-up", map[string]any{"agent": "front", "connection": "up", "tools": []string{"*"},
		"expires": time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339), "reason": "test"}, nil)
	if s := ask(through); s != 200 {
		t.Errorf("both may: %d", s)
	}
}
