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
	ID   string    `json:"id,omitzero"`
	Kind ActorKind `json:"kind"`
	Name string    `json:"name,omitzero"`
}

// Person returns the actor for a user.
func Person(id, name string) Actor { return Actor{Kind: KindUser, ID: id, Name: name} }

// System is Countersign acting by itself.
var System = Actor{Kind: KindSystem, Name: "countersign"}

// The fields of events stand in the order of their names in JSON, so that
// encoding them gives the canonical form (RFC 8785) at once; a test watches it.

// Event is one entry of the log. It is small: arguments, prompts, answers and
// results stand beside it as payloads, held by commitments. Names rather than
// database keys, so that an exported log can be read alone.
type Event struct {
	Actor      Actor          `json:"actor"`
	Agent      string         `json:"agent,omitzero"`
	Call       string         `json:"call,omitzero"`
	Client     string         `json:"client,omitzero"` // User-Agent, at most 200 bytes
	Connection string         `json:"connection,omitzero"`
	Credential string         `json:"credential,omitzero"` // identifier of the credential presented, never its value
	Decision   *Decision      `json:"decision,omitzero"`
	Detail     jsontext.Value `json:"detail,omitzero"` // a JSON object, per type
	Digest     string         `json:"digest,omitzero"` // hex SHA-256 of the exact bytes decided on
	Effect     string         `json:"effect,omitzero"`
	ID         string         `json:"id"`
	Labels     []string       `json:"labels,omitzero"`
	Object     string         `json:"object,omitzero"`       // what an administrative event is about: "agent/invoice-checker"
	Objects    []string       `json:"objects,omitzero"`      // business objects that a call touches, as its tool declares: "invoice/4711"
	OnBehalfOf []Actor        `json:"on_behalf_of,omitzero"` // principal chain, the user first
	Outcome    *Outcome       `json:"outcome,omitzero"`
	Owner      string         `json:"owner,omitzero"`
	Payloads   []Commitment   `json:"payloads,omitzero"`
	Reason     string         `json:"reason,omitzero"` // why a person did it, in their words
	Remote     string         `json:"remote,omitzero"` // network address of the caller, without the port
	Run        string         `json:"run,omitzero"`
	Schema     int            `json:"schema"`
	Stage      string         `json:"stage,omitzero"`
	Team       string         `json:"team,omitzero"`
	Time       time.Time      `json:"time"` // UTC, microseconds
	Tool       string         `json:"tool,omitzero"`
	Type       Type           `json:"type"`
}

// LabelProposal begins the label of an outcome whose answer is a proposal, such
// as "proposal:anomaly": decision support, not a fact and not an act.
const LabelProposal = "proposal:"

// Decision is how policy decided and on whose rules.
type Decision struct {
	Code     string   `json:"code,omitzero"` // of the refusal, as the agent was told it: "policy_denied", "locked"; empty if it was allowed, and in events from before it was recorded
	Effect   string   `json:"effect"`        // allow, deny, hold
	Grants   []string `json:"grants,omitzero"`
	Micros   int64    `json:"micros,omitzero"` // time the decision took
	Policies []string `json:"policies,omitzero"`
	Reason   string   `json:"reason,omitzero"`
	Shadow   []string `json:"shadow,omitzero"`  // of Grants, those that are tried otherwise and as tried would have refused
	Version  string   `json:"version,omitzero"` // digest of the policy set
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
	Attempts  int    `json:"attempts,omitzero"`   // requests sent, if more than one: the first was refused for a credential that had just been replaced
	Bytes     int64  `json:"bytes,omitzero"`      // of the answer
	Code      int    `json:"code,omitzero"`       // HTTP status or JSON-RPC error code
	Digest    string `json:"digest,omitzero"`     // hex SHA-256 of the answer's bytes as passed on
	Error     string `json:"error,omitzero"`      // one line, redacted
	FirstByte int64  `json:"first_byte,omitzero"` // microseconds from receipt to the answer's first byte
	Micros    int64  `json:"micros,omitzero"`     // from receipt to the answer's last byte
	Status    string `json:"status"`
	Usage     *Usage `json:"usage,omitzero"`
}

// Usage is what a model reported to have consumed, in tokens.
type Usage struct {
	Cached   int64  `json:"cached,omitzero"`
	Cost     int64  `json:"cost,omitzero"`     // millionths of Currency
	Currency string `json:"currency,omitzero"` // such as USD
	Input    int64  `json:"input"`
	Model    string `json:"model,omitzero"`
	Output   int64  `json:"output"`
	Priced   string `json:"priced,omitzero"` // the date of the price; "dearest" before it: the model has none, and the dearest known counts
}

// Payload is content that belongs to an event and stands beside it.
type Payload struct {
	Name    string // "arguments", "prompt", "answer", "result"
	Body    []byte // redacted by the Log before it is stored
	Size    int64  // of the whole, when Body is only its beginning; 0 means len(Body)
	Whole   []byte // the whole as it was, when Body is only a part of it and the whole is at hand: a commitment to it is kept
	Subject string // the person it is about, when known: under their key it is erased with them. Only a keyed digest of it is stored, of its lower case
	Level   Level  // how much of it is kept; empty means Redacted
}

// Level says how much of a payload is kept.
type Level string

// The levels of capture.
const (
	Full     Level = "full"     // all but secrets
	Redacted Level = "redacted" // without personal data that the redactor knows, too
	Digest   Level = "digest"   // size and commitment alone
)

// Commitment binds an event to a payload without containing it:
// SHA-256(salt, redacted body). Erasing the body leaves the log verifiable.
type Commitment struct {
	Digest string `json:"digest"`         // hex
	Level  Level  `json:"level,omitzero"` // empty: redacted
	Name   string `json:"name"`
	Size   int64  `json:"size"` // bytes of the whole before redaction
	// Whole is hex SHA-256(salt, the whole before redaction), when only a part of
	// it was kept and all of it was at hand.
	Whole string `json:"whole,omitzero"`
}
