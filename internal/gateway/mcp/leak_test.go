package mcp_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/gateway/mcp/stdio"
	"github.com/countersign/countersign/internal/secrets"
)

// A process that repeats the credential it was given shows the agent
// asterisks, however JSON writes it, and its stderr shows nobody.
func TestAChildThatRepeatsItsCredential(t *testing.T) {
	for name, secret := range map[string]string{
		"plain":         "zebra-horse-battery-41d9",
		"special":       `q"u<o>t&e\d/släsh` + "\tand\U0001f511key",
		"several lines": "-first line of it-\nand the second one-\n",
	} {
		t.Run(name, func(t *testing.T) {
			h := build(t)
			key := h.agent("bot")
			c := h.child("srv", map[string]string{"SECRET": "secret://child", "COUNTERSIGN_TEST_CHILD": "leaky"})
			c.Kind, c.Owner = connections.MCP, "pat"
			ctx := context.Background()
			_, err := h.conns.Register(ctx, admin, "test", c)
			h.must(err)
			_, err = h.secs.Put(ctx, admin, "test", secrets.Spec{Name: "child", Owner: "pat", Connection: "srv"}, secrets.NewValue([]byte(secret)))
			h.must(err)
			_, err = h.conns.Refresh(ctx, admin, "test", "srv")
			h.must(err)
			h.allow("bot", "srv")
			for _, path := range []string{"/mcp/srv", "/mcp"} {
				for _, era := range eras {
					var told strings.Builder
					s := h.client(key, path, era, &sdk.ClientOptions{ProgressNotificationHandler: func(_ context.Context, r *sdk.ProgressNotificationClientRequest) { told.WriteString(r.Params.Message) }})
					prefix := map[string]string{"/mcp": "srv__"}[path]
					params := &sdk.CallToolParams{Name: prefix + "leak"}
					params.SetProgressToken("p")
					r, err := s.CallTool(ctx, params)
					h.must(err)
					if got := said(r); !strings.HasPrefix(got, "it is ***") || !strings.HasSuffix(got, "***!") {
						t.Errorf("%s, %s: %q", path, era, got)
					}
					r, err = s.CallTool(ctx, &sdk.CallToolParams{Name: prefix + "fail"})
					h.must(err)
					if got := said(r); !r.IsError || !strings.Contains(got, "login failed with ***") {
						t.Errorf("%s, %s: an error: %q", path, era, got)
					}
				}
			}
			for deadline := time.Now().Add(10 * time.Second); !strings.Contains(h.out.String(), "to the database"); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("nothing of stderr was logged")
				}
			}
			for _, part := range []string{secret[:10], secret[10:20], secret[len(secret)-8:]} {
				if strings.Contains(h.out.String(), part) {
					t.Errorf("%q is in our own log", part)
				}
			}
		})
	}
}

func TestAnAgentsSessionsAndProcessesAreBounded(t *testing.T) {
	h := buildOn(t, filepath.Join(t.TempDir(), "cs.db"), func(o *stdio.Options) { o.MaxSessions, o.MaxChildren = 3, 2 })
	key, other := h.agent("bot"), h.agent("other")
	for _, name := range []string{"one", "two", "three"} {
		h.connect(h.child(name, nil))
		h.allow("bot", name)
		h.allow("other", name)
	}
	ping := func(key, path, session string) int {
		return h.raw(key, path, `{"jsonrpc":"2.0","id":2,"method":"ping"}`, "Mcp-Session-Id", session).status
	}
	var sessions []string
	for range 3 {
		sessions = append(sessions, h.raw(key, "/mcp/one", hello).header.Get("Mcp-Session-Id"))
	}
	foreign := h.raw(other, "/mcp/one", hello).header.Get("Mcp-Session-Id")
	if status := ping(key, "/mcp/one", sessions[0]); status != 200 { // used: now the second is the oldest
		t.Fatal(status)
	}
	fresh := h.raw(key, "/mcp/two", hello).header.Get("Mcp-Session-Id")
	for _, c := range []struct {
		name, key, path, session string
		want                     int
	}{
		{"the oldest", key, "/mcp/one", sessions[1], 404}, {"one in use", key, "/mcp/one", sessions[0], 200}, {"another", key, "/mcp/one", sessions[2], 200},
		{"the new one", key, "/mcp/two", fresh, 200}, {"another agent's", other, "/mcp/one", foreign, 200},
	} {
		if status := ping(c.key, c.path, c.session); status != c.want {
			t.Errorf("%s: %d", c.name, status)
		}
	}
	r := h.raw(key, "/mcp/three", hello)
	if r.status != 429 || !strings.Contains(r.body, "too_many_children") {
		t.Errorf("a third process: %d %s", r.status, r.body)
	}
	if r := h.raw(other, "/mcp/three", hello); r.status != 200 {
		t.Errorf("another agent: %d %s", r.status, r.body)
	}
}
