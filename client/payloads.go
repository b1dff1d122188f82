package client

import (
	"context"
	"net/http"
	"time"
)

// Erasure says whose payloads to erase: one of the three.
type Erasure struct {
	Subject string `json:"subject,omitzero"`
	Agent   string `json:"agent,omitzero"`
	Run     string `json:"run,omitzero"`
}

// Erased says what an erasure did.
type Erased struct {
	Event    string `json:"event"`
	Keys     int64  `json:"keys"`
	Payloads int64  `json:"payloads"`
}

// Hold is a legal hold on payloads.
type Hold struct {
	ID            string    `json:"id"`
	Agent         string    `json:"agent,omitempty"`
	Run           string    `json:"run,omitempty"`
	From          time.Time `json:"from,omitzero"`
	To            time.Time `json:"to,omitzero"`
	Placed        time.Time `json:"placed"`
	By            string    `json:"by"`
	Reason        string    `json:"reason"`
	Released      time.Time `json:"released,omitzero"`
	ReleasedBy    string    `json:"released_by,omitempty"`
	ReleaseReason string    `json:"release_reason,omitempty"`
}

// HoldSpec says what a hold covers.
type HoldSpec struct {
	Agent string    `json:"agent,omitempty"`
	Run   string    `json:"run,omitempty"`
	From  time.Time `json:"from,omitzero"`
	To    time.Time `json:"to,omitzero"`
}

// Retention is how long payloads are kept.
type Retention struct {
	Days  int `json:"days"`
	Floor int `json:"floor,omitzero"`
}

// Erase makes payloads unreadable for ever. The log stays verifiable.
func (c *Client) Erase(ctx context.Context, what Erasure) (Erased, error) {
	var out Erased
	err := c.do(ctx, http.MethodPost, v1+"/log/erase", nil, what, &out)
	return out, err
}

// Holds lists the legal holds that stand.
func (c *Client) Holds(ctx context.Context) ([]Hold, error) {
	var out struct {
		Holds []Hold `json:"holds"`
	}
	err := c.do(ctx, http.MethodGet, v1+"/log/holds", nil, nil, &out)
	return out.Holds, err
}

// PlaceHold keeps what it covers from being erased and from expiring.
func (c *Client) PlaceHold(ctx context.Context, what HoldSpec) (Hold, error) {
	var out Hold
	err := c.do(ctx, http.MethodPost, v1+"/log/holds", nil, what, &out)
	return out, err
}

// ReleaseHold ends a legal hold.
func (c *Client) ReleaseHold(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, v1+"/log/holds"+segment(id), nil, nil, nil)
}

// Retention returns how long payloads are kept.
func (c *Client) Retention(ctx context.Context) (Retention, error) {
	var out Retention
	err := c.do(ctx, http.MethodGet, v1+"/log/retention", nil, nil, &out)
	return out, err
}

// SetRetention changes how long payloads are kept.
func (c *Client) SetRetention(ctx context.Context, days int) (Retention, error) {
	var out Retention
	err := c.do(ctx, http.MethodPut, v1+"/log/retention", nil, Retention{Days: days}, &out)
	return out, err
}
