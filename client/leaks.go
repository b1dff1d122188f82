package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Leak is a place where a credential was found.
type Leak struct {
	Value string `json:"value"`
	Where string `json:"where,omitempty"`
}

// LeakMatch is a credential that the server recognised, and what it did.
type LeakMatch struct {
	Kind   string `json:"kind"`
	Object string `json:"object"`
	ID     string `json:"id,omitempty"`
	Lock   string `json:"lock,omitempty"`
	Done   string `json:"done"` // revoked, dead, rotated, by_hand, noted
}

// LeakAnswer is what came of a report. Matches are shown to operators and
// auditors only.
type LeakAnswer struct {
	Received int         `json:"received"`
	Matches  []LeakMatch `json:"matches"`
}

// ReportLeaks reports credentials that were found in the open: at most 1000.
func (c *Client) ReportLeaks(ctx context.Context, source string, items []Leak) (LeakAnswer, error) {
	in := struct {
		Source string `json:"source"`
		Items  []Leak `json:"items"`
	}{source, items}
	return send[LeakAnswer](ctx, c, http.MethodPost, v1+"/leaks", in)
}

// Canary is a credential that nobody uses.
type Canary struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Kind     string    `json:"kind"`
	Where    string    `json:"where"`
	By       string    `json:"by"`
	Created  time.Time `json:"created"`
	LastUsed time.Time `json:"last_used,omitzero"`
	Uses     int64     `json:"uses"`
}

// NewCanary is a canary with its value, which is shown this once.
type NewCanary struct {
	Canary
	Value string `json:"value"`
}

// Canaries lists canaries by name.
func (c *Client) Canaries(ctx context.Context) ([]Canary, error) {
	return get[[]Canary](ctx, c, v1+"/canaries", url.Values{})
}

// CreateCanary makes a canary; kind says what it looks like (key or token), where
// says where it will be put.
func (c *Client) CreateCanary(ctx context.Context, name, kind, where string) (NewCanary, error) {
	in := struct {
		Kind  string `json:"kind,omitempty"`
		Where string `json:"where,omitempty"`
	}{kind, where}
	return send[NewCanary](ctx, c, http.MethodPost, v1+"/canaries"+segment(name), in)
}

// DeleteCanary forgets a canary.
func (c *Client) DeleteCanary(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, v1+"/canaries"+segment(name), nil, nil, nil)
}
