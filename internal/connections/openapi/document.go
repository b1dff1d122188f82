package openapi

import (
	"bytes"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Limits of a document.
const (
	MaxDocument   = 32 << 20 // bytes
	MaxOperations = 2000
	maxDepth      = 100       // nesting
	maxNodes      = 4_000_000 // values of a YAML document, aliases counted each time
	maxRefs       = 8         // references followed one after the other
)

// ErrDocument is the cause of every refusal.
var ErrDocument = errors.New("the OpenAPI document cannot be used")

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrDocument}, args...)...)
}

// object is a JSON object opened one level.
type object map[string]jsontext.Value

func open(v jsontext.Value) object {
	var o object
	if v.Kind() != '{' || json.Unmarshal(v, &o) != nil {
		return nil
	}
	return o
}

func (o object) text(name string) string {
	var s string
	if v := o[name]; v.Kind() == '"' && json.Unmarshal(v, &s) == nil {
		return s
	}
	return ""
}

func (o object) flag(name string) bool { return string(o[name]) == "true" }

// document is a whole document, opened as far as references need it.
type document struct {
	root   object
	opened map[string]object // by the pointer of an object
}

// parse reads a document and checks its form.
func parse(raw []byte) (*document, error) {
	if len(raw) > MaxDocument {
		return nil, bad("it is over %d bytes", MaxDocument)
	}
	v := jsontext.Value(bytes.TrimSpace(raw))
	if v.Kind() != '{' {
		var err error
		if v, err = fromYAML(raw); err != nil {
			return nil, err
		}
	}
	if err := check(v); err != nil {
		return nil, err
	}
	d := &document{root: open(v), opened: map[string]object{}}
	version := d.root.text("openapi")
	if !strings.HasPrefix(version, "3.0.") && !strings.HasPrefix(version, "3.1.") {
		return nil, bad("it says openapi %.20q; 3.0 and 3.1 can be read", version)
	}
	return d, nil
}

// check reads all of the JSON once, strictly.
func check(v jsontext.Value) error {
	d := jsontext.NewDecoder(bytes.NewReader(v))
	for {
		if _, err := d.ReadToken(); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return bad("it is not strict JSON: %v", err)
		}
		if d.StackDepth() > maxDepth {
			return bad("it is nested more than %d levels", maxDepth)
		}
	}
}

// fromYAML turns YAML into JSON.
func fromYAML(raw []byte) (out jsontext.Value, err error) {
	defer func() {
		if p := recover(); p != nil { // foreign code on foreign bytes
			err = bad("it can be read neither as JSON nor as YAML")
		}
	}()
	var doc yaml.Node
	if err := yaml.Unmarshal(raw, &doc); err != nil || len(doc.Content) != 1 {
		return nil, bad("it can be read neither as JSON nor as YAML")
	}
	var b bytes.Buffer
	w := yamlWriter{enc: jsontext.NewEncoder(&b)}
	if err := w.write(doc.Content[0], 0); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

type yamlWriter struct {
	enc   *jsontext.Encoder
	nodes int
}

func (w *yamlWriter) write(n *yaml.Node, depth int) error {
	w.nodes++
	switch {
	case w.nodes > maxNodes:
		return bad("it has more than %d values, aliases counted each time", maxNodes)
	case depth > maxDepth:
		return bad("it is nested more than %d levels", maxDepth)
	case n.Kind == yaml.AliasNode:
		return w.write(n.Alias, depth+1)
	case n.Kind == yaml.MappingNode:
		return w.mapping(n, depth)
	case n.Kind == yaml.SequenceNode:
		return w.sequence(n, depth)
	case n.Kind != yaml.ScalarNode:
		return bad("line %d is no value", n.Line)
	}
	return w.token(n)
}

func (w *yamlWriter) mapping(n *yaml.Node, depth int) error {
	if err := w.enc.WriteToken(jsontext.BeginObject); err != nil {
		return bad("line %d: %v", n.Line, err)
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		if k.Kind != yaml.ScalarNode || k.Tag == "!!merge" {
			return bad("line %d: a name must be plain text", k.Line)
		}
		if err := w.enc.WriteToken(jsontext.String(k.Value)); err != nil { // a name that is there twice
			return bad("line %d: %v", k.Line, err)
		}
		if err := w.write(n.Content[i+1], depth+1); err != nil {
			return err
		}
	}
	return w.enc.WriteToken(jsontext.EndObject)
}

func (w *yamlWriter) sequence(n *yaml.Node, depth int) error {
	if err := w.enc.WriteToken(jsontext.BeginArray); err != nil {
		return bad("line %d: %v", n.Line, err)
	}
	for _, c := range n.Content {
		if err := w.write(c, depth+1); err != nil {
			return err
		}
	}
	return w.enc.WriteToken(jsontext.EndArray)
}

func (w *yamlWriter) token(n *yaml.Node) error {
	var err error
	switch n.Tag {
	case "!!null":
		err = w.enc.WriteToken(jsontext.Null)
	case "!!bool":
		var v bool
		if err = n.Decode(&v); err == nil {
			err = w.enc.WriteToken(jsontext.Bool(v))
		}
	case "!!int", "!!float":
		if v := jsontext.Value(n.Value); v.IsValid() {
			err = w.enc.WriteValue(v)
		} else { // 0x10, 1_000, .inf: a text is not wrong
			err = w.enc.WriteToken(jsontext.String(n.Value))
		}
	default:
		err = w.enc.WriteToken(jsontext.String(n.Value))
	}
	if err != nil {
		return bad("line %d: %v", n.Line, err)
	}
	return nil
}

// resolve follows v if it is a reference.
func (d *document) resolve(v jsontext.Value) (object, error) {
	for range maxRefs {
		o := open(v)
		ref := o.text("$ref")
		if ref == "" {
			return o, nil
		}
		var err error
		if v, err = d.target(ref); err != nil {
			return nil, err
		}
	}
	return nil, nil // a cycle of references and nothing else: nothing is there
}

// target returns what a reference is to.
func (d *document) target(ref string) (jsontext.Value, error) {
	pointer, local := strings.CutPrefix(ref, "#/")
	if !local {
		return nil, bad("%.80q refers to another document; put everything into one", ref)
	}
	at, members := "", d.root
	steps := strings.Split(pointer, "/")
	for i, step := range steps {
		step = strings.NewReplacer("~1", "/", "~0", "~").Replace(step)
		v, ok := members[step]
		if !ok {
			return nil, bad("%.80q refers to something that is not there", ref)
		}
		if i == len(steps)-1 {
			return v, nil
		}
		at += "/" + steps[i]
		if d.opened[at] == nil {
			d.opened[at] = open(v)
		}
		members = d.opened[at]
	}
	return nil, bad("%.80q refers to nothing", ref)
}
