package client

import (
	"encoding/json/jsontext"
	"time"
)

// Event is one entry of the log, as the server keeps it.
type Event struct {
	ID         string         `json:"id"`
	Schema     int            `json:"schema"`
	Time       time.Time      `json:"time"`
	Type       string         `json:"type"`
	Actor      Actor          `json:"actor"`
	OnBehalfOf []Actor        `json:"on_behalf_of,omitzero"`
	Agent      string         `json:"agent,omitzero"`
	Owner      string         `json:"owner,omitzero"`
	Team       string         `json:"team,omitzero"`
	Stage      string         `json:"stage,omitzero"`
	Credential string         `json:"credential,omitzero"`
	Remote     string         `json:"remote,omitzero"`
	Client     string         `json:"client,omitzero"`
	Run        string         `json:"run,omitzero"`
	Call       string         `json:"call,omitzero"`
	Connection string         `json:"connection,omitzero"`
	Tool       string         `json:"tool,omitzero"`
	Effect     string         `json:"effect,omitzero"`
	Digest     string         `json:"digest,omitzero"`
	Decision   *Decision      `json:"decision,omitzero"`
	Outcome    *Outcome       `json:"outcome,omitzero"`
	Payloads   []Commitment   `json:"payloads,omitzero"`
	Labels     []string       `json:"labels,omitzero"`
	Object     string         `json:"object,omitzero"`
	Objects    []string       `json:"objects,omitzero"` // business objects the call touches: "invoice/4711"
	Reason     string         `json:"reason,omitzero"`
	Detail     jsontext.Value `json:"detail,omitzero"`
}

// Actor is who did something.
type Actor struct {
	Kind string `json:"kind"`
	ID   string `json:"id,omitzero"`
	Name string `json:"name,omitzero"`
}

// Decision is how policy decided and on whose rules.
type Decision struct {
	Effect   string   `json:"effect"`
	Code     string   `json:"code,omitzero"` // of the refusal; older servers did not record it
	Policies []string `json:"policies,omitzero"`
	Grants   []string `json:"grants,omitzero"`
	Reason   string   `json:"reason,omitzero"`
	Version  string   `json:"version,omitzero"`
	Micros   int64    `json:"micros,omitzero"`

	// Of a decision that the server makes on request, not of a recorded one.
	Holds  []Needed `json:"holds,omitzero"`
	Advice []string `json:"advice,omitzero"`
	Errors []string `json:"errors,omitzero"`
}

// Needed is one approval that a held call needs.
type Needed struct {
	Policy string   `json:"policy"`
	Groups []string `json:"groups"`
	Quorum int      `json:"quorum"`
}

// Outcome is how a forwarded call ended.
type Outcome struct {
	Status    string `json:"status"`
	Attempts  int    `json:"attempts,omitzero"` // requests sent, if more than one: the first was refused for a credential that had just been replaced
	Code      int    `json:"code,omitzero"`
	Error     string `json:"error,omitzero"`
	Micros    int64  `json:"micros,omitzero"`
	FirstByte int64  `json:"first_byte,omitzero"`
	Bytes     int64  `json:"bytes,omitzero"`
	Usage     *Usage `json:"usage,omitzero"`
	Digest    string `json:"digest,omitzero"`
}

// Usage is what a model reported to have consumed, in tokens.
type Usage struct {
	Model    string `json:"model,omitzero"`
	Input    int64  `json:"input"`
	Output   int64  `json:"output"`
	Cached   int64  `json:"cached,omitzero"`
	Cost     int64  `json:"cost,omitzero"` // millionths of Currency
	Currency string `json:"currency,omitzero"`
	Priced   string `json:"priced,omitzero"` // the date of the price; "dearest" before it: the model has none, and the dearest known counts
}

// Commitment binds an event to a payload beside it.
type Commitment struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}
