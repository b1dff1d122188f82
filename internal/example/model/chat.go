package model

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"net/http"
	"strings"
)

// chatRequest is what is read of POST /v1/chat/completions.
type chatRequest struct {
	Model    string `json:"model"`
	Messages []struct {
		Role      string         `json:"role"`
		Content   jsontext.Value `json:"content"`
		ToolCalls []struct {
			ID       string `json:"id"`
			Function struct {
				Name      string `json:"name"`
				Arguments string `json:"arguments"`
			} `json:"function"`
		} `json:"tool_calls"`
		ToolCallID string `json:"tool_call_id"`
	} `json:"messages"`
	Tools []struct {
		Function struct {
			Name string `json:"name"`
		} `json:"function"`
	} `json:"tools"`
	Stream        bool `json:"stream"`
	StreamOptions struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
	MaxTokens           int64 `json:"max_tokens"`
	MaxCompletionTokens int64 `json:"max_completion_tokens"`
}

func (q *chatRequest) conversation() (*conversation, error) {
	c := &conversation{model: q.Model, maxTokens: max(q.MaxTokens, q.MaxCompletionTokens)}
	for _, t := range q.Tools {
		c.tools = append(c.tools, t.Function.Name)
	}
	for i, m := range q.Messages {
		text, err := contentText(m.Content)
		if err != nil {
			return nil, fmt.Errorf("messages[%d]: %w", i, err)
		}
		switch m.Role {
		case "system", "developer":
			c.system += text + "\n"
		case "tool":
			c.addResult(result{id: m.ToolCallID, text: text, failed: strings.HasPrefix(text, "ERROR:")})
		case "user", "assistant":
			t := turn{role: m.Role, text: text}
			for _, k := range m.ToolCalls {
				t.calls = append(t.calls, call{id: k.ID, name: k.Function.Name, args: jsontext.Value(k.Function.Arguments)})
			}
			c.turns = append(c.turns, t)
		default:
			return nil, fmt.Errorf("messages[%d]: there is no role %q", i, m.Role)
		}
	}
	if len(q.Messages) == 0 {
		return nil, fmt.Errorf("messages must not be empty")
	}
	return c, nil
}

// addResult puts results that follow each other into one turn.
func (c *conversation) addResult(r result) {
	if n := len(c.turns); n > 0 && c.turns[n-1].role == "tool" {
		c.turns[n-1].results = append(c.turns[n-1].results, r)
		return
	}
	c.turns = append(c.turns, turn{role: "tool", results: []result{r}})
}

// decode reads the body; a body that cannot be read is answered with 400.
func (x *exchange) decode(into any) bool {
	if err := json.Unmarshal(x.body, into); err != nil {
		x.fail(http.StatusBadRequest, "the body is not a valid request: "+err.Error())
		return false
	}
	return true
}

// ready checks the model and applies its knobs, then deals with the faults that
// come before any answer. It returns false when the request is answered.
func (x *exchange) ready(model string, streaming bool) bool {
	k, test, err := parseKnobs(model)
	if err != nil || (!test && !offers(x.dialect, model)) {
		x.fail(http.StatusNotFound, fmt.Sprintf("the model %q does not exist", model))
		return false
	}
	x.knobs = k
	return !x.bend(streaming)
}

func (x *exchange) chat() {
	var q chatRequest
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
	finish := map[ending]string{endTurn: "stop", endTools: "tool_calls", endLength: "length"}[a.ending]
	if q.Stream {
		x.streamChat(a, finish, q)
		return
	}
	message := obj{"role": "assistant", "content": nil, "refusal": nil}
	if a.text != "" {
		message["content"] = a.text
	}
	var calls []obj
	for _, k := range a.calls {
		calls = append(calls, obj{"id": k.id, "type": "function", "function": obj{"name": k.name, "arguments": string(k.args)}})
	}
	if calls != nil {
		message["tool_calls"] = calls
	}
	writeJSON(x.w, http.StatusOK, obj{
		"id": "chatcmpl-" + x.id, "object": "chat.completion", "created": x.s.now().Unix(), "model": q.Model,
		"choices": []obj{{"index": 0, "message": message, "logprobs": nil, "finish_reason": finish}},
		"usage":   a.chatUsage(), "service_tier": "default", "system_fingerprint": "fp_scripted",
	})
}

func (a answer) chatUsage() obj {
	return obj{"prompt_tokens": a.in, "completion_tokens": a.out, "total_tokens": a.in + a.out,
		"prompt_tokens_details":     obj{"cached_tokens": 0, "audio_tokens": 0},
		"completion_tokens_details": obj{"reasoning_tokens": 0, "audio_tokens": 0, "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}}
}

// streamChat sends the answer as chat.completion.chunk events. Usage comes in a
// last chunk without choices, and only when stream_options.include_usage asked.
func (x *exchange) streamChat(a answer, finish string, q chatRequest) {
	st, created := x.openStream(), x.s.now().Unix()
	chunk := func(choices []obj, usage any) bool {
		v := obj{"id": "chatcmpl-" + x.id, "object": "chat.completion.chunk", "created": created, "model": q.Model,
			"choices": choices, "service_tier": "default", "system_fingerprint": "fp_scripted"}
		if q.StreamOptions.IncludeUsage {
			v["usage"] = usage
		}
		return st.send("", v)
	}
	delta := func(d obj, finish any) bool {
		return chunk([]obj{{"index": 0, "delta": d, "logprobs": nil, "finish_reason": finish}}, nil)
	}
	if !delta(obj{"role": "assistant", "content": "", "refusal": nil}, nil) {
		return
	}
	if !st.text(a.text, func(piece string) bool { return delta(obj{"content": piece}, nil) }) {
		return
	}
	for i, k := range a.calls {
		if !delta(obj{"tool_calls": []obj{{"index": i, "id": k.id, "type": "function", "function": obj{"name": k.name, "arguments": ""}}}}, nil) {
			return
		}
		for _, piece := range (knobs{}).pieces(string(k.args)) {
			if !delta(obj{"tool_calls": []obj{{"index": i, "function": obj{"arguments": piece}}}}, nil) {
				return
			}
		}
	}
	if !delta(obj{}, finish) {
		return
	}
	if q.StreamOptions.IncludeUsage && !chunk([]obj{}, a.chatUsage()) {
		return
	}
	st.send("", "[DONE]")
}
