package mcp_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/gateway/mcp/wire"
	"github.com/countersign/countersign/internal/secrets"
)

// withKey adds the agent's key, as a client's configuration would.
type withKey struct{ key string }

func (k withKey) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+k.key)
	return http.DefaultTransport.RoundTrip(r)
}

// client connects the official client, unmodified.
func (h *house) client(key, path, version string, o *sdk.ClientOptions) *sdk.ClientSession {
	h.t.Helper()
	c := sdk.NewClient(&sdk.Implementation{Name: "test", Version: "1"}, o)
	s, err := c.Connect(context.Background(), &sdk.StreamableClientTransport{
		Endpoint: h.url + path, HTTPClient: &http.Client{Transport: withKey{key}}, MaxRetries: -1,
	}, &sdk.ClientSessionOptions{ProtocolVersion: version})
	if err != nil {
		h.t.Fatalf("connect %s %s: %v\n%s", path, version, err, h.out)
	}
	h.t.Cleanup(func() { s.Close() })
	return s
}

func (h *house) sdkHTTP(stateless bool) string {
	url, _ := h.sdkServer(stateless)
	return url
}

func (h *house) sdkServer(stateless bool) (string, *sdk.Server) {
	server := newSDKServer()
	s := httptest.NewServer(sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return server }, &sdk.StreamableHTTPOptions{Stateless: stateless}))
	h.t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s.URL, server
}

func (h *house) child(name string, env map[string]string) connections.Connection {
	self, err := os.Executable()
	h.must(err)
	all := map[string]string{"COUNTERSIGN_TEST_CHILD": "1"}
	for k, v := range env {
		all[k] = v
	}
	return connections.Connection{Name: name, Command: []string{self}, Env: all}
}

var eras = []string{legacyVersion, wire.Modern}

const legacyVersion = "2025-11-25"

func said(r *sdk.CallToolResult) string {
	if len(r.Content) == 0 {
		return ""
	}
	return r.Content[0].(*sdk.TextContent).Text
}

// exercise does what agents do.
func exercise(t *testing.T, s *sdk.ClientSession, prefix string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	list, err := s.ListTools(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, tool := range list.Tools {
		names = append(names, tool.Name)
	}
	if !slices.Contains(names, prefix+"echo") || !slices.Contains(names, prefix+"hang") {
		t.Fatalf("tools %v", names)
	}
	r, err := s.CallTool(ctx, &sdk.CallToolParams{Name: prefix + "echo", Arguments: map[string]any{"text": "grüezi \n 12345678901234567890"}})
	if err != nil || said(r) != "grüezi \n 12345678901234567890" {
		t.Fatalf("echo: %+v %v", r, err)
	}
	res, err := s.ReadResource(ctx, &sdk.ReadResourceParams{URI: "doc://a"})
	if err != nil || res.Contents[0].Text != "hello" {
		t.Fatalf("resource: %+v %v", res, err)
	}
	p, err := s.GetPrompt(ctx, &sdk.GetPromptParams{Name: prefix + "greet", Arguments: map[string]string{"who": "you"}})
	if err != nil || p.Messages[0].Content.(*sdk.TextContent).Text != "greet you" {
		t.Fatalf("prompt: %+v %v", p, err)
	}
	prompts, err := s.ListPrompts(ctx, nil)
	if err != nil || len(prompts.Prompts) != 1 || prompts.Prompts[0].Name != prefix+"greet" {
		t.Fatalf("prompts: %+v %v", prompts, err)
	}
	if r, err = s.CallTool(ctx, &sdk.CallToolParams{Name: prefix + "nope"}); err == nil || !strings.Contains(err.Error(), "Unknown tool") {
		t.Fatalf("unknown tool: %+v %v", r, err)
	}
}

func TestOfficialClientOverHTTP(t *testing.T) {
	for _, era := range eras {
		t.Run(era, func(t *testing.T) {
			h := build(t)
			key := h.agent("bot")
			h.connect(connections.Connection{Name: "srv", URL: h.sdkHTTP(era == wire.Modern)})
			h.allow("bot", "srv")
			exercise(t, h.client(key, "/mcp/srv", era, nil), "")
		})
	}
}

func TestOfficialClientOverStdio(t *testing.T) {
	for _, era := range eras {
		t.Run(era, func(t *testing.T) {
			h := build(t)
			key := h.agent("bot")
			h.connect(h.child("srv", nil))
			h.allow("bot", "srv")
			exercise(t, h.client(key, "/mcp/srv", era, nil), "")
			exercise(t, h.client(key, "/mcp/srv", era, nil), "") // a second session of the same child
		})
	}
}

func TestOfficialClientOnTheAggregatedEndpoint(t *testing.T) {
	for _, era := range eras {
		for _, up := range []string{"legacy", "modern", "stdio"} {
			t.Run(era+" to "+up, func(t *testing.T) {
				h := build(t)
				key := h.agent("bot")
				c := connections.Connection{Name: "up-stream"}
				if up == "stdio" {
					c = h.child("up-stream", nil)
				} else {
					c.URL = h.sdkHTTP(up == "modern")
				}
				h.connect(c)
				h.connect(connections.Connection{Name: "other", URL: newUpstream(t, twoTools).URL})
				h.allow("bot", "up-stream")
				h.allow("bot", "other", "read")
				s := h.client(key, "/mcp", era, nil)
				exercise(t, s, "up-stream__")
				list, err := s.ListTools(context.Background(), nil)
				h.must(err)
				if got := list.Tools[0].Name; got != "other__read" {
					t.Errorf("first tool %s", got)
				}
				for _, tool := range list.Tools {
					if tool.Name == "other__pay" {
						t.Error("a tool without a grant is shown")
					}
				}
			})
		}
	}
}

func TestProgressAndElicitationPass(t *testing.T) {
	for _, up := range []string{"http", "stdio"} {
		for _, path := range []string{"/mcp/srv", "/mcp"} {
			for _, era := range eras {
				t.Run(up+path+era, func(t *testing.T) {
					h := build(t)
					key := h.agent("bot")
					if up == "http" {
						h.connect(connections.Connection{Name: "srv", URL: h.sdkHTTP(era == wire.Modern)})
					} else {
						h.connect(h.child("srv", nil))
					}
					h.allow("bot", "srv")
					var steps atomic.Int32
					s := h.client(key, path, era, &sdk.ClientOptions{
						ProgressNotificationHandler: func(_ context.Context, r *sdk.ProgressNotificationClientRequest) {
							if fmt.Sprint(r.Params.ProgressToken) == "my-token" {
								steps.Add(1)
							}
						},
						ElicitationHandler: func(context.Context, *sdk.ElicitRequest) (*sdk.ElicitResult, error) {
							return &sdk.ElicitResult{Action: "decline"}, nil
						},
					})
					prefix := ""
					if path == "/mcp" {
						prefix = "srv__"
					}
					ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
					defer cancel()
					params := &sdk.CallToolParams{Name: prefix + "progress"}
					params.SetProgressToken("my-token")
					if r, err := s.CallTool(ctx, params); err != nil || said(r) != "ok" {
						t.Fatalf("progress: %+v %v", r, err)
					}
					for deadline := time.Now().Add(5 * time.Second); steps.Load() < 3 && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
					}
					if steps.Load() != 3 {
						t.Errorf("%d progress notifications", steps.Load())
					}
					if era == wire.Modern {
						return // the SDK's server cannot ask in the newer era from inside a tool
					}
					if r, err := s.CallTool(ctx, &sdk.CallToolParams{Name: prefix + "ask"}); err != nil || said(r) != "decline" {
						t.Fatalf("ask: %+v %v\n%s", r, err, h.out)
					}
				})
			}
		}
	}
}

func TestAChildGetsItsSecretAndLittleElse(t *testing.T) {
	h := build(t)
	key := h.agent("bot")
	ctx := context.Background()
	t.Setenv("SOMETHING_OF_OURS", "x")
	c := h.child("srv", map[string]string{"SECRET": "secret://child"})
	c.Kind, c.Owner = connections.MCP, "pat"
	_, err := h.conns.Register(ctx, admin, "test", c)
	h.must(err)
	_, err = h.secs.Put(ctx, admin, "test", secrets.Spec{Name: "child", Owner: "pat", Connection: "srv"}, secrets.NewValue([]byte("correct horse battery")))
	h.must(err)
	_, err = h.conns.Refresh(ctx, admin, "test", "srv")
	h.must(err)
	h.allow("bot", "srv")
	s := h.client(key, "/mcp/srv", legacyVersion, nil)
	r, err := s.CallTool(ctx, &sdk.CallToolParams{Name: "env"})
	h.must(err)
	n, _, _ := strings.Cut(said(r), " ")
	parts := strings.Fields(said(r))
	if n != strconv.Itoa(len("correct horse battery")) || parts[1] != "true" || len(parts) != 3 {
		t.Errorf("environment: %s", said(r))
	}
	if total, _ := strconv.Atoi(parts[2]); total > 6 {
		t.Errorf("%s variables", parts[2])
	}
	h.events(audit.UpstreamUsed, 2)
}

func TestAChildKilledInACall(t *testing.T) {
	h := build(t)
	key := h.agent("bot")
	h.connect(h.child("srv", nil))
	h.allow("bot", "srv")
	s := h.client(key, "/mcp/srv", legacyVersion, nil)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	r, err := s.CallTool(ctx, &sdk.CallToolParams{Name: "pid"})
	h.must(err)
	pid, err := strconv.Atoi(said(r))
	h.must(err)
	failed := make(chan error, 1)
	go func() {
		_, err := s.CallTool(ctx, &sdk.CallToolParams{Name: "hang"})
		failed <- err
	}()
	waitFor(t, h, "hanging")
	h.must(syscall.Kill(pid, syscall.SIGKILL))
	if err := <-failed; err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	// The session is gone with the process; a new one works after the pause.
	fresh := h.client(key, "/mcp/srv", legacyVersion, nil)
	if r, err = fresh.CallTool(ctx, &sdk.CallToolParams{Name: "pid"}); err != nil || said(r) == strconv.Itoa(pid) {
		t.Fatalf("%+v %v", r, err)
	}
	var broken int
	for deadline := time.Now().Add(5 * time.Second); broken == 0 && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		for _, ev := range h.events(audit.CallOutcome, 1) {
			if ev.Tool == "hang" && ev.Outcome.Status == audit.Broken {
				broken++
			}
		}
	}
	if broken != 1 {
		t.Errorf("%d broken outcomes", broken)
	}
}

func TestCancellationReachesAChild(t *testing.T) {
	h := build(t)
	key := h.agent("bot")
	h.connect(h.child("srv", nil))
	h.allow("bot", "srv")
	for _, era := range eras {
		s := h.client(key, "/mcp/srv", era, nil)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() {
			_, err := s.CallTool(ctx, &sdk.CallToolParams{Name: "hang"})
			done <- err
		}()
		waitFor(t, h, "hanging")
		cancel()
		<-done
		waitFor(t, h, "cancelled")
		h.out.reset()
	}
}

func TestAChildThatTalksGarbage(t *testing.T) {
	h := build(t)
	c := h.child("srv", map[string]string{"COUNTERSIGN_TEST_CHILD": "garbage"})
	c.Kind, c.Owner = connections.MCP, "pat"
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	_, err := h.conns.Register(context.Background(), admin, "test", c)
	h.must(err)
	if _, err := h.conns.Refresh(ctx, admin, "test", "srv"); err == nil {
		t.Fatal("discovered something")
	}
}

func waitFor(t *testing.T, h *house, text string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(h.out.String(), "line="+text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%q was not said:\n%s", text, h.out)
		}
	}
}

func (l *lines) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Reset()
}
