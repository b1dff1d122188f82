package client

import (
	"context"
	"time"
)

// Check is one thing the server's doctor looked at.
type Check struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Status string `json:"status"` // ok, warn, fail
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"` // what to do about it
}

// Health is what the server says of itself.
type Health struct {
	Version string    `json:"version"`
	Time    time.Time `json:"time"` // of the server
	Checks  []Check   `json:"checks"`
}

// Doctor asks the server how it is.
func (c *Client) Doctor(ctx context.Context) (Health, error) {
	return get[Health](ctx, c, v1+"/doctor", nil)
}
