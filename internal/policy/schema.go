package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	sast "github.com/cedar-policy/cedar-go/x/exp/schema/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema/resolved"
)

// The entity types of the generated schema.
const (
	typeAgent      types.EntityType = "Agent"
	typeUser       types.EntityType = "User"
	typeTeam       types.EntityType = "Team"
	typeStage      types.EntityType = "Stage"
	typeLabel      types.EntityType = "Label"
	typeConnection types.EntityType = "Connection"
	typeAction     types.EntityType = "Action"
)

var (
	effects = []string{"read", "write", "irreversible"}
	kinds   = []string{"llm", "mcp", "http", "retrieval"}
	stages  = []string{"development", "staging", "production"}
)

// Stages lists the stages that an agent can be in.
func Stages() []string { return slices.Clone(stages) }

// toolKey names a tool without joining strings.
type toolKey struct{ connection, tool string }

func (k toolKey) String() string { return k.connection + "/" + k.tool }

// tool is a registered tool as decisions need it.
type tool struct {
	toolKey
	effect, kind string
	args         *argType
	uid          types.EntityUID
	resource     types.EntityUID
	keys         []types.EntityUID // its action and every group it is in
	digest       string            // of everything that bears on validation
	notes        []string
}

// toolset is every registered tool and the Cedar schema that follows from
// them. It does not change.
type toolset struct {
	tools    map[toolKey]*tool
	sorted   []*tool
	groups   map[types.EntityUID][]*tool // by action or group; the zero key holds all
	entities map[types.EntityUID]types.Entity
	resolved *resolved.Schema
	ast      *sast.Schema
	digest   string
	notes    []string // tools left out, and what policy cannot see of the others
}

func action(name string) types.EntityUID { return types.NewEntityUID(typeAction, types.String(name)) }

func connection(name string) types.EntityUID {
	return types.NewEntityUID(typeConnection, types.String(name))
}

// newToolset builds the schema. A tool it cannot describe is left out, so that
// calls to it are denied, and noted.
func newToolset(tts []ToolType) (*toolset, error) {
	ts := &toolset{tools: map[toolKey]*tool{}, groups: map[types.EntityUID][]*tool{}, entities: map[types.EntityUID]types.Entity{}}
	seen := map[toolKey]bool{}
	for _, tt := range tts {
		key := toolKey{tt.Connection, tt.Tool}
		if why := unfit(tt); why != "" || seen[key] {
			if why == "" {
				why = "it is registered twice"
				delete(ts.tools, key)
			}
			ts.notes = append(ts.notes, key.String()+": "+why+"; calls to it are denied")
			continue
		}
		seen[key] = true
		ts.tools[key] = newTool(tt)
	}
	for _, t := range ts.tools {
		ts.sorted = append(ts.sorted, t)
	}
	slices.SortFunc(ts.sorted, func(a, b *tool) int { return strings.Compare(a.String(), b.String()) })
	h := sha256.New()
	for _, t := range ts.sorted {
		ts.add(t)
		fmt.Fprintln(h, t.digest)
		for _, n := range t.notes {
			ts.notes = append(ts.notes, t.String()+": "+n)
		}
	}
	ts.digest = hex.EncodeToString(h.Sum(nil))
	ts.ast = ts.schema()
	var err error
	if ts.resolved, err = schema.NewSchemaFromAST(ts.ast).Resolve(); err != nil {
		return nil, fmt.Errorf("resolve the generated schema: %w", err)
	}
	return ts, nil
}

func unfit(tt ToolType) string {
	switch {
	case tt.Connection == "" || strings.ContainsAny(tt.Connection, "/:"):
		return "its connection's name has a slash or a colon"
	case tt.Tool == "":
		return "it has no name"
	case !slices.Contains(effects, tt.Effect):
		return "its effect is unknown"
	case !slices.Contains(kinds, tt.Kind):
		return "its kind is unknown"
	}
	return ""
}

func newTool(tt ToolType) *tool {
	t := &tool{toolKey: toolKey{tt.Connection, tt.Tool}, effect: tt.Effect, kind: tt.Kind, resource: connection(tt.Connection)}
	t.args, t.notes = typeOf(tt.InputSchema)
	t.uid = action(t.String())
	t.keys = []types.EntityUID{t.uid, action(tt.Connection), action("effect:" + tt.Effect), action("kind:" + tt.Kind)}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q %s", tt.Connection, tt.Tool, tt.Effect, tt.Kind, tt.InputSchema))
	t.digest = hex.EncodeToString(sum[:])
	return t
}

func (ts *toolset) add(t *tool) {
	ts.entities[t.uid] = types.Entity{UID: t.uid, Parents: types.NewEntityUIDSet(t.keys[1:]...)}
	for _, g := range t.keys {
		ts.groups[g] = append(ts.groups[g], t)
		if g != t.uid {
			ts.entities[g] = types.Entity{UID: g}
		}
	}
	ts.groups[types.EntityUID{}] = append(ts.groups[types.EntityUID{}], t)
	ts.entities[t.resource] = types.Entity{UID: t.resource, Attributes: types.NewRecord(types.RecordMap{
		"name": types.String(t.connection), "kind": types.String(t.kind),
	})}
}

// schema writes the Cedar schema: fixed entity types, every effect and kind as
// a group, a group per connection, an action per tool.
func (ts *toolset) schema() *sast.Schema {
	str := func() sast.Attribute { return sast.Attribute{Type: sast.String()} }
	s := &sast.Schema{
		Entities: sast.Entities{
			"Agent": {ParentTypes: []sast.EntityTypeRef{"Team", "Stage", "Label"}, Tags: sast.String(),
				Shape: sast.RecordType{"name": str(), "team": str(), "stage": str(), "owner": str()}},
			"User": {ParentTypes: []sast.EntityTypeRef{"Team"}}, "Team": {}, "Stage": {}, "Label": {},
			"Connection": {Shape: sast.RecordType{"name": str(), "kind": str()}},
		},
		Actions: sast.Actions{},
	}
	for _, e := range effects {
		s.Actions[types.String("effect:"+e)] = sast.Action{}
	}
	for _, k := range kinds {
		s.Actions[types.String("kind:"+k)] = sast.Action{}
	}
	for _, t := range ts.sorted {
		s.Actions[types.String(t.connection)] = sast.Action{}
		a := sast.Action{AppliesTo: &sast.AppliesTo{
			Principals: []sast.EntityTypeRef{"Agent"}, Resources: []sast.EntityTypeRef{"Connection"}, Context: contextType(t.args),
		}}
		for _, g := range t.keys[1:] {
			a.Parents = append(a.Parents, sast.ParentRefFromID(g.ID))
		}
		s.Actions[t.uid.ID] = a
	}
	return s
}

// contextType must agree with contextOf.
func contextType(args *argType) sast.RecordType {
	attr := func(t sast.IsType) sast.Attribute { return sast.Attribute{Type: t} }
	strs := attr(sast.Set(sast.String()))
	return sast.RecordType{
		"args":         attr(cedarType(args)),
		"run":          attr(sast.RecordType{"labels": strs, "age_seconds": attr(sast.Long()), "calls": attr(sast.Long()), "proposed": attr(sast.Bool())}),
		"caller":       attr(sast.RecordType{"remote": attr(sast.String()), "credential": attr(sast.String())}),
		"on_behalf_of": strs,
		"now":          attr(sast.Datetime()),
		"provenance": attr(sast.RecordType{
			"untrusted": attr(sast.Bool()), "asked": attr(sast.Bool()), "external": attr(sast.Bool()), "endorsed": attr(sast.Bool()), "unendorsed": strs,
			"by": strs, "confidential": attr(sast.Bool()), "cleared": attr(sast.Bool()),
		}),
		"release": attr(sast.RecordType{"number": attr(sast.Long()), "stage": attr(sast.String()), "canary": attr(sast.Bool()), "pinned": attr(sast.Bool())}),
		"budget":  attr(sast.RecordType{"left_percent": attr(sast.Long()), "limited": attr(sast.Bool()), "soft_passed": attr(sast.Bool())}),
		"user": {Optional: true, Type: sast.RecordType{"id": attr(sast.String()), "name": attr(sast.String()), "issuer": attr(sast.String()), "role": attr(sast.String()),
			"groups": strs, "teams": strs}},
	}
}

func cedarType(t *argType) sast.IsType {
	switch t.kind {
	case longArg:
		return sast.Long()
	case boolArg:
		return sast.Bool()
	case decimalArg:
		return sast.Decimal()
	case setArg:
		return sast.Set(cedarType(t.elem))
	case recordArg:
		rec := sast.RecordType{}
		for _, f := range t.fields {
			if f.typ.kind != opaque {
				rec[f.name] = sast.Attribute{Type: cedarType(f.typ), Optional: !f.required || f.typ.nullable}
			}
		}
		return rec
	default: // stringArg: opaque values have no attribute
		return sast.String()
	}
}

// Text returns the schema in Cedar's schema language.
func (ts *toolset) text() string {
	b, err := schema.NewSchemaFromAST(ts.ast).MarshalCedar()
	if err != nil {
		return "// " + err.Error()
	}
	return string(b)
}

// part returns the schema with only these tools; the groups and the actions in
// mentioned stay, but apply to nothing.
func (ts *toolset) part(tools []*tool, mentioned []types.EntityUID) *resolved.Schema {
	s := *ts.resolved
	s.Actions = make(map[types.EntityUID]resolved.Action, len(tools)+16)
	for _, t := range tools {
		s.Actions[t.uid] = ts.resolved.Actions[t.uid]
		for _, g := range t.keys[1:] {
			s.Actions[g] = ts.resolved.Actions[g]
		}
	}
	for _, uid := range mentioned {
		if _, ok := s.Actions[uid]; !ok {
			s.Actions[uid] = resolved.Action{Entity: types.Entity{UID: uid}}
		}
	}
	return &s
}

// connections returns the names of connections with tools.
func (ts *toolset) connections() []string {
	names := map[string]bool{}
	for k := range ts.tools {
		names[k.connection] = true
	}
	return slices.Sorted(maps.Keys(names))
}
