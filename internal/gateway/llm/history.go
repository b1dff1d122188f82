package llm

import (
	"bytes"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/llm/anthropic"
	"github.com/countersign/countersign/internal/gateway/llm/openai"
	"github.com/countersign/countersign/internal/runs"
)

// maxPast is how many messages of a history are looked at, the newest.
const maxPast = 64

// minSaid is the length below which what a model said may have been said
// anywhere.
const minSaid = 40

// past is what is read of a message, whichever the provider, to see what it
// continues.
type past struct {
	Role       string         `json:"role"`
	ID         string         `json:"id"`
	CallID     string         `json:"call_id"`
	ToolCallID string         `json:"tool_call_id"`
	Content    jsontext.Value `json:"content"`
	ToolCalls  []struct {
		ID string `json:"id"`
	} `json:"tool_calls"`
}

// part is a part of a message's content.
type part struct {
	Type      string         `json:"type"`
	Text      string         `json:"text"`
	ID        string         `json:"id"`
	ToolUseID string         `json:"tool_use_id"`
	Content   jsontext.Value `json:"content"`
}

// links returns by what a request can be seen to continue an earlier exchange,
// the newest first: identifiers that the provider made, and what was said.
func links(body []byte, q request) []runs.Link {
	var out []runs.Link
	add := func(kind, id string) {
		l := runs.Link{Kind: kind, Text: id}
		if len(out) < runs.MaxLinks && (kind == runs.LinkText || len(id) >= runs.MinID) && !slices.Contains(out, l) {
			out = append(out, l)
		}
	}
	for _, id := range q.continues {
		add(runs.LinkAnswer, id)
	}
	for _, s := range q.prompt {
		if s.name != "prompt" || len(s.parts) == 0 {
			continue
		}
		later := "" // what the model said, until it is seen to what
		for i := len(s.parts) - 1; i >= max(0, len(s.parts)-maxPast) && len(out) < runs.MaxLinks; i-- {
			m, ok := pastAt(body, s, i)
			if !ok {
				later = ""
				continue
			}
			said := m.words()
			if later != "" {
				add(runs.LinkText, pair(said, later))
				later = ""
			}
			if m.Role == "assistant" && len(said) >= minSaid {
				later = said
			}
			m.each(add)
		}
	}
	return out
}

// pastAt reads an element of a history.
func pastAt(body []byte, s span, i int) (m past, ok bool) {
	end := s.end
	if i+1 < len(s.parts) {
		end = s.parts[i+1]
	}
	v, err := jsontext.NewDecoder(bytes.NewReader(body[s.parts[i]:end])).ReadValue()
	return m, err == nil && json.Unmarshal(v, &m) == nil
}

// each calls add with every identifier in a message.
func (m past) each(add func(kind, id string)) {
	add(runs.LinkCall, m.CallID)
	add(runs.LinkCall, m.ToolCallID)
	add(runs.LinkAnswer, m.ID)
	for _, c := range m.ToolCalls {
		add(runs.LinkCall, c.ID)
	}
	for _, p := range m.parts() {
		switch p.Type {
		case "tool_use":
			add(runs.LinkCall, p.ID)
		case "tool_result":
			add(runs.LinkCall, p.ToolUseID)
		}
	}
}

func (m past) parts() (parts []part) {
	if v := bytes.TrimSpace(m.Content); jsontext.Value(v).Kind() == '[' {
		_ = json.Unmarshal(v, &parts) // what has another form says nothing
	}
	return parts
}

// words are the beginning of what a message says, in texts.
func (m past) words() string {
	var b strings.Builder
	if v := jsontext.Value(bytes.TrimSpace(m.Content)); v.Kind() == '"' {
		var s string
		if json.Unmarshal(v, &s) == nil {
			b.WriteString(s)
		}
	}
	for _, p := range m.parts() {
		if p.Type == "text" || p.Type == "output_text" || p.Type == "input_text" {
			b.WriteString(p.Text)
		}
	}
	return begun(b.String())
}

func begun(s string) string {
	return strings.TrimSpace(s[:min(len(s), openai.MaxSaid)])
}

// pair is what tells an answer from others: to what it was said, and what.
func pair(before, said string) string { return before + "\x00" + said }

// lastSaid is the text of a request's last message.
func lastSaid(body []byte, prompt []span) string {
	for i := len(prompt) - 1; i >= 0; i-- {
		s := prompt[i]
		if s.name != "prompt" {
			continue
		}
		if len(s.parts) == 0 {
			var text string
			if json.Unmarshal(body[s.start:s.end], &text) != nil {
				return ""
			}
			return begun(text)
		}
		m, _ := pastAt(body, s, len(s.parts)-1)
		return m.words()
	}
	return ""
}

// Proposed implements gateway.Proposer.
func (o *observer) Proposed(end bool) gateway.Proposed {
	var p gateway.Proposed
	if o.status != 200 || !o.plain {
		return p
	}
	if end && !o.stream && o.size > 0 {
		o.parse()
	}
	var ids []string
	var said []byte
	switch a := o.reader.(type) {
	case *openai.Answer:
		if end {
			a.End()
		}
		for _, c := range a.Calls {
			p.Calls = append(p.Calls, runs.Proposal{Tool: c.Name, Args: jsontext.Value(c.Arguments)})
		}
		a.Calls, ids, said = nil, a.IDs, a.Said
	case *anthropic.Answer:
		if end {
			a.End()
		}
		for _, c := range a.Calls {
			p.Calls = append(p.Calls, runs.Proposal{Tool: c.Name, Args: jsontext.Value(c.Arguments)})
		}
		a.Calls, ids, said = nil, a.IDs, a.Said
	}
	if len(p.Calls) == 0 && !end {
		return p
	}
	for _, id := range ids[o.linked:] {
		if len(id) >= runs.MinID {
			p.Links = append(p.Links, runs.Link{Kind: runs.LinkCall, Text: id}, runs.Link{Kind: runs.LinkAnswer, Text: id})
		}
	}
	o.linked = len(ids)
	if text := begun(string(said)); end && !o.voiced && len(text) >= minSaid {
		o.voiced = true
		p.Links = append(p.Links, runs.Link{Kind: runs.LinkText, Text: pair(o.before, text)})
	}
	return p
}
