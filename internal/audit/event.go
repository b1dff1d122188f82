package audit

import (
	"encoding/json/jsontext"
	"time"
)

// Schema is the version of Event's form.
const Schema = 1

// Type says what an event records: a noun, a dot, a past participle.
type Type string

// The types on the way of a call. Administrative events are named by their
// rooms in the same way ("agent.created", "secret.rotated").
const (
	CallIntent   Type = "call.intent"   // allowed, about to be forwarded
	CallDenied   Type = "call.denied"   // policy said no
	CallHeld     Type = "call.held"     // waits for people
	CallRefused  Type = "call.refused"  // could not be understood or decided: malformed, unknown, over a limit
	CallOutcome  Type = "call.outcome"  // how a forwarded call ended; every intent has one in the end
	CallSettled  Type = "call.settled"  // what became known of a call after its outcome had been recorded as unknown
	AuthRefused  Type = "auth.refused"  // no valid credential, or its agent may not call
	UpstreamUsed Type = "upstream.used" // Countersign itself reaches out: discovery, a child's start
)

// ActorKind says what kind of actor did something.
type ActorKind string

// The kinds of actors.
const (
	KindUser   ActorKind = "user"
	KindAgent  ActorKind = "agent"
	KindSystem ActorKind = "system"
)

// Actor is who did something.
type Actor struct {
	Kind ActorKind `json:"kind"`
	ID   string    `json:"id,omitzero"`
	Name string    `json:"name,omitzero"`
}

// Person returns the actor for a user.
func Person(id, name string) Actor { return Actor{KindUser, id, name} }

// System is Countersign acting by itself.
var System = Actor{Kind: KindSystem, Name: "countersign"}

// Event is one entry of the log. It is small: arguments, prompts, answers and
// results stand beside it as payloads, held by commitments. Names rather than
// database keys, so that an exported log can be read alone.
type Event struct {
	Schema     int            `json:"schema"`
	ID         string         `json:"id"`
	Time       time.Time      `json:"time"` // UTC, microseconds
	Type       Type           `json:"type"`
	Actor      Actor          `json:"actor"`
	OnBehalfOf []Actor        `json:"on_behalf_of,omitzero"` // principal chain, the user first
	Agent      string         `json:"agent,omitzero"`
	Owner      string         `json:"owner,omitzero"`
	Team       string         `json:"team,omitzero"`
	Stage      string         `json:"stage,omitzero"`
	Credential string         `json:"credential,omitzero"` // identifier of the credential presented, never its value
	Remote     string         `json:"remote,omitzero"`     // network address of the caller, without the port
	Client     string         `json:"client,omitzero"`     // User-Agent, at most 200 bytes
	Run        string         `json:"run,omitzero"`
	Call       string         `json:"call,omitzero"`
	Connection string         `json:"connection,omitzero"`
	Tool       string         `json:"tool,omitzero"`
	Effect     string         `json:"effect,omitzero"`
	Digest     string         `json:"digest,omitzero"` // hex SHA-256 of the exact bytes decided on
	Decision   *Decision      `json:"decision,omitzero"`
	Outcome    *Outcome       `json:"outcome,omitzero"`
	Payloads   []Commitment   `json:"payloads,omitzero"`
	Labels     []string       `json:"labels,omitzero"`
	Object     string         `json:"object,omitzero"` // what an administrative event is about: "agent/invoice-checker"
	Reason     string         `json:"reason,omitzero"` // why a person did it, in their words
	Detail     jsontext.Value `json:"detail,omitzero"` // a JSON object, per type
}

// Decision is how policy decided and on whose rules.
type Decision struct {
	Effect   string   `json:"effect"` // allow, deny, hold
	Policies []string `json:"policies,omitzero"`
	Grants   []string `json:"grants,omitzero"`
	Reason   string   `json:"reason,omitzero"`
	Version  string   `json:"version,omitzero"` // digest of the policy set
	Micros   int64    `json:"micros,omitzero"`  // time the decision took
}

// The ways a call ends.
const (
	Succeeded = "succeeded" // the upstream answered, and said it worked
	Failed    = "failed"    // the upstream answered, and said it did not
	Broken    = "broken"    // connection refused, reset, garbage, time-out before or while answering
	Cancelled = "cancelled" // the client went away or the call was stopped
	Unknown   = "unknown"   // nobody was left to see it: recorded after a crash, never retried silently
)

// Outcome is how a forwarded call ended.
type Outcome struct {
	Status    string `json:"status"`
	Code      int    `json:"code,omitzero"`       // HTTP status or JSON-RPC error code
	Error     string `json:"error,omitzero"`      // one line, redacted
	Micros    int64  `json:"micros,omitzero"`     // from receipt to the answer's last byte
	FirstByte int64  `json:"first_byte,omitzero"` // microseconds from receipt to the answer's first byte
	Bytes     int64  `json:"bytes,omitzero"`      // of the answer
	Usage     *Usage `json:"usage,omitzero"`
	Digest    string `json:"digest,omitzero"` // hex SHA-256 of the answer's bytes as passed on
}

// Usage is what a model reported to have consumed, in tokens.
type Usage struct {
	Model  string `json:"model,omitzero"`
	Input  int64  `json:"input"`
	Output int64  `json:"output"`
	Cached int64  `json:"cached,omitzero"`
}

// Payload is content that belongs to an event and stands beside it.
type Payload struct {
	Name string // "arguments", "prompt", "answer", "result"
	Body []byte // redacted by the Log before it is stored
	Size int64  // of the whole, when Body is only its beginning; 0 means len(Body)
}

// Commitment binds an event to a payload without containing it:
// SHA-256(salt, redacted body). Erasing the body leaves the log verifiable.
type Commitment struct {
	Name   string `json:"name"`
	Digest string `json:"digest"` // hex
	Size   int64  `json:"size"`   // bytes of the whole before redaction
}
