package main

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// upstream plays the model and the services: whatever is asked, it answers what
// was recorded of the step that is being played.
type upstream struct {
	r *recording

	mu    sync.Mutex
	next  string // the result of the step
	calls int    // of tools that arrived
}

func (u *upstream) play(result string) {
	u.mu.Lock()
	u.next = result
	u.mu.Unlock()
}

func (u *upstream) arrived() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.calls
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if strings.HasPrefix(r.URL.Path, "/v1/") {
		_, _ = io.WriteString(w, `{"id":"c","object":"chat.completion","created":1,"model":"scripted","choices":[{"index":0,"message":{"role":"assistant","content":"I will look."},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`)
		return
	}
	var m struct {
		ID     jsontext.Value `json:"id"`
		Method string         `json:"method"`
	}
	if r.Method != http.MethodPost || json.UnmarshalRead(r.Body, &m) != nil {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	if m.ID == nil {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	b, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": m.ID, "result": u.result(m.Method, strings.Trim(r.URL.Path, "/"))})
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(b)
}

func (u *upstream) result(method, suite string) any {
	switch method {
	case "initialize":
		return map[string]any{"protocolVersion": "2025-06-18", "capabilities": map[string]any{"tools": map[string]any{}}, "serverInfo": map[string]any{"name": suite, "version": "1"}}
	case "tools/list":
		list := []any{}
		for _, name := range slices.Sorted(maps.Keys(u.r.tools[suite])) {
			t := u.r.tools[suite][name]
			list = append(list, map[string]any{"name": t.Name, "description": t.Description, "inputSchema": t.Parameters})
		}
		return map[string]any{"tools": list}
	case "tools/call":
		u.mu.Lock()
		defer u.mu.Unlock()
		u.calls++
		return map[string]any{"content": []any{map[string]any{"type": "text", "text": u.next}}, "isError": false}
	}
	return map[string]any{}
}
