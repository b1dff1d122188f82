package flow

import (
	"encoding/json/jsontext"
	"regexp"
	"slices"
	"strings"
)

// structural are members that say how content is put together, not what it says.
var structural = []string{"type", "mimeType", "uri", "role"}

// simple is a value or a name that is no sentence.
var simple = regexp.MustCompile(`^[A-Za-z0-9._:@/+=#-]{1,64}$`)

// Refer returns the result of a tool (MCP) in which ref stands for every text that
// may be anybody's: all but what is declared as written by the service, numbers, and
// ids. A text that is a JSON document is looked into. Pictures, sound and files
// that are no text do not pass. An error is ref's.
func (s Spec) Refer(result []byte, ref func(text string) (string, error)) ([]byte, error) {
	r := referrer{spec: s, ref: ref, mcp: true}
	v, ok := fromJSON(result)
	if !ok || v.kind != '{' { // nothing that a client could read
		v = value{kind: '{', members: []member{{"content", value{kind: '[', list: []value{{kind: '{', members: []member{
			{"type", value{kind: 's', scalar: "text"}}, {"text", value{kind: 's', scalar: string(result)}}}}}}}}}
	}
	v.members = slices.DeleteFunc(v.members, func(m member) bool { return !simple.MatchString(m.name) })
	out := r.value(v, "", 0)
	return out.append(nil), r.err
}

// ReferDocument returns a JSON document of an API in which ref stands for the same
// texts; false if it is no JSON.
func (s Spec) ReferDocument(b []byte, ref func(text string) (string, error)) ([]byte, bool, error) {
	if !jsontext.Value(b).IsValid(jsontext.AllowDuplicateNames(true)) {
		return nil, false, nil
	}
	v, ok := fromJSON(b)
	if !ok {
		return nil, false, nil
	}
	r := referrer{spec: s, ref: ref}
	out := r.value(v, "", 0)
	return out.append(nil), true, r.err
}

// Plain reports whether a text is a single word, which is handed on where untrusted
// text is not.
func Plain(s string) bool { return simple.MatchString(s) }

type referrer struct {
	spec Spec
	ref  func(text string) (string, error)
	mcp  bool // content of the protocol says what it is
	err  error
}

func (r *referrer) value(v value, key string, depth int) value {
	switch v.kind {
	case '{':
		return r.object(v, depth)
	case '[':
		list := make([]value, len(v.list))
		for i, x := range v.list {
			list[i] = r.value(x, key, depth+1)
		}
		return value{kind: '[', list: list}
	case 's':
		return value{kind: 's', scalar: r.text(key, v.scalar)}
	}
	return v
}

func (r *referrer) object(v value, depth int) value {
	for _, m := range v.members {
		if !simple.MatchString(m.name) { // names may say something, too
			return value{kind: 's', scalar: r.refer(string(v.append(nil)))}
		}
	}
	out := value{kind: '{'}
	for _, m := range v.members {
		switch {
		case r.mcp && m.name == "type" && (m.value.scalar == "image" || m.value.scalar == "audio"):
			return value{kind: '{', members: []member{{"type", value{kind: 's', scalar: "text"}}, {"text", value{kind: 's', scalar: "(not handed on: " + m.value.scalar + ")"}}}}
		case r.mcp && m.name == "blob":
			out.members = append(out.members, member{"text", value{kind: 's', scalar: "(not handed on: a file that is no text)"}})
		default:
			out.members = append(out.members, member{m.name, r.value(m.value, m.name, depth+1)})
		}
	}
	return out
}

// text returns what is handed on of a text: itself, or what stands for it.
func (r *referrer) text(key, s string) string {
	if s == "" {
		return s
	}
	if t := strings.TrimSpace(s); len(t) <= maxDecode && (t[:min(1, len(t))] == "{" || t[:min(1, len(t))] == "[") {
		if inner, ok := fromJSON([]byte(t)); ok {
			return string(r.value(inner, key, 0).append(nil))
		}
	}
	short := len(s) <= maxLeaf && !strings.ContainsAny(s, "\n\r")
	switch kind := r.spec.Fields[key]; {
	case short && (kind == FieldID || kind == FieldService || kind == FieldAmount):
		return s
	case kind == "" && simple.MatchString(s) && (idKey.MatchString(key) || slices.Contains(structural, key)):
		return s
	}
	return r.refer(s)
}

func (r *referrer) refer(s string) string {
	out, err := r.ref(s)
	if err != nil {
		r.err = err
		return ""
	}
	return out
}

// append writes a value as JSON.
func (v value) append(b []byte) []byte {
	quoted := func(b []byte, s string) []byte {
		out, err := jsontext.AppendQuote(b, s)
		if err != nil { // invalid UTF-8
			out, _ = jsontext.AppendQuote(b, strings.ToValidUTF8(s, "\uFFFD")) // cannot fail
		}
		return out
	}
	switch v.kind {
	case '{':
		b = append(b, '{')
		for i, m := range v.members {
			if i > 0 {
				b = append(b, ',')
			}
			b = v.members[i].value.append(append(quoted(b, m.name), ':'))
		}
		return append(b, '}')
	case '[':
		b = append(b, '[')
		for i, x := range v.list {
			if i > 0 {
				b = append(b, ',')
			}
			b = x.append(b)
		}
		return append(b, ']')
	case 's':
		return quoted(b, v.scalar)
	}
	if v.scalar == "" {
		return append(b, "null"...)
	}
	return append(b, v.scalar...)
}
