package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// GrantWish is a grant that somebody asks for.
type GrantWish struct {
	Agent      string   `json:"agent"`
	Connection string   `json:"connection"`
	Tools      []string `json:"tools"`
	When       string   `json:"when,omitempty"` // a Cedar expression
	For        string   `json:"for,omitempty"`  // how long, such as 2h; 1h if empty
}

// GrantRequest is a wish and how it stands.
type GrantRequest struct {
	ID       string    `json:"id"`    // of the approval
	State    string    `json:"state"` // pending, approved, denied, expired, void, given, ended
	Agent    string    `json:"agent"`
	Wish     GrantWish `json:"wish"`
	By       string    `json:"by"`
	Reason   string    `json:"reason"`
	Asked    time.Time `json:"asked"`
	DecideBy time.Time `json:"decide_by"`
	Why      string    `json:"why,omitempty"`
	Deciders []string  `json:"deciders,omitempty"`
	Approved []string  `json:"approved_by,omitempty"`
	Override bool      `json:"override,omitempty"`
	Grant    string    `json:"grant,omitempty"`
	Expires  time.Time `json:"expires,omitzero"`
	URL      string    `json:"url,omitempty"`
}

// GrantApprovers say who may let agents have grants of a connection for a time.
type GrantApprovers struct {
	ID         string    `json:"id"`
	Connection string    `json:"connection"` // * for every connection that has none of its own
	Groups     []string  `json:"groups"`
	Quorum     int       `json:"quorum,omitempty"`
	Longest    string    `json:"longest,omitempty"`
	Apart      bool      `json:"apart,omitempty"`
	Passkey    bool      `json:"passkey,omitempty"`
	Updated    time.Time `json:"updated,omitzero"`
}

// RequestGrant asks people to give an agent a grant for a time.
func (c *Client) RequestGrant(ctx context.Context, w GrantWish) (GrantRequest, error) {
	return send[GrantRequest](ctx, c, http.MethodPost, v1+"/grant-requests", w)
}

// GrantRequests lists what was asked for, the latest first; with all also what is over.
func (c *Client) GrantRequests(ctx context.Context, agent string, all bool) ([]GrantRequest, error) {
	q := url.Values{}
	if agent != "" {
		q.Set("agent", agent)
	}
	if all {
		q.Set("all", "true")
	}
	return get[[]GrantRequest](ctx, c, v1+"/grant-requests", q)
}

// GrantApprovers lists who approves grants that are asked for.
func (c *Client) GrantApprovers(ctx context.Context) ([]GrantApprovers, error) {
	return get[[]GrantApprovers](ctx, c, v1+"/grant-approvers", nil)
}

// SetGrantApprovers says who approves grants of a connection.
func (c *Client) SetGrantApprovers(ctx context.Context, a GrantApprovers) (GrantApprovers, error) {
	return send[GrantApprovers](ctx, c, http.MethodPut, v1+"/grant-approvers"+segment(a.Connection), struct {
		Groups  []string `json:"groups"`
		Quorum  int      `json:"quorum,omitempty"`
		Longest string   `json:"longest,omitempty"`
		Apart   bool     `json:"apart,omitempty"`
		Passkey bool     `json:"passkey,omitempty"`
	}{a.Groups, a.Quorum, a.Longest, a.Apart, a.Passkey})
}

// RemoveGrantApprovers has nobody approve grants of a connection.
func (c *Client) RemoveGrantApprovers(ctx context.Context, connection string) error {
	return c.do(ctx, http.MethodDelete, v1+"/grant-approvers"+segment(connection), nil, nil, nil)
}

// GrantException says that a grant may stand without an end of its own.
type GrantException struct {
	ID         string    `json:"id"`
	Grant      string    `json:"grant"`
	Agent      string    `json:"agent"`
	Connection string    `json:"connection"`
	Tools      []string  `json:"tools"`
	When       string    `json:"when,omitzero"`
	Owner      string    `json:"owner"`
	Reason     string    `json:"reason"`
	Until      time.Time `json:"until"`
	By         string    `json:"by"`
	Created    time.Time `json:"created"`
}

// ExceptionSpec is what an exception says. Without an agent it is for what the grant
// gives; one that is made before its grant names agent, connection and tools.
type ExceptionSpec struct {
	Owner      string    `json:"owner"`
	Until      time.Time `json:"until"`
	Agent      string    `json:"agent,omitempty"`
	Connection string    `json:"connection,omitempty"`
	Tools      []string  `json:"tools,omitempty"`
	When       string    `json:"when,omitempty"`
}

// GrantExceptions lists all there are, those that are over too.
func (c *Client) GrantExceptions(ctx context.Context) ([]GrantException, error) {
	return get[[]GrantException](ctx, c, v1+"/grant-exceptions", nil)
}

// ExceptGrant makes an exception for a grant: who answers for it, and until when.
func (c *Client) ExceptGrant(ctx context.Context, grant string, spec ExceptionSpec) (GrantException, error) {
	return send[GrantException](ctx, c, http.MethodPut, v1+"/grants"+segment(grant)+"/exception", spec)
}

// EndGrantException ends one before its time.
func (c *Client) EndGrantException(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, v1+"/grant-exceptions"+segment(id), nil, nil, nil)
}
