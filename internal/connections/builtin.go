package connections

import (
	"encoding/json/jsontext"
	"slices"
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
		`"provider_tools":{"type":"array","items":{"type":"string"},"description":"types of the tools that the provider brings itself, and mcp:URL of each server that it connects to"},` +
		`"n":{"type":"integer","description":"how many answers"},` + query + `},"required":["model","stream"]}`

	schemaModel = `{"type":"object","properties":{` +
		`"model":{"type":"string","description":"the model asked for"},` + query + `},"required":["model"]}`

	schemaModels = `{"type":"object","properties":{"model":{"type":"string","description":"one model asked about"},` + query + `}}`

	schemaURI = `{"type":"object","properties":{"uri":{"type":"string"}},"required":["uri"]}`

	schemaPrompt = `{"type":"object","properties":{"name":{"type":"string"},` +
		`"arguments":{"type":"object","additionalProperties":{"type":"string"}}},"required":["name"]}`

	schemaTask = `{"type":"object","properties":{"taskId":{"type":"string"}}}`
)

type builtin struct{ name, description, schema, effect string }

// The tools of an http connection with the dialect Git. A push whose refs are
// all created, or moved forward by what it sends, can be taken back; one that
// deletes or rewrites cannot.
const (
	GitFetch   = "fetch"
	GitPush    = "push"
	GitRewrite = "push.rewrite"
)

const schemaFetch = `{"type":"object","properties":{` +
	`"repository":{"type":"string","description":"path of the repository"},` +
	`"prefixes":{"type":"array","items":{"type":"string"},"description":"refs listed, as prefixes; none: all"},` +
	`"refs":{"type":"array","items":{"type":"string"},"description":"refs wanted by name"},` +
	`"step":{"type":"string","description":"list or fetch"}},"required":["repository","step"]}`

const schemaPush = `{"type":"object","properties":{` +
	`"repository":{"type":"string","description":"path of the repository"},` +
	`"step":{"type":"string","description":"list or push"},` +
	`"ref":{"type":"string","description":"the ref, if there is one update"},` +
	`"kind":{"type":"string","description":"of the update, if there is one: create, update, delete or rewrite"},` +
	`"refs":{"type":"array","items":{"type":"string"},"description":"every ref that is updated"},` +
	`"kinds":{"type":"array","items":{"type":"string"},"description":"every kind of update"},` +
	`"updates":{"type":"array","items":{"type":"string"},"description":"each update as KIND REF"},` +
	`"options":{"type":"array","items":{"type":"string"},"description":"push options"}},"required":["repository","step"]}`

// The tools of a retrieval connection.
const (
	RetrieveSearch = "search"
	RetrieveGet    = "get"
	// RetrieveDocument stands for one document of an answer: a policy that forbids
	// it hides the document from the agent.
	RetrieveDocument = "document"
)

const schemaSearch = `{"type":"object","properties":{` +
	`"query":{"type":"string","description":"words to look for"},` +
	`"limit":{"type":"integer","minimum":1,"maximum":50,"description":"the most documents in the answer; 10 if not given"},` +
	`"filters":{"type":"object","description":"only documents that are exactly this","properties":{` +
	`"owner":{"type":"string"},"classification":{"type":"string"},"source":{"type":"string"},"collection":{"type":"string"}},"additionalProperties":false},` +
	`"vector":{"type":"string","description":"look for what is near this vector, written [0.1,0.2]; only where the connection has vectors"}},` +
	`"required":["query"],"additionalProperties":false}`

const schemaGet = `{"type":"object","properties":{"id":{"type":"string","description":"the document's id"}},"required":["id"],"additionalProperties":false}`

const schemaDocument = `{"type":"object","properties":{"id":{"type":"string"},"owner":{"type":"string"},"classification":{"type":"string"},` +
	`"source":{"type":"string","description":"trusted or untrusted"},"collection":{"type":"string"}},"required":["id","owner","classification","source","collection"]}`

var builtins = map[string][]builtin{
	OpenAI: {
		{"chat.completions", "Generate an answer to a conversation", schemaGenerate, Read},
		{"responses", "Generate a response, possibly with the provider's tools", schemaGenerate, Read},
		{"embeddings", "Turn text into vectors", schemaModel, Read},
		{"models", "List models", schemaModels, Read},
	},
	Anthropic: {
		{"messages", "Generate an answer to a conversation", schemaGenerate, Read},
		{"messages.count_tokens", "Count the tokens of a conversation", schemaModel, Read},
		{"models", "List models", schemaModels, Read},
	},
	Git: {
		{GitFetch, "List the refs of a repository and fetch them", schemaFetch, Read},
		{GitPush, "Create refs, and move refs forward by what is sent", schemaPush, Write},
		{GitRewrite, "Push with a ref that is deleted, or moved to where it was not shown to lead", schemaPush, Irreversible},
	},
	Retrieval: {
		{RetrieveSearch, "Search the documents that may be read by the agent and the user it acts for", schemaSearch, Read},
		{RetrieveGet, "Read one document", schemaGet, Read},
		{RetrieveDocument, "What each document in an answer is decided by, beside its readers; agents do not call it", schemaDocument, Read},
	},
	MCP: {
		{"mcp:initialize", "Begin a session", schemaNone, Read},
		{"mcp:server/discover", "Ask what the server can do", schemaNone, Read},
		{"mcp:ping", "Check that the server answers", schemaNone, Read},
		{"mcp:tools/list", "List tools", schemaNone, Read},
		{"mcp:resources/list", "List resources", schemaNone, Read},
		{"mcp:resources/templates/list", "List resource templates", schemaNone, Read},
		{"mcp:resources/read", "Read a resource", schemaURI, Read},
		{"mcp:resources/subscribe", "Be told when a resource changes", schemaURI, Read},
		{"mcp:resources/unsubscribe", "No longer be told when a resource changes", schemaURI, Read},
		{"mcp:subscriptions/listen", "Listen to changes", schemaNone, Read},
		{"mcp:prompts/list", "List prompts", schemaNone, Read},
		{"mcp:prompts/get", "Get a prompt", schemaPrompt, Read},
		{"mcp:completion/complete", "Complete an argument", schemaNone, Read},
		{"mcp:logging/setLevel", "Choose how much the server logs", schemaNone, Read},
		{"mcp:tasks/get", "Ask how a task stands", schemaTask, Read},
		{"mcp:tasks/result", "Get the result of a task", schemaTask, Read},
		{"mcp:tasks/update", "Give a task the input it waits for", schemaTask, Read},
		{"mcp:tasks/cancel", "Cancel a task", schemaTask, Read},
		{"mcp:tasks/list", "List tasks", schemaNone, Read},
		{"mcp:session/delete", "End a session", schemaNone, Read},
		{"mcp:response", "Answer a question the server asked", schemaNone, Read},
		{"mcp:notifications/initialized", "Say that a session has begun", schemaNone, Read},
		{"mcp:notifications/cancelled", "Cancel a request", schemaNone, Read},
		{"mcp:notifications/progress", "Report progress", schemaNone, Read},
		{"mcp:notifications/roots/list_changed", "Say that the client's roots changed", schemaNone, Read},
	},
}

// toolServer are the methods of MCP that a server of nothing but tools has.
var toolServer = []string{"mcp:initialize", "mcp:server/discover", "mcp:ping", "mcp:tools/list", "mcp:prompts/list", "mcp:resources/list", "mcp:resources/templates/list", "mcp:notifications/initialized", "mcp:notifications/cancelled"}

// builtinTools returns the tools every connection of c's kind has, without
// discovery: a model provider's endpoints, MCP's own methods, what git does.
// Their effect cannot be changed.
func builtinTools(c Connection) []Tool {
	key := c.Kind
	if c.Dialect != "" && c.Kind != Retrieval {
		key = c.Dialect
	}
	all := builtins[key]
	if c.Kind == Retrieval { // an MCP server too, of tools alone
		for _, b := range builtins[MCP] {
			if slices.Contains(toolServer, b.name) {
				all = append(all[:len(all):len(all)], b)
			}
		}
	}
	tools := make([]Tool, 0, len(all))
	for _, b := range all {
		tools = append(tools, Tool{
			ID: c.Name + "/" + b.name, Connection: c.Name, Name: b.name, Effect: b.effect, Status: StatusPinned, Builtin: true,
			Description: b.description, InputSchema: jsontext.Value(b.schema),
		})
	}
	return tools
}

// builtinName reports whether name belongs to a connection's built-in tools.
func builtinName(c Connection, name string) bool {
	return c.Dialect != "" || strings.HasPrefix(name, Protocol)
}
