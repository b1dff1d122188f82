package llm

import (
	"encoding/json/jsontext"
	"net/http"
	"strconv"
	"strings"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/gateway/llm/anthropic"
	"github.com/countersign/countersign/internal/gateway/llm/openai"
)

// dialect is what differs between the providers' wires.
type dialect struct {
	name       string
	fields     map[string]string
	generating []string
	models     string // the tool that lists models
	match      func(path string) (tool, model, method string, ok bool)
	answer     func(limit int) answerReader
	error      func(status int, code, message string) []byte
	errorEvent func(tool, code, message string) []byte
	// prefix is what a connection's base URL leaves out of the paths that
	// clients use beneath the door.
	prefix func(base string) string
}

// answerReader learns from an answer as it passes.
type answerReader interface {
	Interesting(data []byte) bool
	Event(data []byte)
	Document(body []byte) bool
	Tail(tail []byte)
}

var openaiDialect = &dialect{
	name: connections.OpenAI, fields: openai.Fields, generating: names(openai.Generating), models: string(openai.Models),
	match: func(path string) (string, string, string, bool) {
		e, model, method, ok := openai.Match(path)
		return string(e), model, method, ok
	},
	answer: func(limit int) answerReader { return &openai.Answer{Limit: limit} },
	error:  openai.Error,
	errorEvent: func(tool, code, message string) []byte {
		return openai.ErrorEvent(openai.Endpoint(tool), code, message)
	},
	// OPENAI_BASE_URL is the whole base ("https://api.openai.com/v1",
	// "https://host/openai/v1beta"); a bare host means its /v1.
	prefix: func(base string) string {
		if _, rest, _ := strings.Cut(base, "://"); strings.Contains(rest, "/") {
			return ""
		}
		return "/v1"
	},
}

var anthropicDialect = &dialect{
	name: connections.Anthropic, fields: anthropic.Fields, generating: names(anthropic.Generating), models: string(anthropic.Models),
	match: func(path string) (string, string, string, bool) {
		e, model, method, ok := anthropic.Match(path)
		return string(e), model, method, ok
	},
	answer:     func(limit int) answerReader { return &anthropic.Answer{Limit: limit} },
	error:      anthropic.Error,
	errorEvent: func(_, code, message string) []byte { return anthropic.ErrorEvent(code, message) },
	// ANTHROPIC_BASE_URL leaves out /v1; who writes it means the same.
	prefix: func(base string) string {
		if strings.HasSuffix(base, "/v1") {
			return ""
		}
		return "/v1"
	},
}

func names[E ~string](list []E) []string {
	out := make([]string, len(list))
	for i, e := range list {
		out[i] = string(e)
	}
	return out
}

// dialectOf returns a connection's dialect.
func dialectOf(c connections.Connection) *dialect {
	if c.Dialect == connections.Anthropic {
		return anthropicDialect
	}
	return openaiDialect
}

// guessDialect says which provider a client believes it is talking to, before
// anyone knows who it is.
func guessDialect(h http.Header) *dialect {
	if h.Get("Anthropic-Version") != "" || (h.Get("X-Api-Key") != "" && h.Get("Authorization") == "") {
		return anthropicDialect
	}
	return openaiDialect
}

// args returns what policy decides on, as connections' schema of the tool
// describes it.
func (q request) args(tool string) jsontext.Value {
	b := append(make([]byte, 0, 128), `{"model":`...)
	b = appendString(b, q.model)
	if tool != string(openai.Embeddings) && tool != string(anthropic.CountTokens) {
		b = strconv.AppendBool(append(b, `,"stream":`...), q.stream)
		if q.maxTokens != nil {
			b = append(append(b, `,"max_tokens":`...), q.maxTokens...)
		}
		if q.n != nil {
			b = append(append(b, `,"n":`...), q.n...)
		}
		if q.hasTools {
			b = append(b, `,"tools":[`...)
			for i, t := range q.tools {
				if i > 0 {
					b = append(b, ',')
				}
				b = appendString(b, t)
			}
			b = append(b, ']')
		}
		if len(q.provided) > 0 {
			b = append(b, `,"provider_tools":[`...)
			for i, t := range q.provided {
				if i > 0 {
					b = append(b, ',')
				}
				b = appendString(b, t)
			}
			b = append(b, ']')
		}
	}
	return append(b, '}')
}

// modelArgs returns the arguments of a question about one model, or of the list
// if model is empty.
func modelArgs(tool, model string) jsontext.Value {
	switch {
	case model == "":
		return jsontext.Value("{}")
	case tool == string(openai.Models):
		return append(appendString([]byte(`{"model":`), model), '}')
	}
	return request{model: model}.args(tool)
}

// appendString appends s, which is valid UTF-8, as a JSON string.
func appendString(b []byte, s string) []byte {
	out, err := jsontext.AppendQuote(b, s)
	if err != nil { // not valid UTF-8: cannot come from the strict parser
		return append(b, `""`...)
	}
	return out
}
