package mcp_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"go.uber.org/goleak"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/gateway/mcp/stdio"
	"github.com/countersign/countersign/internal/gateway/mcp/wire"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

const hello = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}`

// starts counts how often a child of the agent was started.
func (h *house) starts(agent string) int {
	n := 0
	for _, ev := range h.events(audit.UpstreamUsed, 0) {
		if ev.Object != "" && ev.Agent == agent {
			n++
		}
	}
	return n
}

func TestADyingChildIsStartedMoreAndMoreSeldom(t *testing.T) {
	h := buildOn(t, filepath.Join(t.TempDir(), "cs.db"), func(o *stdio.Options) { o.MinBackoff = 200 * time.Millisecond })
	key := h.agent("bot")
	h.connect(h.child("srv", nil))
	h.allow("bot", "srv")
	ctx := context.Background()
	c, _ := h.conns.Connection("srv")
	c.Command, c.Env = []string{"sh", "-c", "exit 3"}, nil
	_, err := h.conns.Register(ctx, admin, "it breaks", c)
	h.must(err)
	began := time.Now()
	for range 4 {
		if r := h.raw(key, "/mcp/srv", hello); !strings.Contains(r.body, "-32050") {
			t.Errorf("%d %s", r.status, r.body)
		}
	}
	if n := h.starts("bot"); n != 4 {
		t.Errorf("%d starts", n)
	}
	if took := time.Since(began); took < 1200*time.Millisecond { // 200 + 400 + 800, less the time between
		t.Errorf("four starts in %s", took)
	}
	if r := h.raw(key, "/mcp/srv", hello); !strings.Contains(r.body, "-32050") {
		t.Errorf("%d %s", r.status, r.body)
	}
}

func TestAnIdleChildIsStopped(t *testing.T) {
	h := buildOn(t, filepath.Join(t.TempDir(), "cs.db"), func(o *stdio.Options) { o.Idle = 150 * time.Millisecond })
	key := h.agent("bot")
	h.connect(h.child("srv", nil))
	h.allow("bot", "srv")
	var session string
	var r reply
	for range 100 { // the child may rest before it is asked
		session = h.raw(key, "/mcp/srv", hello).header.Get("Mcp-Session-Id")
		if r = h.raw(key, "/mcp/srv", call("1", "pid", `{}`), "Mcp-Session-Id", session); r.status != 404 && !strings.Contains(r.body, "child_died") {
			break
		}
	}
	_, after, _ := strings.Cut(r.body, `"text":"`)
	digits, _, _ := strings.Cut(after, `"`)
	pid, err := strconv.Atoi(digits)
	if err != nil {
		t.Fatalf("%d %s", r.status, r.body)
	}
	gone(t, pid)
	if r := h.raw(key, "/mcp/srv", call("1", "pid", `{}`), "Mcp-Session-Id", session); r.status != 404 {
		t.Errorf("the session outlived its child: %d %s", r.status, r.body)
	}
	if s := h.raw(key, "/mcp/srv", hello).header.Get("Mcp-Session-Id"); s == "" {
		t.Error("no new session")
	}
}

func gone(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d is still there", pid)
		}
	}
}

func TestWhatAChildStartedGoesWithIt(t *testing.T) {
	for name, ending := range map[string]string{
		"stubborn": `trap '' TERM; while :; do read x; sleep 0.05; done`, // until it is killed
		"at once":  `exit 0`,                                             // and leaves the other behind
	} {
		t.Run(name, func(t *testing.T) {
			var pid int
			if t.Run("run", func(t *testing.T) { pid = sleeper(t, ending, name == "at once") }) {
				gone(t, pid)
			}
		})
	}
}

// sleeper has a child start a process and returns that one's id; Countersign
// has stopped when it is used, unless the test waits for it here.
func sleeper(t *testing.T, ending string, wait bool) (pid int) {
	h := build(t)
	key := h.agent("bot")
	h.connect(h.child("srv", nil))
	h.allow("bot", "srv")
	c, _ := h.conns.Connection("srv")
	c.Command = []string{"sh", "-c", `sleep 3600 & echo sleeper=$! >&2; ` + ending}
	_, err := h.conns.Register(context.Background(), admin, "it leaves something behind", c)
	h.must(err)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, h.url+"/mcp/srv", strings.NewReader(hello))
	req.Header = http.Header{"Authorization": {"Bearer " + key}, "Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}}
	if resp, err := http.DefaultClient.Do(req); err == nil {
		resp.Body.Close()
	}
	// What a child says is logged beside the answer, not before it.
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(h.out.String(), "sleeper="); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(h.out)
		}
	}
	_, after, _ := strings.Cut(h.out.String(), "sleeper=")
	_, err = fmt.Sscan(after, &pid)
	h.must(err)
	if wait {
		gone(t, pid)
	}
	return pid
}

func TestNewToolsAreToldAndNotShown(t *testing.T) {
	for _, era := range eras {
		t.Run(era, func(t *testing.T) {
			h := build(t)
			key := h.agent("bot")
			url, server := h.sdkServer(era == wire.Modern)
			h.connect(connections.Connection{Name: "srv", URL: url})
			h.allow("bot", "srv")
			told := make(chan bool, 10)
			s := h.client(key, "/mcp/srv", era, &sdk.ClientOptions{ToolListChangedHandler: func(context.Context, *sdk.ToolListChangedRequest) { told <- true }})
			sdk.AddTool(server, &sdk.Tool{Name: "fresh", Description: "new"}, func(context.Context, *sdk.CallToolRequest, noArgs) (*sdk.CallToolResult, any, error) {
				return &sdk.CallToolResult{}, nil, nil
			})
			select {
			case <-told:
			case <-time.After(5 * time.Second):
				t.Fatal("the client was not told")
			}
			for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
				if tool, ok := h.conns.Tool("srv", "fresh"); ok && tool.Status == connections.StatusNew {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("nobody looked at the new tool")
				}
			}
			list, err := s.ListTools(context.Background(), nil)
			h.must(err)
			for _, tool := range list.Tools {
				if tool.Name == "fresh" {
					t.Error("a tool that nobody accepted is shown")
				}
			}
		})
	}
}

func TestNothingIsLeftBehind(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Run("work", func(t *testing.T) {
		h := build(t)
		key := h.agent("bot")
		h.connect(h.child("child", nil))
		h.connect(connections.Connection{Name: "srv", URL: h.sdkHTTP(false)})
		h.allow("bot", "child")
		h.allow("bot", "srv")
		for _, path := range []string{"/mcp/srv", "/mcp/child", "/mcp"} {
			s := h.client(key, path, legacyVersion, nil)
			_, err := s.ListTools(context.Background(), nil)
			h.must(err)
			name := map[string]string{"/mcp/child": "hang", "/mcp": "child__hang"}[path]
			if name == "" { // the SDK's server does not end a call of the older era when its client leaves
				continue
			}
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			if _, err = s.CallTool(ctx, &sdk.CallToolParams{Name: name}); err == nil {
				t.Error("hang answered")
			}
			cancel()
			s.Close()
		}
	})
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	goleak.VerifyNone(t, before)
}

func TestOnEveryEngine(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		h := buildOn(t, dsn, nil)
		key := h.agent("bot")
		h.connect(h.child("srv", nil))
		h.allow("bot", "srv")
		exercise(t, h.client(key, "/mcp/srv", legacyVersion, nil), "")
		exercise(t, h.client(key, "/mcp", wire.Modern, nil), "srv__")
		report, err := h.log.Verify(context.Background(), nil)
		if err != nil {
			t.Errorf("the log does not verify: %v %+v", err, report)
		}
	})
}
