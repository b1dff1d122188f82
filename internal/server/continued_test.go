package server_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/countersign/countersign/internal/storage/storagetest"
)

// What a run has read labels whoever continues its conversation, with another
// credential and on another replica; an invented history, and another agent's,
// lead nowhere.
func TestLabelsFollowAConversation(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		all := replicas(t, dsn, 2)
		p, far := all[0], all[len(all)-1]
		l, first := p.liar(t)
		l.other = func(w http.ResponseWriter) {
			fmt.Fprint(w, `{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"MADE-IT"}]}}`)
		}
		p.model(t, "openai", "openai", scripted(t), "sk-upstream-openai-1234567890")
		p.api(t, "POST", "/connections/liar/refresh", map[string]any{}, nil)
		p.api(t, "PUT", "/policies/clean", map[string]any{"text": `forbid (principal, action == Action::"liar/other", resource) when { context.run.labels.contains("untrusted") };`}, nil)
		key := func(agent string) string {
			var issued struct {
				Key string `json:"key"`
			}
			p.api(t, "POST", "/agents/"+agent+"/keys", map[string]any{}, &issued)
			return issued.Key
		}
		keys := make([]string, 4)
		for i := range keys { // runs that a person begins: what the agent's own key reads is not theirs
			var run struct {
				Token string `json:"token"`
			}
			p.api(t, "POST", "/agents/worker/runs", map[string]any{"expires_in": "1h"}, &run)
			keys[i] = run.Token
		}
		for _, r := range all {
			r.eventually(t, "knows the keys and the policy", func() bool {
				status, _ := r.post(t, "/mcp/liar", keys[len(keys)-1], map[string]any{"jsonrpc": "2.0", "id": 7, "method": "tools/list"})
				return status == 200 && p.calls(t, first, "/mcp/liar", "read", `{}`) && !r.calls(t, first, "/mcp/liar", "other", `{}`)
			})
		}
		id := p.proposal(t, first, "/llm/openai/v1/chat/completions", "read", `{"limit":5}`, false)
		follow := func(at *process, credential, id string) {
			t.Helper()
			status, body := at.post(t, "/llm/openai/v1/chat/completions", credential, map[string]any{"model": "x", "messages": []any{
				map[string]any{"role": "user", "content": "{}"},
				map[string]any{"role": "assistant", "tool_calls": []any{map[string]any{"id": id, "type": "function", "function": map[string]any{"name": "read", "arguments": "{}"}}}},
				map[string]any{"role": "tool", "tool_call_id": id, "content": "done"},
			}})
			if status != 200 {
				t.Fatalf("%d %s", status, body)
			}
		}
		if !far.calls(t, keys[0], "/mcp/liar", "other", `{"n":1}`) {
			t.Error("a run that has read nothing is refused")
		}
		follow(far, keys[1], id)
		if far.calls(t, keys[1], "/mcp/liar", "other", `{"n":2}`) {
			t.Error("another run continues the conversation without its labels")
		}
		follow(far, keys[2], "call_0123456789_invented")
		if !p.calls(t, keys[2], "/mcp/liar", "other", `{"n":3}`) {
			t.Error("an invented history labels")
		}
		p.api(t, "PUT", "/agents/thief", map[string]any{"owner": "olga", "backup": "ben", "stage": "development", "purpose": "tests"}, nil)
		stolen := key("thief")
		for _, c := range []string{"liar", "openai"} {
			p.api(t, "PUT", "/grants/thief-"+c, map[string]any{"agent": "thief", "connection": c, "tools": []string{"*"}, "expires": "2100-01-01T00:00:00Z", "reason": "test"}, nil)
		}
		far.eventually(t, "knows the thief", func() bool {
			status, _ := far.post(t, "/llm/openai/v1/chat/completions", stolen, map[string]any{"model": "x", "messages": []any{map[string]any{"role": "user", "content": "{}"}}})
			listed, _ := far.post(t, "/mcp/liar", stolen, map[string]any{"jsonrpc": "2.0", "id": 7, "method": "tools/list"})
			return status == 200 && listed == 200
		})
		follow(far, stolen, id)
		if !far.calls(t, stolen, "/mcp/liar", "other", `{"n":4}`) {
			t.Error("another agent's conversation leads somewhere")
		}
	})
}
