package client

import (
	"context"
	"time"
)

// Reach counts what something may touch, under conditions: an
// over-approximation.
type Reach struct {
	Agents       int `json:"agents"` // that may reach it
	Connections  int `json:"connections"`
	Tools        int `json:"tools"`
	Read         int `json:"read"`
	Write        int `json:"write"`
	Irreversible int `json:"irreversible"`
	Held         int `json:"held"`        // tools whose every call waits for people
	Conditional  int `json:"conditional"` // tools that are reached only under conditions
}

// Found counts the open findings about something.
type Found struct {
	Open  int    `json:"open"`
	Worst string `json:"worst,omitempty"`
}

// InventoryRow is what is known of an agent, a connection or a secret.
type InventoryRow struct {
	Name     string    `json:"name"`
	Owner    string    `json:"owner"`
	Created  time.Time `json:"created"`
	AgeDays  int       `json:"age_days"`
	LastUsed time.Time `json:"last_used,omitzero"`
	Reach    Reach     `json:"reach"`
	Findings Found     `json:"findings"`
}

// Inventory is what there is.
type Inventory struct {
	Agents      []InventoryRow `json:"agents"`
	Connections []InventoryRow `json:"connections"`
	Secrets     []InventoryRow `json:"secrets"`
}

// Inventory lists agents, connections and secrets with what they may touch.
func (c *Client) Inventory(ctx context.Context) (Inventory, error) {
	return get[Inventory](ctx, c, v1+"/inventory", nil)
}

// ReachTree is an agent's blast radius.
type ReachTree struct {
	Agent       string        `json:"agent"`
	Owner       string        `json:"owner"`
	Stage       string        `json:"stage"`
	Suspended   bool          `json:"suspended"`
	Reach       Reach         `json:"reach"`
	Connections []ReachBranch `json:"connections"`
	Users       []string      `json:"users"` // signed in with it now
	Note        string        `json:"note"`  // how this is to be read
}

// ReachBranch is a connection that an agent may call.
type ReachBranch struct {
	Name       string        `json:"name"`
	Kind       string        `json:"kind"`
	Owner      string        `json:"owner"`
	Secrets    []ReachSecret `json:"secrets"`
	Tools      []ReachTool   `json:"tools"`       // irreversible first
	SharedWith []string      `json:"shared_with"` // other agents, at most 20
}

// ReachSecret is a secret that calls are made with. The agent never has it.
type ReachSecret struct {
	Name   string   `json:"name"`
	Kind   string   `json:"kind"`
	Owner  string   `json:"owner"`
	Hosts  []string `json:"hosts"`
	Exists bool     `json:"exists"`
}

// ReachTool is a tool that an agent may call.
type ReachTool struct {
	Name        string   `json:"name"`
	Effect      string   `json:"effect"`
	Possible    bool     `json:"possible"`
	Conditional bool     `json:"conditional"`
	Held        bool     `json:"held"`     // every call waits for people
	MayHold     bool     `json:"may_hold"` // some do
	By          []string `json:"by"`       // grants and policies that allow it
	Against     []string `json:"against"`  // policies that may forbid or hold it
}

// Reach returns what an agent may touch.
func (c *Client) Reach(ctx context.Context, agent string) (ReachTree, error) {
	return get[ReachTree](ctx, c, v1+"/agents"+segment(agent)+"/reach", nil)
}

// Stranger is somebody who calls and is not registered as an agent.
type Stranger struct {
	Remote     string    `json:"remote"`
	Client     string    `json:"client,omitempty"` // what the program calls itself
	Connection string    `json:"connection,omitempty"`
	Why        string    `json:"why"`
	Calls      int64     `json:"calls"`
	First      time.Time `json:"first"`
	Last       time.Time `json:"last"`
}

// Unregistered lists who calls and is not registered as an agent.
func (c *Client) Unregistered(ctx context.Context) ([]Stranger, error) {
	return get[[]Stranger](ctx, c, v1+"/inventory/unregistered", nil)
}
