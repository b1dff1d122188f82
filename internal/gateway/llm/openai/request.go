package openai

import (
	"net/http"
	"strings"
)

// Endpoint is one operation of the API, named as its tool is.
type Endpoint string

// The endpoints that the gateway knows.
const (
	Chat       Endpoint = "chat.completions"
	Responses  Endpoint = "responses"
	Embeddings Endpoint = "embeddings"
	Models     Endpoint = "models"
)

// Generating lists the endpoints that use a model: what makes a model worth
// listing for an agent.
var Generating = []Endpoint{Chat, Responses, Embeddings}

// Match returns the endpoint at path beneath the base URL ("/chat/completions"),
// for a single model its identifier, and the method that it wants.
func Match(path string) (e Endpoint, model, method string, ok bool) {
	switch path {
	case "/chat/completions":
		return Chat, "", http.MethodPost, true
	case "/responses":
		return Responses, "", http.MethodPost, true
	case "/embeddings":
		return Embeddings, "", http.MethodPost, true
	case "/models":
		return Models, "", http.MethodGet, true
	}
	if id, found := strings.CutPrefix(path, "/models/"); found && id != "" && !strings.Contains(id, "/") {
		return Models, id, http.MethodGet, true
	}
	return "", "", "", false
}

// Fields says what the fields of a request that the gateway reads mean: the
// policy arguments model, stream, n, max_tokens and tools, and the payloads
// system and prompt.
var Fields = map[string]string{
	"model":                 "model",
	"stream":                "stream",
	"n":                     "n",
	"max_tokens":            "max_tokens",
	"max_completion_tokens": "max_tokens",
	"max_output_tokens":     "max_tokens",
	"tools":                 "tools",
	"functions":             "tools",
	"instructions":          "system",
	"messages":              "prompt",
	"input":                 "prompt",
	"previous_response_id":  "continues",
	"conversation":          "continues",
	"prompt":                "provided", // a stored one may bring tools
	"web_search_options":    "provided",
	"search_parameters":     "provided",
	"plugins":               "provided",
}
