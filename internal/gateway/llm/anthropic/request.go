package anthropic

import (
	"net/http"
	"strings"
)

// Endpoint is one operation of the API, named as its tool is.
type Endpoint string

// The endpoints that the gateway knows.
const (
	Messages    Endpoint = "messages"
	CountTokens Endpoint = "messages.count_tokens"
	Models      Endpoint = "models"
)

// Generating lists the endpoints that use a model: what makes a model worth
// listing for an agent.
var Generating = []Endpoint{Messages, CountTokens}

// Match returns the endpoint at path beneath "/v1", for a single model its
// identifier, and the method that it wants.
func Match(path string) (e Endpoint, model, method string, ok bool) {
	switch path {
	case "/messages":
		return Messages, "", http.MethodPost, true
	case "/messages/count_tokens":
		return CountTokens, "", http.MethodPost, true
	case "/models":
		return Models, "", http.MethodGet, true
	}
	if id, found := strings.CutPrefix(path, "/models/"); found && id != "" && !strings.Contains(id, "/") {
		return Models, id, http.MethodGet, true
	}
	return "", "", "", false
}

// Fields says what the fields of a request that the gateway reads mean: the
// policy arguments model, stream, max_tokens and tools (the provider's own
// connections to MCP servers count as tools), and the payloads system and prompt.
var Fields = map[string]string{
	"model":       "model",
	"stream":      "stream",
	"max_tokens":  "max_tokens",
	"tools":       "tools",
	"mcp_servers": "tools",
	"system":      "system",
	"messages":    "prompt",
}
