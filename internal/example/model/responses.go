package model

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"net/http"
	"strings"
)

// responsesRequest is what is read of POST /v1/responses.
type responsesRequest struct {
	Model        string         `json:"model"`
	Instructions string         `json:"instructions"`
	Input        jsontext.Value `json:"input"`
	Tools        []struct {
		Type string `json:"type"`
		Name string `json:"name"`
	} `json:"tools"`
	Stream          bool  `json:"stream"`
	MaxOutputTokens int64 `json:"max_output_tokens"`
}

// item is one element of the input array.
type item struct {
	Type      string         `json:"type"`
	Role      string         `json:"role"`
	Content   jsontext.Value `json:"content"`
	CallID    string         `json:"call_id"`
	Name      string         `json:"name"`
	Arguments string         `json:"arguments"`
	Output    jsontext.Value `json:"output"`
}

func (q *responsesRequest) conversation() (*conversation, error) {
	c := &conversation{model: q.Model, system: q.Instructions, maxTokens: q.MaxOutputTokens}
	for _, t := range q.Tools {
		if t.Type == "function" {
			c.tools = append(c.tools, t.Name)
		}
	}
	if q.Input.Kind() == '"' {
		text, err := contentText(q.Input)
		c.turns = []turn{{role: "user", text: text}}
		return c, err
	}
	var items []item
	if err := json.Unmarshal(q.Input, &items); err != nil || len(items) == 0 {
		return nil, fmt.Errorf("input must be a text or an array of items")
	}
	for i, it := range items {
		if err := c.addItem(it); err != nil {
			return nil, fmt.Errorf("input[%d]: %w", i, err)
		}
	}
	return c, nil
}

func (c *conversation) addItem(it item) error {
	switch it.Type {
	case "", "message":
		text, err := contentText(it.Content)
		if err != nil {
			return err
		}
		switch it.Role {
		case "system", "developer":
			c.system += "\n" + text
		case "user", "assistant":
			c.turns = append(c.turns, turn{role: it.Role, text: text})
		default:
			return fmt.Errorf("there is no role %q", it.Role)
		}
	case "function_call":
		k := call{id: it.CallID, name: it.Name, args: jsontext.Value(it.Arguments)}
		if n := len(c.turns); n > 0 && c.turns[n-1].role == "assistant" {
			c.turns[n-1].calls = append(c.turns[n-1].calls, k)
		} else {
			c.turns = append(c.turns, turn{role: "assistant", calls: []call{k}})
		}
	case "function_call_output":
		text, err := contentText(it.Output)
		if err != nil {
			return err
		}
		c.addResult(result{id: it.CallID, text: text, failed: strings.HasPrefix(text, "ERROR:")})
	}
	// Other items (reasoning, built-in tools) are part of the format and of no
	// interest to a script.
	return nil
}

func (x *exchange) responses() {
	var q responsesRequest
	if !x.decode(&q) {
		return
	}
	c, err := q.conversation()
	if err != nil {
		x.fail(http.StatusBadRequest, err.Error())
		return
	}
	if !x.ready(q.Model, q.Stream) {
		return
	}
	a := x.answer(c)
	if q.Stream {
		x.streamResponse(a, q)
		return
	}
	writeJSON(x.w, http.StatusOK, x.response(q, a, a.ending.status(), x.outputItems(a)))
}

func (e ending) status() string {
	if e == endLength {
		return "incomplete"
	}
	return "completed"
}

func (x *exchange) response(q responsesRequest, a answer, status string, output []obj) obj {
	r := obj{"id": "resp_" + x.id, "object": "response", "created_at": x.s.now().Unix(), "status": status, "model": q.Model,
		"error": nil, "incomplete_details": nil, "instructions": nil, "metadata": obj{}, "output": output,
		"parallel_tool_calls": true, "previous_response_id": nil, "temperature": 1, "top_p": 1, "tool_choice": "auto",
		"tools": []obj{}, "store": false, "truncation": "disabled", "usage": nil, "text": obj{"format": obj{"type": "text"}},
		"reasoning": obj{"effort": nil, "summary": nil}, "max_output_tokens": nil}
	if q.Instructions != "" {
		r["instructions"] = q.Instructions
	}
	switch status {
	case "incomplete":
		r["incomplete_details"] = obj{"reason": "max_output_tokens"}
		fallthrough
	case "completed":
		r["usage"] = obj{"input_tokens": a.in, "output_tokens": a.out, "total_tokens": a.in + a.out,
			"input_tokens_details": obj{"cached_tokens": 0}, "output_tokens_details": obj{"reasoning_tokens": 0}}
	}
	return r
}

func (x *exchange) outputItems(a answer) []obj {
	items := []obj{}
	if a.text != "" {
		items = append(items, x.messageItem("completed", []obj{textPart(a.text)}))
	}
	for _, k := range a.calls {
		items = append(items, callItem(k, "completed", string(k.args)))
	}
	return items
}

func (x *exchange) messageItem(status string, content []obj) obj {
	return obj{"id": "msg_" + x.id, "type": "message", "role": "assistant", "status": status, "content": content}
}

func textPart(text string) obj {
	return obj{"type": "output_text", "text": text, "annotations": []obj{}, "logprobs": []obj{}}
}

func callItem(k call, status, args string) obj {
	return obj{"id": "fc_" + idOf(k.id), "type": "function_call", "status": status, "call_id": k.id, "name": k.name, "arguments": args}
}

// streamResponse sends the answer as the semantic events of the Responses API.
func (x *exchange) streamResponse(a answer, q responsesRequest) {
	st, seq := x.openStream(), 0
	event := func(name string, v obj) bool {
		v["type"], v["sequence_number"] = name, seq
		seq++
		return st.send(name, v)
	}
	opened := func(name string) bool {
		return event(name, obj{"response": x.response(q, a, "in_progress", []obj{})})
	}
	if !opened("response.created") || !opened("response.in_progress") {
		return
	}
	output := 0
	if a.text != "" {
		if !x.streamTextItem(st, event, a.text) {
			return
		}
		output++
	}
	for _, k := range a.calls {
		fc := "fc_" + idOf(k.id)
		if !event("response.output_item.added", obj{"output_index": output, "item": callItem(k, "in_progress", "")}) {
			return
		}
		for _, piece := range (knobs{}).pieces(string(k.args)) {
			if !event("response.function_call_arguments.delta", obj{"item_id": fc, "output_index": output, "delta": piece}) {
				return
			}
		}
		if !event("response.function_call_arguments.done", obj{"item_id": fc, "output_index": output, "name": k.name, "arguments": string(k.args)}) ||
			!event("response.output_item.done", obj{"output_index": output, "item": callItem(k, "completed", string(k.args))}) {
			return
		}
		output++
	}
	event("response."+a.ending.status(), obj{"response": x.response(q, a, a.ending.status(), x.outputItems(a))})
}

func (x *exchange) streamTextItem(st *stream, event func(string, obj) bool, text string) bool {
	at := func(more obj) obj {
		more["item_id"], more["output_index"], more["content_index"] = "msg_"+x.id, 0, 0
		return more
	}
	return event("response.output_item.added", obj{"output_index": 0, "item": x.messageItem("in_progress", []obj{})}) &&
		event("response.content_part.added", at(obj{"part": textPart("")})) &&
		st.text(text, func(piece string) bool {
			return event("response.output_text.delta", at(obj{"delta": piece, "logprobs": []obj{}}))
		}) &&
		event("response.output_text.done", at(obj{"text": text, "logprobs": []obj{}})) &&
		event("response.content_part.done", at(obj{"part": textPart(text)})) &&
		event("response.output_item.done", obj{"output_index": 0, "item": x.messageItem("completed", []obj{textPart(text)})})
}
