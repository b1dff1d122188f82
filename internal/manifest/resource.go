package manifest

import (
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/connections/mapping"
	"github.com/countersign/countersign/internal/flow"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/reviews"
	"github.com/countersign/countersign/internal/secrets"
)

// The kinds of resources, in the order in which they are applied: each may
// name those before it.
const (
	KindUser       = "User"
	KindTeam       = "Team"
	KindGroup      = "Group"
	KindAgent      = "Agent"
	KindTrust      = "Trust"
	KindConnection = "Connection"
	KindChannel    = "Channel"
	KindSecret     = "Secret"
	KindTool       = "Tool"
	KindBudget     = "Budget"
	KindDetection  = "Detection"
	KindGrant      = "Grant"
	KindPolicy     = "Policy"
)

// Kinds lists all kinds in that order.
var Kinds = []string{KindUser, KindTeam, KindGroup, KindAgent, KindTrust, KindConnection, KindChannel, KindSecret, KindTool, KindBudget, KindDetection, KindGrant, KindPolicy}

func order(kind string) int { return slices.Index(Kinds, kind) }

var plainName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// nameForms are checked when a file is read, so that the problem has its line.
// The rooms check again.
var nameForms = map[string]*regexp.Regexp{
	KindUser:       plainName,
	KindTeam:       plainName,
	KindGroup:      plainName,
	KindAgent:      plainName,
	KindTrust:      plainName,
	KindConnection: regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`),
	KindChannel:    regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,49}$`),
	KindSecret:     plainName,
	KindTool:       regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}/.{1,128}$`),
	KindBudget:     plainName,
	KindDetection:  plainName,
	KindGrant:      regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,99}$`),
	KindPolicy:     regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,99}$`),
}

// Resource is one document.
type Resource struct {
	Kind, Name string
	Absent     bool // state: absent
	Spec       any  // *UserSpec and so on; nil when Absent

	at     place
	fields map[string]place // "owner" -> where it stands
}

// where returns the place of a field of the spec, or of the document.
func (r Resource) where(field string) place {
	if p, ok := r.fields[field]; ok {
		return p
	}
	if i := strings.LastIndexAny(field, ".["); i > 0 {
		return r.where(field[:i])
	}
	return r.at
}

// UserSpec is a person.
type UserSpec struct {
	Email       string `yaml:"email,omitempty"`
	DisplayName string `yaml:"display_name,omitempty"`
	Role        string `yaml:"role" need:"true"`
	Disabled    bool   `yaml:"disabled,omitempty"`
}

// TeamSpec is a team.
type TeamSpec struct {
	Description string   `yaml:"description,omitempty"`
	Members     []string `yaml:"members,omitempty"`
}

// GroupSpec is a group of approvers.
type GroupSpec struct {
	Description string   `yaml:"description,omitempty"`
	Members     []string `yaml:"members,omitempty"`
}

// AgentSpec is an agent.
type AgentSpec struct {
	Owner           string            `yaml:"owner" need:"true"`
	Backup          string            `yaml:"backup,omitempty"`
	Team            string            `yaml:"team,omitempty"`
	Purpose         string            `yaml:"purpose,omitempty"`
	BusinessProcess string            `yaml:"business_process,omitempty"`
	Stage           string            `yaml:"stage" need:"true"`
	Labels          map[string]string `yaml:"labels,omitempty"`
}

// ConnectionSpec is a connection.
type ConnectionSpec struct {
	Kind         string            `yaml:"kind" need:"true"`
	Dialect      string            `yaml:"dialect,omitempty"`
	URL          string            `yaml:"url,omitempty"`
	Command      []string          `yaml:"command,omitempty"`
	Env          map[string]string `yaml:"env,omitempty"`
	Owner        string            `yaml:"owner" need:"true"`
	Secret       string            `yaml:"secret,omitempty"`
	Auth         string            `yaml:"auth,omitempty"`
	Description  string            `yaml:"description,omitempty"`
	AllowPrivate bool              `yaml:"allow_private,omitempty"`
	Timeout      Duration          `yaml:"timeout,omitempty"`
	Capture      string            `yaml:"capture,omitempty"`
	Proposal     string            `yaml:"proposal,omitempty"`
	Stages       []string          `yaml:"stages,omitempty"`     // whose agents may reach it; every stage if left out
	Inspect      map[string]string `yaml:"inspect,omitempty"`    // label: note, redact, block or hold:GROUP
	Retrieval    *mapping.Mapping  `yaml:"retrieval,omitempty"`  // of a retrieval connection: how its engine is read
	Operations   map[string]string `yaml:"operations,omitempty"` // of an http connection, by name: METHOD PATH, …
	OpenAPI      *OpenAPISpec      `yaml:"openapi,omitempty"`    // of an http connection: a document that declares operations

	declared *connections.Document // what OpenAPI says
}

// OpenAPISpec is the document that declares an http connection's operations.
type OpenAPISpec struct {
	File     string   `yaml:"file,omitempty"`     // relative to the file that names it, with slashes
	Document string   `yaml:"document,omitempty"` // the document itself
	Only     []string `yaml:"only,omitempty"`     // patterns of operationId; all if there is none

	text string // of the file
}

// SecretSpec is what may be said of a secret; its value is not part of it.
type SecretSpec struct {
	Owner      string            `yaml:"owner" need:"true"`
	Connection string            `yaml:"connection" need:"true"`
	Hosts      []string          `yaml:"hosts,omitempty"`
	Kind       string            `yaml:"kind,omitempty"`
	Settings   map[string]string `yaml:"settings,omitempty"`
	Source     string            `yaml:"source,omitempty"`
	Rotation   map[string]string `yaml:"rotation,omitempty"`
	From       *From             `yaml:"from,omitempty"`
}

// From says where the machine on which apply runs finds a secret's value.
type From struct {
	Env  string `yaml:"env,omitempty"`
	File string `yaml:"file,omitempty"`
}

// ToolSpec is what a person says of a tool.
type ToolSpec struct {
	Connection string            `yaml:"connection,omitempty"`
	Effect     string            `yaml:"effect" need:"true"`
	Subject    string            `yaml:"subject,omitempty"`
	Objects    map[string]string `yaml:"objects,omitempty"`
	Template   string            `yaml:"template,omitempty"`
	Proposal   string            `yaml:"proposal,omitempty"`
	Flow       *flow.Spec        `yaml:"flow,omitempty"`
	Undo       *connections.Undo `yaml:"undo,omitempty"`
	UndoWindow string            `yaml:"undo_window,omitempty"`
	Limits     map[string]string `yaml:"limits,omitempty"`
}

// GrantSpec is an entitlement.
type GrantSpec struct {
	Agent      string   `yaml:"agent" need:"true"`
	Connection string   `yaml:"connection" need:"true"`
	Tools      []string `yaml:"tools" need:"true"`
	When       string   `yaml:"when,omitempty"`
	Expires    Expiry   `yaml:"expires,omitempty"`
	Reason     string   `yaml:"reason,omitempty"`
	// Exception says who answers for it that the grant stands without an end.
	Exception *ExceptionSpec `yaml:"exception,omitempty"`
}

// ExceptionSpec is an exception for the grant that it stands with.
type ExceptionSpec struct {
	Owner  string `yaml:"owner" need:"true"`
	Until  Expiry `yaml:"until" need:"true"` // so long after it was made, or a time
	Reason string `yaml:"reason" need:"true"`
}

func exceptionSpec(e *reviews.Exception) *ExceptionSpec {
	return &ExceptionSpec{Owner: e.Owner, Until: Expiry{At: e.Until}, Reason: e.Reason}
}

// PolicySpec is a file of Cedar policies.
type PolicySpec struct{ Text string }

// newSpec returns an empty spec of a kind.
func newSpec(kind string) any {
	switch kind {
	case KindUser:
		return &UserSpec{}
	case KindTeam:
		return &TeamSpec{}
	case KindGroup:
		return &GroupSpec{}
	case KindAgent:
		return &AgentSpec{}
	case KindTrust:
		return &TrustSpec{}
	case KindConnection:
		return &ConnectionSpec{}
	case KindChannel:
		return &ChannelSpec{}
	case KindSecret:
		return &SecretSpec{}
	case KindTool:
		return &ToolSpec{}
	case KindBudget:
		return &BudgetSpec{}
	case KindDetection:
		return &DetectionSpec{}
	case KindGrant:
		return &GrantSpec{}
	}
	return nil
}

// Duration is a time span: "30s", "36h", "90d".
type Duration time.Duration

func parseDuration(s string) (time.Duration, bool) {
	if n, ok := strings.CutSuffix(s, "d"); ok {
		d, err := time.ParseDuration(n + "h")
		if err != nil || d > 200*365*time.Hour || d < 0 {
			return 0, false
		}
		return 24 * d, true
	}
	d, err := time.ParseDuration(s)
	return d, err == nil && d > 0
}

// MarshalYAML implements yaml.Marshaler.
func (d Duration) MarshalYAML() (any, error) { return time.Duration(d).String(), nil }

// Expiry is when a grant or an exception ends: at a time, or so long after it was first given.
type Expiry struct {
	At    time.Time
	After time.Duration
}

// IsZero reports whether the grant never ends.
func (e Expiry) IsZero() bool { return e.At.IsZero() && e.After == 0 }

// MarshalYAML implements yaml.Marshaler.
func (e Expiry) MarshalYAML() (any, error) {
	if e.At.IsZero() {
		return e.After.String(), nil
	}
	return e.At.UTC().Format(time.RFC3339Nano), nil
}

func (s *UserSpec) user(name string) identity.User {
	return identity.User{Name: name, Email: s.Email, DisplayName: s.DisplayName, Role: s.Role, Disabled: s.Disabled}
}

func (s *GroupSpec) group(name string) identity.Group {
	return identity.Group{Name: name, Description: s.Description, Members: slices.Sorted(slices.Values(s.Members))}
}

func (s *TeamSpec) team(name string) identity.Team {
	return identity.Team{Name: name, Description: s.Description, Members: slices.Sorted(slices.Values(s.Members))}
}

func (s *AgentSpec) agent(name string) identity.Agent {
	return identity.Agent{Name: name, Owner: s.Owner, Backup: s.Backup, Team: s.Team, Purpose: s.Purpose, BusinessProcess: s.BusinessProcess, Stage: s.Stage, Labels: s.Labels}
}

func (s *SecretSpec) secret(name string) secrets.Spec {
	return secrets.Spec{Name: name, Owner: s.Owner, Connection: s.Connection, Hosts: s.Hosts, Kind: s.Kind, Settings: s.Settings, Source: s.Source, Rotation: s.Rotation}
}

func secretSpec(s secrets.Spec) *SecretSpec {
	return &SecretSpec{Owner: s.Owner, Connection: s.Connection, Hosts: s.Hosts, Kind: s.Kind, Settings: s.Settings, Source: s.Source, Rotation: s.Rotation}
}

func (s *ConnectionSpec) connection(name string) connections.Connection {
	return connections.Connection{Name: name, Kind: s.Kind, Dialect: s.Dialect, URL: s.URL, Command: s.Command, Env: s.Env, Owner: s.Owner, Secret: s.Secret,
		Auth: s.Auth, Description: s.Description, AllowPrivate: s.AllowPrivate, Timeout: time.Duration(s.Timeout), Capture: s.Capture, Proposal: s.Proposal, Retrieval: s.Retrieval, Inspect: s.Inspect, Stages: s.Stages}
}

func (s *ToolSpec) references() connections.References {
	r := connections.References{Subject: s.Subject, Objects: s.Objects, Template: s.Template, Proposal: s.Proposal, Limits: s.Limits, UndoWindow: s.UndoWindow}
	if s.Flow != nil {
		r.Flow = *s.Flow
	}
	if s.Undo != nil {
		r.Undo = *s.Undo
	}
	return r
}
