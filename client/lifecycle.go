package client

import (
	"context"
	"net/http"
	"time"
)

// Departure says that the owner of an agent has left.
type Departure struct {
	Agent     string    `json:"agent"`
	Owner     string    `json:"owner"` // who left
	Began     time.Time `json:"began"`
	Deadline  time.Time `json:"deadline"` // until then an active backup owner answers for the agent
	Suspended time.Time `json:"suspended,omitzero"`
}

// Offer says that an agent is to have another owner, once they accept.
type Offer struct {
	Agent   string    `json:"agent"`
	To      string    `json:"to"`
	By      string    `json:"by"`
	Reason  string    `json:"reason"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
}

// Decommission is the end of an agent, and what was tried afterwards.
type Decommission struct {
	ID      string         `json:"id"`
	Agent   string         `json:"agent"`
	AgentID string         `json:"agent_id"`
	By      string         `json:"by"`
	Reason  string         `json:"reason"`
	State   string         `json:"state"` // prepared, removed, refused, let_through
	Created time.Time      `json:"created"`
	Ended   time.Time      `json:"ended,omitzero"`
	Removed map[string]int `json:"removed"`
	Probes  []Probe        `json:"probes"`
	Tries   int            `json:"tries"`
}

// Probe is a credential that was tried at a door, before and after a
// decommission. A status of 0 is no answer.
type Probe struct {
	Door    string `json:"door"`
	Kind    string `json:"kind"` // key, run, access
	Before  int    `json:"before"`
	Worked  bool   `json:"worked"`
	After   int    `json:"after"`
	Refused bool   `json:"refused"`
}

// Lifecycle is everything that is under way.
type Lifecycle struct {
	Departures    []Departure    `json:"departures"`
	Offers        []Offer        `json:"offers"`
	Decommissions []Decommission `json:"decommissions"`
	IdleAfter     string         `json:"idle_after,omitempty"`
}

// Lifecycle shows agents whose owner left, that are offered, or that were
// decommissioned.
func (c *Client) Lifecycle(ctx context.Context) (Lifecycle, error) {
	return get[Lifecycle](ctx, c, v1+"/lifecycle", nil)
}

// Give offers an agent to another owner.
func (c *Client) Give(ctx context.Context, agent, to string) (Offer, error) {
	return send[Offer](ctx, c, http.MethodPost, agentPath(agent)+"/give", struct {
		To string `json:"to"`
	}{to})
}

// Accept makes the caller the owner of an agent that was offered to them, or
// whose owner left and whose backup they are.
func (c *Client) Accept(ctx context.Context, agent string) (Agent, error) {
	if err := c.do(ctx, http.MethodPost, agentPath(agent)+"/accept", nil, struct{}{}, nil); err != nil {
		return Agent{}, err
	}
	return c.Agent(ctx, agent)
}

// Decommission ends an agent for good, and returns what was tried afterwards.
func (c *Client) Decommission(ctx context.Context, agent string) (Decommission, error) {
	return send[Decommission](ctx, c, http.MethodPost, agentPath(agent)+"/decommission", struct{}{})
}

// DecommissionByID shows a decommission.
func (c *Client) DecommissionByID(ctx context.Context, id string) (Decommission, error) {
	return get[Decommission](ctx, c, v1+"/decommissions"+segment(id), nil)
}
