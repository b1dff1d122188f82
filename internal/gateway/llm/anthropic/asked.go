package anthropic

import (
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

// asked gathers what an answer asks its client to do. What the provider runs
// itself (server_tool_use, mcp_tool_use) is not asked of the client.
type asked struct {
	Calls []Call   // complete ones, since they were last taken
	IDs   []string // identifiers of its calls
	Said  []byte   // the beginning of what was said

	open map[int]*open
	size int
}

// open is a call of which more may come.
type open struct {
	Call
	arguments []byte
}

// heard reports whether enough was said.
func (a *asked) heard() bool { return len(a.Said) >= MaxSaid }

func (a *asked) hear(s string) {
	if room := MaxSaid - len(a.Said); room > 0 {
		a.Said = append(a.Said, s[:min(len(s), room)]...)
	}
}

func (a *asked) take(d *document) {
	for _, b := range d.Content {
		if b.Type == "tool_use" {
			a.add(Call{b.ID, b.Name, string(b.Input)})
		}
		if b.Type == "text" {
			a.hear(b.Text)
		}
	}
	switch {
	case d.Type == "content_block_start" && d.ContentBlock != nil && d.ContentBlock.Type == "tool_use":
		if a.open == nil {
			a.open = map[int]*open{}
		}
		if len(a.open) < maxCalls {
			a.open[d.Index] = &open{Call: Call{ID: d.ContentBlock.ID, Name: d.ContentBlock.Name}}
		}
	case d.Type == "content_block_delta" && d.Delta != nil:
		if c := a.open[d.Index]; c != nil && len(c.arguments) <= maxArguments {
			c.arguments = append(c.arguments, d.Delta.PartialJSON...)
		}
		a.hear(d.Delta.Text)
	case d.Type == "content_block_stop" && a.open[d.Index] != nil:
		a.close(d.Index)
	}
}

// End ends what was streamed without an end: it is asked for, all the same, by a
// client that is satisfied with it.
func (a *asked) End() {
	for at := range a.open {
		a.close(at)
	}
}

func (a *asked) close(at int) {
	c := a.open[at]
	c.Arguments = string(c.arguments)
	a.add(c.Call)
	delete(a.open, at)
}

func (a *asked) add(c Call) {
	if c.Name == "" || len(c.Arguments) > maxArguments {
		return
	}
	if a.size++; a.size > maxCalls {
		return
	}
	if strings.TrimSpace(c.Arguments) == "" {
		c.Arguments = "{}"
	}
	a.Calls = append(a.Calls, c)
	if c.ID != "" && !slices.Contains(a.IDs, c.ID) {
		a.IDs = append(a.IDs, c.ID)
	}
}
