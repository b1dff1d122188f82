package console

import (
	"fmt"
	"html/template"
	"strings"

	"github.com/countersign/countersign/client"
)

// shareWords says shares in words, the worst result first.
func shareWords(shares map[string]int) string {
	var parts []string
	for _, r := range postureResults {
		if shares[r] > 0 {
			parts = append(parts, fmt.Sprintf("%d %% %s", shares[r], resultWord(r)))
		}
	}
	return strings.Join(parts, ", ")
}

// resultWord is how a result is written for people.
func resultWord(r string) string {
	if w := words[strings.ToLower(r)]; w != "" {
		return w
	}
	return r
}

// heights say a result by its height too, never by its colour alone: of 16.
var heights = map[string]int{"FAIL": 16, "PASS": 9, "NOT_APPLICABLE": 5, "NO_DATA": 3, "MANUAL": 3}

// stripWidth is the period, in units of the drawing.
const stripWidth = 1000

// strip draws how a predicate went, from the left to now.
func strip(t client.PostureTrend) template.HTML {
	if len(t.Segments) == 0 {
		return ""
	}
	from := t.Segments[0].From
	whole := t.Segments[len(t.Segments)-1].To.Sub(from)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg class="strip" viewBox="0 0 %d 16" preserveAspectRatio="none" role="img" aria-label="%s over the period: %s">`, stripWidth, template.HTMLEscapeString(t.Predicate), template.HTMLEscapeString(shareWords(t.Shares)))
	for _, x := range t.Segments {
		h, ok := heights[x.Result]
		if !ok {
			continue
		}
		at := int(stripWidth * x.From.Sub(from) / whole)
		wide := max(4, int(stripWidth*x.To.Sub(from)/whole)-at) // what was short is seen all the same
		fmt.Fprintf(&b, `<rect class="%s" x="%d" y="%d" width="%d" height="%d"/>`, x.Result, min(at, stripWidth-wide), 16-h, wide, h)
	}
	return template.HTML(b.String() + `</svg>`) //nolint:gosec // numbers, and results that heights knows
}

// shareBar draws shares, and says them.
func shareBar(shares map[string]int) template.HTML {
	if len(shares) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString(`<svg class="shares" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">`)
	at := 0
	for _, r := range []string{"PASS", "NOT_APPLICABLE", "NO_DATA", "FAIL"} {
		if n := shares[r]; n > 0 {
			fmt.Fprintf(&b, `<rect class="%s" x="%d" y="0" width="%d" height="8"/>`, r, at, n)
			at += n
		}
	}
	return template.HTML(b.String() + `</svg><small>` + template.HTMLEscapeString(shareWords(shares)) + `</small>`) //nolint:gosec // numbers and results
}

// objectPath is the page about an object that an event, a finding or a result
// names; the log's events about it where there is no page.
func objectPath(object string) template.URL {
	kind, name, _ := strings.Cut(object, "/")
	switch kind {
	case "agent", "connection", "policy", "run", "event", "lock", "budget", "approval", "finding", "user":
		if name != "" && !strings.Contains(name, "/") && !strings.Contains(name, " ") {
			return pathOf(map[string]string{"agent": "/agents", "connection": "/connections", "policy": "/policies", "run": "/runs", "event": "/events", "lock": "/locks",
				"budget": "/budgets", "approval": "/approvals", "finding": "/findings", "user": "/people"}[kind], name)
		}
	case "tool":
		if connection, tool, ok := strings.Cut(name, "/"); ok {
			return pathOf(string(pathOf("/connections", connection, "tools")), tool)
		}
	case "grant":
		return queryOf("/grants", "q", name)
	case "posture":
		return pathOf("/posture/predicates", name)
	case "inventory":
		return pathOf("/inventory", name)
	case "caller", "model", "network", "host":
		return queryOf("/inventory", "q", name)
	case "call":
		return queryOf("/events", "q", "call:"+name)
	}
	return eventsAbout(object)
}

// eventsAbout are the log's events about an object.
func eventsAbout(object string) template.URL {
	return queryOf("/events", "q", "object:"+quoted(object))
}
