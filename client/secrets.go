package client

import (
	"context"
	"net/http"
	"time"
)

// Secret is an upstream's credential without its value, which never leaves the server.
type Secret struct {
	ID         string    `json:"id"`
	Name       string    `json:"name"`
	Owner      string    `json:"owner"`
	Connection string    `json:"connection"`
	Hosts      []string  `json:"hosts"` // where it may be sent; none: wherever its connection points
	Version    int64     `json:"version"`
	Created    time.Time `json:"created"`
	Rotated    time.Time `json:"rotated"` // when the present value was put
	AgeDays    int       `json:"age_days"`
	LastUsed   time.Time `json:"last_used,omitzero"`
	Broken     bool      `json:"broken,omitempty"` // it cannot be opened and must be put again
}

// SecretSpec is what a person says of a secret.
type SecretSpec struct {
	Owner      string   `json:"owner"`
	Connection string   `json:"connection"`
	Hosts      []string `json:"hosts,omitempty"`
}

// Secrets lists secrets by name.
func (c *Client) Secrets(ctx context.Context) ([]Secret, error) {
	return get[[]Secret](ctx, c, v1+"/secrets", nil)
}

// Secret returns one secret, without its value.
func (c *Client) Secret(ctx context.Context, name string) (Secret, error) {
	return get[Secret](ctx, c, v1+"/secrets"+segment(name), nil)
}

// PutSecret creates, rotates or changes a secret. An empty value keeps the
// stored one. It reports whether anything changed.
func (c *Client) PutSecret(ctx context.Context, name string, spec SecretSpec, value string) (Secret, bool, error) {
	in := struct {
		SecretSpec
		Value string `json:"value,omitempty"`
	}{spec, value}
	out, err := send[struct {
		Changed bool   `json:"changed"`
		Secret  Secret `json:"secret"`
	}](ctx, c, http.MethodPut, v1+"/secrets"+segment(name), in)
	return out.Secret, out.Changed, err
}

// DeleteSecret deletes a secret.
func (c *Client) DeleteSecret(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, v1+"/secrets"+segment(name), nil, nil, nil)
}
