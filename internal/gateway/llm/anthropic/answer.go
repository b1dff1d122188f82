package anthropic

import (
	"bytes"
	"encoding/json/jsontext"
	"encoding/json/v2"
)

// Answer gathers what an answer says about itself as it passes.
type Answer struct {
	Model                 string
	Input, Output, Cached int64 // tokens; Input counts the cached ones too
	Used                  bool  // the answer reported its use of tokens
	Failed                string
	Text                  []byte // what the model said and which tools it called
	Limit                 int    // of Text

	asked // what the answer proposes, and by what it can be continued
}

type usage struct {
	Input   *int64 `json:"input_tokens"`
	Output  *int64 `json:"output_tokens"`
	Read    *int64 `json:"cache_read_input_tokens"`
	Created *int64 `json:"cache_creation_input_tokens"`
}

type block struct {
	Type        string         `json:"type"`
	ID          string         `json:"id"`
	Text        string         `json:"text"`
	PartialJSON string         `json:"partial_json"`
	Name        string         `json:"name"`
	Input       jsontext.Value `json:"input"`
}

type document struct {
	ID           string         `json:"id"`
	Index        int            `json:"index"`
	Type         string         `json:"type"`
	Model        string         `json:"model"`
	Usage        *usage         `json:"usage"`
	Content      []block        `json:"content"`
	ContentBlock *block         `json:"content_block"`
	Delta        *block         `json:"delta"`
	Message      jsontext.Value `json:"message"`
	Error        *struct {
		Type    string `json:"type"`
		Message string `json:"message"`
	} `json:"error"`
}

var lenient = json.JoinOptions(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

// Interesting reports whether an event's data can say anything that Event would
// read. It only looks for bytes.
func (a *Answer) Interesting(data []byte) bool {
	if bytes.Contains(data, []byte(`"usage"`)) || bytes.Contains(data, []byte(`error`)) {
		return true
	}
	if len(a.open) > 0 || bytes.Contains(data, []byte(`content_block_start`)) {
		return true
	}
	return (len(a.Text) < a.Limit || !a.heard()) && bytes.Contains(data, []byte(`content_block_`))
}

// Event reads the data of one server-sent event. What is no JSON is ignored.
func (a *Answer) Event(data []byte) {
	var d document
	if len(data) == 0 || data[0] != '{' || json.Unmarshal(data, &d, lenient) != nil {
		return
	}
	a.take(&d)
}

// Document reads an answer that is one JSON document. It reports whether it
// could.
func (a *Answer) Document(body []byte) bool {
	var d document
	if json.Unmarshal(body, &d, lenient) != nil {
		return false
	}
	a.take(&d)
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

func (a *Answer) take(d *document) {
	if d.Type == "message_start" && len(d.Message) > 0 && d.Message[0] == '{' {
		var m document
		if json.Unmarshal(d.Message, &m, lenient) == nil {
			a.take(&m)
		}
	}
	if d.Model != "" {
		a.Model = d.Model
	}
	if d.Usage != nil {
		a.use(d.Usage)
	}
	if d.Error != nil {
		a.Failed = "the answer holds an error"
		if d.Error.Message != "" {
			a.Failed = d.Error.Message
		}
	}
	a.asked.take(d)
	for i := range d.Content {
		a.begin(&d.Content[i])
		a.add(d.Content[i].Text)
		a.add(string(d.Content[i].Input))
	}
	if d.ContentBlock != nil {
		a.begin(d.ContentBlock)
		a.add(d.ContentBlock.Text)
	}
	if d.Delta != nil {
		a.add(d.Delta.Text)
		a.add(d.Delta.PartialJSON)
	}
}

func (a *Answer) begin(b *block) {
	if b.Name != "" {
		a.add("\n[" + b.Name + "] ")
	}
}

// use takes what is reported; message_delta reports totals and may leave out
// what message_start has said.
func (a *Answer) use(u *usage) {
	a.Used = true
	if u.Input != nil {
		a.Input = *u.Input + or(u.Read) + or(u.Created)
	}
	if u.Output != nil {
		a.Output = *u.Output
	}
	if u.Read != nil {
		a.Cached = *u.Read
	}
}

func or(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}

func (a *Answer) add(s string) {
	if room := a.Limit - len(a.Text); room > 0 {
		a.Text = append(a.Text, s[:min(len(s), room)]...)
	}
}
