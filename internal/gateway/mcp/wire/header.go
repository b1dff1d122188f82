package wire

import (
	"encoding/base64"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
)

// Names of MCP's headers.
const (
	HeaderVersion = "Mcp-Protocol-Version"
	HeaderSession = "Mcp-Session-Id"
	HeaderMethod  = "Mcp-Method"
	HeaderName    = "Mcp-Name"
	ParamPrefix   = "Mcp-Param-"
	HeaderLast    = "Last-Event-Id"
)

// IsModern reports whether a request with these headers and this message is of
// the era without sessions.
func IsModern(h http.Header, m Message) bool {
	return h.Get(HeaderVersion) >= Modern || m.Version != ""
}

// CheckHeaders reports, as an *Error with CodeMismatch or CodeParams, that the
// headers of a request and its body do not say the same (SEP-2243, SEP-2575):
// an intermediary that believes the headers and a server that believes the
// body must not see different calls. Older eras have no such headers; what
// they send of them must still agree.
func CheckHeaders(h http.Header, m Message) error {
	for _, name := range []string{HeaderVersion, HeaderSession, HeaderMethod, HeaderName} {
		if len(h.Values(name)) > 1 {
			return mismatch(m, "the header %s is there more than once", name)
		}
	}
	version := h.Get(HeaderVersion)
	modern := version >= Modern
	if m.Kind == Request && modern || m.Version != "" {
		switch {
		case version == "":
			return mismatch(m, "%s is required for a request that carries %s", HeaderVersion, MetaVersion)
		case m.Version == "":
			return &Error{Code: CodeParams, Message: "missing or invalid _meta member " + MetaVersion, ID: m.ID.Of(m.Raw)}
		case m.Version != version:
			return mismatch(m, "%s does not match %s in the body", HeaderVersion, MetaVersion)
		}
	}
	if m.Kind == Response {
		return nil
	}
	return checkNames(h, m, modern)
}

func checkNames(h http.Header, m Message, modern bool) error {
	switch method := h.Get(HeaderMethod); {
	case method == "" && modern:
		return mismatch(m, "missing required %s header", HeaderMethod)
	case method != "" && method != m.Method:
		return mismatch(m, "%s does not match the method in the body", HeaderMethod)
	}
	name, named := target(m)
	switch got := h.Get(HeaderName); {
	case got == "" && modern && named:
		return mismatch(m, "missing required %s header", HeaderName)
	case got == "":
	default:
		plain, ok := Decode(got)
		if !ok || (named && plain != name) {
			return mismatch(m, "%s does not match the body", HeaderName)
		}
	}
	return nil
}

// target returns what Mcp-Name repeats.
func target(m Message) (string, bool) {
	switch m.Method {
	case "tools/call", "prompts/get":
		return m.Name, true
	case "resources/read":
		return m.URI, true
	}
	return "", false
}

// CheckParams compares the Mcp-Param-* headers of a modern tools/call with the
// arguments, by the x-mcp-header annotations in the tool's input schema, which
// must be valid JSON or nil. Headers that no annotation names pass.
func CheckParams(h http.Header, m Message, schema []byte) error {
	if m.Method != "tools/call" || h.Get(HeaderVersion) < Modern || Check(schema) != nil {
		return nil
	}
	return checkProperties(h, m, schema, Whole(schema), nil)
}

func checkProperties(h http.Header, m Message, schema []byte, at Span, path []string) error {
	for _, p := range Members(schema, Find(schema, at, "properties")) {
		here := append(path[:len(path):len(path)], p.Name)
		if name, ok := Text(schema, Find(schema, p.Val, "x-mcp-header")); ok && name != "" {
			if err := checkParam(h, m, ParamPrefix+name, Path(m.Raw, m.Arguments, here...)); err != nil {
				return err
			}
		}
		if err := checkProperties(h, m, schema, p.Val, here); err != nil {
			return err
		}
	}
	return nil
}

func checkParam(h http.Header, m Message, header string, arg Span) error {
	values := h.Values(header)
	if len(values) > 1 {
		return mismatch(m, "the header %s is there more than once", header)
	}
	raw := string(arg.Of(m.Raw))
	if raw == "" || raw == "null" {
		if len(values) > 0 && values[0] != "" {
			return mismatch(m, "%s is set for an argument that is not there", header)
		}
		return nil
	}
	if len(values) == 0 {
		return mismatch(m, "missing %s header", header)
	}
	plain, ok := Decode(values[0])
	if !ok || !same(plain, m.Raw, arg) {
		return mismatch(m, "%s does not match the argument in the body", header)
	}
	return nil
}

// same compares a header's text with a primitive argument. Integers compare by
// value within what an IEEE double holds exactly.
func same(header string, b []byte, arg Span) bool {
	switch raw := string(arg.Of(b)); raw[0] {
	case '"':
		s, _ := Text(b, arg)
		return s == header
	case 't', 'f':
		return header == raw
	case '{', '[':
		return false
	default:
		x, ok1 := integer(header)
		y, ok2 := integer(raw)
		return ok1 && ok2 && x == y
	}
}

func integer(s string) (float64, bool) {
	f, err := strconv.ParseFloat(s, 64)
	return f, err == nil && f == math.Trunc(f) && math.Abs(f) <= 1<<53-1
}

// Decode returns the text of a header value, which may be wrapped as
// =?base64?…?=.
func Decode(v string) (string, bool) {
	inner, ok := strings.CutPrefix(v, "=?base64?")
	if !ok {
		return v, true
	}
	if inner, ok = strings.CutSuffix(inner, "?="); !ok {
		return v, true
	}
	out, err := base64.StdEncoding.DecodeString(inner)
	return string(out), err == nil
}

// Encode returns s as a header value, wrapped when plain text cannot carry it.
func Encode(s string) string {
	safe := strings.TrimSpace(s) == s && !(strings.HasPrefix(s, "=?base64?") && strings.HasSuffix(s, "?="))
	for _, c := range []byte(s) {
		safe = safe && c >= 0x20 && c <= 0x7e
	}
	if safe {
		return s
	}
	return "=?base64?" + base64.StdEncoding.EncodeToString([]byte(s)) + "?="
}

func mismatch(m Message, format string, args ...any) *Error {
	return &Error{Code: CodeMismatch, Message: "header mismatch: " + fmt.Sprintf(format, args...), ID: m.ID.Of(m.Raw)}
}
