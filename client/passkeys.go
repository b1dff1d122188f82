package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Passkey is a passkey that a person registered.
type Passkey struct {
	ID       string    `json:"id"`
	User     string    `json:"user"`
	Name     string    `json:"name"`
	Created  time.Time `json:"created"`
	LastUsed time.Time `json:"last_used,omitzero"`
}

// PasskeyRegistration is what a browser needs to make a passkey.
type PasskeyRegistration struct {
	Challenge  string   `json:"challenge"` // base64url
	RP         string   `json:"rp_id"`     // the domain that the passkey is for
	Origin     string   `json:"origin"`    // the only origin whose pages may ask for it
	UserID     string   `json:"user_id"`   // base64url
	User       string   `json:"user"`
	Exclude    []string `json:"exclude"` // credentials of the person's passkeys, base64url
	Algorithms []int64  `json:"algorithms"`
}

// PasskeyChallenge is what a browser needs to have a decision signed with a passkey.
type PasskeyChallenge struct {
	Challenge   string   `json:"challenge"` // base64url
	RP          string   `json:"rp_id"`
	Origin      string   `json:"origin"`
	Credentials []string `json:"credentials"` // credentials of the person's passkeys, base64url
}

// Passkeys lists the passkeys of a user, your own if user is empty.
func (c *Client) Passkeys(ctx context.Context, user string) ([]Passkey, error) {
	q := url.Values{}
	if user != "" {
		q.Set("user", user)
	}
	return get[[]Passkey](ctx, c, v1+"/passkeys", q)
}

// StartPasskey begins to register a passkey in the session of this client.
func (c *Client) StartPasskey(ctx context.Context) (PasskeyRegistration, error) {
	return send[PasskeyRegistration](ctx, c, http.MethodPost, v1+"/passkeys/challenge", struct{}{})
}

// AddPasskey registers what a browser made (PublicKeyCredential.toJSON).
func (c *Client) AddPasskey(ctx context.Context, name, credential string) (Passkey, error) {
	return send[Passkey](ctx, c, http.MethodPost, v1+"/passkeys", struct {
		Name       string `json:"name"`
		Credential string `json:"credential"`
	}{name, credential})
}

// RenamePasskey gives a passkey of your own another name.
func (c *Client) RenamePasskey(ctx context.Context, id, name string) (Passkey, error) {
	return send[Passkey](ctx, c, http.MethodPut, v1+"/passkeys"+segment(id), struct {
		Name string `json:"name"`
	}{name})
}

// RemovePasskey ends a passkey at once: your own, or anyone's if you are an
// administrator.
func (c *Client) RemovePasskey(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, v1+"/passkeys"+segment(id), nil, nil, nil)
}

// ApprovalChallenge asks for what a passkey signs to decide about a request.
func (c *Client) ApprovalChallenge(ctx context.Context, id, verdict string) (PasskeyChallenge, error) {
	return send[PasskeyChallenge](ctx, c, http.MethodPost, v1+"/approvals"+segment(id)+"/challenge", struct {
		Verdict string `json:"verdict"`
	}{verdict})
}
