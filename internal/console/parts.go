package console

import (
	"encoding/json/jsontext"
	"html/template"
	"slices"
	"strings"
)

// entry is one of the navigation.
type entry struct {
	Section, Title, Path, Icon string
	Current                    bool
	Count                      int
}

// sections are the navigation, in order.
var sections = []entry{
	{Section: "now", Title: "Now", Path: "/", Icon: "pulse"},
	{Section: "approvals", Title: "Approvals", Path: "/approvals", Icon: "check"},
	{Section: "agents", Title: "Agents", Path: "/agents", Icon: "agent"},
	{Section: "runs", Title: "Runs", Path: "/runs", Icon: "run"},
	{Section: "log", Title: "Log", Path: "/events", Icon: "log"},
	{Section: "findings", Title: "Findings", Path: "/findings", Icon: "warn"},
	{Section: "reviews", Title: "Reviews", Path: "/reviews", Icon: "eye"},
	{Section: "posture", Title: "Posture", Path: "/posture", Icon: "seal"},
	{Section: "connections", Title: "Connections", Path: "/connections", Icon: "plug"},
	{Section: "policies", Title: "Policies", Path: "/policies", Icon: "policy"},
	{Section: "budgets", Title: "Budgets", Path: "/budgets", Icon: "gauge"},
	{Section: "locks", Title: "Locks", Path: "/locks", Icon: "lock"},
	{Section: "people", Title: "Users and groups", Path: "/people", Icon: "people"},
	{Section: "settings", Title: "Settings", Path: "/settings", Icon: "gear"},
}

// beside are the pages of one section that stand next to each other.
var beside = map[string][]entry{
	"agents":   {{Title: "Agents", Path: "/agents"}, {Title: "Releases", Path: "/releases"}},
	"runs":     {{Title: "Runs", Path: "/runs"}, {Title: "Undone", Path: "/undos"}},
	"posture":  {{Title: "Posture", Path: "/posture"}, {Title: "Inventory", Path: "/inventory"}},
	"findings": {{Title: "Findings", Path: "/findings"}, {Title: "Detection", Path: "/detection"}, {Title: "Incidents", Path: "/incidents"}, {Title: "Mutes", Path: "/mutes"}},
}

// Beside are the pages next to the present one, if it is one of them.
func (v *visit) Beside() []entry {
	out := slices.Clone(beside[v.Section])
	at := slices.IndexFunc(out, func(e entry) bool { return e.Path == v.Request.URL.Path })
	if at < 0 || v.Me.Name == "" {
		return nil
	}
	out[at].Current = true
	return out
}

func (v *visit) nav() []entry {
	if v.Me.Name == "" {
		return nil
	}
	out := make([]entry, len(sections))
	for i, e := range sections {
		e.Current = e.Section == v.Section
		if e.Section == "approvals" {
			e.Count = v.Waiting
		}
		out[i] = e
	}
	return out
}

// icons are paths on a 24 by 24 grid, drawn with a round pen.
var icons = map[string]string{
	"pulse":    "M3 12h4l3-8 4 16 3-8h4",
	"check":    "M9 12l2 2 4-5M12 3l8 3v6c0 5-3.5 7.7-8 9-4.500-1.300-8-4-8-9V6z",
	"agent":    "M6 9h12v10H6zM12 5v4M9 14h.01M15 14h.01M3 13v3M21 13v3M12 4h.01",
	"run":      "M6 4v16M6 8h6a3 3 0 0 1 3 3v0M6 16h12M15 11h4",
	"log":      "M6 3h9l4 4v14H6zM14 3v5h5M9 12h7M9 16h7",
	"plug":     "M9 3v5M15 3v5M7 8h10v4a5 5 0 0 1-10 0zM12 17v4",
	"policy":   "M12 3l8 3v6c0 5-3.500 7.700-8 9-4.500-1.300-8-4-8-9V6z",
	"gauge":    "M4 18a8.500 8.500 0 1 1 16 0M12 14l4-5M12 14h.01",
	"lock":     "M6 11h12v9H6zM8.500 11V8a3.500 3.500 0 0 1 7 0v3",
	"people":   "M9 11a3.500 3.500 0 1 0 0-7 3.500 3.500 0 0 0 0 7zM2.500 20c0-3.500 3-5.500 6.500-5.500s6.500 2 6.500 5.500M16 4.500a3.500 3.500 0 0 1 0 6.500M18 14.800c2.200.700 3.500 2.500 3.500 5.200",
	"gear":     "M12 15.500a3.500 3.500 0 1 0 0-7 3.500 3.500 0 0 0 0 7zM12 2.500v3M12 18.500v3M2.500 12h3M18.500 12h3M5.300 5.300l2.100 2.100M16.600 16.600l2.100 2.100M5.300 18.700l2.100-2.100M16.600 7.400l2.100-2.100",
	"person":   "M12 11.500a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM4.500 20.500c0-4 3.500-6 7.500-6s7.500 2 7.500 6",
	"ok":       "M5 12.500l4.500 4.500L19 7",
	"no":       "M6 6l12 12M18 6L6 18",
	"wait":     "M12 7v5l3 2M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18z",
	"warn":     "M12 9v4M12 17h.01M12 3.500l9.500 16.500h-19z",
	"stop":     "M8 3h8l5 5v8l-5 5H8l-5-5V8zM9 9l6 6M15 9l-6 6",
	"play":     "M8 5l11 7-11 7z",
	"search":   "M11 18a7 7 0 1 0 0-14 7 7 0 0 0 0 14zM16.500 16.500L21 21",
	"down":     "M12 4v11M7 11l5 5 5-5M5 20h14",
	"up":       "M7 14l5-5 5 5",
	"seal":     "M12 15a6 6 0 1 0 0-12 6 6 0 0 0 0 12zM9 14l-1.500 7L12 18.500 16.500 21 15 14",
	"keyboard": "M3 6h18v12H3zM7 10h.01M11 10h.01M15 10h.01M8 14h8",
	"eye":      "M2.500 12S6 5.500 12 5.500 21.500 12 21.500 12 18 18.500 12 18.500 2.500 12 2.500 12zM12 14.500a2.500 2.500 0 1 0 0-5 2.500 2.500 0 0 0 0 5z",
	"key":      "M14.500 9.500a4.500 4.500 0 1 0-4.300 4.500L12 16h2v2h2v2h4v-3.500l-5.900-5.900M7.500 9h.01",
	"flag":     "M5 21V4h12l-2 4 2 4H5",
	"back":     "M9 14L4 9l5-5M4 9h10a6 6 0 0 1 0 12h-3",
	"menu":     "M4 7h16M4 12h16M4 17h16",
}

// icon draws one of icons. It says nothing to a screen reader: a word stands beside it.
func icon(name string) template.HTML {
	return template.HTML(`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false"><path d="` + icons[name] + `"/></svg>`) //nolint:gosec // ours
}

// badges are the looks of states: a colour, an icon and the word itself.
var badges = map[string][2]string{
	"allow": {"good", "ok"}, "succeeded": {"good", "ok"}, "active": {"good", "ok"}, "approved": {"good", "ok"}, "executed": {"good", "ok"}, "approve": {"good", "ok"},
	"pinned": {"good", "ok"}, "closed": {"quiet", "ok"}, "allowed": {"good", "ok"}, "done": {"good", "ok"}, "permit": {"good", "ok"}, "grant": {"good", "ok"}, "in force": {"bad", "stop"},
	"deny": {"bad", "no"}, "denied": {"bad", "no"}, "refused": {"bad", "no"}, "failed": {"bad", "no"}, "broken": {"bad", "no"}, "revoked": {"bad", "no"}, "critical": {"bad", "warn"},
	"high": {"bad", "warn"}, "locked": {"bad", "stop"}, "suspended": {"bad", "stop"}, "no_owner": {"bad", "warn"}, "drifted": {"bad", "warn"}, "injection": {"bad", "warn"}, "forbid": {"bad", "no"},
	"hold": {"wait", "wait"}, "held": {"wait", "wait"}, "pending": {"wait", "wait"}, "executing": {"wait", "wait"}, "rotating": {"wait", "wait"}, "new": {"wait", "wait"}, "medium": {"wait", "warn"},
	"untrusted": {"wait", "warn"}, "secret": {"wait", "warn"}, "pii": {"wait", "warn"}, "confidential": {"wait", "warn"}, "irreversible": {"bad", "warn"}, "write": {"wait", "flag"}, "approval": {"wait", "wait"},
	"read": {"quiet", "eye"}, "unknown": {"wait", "warn"}, "cancelled": {"quiet", "no"}, "expired": {"quiet", "wait"}, "void": {"quiet", "no"}, "ended": {"quiet", "ok"},
	"production": {"accent", "flag"}, "staging": {"quiet", "flag"}, "development": {"quiet", "flag"}, "disabled": {"bad", "no"}, "low": {"quiet", "warn"}, "info": {"quiet", "eye"},
	"pass": {"good", "ok"}, "fail": {"bad", "no"}, "no_data": {"wait", "eye"}, "not_applicable": {"quiet", "ok"}, "manual": {"quiet", "person"}, "running": {"wait", "wait"}, "keep": {"good", "ok"}, "revoke": {"bad", "no"}, "gone": {"quiet", "no"}, "decided": {"good", "ok"}, "attention": {"bad", "warn"}, "muted": {"quiet", "no"}, "open": {"wait", "warn"}, "planned": {"quiet", "wait"}, "making": {"wait", "wait"}, "cannot": {"quiet", "no"},
	"observe": {"quiet", "eye"}, "enforce": {"accent", "stop"}, "off": {"quiet", "no"}, "told": {"quiet", "ok"}, "observed": {"quiet", "eye"}, "lifted": {"quiet", "ok"}, "unregistered": {"wait", "warn"}, "unobserved": {"quiet", "eye"}, "in use": {"good", "ok"}, "promoted": {"good", "ok"}, "rolled_back": {"wait", "back"}, "canary": {"wait", "wait"},
}

// words are what is said instead of a state's name.
var words = map[string]string{"no_owner": "no owner", "allow": "allowed", "deny": "denied", "hold": "held", "irreversible": "cannot be undone",
	"pass": "passes", "fail": "fails", "no_data": "no data", "not_applicable": "does not apply", "manual": "attested by hand", "cannot": "cannot be undone", "rolled_back": "rolled back", "making": "being made", "attention": "needs a person"}

// badge shows a state: never by its colour alone.
func badge(state any) template.HTML {
	s, _ := text(state).(template.HTML)
	name := strings.ToLower(string(s))
	look, known := badges[name]
	if name == "" {
		return ""
	}
	if !known {
		look = [2]string{"quiet", ""}
	}
	if w := words[name]; w != "" {
		s = template.HTML(w) //nolint:gosec // ours
	}
	mark := template.HTML("")
	if look[1] != "" {
		mark = icon(look[1])
	}
	return `<span class="badge ` + template.HTML(look[0]) + `">` + mark + s + `</span>` //nolint:gosec // text made it inert
}

// indented shows JSON so that it can be read; what is none is shown as it is.
func indented(v any) template.HTML {
	var b []byte
	switch v := v.(type) {
	case jsontext.Value:
		b = v.Clone()
	case string:
		b = []byte(v)
	}
	j := jsontext.Value(b)
	if j.Indent(jsontext.WithIndent("  ")) == nil {
		b = j
	}
	return lines(string(b))
}
