package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// InventoryEntry is a thing that was observed and is not registered, or is
// registered and was never observed.
type InventoryEntry struct {
	ID         string          `json:"id"`
	Kind       string          `json:"kind"`  // agent, caller, connection, tool, model, secret, network, host
	Name       string          `json:"name"`  // others may have chosen it
	State      string          `json:"state"` // unregistered, unobserved
	Why        string          `json:"why,omitempty"`
	First      time.Time       `json:"first,omitzero"`
	Last       time.Time       `json:"last,omitzero"`
	Passed     time.Time       `json:"passed,omitzero"` // when it was last let through
	Since      time.Time       `json:"since,omitzero"`  // since when it is looked for
	Times      int64           `json:"times"`
	By         []string        `json:"by"` // who showed it, the first five
	Event      string          `json:"event,omitempty"`
	FirstEvent string          `json:"first_event,omitempty"`
	Acts       []InventoryAct  `json:"acts"`
	Aside      *InventoryAside `json:"aside,omitempty"`
}

// InventoryAct is a command that acts on an entry.
type InventoryAct struct {
	Verb    string `json:"verb"`
	Command string `json:"command"` // NAME, USER and the like stand for what a person has to say
}

// InventoryAside says until when an entry is nothing to act on, and why.
type InventoryAside struct {
	Until  time.Time `json:"until"`
	Reason string    `json:"reason"`
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Event  string    `json:"event"`
}

// InventoryDifference is what is registered against what was observed.
type InventoryDifference struct {
	Since   time.Time        `json:"since,omitzero"` // since when the log is read
	Behind  int64            `json:"behind"`         // records that are not read yet
	Known   map[string]int   `json:"known"`          // observed and registered, by kind
	Open    int              `json:"open"`           // to act on
	Entries []InventoryEntry `json:"entries"`
}

// InventoryQuery narrows a difference; the zero value is all of it.
type InventoryQuery struct {
	Kind, State string
	Open        bool // without what is set aside
}

// InventoryDifference compares what is registered with what was observed.
func (c *Client) InventoryDifference(ctx context.Context, q InventoryQuery) (InventoryDifference, error) {
	v := url.Values{"open": {strconv.FormatBool(q.Open)}}
	if q.Kind != "" {
		v.Set("kind", q.Kind)
	}
	if q.State != "" {
		v.Set("state", q.State)
	}
	return get[InventoryDifference](ctx, c, v1+"/inventory/diff", v)
}

// InventoryEntry returns an entry of the difference.
func (c *Client) InventoryEntry(ctx context.Context, id string) (InventoryEntry, error) {
	return get[InventoryEntry](ctx, c, v1+"/inventory/diff"+segment(id), nil)
}

// SetAside sets an entry of the difference aside until a time, at most a year.
func (c *Client) SetAside(ctx context.Context, id string, until time.Time) (InventoryEntry, error) {
	return send[InventoryEntry](ctx, c, http.MethodPost, v1+"/inventory/diff"+segment(id)+"/set-aside", map[string]time.Time{"until": until})
}

// TakeBack ends that an entry is set aside.
func (c *Client) TakeBack(ctx context.Context, id string) (InventoryEntry, error) {
	return send[InventoryEntry](ctx, c, http.MethodPost, v1+"/inventory/diff"+segment(id)+"/take-back", struct{}{})
}
