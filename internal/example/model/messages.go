package model

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"net/http"
	"strings"
)

// messagesRequest is what is read of POST /v1/messages and count_tokens.
type messagesRequest struct {
	Model    string         `json:"model"`
	System   jsontext.Value `json:"system"`
	Messages []struct {
		Role    string         `json:"role"`
		Content jsontext.Value `json:"content"`
	} `json:"messages"`
	Tools []struct {
		Name string `json:"name"`
	} `json:"tools"`
	Stream    bool  `json:"stream"`
	MaxTokens int64 `json:"max_tokens"`
}

// block is one content block of a message from the client.
type block struct {
	Type      string         `json:"type"`
	Text      string         `json:"text"`
	ID        string         `json:"id"`
	Name      string         `json:"name"`
	Input     jsontext.Value `json:"input"`
	ToolUseID string         `json:"tool_use_id"`
	Content   jsontext.Value `json:"content"`
	IsError   bool           `json:"is_error"`
}

func (q *messagesRequest) conversation() (*conversation, error) {
	c := &conversation{model: q.Model, maxTokens: q.MaxTokens}
	var err error
	if c.system, err = contentText(q.System); err != nil {
		return nil, fmt.Errorf("system: %w", err)
	}
	for _, t := range q.Tools {
		c.tools = append(c.tools, t.Name)
	}
	if len(q.Messages) == 0 {
		return nil, fmt.Errorf("messages: at least one message is required")
	}
	for i, m := range q.Messages {
		if m.Role != "user" && m.Role != "assistant" {
			return nil, fmt.Errorf("messages.%d.role: must be user or assistant, not %q", i, m.Role)
		}
		if err := c.addBlocks(m.Role, m.Content); err != nil {
			return nil, fmt.Errorf("messages.%d: %w", i, err)
		}
	}
	return c, nil
}

func (c *conversation) addBlocks(role string, content jsontext.Value) error {
	t := turn{role: role}
	if content.Kind() != '[' {
		text, err := contentText(content)
		t.text = text
		c.turns = append(c.turns, t)
		return err
	}
	var blocks []block
	if err := json.Unmarshal(content, &blocks); err != nil {
		return errContent
	}
	var texts []string
	for i, b := range blocks {
		switch b.Type {
		case "text":
			texts = append(texts, b.Text)
		case "tool_use":
			t.calls = append(t.calls, call{id: b.ID, name: b.Name, args: b.Input})
		case "tool_result":
			text, err := contentText(b.Content)
			if err != nil {
				return fmt.Errorf("content.%d: %w", i, err)
			}
			c.addResult(result{id: b.ToolUseID, text: text, failed: b.IsError})
		}
	}
	t.text = strings.Join(texts, "\n\n")
	if t.text != "" || t.calls != nil {
		c.turns = append(c.turns, t)
	}
	return nil
}

// read decodes and checks what both endpoints share.
func (x *exchange) readMessages(q *messagesRequest) (*conversation, bool) {
	if !x.decode(q) {
		return nil, false
	}
	if x.r.Header.Get("Anthropic-Version") == "" {
		x.fail(http.StatusBadRequest, "anthropic-version: header is required")
		return nil, false
	}
	c, err := q.conversation()
	if err != nil {
		x.fail(http.StatusBadRequest, err.Error())
		return nil, false
	}
	return c, true
}

func (x *exchange) countTokens() {
	var q messagesRequest
	if c, ok := x.readMessages(&q); ok && x.ready(q.Model, false) {
		writeJSON(x.w, http.StatusOK, obj{"input_tokens": c.inputTokens()})
	}
}

func (x *exchange) messages() {
	var q messagesRequest
	c, ok := x.readMessages(&q)
	if !ok {
		return
	}
	if q.MaxTokens < 1 {
		x.fail(http.StatusBadRequest, "max_tokens: a positive number is required")
		return
	}
	if !x.ready(q.Model, q.Stream) {
		return
	}
	a := x.answer(c)
	stop := map[ending]string{endTurn: "end_turn", endTools: "tool_use", endLength: "max_tokens"}[a.ending]
	if q.Stream {
		x.streamMessages(a, stop, q.Model)
		return
	}
	content := []obj{}
	if a.text != "" {
		content = append(content, obj{"type": "text", "text": a.text, "citations": nil})
	}
	for _, k := range a.calls {
		content = append(content, obj{"type": "tool_use", "id": k.id, "name": k.name, "input": k.args})
	}
	m := x.message(q.Model, a.in, a.out)
	m["content"], m["stop_reason"] = content, stop
	writeJSON(x.w, http.StatusOK, m)
}

// message is a message object without content and end.
func (x *exchange) message(model string, in, out int64) obj {
	return obj{"id": "msg_" + x.id, "type": "message", "role": "assistant", "model": model, "content": []obj{},
		"stop_reason": nil, "stop_sequence": nil,
		"usage": obj{"input_tokens": in, "output_tokens": out, "cache_creation_input_tokens": 0,
			"cache_read_input_tokens": 0, "service_tier": "standard"}}
}

// streamMessages sends the answer as Anthropic's events. Input tokens come with
// message_start, the final output tokens with message_delta.
func (x *exchange) streamMessages(a answer, stop, model string) {
	st := x.openStream()
	event := func(name string, v obj) bool {
		v["type"] = name
		return st.send(name, v)
	}
	if !event("message_start", obj{"message": x.message(model, a.in, 1)}) || !event("ping", obj{}) {
		return
	}
	index := 0
	block := func(start obj, body func(delta func(obj) bool) bool) bool {
		i := index
		index++
		return event("content_block_start", obj{"index": i, "content_block": start}) &&
			body(func(d obj) bool { return event("content_block_delta", obj{"index": i, "delta": d}) }) &&
			event("content_block_stop", obj{"index": i})
	}
	if a.text != "" {
		ok := block(obj{"type": "text", "text": ""}, func(delta func(obj) bool) bool {
			return st.text(a.text, func(piece string) bool { return delta(obj{"type": "text_delta", "text": piece}) })
		})
		if !ok {
			return
		}
	}
	for _, k := range a.calls {
		ok := block(obj{"type": "tool_use", "id": k.id, "name": k.name, "input": obj{}}, func(delta func(obj) bool) bool {
			for _, piece := range append([]string{""}, (knobs{}).pieces(string(k.args))...) {
				if !delta(obj{"type": "input_json_delta", "partial_json": piece}) {
					return false
				}
			}
			return true
		})
		if !ok {
			return
		}
	}
	_ = event("message_delta", obj{"delta": obj{"stop_reason": stop, "stop_sequence": nil}, "usage": obj{"output_tokens": a.out}}) &&
		event("message_stop", obj{})
}
