package server_test

import (
	"encoding/json/v2"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// hanging is an MCP server and an HTTP API whose calls go on until they are cut.
func hanging(t *testing.T) (url string, began <-chan struct{}) {
	t.Helper()
	begins := make(chan struct{}, 64)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /mcp", func(w http.ResponseWriter, r *http.Request) {
		var m struct {
			ID     any    `json:"id"`
			Method string `json:"method"`
		}
		b, _ := io.ReadAll(r.Body)
		_ = json.Unmarshal(b, &m)
		w.Header().Set("Content-Type", "application/json")
		switch {
		case m.ID == nil:
			w.WriteHeader(http.StatusAccepted)
		case m.Method == "initialize":
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%v,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"h","version":"1"}}}`, m.ID)
		case m.Method == "tools/list":
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%v,"result":{"tools":[{"name":"watch","description":"waits","inputSchema":{"type":"object"}}]}}`, m.ID)
		case m.Method == "tools/call":
			begins <- struct{}{}
			<-r.Context().Done()
		default:
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%v,"error":{"code":-32601,"message":"no"}}`, m.ID)
		}
	})
	mux.HandleFunc("GET /watch", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "it began")
		w.(http.Flusher).Flush()
		begins <- struct{}{}
		<-r.Context().Done()
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL, begins
}

// A lock of any kind stops calls by every front: what is in flight is cut, what
// comes is refused. TestALockStopsEverywhere has the front of models, on
// several replicas.
func TestALockStopsEveryFront(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	upstream, began := hanging(t)
	p := start(t, t.TempDir(), storagetest.SQLite(t), "")
	p.company(t)
	p.api(t, "PUT", "/teams/crew", map[string]any{"members": []string{"olga"}}, nil)
	p.api(t, "PUT", "/agents/worker", map[string]any{"owner": "olga", "backup": "ben", "team": "crew", "stage": "development"}, nil)
	p.api(t, "PUT", "/connections/desk", map[string]any{"kind": "mcp", "owner": "olga", "url": upstream + "/mcp", "allow_private": true}, nil)
	p.api(t, "PUT", "/connections/forge", map[string]any{"kind": "http", "owner": "olga", "url": upstream, "allow_private": true}, nil)
	const document = `{"openapi":"3.0.0","info":{"title":"forge","version":"1"},"paths":{"/watch":{"get":{"operationId":"watch","responses":{"200":{"description":"ok"}}}}}}`
	if _, err := client.New(p.url, p.token).WithReason("test").ImportOpenAPI(t.Context(), "forge", document, nil); err != nil {
		t.Fatal(err)
	}
	p.grant(t, "desk")
	p.grant(t, "forge")
	var run struct {
		Token string `json:"token"`
		Run   string `json:"run"`
	}
	p.api(t, "POST", "/agents/worker/runs", map[string]any{"expires_in": "1h"}, &run)
	var key struct {
		ID  string `json:"id"`
		Key string `json:"key"`
	}
	p.api(t, "POST", "/agents/worker/keys", map[string]any{}, &key)
	for _, front := range []struct {
		name, connection, method, path, body string
	}{
		{"mcp", "desk", "POST", "/mcp/desk", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"watch","arguments":{}}}`},
		{"http", "forge", "GET", "/http/forge/watch", ""},
	} {
		call := func(credential string) (int, string) {
			req, _ := http.NewRequest(front.method, p.url+front.path, strings.NewReader(front.body))
			req.Header.Set("Authorization", "Bearer "+credential)
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Accept", "application/json, text/event-stream")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return 0, err.Error()
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			return resp.StatusCode, fmt.Sprint(string(b), err)
		}
		// begin starts a call that the upstream has.
		begin := func(credential string) (ended <-chan struct{}) {
			for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
				done := make(chan struct{})
				var status int
				var body string
				go func() {
					defer close(done)
					status, body = call(credential)
				}()
				select {
				case <-began:
					return done
				case <-done: // not yet allowed again
				}
				if time.Now().After(deadline) {
					t.Fatalf("no call begins: %d %s", status, body)
				}
			}
		}
		for _, c := range []struct{ kind, name, credential string }{
			{"agent", "worker", run.Token}, {"owner", "olga", run.Token}, {"team", "crew", key.Key}, {"connection", front.connection, key.Key},
			{"tool", front.connection + "/watch", run.Token}, {"run", run.Run, run.Token}, {"credential", key.ID, key.Key}, {"everything", "", key.Key},
		} {
			ended := begin(c.credential)
			var placed lockState
			p.api(t, "POST", "/locks", map[string]any{"kind": c.kind, "name": c.name}, &placed)
			select {
			case <-ended:
			case <-time.After(30 * time.Second):
				t.Fatalf("%s, %s/%s: the call goes on", front.name, c.kind, c.name)
			}
			if st := p.settled(t, placed.ID); st.Cut != 1 {
				t.Errorf("%s, %s/%s: %+v", front.name, c.kind, c.name, st)
			}
			if status, body := call(c.credential); !strings.Contains(body, "locked") || !strings.Contains(body, placed.ID) || strings.Contains(body, "test") {
				t.Errorf("%s, %s/%s: %d %s", front.name, c.kind, c.name, status, body)
			}
			select {
			case <-began:
				t.Errorf("%s, %s/%s: the upstream was called", front.name, c.kind, c.name)
			default:
			}
			p.api(t, "DELETE", "/locks/"+placed.ID, nil, nil)
		}
	}
}
