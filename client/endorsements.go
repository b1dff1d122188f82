package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Scope is what a run may do: a tool with values of its arguments that matter; *
// stands for a part of one word.
type Scope struct {
	Tool string              `json:"tool"` // CONNECTION/TOOL
	Args map[string][]string `json:"args"`
}

// Endorsement is what people endorsed beforehand for an agent: a counterparty of a
// tool, or the scope of a run.
type Endorsement struct {
	ID         string    `json:"id"`
	Kind       string    `json:"kind"` // counterparty, scope, stated
	Agent      string    `json:"agent"`
	Run        string    `json:"run,omitempty"`
	Connection string    `json:"connection"`
	Tool       string    `json:"tool"`
	Arg        string    `json:"arg,omitempty"`
	Value      string    `json:"value,omitempty"`
	Scope      *Scope    `json:"scope,omitempty"`
	Calls      int64     `json:"calls,omitempty"` // of a stated scope, how many it is for
	Used       int64     `json:"used,omitempty"`
	Approval   string    `json:"approval,omitempty"`
	People     []string  `json:"people"`
	Reason     string    `json:"reason,omitempty"`
	Created    time.Time `json:"created"`
	Expires    time.Time `json:"expires"`
	Ended      time.Time `json:"ended,omitzero"`
	EndedBy    string    `json:"ended_by,omitempty"`
}

// Endorsements lists what people endorsed beforehand for an agent, newest first:
// of one kind and run, if given.
func (c *Client) Endorsements(ctx context.Context, agent, kind, run string) ([]Endorsement, error) {
	return get[[]Endorsement](ctx, c, agentPath(agent)+"/endorsements", url.Values{"kind": {kind}, "run": {run}})
}

// RevokeEndorsement ends one. Needs a reason.
func (c *Client) RevokeEndorsement(ctx context.Context, agent, id string) (Endorsement, error) {
	return send[Endorsement](ctx, c, http.MethodDelete, agentPath(agent)+"/endorsements"+segment(id), nil)
}

// AllowRun says what a run may do. Needs a reason.
func (c *Client) AllowRun(ctx context.Context, run string, scopes ...Scope) ([]Endorsement, error) {
	return send[[]Endorsement](ctx, c, http.MethodPost, v1+"/runs"+segment(run)+"/scope", map[string]any{"scopes": scopes})
}

// ExtendApproval makes what the caller approved good for the rest of the run.
// Needs a reason.
func (c *Client) ExtendApproval(ctx context.Context, id string) ([]Endorsement, error) {
	return send[[]Endorsement](ctx, c, http.MethodPost, v1+"/approvals"+segment(id)+"/run", map[string]any{})
}

// StatedScope is what a run may do of one tool, and how often.
type StatedScope struct {
	Scope
	Calls int64 `json:"calls"`
}

// AskedScope is a stated scope of a run and how it stands.
type AskedScope struct {
	ID       string    `json:"id"`    // of the approval
	State    string    `json:"state"` // pending, approved, denied, expired, void; given: in force; ended: it was
	Agent    string    `json:"agent"`
	Run      string    `json:"run"`
	Asked    time.Time `json:"asked"`
	DecideBy time.Time `json:"decide_by"`
	Why      string    `json:"why,omitempty"`
	Deciders []string  `json:"deciders"`
	Expires  time.Time `json:"expires,omitzero"`
	URL      string    `json:"url,omitempty"`
}

// AskScope states the scope of a run and asks people to approve it. For is how
// long from then, such as 1h. Needs a reason.
func (c *Client) AskScope(ctx context.Context, run, lasting string, scopes ...StatedScope) (AskedScope, error) {
	in := struct {
		Scopes []StatedScope `json:"scopes"`
		For    string        `json:"for,omitempty"`
	}{scopes, lasting}
	return send[AskedScope](ctx, c, http.MethodPost, v1+"/runs"+segment(run)+"/scope-requests", in)
}

// ScopeRequest returns how a stated scope of a run stands.
func (c *Client) ScopeRequest(ctx context.Context, run, id string) (AskedScope, error) {
	return get[AskedScope](ctx, c, v1+"/runs"+segment(run)+"/scope-requests"+segment(id), nil)
}
