package cli

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"strings"
)

// The functions here read foreign bytes that were recorded, as far as they can:
// what has another form is shown as it is.

// lastMessage returns who spoke last in a prompt, and what they said. Prompts
// are the messages of both dialects, the items of responses, or a string.
func lastMessage(prompt string) (role, text string) {
	var list []struct {
		Role    string         `json:"role"`
		Type    string         `json:"type"`
		Content jsontext.Value `json:"content"`
		Output  jsontext.Value `json:"output"`
		Text    string         `json:"text"`
	}
	if err := json.Unmarshal([]byte(prompt), &list); err != nil || len(list) == 0 {
		return "", plainText(jsontext.Value(prompt))
	}
	m := list[len(list)-1]
	role = m.Role
	if role == "" {
		role = m.Type
	}
	for _, v := range []jsontext.Value{m.Content, m.Output} {
		if t := plainText(v); t != "" {
			return role, t
		}
	}
	return role, m.Text
}

// maxNested bounds how deep plainText looks.
const maxNested = 8

// plainText gathers the text of a string, a content block or a list of them.
func plainText(v jsontext.Value) string { return nestedText(v, 0) }

func nestedText(v jsontext.Value, depth int) string {
	switch v.Kind() {
	case '"':
		var s string
		if json.Unmarshal(v, &s) == nil {
			return s
		}
	case '[':
		var items []jsontext.Value
		if depth > maxNested || json.Unmarshal(v, &items) != nil {
			break
		}
		var texts []string
		for _, item := range items {
			if t := nestedText(item, depth+1); t != "" {
				texts = append(texts, t)
			}
		}
		return strings.Join(texts, " ")
	case '{':
		var block struct {
			Text    string         `json:"text"`
			Content jsontext.Value `json:"content"`
		}
		if depth > maxNested || json.Unmarshal(v, &block) != nil {
			break
		}
		if block.Text != "" {
			return block.Text
		}
		return nestedText(block.Content, depth+1)
	}
	return string(v)
}

// resultText returns the text of a tool's recorded answer: a JSON-RPC response,
// alone or as the last message of an event stream.
func resultText(answer string) string {
	if !strings.HasPrefix(strings.TrimSpace(answer), "{") {
		for line := range strings.Lines(answer) {
			if data, ok := strings.CutPrefix(line, "data:"); ok {
				answer = strings.TrimSpace(data)
			}
		}
	}
	var r struct {
		Result struct {
			Content jsontext.Value `json:"content"`
		} `json:"result"`
		Error struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	if json.Unmarshal([]byte(answer), &r) != nil {
		return answer
	}
	if r.Error.Message != "" {
		return r.Error.Message
	}
	if len(r.Result.Content) > 0 {
		return plainText(r.Result.Content)
	}
	return answer
}
