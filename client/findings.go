package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Finding is something wrong that someone must see.
type Finding struct {
	ID       string    `json:"id"`
	Rule     string    `json:"rule"`
	Severity string    `json:"severity"` // info, low, medium, high, critical
	Object   string    `json:"object"`   // such as tool/ledger/pay_invoice
	Title    string    `json:"title"`
	Detail   string    `json:"detail,omitempty"`
	Events   []string  `json:"events,omitempty"`
	Status   string    `json:"status"` // open, closed
	Opened   time.Time `json:"opened"`
	Updated  time.Time `json:"updated"`
	Closed   time.Time `json:"closed,omitzero"`
	ClosedBy string    `json:"closed_by,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	NotBy    string    `json:"not_by,omitempty"` // the user (id) who may not close it
}

// FindingQuery narrows a list of findings. Empty fields select everything.
type FindingQuery struct {
	Status, Rule, Severity, Object string
	Before                         string // the id of the last finding of the page before
	Limit                          int    // 0: 100, at most 1000
}

// Findings lists findings, the newest first.
func (c *Client) Findings(ctx context.Context, q FindingQuery) ([]Finding, error) {
	query := url.Values{}
	for name, value := range map[string]string{"status": q.Status, "rule": q.Rule, "severity": q.Severity, "object": q.Object, "before": q.Before} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if q.Limit > 0 {
		query.Set("limit", strconv.Itoa(q.Limit))
	}
	return get[[]Finding](ctx, c, v1+"/findings", query)
}

// Finding returns one finding.
func (c *Client) Finding(ctx context.Context, id string) (Finding, error) {
	return get[Finding](ctx, c, v1+"/findings"+segment(id), nil)
}

// CloseFinding closes a finding.
func (c *Client) CloseFinding(ctx context.Context, id string) (Finding, error) {
	return send[Finding](ctx, c, http.MethodPost, v1+"/findings"+segment(id)+"/close", struct{}{})
}
