package llm

import (
	"bytes"
	"encoding/json/jsontext"
	"encoding/json/v2"

	"github.com/countersign/countersign/internal/flow"
	"github.com/countersign/countersign/internal/gateway"
)

// turn is what is read of one message of a conversation, whichever the
// provider: other fields, and content of other kinds, are nobody's words.
type turn struct {
	Role    string         `json:"role"`
	Content jsontext.Value `json:"content"`
}

// said returns what a request says in the words of people: the messages of the
// user, and the instructions of the operator. What tools answered and what models
// said is nobody's.
func said(body []byte, spans []span) []gateway.Said {
	var out []gateway.Said
	for _, s := range spans {
		v := jsontext.Value(body[s.start:s.end])
		switch {
		case s.name == "system":
			out = say(out, flow.Operator, v)
		case v.Kind() == '"':
			out = say(out, flow.User, v)
		default:
			out = messages(out, v)
		}
	}
	return out
}

func messages(out []gateway.Said, v jsontext.Value) []gateway.Said {
	var list []jsontext.Value
	if json.Unmarshal(v, &list) != nil {
		return out
	}
	for _, raw := range list {
		var m turn
		if json.Unmarshal(raw, &m) != nil {
			continue
		}
		switch m.Role {
		case "user":
			out = say(out, flow.User, m.Content)
		case "system", "developer":
			out = say(out, flow.Operator, m.Content)
		}
	}
	return out
}

// say adds the texts of a content: a string, or a list of parts.
func say(out []gateway.Said, by string, v jsontext.Value) []gateway.Said {
	v = bytes.TrimSpace(v)
	if v.Kind() == '"' {
		var s string
		if json.Unmarshal(v, &s) == nil && s != "" {
			out = append(out, gateway.Said{By: by, Words: s})
		}
		return out
	}
	var parts []jsontext.Value
	if v.Kind() != '[' || json.Unmarshal(v, &parts) != nil {
		return out
	}
	for _, raw := range parts {
		var p struct {
			Type string `json:"type"`
			Text string `json:"text"`
		}
		if json.Unmarshal(raw, &p) == nil && (p.Type == "text" || p.Type == "input_text") && p.Text != "" {
			out = append(out, gateway.Said{By: by, Words: p.Text})
		}
	}
	return out
}
