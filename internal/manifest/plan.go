package manifest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/channels"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/reviews"
	"github.com/countersign/countersign/internal/secrets"
)

// The operations of a plan.
const (
	Create = "create"
	Update = "update"
	Delete = "delete"
	None   = "none"
)

// Change is what applying one document does.
type Change struct {
	ID   string      `json:"id" doc:"kind and name"`
	Op   string      `json:"op" enum:"create,update,delete,none"`
	Kind string      `json:"kind"`
	Name string      `json:"name"`
	File string      `json:"file"`
	Line int         `json:"line,omitempty"`
	Diff []FieldDiff `json:"diff"`

	spec     any // as the rooms will store it
	res      Resource
	excepted *reviews.Exception // of a grant, so far
}

// plan is what is to be done.
type plan struct {
	changes  []Change
	problems []Problem
	warnings []string
	waiting  []string // connections whose tools must be discovered first
	fresh    bool     // a connection is new: its tools are known after a commit
	now      *state
	after    map[key]bool // what exists after applying
}

func (p *plan) problem(r Resource, field, format string, args ...any) {
	at := r.where(field)
	pr := Problem{File: at.file, Line: at.line, Column: at.column, Field: field, Message: fmt.Sprintf(format, args...)}
	if !slices.Contains(p.problems, pr) {
		p.problems = append(p.problems, pr)
	}
}

// plan compares resources with what there is, and finds everything that can be
// seen to be wrong without writing.
func (s *Service) plan(ctx context.Context, resources []Resource, values map[string]secrets.Value) (*plan, error) {
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	p := &plan{now: st, after: map[key]bool{}}
	for k := range st.specs {
		p.after[k] = true
	}
	for _, r := range resources {
		p.after[key{r.Kind, r.Name}] = !r.Absent
	}
	for _, r := range resources {
		if err := s.planOne(p, r, values); err != nil {
			return nil, err
		}
	}
	p.wait()
	for i := range p.changes {
		s.references(p, p.changes[i])
	}
	if len(p.problems) > 0 {
		return p, nil
	}
	return p, s.planPolicies(ctx, p)
}

func (s *Service) planOne(p *plan, r Resource, values map[string]secrets.Value) error {
	k := key{r.Kind, r.Name}
	old, exists := p.now.specs[k]
	c := Change{ID: strings.ToLower(r.Kind) + "/" + r.Name, Op: None, Kind: r.Kind, Name: r.Name, File: r.at.file, Line: r.at.line, Diff: []FieldDiff{}, res: r}
	switch {
	case r.Absent && exists:
		c.Op = Delete
	case r.Absent:
	default:
		c.excepted = p.now.exempt[r.Name]
		var err error
		if c.spec, err = s.settled(r, p.now); err != nil {
			if !p.refused(r, err) {
				return err
			}
			return nil
		}
		c.Diff = append(c.Diff, diff(old, c.spec)...)
		if spec, ok := c.spec.(*ConnectionSpec); ok {
			c.Diff = append(c.Diff, p.documented(r.Name, spec)...)
		}
		switch {
		case !exists && r.Kind != KindTool:
			c.Op = Create
		case len(c.Diff) > 0:
			c.Op = Update
		}
	}
	_, given := values[r.Name]
	if sec, ok := c.spec.(*SecretSpec); ok && c.Op == Create && !given && s.o.Secrets.NeedsValue(sec.secret(r.Name)) {
		p.problem(r, "spec.from", "the secret does not exist yet and no value was sent for it")
		return nil
	}
	if g, ok := c.spec.(*GrantSpec); ok && !g.Expires.IsZero() && !g.Expires.At.After(s.o.Now()) {
		if c.Op != None {
			p.problem(r, "spec.expires", "%s is not in the future", g.Expires.At.Format("2006-01-02T15:04:05Z07:00"))
			return nil
		}
		p.warnings = append(p.warnings, fmt.Sprintf("grant %s has expired and allows nothing; give it another expiry", r.Name))
	}
	p.changes = append(p.changes, c)
	return nil
}

// wait finds the connections whose tools are not known yet.
func (p *plan) wait() {
	for _, c := range p.changes {
		if c.Kind != KindConnection || c.Op == Delete || c.spec == nil {
			continue
		}
		p.fresh = p.fresh || c.Op == Create
		if slices.ContainsFunc(c.Diff, func(d FieldDiff) bool { return d.Field == "operations" || strings.HasPrefix(d.Field, "openapi.") }) {
			p.fresh, p.waiting = true, append(p.waiting, c.Name)
		}
		if c.spec.(*ConnectionSpec).Kind == connections.MCP && p.now.conns[c.Name].Discovered.IsZero() {
			p.waiting = append(p.waiting, c.Name)
		}
	}
	for name, c := range p.now.conns {
		needed := func(ch Change) bool { return ch.Op != None && mentions(ch, name) }
		if c.Kind == connections.MCP && c.Discovered.IsZero() && !slices.Contains(p.waiting, name) && slices.ContainsFunc(p.changes, needed) {
			p.waiting = append(p.waiting, name)
		}
	}
	slices.Sort(p.waiting)
}

// listed reports whether the files say what the tools of a connection are.
func (p *plan) listed(conn string) bool {
	return slices.ContainsFunc(p.changes, func(c Change) bool {
		spec, ok := c.spec.(*ConnectionSpec)
		return ok && c.Name == conn && spec.Kind == connections.HTTP
	})
}

// references checks that what a document names will be there.
func (s *Service) references(p *plan, c Change) {
	need := func(field, kind, name string) {
		if name != "" && !p.after[key{kind, name}] {
			p.problem(c.res, "spec."+field, "there is no %s %q%s", strings.ToLower(kind), cut(name), near(name, p.names(kind)))
		}
	}
	switch spec := c.spec.(type) {
	case *TeamSpec:
		for _, m := range spec.Members {
			need("members", KindUser, m)
		}
	case *GroupSpec:
		for _, m := range spec.Members {
			need("members", KindUser, m)
		}
	case *AgentSpec:
		need("owner", KindUser, spec.Owner)
		need("backup", KindUser, spec.Backup)
		need("team", KindTeam, spec.Team)
	case *TrustSpec:
		need("agent", KindAgent, spec.Agent)
	case *ConnectionSpec:
		need("owner", KindUser, spec.Owner)
		for _, name := range c.res.Spec.(*ConnectionSpec).connection(c.Name).SecretNames() {
			if !p.after[key{KindSecret, name}] {
				p.warnings = append(p.warnings, fmt.Sprintf("connection %s names the secret %s, which does not exist yet; its calls fail until it does", c.Name, name))
			}
		}
	case *ChannelSpec:
		need("owner", KindUser, spec.Owner)
		for _, g := range spec.Groups {
			need("groups", KindGroup, g)
		}
	case *SecretSpec:
		need("owner", KindUser, spec.Owner)
		if channel, ok := strings.CutPrefix(spec.Connection, channels.Prefix); ok {
			need("connection", KindChannel, channel)
		} else {
			need("connection", KindConnection, spec.Connection)
		}
	case *ToolSpec:
		s.toolReference(p, c, spec)
	case *BudgetSpec:
		need("agent", KindAgent, spec.Agent)
		need("team", KindTeam, spec.Team)
		conn, _ := splitTool(spec.Tool)
		need("tool", KindConnection, conn)
	case *GrantSpec:
		need("agent", KindAgent, spec.Agent)
		need("connection", KindConnection, spec.Connection)
	}
}

func (s *Service) toolReference(p *plan, c Change, spec *ToolSpec) {
	conn, tool := splitTool(c.Name)
	if !p.after[key{KindConnection, conn}] {
		p.problem(c.res, "name", "there is no connection %q%s", conn, near(conn, p.names(KindConnection)))
		return
	}
	if slices.Contains(p.waiting, conn) {
		if names, ok := p.declaredNames(conn); ok && !slices.Contains(names, tool) {
			p.problem(c.res, "name", "%s will have no tool %q%s", conn, cut(tool), near(tool, names))
		}
		return
	}
	t, ok := s.o.Connections.Tool(conn, tool)
	var names []string
	for _, t := range s.o.Connections.Tools(conn) {
		names = append(names, t.Name)
	}
	switch {
	case !ok:
		p.problem(c.res, "name", "%s has no tool %q%s", conn, cut(tool), near(tool, names))
	case t.Builtin:
		p.problem(c.res, "name", "%s", connections.ErrBuiltin.Message)
	case t.Status == connections.StatusNew:
		p.problem(c.res, "name", "nobody has accepted this tool yet: countersign tool diff %s", c.Name)
	case !slices.Contains([]string{connections.Read, connections.Write, connections.Irreversible}, spec.Effect):
		p.problem(c.res, "spec.effect", "%q must be read, write or irreversible", cut(spec.Effect))
	case len(c.Diff) > 0:
		if _, err := spec.references().Normalize(t.InputSchema); err != nil {
			p.refused(c.res, err)
		}
	}
}

// splitTool splits "connection/tool"; the tool's own name may hold slashes.
func splitTool(name string) (conn, tool string) {
	conn, tool, _ = strings.Cut(name, "/")
	return conn, tool
}

func (p *plan) names(kind string) []string {
	var names []string
	for k, exists := range p.after {
		if exists && k.kind == kind {
			names = append(names, k.name)
		}
	}
	slices.Sort(names)
	return names
}

// planPolicies compiles all policies and grants as they will be, over the tools
// as they will be. What concerns tools that are still to be discovered is
// checked later.
func (s *Service) planPolicies(ctx context.Context, p *plan) error {
	files, grants, err := s.future(ctx, p)
	if err != nil {
		return err
	}
	tools := s.futureTools(p)
	_, found, err := policy.Compile(files, grants, tools)
	if err != nil {
		return err
	}
	for _, problem := range found {
		c, ok := p.owner(problem.File)
		if !ok || c.Op == None {
			continue // not ours, or saved like this
		}
		if problem.Policy != "" && p.mentionsWaiting(c) {
			continue
		}
		p.addPolicyProblem(c, problem, tools)
	}
	for _, name := range p.waiting {
		if p.listed(name) {
			continue
		}
		p.warnings = append(p.warnings, fmt.Sprintf("the tools of %s are not known yet; what names them is checked after they are discovered", name))
	}
	return nil
}

// owner returns the change that a policy problem is about.
func (p *plan) owner(file string) (Change, bool) {
	kind := KindPolicy
	if name, ok := strings.CutPrefix(file, "grant:"); ok {
		kind, file = KindGrant, name
	}
	for _, c := range p.changes {
		if c.Kind == kind && c.Name == file {
			return c, true
		}
	}
	return Change{}, false
}

func (p *plan) mentionsWaiting(c Change) bool {
	return slices.ContainsFunc(p.waiting, func(conn string) bool { return mentions(c, conn) })
}

// mentions reports whether a change is about the tools of a connection.
func mentions(c Change, conn string) bool {
	switch spec := c.spec.(type) {
	case *ToolSpec:
		return spec.Connection == conn
	case *GrantSpec:
		return spec.Connection == conn
	case *PolicySpec:
		return strings.Contains(spec.Text, `"`+conn+`"`) || strings.Contains(spec.Text, `"`+conn+`/`)
	}
	return false
}

func (p *plan) addPolicyProblem(c Change, problem policy.Problem, tools []policy.ToolType) {
	spec, isGrant := c.spec.(*GrantSpec)
	if !isGrant {
		p.problems = append(p.problems, Problem{File: c.File, Line: problem.Line, Column: problem.Column, Field: problem.Policy, Message: problem.Message})
		return
	}
	known := map[string]bool{"*": true}
	for _, t := range tools {
		if t.Connection == spec.Connection {
			known[t.Tool] = true
		}
	}
	for i, t := range spec.Tools {
		if !known[t] {
			p.problem(c.res, fmt.Sprintf("spec.tools[%d]", i), "%s has no tool %q%s", spec.Connection, cut(t), near(t, slices.Sorted(maps.Keys(known))))
			return
		}
	}
	field := "spec.when"
	if spec.When == "" {
		field = "spec.tools"
	}
	p.problem(c.res, field, "%s", strings.TrimPrefix(problem.Message, "when: "))
}

func (s *Service) future(ctx context.Context, p *plan) (map[string]string, []policy.Grant, error) {
	files := map[string]string{}
	for k, spec := range p.now.specs {
		if k.kind == KindPolicy {
			files[k.name] = spec.(*PolicySpec).Text
		}
	}
	current, err := s.o.Policy.Grants(ctx, "")
	if err != nil {
		return nil, nil, err
	}
	grants := slices.DeleteFunc(current, func(g policy.Grant) bool {
		return slices.ContainsFunc(p.changes, func(c Change) bool { return c.Kind == KindGrant && c.Name == g.Name })
	})
	for _, c := range p.changes {
		switch spec := c.spec.(type) {
		case *PolicySpec:
			files[c.Name] = spec.Text
		case *GrantSpec:
			grants = append(grants, grantOf(c.Name, spec))
		case nil:
			if c.Kind == KindPolicy {
				delete(files, c.Name)
			}
		}
	}
	return files, grants, nil
}

func (s *Service) futureTools(p *plan) []policy.ToolType {
	effects := map[string]string{}
	var tools []policy.ToolType
	for _, c := range p.changes {
		switch spec := c.spec.(type) {
		case *ToolSpec:
			effects[c.Name] = spec.Effect
		case *ConnectionSpec:
			if c.Op == Create {
				for _, t := range connections.BuiltinTypes(spec.connection(c.Name)) {
					tools = append(tools, policy.ToolType(t))
				}
			}
		}
	}
	for _, t := range s.o.Connections.ToolTypes() {
		if !p.after[key{KindConnection, t.Connection}] {
			continue
		}
		if e := effects[t.Connection+"/"+t.Tool]; e != "" {
			t.Effect = e
		}
		tools = append(tools, policy.ToolType(t))
	}
	return tools
}

// shownKinds are the faults that a change of the files can mend.
var shownKinds = []fault.Kind{fault.Invalid, fault.Denied, fault.NotFound, fault.Conflict, fault.TooLarge, fault.Unsupported}

// refused turns what a room said about a resource into a problem at its place;
// false if the error is not about the files.
func (p *plan) refused(r Resource, err error) bool {
	public := fault.Public(err)
	if !slices.Contains(shownKinds, public.Kind) {
		return false
	}
	var fe *connections.FieldError
	if errors.As(err, &fe) {
		field := "spec." + fe.Field
		if fe.Field == "name" {
			field = "name"
		}
		p.problem(r, field, "%s", fe.Message)
		return true
	}
	field := ""
	if !errors.Is(err, identity.ErrAdminOnly) && !errors.Is(err, policy.ErrProblems) {
		field = mentionedField(r, public.Message)
	}
	p.problem(r, field, "%s", public.Message)
	return true
}

// mentionedField finds the field of r that a message begins with, after what
// it says about whom it speaks ("agent x: owner: …", "role must be …").
func mentionedField(r Resource, message string) string {
	best, at := "", len(message)
	for field := range r.fields {
		name, ok := strings.CutPrefix(field, "spec.")
		if !ok {
			continue
		}
		m := regexp.MustCompile(`(^|: )` + regexp.QuoteMeta(name) + `(:| must| may)`).FindStringIndex(message)
		if m != nil && m[0] < at {
			best, at = field, m[0]
		}
	}
	return best
}
