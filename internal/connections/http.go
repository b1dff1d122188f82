package connections

import (
	"context"
	"encoding/json/jsontext"
	"net/http"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections/mapping"
	"github.com/countersign/countersign/internal/connections/openapi"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/flow"
	"github.com/countersign/countersign/internal/rest"
)

// Row is a connection in a listing.
type Row struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Kind     string    `json:"kind"`
	Dialect  string    `json:"dialect,omitempty"`
	Target   string    `json:"target" doc:"URL, or the command's program"`
	Owner    string    `json:"owner"`
	Secret   string    `json:"secret,omitempty"`
	Tools    int       `json:"tools" doc:"accepted, built-in ones not counted"`
	Drifted  int       `json:"drifted" doc:"tools refused until a person looks: drifted or new"`
	LastUsed time.Time `json:"last_used,omitzero"`
}

// Spec is what a person says of a connection.
type Spec struct {
	Kind         string            `json:"kind" enum:"llm,mcp,http,retrieval"`
	Dialect      string            `json:"dialect,omitempty" doc:"of an llm: openai or anthropic; of an http: git or nothing; of a retrieval: embedded, postgres, opensearch, qdrant or search"`
	URL          string            `json:"url,omitempty"`
	Command      []string          `json:"command,omitempty" doc:"program and arguments of an mcp server over stdio"`
	Env          map[string]string `json:"env,omitempty" doc:"its environment; a value may be secret://NAME"`
	Owner        string            `json:"owner"`
	Secret       string            `json:"secret,omitempty" doc:"name of the secret sent with each request"`
	Auth         string            `json:"auth,omitempty" doc:"bearer, x-api-key, basic, none or header:NAME"`
	Description  string            `json:"description,omitempty"`
	AllowPrivate bool              `json:"allow_private,omitempty"`
	Timeout      string            `json:"timeout,omitempty" doc:"until the answer begins, such as 30s; empty: the default"`
	Capture      string            `json:"capture,omitempty" doc:"how much of its payloads the log keeps: full, redacted or digest; empty: redacted"`
	Proposal     string            `json:"proposal,omitempty" doc:"what kind of proposal every answer is, such as anomaly; empty: none"`
	Retrieval    *mapping.Mapping  `json:"retrieval,omitempty" doc:"of a retrieval: how the documents of its engine are read"`
	Inspect      map[string]string `json:"inspect,omitempty" doc:"what is done about what is found in its calls: label (secret, pii, injection) to note, redact, pseudonymise, block or hold:GROUP; guard names a guardrail service; left out: note"`
	Stages       []string          `json:"stages,omitempty" doc:"the stages whose agents may reach it: development, staging, production; left out: every stage"`
}

// Detail is a connection with everything about it.
type Detail struct {
	ID         string    `json:"id"`
	Name       string    `json:"name"`
	Created    time.Time `json:"created"`
	Updated    time.Time `json:"updated"`
	Discovered time.Time `json:"discovered,omitzero" doc:"when its tools were first pinned"`
	LastUsed   time.Time `json:"last_used,omitzero"`
	Spec       Spec      `json:"spec"`
	Tools      []ToolRow `json:"tools"`
	Warnings   []string  `json:"warnings,omitempty"`
}

// ToolRow is a tool in a listing.
type ToolRow struct {
	ID          string            `json:"id"`
	Connection  string            `json:"connection"`
	Name        string            `json:"name"`
	Effect      string            `json:"effect"`
	Status      string            `json:"status"`
	Builtin     bool              `json:"builtin,omitempty"`
	Description string            `json:"description,omitempty"`
	Subject     string            `json:"subject,omitempty" doc:"path of the argument that names the person a call is about"`
	Objects     map[string]string `json:"objects,omitempty" doc:"paths of the arguments that name business objects, by the objects' type"`
	Template    string            `json:"template,omitempty" doc:"how a call is said in plain words to who decides about it"`
	Proposal    string            `json:"proposal,omitempty" doc:"what kind of proposal an answer is"`
	Flow        flow.Spec         `json:"flow,omitzero" doc:"who writes what the tool answers, and which arguments matter"`
	Undo        Undo              `json:"undo,omitzero" doc:"how a call of it is undone"`
	UndoWindow  string            `json:"undo_window,omitempty" doc:"how long a call waits before it is sent, and can be cancelled"`
	Limits      map[string]string `json:"limits,omitempty" doc:"calls and agent_calls such as 60/1m, result such as 64KiB"`
	Digest      string            `json:"digest,omitempty" doc:"of the accepted definition"`
	DriftDigest string            `json:"drift_digest,omitempty" doc:"of the definition as seen now; accept takes it"`
	PinnedBy    string            `json:"pinned_by,omitempty"`
	PinnedAt    time.Time         `json:"pinned_at,omitzero"`
	SeenAt      time.Time         `json:"seen_at,omitzero"`
}

// ToolDetail is a tool with its definitions.
type ToolDetail struct {
	ToolRow
	Definition  any `json:"definition,omitempty" doc:"as accepted"`
	Drift       any `json:"drift,omitempty" doc:"as seen now, where it differs"`
	InputSchema any `json:"input_schema"`
}

// Difference is what changed in a tool's definition since it was accepted.
type Difference struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	Digest string `json:"digest" doc:"what accept takes"`
	Lines  []Line `json:"lines"`
}

type byName struct {
	Name string `path:"name"`
}

// ToolPath names a tool in a path.
type ToolPath struct {
	Connection string `path:"connection"`
	Tool       string `path:"tool" doc:"percent-encoded"`
}

// Routes declares the room's operations.
func (s *Service) Routes(api *rest.API) {
	op := func(method, path, summary string, need rest.Need) rest.Op {
		return rest.Op{Method: method, Path: "/api/v1" + path, Summary: summary, Tag: "connections", Need: need}
	}
	own := func(method, path, summary, of string) rest.Op {
		o := op(method, path, summary, rest.Own)
		o.Of = of
		return o
	}
	rest.Handle(api, op(http.MethodGet, "/connections", "List connections", rest.Read), s.httpList)
	rest.Handle(api, op(http.MethodGet, "/connections/{name}", "Show a connection", rest.Read), s.httpGet)
	rest.Handle(api, op(http.MethodPut, "/connections/{name}", "Register or update a connection; the tools of a new mcp connection are discovered and pinned", rest.Write), s.httpPut)
	rest.Handle(api, op(http.MethodDelete, "/connections/{name}", "Delete a connection", rest.Write), s.httpDelete)
	rest.Handle(api, own(http.MethodPost, "/connections/{name}/refresh", "Ask an mcp connection for its tools", "connection/{name}"), s.httpRefresh)
	imports := own(http.MethodPost, "/connections/{name}/import", "Read the operations of an http connection out of an OpenAPI document", "connection/{name}")
	imports.MaxBody = 2 * openapi.MaxDocument // escaped in JSON
	rest.Handle(api, imports, s.httpImport)
	rest.Handle(api, op(http.MethodGet, "/tools", "List tools", rest.Read), s.httpTools)
	rest.Handle(api, op(http.MethodGet, "/connections/{connection}/tools/{tool}", "Show a tool", rest.Read), s.httpTool)
	rest.Handle(api, op(http.MethodPatch, "/connections/{connection}/tools/{tool}", "Say what effect a tool has and what its arguments mean", rest.Write), s.httpSay)
	rest.Handle(api, own(http.MethodPost, "/connections/{connection}/tools/{tool}/accept", "Accept a drifted or new tool", "connection/{connection}"), s.httpAccept)
	rest.Handle(api, op(http.MethodGet, "/connections/{connection}/tools/{tool}/diff", "Show how a tool differs from what was accepted", rest.Read), s.httpDiff)
}

func person(c rest.Caller) audit.Actor { return audit.Person(c.ID, c.Name) }

func first(reasons ...string) string {
	for _, r := range reasons {
		if r != "" {
			return r
		}
	}
	return ""
}

func (s *Service) httpList(ctx context.Context, _ rest.Caller, _ *struct{}) (*[]Row, error) {
	used, err := s.LastUses(ctx)
	if err != nil {
		return nil, err
	}
	rows := []Row{}
	for _, c := range s.Connections() {
		rows = append(rows, s.row(c, used[c.Name]))
	}
	return &rows, nil
}

func (s *Service) row(c Connection, used time.Time) Row {
	r := Row{ID: c.ID, Name: c.Name, Kind: c.Kind, Dialect: c.Dialect, Target: c.URL, Owner: c.Owner, Secret: c.Secret, LastUsed: used}
	if len(c.Command) > 0 {
		r.Target = c.Command[0]
	}
	for _, t := range s.Tools(c.Name) {
		switch {
		case t.Status == StatusDrifted || t.Status == StatusNew:
			r.Drifted++
		case t.Status == StatusPinned && !t.Builtin:
			r.Tools++
		}
	}
	return r
}

func (s *Service) httpGet(ctx context.Context, _ rest.Caller, r *byName) (*Detail, error) {
	c, ok := s.Connection(r.Name)
	if !ok {
		return nil, ErrNotFound.Say("there is no connection %q", clip(r.Name))
	}
	used, err := s.LastUses(ctx)
	if err != nil {
		return nil, err
	}
	d := Detail{ID: c.ID, Name: c.Name, Created: c.Created, Updated: c.Updated, Discovered: c.Discovered, LastUsed: used[c.Name], Spec: c.spec(), Tools: []ToolRow{}}
	for _, t := range s.Tools(c.Name) {
		d.Tools = append(d.Tools, toolRowOf(t))
	}
	return &d, nil
}

func (c Connection) spec() Spec {
	sp := Spec{Kind: c.Kind, Dialect: c.Dialect, URL: c.URL, Command: c.Command, Env: c.Env, Owner: c.Owner, Secret: c.Secret,
		Auth: c.Auth, Description: c.Description, AllowPrivate: c.AllowPrivate, Capture: c.Capture, Proposal: c.Proposal, Retrieval: c.Retrieval, Inspect: c.Inspect, Stages: c.Stages}
	if c.Timeout > 0 {
		sp.Timeout = c.Timeout.String()
	}
	return sp
}

func (sp Spec) connection(name string) (Connection, error) {
	c := Connection{Name: name, Kind: sp.Kind, Dialect: sp.Dialect, URL: sp.URL, Command: sp.Command, Env: sp.Env, Owner: sp.Owner,
		Secret: sp.Secret, Auth: sp.Auth, Description: sp.Description, AllowPrivate: sp.AllowPrivate, Capture: sp.Capture, Proposal: sp.Proposal, Retrieval: sp.Retrieval, Inspect: sp.Inspect, Stages: sp.Stages}
	if sp.Timeout != "" {
		d, err := time.ParseDuration(sp.Timeout)
		if err != nil {
			return c, bad("timeout", "%q is not a duration such as 30s", clip(sp.Timeout))
		}
		c.Timeout = d
	}
	return c, nil
}

// httpPut registers first and discovers then: a connection whose upstream does
// not answer yet is registered all the same, and the answer says so.
func (s *Service) httpPut(ctx context.Context, c rest.Caller, r *struct {
	Name string `path:"name"`
	Body Spec
}) (*Detail, error) {
	conn, err := r.Body.connection(r.Name)
	if err != nil {
		return nil, err
	}
	if _, err := s.Register(ctx, person(c), c.Reason, conn); err != nil {
		return nil, err
	}
	var warnings []string
	if now, ok := s.Connection(r.Name); ok && now.Kind == MCP && now.Discovered.IsZero() {
		if _, err := s.Refresh(ctx, person(c), c.Reason, r.Name); err != nil {
			s.logger.Warn("cannot discover tools", "connection", r.Name, "error", err)
			warnings = append(warnings, "registered, but its tools could not be discovered ("+fault.Public(err).Message+
				"); none can be called until this works: countersign connection refresh "+r.Name)
		}
	}
	d, err := s.httpGet(ctx, c, &byName{r.Name})
	if err != nil {
		return nil, err
	}
	d.Warnings = warnings
	return d, nil
}

func (s *Service) httpDelete(ctx context.Context, c rest.Caller, r *byName) (*rest.None, error) {
	return nil, s.Delete(ctx, person(c), c.Reason, r.Name)
}

func (s *Service) httpRefresh(ctx context.Context, c rest.Caller, r *byName) (*Refreshed, error) {
	out, err := s.Refresh(ctx, person(c), c.Reason, r.Name)
	if err != nil {
		return nil, err
	}
	return &out, nil
}

func (s *Service) httpImport(ctx context.Context, c rest.Caller, r *struct {
	Name string `path:"name"`
	Body struct {
		Document string   `json:"document" doc:"OpenAPI 3.0 or 3.1, JSON or YAML"`
		Only     []string `json:"only,omitempty" doc:"patterns of operationId, such as repos/*; empty: all"`
	}
}) (*Imported, error) {
	out, err := s.Import(ctx, person(c), c.Reason, r.Name, []byte(r.Body.Document), r.Body.Only...)
	if err != nil {
		return nil, err
	}
	return &out, nil
}

func (s *Service) httpTools(_ context.Context, _ rest.Caller, r *struct {
	Connection string `query:"connection"`
	Status     string `query:"status" doc:"pinned, drifted, new or gone"`
	Builtin    bool   `query:"builtin" doc:"built-in tools too"`
}) (*[]ToolRow, error) {
	rows := []ToolRow{}
	for _, c := range s.Connections() {
		if r.Connection != "" && r.Connection != c.Name {
			continue
		}
		for _, t := range s.Tools(c.Name) {
			if (r.Status == "" || r.Status == t.Status) && (r.Builtin || !t.Builtin || c.Dialect != "" && !t.Protocol()) {
				rows = append(rows, toolRowOf(t))
			}
		}
	}
	if _, ok := s.Connection(r.Connection); r.Connection != "" && !ok {
		return nil, ErrNotFound.Say("there is no connection %q", clip(r.Connection))
	}
	return &rows, nil
}

func toolRowOf(t Tool) ToolRow {
	return ToolRow{ID: t.ID, Connection: t.Connection, Name: t.Name, Effect: t.Effect, Status: t.Status, Builtin: t.Builtin, Description: t.Description,
		Subject: t.References.Subject, Objects: t.References.Objects, Template: t.References.Template, Proposal: t.References.Proposal, Flow: t.References.Flow, Limits: t.References.Limits, Undo: t.References.Undo, UndoWindow: t.References.UndoWindow,
		Digest: t.Digest, DriftDigest: t.DriftDigest, PinnedBy: t.PinnedBy, PinnedAt: t.PinnedAt, SeenAt: t.SeenAt}
}

func (s *Service) find(r ToolPath) (Tool, error) {
	t, ok := s.Tool(r.Connection, r.Tool)
	if !ok {
		return t, ErrNoTool.Say("there is no tool %s in %q", shown(r.Tool), clip(r.Connection))
	}
	return t, nil
}

func (s *Service) httpTool(_ context.Context, _ rest.Caller, r *ToolPath) (*ToolDetail, error) {
	t, err := s.find(*r)
	if err != nil {
		return nil, err
	}
	return &ToolDetail{ToolRow: toolRowOf(t), Definition: raw(t.Definition), Drift: raw(t.Drift), InputSchema: raw(t.InputSchema)}, nil
}

// embedded is JSON that goes into an answer as it is.
type embedded jsontext.Value

// MarshalJSON implements json.Marshaler.
func (e embedded) MarshalJSON() ([]byte, error) { return e, nil }

func raw(v jsontext.Value) any {
	if len(v) == 0 {
		return nil
	}
	return embedded(v)
}

// httpSay changes what is in the body and leaves the rest.
func (s *Service) httpSay(ctx context.Context, c rest.Caller, r *struct {
	ToolPath
	Body struct {
		Effect   string             `json:"effect,omitempty" enum:"read,write,irreversible"`
		Subject  *string            `json:"subject,omitempty" maxLength:"256" doc:"path of the argument that names the person a call is about, such as customer.email; empty: none"`
		Objects  *map[string]string `json:"objects,omitempty" doc:"paths of the arguments that name business objects, by the objects' type; replaces all"`
		Template *string            `json:"template,omitempty" maxLength:"500" doc:"how a call is said in plain words, such as {agent} wants to pay {amount|money:EUR} to {payee}; empty: by its arguments"`
		Proposal *string            `json:"proposal,omitempty" maxLength:"32" doc:"what kind of proposal an answer is, such as anomaly; empty: none"`
		Flow     *flow.Spec         `json:"flow,omitempty" doc:"who writes what the tool answers, and which arguments matter"`
		Undo     *Undo              `json:"undo,omitempty" doc:"how a call of it is undone; empty: it cannot be"`
		Window   *string            `json:"undo_window,omitempty" maxLength:"20" doc:"how long a call with an effect waits before it is sent, and can be cancelled, such as 30s; empty: it is sent at once"`
		Limits   *map[string]string `json:"limits,omitempty" doc:"calls and agent_calls such as 60/1m, result such as 64KiB; replaces all"`
		Reason   string             `json:"reason,omitempty" doc:"or the header X-Countersign-Reason"`
	}
}) (*ToolDetail, error) {
	reason := first(r.Body.Reason, c.Reason)
	err := s.change(ctx, func(tx *audit.Tx) error {
		if r.Body.Effect != "" {
			if _, err := s.SetEffectTx(ctx, tx, person(c), reason, r.Connection, r.Tool, r.Body.Effect); err != nil {
				return err
			}
		}
		if r.Body.Subject == nil && r.Body.Objects == nil && r.Body.Template == nil && r.Body.Proposal == nil && r.Body.Flow == nil && r.Body.Limits == nil && r.Body.Undo == nil && r.Body.Window == nil {
			return nil
		}
		t, err := s.toolTx(ctx, tx, r.Connection, r.Tool)
		if err != nil {
			return err
		}
		next := t.References
		for to, said := range map[*string]*string{&next.Subject: r.Body.Subject, &next.Template: r.Body.Template, &next.Proposal: r.Body.Proposal, &next.UndoWindow: r.Body.Window} {
			if said != nil {
				*to = *said
			}
		}
		if r.Body.Objects != nil {
			next.Objects = *r.Body.Objects
		}
		if r.Body.Limits != nil {
			next.Limits = *r.Body.Limits
		}
		if r.Body.Flow != nil {
			next.Flow = *r.Body.Flow
		}
		if r.Body.Undo != nil {
			next.Undo = *r.Body.Undo
		}
		_, err = s.SetReferencesTx(ctx, tx, person(c), reason, r.Connection, r.Tool, next)
		return err
	})
	if err != nil {
		return nil, err
	}
	return s.httpTool(ctx, c, &r.ToolPath)
}

func (s *Service) httpAccept(ctx context.Context, c rest.Caller, r *struct {
	ToolPath
	Body struct {
		Digest string `json:"digest" doc:"of the definition you looked at"`
		Reason string `json:"reason,omitempty" doc:"or the header X-Countersign-Reason"`
	}
}) (*ToolDetail, error) {
	if err := s.AcceptSeen(ctx, person(c), first(r.Body.Reason, c.Reason), r.Connection, r.Tool, r.Body.Digest); err != nil {
		return nil, err
	}
	return s.httpTool(ctx, c, &r.ToolPath)
}

func (s *Service) httpDiff(_ context.Context, _ rest.Caller, r *ToolPath) (*Difference, error) {
	t, err := s.find(*r)
	if err != nil {
		return nil, err
	}
	d := &Difference{ID: t.ID, Status: t.Status, Digest: t.DriftDigest, Lines: []Line{}}
	if len(t.Drift) > 0 {
		d.Lines = append(d.Lines, Diff(t.Definition, t.Drift)...)
	}
	return d, nil
}
