package operation

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"slices"
	"strings"
)

// Where a parameter stands in a request.
const (
	InPath   = "path"
	InQuery  = "query"
	InHeader = "header"
)

// The types of a parameter: what a text in a path, a query, a header or a form
// is read as.
const (
	String  = "string"
	Integer = "integer"
	Number  = "number"
	Boolean = "boolean"
)

// The media types that are read, beside those ending in +json. Others are
// opaque: policy sees their type and size.
const (
	JSON      = "application/json"
	Form      = "application/x-www-form-urlencoded"
	Multipart = "multipart/form-data"
)

// Where a definition comes from.
const (
	Listed   = "manifest" // a line that a person wrote
	OpenAPI  = "openapi"  // a document that was imported
	Declared = "document" // a document that a manifest names
)

// Limits of one operation.
const (
	MaxParameters = 100
	MaxPath       = 2048 // bytes of a template
	maxSegments   = 64
)

// Operation is one operation of an HTTP API. Its JSON is the definition that
// its tool is pinned by.
type Operation struct {
	Name        string      `json:"name"`
	Description string      `json:"description,omitzero"`
	Source      string      `json:"source"` // Listed, OpenAPI or Declared
	Line        string      `json:"line,omitzero"`
	Method      string      `json:"method"`
	Path        string      `json:"path"` // template: /pets/{id}, /files/{+path}
	Parameters  []Parameter `json:"parameters,omitzero"`
	Body        *Body       `json:"body,omitzero"`
	// WebSocket says that a GET may ask for the upgrade to a WebSocket.
	WebSocket bool `json:"websocket,omitzero"`
	// Message is the schema of the JSON that each message to the upstream is then;
	// none: a message is anything.
	Message     jsontext.Value `json:"message,omitzero"`
	InputSchema jsontext.Value `json:"inputSchema"`
	Annotations Annotations    `json:"annotations"`
}

// Annotations say what the operation's method admits, in MCP's words.
type Annotations struct {
	ReadOnly    bool `json:"readOnlyHint"`
	Destructive bool `json:"destructiveHint"`
}

// Parameter is a typed part of a request beside its body.
type Parameter struct {
	Name     string `json:"name"`
	In       string `json:"in"`
	Type     string `json:"type"`
	Many     bool   `json:"many,omitzero"`   // several values of Type
	Joined   bool   `json:"joined,omitzero"` // several values in one, separated by commas
	Required bool   `json:"required,omitzero"`
}

// Body is what a request may carry.
type Body struct {
	Types    []string       `json:"types"` // media types, in lower case without parameters; "*/*": any
	Required bool           `json:"required,omitzero"`
	Schema   jsontext.Value `json:"schema,omitzero"` // of what is read: JSON, or the fields of a form
}

// Methods are those that an operation may have.
var Methods = []string{get, head, "POST", "PUT", "PATCH", "DELETE", options}

// The methods that promise to change nothing (RFC 9110, section 9.2.1).
const (
	get     = "GET"
	head    = "HEAD"
	options = "OPTIONS"
)

// Finish fills in what follows from the rest and checks it.
func (o *Operation) Finish() error {
	if !slices.Contains(Methods, o.Method) {
		return fmt.Errorf("%.20q is not a method that an operation may have", o.Method)
	}
	t, err := parseTemplate(o.Path)
	if err != nil {
		return err
	}
	if err := o.checkParameters(t.names); err != nil {
		return err
	}
	if b := o.Body; b != nil && o.WebSocket && slices.Equal(b.Types, []string{JSON}) && len(b.Schema) > 0 {
		o.Message, o.Body = b.Schema, nil
	}
	if o.Body != nil && o.Method == get || o.Body != nil && o.Method == head {
		return fmt.Errorf("%s has no body", o.Method)
	}
	o.Annotations = Annotations{ReadOnly: o.safe()}
	o.InputSchema, err = o.schema()
	return err
}

func (o *Operation) checkParameters(inPath []string) error {
	if len(o.Parameters) > MaxParameters {
		return fmt.Errorf("more than %d parameters", MaxParameters)
	}
	seen := map[string]bool{}
	for _, p := range o.Parameters {
		key := p.In + " " + p.Name
		if p.In == InHeader {
			key = strings.ToLower(key)
		}
		switch {
		case p.Name == "" || len(p.Name) > 128:
			return fmt.Errorf("a parameter in the %s has no name, or one over 128 bytes", p.In)
		case seen[key]:
			return fmt.Errorf("the parameter %q in the %s is there twice", p.Name, p.In)
		case p.In != InPath && p.In != InQuery && p.In != InHeader:
			return fmt.Errorf("the parameter %q is in %.20q, which is not read", p.Name, p.In)
		case !slices.Contains([]string{String, Integer, Number, Boolean}, p.Type):
			return fmt.Errorf("the parameter %q has the type %.20q; use string, integer, number or boolean", p.Name, p.Type)
		case p.In == InPath && !slices.Contains(inPath, p.Name):
			return fmt.Errorf("the parameter %q is not in the path", p.Name)
		}
		seen[key] = true
	}
	for _, name := range inPath {
		if !seen[InPath+" "+name] {
			o.Parameters = append(o.Parameters, Parameter{Name: name, In: InPath, Type: String, Required: true})
		}
	}
	return nil
}

// safe reports whether the method promises to change nothing (RFC 9110, 9.2.1).
func (o *Operation) safe() bool {
	return (o.Method == get && !o.WebSocket) || o.Method == head || o.Method == options
}

// Reads reports whether the operation may carry a body of a media type, and
// whether policy reads it.
func (b *Body) Reads(media string) (accepted, read bool) {
	if b == nil {
		return false, false
	}
	for _, t := range b.Types {
		any := t == "*/*" || strings.HasSuffix(t, "/*") && strings.HasPrefix(media, t[:len(t)-1])
		if t == media || any {
			return true, IsJSON(media) || media == Form || media == Multipart
		}
	}
	return false, false
}

// IsJSON reports whether a media type is JSON (RFC 6839).
func IsJSON(media string) bool { return media == JSON || strings.HasSuffix(media, "+json") }

// JSONDefinition returns o as the definition that a tool is pinned by.
func (o *Operation) JSONDefinition() (jsontext.Value, error) {
	return json.Marshal(o, json.Deterministic(true))
}

// Read returns the operation that a definition describes.
func Read(definition jsontext.Value) (*Operation, error) {
	var o Operation
	if err := json.Unmarshal(definition, &o); err != nil {
		return nil, err
	}
	if o.Method == "" || o.Path == "" {
		return nil, fmt.Errorf("the definition describes no HTTP operation")
	}
	return &o, nil
}

// schema returns the JSON Schema of the arguments that policy reads: what
// stands where under its own name, so that nothing can stand for something else.
func (o *Operation) schema() (jsontext.Value, error) {
	props, required := map[string]any{}, []string{}
	for _, in := range []string{InPath, InQuery, InHeader} {
		members, must := map[string]any{}, []string{}
		for _, p := range o.Parameters {
			if p.In != in {
				continue
			}
			members[p.Name] = p.schema()
			if p.Required {
				must = append(must, p.Name)
			}
		}
		if len(members) == 0 {
			continue
		}
		props[in] = map[string]any{"type": "object", "properties": members, "required": must, "additionalProperties": false}
		if len(must) > 0 {
			required = append(required, in)
		}
	}
	if o.Body != nil {
		props["content_type"] = map[string]any{"type": "string", "description": "media type of the body"}
		props["content_length"] = map[string]any{"type": "integer", "description": "bytes of the body, if it says"}
		if len(o.Body.Schema) > 0 {
			props["body"] = o.Body.Schema
			if o.Body.Required && !slices.ContainsFunc(o.Body.Types, func(t string) bool { _, read := o.Body.Reads(t); return !read }) {
				required = append(required, "body")
			}
		}
		if slices.ContainsFunc(o.Body.Types, func(t string) bool { return t == Multipart || strings.HasSuffix(t, "*") }) {
			props["files"] = jsontext.Value(`{"type":"array","items":{"type":"object","properties":{"field":{"type":"string"},"filename":{"type":"string"},"type":{"type":"string"}},"required":["field","filename","type"]}}`)
		}
	}
	return json.Marshal(map[string]any{"type": "object", "properties": props, "required": required, "additionalProperties": false}, json.Deterministic(true))
}

// WithMessages returns the schema of o's arguments with those of the messages of
// its WebSocket, each of which is decided about with them. They are no part of the
// schema that was pinned: what was accepted before there were any stays what it is.
func (o *Operation) WithMessages() (jsontext.Value, error) {
	message := map[string]any{"bytes": map[string]any{"type": "integer"}, "kind": map[string]any{"type": "string"}}
	required := []string{"bytes", "kind"}
	if len(o.Message) > 0 {
		message["json"], required = o.Message, append(required, "json")
	} else {
		message["text"] = map[string]any{"type": "string"}
	}
	var whole, props map[string]jsontext.Value
	if err := json.Unmarshal(o.InputSchema, &whole); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(whole["properties"], &props); err != nil {
		return nil, err
	}
	var err error
	if props["message"], err = json.Marshal(map[string]any{"type": "object", "properties": message, "required": required, "additionalProperties": false}, json.Deterministic(true)); err != nil {
		return nil, err
	}
	if whole["properties"], err = json.Marshal(props, json.Deterministic(true)); err != nil {
		return nil, err
	}
	return json.Marshal(whole, json.Deterministic(true))
}

func (p Parameter) schema() any {
	one := map[string]any{"type": p.Type}
	if p.Many {
		return map[string]any{"type": "array", "items": one}
	}
	return one
}
