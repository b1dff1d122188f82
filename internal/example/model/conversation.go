package model

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"strings"
)

// conversation is what a request says, without the dialect it was said in. The
// scripts read only this.
type conversation struct {
	model  string
	system string
	tools  []string
	turns  []turn
	// maxTokens is the client's limit for the answer; 0 means none was given.
	maxTokens int64
}

// turn is one message. A turn carries text, calls (assistant) or results (tool).
type turn struct {
	role    string
	text    string
	calls   []call
	results []result
}

// call is one use of a tool that the model asked for. args is the JSON object.
type call struct {
	id   string
	name string
	args jsontext.Value
}

// result is what a tool answered to the call of that id.
type result struct {
	id     string
	text   string
	failed bool
}

// reply is what the scripted model says next: text, calls or both.
type reply struct {
	text  string
	calls []call
}

var errContent = errors.New("content must be a string or an array of content parts")

// contentText flattens the content of a message, which both dialects allow as a
// string, as an array of typed parts or as null, into plain text. Parts that
// carry no text (images, files) are skipped: the scripts do not look at them.
func contentText(v jsontext.Value) (string, error) {
	switch v.Kind() {
	case 0, 'n':
		return "", nil
	case '"':
		var s string
		err := json.Unmarshal(v, &s)
		return s, err
	case '[':
		var parts []struct {
			Text string `json:"text"`
		}
		if err := json.Unmarshal(v, &parts); err != nil {
			return "", errContent
		}
		var texts []string
		for _, p := range parts {
			if p.Text != "" {
				texts = append(texts, p.Text)
			}
		}
		return strings.Join(texts, "\n\n"), nil
	default:
		return "", errContent
	}
}

// tokens is this model's tokenizer: four bytes are a token, and no text is
// entirely free.
func tokens(text string) int64 { return int64(len(text)+3) / 4 }

// inputTokens counts what the client sent: texts, calls, results and tools.
func (c *conversation) inputTokens() int64 {
	n := tokens(c.system) + int64(len(c.tools))*8
	for _, t := range c.turns {
		n += 3 + tokens(t.text)
		for _, k := range t.calls {
			n += tokens(k.name) + tokens(string(k.args))
		}
		for _, r := range t.results {
			n += tokens(r.text)
		}
	}
	return n
}

// outputTokens counts what the model said.
func (r reply) outputTokens() int64 {
	n := tokens(r.text)
	for _, k := range r.calls {
		n += tokens(k.name) + tokens(string(k.args))
	}
	return n
}

// lastUser is the newest user text, the task or the remark to answer.
func (c *conversation) lastUser() string {
	for i := len(c.turns) - 1; i >= 0; i-- {
		if c.turns[i].role == "user" && c.turns[i].text != "" {
			return c.turns[i].text
		}
	}
	return ""
}

// baseName is the name of a tool without the server's prefix: agents that talk
// to several MCP servers offer tools as "server__tool".
func baseName(name string) string {
	if i := strings.LastIndex(name, "__"); i >= 0 {
		return name[i+2:]
	}
	return name
}
