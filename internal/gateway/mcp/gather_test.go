package mcp_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/gateway/mcp/wire"
)

// Whichever era the client is of, and whichever its servers are of, it is told
// through /mcp that tools changed.
func TestChangesAreToldThroughTheAggregatedEndpoint(t *testing.T) {
	for _, client := range eras {
		for _, server := range eras {
			t.Run(client+" to "+server, func(t *testing.T) {
				h := build(t)
				key := h.agent("bot")
				url, up := h.sdkServer(server == wire.Modern)
				h.connect(connections.Connection{Name: "srv", URL: url})
				h.connect(h.child("child", nil))
				h.allow("bot", "srv")
				h.allow("bot", "child")
				told := make(chan bool, 100)
				s := h.client(key, "/mcp", client, &sdk.ClientOptions{ToolListChangedHandler: func(context.Context, *sdk.ToolListChangedRequest) { told <- true }})
				exerciseOne(t, s, "srv__")
				for deadline := time.Now().Add(20 * time.Second); ; {
					// the stream may not be open yet, so it changes until it is heard
					up.RemoveTools("echo2")
					sdk.AddTool(up, &sdk.Tool{Name: "echo2", Description: "new"}, func(context.Context, *sdk.CallToolRequest, noArgs) (*sdk.CallToolResult, any, error) {
						return &sdk.CallToolResult{}, nil, nil
					})
					select {
					case <-told:
						return
					case <-time.After(200 * time.Millisecond):
					}
					if time.Now().After(deadline) {
						t.Fatalf("the client was not told\n%s", h.out)
					}
				}
			})
		}
	}
}

func exerciseOne(t *testing.T, s *sdk.ClientSession, prefix string) {
	t.Helper()
	r, err := s.CallTool(context.Background(), &sdk.CallToolParams{Name: prefix + "echo", Arguments: map[string]any{"text": "hello"}})
	if err != nil || said(r) != "hello" {
		t.Fatalf("echo: %+v %v", r, err)
	}
}

// A server asks its client something outside of any call: over the stream, and
// through /mcp the answer finds its way back.
func TestAServerAsksOverTheStream(t *testing.T) {
	h := build(t)
	key := h.agent("bot")
	url, up := h.sdkServer(false)
	h.connect(connections.Connection{Name: "srv", URL: url})
	h.allow("bot", "srv")
	c := sdk.NewClient(&sdk.Implementation{Name: "test", Version: "1"}, nil)
	//nolint:staticcheck // deprecated for the newer era; this is the older one
	c.AddRoots(&sdk.Root{URI: "file:///work", Name: "work"})
	s, err := c.Connect(context.Background(), &sdk.StreamableClientTransport{Endpoint: h.url + "/mcp", HTTPClient: &http.Client{Transport: withKey{key}}, MaxRetries: -1}, &sdk.ClientSessionOptions{ProtocolVersion: legacyVersion})
	h.must(err)
	defer s.Close()
	exerciseOne(t, s, "srv__")
	for deadline := time.Now().Add(20 * time.Second); ; {
		for ss := range up.Sessions() {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			roots, err := ss.ListRoots(ctx, nil) //nolint:staticcheck // as above
			cancel()
			if err == nil && len(roots.Roots) == 1 && roots.Roots[0].URI == "file:///work" {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("nobody answered\n%s", h.out)
		}
	}
}

// A server that asks a client which cannot be asked is told so at once, and the
// call ends.
func TestAQuestionToAClientThatCannotBeAskedIsDeclined(t *testing.T) {
	h, u, key := scripted(t)
	h.allow("bot", "srv")
	declined := make(chan string, 4)
	u.on(func(w http.ResponseWriter, r *http.Request, body string) bool {
		if strings.Contains(body, `"id":"q1"`) || strings.Contains(body, `"id":"q2"`) {
			declined <- body
			w.WriteHeader(http.StatusAccepted)
			return true
		}
		if !strings.Contains(body, "tools/call") {
			return false
		}
		_, after, _ := strings.Cut(body, `"id":`)
		id, _, _ := strings.Cut(after, ",")
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: {\"jsonrpc\":\"2.0\",\"id\":\"q1\",\"method\":\"elicitation/create\",\"params\":{\"message\":\"sure?\"}}\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":\"q2\",\"method\":\"ping\"}\n\n")
		w.(http.Flusher).Flush()
		for range 2 {
			select {
			case got := <-declined:
				declined <- got
			case <-time.After(10 * time.Second):
			}
		}
		fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"did without\"}]}}\n\n", id)
		return true
	})
	s := h.client(key, "/mcp", wire.Modern, &sdk.ClientOptions{ElicitationHandler: func(context.Context, *sdk.ElicitRequest) (*sdk.ElicitResult, error) {
		t.Error("the client was asked")
		return &sdk.ElicitResult{Action: "accept"}, nil
	}})
	r, err := s.CallTool(context.Background(), &sdk.CallToolParams{Name: "srv__read", Arguments: map[string]any{"id": "a"}})
	if err != nil || said(r) != "did without" {
		t.Fatalf("%+v %v", r, err)
	}
	var got []string
	for range 2 {
		got = append(got, <-declined)
	}
	all := strings.Join(got, "\n")
	if !strings.Contains(all, `"id":"q1","error":{"code":-32601`) || !strings.Contains(all, `"id":"q2","result":{}`) {
		t.Errorf("the server was told %s", all)
	}
}

// An older client cannot be asked in the newer way: the call ends with a
// sentence that says so, and not with silence.
func TestANewerServerThatNeedsInputOfAnOlderClient(t *testing.T) {
	h := build(t)
	key := h.agent("bot")
	h.connect(connections.Connection{Name: "srv", URL: h.sdkHTTP(true)})
	h.allow("bot", "srv")
	s := h.client(key, "/mcp", legacyVersion, &sdk.ClientOptions{ElicitationHandler: func(context.Context, *sdk.ElicitRequest) (*sdk.ElicitResult, error) {
		return &sdk.ElicitResult{Action: "accept"}, nil
	}})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	r, err := s.CallTool(ctx, &sdk.CallToolParams{Name: "srv__ask"})
	if ctx.Err() != nil || (err == nil && !r.IsError && said(r) != "accept") {
		t.Errorf("%+v %v", r, err)
	}
}

// A stream of /mcp ends with its agent's right to call, and an agent cannot have
// any number of them.
func TestTheAggregatedStreamEndsAndIsBounded(t *testing.T) {
	h, _, key := scripted(t)
	h.allow("bot", "srv")
	session := h.raw(key, "/mcp", hello).header.Get("Mcp-Session-Id")
	open := func() *http.Response {
		req, err := http.NewRequest(http.MethodGet, h.url+"/mcp", nil)
		h.must(err)
		req.Header = http.Header{"Authorization": {"Bearer " + key}, "Accept": {"text/event-stream"}, "Mcp-Session-Id": {session}}
		resp, err := http.DefaultClient.Do(req)
		h.must(err)
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	var streams []*http.Response
	for range 16 {
		resp := open()
		if resp.StatusCode != 200 {
			t.Fatal(resp.Status)
		}
		streams = append(streams, resp)
	}
	if resp := open(); resp.StatusCode != 429 {
		t.Errorf("one too many: %s", resp.Status)
	}
	_, err := h.ids.Suspend(context.Background(), admin, "enough", "bot")
	h.must(err)
	h.must(h.watch.Poll(context.Background()))
	for _, resp := range streams {
		done := make(chan error, 1)
		go func() { _, err := io.Copy(io.Discard, bufio.NewReader(resp.Body)); done <- err }()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Fatal("the stream of a suspended agent stays open")
		}
	}
	h.events(audit.CallRefused, 1)
}
