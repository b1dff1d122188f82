package llm

import (
	"bytes"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"io"
	"strings"
	"sync"

	"github.com/countersign/countersign/internal/fault"
)

// maxDepth is how deep a request may nest.
const maxDepth = 128

// Errors about a request's body.
var (
	errJSON  = fault.New(fault.Invalid, "bad_json", "the body is not strict JSON")
	errDepth = fault.New(fault.Invalid, "json_too_deep", "the body nests deeper than 128 levels")
	errField = fault.New(fault.Invalid, "bad_field", "a field that policy reads has no value it could read")
)

// request is what policy and the log read of a request's body.
type request struct {
	model     string
	maxTokens jsontext.Value // a number as it is written; nil if absent
	n         jsontext.Value
	stream    bool
	hasTools  bool
	tools     []string
	provided  []string // tools that the provider runs
	continues []string // identifiers of what it continues
	prompt    []span
}

// span is a value's place in the body.
type span struct {
	name       string
	start, end int
	parts      []int // where each element of an array begins
}

// scanner reads bodies. It is pooled: the decoder's buffers are the cost of a
// small body.
type scanner struct {
	dec    *jsontext.Decoder
	buf    bytes.Buffer
	body   []byte
	fields map[string]string
	q      request
}

var scanners = sync.Pool{New: func() any { return &scanner{dec: jsontext.NewDecoder(&bytes.Buffer{})} }}

// scan reads body strictly in one pass. fields says what the dialect's fields
// mean. Nothing in the result aliases body.
func scan(body []byte, fields map[string]string) (request, error) {
	if tooDeep(body) {
		return request{}, errDepth
	}
	s := scanners.Get().(*scanner)
	defer func() {
		s.buf = bytes.Buffer{}
		s.body, s.q = nil, request{}
		s.dec.Reset(&s.buf)
		scanners.Put(s)
	}()
	s.buf = *bytes.NewBuffer(body)
	s.body, s.fields = body, fields
	s.dec.Reset(&s.buf)
	err := s.object("", fields, s.member)
	if err == nil {
		err = s.end()
	}
	if err != nil {
		return request{}, readable(err)
	}
	if s.q.model == "" {
		return request{}, errField.Say("model: is required")
	}
	return s.q, nil
}

// end makes sure that nothing follows the document.
func (s *scanner) end() error {
	switch _, err := s.dec.ReadToken(); {
	case err == io.EOF:
		return nil
	case err == nil:
		return errJSON.Say("the body holds more than one JSON document")
	default:
		return err
	}
}

// readable turns a syntax error into one that says where, without repeating
// what stands there.
func readable(err error) error {
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return err
	}
	syntax, ok := errors.AsType[*jsontext.SyntacticError](err)
	switch {
	case !ok:
		return errJSON.With(err)
	case errors.Is(err, jsontext.ErrDuplicateName):
		return errJSON.Say("the body repeats a name at byte %d; readers disagree about which value counts", syntax.ByteOffset).With(err)
	case strings.Contains(syntax.Error(), "UTF-8"):
		return errJSON.Say("the body is not valid UTF-8 at byte %d", syntax.ByteOffset).With(err)
	}
	return errJSON.Say("the body is not JSON at byte %d", syntax.ByteOffset).With(err)
}

func (s *scanner) member(name string) (err error) {
	switch s.fields[name] {
	case "model":
		s.q.model, err = s.text(name)
	case "stream":
		s.q.stream, err = s.boolean(name)
	case "n":
		s.q.n, err = s.number(name)
	case "max_tokens":
		var v jsontext.Value
		if v, err = s.number(name); err == nil {
			s.q.maxTokens = larger(s.q.maxTokens, v)
		}
	case "tools":
		err = s.toolNames(name)
	case "continues":
		err = s.continues()
	case "provided":
		err = s.provided(name)
	case "system", "prompt":
		err = s.prompt(s.fields[name])
	default:
		err = s.dec.SkipValue()
	}
	return err
}

// provided notes a field by which a request has the provider use tools of its
// own, whatever it says about them.
func (s *scanner) provided(name string) error {
	if s.dec.PeekKind() != 'n' {
		s.q.provided = append(s.q.provided, name)
	}
	return s.dec.SkipValue()
}

// continues reads the identifier of what a request continues: a text, or an
// object that has it.
func (s *scanner) continues() error {
	v, err := s.dec.ReadValue()
	if err != nil {
		return err
	}
	id := ""
	switch v.Kind() {
	case '"':
		err = json.Unmarshal(v, &id)
	case '{':
		var o struct {
			ID string `json:"id"`
		}
		err = json.Unmarshal(v, &o)
		id = o.ID
	}
	if err == nil && id != "" {
		s.q.continues = append(s.q.continues, id)
	}
	return nil
}

// prompt notes where a value stands that the log keeps, and, of an array, where
// its elements do.
func (s *scanner) prompt(name string) error {
	if s.dec.PeekKind() != '[' {
		v, err := s.dec.ReadValue()
		end := int(s.dec.InputOffset())
		s.q.prompt = append(s.q.prompt, span{name: name, start: end - len(v), end: end})
		return err
	}
	if _, err := s.dec.ReadToken(); err != nil {
		return err
	}
	p := span{name: name, start: int(s.dec.InputOffset()) - 1}
	for s.dec.PeekKind() != ']' {
		v, err := s.dec.ReadValue()
		if err != nil {
			return err
		}
		p.parts = append(p.parts, int(s.dec.InputOffset())-len(v))
	}
	_, err := s.dec.ReadToken()
	p.end = int(s.dec.InputOffset())
	s.q.prompt = append(s.q.prompt, p)
	return err
}

// toolNames reads the names of the tools in an array: every name that a tool
// goes by, and its type if the provider runs it: an invented name must not hide
// that. A provider's connection to an MCP server counts as the tool "mcp" too.
func (s *scanner) toolNames(field string) error {
	switch s.dec.PeekKind() {
	case 'n':
		return s.dec.SkipValue()
	case '[':
	default:
		return s.wrong(field, "must be an array")
	}
	if _, err := s.dec.ReadToken(); err != nil {
		return err
	}
	s.q.hasTools = true
	for s.dec.PeekKind() != ']' {
		if err := s.tool(field + "[]"); err != nil {
			return err
		}
	}
	_, err := s.dec.ReadToken()
	return err
}

var (
	toolFields  = map[string]string{"type": "", "name": "", "function": "", "custom": "", "server_url": "", "url": "", "connector_id": ""}
	innerFields = map[string]string{"name": ""}
)

func (s *scanner) tool(field string) error {
	kind, named := "", false
	var reached []string
	name := func(where string) error {
		n, err := s.text(where)
		if err == nil && n != "" {
			named = true
			s.q.tools = append(s.q.tools, n)
		}
		return err
	}
	err := s.object(field, toolFields, func(member string) (err error) {
		switch member {
		case "type":
			kind, err = s.text(field + ".type")
			return err
		case "name":
			return name(field + ".name")
		case "server_url", "url", "connector_id":
			to, err := s.text(field + "." + member)
			if to != "" {
				reached = append(reached, "mcp:"+to)
			}
			return err
		case "function", "custom":
			return s.object(field+"."+member, innerFields, func(m string) error {
				if m == "name" {
					return name(field + "." + member + ".name")
				}
				return s.dec.SkipValue()
			})
		}
		return s.dec.SkipValue()
	})
	switch {
	case err != nil:
		return err
	case field == "mcp_servers[]": // its name is the sender's own choice
		s.q.tools = append(s.q.tools, "mcp")
		s.q.provided = append(append(s.q.provided, "mcp"), reached...)
	case kind == "" && !named:
		return errField.Say("%s: names neither a tool nor a type", field)
	case kind != "" && (!named || kind != "function" && kind != "custom"):
		s.q.tools = append(s.q.tools, kind)
		if kind != "function" && kind != "custom" {
			s.q.provided = append(append(s.q.provided, kind), reached...)
		}
	}
	return nil
}

// object walks an object's members. A name that differs from a known one only
// in case is refused: some upstreams would read it, and we would not.
func (s *scanner) object(field string, known map[string]string, member func(name string) error) error {
	if s.dec.PeekKind() != '{' {
		if field == "" {
			field = "body"
		}
		return s.wrong(field, "must be an object")
	}
	if _, err := s.dec.ReadToken(); err != nil {
		return err
	}
	for s.dec.PeekKind() != '}' {
		t, err := s.dec.ReadToken()
		if err != nil {
			return err
		}
		name := t.String()
		if _, ok := known[name]; !ok {
			if k, folds := folded(name, known); folds {
				return errField.Say("a field differs from %q only in case; readers disagree about what that means", k)
			}
		}
		if err := member(name); err != nil {
			return err
		}
	}
	_, err := s.dec.ReadToken()
	return err
}

// folded returns the known name that name equals but for case, as Unicode folds
// it (U+017F and U+212A fold to ASCII letters).
func folded(name string, known map[string]string) (string, bool) {
	for k := range known {
		if len(name) >= len(k) && len(name) <= 3*len(k) && strings.EqualFold(name, k) {
			return k, true
		}
	}
	return "", false
}

func (s *scanner) text(field string) (string, error) {
	switch s.dec.PeekKind() {
	case 'n':
		return "", s.dec.SkipValue()
	case '"':
		t, err := s.dec.ReadToken()
		if err != nil {
			return "", err
		}
		return t.String(), nil
	}
	return "", s.wrong(field, "must be a string")
}

func (s *scanner) boolean(field string) (bool, error) {
	switch s.dec.PeekKind() {
	case 'n', 'f':
		return false, s.dec.SkipValue()
	case 't':
		return true, s.dec.SkipValue()
	}
	return false, s.wrong(field, "must be true or false")
}

// number returns a number as it is written; whether it can be represented is
// policy's question.
func (s *scanner) number(field string) (jsontext.Value, error) {
	switch s.dec.PeekKind() {
	case 'n':
		return nil, s.dec.SkipValue()
	case '0':
		v, err := s.dec.ReadValue()
		return bytes.Clone(v), err
	}
	return nil, s.wrong(field, "must be a number")
}

// wrong reports a value of another type, or the syntax error that stands there.
func (s *scanner) wrong(field, problem string) error {
	if err := s.dec.SkipValue(); err != nil {
		return err
	}
	return errField.Say("%s: %s", field, problem)
}

// larger returns the number that allows more, so that of two limits in one
// request policy judges the generous one. Of two that are not both plain
// integers it returns one that is not: policy refuses it.
func larger(a, b jsontext.Value) jsontext.Value {
	switch {
	case a == nil:
		return b
	case b == nil, !plain(a):
		return a
	case !plain(b), len(b) > len(a), len(b) == len(a) && string(b) > string(a):
		return b
	}
	return a
}

func plain(v jsontext.Value) bool {
	for _, c := range v {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// tooDeep reports whether valid JSON nests deeper than maxDepth. About invalid
// JSON it may say anything; that is refused by the parser.
func tooDeep(b []byte) bool {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '{', '[':
			if depth++; depth > maxDepth {
				return true
			}
		case '}', ']':
			depth--
		case '"':
			for i++; ; i++ {
				n := bytes.IndexByte(b[i:], '"')
				if n < 0 {
					return false
				}
				end := i + n
				slashes := 0
				for slashes < end-i && b[end-1-slashes] == '\\' {
					slashes++
				}
				i = end
				if slashes%2 == 0 {
					break
				}
			}
		}
	}
	return false
}
