package openai

import (
	"bytes"
	"encoding/json/jsontext"
	"encoding/json/v2"
)

// Answer gathers what an answer says about itself as it passes.
type Answer struct {
	Model                 string
	Input, Output, Cached int64 // tokens
	Used                  bool  // the answer reported its use of tokens
	Failed                string
	Text                  []byte // what the model said and which tools it called
	Limit                 int    // of Text

	asked // what the answer proposes, and by what it can be continued
}

type usage struct {
	PromptTokens     int64 `json:"prompt_tokens"`
	CompletionTokens int64 `json:"completion_tokens"`
	InputTokens      int64 `json:"input_tokens"`
	OutputTokens     int64 `json:"output_tokens"`
	PromptDetails    struct {
		Cached int64 `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`
	InputDetails struct {
		Cached int64 `json:"cached_tokens"`
	} `json:"input_tokens_details"`
}

type failure struct {
	Message string `json:"message"`
	Code    any    `json:"code"`
}

type message struct {
	Content   jsontext.Value `json:"content"`
	Refusal   string         `json:"refusal"`
	ToolCalls []toolCall     `json:"tool_calls"`
}

type item struct {
	Type      string `json:"type"`
	ID        string `json:"id"`
	CallID    string `json:"call_id"`
	Name      string `json:"name"`
	Arguments string `json:"arguments"`
	Content   []struct {
		Text    string `json:"text"`
		Refusal string `json:"refusal"`
	} `json:"content"`
}

// document is every form of answer that we read, of both APIs; each answer
// fills its own part.
type document struct {
	ID       string         `json:"id"`
	Object   string         `json:"object"`
	Type     string         `json:"type"`
	Model    string         `json:"model"`
	Usage    *usage         `json:"usage"`
	Error    jsontext.Value `json:"error"`
	Status   string         `json:"status"`
	Message  string         `json:"message"`
	Delta    jsontext.Value `json:"delta"`
	Choices  []choice       `json:"choices"`
	Output   []item         `json:"output"`
	Item     *item          `json:"item"`
	Response *document      `json:"response"`
}

var lenient = json.JoinOptions(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

// Interesting reports whether an event's data can say anything that Event would
// read. It only looks for bytes.
func (a *Answer) Interesting(data []byte) bool {
	if bytes.Contains(data, []byte(`"usage":{`)) || bytes.Contains(data, []byte(`"usage": {`)) || bytes.Contains(data, []byte(`error`)) ||
		bytes.Contains(data, []byte(`response.failed`)) {
		return true
	}
	if bytes.Contains(data, []byte(`tool_calls`)) || bytes.Contains(data, []byte(`function_call`)) || bytes.Contains(data, []byte(`"finish_reason":"`)) || bytes.Contains(data, []byte(`"finish_reason": "`)) ||
		bytes.Contains(data, []byte(`output_item.done`)) || bytes.Contains(data, []byte(`response.completed`)) {
		return true
	}
	return (len(a.Text) < a.Limit || !a.heard()) && (bytes.Contains(data, []byte(`content`)) || bytes.Contains(data, []byte(`delta`)) || bytes.Contains(data, []byte(`output_item`)))
}

// Event reads the data of one server-sent event. What is no JSON is ignored,
// as "[DONE]" is.
func (a *Answer) Event(data []byte) {
	var d document
	if len(data) == 0 || data[0] != '{' || json.Unmarshal(data, &d, lenient) != nil {
		return
	}
	a.take(&d, true)
}

// Document reads an answer that is one JSON document. It reports whether it
// could.
func (a *Answer) Document(body []byte) bool {
	var d document
	if json.Unmarshal(body, &d, lenient) != nil {
		return false
	}
	a.take(&d, false)
	return true
}

// Tail reads the use of tokens from the end of a document that was too long to
// keep.
func (a *Answer) Tail(tail []byte) {
	for end := len(tail); ; {
		i := bytes.LastIndex(tail[:end], []byte(`"usage"`))
		if i < 0 {
			return
		}
		end = i
		if i > 0 && tail[i-1] == '\\' {
			continue // quoted inside a string
		}
		rest := bytes.TrimLeft(tail[i+len(`"usage"`):], " \t\r\n:")
		v, err := jsontext.NewDecoder(bytes.NewReader(rest), lenient).ReadValue()
		var u usage
		if err == nil && json.Unmarshal(v, &u, lenient) == nil {
			a.use(&u)
			return
		}
	}
}

func (a *Answer) take(d *document, streamed bool) {
	if d.Response != nil { // response.completed, response.failed and their kin
		status := d.Response.Status
		a.asked.response(d.Response)
		d.Response.Output = nil // its parts have passed before
		a.take(d.Response, false)
		if a.Failed == "" && (d.Type == "response.failed" || status == "failed") {
			a.Failed = "the response failed"
		}
	}
	if d.Model != "" {
		a.Model = d.Model
	}
	if d.Usage != nil {
		a.use(d.Usage)
	}
	a.fail(d)
	a.asked.take(d, streamed)
	for i := range d.Choices {
		a.message(&d.Choices[i].Delta)
		a.message(&d.Choices[i].Message)
	}
	for i := range d.Output {
		a.item(&d.Output[i])
	}
	if streamed && d.Item != nil && d.Type == "response.output_item.added" && d.Item.Name != "" {
		a.add("\n[" + d.Item.Name + "] ")
	}
	if len(d.Delta) > 1 && d.Delta[0] == '"' {
		if s, err := jsontext.AppendUnquote(nil, d.Delta); err == nil {
			a.add(string(s))
			if d.Type == "response.output_text.delta" {
				a.hear(string(s))
			}
		}
	}
}

func (a *Answer) use(u *usage) {
	a.Used = true
	a.Input, a.Output = u.PromptTokens+u.InputTokens, u.CompletionTokens+u.OutputTokens
	a.Cached = u.PromptDetails.Cached + u.InputDetails.Cached
}

func (a *Answer) fail(d *document) {
	switch {
	case len(d.Error) > 0 && d.Error[0] == '{':
		var f failure
		a.Failed = "the answer holds an error"
		if json.Unmarshal(d.Error, &f, lenient) == nil && f.Message != "" {
			a.Failed = f.Message
		}
	case len(d.Error) > 0 && d.Error[0] == '"':
		a.Failed = string(d.Error)
	case d.Type == "error":
		a.Failed = "the answer holds an error"
		if d.Message != "" {
			a.Failed = d.Message
		}
	case d.Status == "failed":
		a.Failed = "the response failed"
	}
}

func (a *Answer) message(m *message) {
	switch {
	case len(m.Content) > 1 && m.Content[0] == '"':
		if s, err := jsontext.AppendUnquote(nil, m.Content); err == nil {
			a.add(string(s))
		}
	case len(m.Content) > 0 && m.Content[0] == '[':
		a.add(string(m.Content))
	}
	a.add(m.Refusal)
	for _, c := range m.ToolCalls {
		if c.Function.Name != "" {
			a.add("\n[" + c.Function.Name + "] ")
		}
		a.add(c.Function.Arguments)
	}
}

func (a *Answer) item(i *item) {
	for _, c := range i.Content {
		a.add(c.Text)
		a.add(c.Refusal)
	}
	if i.Name != "" {
		a.add("\n[" + i.Name + "] ")
		a.add(i.Arguments)
	}
}

func (a *Answer) add(s string) {
	if room := a.Limit - len(a.Text); room > 0 {
		a.Text = append(a.Text, s[:min(len(s), room)]...)
	}
}
