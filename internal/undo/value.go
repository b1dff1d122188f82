package undo

import (
	"bytes"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/countersign/countersign/internal/connections"
)

// redacted is how what was replaced in a payload begins.
const redacted = "[redacted:"

// at returns the value that a pointer names in a JSON value.
func at(v jsontext.Value, pointer string) (jsontext.Value, bool) {
	for token := range jsontext.Pointer(pointer).Tokens() {
		switch v.Kind() {
		case '{':
			var object map[string]jsontext.Value
			if json.Unmarshal(v, &object) != nil {
				return nil, false
			}
			next, ok := object[token]
			if !ok {
				return nil, false
			}
			v = next
		case '[':
			var list []jsontext.Value
			n, err := strconv.Atoi(token)
			if err != nil || json.Unmarshal(v, &list) != nil || n < 0 || n >= len(list) || strconv.Itoa(n) != token {
				return nil, false
			}
			v = list[n]
		default:
			return nil, false
		}
	}
	return v, true
}

// contents are what a call's compensation may be made of; nil where it is not
// there, and why.
type contents struct {
	call, result     jsontext.Value
	noCall, noResult string
}

// value finds what a source names.
func (c contents) value(source string) (jsontext.Value, string) {
	from, rest, ok := connections.Source(source)
	if !ok {
		return nil, "the declaration names no source: " + source
	}
	v, missing := c.call, c.noCall
	switch from {
	case "=":
		return jsontext.Value(rest), ""
	case "result":
		v, missing = c.result, c.noResult
	}
	if missing != "" {
		return nil, missing
	}
	found, ok := at(v, rest)
	switch {
	case !ok:
		return nil, fmt.Sprintf("its %s holds nothing at %s", map[string]string{"call": "arguments", "result": "result"}[from], rest)
	case bytes.Contains(found, []byte(redacted)):
		return nil, fmt.Sprintf("what stands at %s was redacted before it was kept", source)
	}
	return found, ""
}

// args makes the arguments of a call from their sources.
func (c contents) args(sources map[string]string) (jsontext.Value, string) {
	object := map[string]jsontext.Value{}
	for _, name := range slices.Sorted(maps.Keys(sources)) {
		v, wrong := c.value(sources[name])
		if wrong != "" {
			return nil, wrong
		}
		object[name] = v
	}
	b, err := json.Marshal(object, json.Deterministic(true))
	if err != nil {
		return nil, "its arguments cannot be made: they are not JSON"
	}
	return b, ""
}

// holds reports whether v is the JSON value that want writes.
func holds(v jsontext.Value, want string) bool {
	a, b := v.Clone(), jsontext.Value(want)
	return a.Canonicalize() == nil && b.Canonicalize() == nil && bytes.Equal(a, b)
}

// answered returns what a tool answered: its structured content, or the JSON that
// its one text is, or else the whole result.
func answered(body []byte) (jsontext.Value, bool) {
	text := strings.TrimSpace(string(body))
	if !strings.HasPrefix(text, "{") { // a stream: its last message is the answer
		for line := range strings.Lines(text) {
			if data, ok := strings.CutPrefix(line, "data:"); ok {
				text = strings.TrimSpace(data)
			}
		}
	}
	var m struct {
		Result jsontext.Value `json:"result"`
	}
	if json.Unmarshal([]byte(text), &m) != nil || len(m.Result) == 0 {
		return nil, false
	}
	var r struct {
		Structured jsontext.Value `json:"structuredContent"`
		Content    []struct {
			Text string `json:"text"`
		} `json:"content"`
		IsError bool `json:"isError"`
	}
	if json.Unmarshal(m.Result, &r) != nil || r.IsError {
		return m.Result, !r.IsError
	}
	if len(r.Structured) > 0 {
		return r.Structured, true
	}
	if len(r.Content) == 1 && jsontext.Value(r.Content[0].Text).IsValid() {
		return jsontext.Value(r.Content[0].Text), true
	}
	return m.Result, true
}
