package openai

import (
	"encoding/json/jsontext"
	"slices"
	"strings"
)

// Call is a tool call that an answer asks for.
type Call struct {
	ID        string
	Name      string
	Arguments string // JSON, as the model wrote it
}

// Limits on what is gathered of one answer. A call that is over them is not told.
const (
	maxCalls     = 64
	maxArguments = 256 << 10 // bytes of one call
	// MaxSaid is how much of what a model said tells its answer from others.
	MaxSaid = 2 << 10
)

// asked gathers what an answer asks its client to do.
type asked struct {
	Calls []Call   // complete ones, since they were last taken
	IDs   []string // identifiers of the answer and of its parts
	Said  []byte   // the beginning of what was said, of the first choice

	open map[place]*open
	done []string // identifiers of complete calls
	size int
}

// open is a call of which more may come.
type open struct {
	Call
	arguments []byte
}

// place is where a call stands in a streamed answer.
type place struct{ choice, index int }

type toolCall struct {
	Index    int    `json:"index"`
	ID       string `json:"id"`
	Function struct {
		Name      string `json:"name"`
		Arguments string `json:"arguments"`
	} `json:"function"`
}

type choice struct {
	Index   int     `json:"index"`
	Delta   message `json:"delta"`
	Message message `json:"message"`
	Finish  string  `json:"finish_reason"`
}

// heard reports whether enough was said.
func (a *asked) heard() bool { return len(a.Said) >= MaxSaid }

func (a *asked) hear(s string) {
	if room := MaxSaid - len(a.Said); room > 0 {
		a.Said = append(a.Said, s[:min(len(s), room)]...)
	}
}

func (a *asked) take(d *document, streamed bool) {
	for i := range d.Choices {
		a.choice(&d.Choices[i])
	}
	if !streamed && d.Object == "response" {
		a.response(d)
	}
	if d.Type == "response.output_item.done" && d.Item != nil {
		a.item(d.Item)
	}
}

func (a *asked) choice(c *choice) {
	for _, m := range []*message{&c.Delta, &c.Message} {
		for i := range m.ToolCalls {
			t := &m.ToolCalls[i]
			if m == &c.Message {
				a.add(Call{ID: t.ID, Name: t.Function.Name, Arguments: t.Function.Arguments})
				continue
			}
			a.piece(place{c.Index, t.Index}, t)
		}
		if c.Index == 0 && len(m.Content) > 1 && m.Content[0] == '"' && !a.heard() {
			if s, err := jsontext.AppendUnquote(nil, m.Content); err == nil {
				a.hear(string(s))
			}
		}
	}
	if c.Finish != "" {
		a.finish(c.Index)
	}
}

// piece adds to a call that is streamed. One that begins ends those before it.
func (a *asked) piece(at place, t *toolCall) {
	if a.open == nil {
		a.open = map[place]*open{}
	}
	c := a.open[at]
	if c == nil || t.ID != "" && c.ID != "" && t.ID != c.ID { // some servers number all alike
		if len(a.open) > maxCalls {
			return
		}
		a.finish(at.choice)
		c = &open{}
		a.open[at] = c
	}
	if t.ID != "" {
		c.ID = t.ID
	}
	c.Name += t.Function.Name
	if len(c.arguments) <= maxArguments {
		c.arguments = append(c.arguments, t.Function.Arguments...)
	}
}

// finish ends the calls of a choice.
func (a *asked) finish(choice int) {
	var ended []place
	for at := range a.open {
		if at.choice == choice {
			ended = append(ended, at)
		}
	}
	slices.SortFunc(ended, func(x, y place) int { return x.index - y.index })
	for _, at := range ended {
		c := a.open[at]
		c.Arguments = string(c.arguments)
		a.add(c.Call)
		delete(a.open, at)
	}
}

// End ends what was streamed without an end.
func (a *asked) End() {
	for len(a.open) > 0 {
		for at := range a.open {
			a.finish(at.choice)
			break
		}
	}
}

// response reads what the Responses API answers as a whole; what of it was
// streamed before counts once.
func (a *asked) response(d *document) {
	a.mark(d.ID)
	for i := range d.Output {
		a.item(&d.Output[i])
	}
}

func (a *asked) item(i *item) {
	a.mark(i.ID)
	if i.Type == "message" && len(a.Said) == 0 { // else it was streamed
		for _, c := range i.Content {
			a.hear(c.Text)
		}
	}
	if i.Type == "function_call" {
		a.add(Call{ID: i.CallID, Name: i.Name, Arguments: i.Arguments})
	}
}

func (a *asked) add(c Call) {
	if c.Name == "" || len(c.Arguments) > maxArguments || c.ID != "" && slices.Contains(a.done, c.ID) {
		return
	}
	if a.size++; a.size > maxCalls {
		return
	}
	if strings.TrimSpace(c.Arguments) == "" {
		c.Arguments = "{}"
	}
	a.done = append(a.done, c.ID)
	a.Calls = append(a.Calls, c)
	a.mark(c.ID)
}

func (a *asked) mark(id string) {
	if id != "" && len(a.IDs) < 2*maxCalls && !slices.Contains(a.IDs, id) {
		a.IDs = append(a.IDs, id)
	}
}
