package connections

import (
	"encoding/json/jsontext"
	"strings"
)

// Protocol begins the names of the tools that stand for MCP's own methods:
// "mcp:resources/read". No upstream tool may be called like that.
const Protocol = "mcp:"

// The argument schemas of built-in tools. What the gateway reads from a request
// and policy may decide on; everything else of a body is passed on unread.
const (
	schemaNone = `{"type":"object","properties":{}}`

	// the parameters of the URL's query, decoded
	query = `"query":{"type":"array","items":{"type":"string"},"description":"parameters of the URL, each as name=value"}`

	schemaGenerate = `{"type":"object","properties":{` +
		`"model":{"type":"string","description":"the model asked for"},` +
		`"max_tokens":{"type":"integer","description":"the most tokens the answer may have"},` +
		`"stream":{"type":"boolean","description":"whether the answer is streamed"},` +
		`"tools":{"type":"array","items":{"type":"string"},"description":"names of the tools offered to the model"},` +
		`"n":{"type":"integer","description":"how many answers"},` + query + `},"required":["model","stream"]}`

	schemaModel = `{"type":"object","properties":{` +
		`"model":{"type":"string","description":"the model asked for"},` + query + `},"required":["model"]}`

	schemaModels = `{"type":"object","properties":{"model":{"type":"string","description":"one model asked about"},` + query + `}}`

	schemaURI = `{"type":"object","properties":{"uri":{"type":"string"}},"required":["uri"]}`

	schemaPrompt = `{"type":"object","properties":{"name":{"type":"string"},` +
		`"arguments":{"type":"object","additionalProperties":{"type":"string"}}},"required":["name"]}`

	schemaTask = `{"type":"object","properties":{"taskId":{"type":"string"}}}`
)

type builtin struct{ name, description, schema string }

var builtins = map[string][]builtin{
	OpenAI: {
		{"chat.completions", "Generate an answer to a conversation", schemaGenerate},
		{"responses", "Generate a response, possibly with the provider's tools", schemaGenerate},
		{"embeddings", "Turn text into vectors", schemaModel},
		{"models", "List models", schemaModels},
	},
	Anthropic: {
		{"messages", "Generate an answer to a conversation", schemaGenerate},
		{"messages.count_tokens", "Count the tokens of a conversation", schemaModel},
		{"models", "List models", schemaModels},
	},
	MCP: {
		{"mcp:initialize", "Begin a session", schemaNone},
		{"mcp:server/discover", "Ask what the server can do", schemaNone},
		{"mcp:ping", "Check that the server answers", schemaNone},
		{"mcp:tools/list", "List tools", schemaNone},
		{"mcp:resources/list", "List resources", schemaNone},
		{"mcp:resources/templates/list", "List resource templates", schemaNone},
		{"mcp:resources/read", "Read a resource", schemaURI},
		{"mcp:resources/subscribe", "Be told when a resource changes", schemaURI},
		{"mcp:resources/unsubscribe", "No longer be told when a resource changes", schemaURI},
		{"mcp:subscriptions/listen", "Listen to changes", schemaNone},
		{"mcp:prompts/list", "List prompts", schemaNone},
		{"mcp:prompts/get", "Get a prompt", schemaPrompt},
		{"mcp:completion/complete", "Complete an argument", schemaNone},
		{"mcp:logging/setLevel", "Choose how much the server logs", schemaNone},
		{"mcp:tasks/get", "Ask how a task stands", schemaTask},
		{"mcp:tasks/result", "Get the result of a task", schemaTask},
		{"mcp:tasks/update", "Give a task the input it waits for", schemaTask},
		{"mcp:tasks/cancel", "Cancel a task", schemaTask},
		{"mcp:tasks/list", "List tasks", schemaNone},
		{"mcp:session/delete", "End a session", schemaNone},
		{"mcp:response", "Answer a question the server asked", schemaNone},
		{"mcp:notifications/initialized", "Say that a session has begun", schemaNone},
		{"mcp:notifications/cancelled", "Cancel a request", schemaNone},
		{"mcp:notifications/progress", "Report progress", schemaNone},
		{"mcp:notifications/roots/list_changed", "Say that the client's roots changed", schemaNone},
	},
}

// builtinTools returns the tools every connection of c's kind has, without
// discovery: a model provider's endpoints, MCP's own methods. Their effect is
// read and cannot be changed.
func builtinTools(c Connection) []Tool {
	key := c.Kind
	if c.Kind == LLM {
		key = c.Dialect
	}
	tools := make([]Tool, 0, len(builtins[key]))
	for _, b := range builtins[key] {
		tools = append(tools, Tool{
			ID: c.Name + "/" + b.name, Connection: c.Name, Name: b.name, Effect: Read, Status: StatusPinned, Builtin: true,
			Description: b.description, InputSchema: jsontext.Value(b.schema),
		})
	}
	return tools
}

// builtinName reports whether name belongs to a connection's built-in tools.
func builtinName(c Connection, name string) bool {
	return c.Kind == LLM || strings.HasPrefix(name, Protocol)
}
