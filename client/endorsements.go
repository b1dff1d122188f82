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
	Kind       string    `json:"kind"` // counterparty, scope
	Agent      string    `json:"agent"`
	Run        string    `json:"run,omitempty"`
	Connection string    `json:"connection"`
	Tool       string    `json:"tool"`
	Arg        string    `json:"arg,omitempty"`
	Value      string    `json:"value,omitempty"`
	Scope      *Scope    `json:"scope,omitempty"`
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
