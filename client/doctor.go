package client

import (
	"context"
	"net/http"
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

// AuditPosition is how far an audit of the log is.
type AuditPosition struct {
	Part string `json:"part,omitempty"` // log, tree, index, calls
	Lane int64  `json:"lane"`
	At   int64  `json:"at"`
}

// Mismatch is a place where the log, its tree, its index and its calls do not
// match.
type Mismatch struct {
	ID      string `json:"id"`
	Part    string `json:"part"`
	Where   string `json:"where"`
	Message string `json:"message"`
}

// AuditSlice is what a look at a part of the log found.
type AuditSlice struct {
	Part     string         `json:"part"`
	Checked  int64          `json:"checked"`
	Total    int64          `json:"total"` // of a whole audit
	InFlight int64          `json:"in_flight,omitempty"`
	Problems []Mismatch     `json:"problems"`
	Next     *AuditPosition `json:"next,omitempty"` // nil when the whole was seen
}

// AuditLog has the server look at the whole log, slice by slice; fn is told what
// each found and may stop it with an error.
func (c *Client) AuditLog(ctx context.Context, fn func(AuditSlice) error) error {
	for at := (&AuditPosition{}); at != nil; {
		got, err := send[AuditSlice](ctx, c, http.MethodPost, v1+"/log/audit", at)
		if err != nil {
			return err
		}
		if err := fn(got); err != nil {
			return err
		}
		at = got.Next
	}
	return nil
}

// Doctor asks the server how it is.
func (c *Client) Doctor(ctx context.Context) (Health, error) {
	return get[Health](ctx, c, v1+"/doctor", nil)
}
