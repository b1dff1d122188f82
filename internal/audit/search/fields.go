package search

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/audit"
)

// field is something that a query can name.
type field struct {
	name, column string
	multi        bool // several values; the column holds them between line feeds
	of           func(ev *audit.Event) []string
}

func one(f func(ev *audit.Event) string) func(*audit.Event) []string {
	return func(ev *audit.Event) []string { return []string{f(ev)} }
}

// fields are the searchable ones, in the order of their columns.
var fields = []field{
	{"type", "type", false, one(func(ev *audit.Event) string { return string(ev.Type) })},
	{"decision", "decision", false, one(func(ev *audit.Event) string {
		if ev.Decision == nil {
			return ""
		}
		return ev.Decision.Effect
	})},
	{"status", "status", false, one(func(ev *audit.Event) string {
		if ev.Outcome == nil {
			return ""
		}
		return ev.Outcome.Status
	})},
	{"agent", "agent", false, one(func(ev *audit.Event) string { return ev.Agent })},
	{"owner", "owner", false, one(func(ev *audit.Event) string { return ev.Owner })},
	{"team", "team", false, one(func(ev *audit.Event) string { return ev.Team })},
	{"stage", "stage", false, one(func(ev *audit.Event) string { return ev.Stage })},
	{"connection", "connection", false, one(func(ev *audit.Event) string { return ev.Connection })},
	{"tool", "tool", false, one(func(ev *audit.Event) string {
		if ev.Tool == "" {
			return ""
		}
		return ev.Connection + "/" + ev.Tool
	})},
	{"effect", "effect", false, one(func(ev *audit.Event) string { return ev.Effect })},
	{"run", "run", false, one(func(ev *audit.Event) string { return ev.Run })},
	{"call", "call", false, one(func(ev *audit.Event) string { return ev.Call })},
	{"actor", "actor", false, one(func(ev *audit.Event) string { return ev.Actor.Name })},
	{"object", "object", false, one(func(ev *audit.Event) string { return ev.Object })},
	{"credential", "credential", false, one(func(ev *audit.Event) string { return ev.Credential })},
	{"remote", "remote", false, one(func(ev *audit.Event) string { return ev.Remote })},
	{"model", "model", false, one(func(ev *audit.Event) string {
		if ev.Outcome == nil || ev.Outcome.Usage == nil {
			return ""
		}
		return ev.Outcome.Usage.Model
	})},
	{"policy", "policy", true, func(ev *audit.Event) []string {
		if ev.Decision == nil {
			return nil
		}
		return ev.Decision.Policies
	}},
	{"grant", "grant_name", true, func(ev *audit.Event) []string {
		if ev.Decision == nil {
			return nil
		}
		return ev.Decision.Grants
	}},
	{"label", "label", true, func(ev *audit.Event) []string { return ev.Labels }},
	{"touches", "objects", true, func(ev *audit.Event) []string { return ev.Objects }},
}

// worded are the fields whose values are among the words of an event (see
// eventText) and that have no index of their own.
var worded = map[string]bool{"owner": true, "team": true, "connection": true, "tool": true, "call": true, "actor": true, "object": true, "model": true,
	"policy": true, "grant": true, "label": true, "touches": true}

// words returns the words of each value of a filter, if an event that it
// selects must have those of one of them in a row; else nil.
func (f filter) words() [][]string {
	if f.not || !worded[f.field.name] {
		return nil
	}
	var all [][]string
	for _, v := range f.values {
		if f.field.name == "tool" {
			v = strings.TrimSuffix(v, "/*") // all tools of a connection
		}
		w := words(v)
		if strings.Contains(v, "*") || len(w) == 0 {
			return nil
		}
		all = append(all, w)
	}
	return all
}

func fieldNamed(name string) *field {
	i := slices.IndexFunc(fields, func(f field) bool { return f.name == name })
	if i < 0 {
		return nil
	}
	return &fields[i]
}

// value returns what the field's column holds for ev.
func (f *field) value(ev *audit.Event) string {
	vs := f.of(ev)
	if !f.multi {
		return vs[0]
	}
	if len(vs) == 0 {
		return ""
	}
	return "\n" + strings.Join(vs, "\n") + "\n"
}

// Limits of what is indexed of one event.
const (
	maxText = 64 << 10 // bytes of words, of the event and of its payloads each
	maxWord = 64       // bytes of one word
)

// eventText returns the words of an event, in order, lower case, between single
// spaces: what free text is looked up in, on every engine.
func eventText(r *audit.Record) string {
	var w wordWriter
	ev := &r.Event
	for _, s := range []string{ev.ID, string(ev.Type), ev.Actor.Name, ev.Agent, ev.Owner, ev.Team, ev.Run, ev.Call, ev.Connection, ev.Tool, ev.Object, ev.Reason, ev.Client} {
		w.add(s)
	}
	for _, a := range ev.OnBehalfOf {
		w.add(a.Name)
	}
	for _, f := range fields[len(fields)-5:] { // model, policy, grant, label, touches
		w.add(f.value(ev))
	}
	if ev.Decision != nil {
		w.add(ev.Decision.Reason)
		w.add(ev.Decision.Code)
	}
	if ev.Outcome != nil {
		w.add(ev.Outcome.Error)
	}
	w.add(string(ev.Detail))
	return w.String()
}

// payloadText returns the words of an event's payloads as far as they are
// loaded, in the same form.
func payloadText(r *audit.Record) string {
	var w wordWriter
	for _, c := range r.Event.Payloads { // the record's order, not the map's
		w.add(string(r.Payloads[c.Name]))
	}
	return w.String()
}

// words splits a query's free text as text splits events.
func words(s string) []string {
	var w wordWriter
	w.add(s)
	return strings.Fields(w.String())
}

// wordWriter splits text into words of letters and digits. Backslash escapes
// count as the characters they stand for: payloads are mostly JSON.
type wordWriter struct {
	strings.Builder
	word []byte
}

func (w *wordWriter) add(s string) {
	for i := 0; i < len(s) && w.Len() < maxText; {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == '\\' {
			r, n = unescape(s[i:])
		}
		i += n
		if unicode.IsLetter(r) || unicode.IsNumber(r) {
			w.word = utf8.AppendRune(w.word, unicode.ToLower(r))
		} else {
			w.flush()
		}
	}
	w.flush()
}

func (w *wordWriter) flush() {
	if len(w.word) == 0 {
		return
	}
	if w.Len() > 0 {
		w.WriteByte(' ')
	}
	word := w.word
	if len(word) > maxWord {
		for word = word[:maxWord]; !utf8.Valid(word); {
			word = word[:len(word)-1]
		}
	}
	w.Write(word)
	w.word = w.word[:0]
}

// unescape reads the escape at the beginning of s.
func unescape(s string) (rune, int) {
	if len(s) < 2 {
		return ' ', 1
	}
	switch s[1] {
	case 'n', 't', 'r', 'b', 'f', '"', '\\', '/':
		return ' ', 2
	case 'u':
		if len(s) < 6 {
			return ' ', 2
		}
		var r rune
		for _, c := range []byte(s[2:6]) {
			switch {
			case '0' <= c && c <= '9':
				r = r<<4 | rune(c-'0')
			case 'a' <= c|0x20 && c|0x20 <= 'f':
				r = r<<4 | rune(c|0x20-'a'+10)
			default:
				return ' ', 2
			}
		}
		return r, 6
	}
	return ' ', 1
}
