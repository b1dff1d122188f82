package wire

import (
	"bytes"
	"fmt"
	"strings"
)

// JSON-RPC 2.0 and MCP error codes.
const (
	CodeParse        = -32700
	CodeInvalid      = -32600
	CodeNoMethod     = -32601
	CodeParams       = -32602
	CodeInternal     = -32603
	CodeMismatch     = -32020 // a header contradicts the body (SEP-2243)
	CodeCapability   = -32021 // the client lacks a capability the answer needs
	CodeVersion      = -32022 // unsupported protocol version
	CodeUnreachable  = -32050 // ours: the upstream failed, or we could not ask it
	CodeUnauthorized = -32051 // ours: no valid credential
)

// Modern is the first protocol version without sessions (SEP-2575).
const Modern = "2026-07-28"

// Names in _meta (2026-07-28, basic).
const (
	MetaVersion      = "io.modelcontextprotocol/protocolVersion"
	MetaCapabilities = "io.modelcontextprotocol/clientCapabilities"
	MetaClient       = "io.modelcontextprotocol/clientInfo"
)

// Error is a refusal in JSON-RPC's terms. ID is the raw id of the refused
// request where one could be read.
type Error struct {
	Code    int
	Message string
	ID      []byte
}

func (e *Error) Error() string { return e.Message }

// Kind says what a message is.
type Kind int

// The kinds.
const (
	Request Kind = iota
	Notification
	Response
)

// Message is one scanned message: where its parts lie in Raw.
type Message struct {
	Raw    []byte
	Kind   Kind
	ID     Span // raw: a string or a number, exactly as sent
	Method string
	Params Span
	Result Span // of a response
	Error  Span // of a response

	// What policy and routing read of params, empty when absent.
	Name      string
	NameAt    Span
	URI       string
	URIAt     Span
	Arguments Span
	Meta      Span
	Version   string // _meta's protocol version: this message is of the modern era
}

// MaxID is how long a raw id may be, in bytes.
const MaxID = 1024

var envelope = []string{"jsonrpc", "id", "method", "params", "result", "error"}
var decisive = []string{"name", "arguments", "uri", "_meta", "cursor", "ref", "argument", "requestId", "progressToken", "taskId", "protocolVersion"}

// Scan reads one message. The error is an *Error.
func Scan(b []byte) (Message, error) {
	if t := bytes.TrimLeft(b, " \t\r\n"); len(t) > 0 && t[0] == '[' {
		return Message{}, &Error{Code: CodeInvalid, Message: "batches are not part of this protocol; send one message per request"}
	}
	if err := Check(b); err != nil {
		return Message{}, &Error{Code: CodeParse, Message: "the body is not one unambiguous JSON document: " + err.Error()}
	}
	whole := Whole(b)
	if b[whole.Start] != '{' {
		return Message{}, &Error{Code: CodeInvalid, Message: "a message is a JSON object"}
	}
	m := Message{Raw: b}
	version, hasMethod, err := m.envelope(b, whole)
	if err == nil {
		err = m.classify(version, hasMethod)
	}
	if err == nil && m.Kind != Response {
		err = m.params()
	}
	if err != nil {
		if m.ID.Present() && idLike(m.ID.Of(b)) {
			err.ID = m.ID.Of(b)
		}
		return m, err
	}
	return m, nil
}

func (m *Message) envelope(b []byte, whole Span) (version string, hasMethod bool, err *Error) {
	for _, f := range Members(b, whole) {
		switch f.Name {
		case "jsonrpc":
			version, _ = Text(b, f.Val)
		case "id":
			m.ID = f.Val
		case "method":
			var ok bool
			if m.Method, ok = Text(b, f.Val); !ok || m.Method == "" || len(m.Method) > 200 {
				return "", false, &Error{Code: CodeInvalid, Message: "method must be a string of 1 to 200 bytes"}
			}
			hasMethod = true
		case "params":
			m.Params = f.Val
		case "result":
			m.Result = f.Val
		case "error":
			m.Error = f.Val
		default:
			if err := lookalike(f.Name, envelope, CodeInvalid); err != nil {
				return "", false, err
			}
		}
	}
	return version, hasMethod, nil
}

func (m *Message) classify(version string, hasMethod bool) *Error {
	if version != "2.0" {
		return &Error{Code: CodeInvalid, Message: `jsonrpc must be "2.0"`}
	}
	if m.ID.Present() && !idLike(m.ID.Of(m.Raw)) {
		return &Error{Code: CodeInvalid, Message: "id must be a string or a number of at most 1024 bytes"}
	}
	answers := m.Result.Present() || m.Error.Present()
	switch {
	case hasMethod && answers:
		return &Error{Code: CodeInvalid, Message: "a message cannot be both a request and a response"}
	case hasMethod && m.ID.Present():
		m.Kind = Request
	case hasMethod:
		m.Kind = Notification
	case m.Result.Present() != m.Error.Present() && m.ID.Present():
		m.Kind = Response
	default:
		return &Error{Code: CodeInvalid, Message: "a message has a method, or an id and either a result or an error"}
	}
	return nil
}

// idLike reports whether raw is an id that MCP allows: a string or a number.
func idLike(raw []byte) bool {
	return len(raw) <= MaxID && (raw[0] == '"' || raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9')
}

func (m *Message) params() *Error {
	if !m.Params.Present() {
		return nil
	}
	b := m.Raw
	if b[m.Params.Start] != '{' {
		return &Error{Code: CodeParams, Message: "params must be an object"}
	}
	for _, f := range Members(b, m.Params) {
		ok := true
		switch f.Name {
		case "name":
			m.Name, ok = Text(b, f.Val)
			m.NameAt = f.Val
		case "uri":
			m.URI, ok = Text(b, f.Val)
			m.URIAt = f.Val
		case "arguments":
			if string(f.Val.Of(b)) == "null" {
				continue
			}
			m.Arguments = f.Val
			if err := m.arguments(); err != nil {
				return err
			}
		case "_meta":
			m.Meta = f.Val
			ok = b[f.Val.Start] == '{'
			m.Version, _ = Text(b, Find(b, f.Val, MetaVersion))
		default:
			if err := lookalike(f.Name, decisive, CodeParams); err != nil {
				return err
			}
		}
		if !ok {
			return &Error{Code: CodeParams, Message: fmt.Sprintf("params.%s has the wrong type", f.Name)}
		}
	}
	return nil
}

// arguments refuses argument names that differ only in case: an upstream that
// reads names without case would take another value than policy saw. Deeper
// objects may be maps with free keys and are left alone.
func (m *Message) arguments() *Error {
	if m.Raw[m.Arguments.Start] != '{' {
		return &Error{Code: CodeParams, Message: "params.arguments must be an object"}
	}
	seen := map[string]bool{}
	for _, f := range Members(m.Raw, m.Arguments) {
		k := fold(f.Name)
		if seen[k] {
			return &Error{Code: CodeParams, Message: "two argument names differ only in case; receivers would disagree about their value"}
		}
		seen[k] = true
	}
	return nil
}

func lookalike(name string, known []string, code int) *Error {
	for _, k := range known {
		if name != k && strings.EqualFold(name, k) {
			return &Error{Code: code, Message: fmt.Sprintf("a member name differs only in case from %q; receivers would disagree about it", k)}
		}
	}
	return nil
}

// AppendError appends a JSON-RPC error response to dst. A nil id becomes null.
// data must be JSON or nil.
func AppendError(dst, id []byte, code int, message string, data []byte) []byte {
	dst = append(dst, `{"jsonrpc":"2.0","id":`...)
	dst = append(dst, orNull(id)...)
	dst = append(dst, fmt.Sprintf(`,"error":{"code":%d,"message":%s`, code, Quote(message))...)
	if data != nil {
		dst = append(append(dst, `,"data":`...), data...)
	}
	return append(dst, "}}"...)
}

// AppendResult appends a JSON-RPC response with the result raw.
func AppendResult(dst, id, raw []byte) []byte {
	dst = append(append(dst, `{"jsonrpc":"2.0","id":`...), orNull(id)...)
	dst = append(append(dst, `,"result":`...), raw...)
	return append(dst, '}')
}

func orNull(id []byte) []byte {
	if len(id) == 0 {
		return []byte("null")
	}
	return id
}
