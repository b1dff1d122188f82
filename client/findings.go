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
	ID         string       `json:"id"`
	Rule       string       `json:"rule"`
	Severity   string       `json:"severity"` // info, low, medium, high, critical
	Object     string       `json:"object"`   // such as tool/ledger/pay_invoice
	Agent      string       `json:"agent,omitempty"`
	Title      string       `json:"title"`
	Detail     string       `json:"detail,omitempty"`
	Events     []string     `json:"events,omitempty"` // the latest 50
	Status     string       `json:"status"`           // open, closed
	State      string       `json:"state"`            // open, muted, closed
	Count      int64        `json:"count"`            // how often it was seen
	FirstSeen  time.Time    `json:"first_seen"`
	LastSeen   time.Time    `json:"last_seen"`
	Opened     time.Time    `json:"opened"` // or reopened
	Updated    time.Time    `json:"updated"`
	Reopened   int64        `json:"reopened,omitempty"` // how often it came back
	Closed     time.Time    `json:"closed,omitzero"`
	ClosedBy   string       `json:"closed_by,omitempty"`
	Reason     string       `json:"reason,omitempty"`
	MutedUntil time.Time    `json:"muted_until,omitzero"`
	Tune       string       `json:"tune,omitempty"`
	History    []FindingAct `json:"history,omitempty"`
	NotBy      string       `json:"not_by,omitempty"` // the user (id) who may not close it
}

// FindingAct is something that was done with a finding.
type FindingAct struct {
	At     time.Time `json:"at"`
	Act    string    `json:"act"` // closed, reopened, tuned
	By     string    `json:"by"`
	Reason string    `json:"reason,omitempty"`
}

// Mute says what nobody wants to hear of until a time; an empty field is any.
type Mute struct {
	ID      string    `json:"id"`
	Rule    string    `json:"rule,omitempty"`
	Object  string    `json:"object,omitempty"`
	Agent   string    `json:"agent,omitempty"`
	Created time.Time `json:"created"`
	Until   time.Time `json:"until"`
	By      string    `json:"by"`
	Reason  string    `json:"reason"`
}

// MuteSpec is what to mute; a Rule, an Object, an Agent, or several.
type MuteSpec struct {
	Rule   string    `json:"rule,omitempty"`
	Object string    `json:"object,omitempty"`
	Agent  string    `json:"agent,omitempty"`
	Until  time.Time `json:"until"`
}

// FindingQuery narrows a list of findings. Empty fields select everything.
type FindingQuery struct {
	Status, Rule, Severity, Object string
	State, Agent                   string // State tells muted from open ones, Status does not
	Tuned                          bool   // only those with a note for tuning
	Before                         string // the id of the last finding of the page before
	Limit                          int    // 0: 100, at most 1000
}

// Findings lists findings, the newest first.
func (c *Client) Findings(ctx context.Context, q FindingQuery) ([]Finding, error) {
	query := url.Values{}
	for name, value := range map[string]string{"status": q.Status, "rule": q.Rule, "severity": q.Severity, "object": q.Object, "before": q.Before, "state": q.State, "agent": q.Agent} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if q.Tuned {
		query.Set("tuned", "true")
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

// TuneFinding notes on a finding how its rule should be set.
func (c *Client) TuneFinding(ctx context.Context, id, note string) (Finding, error) {
	return send[Finding](ctx, c, http.MethodPost, v1+"/findings"+segment(id)+"/tune", map[string]string{"note": note})
}

// MuteFinding mutes what a finding is about, under its rule, until a time.
func (c *Client) MuteFinding(ctx context.Context, id string, until time.Time) (Finding, error) {
	return send[Finding](ctx, c, http.MethodPost, v1+"/findings"+segment(id)+"/mute", map[string]time.Time{"until": until})
}

// UnmuteFinding ends all mutes that mute a finding.
func (c *Client) UnmuteFinding(ctx context.Context, id string) (Finding, error) {
	return send[Finding](ctx, c, http.MethodPost, v1+"/findings"+segment(id)+"/unmute", struct{}{})
}

// Mutes lists the mutes in force, the latest first.
func (c *Client) Mutes(ctx context.Context) ([]Mute, error) {
	return get[[]Mute](ctx, c, v1+"/finding-mutes", nil)
}

// AddMute mutes findings until a time.
func (c *Client) AddMute(ctx context.Context, m MuteSpec) (Mute, error) {
	return send[Mute](ctx, c, http.MethodPost, v1+"/finding-mutes", m)
}

// EndMute ends a mute before its time.
func (c *Client) EndMute(ctx context.Context, id string) (Mute, error) {
	return send[Mute](ctx, c, http.MethodPost, v1+"/finding-mutes"+segment(id)+"/end", struct{}{})
}
