package client

import (
	"context"
	"encoding/json/jsontext"
	"net/http"
	"net/url"
	"time"
)

// Connection is a registered upstream in a listing.
type Connection struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Kind     string    `json:"kind"` // llm, mcp, http, retrieval
	Dialect  string    `json:"dialect,omitempty"`
	Target   string    `json:"target"` // URL, or the command's program
	Owner    string    `json:"owner"`
	Secret   string    `json:"secret,omitempty"`
	Tools    int       `json:"tools"`
	Drifted  int       `json:"drifted"` // refused until a person looks
	LastUsed time.Time `json:"last_used,omitzero"`

	Inventory *InventoryRow `json:"inventory,omitempty"` // of Client.Inventory, where it was asked for
}

// ConnectionSpec is what a person says of a connection.
type ConnectionSpec struct {
	Kind         string            `json:"kind"`
	Dialect      string            `json:"dialect,omitempty"` // of an llm: openai, anthropic; of an http: git; of a retrieval: embedded, postgres, opensearch, qdrant, search
	URL          string            `json:"url,omitempty"`
	Command      []string          `json:"command,omitempty"` // of an MCP server over stdio
	Env          map[string]string `json:"env,omitempty"`     // a value may be secret://NAME
	Owner        string            `json:"owner"`
	Secret       string            `json:"secret,omitempty"`
	Auth         string            `json:"auth,omitempty"` // bearer, x-api-key, basic, none, header:NAME
	Description  string            `json:"description,omitempty"`
	AllowPrivate bool              `json:"allow_private,omitempty"`
	Timeout      string            `json:"timeout,omitempty"`   // until the answer begins
	Capture      string            `json:"capture,omitempty"`   // how much of its payloads is kept: full, redacted, digest; empty: redacted
	Proposal     string            `json:"proposal,omitempty"`  // what kind of proposal every answer is; empty: none
	Retrieval    jsontext.Value    `json:"retrieval,omitempty"` // of a retrieval: how the documents of its engine are read; docs/retrieval.md
	// Inspect is what is done about what is found in its calls: label (secret, pii,
	// injection) to note, redact, block or hold:GROUP; left out: note.
	Inspect map[string]string `json:"inspect,omitempty"`
	Stages  []string          `json:"stages,omitempty"` // whose agents may reach it; empty: every stage
}

// ConnectionDetail is a connection with everything about it.
type ConnectionDetail struct {
	ID         string         `json:"id"`
	Name       string         `json:"name"`
	Created    time.Time      `json:"created"`
	Updated    time.Time      `json:"updated"`
	Discovered time.Time      `json:"discovered,omitzero"`
	LastUsed   time.Time      `json:"last_used,omitzero"`
	Spec       ConnectionSpec `json:"spec"`
	Tools      []Tool         `json:"tools"`
	Warnings   []string       `json:"warnings,omitempty"`
}

// Tool is a tool in a listing.
type Tool struct {
	ID          string `json:"id"`
	Connection  string `json:"connection"`
	Name        string `json:"name"`
	Effect      string `json:"effect"` // read, write, irreversible
	Status      string `json:"status"` // pinned, drifted, new, gone
	Builtin     bool   `json:"builtin,omitempty"`
	Description string `json:"description,omitempty"`
	References
	Digest      string    `json:"digest,omitempty"`       // of the accepted definition
	DriftDigest string    `json:"drift_digest,omitempty"` // of the definition as seen now
	PinnedBy    string    `json:"pinned_by,omitempty"`
	PinnedAt    time.Time `json:"pinned_at,omitzero"`
	SeenAt      time.Time `json:"seen_at,omitzero"`
}

// ToolDetail is a tool with its definitions.
type ToolDetail struct {
	Tool
	Definition  jsontext.Value `json:"definition,omitempty"` // as accepted
	Drift       jsontext.Value `json:"drift,omitempty"`      // as seen now, where it differs
	InputSchema jsontext.Value `json:"input_schema"`
}

// ToolDiff is what changed in a tool's definition since it was accepted.
type ToolDiff struct {
	ID     string     `json:"id"`
	Status string     `json:"status"`
	Digest string     `json:"digest"` // what AcceptTool takes
	Lines  []DiffLine `json:"lines"`
}

// DiffLine is one difference between two definitions.
type DiffLine struct {
	Path string `json:"path"` // JSON Pointer
	Old  string `json:"old"`  // empty: was not there
	New  string `json:"new"`  // empty: is no longer there
}

// Refreshed is what asking an upstream for its tools found, by tool name.
type Refreshed struct {
	First   bool     `json:"first"`
	Pinned  []string `json:"pinned"`
	Same    []string `json:"same"`
	Changed []string `json:"changed"`
	New     []string `json:"new"`
	Gone    []string `json:"gone"`
}

func connectionPath(name string) string { return v1 + "/connections" + segment(name) }

func toolPath(connection, tool string) string {
	return connectionPath(connection) + "/tools" + segment(tool)
}

// Connections lists connections by name.
func (c *Client) Connections(ctx context.Context) ([]Connection, error) {
	return get[[]Connection](ctx, c, v1+"/connections", nil)
}

// Connection returns one connection.
func (c *Client) Connection(ctx context.Context, name string) (ConnectionDetail, error) {
	return get[ConnectionDetail](ctx, c, connectionPath(name), nil)
}

// PutConnection registers or updates a connection. The tools of a new MCP
// connection are discovered and pinned; Warnings say if that failed.
func (c *Client) PutConnection(ctx context.Context, name string, spec ConnectionSpec) (ConnectionDetail, error) {
	return send[ConnectionDetail](ctx, c, http.MethodPut, connectionPath(name), spec)
}

// DeleteConnection deletes a connection.
func (c *Client) DeleteConnection(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, connectionPath(name), nil, nil, nil)
}

// RefreshConnection asks an MCP connection for its tools.
func (c *Client) RefreshConnection(ctx context.Context, name string) (Refreshed, error) {
	return send[Refreshed](ctx, c, http.MethodPost, connectionPath(name)+"/refresh", nil)
}

// Imported is what importing an OpenAPI document did.
type Imported struct {
	Refreshed
	Left []string `json:"left"` // operations left out, and why
}

// ImportOpenAPI reads the operations of an http connection out of an OpenAPI
// document (3.0 or 3.1, JSON or YAML, at most 32 MiB): of those whose
// operationId one of only matches ("repos/*"), all if there is none.
func (c *Client) ImportOpenAPI(ctx context.Context, name, document string, only []string) (Imported, error) {
	return send[Imported](ctx, c, http.MethodPost, connectionPath(name)+"/import", map[string]any{"document": document, "only": append([]string{}, only...)})
}

// ToolQuery narrows a list of tools. Empty fields select everything.
type ToolQuery struct {
	Connection string
	Status     string
	Builtin    bool // the built-in tools of MCP connections too
}

// Tools lists tools by connection and name.
func (c *Client) Tools(ctx context.Context, q ToolQuery) ([]Tool, error) {
	query := url.Values{}
	if q.Connection != "" {
		query.Set("connection", q.Connection)
	}
	if q.Status != "" {
		query.Set("status", q.Status)
	}
	if q.Builtin {
		query.Set("builtin", "true")
	}
	return get[[]Tool](ctx, c, v1+"/tools", query)
}

// Tool returns one tool.
func (c *Client) Tool(ctx context.Context, connection, tool string) (ToolDetail, error) {
	return get[ToolDetail](ctx, c, toolPath(connection, tool), nil)
}

// References say what the arguments and answers of a tool mean: whom a call is
// about and which business objects it touches, as paths ("customer.email",
// "lines.*.id"), how it is said, and whether its answer is a proposal.
type References struct {
	Subject string            `json:"subject,omitempty"` // the person
	Objects map[string]string `json:"objects,omitempty"` // by their type: {"invoice": "invoice_id"}
	// Template says a call in plain words: "{agent} wants to pay
	// {amount_cents|money:EUR} to {payee}".
	Template string `json:"template,omitempty"`
	Proposal string `json:"proposal,omitempty"` // what kind of proposal an answer is, such as anomaly
	Flow     Flow   `json:"flow,omitzero"`
	// Limits are calls of all agents together and agent_calls of each, such as
	// 60/1m, and result, the most bytes of an answer, such as 64KiB.
	Limits map[string]string `json:"limits,omitempty"`
	Undo   ToolUndo          `json:"undo,omitzero"`
	// UndoWindow is how long a call with an effect waits before it is sent, and can
	// be cancelled, such as 30s; empty: it is sent at once.
	UndoWindow string `json:"undo_window,omitempty"`
}

// ToolUndo says how a call of a tool is undone. A source of an argument is
// call:/POINTER, result:/POINTER or =JSON.
type ToolUndo struct {
	Tool   string            `json:"tool,omitzero"` // CONNECTION/TOOL
	Args   map[string]string `json:"args,omitempty"`
	Within string            `json:"within,omitzero"` // how long after the call
	When   map[string]string `json:"when,omitempty"`  // JSON values, by source
	Check  UndoCheck         `json:"check,omitzero"`
}

// UndoCheck is a read that shows whether a call was undone.
type UndoCheck struct {
	Tool string            `json:"tool,omitzero"`
	Args map[string]string `json:"args,omitempty"`
	Done map[string]string `json:"done,omitempty"` // JSON values, by /POINTER into the answer
}

// Flow says who writes what a tool answers, and which of its arguments matter.
type Flow struct {
	Source string            `json:"source,omitempty"` // trusted or untrusted; empty: untrusted
	Args   map[string]string `json:"args,omitempty"`   // roles: recipient, object, amount, secret, content
	Fields map[string]string `json:"fields,omitempty"` // of the result: id, service, amount, text
	Asked  []string          `json:"asked,omitempty"`  // words with which people ask for it; empty: those of its name

	Counterparty string   `json:"counterparty,omitempty"` // the argument whose approved values endorse later calls
	Known        string   `json:"known,omitempty"`        // for how long, such as 720h; empty: 30 days
	Readers      []string `json:"readers,omitempty"`      // who may know the answers; empty: they are not confidential
	Expand       []string `json:"expand,omitempty"`       // arguments in which references become their text
	Reveal       []string `json:"reveal,omitempty"`       // labels whose values it gets in place of placeholders
}

// SetReferences replaces what is declared of a tool's arguments.
func (c *Client) SetReferences(ctx context.Context, connection, tool string, r References) (ToolDetail, error) {
	objects := r.Objects
	if objects == nil {
		objects = map[string]string{}
	}
	limits := r.Limits
	if limits == nil {
		limits = map[string]string{}
	}
	return send[ToolDetail](ctx, c, http.MethodPatch, toolPath(connection, tool), map[string]any{"subject": r.Subject, "objects": objects, "template": r.Template, "proposal": r.Proposal, "flow": r.Flow, "limits": limits, "undo": r.Undo, "undo_window": r.UndoWindow})
}

// SetEffect says what effect a tool has: read, write or irreversible.
func (c *Client) SetEffect(ctx context.Context, connection, tool, effect string) (ToolDetail, error) {
	return send[ToolDetail](ctx, c, http.MethodPatch, toolPath(connection, tool), map[string]string{"effect": effect})
}

// ToolDiff returns how a tool differs from what was accepted.
func (c *Client) ToolDiff(ctx context.Context, connection, tool string) (ToolDiff, error) {
	return get[ToolDiff](ctx, c, toolPath(connection, tool)+"/diff", nil)
}

// AcceptTool accepts the definition with this digest. It is refused when the
// upstream has changed it again meanwhile.
func (c *Client) AcceptTool(ctx context.Context, connection, tool, digest string) (ToolDetail, error) {
	return send[ToolDetail](ctx, c, http.MethodPost, toolPath(connection, tool)+"/accept", map[string]string{"digest": digest})
}
