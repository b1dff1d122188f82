package manifest

import (
	"context"
	"encoding/json/v2"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/connections/mapping"
	"github.com/countersign/countersign/internal/detection"
	"github.com/countersign/countersign/internal/flow"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/reviews"
)

// key names a resource.
type key struct{ kind, name string }

// state is everything that can be written as a file, as it is now.
type state struct {
	specs   map[key]any
	created map[string]time.Time              // of grants
	exempt  map[string]*reviews.Exception     // by grant: those that are for what it gives
	conns   map[string]connections.Connection // by name
	// declared are the operations of connections out of documents that files
	// named; documented are these and what was imported.
	declared, documented map[string][]connections.Tool
}

// read looks at all rooms.
func (s *Service) read(ctx context.Context) (*state, error) {
	st := &state{specs: map[key]any{}, created: map[string]time.Time{}, exempt: map[string]*reviews.Exception{}, conns: map[string]connections.Connection{}, declared: map[string][]connections.Tool{}, documented: map[string][]connections.Tool{}}
	st.people(s)
	st.upstreams(s)
	for _, c := range s.o.Channels.Channels() {
		st.specs[key{KindChannel, c.Name}] = channelSpec(c)
	}
	for _, r := range s.o.Detection.Own() {
		st.specs[key{KindDetection, r.ID}] = detectionSpec(r)
	}
	for _, b := range s.o.Budgets.Budgets() {
		st.specs[key{KindBudget, b.Name}] = budgetSpec(b)
	}
	if err := st.trust(ctx, s); err != nil {
		return nil, err
	}
	secretList, err := s.o.Secrets.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, sec := range secretList {
		st.specs[key{KindSecret, sec.Name}] = secretSpec(sec.Spec)
	}
	grants, err := s.o.Policy.Grants(ctx, "")
	if err != nil {
		return nil, err
	}
	for _, g := range grants {
		st.specs[key{KindGrant, g.Name}] = &GrantSpec{Agent: g.Agent, Connection: g.Connection, Tools: g.Tools, When: g.When, Expires: Expiry{At: g.Expires}, Reason: g.Reason}
		st.created[g.Name] = g.Created
	}
	if err := st.exceptions(ctx, s); err != nil {
		return nil, err
	}
	files, err := s.o.Policy.Files(ctx)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		st.specs[key{KindPolicy, f.Name}] = &PolicySpec{Text: f.Text}
	}
	return st, nil
}

func (st *state) people(s *Service) {
	for _, u := range s.o.Identity.Users() {
		st.specs[key{KindUser, u.Name}] = &UserSpec{Email: u.Email, DisplayName: u.DisplayName, Role: u.Role, Disabled: u.Disabled}
	}
	for _, t := range s.o.Identity.Teams() {
		st.specs[key{KindTeam, t.Name}] = &TeamSpec{Description: t.Description, Members: t.Members}
	}
	for _, g := range s.o.Identity.Groups() {
		st.specs[key{KindGroup, g.Name}] = &GroupSpec{Description: g.Description, Members: g.Members}
	}
	for _, a := range s.o.Identity.Agents() {
		st.specs[key{KindAgent, a.Name}] = &AgentSpec{Owner: a.Owner, Backup: a.Backup, Team: a.Team, Purpose: a.Purpose,
			BusinessProcess: a.BusinessProcess, Stage: a.Stage, Labels: a.Labels}
	}
}

func (st *state) upstreams(s *Service) {
	for _, c := range s.o.Connections.Connections() {
		st.conns[c.Name] = c
		spec := connectionSpec(c)
		spec.Operations = s.o.Connections.Listed(c.Name)
		st.declared[c.Name], st.documented[c.Name] = s.o.Connections.Documented(c.Name, false), s.o.Connections.Documented(c.Name, true)
		if len(st.declared[c.Name]) > 0 {
			spec.OpenAPI = &OpenAPISpec{File: documentOf(c.Name)}
		}
		st.specs[key{KindConnection, c.Name}] = spec
		for _, t := range s.o.Connections.Tools(c.Name) {
			if !t.Builtin && t.Status != connections.StatusNew {
				st.specs[key{KindTool, c.Name + "/" + t.Name}] = toolSpec(c, t)
			}
		}
	}
}

func toolSpec(c connections.Connection, t connections.Tool) *ToolSpec {
	spec := &ToolSpec{Connection: c.Name, Effect: t.Effect, Subject: t.References.Subject, Objects: t.References.Objects, Template: t.References.Template, Proposal: t.References.Proposal, Limits: t.References.Limits, UndoWindow: t.References.UndoWindow}
	if f := t.References.Flow; !f.IsZero() {
		spec.Flow = &f
	}
	if u := t.References.Undo; !u.IsZero() {
		spec.Undo = &u
	}
	return spec
}

// connectionSpec leaves the usual capture out.
func connectionSpec(c connections.Connection) *ConnectionSpec {
	if c.Capture == connections.CaptureRedacted {
		c.Capture = ""
	}
	return &ConnectionSpec{Kind: c.Kind, Dialect: c.Dialect, URL: c.URL, Command: c.Command, Env: c.Env, Owner: c.Owner, Secret: c.Secret,
		Auth: c.Auth, Description: c.Description, AllowPrivate: c.AllowPrivate, Timeout: Duration(c.Timeout), Capture: c.Capture, Proposal: c.Proposal, Retrieval: c.Retrieval, Inspect: c.Inspect, Stages: c.Stages}
}

// settled returns a spec as the rooms will store it, so that it can be compared
// with what is stored. Problems carry the field they are about.
func (s *Service) settled(r Resource, st *state) (any, error) {
	switch spec := r.Spec.(type) {
	case *TeamSpec:
		return &TeamSpec{Description: spec.Description, Members: slices.Compact(slices.Sorted(slices.Values(spec.Members)))}, nil
	case *GroupSpec:
		return &GroupSpec{Description: spec.Description, Members: slices.Compact(slices.Sorted(slices.Values(spec.Members)))}, nil
	case *TrustSpec:
		t, err := settledTrust(r.Name, spec)
		if err != nil {
			return nil, err
		}
		return t, nil
	case *ConnectionSpec:
		c, err := s.o.Connections.Check(spec.connection(r.Name))
		if err != nil {
			return nil, err
		}
		settled := connectionSpec(c)
		if settled.Operations, err = connections.NormalizeListed(c, spec.Operations); err != nil || spec.OpenAPI == nil {
			return settled, err
		}
		settled.OpenAPI = spec.OpenAPI
		settled.declared, err = connections.ReadDocument(c, spec.OpenAPI.bytes(), spec.OpenAPI.Only...)
		return settled, err
	case *ChannelSpec:
		c, err := spec.channel(r.Name).Normalize()
		if err != nil {
			return nil, err
		}
		return channelSpec(c), nil
	case *SecretSpec:
		n, err := spec.secret(r.Name).Normalize()
		if err != nil {
			return nil, err
		}
		return secretSpec(n), nil
	case *BudgetSpec:
		b, err := spec.budget(r.Name)
		if err != nil {
			return nil, err
		}
		return budgetSpec(b), nil
	case *DetectionSpec:
		rule := spec.rule(r.Name).Plain()
		return detectionSpec(rule), detection.Check(rule)
	case *GrantSpec:
		g := *spec
		g.Expires = Expiry{At: s.expires(r.Name, spec.Expires, st)}
		g.Exception = s.exception(spec.Exception, st.exempt[r.Name])
		return &g, nil
	}
	return r.Spec, nil
}

// expires turns "90d" into a time: that long after the grant was first given,
// so that applying the same file again never prolongs it.
func (s *Service) expires(grant string, e Expiry, st *state) time.Time {
	if e.After == 0 {
		return e.At
	}
	first, ok := st.created[grant]
	if !ok {
		first = s.o.Now()
	}
	at := first.Add(e.After).UTC().Truncate(time.Microsecond)
	// The grant was created a moment after its expiry had been reckoned.
	if old, ok := st.specs[key{KindGrant, grant}].(*GrantSpec); ok && at.Sub(old.Expires.At).Abs() < time.Minute {
		return old.Expires.At
	}
	return at
}

// exceptions adds to grants the exceptions that are for what they give.
func (st *state) exceptions(ctx context.Context, s *Service) error {
	if s.o.Reviews == nil {
		return nil
	}
	all, err := s.o.Reviews.Exceptions(ctx)
	for _, e := range all {
		if g, ok := st.specs[key{KindGrant, e.Grant}].(*GrantSpec); ok && e.Covers(grantOf(e.Grant, g)) {
			g.Exception, st.exempt[e.Grant] = exceptionSpec(&e), &e
		}
	}
	return err
}

// exception turns "90d" into a time: that long after the exception was made, so that
// applying the same file again never prolongs it.
func (s *Service) exception(e *ExceptionSpec, now *reviews.Exception) *ExceptionSpec {
	if e == nil || e.Until.After == 0 {
		return e
	}
	made := s.o.Now()
	if now != nil {
		made = now.Created
	}
	next := *e
	next.Until = Expiry{At: made.Add(e.Until.After).UTC().Truncate(time.Microsecond)}
	if now != nil && next.Until.At.Sub(now.Until).Abs() < time.Minute { // it was made a moment after its end had been reckoned
		next.Until.At = now.Until
	}
	return &next
}

func grantOf(name string, g *GrantSpec) policy.Grant {
	return policy.Grant{Name: name, Agent: g.Agent, Connection: g.Connection, Tools: g.Tools, When: g.When, Expires: g.Expires.At}
}

// FieldDiff is one field that changes.
type FieldDiff struct {
	Field string `json:"field"`
	Old   string `json:"old"`
	New   string `json:"new"`
}

// uncompared fields say why, not what.
var uncompared = map[string]bool{"reason": true, "from": true}

// diff compares two specs of the same type; old may be nil.
func diff(old, now any) []FieldDiff {
	if p, ok := now.(*PolicySpec); ok {
		was, _ := old.(*PolicySpec)
		if was == nil {
			return []FieldDiff{{"text", "", p.Text}}
		}
		if was.Text == p.Text {
			return nil
		}
		return []FieldDiff{{"text", was.Text, p.Text}}
	}
	a, b := rendered(old), rendered(now)
	keys := maps.Clone(a)
	if keys == nil {
		keys = map[string]string{}
	}
	maps.Copy(keys, b)
	var lines []FieldDiff
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		if a[k] != b[k] && !uncompared[k] {
			lines = append(lines, FieldDiff{k, a[k], b[k]})
		}
	}
	return lines
}

// rendered returns a spec's fields as text, empty ones left out.
func rendered(spec any) map[string]string {
	if spec == nil {
		return nil
	}
	v := reflect.ValueOf(spec).Elem()
	out := map[string]string{}
	for i := range v.NumField() {
		if !v.Type().Field(i).IsExported() {
			continue
		}
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		if text := renderedField(v.Field(i)); text != "" {
			out[name] = text
		}
	}
	return out
}

func renderedField(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case string:
		return x
	case Quantity:
		return string(x)
	case bool:
		if x {
			return "true"
		}
		return ""
	case Duration:
		if x == 0 {
			return ""
		}
		return time.Duration(x).String()
	case Expiry:
		if x.IsZero() {
			return ""
		}
		return x.At.UTC().Format(time.RFC3339Nano)
	case *From, *OpenAPISpec: // of a document is compared what it declares
		return ""
	case *ExceptionSpec:
		if x == nil {
			return ""
		}
		return fmt.Sprintf("%s until %s: %s", x.Owner, x.Until.At.UTC().Format(time.RFC3339Nano), x.Reason)
	case *flow.Spec:
		if x == nil || x.IsZero() {
			return ""
		}
	case *connections.Undo:
		if x == nil || x.IsZero() {
			return ""
		}
	case *mapping.Mapping:
		if x == nil {
			return ""
		}
	default:
		if v.Len() == 0 {
			return ""
		}
	}
	b, err := json.Marshal(v.Interface(), json.Deterministic(true))
	if err != nil {
		return ""
	}
	return string(b)
}
