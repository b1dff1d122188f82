package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// ConnectionRight is something that the credential of a connection may do.
type ConnectionRight struct {
	Name   string `json:"name"`
	From   string `json:"from"` // upstream, credential (stated by itself, not verified) or settings
	Write  bool   `json:"write,omitempty"`
	Excess bool   `json:"excess,omitempty"` // write, and the connection only reads
}

// ConnectionThing is one thing that the credential of a connection could reach.
type ConnectionThing struct {
	Kind   string    `json:"kind"`
	Name   string    `json:"name"`
	Count  *int64    `json:"count,omitempty"` // documents or rows that it can read; nil: not known
	About  bool      `json:"about,omitempty"` // Count is an estimate, or a least number
	Rights []string  `json:"rights,omitempty"`
	Write  bool      `json:"write,omitempty"`
	Excess bool      `json:"excess,omitempty"`
	Status string    `json:"status,omitempty"`
	Open   bool      `json:"open"`            // agents can be let to it through the connection
	Calls  *int64    `json:"calls,omitempty"` // nil: use of it is not counted
	Last   time.Time `json:"last,omitzero"`
	Agents []string  `json:"agents,omitempty"`
}

// ConnectionCaller is what an agent did with a tool of a connection.
type ConnectionCaller struct {
	Agent string    `json:"agent"`
	Tool  string    `json:"tool"`
	Calls int64     `json:"calls"`
	Last  time.Time `json:"last"`
}

// ConnectionReach is what the identity behind a connection could do, beside what
// agents used.
type ConnectionReach struct {
	Connection string             `json:"connection"`
	Kind       string             `json:"kind"`
	Dialect    string             `json:"dialect,omitempty"`
	Owner      string             `json:"owner"`
	Secret     string             `json:"secret,omitempty"`
	ReadOnly   bool               `json:"read_only"`
	Asked      time.Time          `json:"asked"`
	Identity   string             `json:"identity,omitempty"`
	Rights     []ConnectionRight  `json:"rights"`
	Things     []ConnectionThing  `json:"things"`
	More       bool               `json:"more,omitempty"`
	Unknown    []string           `json:"unknown"`
	Since      time.Time          `json:"since"`
	Behind     int64              `json:"behind,omitempty"`
	Unused     int                `json:"unused"`
	Excess     int                `json:"excess"`
	Callers    []ConnectionCaller `json:"callers"`
}

// ConnectionReach asks the upstream of a connection what its credential can reach,
// and shows what was used of it in the last days; 0 means 30.
func (c *Client) ConnectionReach(ctx context.Context, name string, days int) (ConnectionReach, error) {
	path := connectionPath(name) + "/reach"
	if days > 0 {
		path += "?" + url.Values{"days": {strconv.Itoa(days)}}.Encode()
	}
	return send[ConnectionReach](ctx, c, http.MethodPost, path, nil)
}
