package client

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Rightsizing is a way to make a grant smaller without taking what was used.
type Rightsizing struct {
	ID          string        `json:"id"` // GRANT:DIGEST
	Grant       string        `json:"grant"`
	Agent       string        `json:"agent"`
	Kind        string        `json:"kind"` // remove, tools, arguments, stage, expiry
	Why         string        `json:"why"`
	Before      Grant         `json:"before"`
	After       []Grant       `json:"after"` // none: it is revoked
	Diff        string        `json:"diff"`  // unified
	Since       time.Time     `json:"since"` // use from then on was looked at
	Calls       int64         `json:"calls"` // recorded calls that were decided again
	Refused     int64         `json:"refused"`
	Unseen      int64         `json:"unseen,omitzero"`
	Partial     bool          `json:"partial,omitempty"`
	Changes     []PolicyShift `json:"changes,omitempty"`
	State       string        `json:"state"` // proposed, tried, accepted, reverted, dropped
	Made        time.Time     `json:"made"`
	Changed     time.Time     `json:"changed"`
	By          string        `json:"by,omitempty"`
	Reason      string        `json:"reason,omitempty"`
	WouldRefuse int64         `json:"would_refuse,omitzero"` // while it is tried
	LastRefusal time.Time     `json:"last_refusal,omitzero"`
}

// ProposeRightsizing judges the grants of an agent over a window that ends now;
// 0 is 90 days.
func (c *Client) ProposeRightsizing(ctx context.Context, agent string, window time.Duration) ([]Rightsizing, error) {
	in := map[string]string{}
	if window > 0 {
		in["window"] = window.String()
	}
	out, err := send[struct {
		Since     time.Time     `json:"since,omitzero"`
		Behind    int64         `json:"behind,omitempty"`
		Proposals []Rightsizing `json:"proposals"`
	}](ctx, c, http.MethodPost, v1+"/agents"+segment(agent)+"/rightsizings", in)
	return out.Proposals, err
}

// Rightsizings lists proposals in a state, or in any, of an agent or of all.
func (c *Client) Rightsizings(ctx context.Context, agent, state string) ([]Rightsizing, error) {
	query := url.Values{}
	for name, v := range map[string]string{"agent": agent, "state": state} {
		if v != "" {
			query.Set(name, v)
		}
	}
	return get[[]Rightsizing](ctx, c, v1+"/rightsizings", query)
}

// DecideRightsizing does what is decided about a proposal: try, accept, revert
// or drop. Accepting is refused if calls came since that it would refuse,
// unless force is true.
func (c *Client) DecideRightsizing(ctx context.Context, id, what string, force bool) (Rightsizing, error) {
	grant, digest, _ := strings.Cut(id, ":")
	return send[Rightsizing](ctx, c, http.MethodPost, grantPath(grant)+"/rightsizings"+segment(digest)+"/"+what, map[string]bool{"force": force})
}
