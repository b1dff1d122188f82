package model

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"regexp"
	"slices"
	"strings"
)

// A script is what the model does in one role: an ordered list of steps, read
// afresh for every request. The first step that still wants a call made decides
// the answer; when none does, the script sums up.
type script struct {
	name string
	// role recognises the agent by its system prompt.
	role  *regexp.Regexp
	steps []step
	// sumUp is the last word, when nothing is left to do.
	sumUp func(view) string
}

// step is one line of a script: what the model says and which calls it wants.
// A call that was already made in this conversation is not made again, whatever
// came of it: the model does not argue with a refusal.
type step struct {
	name string
	say  string
	want func(view) []wish
}

// wish is a call the model would like to make.
type wish struct {
	tool string
	args obj
	// told marks a call that somebody else's text asked for: it is attempted even
	// when no such tool was offered, as hijacked models do.
	told bool
}

// scripts are tried in this order.
var scripts = []script{supportScript, invoiceScript, knowledgeScript, releaseScript, plainScript}

// next is what the model says to c.
func next(c *conversation) reply {
	v := view{c}
	for _, s := range scripts {
		if !s.role.MatchString(c.system) {
			continue
		}
		for _, st := range s.steps {
			if calls := v.outstanding(st.want(v)); len(calls) > 0 {
				return reply{text: st.say, calls: calls}
			}
		}
		return reply{text: s.sumUp(v)}
	}
	return reply{text: plainScript.sumUp(v)}
}

// view is how a script reads a conversation.
type view struct{ c *conversation }

// done is a call of the model with what came of it.
type done struct {
	call
	result
	answered bool
}

// all lists the calls made so far, oldest first.
func (v view) all() []done {
	var out []done
	for _, t := range v.c.turns {
		for _, k := range t.calls {
			out = append(out, done{call: k})
		}
		for _, r := range t.results {
			for i := len(out) - 1; i >= 0; i-- {
				if out[i].call.id == r.id {
					out[i].result, out[i].answered = r, true
					break
				}
			}
		}
	}
	return out
}

// of lists the calls made of one tool.
func (v view) of(tool string) []done {
	return slices.DeleteFunc(v.all(), func(d done) bool { return baseName(d.name) != tool })
}

// offered is the full name of a tool the client offered, or "".
func (v view) offered(tool string) string {
	for _, name := range v.c.tools {
		if name == tool || baseName(name) == tool {
			return name
		}
	}
	return ""
}

// outstanding turns wishes into calls, without those already made and without
// tools that were not offered.
func (v view) outstanding(wishes []wish) []call {
	made := v.all()
	var out []call
	for _, w := range wishes {
		name := v.offered(w.tool)
		if name == "" {
			name = v.offered(baseName(w.tool))
		}
		if name == "" && w.told {
			name = w.tool
		}
		args := jsontext.Value(marshal(w.args))
		repeated := slices.ContainsFunc(made, func(d done) bool {
			return baseName(d.name) == baseName(name) && equalJSON(d.args, args)
		})
		if name != "" && !repeated {
			out = append(out, call{name: name, args: args})
		}
	}
	return out
}

// equalJSON compares two JSON texts by value.
func equalJSON(a, b jsontext.Value) bool {
	a, b = a.Clone(), b.Clone()
	return a.Canonicalize() == nil && b.Canonicalize() == nil && string(a) == string(b)
}

// read decodes the last good answer of a tool into out.
func (v view) read(tool string, out any) bool {
	calls := v.of(tool)
	for i := len(calls) - 1; i >= 0; i-- {
		if calls[i].answered && calls[i].refusal() == "" && json.Unmarshal([]byte(calls[i].text), out) == nil {
			return true
		}
	}
	return false
}

var (
	refusedWords = regexp.MustCompile(`(?i)\b(refused|denied|deny|not allowed|not permitted|forbidden|policy|not authori[sz]ed|unknown tool|no such tool|not found)\b`)
	pendingWords = regexp.MustCompile(`(?is)\bpending\b.*\bapprov|\bapprov.*\b(pending|required|waiting)\b`)
)

// refusal is the reason why a call did not happen, or "". A held call counts:
// it has not happened yet. Only short texts are taken for a refusal, so that
// data which merely mentions such words is not.
func (d done) refusal() string {
	text := strings.TrimSpace(strings.TrimPrefix(d.text, "ERROR:"))
	switch {
	case !d.answered:
		return ""
	case d.failed:
		return text
	case len(text) < 2000 && pendingWords.MatchString(text):
		return text
	}
	return ""
}

// refusals sums up in prose what was refused or failed.
func (v view) refusals() string {
	var out []string
	for _, d := range v.all() {
		reason := d.refusal()
		if reason == "" {
			continue
		}
		verb := "failed"
		switch {
		case pendingWords.MatchString(reason):
			verb = "waits for approval"
		case refusedWords.MatchString(reason):
			verb = "was refused"
		}
		out = append(out, baseName(d.name)+" "+verb+": "+cut(reason, 300))
	}
	if len(out) == 0 {
		return ""
	}
	return " I could not do everything: " + strings.Join(out, "; ") + "."
}
