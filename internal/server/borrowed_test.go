package server_test

import (
	"strings"
	"testing"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// An agent whose connection to this very server carries an approver's token
// decides about nothing with it: not as it is, not in the middle of another
// value. The person is told why, and goes on with a new one.
func TestAnApproversTokenInASecretDecidesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	p := start(t, t.TempDir(), storagetest.SQLite(t), "")
	w := newHeldWorld(t, p)
	const document = `{"openapi":"3.0.0","info":{"title":"self","version":"1"},"paths":{"/api/v1/approvals/{id}/decision":{"post":{"operationId":"decide","parameters":[{"name":"id","in":"path","required":true,"schema":{"type":"string"}}],"requestBody":{"required":true,"content":{"application/json":{"schema":{"type":"object","properties":{"verdict":{"type":"string"},"reason":{"type":"string"}}}}}},"responses":{"200":{"description":"ok"}}}}}}`
	for name, around := range map[string][2]string{"as it is": {}, "in another value": {"token ", "\n"}} {
		fiona := w.person["fiona"]
		value := around[0] + fiona + around[1]
		p.api(t, "PUT", "/secrets/lent", map[string]any{"value": value, "owner": "olga", "connection": "self"}, nil)
		p.api(t, "PUT", "/connections/self", map[string]any{"kind": "http", "owner": "olga", "url": p.url, "allow_private": true, "secret": "lent", "auth": "bearer"}, nil)
		if _, err := client.New(p.url, p.token).WithReason("test").ImportOpenAPI(t.Context(), "self", document, nil); err != nil {
			t.Fatal(err)
		}
		p.grant(t, "self")
		limit, id := w.held(0)
		decision := `{"verdict":"approve","reason":"I say so"}`
		status, body := p.as(t, w.key, "POST", "/http/self/api/v1/approvals/"+id+"/decision", decision)
		if name == "as it is" && (status != 403 || !strings.Contains(body, "borrowed_token")) {
			t.Errorf("%s, the agent: %d %s", name, status, body)
		}
		if status, body := p.as(t, fiona, "POST", "/api/v1/approvals/"+id+"/decision", decision); status != 403 || !strings.Contains(body, "sign in anew") {
			t.Errorf("%s, the person: %d %s", name, status, body)
		}
		if s := w.stateOf(id); s != "pending" || strings.Contains(w.call(p, "read", limit), "MADE-IT") {
			t.Errorf("%s: an agent decided: %s", name, s)
		}
		w.person["fiona"] = p.person(t, "fiona", "approver")
		made, err := client.New(p.url, w.person["fiona"]).WithReason("for the build").IssueToken(t.Context(), "ci", "1h")
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{id + "/decision", id + "/challenge", id + "/override", id + "/run", "delegations"} {
			body := map[string]string{"delegations": `{"taker":"olga","until":"2099-01-01T00:00:00Z","reason":"away"}`, id + "/run": `{"reason":"x"}`, id + "/override": `{"reason":"x"}`, id + "/challenge": `{"verdict":"approve"}`}[path]
			if body == "" {
				body = decision
			}
			if status, body := p.as(t, made.Value, "POST", "/api/v1/approvals/"+path, body); status != 403 || !strings.Contains(body, "sign_in_required") {
				t.Errorf("%s with a token for programs: %d %s", path, status, body)
			}
		}
		if status, body := w.vote(p, "fiona", id, "approve"); status != 200 {
			t.Errorf("%s, signed in anew: %d %s", name, status, body)
		}
	}
}
