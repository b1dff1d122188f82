package account

import (
	"cmp"
	"encoding/json/v2"
	"fmt"
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
	if e.Type == "detection.contained" {
		add("", e.contained())
	}
	return s.String()
}

// contained says how fast what was detected was cut. A detail of another form says
// nothing.
func (e *event) contained() string {
	var d struct {
		Micros int64 `json:"micros"`
		Passed int64 `json:"passed"`
		Cut    int64 `json:"cut"`
	}
	if json.Unmarshal(e.Detail, &d) != nil {
		return ""
	}
	return fmt.Sprintf(": %d ms after the event that decided; %d calls passed until then, %d in flight were cut", (d.Micros+500)/1000, d.Passed, d.Cut)
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
