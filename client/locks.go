package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Lock is a stop on an agent, an owner, a team, a tool, a connection, a
// credential, a run, or everything.
type Lock struct {
	ID        string    `json:"id"`
	Kind      string    `json:"kind"`
	Name      string    `json:"name,omitempty"`
	Reason    string    `json:"reason"`
	By        string    `json:"by"`
	Placed    time.Time `json:"placed"`
	Expires   time.Time `json:"expires,omitzero"`
	Ended     time.Time `json:"ended,omitzero"`
	EndedBy   string    `json:"ended_by,omitempty"`
	EndReason string    `json:"end_reason,omitempty"`
}

// On names what the lock is on, such as "agent/invoice-checker".
func (l Lock) On() string {
	if l.Name == "" {
		return l.Kind
	}
	return l.Kind + "/" + l.Name
}

// LockAck says that a replica has cut what a lock covers.
type LockAck struct {
	Replica string    `json:"replica"`
	Cut     int       `json:"cut"`
	At      time.Time `json:"at"`
}

// LockState is a lock and how far it is in force.
type LockState struct {
	Lock
	Acks   []LockAck `json:"acks"`
	Silent []string  `json:"silent"` // replicas that have not acknowledged
	Cut    int       `json:"cut"`
	Millis float64   `json:"millis"` // from the lock to the last call cut
}

// LockSpec is what to stop. Name is empty for everything; ExpiresIn ("2h",
// "7d") is empty for a lock that stays until it is lifted.
type LockSpec struct {
	Kind      string `json:"kind"`
	Name      string `json:"name,omitempty"`
	ExpiresIn string `json:"expires_in,omitempty"`
}

// Locks lists the locks in force, with all those that have ended too.
func (c *Client) Locks(ctx context.Context, all bool) ([]Lock, error) {
	query := url.Values{}
	if all {
		query.Set("all", "true")
	}
	return get[[]Lock](ctx, c, v1+"/locks", query)
}

// Lock returns one lock and how far it is in force.
func (c *Client) Lock(ctx context.Context, id string) (LockState, error) {
	return get[LockState](ctx, c, v1+"/locks"+segment(id), nil)
}

// AddLock stops something at once.
func (c *Client) AddLock(ctx context.Context, spec LockSpec) (LockState, error) {
	return send[LockState](ctx, c, http.MethodPost, v1+"/locks", spec)
}

// LiftLock lifts a lock.
func (c *Client) LiftLock(ctx context.Context, id string) (Lock, error) {
	return send[Lock](ctx, c, http.MethodDelete, v1+"/locks"+segment(id), nil)
}

// LockAgent stops an agent at once; its owner may, too.
func (c *Client) LockAgent(ctx context.Context, agent, expiresIn string) (LockState, error) {
	in := struct {
		ExpiresIn string `json:"expires_in,omitempty"`
	}{expiresIn}
	return send[LockState](ctx, c, http.MethodPost, agentPath(agent)+"/lock", in)
}

// UnlockAgent lifts every lock on an agent and returns them.
func (c *Client) UnlockAgent(ctx context.Context, agent string) ([]Lock, error) {
	return send[[]Lock](ctx, c, http.MethodPost, agentPath(agent)+"/unlock", struct{}{})
}
