package client

import (
	"context"
	"net/http"
	"time"
)

// Methods are the ways to sign in.
type Methods struct {
	Password bool `json:"password"`
	OIDC     *struct {
		Issuer string `json:"issuer"`
		Device bool   `json:"device"`
	} `json:"oidc,omitempty"`
}

// SignIn is a sign-in that was begun at the identity provider.
type SignIn struct {
	URL     string    `json:"url"` // where the browser must go
	Expires time.Time `json:"expires"`
}

// DeviceSignIn is a sign-in that a person approves on another device.
type DeviceSignIn struct {
	Handle     string    `json:"handle"`
	UserCode   string    `json:"user_code"`
	At         string    `json:"verification_uri"`
	AtWithCode string    `json:"verification_uri_complete,omitempty"`
	Interval   int64     `json:"interval"` // seconds
	Expires    time.Time `json:"expires"`
}

type ticket struct {
	Ticket   string `json:"ticket"`
	Verifier string `json:"verifier"`
}

type challenge struct {
	Redirect  string `json:"redirect,omitempty"`
	Challenge string `json:"challenge"`
}

// Methods shows the ways to sign in.
func (c *Client) Methods(ctx context.Context) (Methods, error) {
	return get[Methods](ctx, c, v1+"/login", nil)
}

// StartLogin begins a sign-in at the identity provider that ends at redirect,
// http://127.0.0.1:PORT/PATH; challenge is the base64url SHA-256 of a verifier
// that the caller keeps (RFC 7636).
func (c *Client) StartLogin(ctx context.Context, redirect, pkce string) (SignIn, error) {
	return send[SignIn](ctx, c, http.MethodPost, v1+"/login/oidc/start", challenge{redirect, pkce})
}

// FinishLogin gets the session for the ticket in the query of the redirect.
func (c *Client) FinishLogin(ctx context.Context, t, verifier string) (Session, error) {
	return send[Session](ctx, c, http.MethodPost, v1+"/login/oidc/finish", ticket{t, verifier})
}

// StartDevice begins a sign-in that a person approves on another device.
func (c *Client) StartDevice(ctx context.Context, pkce string) (DeviceSignIn, error) {
	return send[DeviceSignIn](ctx, c, http.MethodPost, v1+"/login/oidc/device", challenge{"", pkce})
}

// FinishDevice asks whether the sign-in was approved; it waits for the interval
// first. An Error with code authorization_pending says that it was not yet.
func (c *Client) FinishDevice(ctx context.Context, handle, verifier string) (Session, error) {
	return send[Session](ctx, c, http.MethodPost, v1+"/login/oidc/device/finish", ticket{handle, verifier})
}

// SignOut ends every session of a user, and with all their API tokens too; it
// returns how many.
func (c *Client) SignOut(ctx context.Context, user string, all bool) (int, error) {
	out, err := send[struct {
		Ended int `json:"ended"`
	}](ctx, c, http.MethodPost, v1+"/users"+segment(user)+"/sign-out", struct {
		All bool `json:"all,omitempty"`
	}{all})
	return out.Ended, err
}
