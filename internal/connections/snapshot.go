package connections

import (
	"context"
	"encoding/json/jsontext"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/connections/operation"
	"github.com/countersign/countersign/internal/storage"
)

// snapshot is everything as of one moment; it is never changed, only replaced.
type snapshot struct {
	connections []Connection // by name
	byName      map[string]Connection
	tools       map[string][]Tool // by connection, built-in first, then by name
	byTool      map[string]map[string]Tool
	types       []ToolType
	named       map[string][]Named // by each name under which a model may know a tool
}

// ToolType is what policy must know of a tool to check and to decide: server
// hands it on as policy's own type.
type ToolType struct {
	Connection, Kind, Tool, Effect string
	InputSchema                    jsontext.Value
}

func toolType(c Connection, t Tool) ToolType {
	out := ToolType{Connection: c.Name, Kind: c.Kind, Tool: t.Name, Effect: t.Effect, InputSchema: t.InputSchema}
	if c.Kind == HTTP && len(t.Definition) > 0 {
		if o, err := operation.Read(t.Definition); err == nil && o.WebSocket {
			if schema, err := o.WithMessages(); err == nil {
				out.InputSchema = schema
			}
		}
	}
	return out
}

// BuiltinTypes returns the tools that a connection will have without discovery,
// for checking policies about one that is not registered yet.
func BuiltinTypes(c Connection) []ToolType {
	var types []ToolType
	for _, t := range builtinTools(c) {
		types = append(types, toolType(c, t))
	}
	return types
}

// reload reads everything anew; the watcher calls it.
func (s *Service) reload(ctx context.Context) error {
	conns, err := connectionRows(ctx, s.db)
	if err != nil {
		return storage.ErrUnavailable.With(err)
	}
	tools, err := toolRows(ctx, s.db)
	if err != nil {
		return storage.ErrUnavailable.With(err)
	}
	s.current.Store(build(conns, tools))
	return nil
}

func build(conns []Connection, tools []Tool) *snapshot {
	snap := &snapshot{connections: conns, byName: map[string]Connection{}, tools: map[string][]Tool{}, byTool: map[string]map[string]Tool{}}
	slices.SortFunc(snap.connections, func(a, b Connection) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(tools, func(a, b Tool) int { return strings.Compare(a.Name, b.Name) })
	for _, c := range snap.connections {
		snap.byName[c.Name] = c
		snap.tools[c.Name] = builtinTools(c)
	}
	for _, t := range tools {
		snap.tools[t.Connection] = append(snap.tools[t.Connection], t.opened())
	}
	for _, c := range snap.connections {
		set := make(map[string]Tool, len(snap.tools[c.Name]))
		for _, t := range snap.tools[c.Name] {
			set[t.Name] = t
			if t.Status != StatusNew {
				snap.types = append(snap.types, toolType(c, t))
			}
		}
		snap.byTool[c.Name] = set
	}
	snap.naming()
	return snap
}

// opened returns t with what is read out of its definition: of the accepted
// one, or of what was seen when nothing was accepted yet.
func (t Tool) opened() Tool {
	raw := t.Definition
	if t.Status == StatusNew {
		raw = t.Drift
	}
	t.InputSchema = emptySchema
	if p, err := parseDefinition(Definition{Name: t.Name, Raw: raw}); err == nil {
		t.InputSchema, t.Description = p.InputSchema, p.Description
	}
	return t
}

// Connection returns a connection by name.
func (s *Service) Connection(name string) (Connection, bool) {
	c, ok := s.current.Load().byName[name]
	return c, ok
}

// Connections returns all connections by name. The slice must not be changed.
func (s *Service) Connections() []Connection { return s.current.Load().connections }

// Tool returns a tool of a connection, built-in ones included.
func (s *Service) Tool(connection, name string) (Tool, bool) {
	t, ok := s.current.Load().byTool[connection][name]
	return t, ok
}

// Tools returns the tools of a connection: built-in ones, then by name. The
// slice must not be changed.
func (s *Service) Tools(connection string) []Tool { return s.current.Load().tools[connection] }

// ToolTypes returns every tool of every connection that was ever accepted, as
// it was accepted: what an upstream merely claims has no part in any decision.
// The slice must not be changed.
func (s *Service) ToolTypes() []ToolType { return s.current.Load().types }
