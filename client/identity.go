package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Agent is a registered AI workload.
type Agent struct {
	ID              string            `json:"id"`
	Name            string            `json:"name"`
	Owner           string            `json:"owner"`
	Backup          string            `json:"backup,omitempty"`
	Team            string            `json:"team,omitempty"`
	Purpose         string            `json:"purpose,omitempty"`
	BusinessProcess string            `json:"business_process,omitempty"`
	Stage           string            `json:"stage"`
	Labels          map[string]string `json:"labels,omitempty"`
	Suspended       bool              `json:"suspended"`
	Created         time.Time         `json:"created"`
	LastCall        time.Time         `json:"last_call,omitzero"`
	Retired         time.Time         `json:"decommissioned,omitzero"`
	Status          string            `json:"status"` // active, leaving, suspended, no_owner, locked, decommissioned
	Keys            []Key             `json:"keys"`   // valid now

	Inventory *InventoryRow `json:"inventory,omitempty"` // of Client.Inventory, where it was asked for
}

// AgentSpec is what a person says of an agent.
type AgentSpec struct {
	Owner           string            `json:"owner"`
	Backup          string            `json:"backup,omitempty"`
	Team            string            `json:"team,omitempty"`
	Purpose         string            `json:"purpose,omitempty"`
	BusinessProcess string            `json:"business_process,omitempty"`
	Stage           string            `json:"stage"` // development, staging, production
	Labels          map[string]string `json:"labels,omitempty"`
}

// Spec returns what a person said of a.
func (a Agent) Spec() AgentSpec {
	return AgentSpec{Owner: a.Owner, Backup: a.Backup, Team: a.Team, Purpose: a.Purpose, BusinessProcess: a.BusinessProcess, Stage: a.Stage, Labels: a.Labels}
}

// Key is an agent's credential without its value.
type Key struct {
	ID        string    `json:"id"`
	Agent     string    `json:"agent"`
	Prefix    string    `json:"prefix"`
	Status    string    `json:"status"` // active, rotating, expired, revoked
	Created   time.Time `json:"created"`
	Age       int64     `json:"age_seconds"`
	Expires   time.Time `json:"expires"`
	LastUsed  time.Time `json:"last_used,omitzero"`
	Revoked   time.Time `json:"revoked,omitzero"`
	Successor string    `json:"successor,omitempty"`
}

// IssuedKey is a key with its value, which is shown this once.
type IssuedKey struct {
	Key
	Value string `json:"key"`
}

// RunToken is the credential of one run, shown this once.
type RunToken struct {
	Token   string    `json:"token"`
	Run     string    `json:"run"`
	Agent   string    `json:"agent"`
	Expires time.Time `json:"expires"`
}

const v1 = "/api/v1"

func segment(s string) string { return "/" + url.PathEscape(s) }

func agentPath(name string) string { return v1 + "/agents" + segment(name) }

// get asks for a T.
func get[T any](ctx context.Context, c *Client, path string, query url.Values) (T, error) {
	var out T
	err := c.do(ctx, http.MethodGet, path, query, nil, &out)
	return out, err
}

// send asks for a change and returns the T it leads to.
func send[T any](ctx context.Context, c *Client, method, path string, in any) (T, error) {
	var out T
	err := c.do(ctx, method, path, nil, in, &out)
	return out, err
}

// Agents lists agents by name.
func (c *Client) Agents(ctx context.Context) ([]Agent, error) {
	return get[[]Agent](ctx, c, v1+"/agents", nil)
}

// Agent returns one agent.
func (c *Client) Agent(ctx context.Context, name string) (Agent, error) {
	return get[Agent](ctx, c, agentPath(name), nil)
}

// PutAgent creates or updates an agent.
func (c *Client) PutAgent(ctx context.Context, name string, spec AgentSpec) (Agent, error) {
	return send[Agent](ctx, c, http.MethodPut, agentPath(name), spec)
}

// DeleteAgent deletes an agent and its credentials.
func (c *Client) DeleteAgent(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, agentPath(name), nil, nil, nil)
}

// SetOwner gives an agent another owner and, unless backup is empty, backup owner.
func (c *Client) SetOwner(ctx context.Context, name, owner, backup string) (Agent, error) {
	in := struct {
		Owner  string `json:"owner"`
		Backup string `json:"backup,omitempty"`
	}{owner, backup}
	return send[Agent](ctx, c, http.MethodPost, agentPath(name)+"/owner", in)
}

// Suspend stops an agent from making calls.
func (c *Client) Suspend(ctx context.Context, name string) (Agent, error) {
	return send[Agent](ctx, c, http.MethodPost, agentPath(name)+"/suspend", struct{}{})
}

// Resume lets a suspended agent make calls again.
func (c *Client) Resume(ctx context.Context, name string) (Agent, error) {
	return send[Agent](ctx, c, http.MethodPost, agentPath(name)+"/resume", struct{}{})
}

// Keys lists an agent's keys, dead ones included.
func (c *Client) Keys(ctx context.Context, agent string) ([]Key, error) {
	return get[[]Key](ctx, c, agentPath(agent)+"/keys", nil)
}

type keyTerms struct {
	ExpiresIn string `json:"expires_in,omitempty"`
	Overlap   string `json:"overlap,omitempty"`
}

// IssueKey issues a key that lives for expiresIn ("30d"; empty: the server's
// default of 30 days, at most 90).
func (c *Client) IssueKey(ctx context.Context, agent, expiresIn string) (IssuedKey, error) {
	return send[IssuedKey](ctx, c, http.MethodPost, agentPath(agent)+"/keys", keyTerms{ExpiresIn: expiresIn})
}

// RotateKey puts a new key in the place of one, which lives on for overlap
// ("24h"; empty: the server's default of 24 hours, "0": not at all).
func (c *Client) RotateKey(ctx context.Context, agent, id, expiresIn, overlap string) (IssuedKey, error) {
	return send[IssuedKey](ctx, c, http.MethodPost, agentPath(agent)+"/keys"+segment(id)+"/rotate", keyTerms{expiresIn, overlap})
}

// RevokeKey revokes a key at once.
func (c *Client) RevokeKey(ctx context.Context, agent, id string) error {
	return c.do(ctx, http.MethodDelete, agentPath(agent)+"/keys"+segment(id), nil, nil, nil)
}

// StartRun starts a run of an agent for at most ttl.
func (c *Client) StartRun(ctx context.Context, agent string, ttl time.Duration) (RunToken, error) {
	return send[RunToken](ctx, c, http.MethodPost, agentPath(agent)+"/runs", keyTerms{ExpiresIn: ttl.String()})
}

// EndRun ends a run and revokes its credential.
func (c *Client) EndRun(ctx context.Context, run string) error {
	return c.do(ctx, http.MethodPost, v1+"/runs"+segment(run)+"/end", nil, struct{}{}, nil)
}
