package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Secret is an upstream's credential without its value, which never leaves the server.
type Secret struct {
	ID         string   `json:"id"`
	Name       string   `json:"name"`
	Owner      string   `json:"owner"`
	Connection string   `json:"connection"`
	Hosts      []string `json:"hosts"` // where it may be sent; none: wherever its connection points

	Kind     string            `json:"kind"` // "value": it is sent as it is; else what is made of it
	Settings map[string]string `json:"settings,omitempty"`
	Source   string            `json:"source,omitempty"` // where its value is kept; empty: sealed in the store
	Rotation map[string]string `json:"rotation,omitempty"`

	Version  int64     `json:"version"`
	Created  time.Time `json:"created"`
	Rotated  time.Time `json:"rotated"` // when the present value was put
	AgeDays  int       `json:"age_days"`
	LastUsed time.Time `json:"last_used,omitzero"`
	Broken   bool      `json:"broken,omitempty"` // it cannot be opened and must be put again

	LastRotation   time.Time `json:"last_rotation,omitzero"` // when its last rotation succeeded
	NextRotation   time.Time `json:"next_rotation,omitzero"`
	RotationStatus string    `json:"rotation_status,omitempty"`
	Leases         int       `json:"leases,omitempty"`  // credentials made of it that are alive
	Zombies        int       `json:"zombies,omitempty"` // leases that ended but could not be revoked yet

	Inventory *InventoryRow `json:"inventory,omitempty"` // of Client.Inventory, where it was asked for
}

// SecretVersion is one of the values that a secret has at a time.
type SecretVersion struct {
	ID       string    `json:"id"`
	Version  int64     `json:"version"`
	State    string    `json:"state"` // pending, current, previous
	Created  time.Time `json:"created"`
	Rotation string    `json:"rotation,omitempty"` // the rotation that made it
	Ref      string    `json:"ref,omitempty"`      // what the provider calls it
}

// SecretSpec is what a person says of a secret.
type SecretSpec struct {
	Owner      string   `json:"owner"`
	Connection string   `json:"connection"`
	Hosts      []string `json:"hosts,omitempty"`

	Kind     string            `json:"kind,omitempty"`
	Settings map[string]string `json:"settings,omitempty"`
	Source   string            `json:"source,omitempty"`
	Rotation map[string]string `json:"rotation,omitempty"`
}

// Spec returns what a person has said of s.
func (s Secret) Spec() SecretSpec {
	return SecretSpec{s.Owner, s.Connection, s.Hosts, s.Kind, s.Settings, s.Source, s.Rotation}
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

// SecretVersions lists the versions of a secret, newest first.
func (c *Client) SecretVersions(ctx context.Context, name string) ([]SecretVersion, error) {
	return get[[]SecretVersion](ctx, c, v1+"/secrets"+segment(name)+"/versions", nil)
}

// RollbackSecret makes the previous version of a secret the current one.
func (c *Client) RollbackSecret(ctx context.Context, name string) (Secret, error) {
	return send[Secret](ctx, c, http.MethodPost, v1+"/secrets"+segment(name)+"/rollback", nil)
}

// DeleteSecret deletes a secret.
func (c *Client) DeleteSecret(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, v1+"/secrets"+segment(name), nil, nil, nil)
}

// Rotation is one replacement of a secret's value.
type Rotation struct {
	ID       string    `json:"id"`
	Secret   string    `json:"secret"`
	Step     string    `json:"step"`  // create, set, test, finish, done or failed
	Cause    string    `json:"cause"` // schedule, demand or leak
	Reason   string    `json:"reason,omitempty"`
	By       Actor     `json:"by"`
	Urgent   bool      `json:"urgent,omitempty"`
	Ref      string    `json:"ref,omitempty"`
	Version  int64     `json:"version,omitempty"`
	Attempts int       `json:"attempts"`
	NextTry  time.Time `json:"next_try,omitzero"`
	Error    string    `json:"error,omitempty"`
	Started  time.Time `json:"started"`
	Updated  time.Time `json:"updated"`
}

// RotateSecret begins to rotate a secret. With leaked its former value is
// retired at once.
func (c *Client) RotateSecret(ctx context.Context, name string, leaked bool) (Rotation, error) {
	return send[Rotation](ctx, c, http.MethodPost, v1+"/secrets"+segment(name)+"/rotate", map[string]bool{"leaked": leaked})
}

// Rotations lists the last rotations of a secret, newest first.
func (c *Client) Rotations(ctx context.Context, name string) ([]Rotation, error) {
	return get[[]Rotation](ctx, c, v1+"/secrets"+segment(name)+"/rotations", nil)
}

// Lease is a credential that was made for one agent and a time, and has not
// been seen to be dead.
type Lease struct {
	ID         string    `json:"id"`
	Secret     string    `json:"secret"`
	Kind       string    `json:"kind"`
	Agent      string    `json:"agent,omitempty"`
	Connection string    `json:"connection"`
	Owner      string    `json:"owner"`
	Call       string    `json:"call"`
	Name       string    `json:"name"`  // what the provider calls it
	State      string    `json:"state"` // live, ending or zombie
	Issued     time.Time `json:"issued"`
	Expires    time.Time `json:"expires"`
	Why        string    `json:"why,omitempty"`
	Attempts   int       `json:"attempts,omitempty"`
	Error      string    `json:"error,omitempty"`
}

// Leases lists leases, of one secret if it is named, oldest first.
func (c *Client) Leases(ctx context.Context, secret string) ([]Lease, error) {
	q := url.Values{}
	if secret != "" {
		q.Set("secret", secret)
	}
	return get[[]Lease](ctx, c, v1+"/leases", q)
}

// EndLease ends a lease before its time.
func (c *Client) EndLease(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, v1+"/leases"+segment(id), nil, nil, nil)
}

// RevokeSecret ends all leases of a secret before their time and returns how
// many there were.
func (c *Client) RevokeSecret(ctx context.Context, name string) (int, error) {
	out, err := send[struct {
		Ended int `json:"ended"`
	}](ctx, c, http.MethodPost, v1+"/secrets"+segment(name)+"/revoke", nil)
	return out.Ended, err
}

// KeyStatus says which key seals everything, and how far its replacement is.
type KeyStatus struct {
	Key        string    `json:"key"`      // what sort of key it is; never the key
	NextKey    bool      `json:"next_key"` // the server holds a key that is to replace it
	Generation int64     `json:"generation"`
	Keys       int       `json:"keys"` // in the keyset: one, or two during a rekey
	Since      time.Time `json:"since"`
	Rekey      *Rekey    `json:"rekey,omitempty"` // the last one
}

// Rekey is one replacement of the key that seals everything.
type Rekey struct {
	ID       string    `json:"id"`
	Phase    string    `json:"phase"` // reseal, distribute or done
	By       Actor     `json:"by"`
	Reason   string    `json:"reason,omitempty"`
	Resealed int64     `json:"resealed"`
	Left     int64     `json:"left"`
	Missing  []string  `json:"missing"` // replicas that do not hold the next key
	Error    string    `json:"error,omitempty"`
	Started  time.Time `json:"started"`
	Updated  time.Time `json:"updated"`
	Finished time.Time `json:"finished,omitzero"`
}

// KeyStatus returns which key seals everything.
func (c *Client) KeyStatus(ctx context.Context) (KeyStatus, error) {
	return get[KeyStatus](ctx, c, v1+"/keys", nil)
}

// Rekey begins to replace the key that seals everything. again makes a rekey
// under way go to the next key that the server holds now.
func (c *Client) Rekey(ctx context.Context, again bool) (KeyStatus, error) {
	return send[KeyStatus](ctx, c, http.MethodPost, v1+"/keys/rekey", map[string]bool{"again": again})
}
