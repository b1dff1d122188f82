package account

import (
	"cmp"
	"strings"
)

func (e *event) by() string { return cmp.Or(e.Actor.Name, e.Agent, e.Actor.Kind) }

// line says an event in a line.
func (e *event) line() string {
	var s strings.Builder
	s.WriteString(e.Type)
	add := func(before, text string) {
		if text != "" {
			s.WriteString(before + text)
		}
	}
	add(" ", e.tool())
	add(" ", strings.Join(e.Objects, ", "))
	if e.Outcome != nil {
		add(": ", e.Outcome.Status)
		add(" (", brief(e.Outcome.Error))
		if e.Outcome.Error != "" {
			s.WriteString(")")
		}
	}
	if e.Decision != nil && e.Type != "call.intent" {
		add(": ", brief(e.Decision.Reason))
	}
	if e.Tool == "" {
		add(" ", e.Object)
	}
	add(", because: ", brief(e.Reason))
	return s.String()
}

// brief cuts a text to what fits into a line.
func brief(s string) string {
	const most = 200
	s = strings.Join(strings.Fields(s), " ")
	if runes := []rune(s); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return s
}
