package client

import (
	"context"
	"encoding/json/jsontext"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// Policy is a saved file of Cedar policies.
type Policy struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Version int64     `json:"version"`
	Text    string    `json:"text"`
	SavedBy string    `json:"saved_by"`
	Reason  string    `json:"reason,omitempty"`
	Saved   time.Time `json:"saved"`
	Changed bool      `json:"changed,omitempty"` // after PutPolicy: it was a change
}

// PolicyVersion is one state a policy file had.
type PolicyVersion struct {
	Version int64     `json:"version"`
	Text    string    `json:"text"`
	Deleted bool      `json:"deleted,omitempty"`
	SavedBy string    `json:"saved_by"`
	Reason  string    `json:"reason,omitempty"`
	Saved   time.Time `json:"saved"`
}

// GrantVersion is one state that a grant had.
type GrantVersion struct {
	Version int64     `json:"version"`
	Grant   Grant     `json:"grant"`
	Revoked bool      `json:"revoked,omitzero"`
	SavedBy string    `json:"saved_by"`
	Reason  string    `json:"reason,omitempty"`
	Saved   time.Time `json:"saved"`
}

// RolledBack is what is in force after a rollback of a policy file or a grant.
type RolledBack struct {
	ID      string `json:"id"`
	Version int64  `json:"version"`
	Changed bool   `json:"changed"`
}

// GrantHistory lists a grant's versions, the newest first, also of a revoked one.
func (c *Client) GrantHistory(ctx context.Context, name string) ([]GrantVersion, error) {
	return get[[]GrantVersion](ctx, c, v1+"/grants"+segment(name)+"/history", nil)
}

// RollBackGrant gives a grant back as it was: in the version before, if it is 0.
func (c *Client) RollBackGrant(ctx context.Context, name string, version int64) (RolledBack, error) {
	return send[RolledBack](ctx, c, http.MethodPost, v1+"/grants"+segment(name)+"/rollback", toVersion{version})
}

// RollBackPolicy saves an earlier version of a policy file as its newest: the one
// before, if it is 0.
func (c *Client) RollBackPolicy(ctx context.Context, name string, version int64) (RolledBack, error) {
	return send[RolledBack](ctx, c, http.MethodPost, policyPath(name)+"/rollback", toVersion{version})
}

type toVersion struct {
	Version int64 `json:"version,omitzero"`
}

// Grant is an entitlement: an agent may use tools of a connection.
type Grant struct {
	ID         string    `json:"id"`
	Name       string    `json:"name"`
	Agent      string    `json:"agent"`
	Connection string    `json:"connection"`
	Tools      []string  `json:"tools"` // names, or * for all of the connection
	When       string    `json:"when,omitempty"`
	Expires    time.Time `json:"expires,omitzero"` // never, if zero
	GivenBy    string    `json:"given_by"`
	Reason     string    `json:"reason,omitempty"`
	Created    time.Time `json:"created"`
	Changed    bool      `json:"changed,omitempty"` // after PutGrant: it was a change
}

// GrantSpec is what a person says of a grant.
type GrantSpec struct {
	Agent      string    `json:"agent"`
	Connection string    `json:"connection"`
	Tools      []string  `json:"tools"`
	When       string    `json:"when,omitempty"` // a Cedar expression
	Expires    time.Time `json:"expires,omitzero"`
}

// Problem is something wrong in a file that the server was given.
type Problem struct {
	File    string `json:"file"`
	Policy  string `json:"policy,omitempty"` // id of the policy
	Field   string `json:"field,omitempty"`  // such as spec.owner
	Line    int    `json:"line,omitempty"`   // from 1; 0: the file as a whole
	Column  int    `json:"column,omitempty"`
	Message string `json:"message"`
}

// String returns "file:line:column: field: message".
func (p Problem) String() string {
	s := p.File
	if p.Line > 0 {
		s += fmt.Sprintf(":%d", p.Line)
		if p.Column > 0 {
			s += fmt.Sprintf(":%d", p.Column)
		}
	}
	if s != "" {
		s += ": "
	}
	for _, where := range []string{p.Field, p.Policy} {
		if where != "" {
			s += where + ": "
		}
	}
	return s + p.Message
}

// NamedText is a file by name.
type NamedText struct {
	Name string `json:"name"`
	Text string `json:"text"`
	// Document says that it is an OpenAPI document which a connection names, and
	// holds no resources: for Apply.
	Document bool `json:"document,omitzero"`
}

// Case is an expected decision, or for Why a call to explain. Team, stage,
// owner and labels come from the registered agent unless given.
type Case struct {
	Name        string                    `json:"name"`
	Agent       string                    `json:"agent"`
	Tool        string                    `json:"tool"` // connection/tool
	Args        map[string]jsontext.Value `json:"args,omitempty"`
	Expect      string                    `json:"expect"`       // allow, deny, hold
	By          []string                  `json:"by,omitempty"` // policies and grants that must be among those that determined it
	Team        string                    `json:"team,omitempty"`
	Stage       string                    `json:"stage,omitempty"`
	Owner       string                    `json:"owner,omitempty"`
	Labels      map[string]string         `json:"labels,omitempty"`
	RunLabels   []string                  `json:"run_labels,omitempty"`
	RunCalls    int64                     `json:"run_calls,omitempty"`
	RunAge      int64                     `json:"run_age_seconds,omitempty"`
	RunProposed *bool                     `json:"run_proposed,omitempty"` // by a model; absent: it was
	Remote      string                    `json:"remote,omitempty"`
	Credential  string                    `json:"credential,omitempty"`
	OnBehalfOf  []string                  `json:"on_behalf_of,omitempty"`
	User        *PolicyUser               `json:"user,omitempty"`
	Provenance  Provenance                `json:"provenance,omitzero"`
	Release     PolicyRelease             `json:"release,omitzero"`
	Budget      *PolicyBudget             `json:"budget,omitempty"` // nil: nothing bounds the call
	Now         time.Time                 `json:"now,omitzero"`
}

// PolicyUser is the person on whose behalf a call is made, as policies see them
// in context.user.
type PolicyUser struct {
	ID     string   `json:"id" yaml:"id"`
	Name   string   `json:"name" yaml:"name"`
	Issuer string   `json:"issuer,omitzero" yaml:"issuer"` // who vouches for them; empty for a local user
	Role   string   `json:"role,omitzero" yaml:"role"`
	Groups []string `json:"groups,omitzero" yaml:"groups"`
	Teams  []string `json:"teams,omitzero" yaml:"teams"`
}

// Provenance is where the values of a call come from, for a Case.
type Provenance struct {
	Untrusted  bool     `json:"untrusted,omitzero" yaml:"untrusted"` // the run has read untrusted content
	Asked      bool     `json:"asked,omitzero" yaml:"asked"`         // the user's words ask for such an action
	External   bool     `json:"external,omitzero" yaml:"external"`   // somebody receives something or gets access
	Endorsed   bool     `json:"endorsed,omitzero" yaml:"endorsed"`   // every value that matters is
	Unendorsed []string `json:"unendorsed,omitzero" yaml:"unendorsed"`
	By         []string `json:"by,omitzero" yaml:"by"` // what endorses the others

	Confidential bool `json:"confidential,omitzero" yaml:"confidential"` // the run has read what only some may know
	Cleared      bool `json:"cleared,omitzero" yaml:"cleared"`           // everybody whom the call reaches may know it, or was named
}

// PolicyRelease is by which release a call is bound, for a Case: by none if its
// Number is 0.
type PolicyRelease struct {
	Number int64  `json:"number,omitzero" yaml:"number"`
	Stage  string `json:"stage,omitzero" yaml:"stage"`
	Canary bool   `json:"canary,omitzero" yaml:"canary"`
}

// PolicyBudget is what is left of budgets, for a Case.
type PolicyBudget struct {
	Left    int64 `json:"left" yaml:"left"` // in percent of the hard limit of which the least is left
	Limited bool  `json:"limited,omitzero" yaml:"limited"`
	Soft    bool  `json:"soft,omitzero" yaml:"soft"` // a soft limit has been reached
}

// CaseResult is how a case came out.
type CaseResult struct {
	Name     string   `json:"name"`
	Passed   bool     `json:"passed"`
	Expect   string   `json:"expect"`
	Got      string   `json:"got"`
	Problem  string   `json:"problem,omitempty"`
	Decision Decision `json:"decision"`
}

// TestReport is how all cases came out.
type TestReport struct {
	Passed   bool         `json:"passed"`
	Results  []CaseResult `json:"results"`
	Problems []Problem    `json:"problems,omitempty"` // of the files given
}

// Explanation is a decision with what every policy near it had to say.
type Explanation struct {
	Decision Decision `json:"decision"`
	Rules    []Rule   `json:"rules"`
	Notes    []string `json:"notes,omitempty"`
}

// Rule is what one policy or grant says about a call.
type Rule struct {
	ID        string `json:"id"`
	File      string `json:"file"`
	Line      int    `json:"line,omitempty"`
	Text      string `json:"text"`
	Kind      string `json:"kind"`      // permit, forbid, approval, grant
	Scope     bool   `json:"scope"`     // it is about this agent, tool and connection
	Satisfied bool   `json:"satisfied"` // its conditions hold too
	Expired   bool   `json:"expired,omitempty"`
	Error     string `json:"error,omitempty"`
}

func policyPath(name string) string { return v1 + "/policies" + segment(name) }

func grantPath(name string) string { return v1 + "/grants" + segment(name) }

// Policies lists policy files by name.
func (c *Client) Policies(ctx context.Context) ([]Policy, error) {
	return get[[]Policy](ctx, c, v1+"/policies", nil)
}

// Policy returns one policy file.
func (c *Client) Policy(ctx context.Context, name string) (Policy, error) {
	return get[Policy](ctx, c, policyPath(name), nil)
}

// PolicyHistory lists a policy file's versions, the newest first, also of a deleted one.
func (c *Client) PolicyHistory(ctx context.Context, name string) ([]PolicyVersion, error) {
	return get[[]PolicyVersion](ctx, c, policyPath(name)+"/history", nil)
}

// PutPolicy saves a policy file. It is refused if it has any problem.
func (c *Client) PutPolicy(ctx context.Context, name, text string) (Policy, error) {
	return send[Policy](ctx, c, http.MethodPut, policyPath(name), map[string]string{"text": text})
}

// DeletePolicy deletes a policy file; its history stays.
func (c *Client) DeletePolicy(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, policyPath(name), nil, nil, nil)
}

// Grants lists grants by name, those of one agent unless agent is empty.
func (c *Client) Grants(ctx context.Context, agent string) ([]Grant, error) {
	query := url.Values{}
	if agent != "" {
		query.Set("agent", agent)
	}
	return get[[]Grant](ctx, c, v1+"/grants", query)
}

// Grant returns one grant.
func (c *Client) Grant(ctx context.Context, name string) (Grant, error) {
	return get[Grant](ctx, c, grantPath(name), nil)
}

// PutGrant gives or changes a grant.
func (c *Client) PutGrant(ctx context.Context, name string, spec GrantSpec) (Grant, error) {
	return send[Grant](ctx, c, http.MethodPut, grantPath(name), spec)
}

// RevokeGrant revokes a grant.
func (c *Client) RevokeGrant(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, grantPath(name), nil, nil, nil)
}

// CheckPolicies returns what is wrong with files, or with what is saved if
// there are none. Nothing is changed.
func (c *Client) CheckPolicies(ctx context.Context, files []NamedText) ([]Problem, error) {
	in := struct {
		Files []NamedText `json:"files,omitempty"`
	}{files}
	out, err := send[struct {
		Problems []Problem `json:"problems"`
	}](ctx, c, http.MethodPost, v1+"/policy/check", in)
	return out.Problems, err
}

// TestPolicies compares decisions with expected ones. files are taken in place
// of the saved ones of these names; an empty text leaves one out.
func (c *Client) TestPolicies(ctx context.Context, cases []Case, files []NamedText) (TestReport, error) {
	in := struct {
		Cases []Case      `json:"cases"`
		Files []NamedText `json:"files,omitempty"`
	}{cases, files}
	return send[TestReport](ctx, c, http.MethodPost, v1+"/policy/test", in)
}

// WhyEvent explains the decision of a recorded call.
func (c *Client) WhyEvent(ctx context.Context, event string) (Explanation, error) {
	return send[Explanation](ctx, c, http.MethodPost, v1+"/policy/why", map[string]string{"event": event})
}

// WhyCase explains the decision of a hypothetical call.
func (c *Client) WhyCase(ctx context.Context, call Case) (Explanation, error) {
	call.Expect = "allow" // the form asks for one; it is not compared
	return send[Explanation](ctx, c, http.MethodPost, v1+"/policy/why", map[string]Case{"case": call})
}
