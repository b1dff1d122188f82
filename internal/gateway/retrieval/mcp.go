package retrieval

import (
	"context"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"net/http"
	"slices"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/gateway"
)

// The MCP server that stands for a retrieval connection: gateway/mcp is its
// client, as of any other server, so that lists, approvals and refusals are as
// everywhere. It has no sessions and speaks both eras.

const (
	modernMCP = "2026-07-28"
	olderMCP  = "2025-11-25"
	noMethod  = -32601
)

// message is what of a request is read here. The front has read it strictly.
type message struct {
	ID     jsontext.Value `json:"id"`
	Method string         `json:"method"`
	Params struct {
		Version string                    `json:"protocolVersion"`
		Meta    map[string]jsontext.Value `json:"_meta"`
	} `json:"params"`
}

func (m message) modern() bool {
	_, ok := m.Params.Meta["io.modelcontextprotocol/protocolVersion"]
	return ok
}

func (d *Desk) serveMCP(ctx context.Context, j job, req *http.Request) (*http.Response, error) {
	var m message
	if err := json.Unmarshal(j.call.Request.Body, &m); err != nil || req.Method != http.MethodPost {
		return nil, gateway.ErrTransport
	}
	if len(m.ID) == 0 { // a notification
		return &http.Response{StatusCode: http.StatusAccepted, Header: http.Header{}, Body: http.NoBody}, nil
	}
	var result any
	switch m.Method {
	case "initialize":
		result = d.hello(m)
	case "server/discover":
		result = d.discovered()
	case "ping":
		result = map[string]any{}
	case "tools/list":
		result = map[string]any{"tools": d.tools(j.call.Connection)}
	case "prompts/list":
		result = map[string]any{"prompts": []any{}}
	case "resources/list":
		result = map[string]any{"resources": []any{}}
	case "resources/templates/list":
		result = map[string]any{"resourceTemplates": []any{}}
	case "tools/call":
		var err error
		if result, err = d.called(ctx, j); err != nil {
			return nil, err
		}
	default:
		return reply(map[string]any{"jsonrpc": "2.0", "id": m.ID, "error": map[string]any{"code": noMethod, "message": "Method not found"}})
	}
	if members, ok := result.(map[string]any); ok && m.modern() {
		members["resultType"] = "complete"
	}
	return reply(map[string]any{"jsonrpc": "2.0", "id": m.ID, "result": result})
}

func reply(v map[string]any) (*http.Response, error) {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return nil, err
	}
	return answer{http.StatusOK, b}.response(), nil
}

func (d *Desk) info() map[string]any {
	return map[string]any{"name": "countersign", "title": "Countersign", "version": d.o.Version}
}

func capabilities() map[string]any { return map[string]any{"tools": map[string]any{}} }

func (d *Desk) hello(m message) map[string]any {
	version := olderMCP
	if slices.Contains([]string{"2025-06-18", "2025-03-26", "2024-11-05"}, m.Params.Version) {
		version = m.Params.Version
	}
	return map[string]any{"protocolVersion": version, "capabilities": capabilities(), "serverInfo": d.info()}
}

func (d *Desk) discovered() map[string]any {
	return map[string]any{"supportedVersions": []string{modernMCP}, "capabilities": capabilities(), "serverInfo": d.info(), "ttlMs": 0, "cacheScope": "private"}
}

// tools are the tools that agents may call; which of them, the front decides.
func (d *Desk) tools(c connections.Connection) []any {
	var out []any
	for _, t := range d.o.Registry.Tools(c.Name) {
		if !t.Offered() {
			continue
		}
		out = append(out, map[string]any{"name": t.Name, "description": t.Description, "inputSchema": t.InputSchema,
			"annotations": map[string]any{"readOnlyHint": true, "openWorldHint": false}})
	}
	return out
}

// called is the result of a call of a tool: the answer as text, and as it is.
// What the agent asked for wrongly is told as a result that a model can act on.
func (d *Desk) called(ctx context.Context, j job) (map[string]any, error) {
	a, err := d.answer(ctx, j)
	if f, ok := errors.AsType[*fault.Error](err); ok && f.Kind == fault.Invalid {
		b, merr := json.Marshal(map[string]string{"code": f.Code, "detail": f.Message})
		a, err = answer{http.StatusBadRequest, b}, merr
	}
	if err != nil {
		return nil, err
	}
	return map[string]any{"content": []any{map[string]any{"type": "text", "text": string(a.body)}}, "structuredContent": jsontext.Value(a.body), "isError": a.status != http.StatusOK}, nil
}
