package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// User is a person.
type User struct {
	ID          string    `json:"id"`
	Name        string    `json:"name"`
	Email       string    `json:"email,omitempty"`
	DisplayName string    `json:"display_name,omitempty"`
	Role        string    `json:"role"` // admin, operator, owner, approver, auditor, viewer
	Disabled    bool      `json:"disabled"`
	Password    bool      `json:"password"`          // one is set
	Issuer      string    `json:"issuer,omitempty"`  // the identity provider that vouches for them
	Subject     string    `json:"subject,omitempty"` // what it calls them
	Gone        bool      `json:"gone,omitempty"`    // disabled because it no longer does
	Created     time.Time `json:"created"`
}

// UserSpec is what a person says of a user.
type UserSpec struct {
	Email       string `json:"email,omitempty"`
	DisplayName string `json:"display_name,omitempty"`
	Role        string `json:"role"`
	Disabled    bool   `json:"disabled,omitempty"`
}

// Spec returns what a person said of u.
func (u User) Spec() UserSpec {
	return UserSpec{Email: u.Email, DisplayName: u.DisplayName, Role: u.Role, Disabled: u.Disabled}
}

// Me is the person a client calls as.
type Me struct {
	User
	Write bool     `json:"write"` // the role may change things
	May   []string `json:"may"`   // what the role may do
}

// Session is what signing in gives.
type Session struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
	User    User      `json:"user"`
}

// Team is a group of users.
type Team struct {
	ID          string    `json:"id"`
	Name        string    `json:"name"`
	Description string    `json:"description,omitempty"`
	Members     []string  `json:"members"`
	Created     time.Time `json:"created"`
}

// Group is the people who may answer held calls together.
type Group struct {
	ID          string    `json:"id"`
	Name        string    `json:"name"`
	Description string    `json:"description,omitempty"`
	Members     []string  `json:"members"`
	Created     time.Time `json:"created"`
}

// Token is a session or API token of a user without its value.
type Token struct {
	ID       string    `json:"id"`
	User     string    `json:"user"`
	Kind     string    `json:"kind"` // session, api
	Name     string    `json:"name"`
	Prefix   string    `json:"prefix"`
	Status   string    `json:"status"` // active, expired, revoked
	Created  time.Time `json:"created"`
	Expires  time.Time `json:"expires"`
	LastUsed time.Time `json:"last_used,omitzero"`
	Present  bool      `json:"present"` // the client presents it now
}

// IssuedToken is a token with its value, which is shown this once.
type IssuedToken struct {
	Token
	Value string `json:"token"`
}

func userPath(name string) string { return v1 + "/users" + segment(name) }

func teamPath(name string) string { return v1 + "/teams" + segment(name) }

// Login signs in with a password.
func (c *Client) Login(ctx context.Context, name, password string) (Session, error) {
	return send[Session](ctx, c, http.MethodPost, v1+"/login", map[string]string{"name": name, "password": password})
}

// Logout ends the session that the client presents.
func (c *Client) Logout(ctx context.Context) error {
	return c.do(ctx, http.MethodPost, v1+"/logout", nil, nil, nil)
}

// Me returns who the client calls as.
func (c *Client) Me(ctx context.Context) (Me, error) { return get[Me](ctx, c, v1+"/me", nil) }

// Users lists users by name.
func (c *Client) Users(ctx context.Context) ([]User, error) {
	return get[[]User](ctx, c, v1+"/users", nil)
}

// User returns one user.
func (c *Client) User(ctx context.Context, name string) (User, error) {
	return get[User](ctx, c, userPath(name), nil)
}

// PutUser creates or updates a user.
func (c *Client) PutUser(ctx context.Context, name string, spec UserSpec) (User, error) {
	return send[User](ctx, c, http.MethodPut, userPath(name), spec)
}

// SetPassword sets a user's password and ends their sessions. current is
// needed when it is the caller's own.
func (c *Client) SetPassword(ctx context.Context, name, current, password string) error {
	in := struct {
		Current  string `json:"current,omitempty"`
		Password string `json:"password"`
	}{current, password}
	return c.do(ctx, http.MethodPut, userPath(name)+"/password", nil, in, nil)
}

// DeleteUser deletes a user who owns nothing.
func (c *Client) DeleteUser(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, userPath(name), nil, nil, nil)
}

// Tokens lists the sessions and API tokens of a user, the caller if empty.
func (c *Client) Tokens(ctx context.Context, user string) ([]Token, error) {
	query := url.Values{}
	if user != "" {
		query.Set("user", user)
	}
	return get[[]Token](ctx, c, v1+"/tokens", query)
}

// IssueToken makes an API token of the caller's own that lives for expiresIn
// ("30d"; empty: the server's default of 30 days, at most 90).
func (c *Client) IssueToken(ctx context.Context, name, expiresIn string) (IssuedToken, error) {
	in := struct {
		Name      string `json:"name"`
		ExpiresIn string `json:"expires_in,omitempty"`
	}{name, expiresIn}
	return send[IssuedToken](ctx, c, http.MethodPost, v1+"/tokens", in)
}

// RevokeToken revokes a session or API token at once.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, v1+"/tokens"+segment(id), nil, nil, nil)
}

func groupPath(name string) string { return v1 + "/groups" + segment(name) }

// Groups lists groups by name.
func (c *Client) Groups(ctx context.Context) ([]Group, error) {
	return get[[]Group](ctx, c, v1+"/groups", nil)
}

// Group returns one group.
func (c *Client) Group(ctx context.Context, name string) (Group, error) {
	return get[Group](ctx, c, groupPath(name), nil)
}

// PutGroup creates or updates a group. Who is not among members leaves it.
func (c *Client) PutGroup(ctx context.Context, name, description string, members []string) (Group, error) {
	in := struct {
		Description string   `json:"description,omitempty"`
		Members     []string `json:"members,omitempty"`
	}{description, members}
	return send[Group](ctx, c, http.MethodPut, groupPath(name), in)
}

// DeleteGroup deletes a group.
func (c *Client) DeleteGroup(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, groupPath(name), nil, nil, nil)
}

// Teams lists teams by name.
func (c *Client) Teams(ctx context.Context) ([]Team, error) {
	return get[[]Team](ctx, c, v1+"/teams", nil)
}

// Team returns one team.
func (c *Client) Team(ctx context.Context, name string) (Team, error) {
	return get[Team](ctx, c, teamPath(name), nil)
}

// PutTeam creates or updates a team. Who is not among members leaves it.
func (c *Client) PutTeam(ctx context.Context, name, description string, members []string) (Team, error) {
	in := struct {
		Description string   `json:"description,omitempty"`
		Members     []string `json:"members,omitempty"`
	}{description, members}
	return send[Team](ctx, c, http.MethodPut, teamPath(name), in)
}

// DeleteTeam deletes a team without agents.
func (c *Client) DeleteTeam(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, teamPath(name), nil, nil, nil)
}
