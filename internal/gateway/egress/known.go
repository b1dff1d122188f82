package egress

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"slices"
	"sync"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/connections/operation"
	"github.com/countersign/countersign/internal/gateway"
)

// catalogue holds the operations of connections, prepared to be matched. It
// prepares them anew when the registry shows other tools.
type catalogue struct {
	mu   sync.RWMutex
	sets map[string]*set // by connection
}

// set is the operations of one connection.
type set struct {
	tools   []connections.Tool // of which it was made: never changed, only replaced
	matcher *operation.Matcher
	known   map[*operation.Operation]*known
}

// known is an operation with its tool.
type known struct {
	*operation.Operation
	tool   connections.Tool
	query  map[string]operation.Parameter
	header []operation.Parameter
	path   map[string]operation.Parameter
	fields map[string]operation.Parameter // of a form
}

func (c *catalogue) of(r Registry, conn connections.Connection) *set {
	tools := r.Tools(conn.Name)
	c.mu.RLock()
	s := c.sets[conn.Name]
	c.mu.RUnlock()
	if s != nil && same(s.tools, tools) {
		return s
	}
	s = newSet(tools)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sets == nil {
		c.sets = map[string]*set{}
	}
	c.sets[conn.Name] = s
	return s
}

// same reports whether two lists are one list: the registry never changes one.
func same(a, b []connections.Tool) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

func newSet(tools []connections.Tool) *set {
	s := &set{tools: tools, known: make(map[*operation.Operation]*known, len(tools))}
	var ops []*operation.Operation
	for _, t := range tools {
		raw := t.Definition
		if t.Status == connections.StatusNew {
			raw = t.Drift
		}
		o, err := operation.Read(raw)
		if err != nil {
			continue // it can match nothing
		}
		ops = append(ops, o)
		s.known[o] = newKnown(o, t)
	}
	s.matcher = operation.NewMatcher(ops)
	return s
}

func newKnown(o *operation.Operation, t connections.Tool) *known {
	k := &known{Operation: o, tool: t, query: map[string]operation.Parameter{}, path: map[string]operation.Parameter{}}
	for _, p := range o.Parameters {
		switch p.In {
		case operation.InQuery:
			k.query[p.Name] = p
		case operation.InPath:
			k.path[p.Name] = p
		case operation.InHeader:
			k.header = append(k.header, p)
		}
	}
	if o.Body != nil {
		k.fields = fieldsOf(o.Body.Schema)
	}
	return k
}

// fieldsOf reads what types the fields of a form have.
func fieldsOf(schema jsontext.Value) map[string]operation.Parameter {
	type property struct {
		Type  jsontext.Value `json:"type"`
		Items struct {
			Type jsontext.Value `json:"type"`
		} `json:"items"`
	}
	var s struct {
		Properties map[string]property `json:"properties"`
	}
	if json.Unmarshal(schema, &s) != nil {
		return nil // no schema: every field is text
	}
	fields := make(map[string]operation.Parameter, len(s.Properties))
	for name, p := range s.Properties {
		f := operation.Parameter{Name: name, Type: scalar(p.Type)}
		if string(p.Type) == `"array"` {
			f.Many, f.Type = true, scalar(p.Items.Type)
		}
		fields[name] = f
	}
	return fields
}

// scalar returns the type of a text by a schema's "type".
func scalar(v jsontext.Value) string {
	var name string
	var names []string
	if json.Unmarshal(v, &names) == nil && len(names) > 0 {
		name = names[0]
	} else if json.Unmarshal(v, &name) != nil {
		return operation.String
	}
	if slices.Contains([]string{operation.Integer, operation.Number, operation.Boolean}, name) {
		return name
	}
	return operation.String
}

// match finds the operation that a request is, with the parameters of its path.
func (s *set) match(method, path string) (*known, []operation.Argument, []string, error) {
	o, values, allow, err := s.matcher.Match(method, path)
	switch {
	case err == nil:
		return s.known[o], values, nil, nil
	case errors.Is(err, operation.ErrForm):
		return nil, nil, nil, gateway.ErrPath.Say("%s", err.Error())
	case errors.Is(err, operation.ErrMethod):
		return nil, nil, allow, errMethod
	case errors.Is(err, operation.ErrTwo):
		return nil, nil, nil, errAmbiguous
	}
	return nil, nil, nil, errOperation
}
