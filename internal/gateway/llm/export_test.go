package llm

import (
	"encoding/json/jsontext"
	"strings"

	"github.com/countersign/countersign/internal/gateway"
)

// What the tests see of a scan.
type Scanned struct {
	Model  string
	Stream bool
	Tools  []string
	Args   jsontext.Value
	Prompt []string
	Kept   []string // of Prompt, what the log gets
}

func Scan(body []byte, dialectName, tool string) (Scanned, error) {
	d := openaiDialect
	if dialectName == anthropicDialect.name {
		d = anthropicDialect
	}
	q, err := scan(body, d.fields)
	if err != nil {
		return Scanned{}, err
	}
	s := Scanned{Model: q.model, Stream: q.stream, Tools: q.tools, Args: q.args(tool)}
	for _, p := range q.prompt {
		s.Prompt = append(s.Prompt, p.name+"="+string(body[p.start:p.end]))
	}
	for _, p := range prompt(body, q.prompt, gateway.CaptureCap) {
		s.Kept = append(s.Kept, string(p.Body))
	}
	return s, nil
}

var (
	TooDeep      = tooDeep
	FilterModels = filterModels
)

func NewObserver(dialectName string) *observer {
	if dialectName == anthropicDialect.name {
		return newObserver(anthropicDialect, true, gateway.CaptureCap, "")
	}
	return newObserver(openaiDialect, true, gateway.CaptureCap, "")
}

// Proposed returns what an observer tells of an answer.
func Proposed(o any, end bool) gateway.Proposed { return o.(*observer).Proposed(end) }

// Links returns by what a request continues an exchange.
func Links(body []byte, dialectName string) (string, error) {
	d := openaiDialect
	if dialectName == anthropicDialect.name {
		d = anthropicDialect
	}
	q, err := scan(body, d.fields)
	if err != nil {
		return "", err
	}
	var out []string
	for _, l := range links(body, q) {
		out = append(out, l.Kind+" "+l.Text)
	}
	return strings.Join(out, ";"), nil
}
