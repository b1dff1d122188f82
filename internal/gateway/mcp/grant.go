package mcp

import (
	"context"
	"encoding/json/v2"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/mcp/wire"
	"github.com/countersign/countersign/internal/identity"
)

// grantTool is the tool with which an agent asks people for a grant for a time.
// It is answered at the endpoint of all connections: at one of its own, an agent
// sees only what it may use already.
const grantTool = "request_grant"

const grantDefinition = `{"name":"request_grant","title":"Ask for a grant",` +
	`"description":"Asks people to let you use tools for a time that you may not use now. Give the connection, the tools and why; later give the id alone to learn what they decided.",` +
	`"inputSchema":{"type":"object","properties":{"connection":{"type":"string"},"tools":{"type":"array","items":{"type":"string"},"minItems":1},` +
	`"for":{"type":"string","description":"how long, such as 1h"},"reason":{"type":"string"},"id":{"type":"string","description":"of a request that you made, apr_…"}},"additionalProperties":false},` +
	`"annotations":{"readOnlyHint":false,"destructiveHint":false,"openWorldHint":false}}`

// GrantAsk is what an agent asks with: a wish and why, or the id of a request.
type GrantAsk struct {
	ID         string   `json:"id,omitzero"`
	Connection string   `json:"connection,omitzero"`
	Tools      []string `json:"tools,omitzero"`
	For        string   `json:"for,omitzero"`
	Reason     string   `json:"reason,omitzero"`
}

// Grants lets agents ask for grants. Offered says whether there is anything to ask
// for; Ask returns words for a model, what is structured of the answer as JSON, and
// a fault that the agent may read.
type Grants interface {
	Offered(ctx context.Context) bool
	Ask(ctx context.Context, who identity.Caller, in gateway.Incoming, ask GrantAsk) (text string, structured []byte, err error)
}

// isGrant reports whether the message asks for a grant.
func (x *exchange) isGrant() bool {
	return x.f.o.Grants != nil && x.method == "tools/call" && x.conn.Name == "" && x.msg.Name == grantTool
}

// grant answers request_grant. What people refuse, or what is wrong with a wish, is
// a result that a model can act on.
func (x *exchange) grant() ([]byte, error) {
	var ask GrantAsk
	if err := json.Unmarshal(x.msg.Arguments.Of(x.msg.Raw), &ask, json.RejectUnknownMembers(true)); err != nil {
		return nil, &wire.Error{Code: wire.CodeParams, Message: grantTool + " needs connection, tools and reason, or the id of a request"}
	}
	in := gateway.Incoming{Front: "mcp", Remote: x.r.RemoteAddr, Client: x.r.UserAgent()}
	text, structured, err := x.f.o.Grants.Ask(x.r.Context(), x.who, in, ask)
	if err != nil {
		return x.said(fault.Public(err).Message, true, nil), nil
	}
	return x.structured(text, structured), nil
}
