package client

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// UsedValues is what values an argument had in calls that were allowed.
type UsedValues struct {
	Kind   string   `json:"kind"`   // long, decimal, string, bool, strings
	Looked int64    `json:"looked"` // allowed calls in which it was looked for
	Seen   int64    `json:"seen"`   // of these, calls that had it
	Min    int64    `json:"min,omitzero"`
	Max    int64    `json:"max,omitzero"` // of numbers; of decimals in ten-thousandths
	Values []string `json:"values,omitempty"`
	More   bool     `json:"more,omitempty"` // the values are not all
}

// String returns "1200 to 49000", or the values.
func (u UsedValues) String() string {
	var s string
	switch {
	case u.Seen == 0:
		return "never given"
	case u.Kind == "long" || u.Kind == "decimal":
		s = number(u.Kind, u.Min)
		if u.Max != u.Min {
			s += " to " + number(u.Kind, u.Max)
		}
	default:
		s = strings.Join(u.Values, ", ")
	}
	if u.More {
		s = strings.TrimPrefix(s+" and others", " and ")
	}
	return s
}

func number(kind string, n int64) string {
	if kind != "decimal" {
		return strconv.FormatInt(n, 10)
	}
	sign := ""
	if n < 0 {
		sign = "-"
	}
	whole, part := n/10000, n%10000
	s := fmt.Sprintf("%s%d.%04d", sign, max(whole, -whole), max(part, -part))
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}

// Use is what became of an agent's calls of a tool.
type Use struct {
	Agent        string                `json:"agent"`
	Connection   string                `json:"connection"`
	Tool         string                `json:"tool"`
	Rule         string                `json:"rule,omitempty"` // of these, calls that grant:NAME or a policy determined; empty: all
	Stage        string                `json:"stage,omitempty"`
	Day          time.Time             `json:"day,omitzero"`
	Allowed      int64                 `json:"allowed"`
	Denied       int64                 `json:"denied"`
	Held         int64                 `json:"held"`
	FirstAllowed time.Time             `json:"first_allowed,omitzero"`
	LastAllowed  time.Time             `json:"last_allowed,omitzero"`
	LastDenied   time.Time             `json:"last_denied,omitzero"`
	LastHeld     time.Time             `json:"last_held,omitzero"`
	LastEvent    string                `json:"last_event,omitempty"`
	Arguments    map[string]UsedValues `json:"arguments,omitempty"`
}

// Uses is use, and how much of the log it rests on.
type Uses struct {
	Since  time.Time `json:"since,omitzero"` // watched from here on: of what was before nothing is known
	Behind int64     `json:"behind,omitempty"`
	Uses   []Use     `json:"uses"`
}

// UseQuery selects use. Empty fields select everything.
type UseQuery struct {
	Agent, Connection, Tool, Rule string
	Pairs                         bool // agents and tools alone, without the rules that determined
	Since, Until                  time.Time
	Days                          bool // each day for itself
}

// ToolUse is what was used of one tool by a grant.
type ToolUse struct {
	Tool        string    `json:"tool"`
	Allowed     int64     `json:"allowed"`
	LastAllowed time.Time `json:"last_allowed,omitzero"`
	LastDenied  time.Time `json:"last_denied,omitzero"`
	LastEvent   string    `json:"last_event,omitempty"`
}

// GrantUse is what was used of a grant since it was given.
type GrantUse struct {
	Grant       string    `json:"grant"`
	Agent       string    `json:"agent"`
	Connection  string    `json:"connection"`
	Watched     time.Time `json:"watched"` // its use is known from here on
	Allowed     int64     `json:"allowed"`
	LastAllowed time.Time `json:"last_allowed,omitzero"`
	LastEvent   string    `json:"last_event,omitempty"`
	Tools       []ToolUse `json:"tools"`
}

// GrantUses is the use of grants, and how much of the log it rests on.
type GrantUses struct {
	Since  time.Time  `json:"since,omitzero"`
	Behind int64      `json:"behind,omitempty"`
	Grants []GrantUse `json:"grants"`
}

// Uses returns what agents used.
func (c *Client) Uses(ctx context.Context, q UseQuery) (Uses, error) {
	query := url.Values{}
	for name, v := range map[string]string{"agent": q.Agent, "connection": q.Connection, "tool": q.Tool, "rule": q.Rule} {
		if v != "" {
			query.Set(name, v)
		}
	}
	for name, v := range map[string]bool{"pairs": q.Pairs, "days": q.Days} {
		if v {
			query.Set(name, "true")
		}
	}
	for name, t := range map[string]time.Time{"since": q.Since, "until": q.Until} {
		if !t.IsZero() {
			query.Set(name, t.UTC().Format(time.RFC3339))
		}
	}
	return get[Uses](ctx, c, v1+"/use", query)
}

// GrantUses returns what was used of grants, of one agent's unless it is empty.
func (c *Client) GrantUses(ctx context.Context, agent string) (GrantUses, error) {
	query := url.Values{}
	if agent != "" {
		query.Set("agent", agent)
	}
	return get[GrantUses](ctx, c, v1+"/use/grants", query)
}

// RebuildUse has the server read from the log again what was used; with all,
// every argument that policies name by now, from the log's beginning.
func (c *Client) RebuildUse(ctx context.Context, all bool) error {
	return c.do(ctx, http.MethodPost, v1+"/use/rebuild", nil, map[string]bool{"all": all}, nil)
}
