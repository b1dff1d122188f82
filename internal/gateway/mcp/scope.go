package mcp

import (
	"context"
	"encoding/json/v2"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/mcp/wire"
	"github.com/countersign/countersign/internal/identity"
)

// scopeTool is the tool with which an agent states what its run is going to do, so
// that people can approve it once. It is answered where request_grant is.
const scopeTool = "request_scope"

const scopeDefinition = `{"name":"request_scope","title":"Ask once for what your run will do",` +
	`"description":"States which calls you will make in this run and asks people to approve them all at once: calls inside what you state are then not held. State every recipient, object and amount; what is outside is asked about as before. Later give the id alone to learn what they decided.",` +
	`"inputSchema":{"type":"object","properties":{"scopes":{"type":"array","minItems":1,"maxItems":16,"description":"tools of one connection","items":{"type":"object","properties":{` +
	`"tool":{"type":"string","description":"as it is listed"},"args":{"type":"object","description":"values of each argument that matters; of an amount, the most","additionalProperties":{"type":"array","items":{"type":"string"}}},` +
	`"calls":{"type":"integer","minimum":1,"maximum":1000}},"required":["tool","args","calls"],"additionalProperties":false}},` +
	`"for":{"type":"string","description":"how long, such as 1h"},"reason":{"type":"string"},"id":{"type":"string","description":"of a request that you made, apr_…"}},"additionalProperties":false},` +
	`"annotations":{"readOnlyHint":false,"destructiveHint":false,"openWorldHint":false}}`

// ScopeAsk is what an agent asks with: what its run will do and why, or the id of a
// request.
type ScopeAsk struct {
	ID     string      `json:"id,omitzero"`
	Scopes []ScopeTool `json:"scopes,omitzero"`
	For    string      `json:"for,omitzero"`
	Reason string      `json:"reason,omitzero"`
}

// ScopeTool is what a run will do with one tool.
type ScopeTool struct {
	Tool  string              `json:"tool"` // connection__tool or connection/tool
	Args  map[string][]string `json:"args"`
	Calls int64               `json:"calls"`
}

// Scopes lets agents state the scope of their runs. It returns words for a model,
// what is structured of the answer as JSON, and a fault that the agent may read.
type Scopes interface {
	State(ctx context.Context, who identity.Caller, in gateway.Incoming, ask ScopeAsk) (text string, structured []byte, err error)
}

// isScope reports whether the message states a scope.
func (x *exchange) isScope() bool {
	return x.f.o.Scopes != nil && x.method == "tools/call" && x.conn.Name == "" && x.msg.Name == scopeTool
}

// scope answers request_scope. What is wrong with a statement is a result that a
// model can act on.
func (x *exchange) scope() ([]byte, error) {
	var ask ScopeAsk
	if err := json.Unmarshal(x.msg.Arguments.Of(x.msg.Raw), &ask, json.RejectUnknownMembers(true)); err != nil {
		return nil, &wire.Error{Code: wire.CodeParams, Message: scopeTool + " needs scopes (each with tool, args and calls) and reason, or the id of a request"}
	}
	in := gateway.Incoming{Front: "mcp", Remote: x.r.RemoteAddr, Client: x.r.UserAgent()}
	text, structured, err := x.f.o.Scopes.State(x.r.Context(), x.who, in, ask)
	if err != nil {
		return x.said(fault.Public(err).Message, true, nil), nil
	}
	return x.structured(text, structured), nil
}

// structured is a tool's result in words, and as JSON.
func (x *exchange) structured(text string, value []byte) []byte {
	out := append([]byte(`{"content":[{"type":"text","text":`), wire.Quote(text)...)
	out = append(append(out, `}],"isError":false,"structuredContent":`...), value...)
	if x.modern {
		out = append(out, `,"resultType":"complete"`...)
	}
	return append(out, '}')
}
