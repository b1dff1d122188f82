package policy

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"time"
)

// Agent is who calls, as policy sees it. Cedar: Agent::"name" in
// [Team::"team", Stage::"stage", Label::"key", Label::"key=value"], with the
// attributes name, team, stage, owner and one tag per label.
type Agent struct {
	Name   string            `json:"name"`
	Team   string            `json:"team,omitzero"`
	Stage  string            `json:"stage,omitzero"`
	Owner  string            `json:"owner,omitzero"`
	Labels map[string]string `json:"labels,omitzero"`
}

// Action is the tool that is called. Connection and Tool name it; Effect and
// Kind, when set, must agree with what is registered or the call is denied.
type Action struct {
	Connection string `json:"connection"`
	Tool       string `json:"tool"`
	Effect     string `json:"effect,omitzero"`
	Kind       string `json:"kind,omitzero"`
}

// Run is the task the call belongs to: context.run.
type Run struct {
	ID      string    `json:"id,omitzero"`
	Labels  []string  `json:"labels,omitzero"`
	Started time.Time `json:"started,omitzero"`
	Calls   int64     `json:"calls,omitzero"` // calls made in this run before this one
	// Proposed is false for the call of a tool that no model's answer proposed.
	Proposed bool `json:"proposed,omitzero"`
}

// Caller is where the call comes from: context.caller.
type Caller struct {
	Remote     string `json:"remote,omitzero"`     // network address without the port
	Credential string `json:"credential,omitzero"` // kind of credential: key, run
}

// User is the person on whose behalf the call is made: context.user, which is
// absent when an agent acts for itself. Groups and Teams are those of now.
type User struct {
	ID     string   `json:"id"`
	Name   string   `json:"name"`
	Issuer string   `json:"issuer,omitzero"` // whoever vouches for them, such as https://login.example; empty for a local user
	Role   string   `json:"role,omitzero"`
	Groups []string `json:"groups,omitzero"`
	Teams  []string `json:"teams,omitzero"`
}

// Provenance is where the values of a call come from: context.provenance. The
// zero Provenance is a call whose values nothing endorses, of a run that read
// nothing.
type Provenance struct {
	Untrusted  bool     `json:"untrusted,omitzero"`  // the run has read untrusted content
	Asked      bool     `json:"asked,omitzero"`      // the user's own words ask for such an action
	External   bool     `json:"external,omitzero"`   // somebody receives something or gets access
	Endorsed   bool     `json:"endorsed,omitzero"`   // every value that matters comes from somewhere that is trusted
	Unendorsed []string `json:"unendorsed,omitzero"` // arguments of which that is not so
	By         []string `json:"by,omitzero"`         // what endorses the others: words, trusted, record, made, bound, counterparty, scope
	// Confidential says that the run has read what only some may know; Cleared that
	// everybody whom the call reaches may, or was named by the user.
	Confidential bool `json:"confidential,omitzero"`
	Cleared      bool `json:"cleared,omitzero"`
}

// Release is by which release of the calling agent the call is bound:
// context.release. The zero Release is that of an agent without one.
type Release struct {
	Number int64  `json:"number,omitzero"`
	Stage  string `json:"stage,omitzero"`  // to which it was promoted
	Canary bool   `json:"canary,omitzero"` // it is tried by a share of the runs
}

// Budget is what is left to a call before what it may use is reserved:
// context.budget. A nil Budget is that of a call that nothing bounds.
type Budget struct {
	// Left is what is neither used nor reserved of the hard limit of which the
	// least is left, in whole percent of it, 0 to 100.
	Left    int64 `json:"left"`
	Limited bool  `json:"limited,omitzero"` // a hard limit bounds the call
	Soft    bool  `json:"soft,omitzero"`    // a soft limit has been reached
}

// Request asks for a decision.
type Request struct {
	Agent      Agent
	Action     Action
	Args       jsontext.Value // a JSON object; nil means {}
	Run        Run
	Caller     Caller
	OnBehalfOf []string // names, the user first
	User       *User    // who the first of them is; nil if no person is
	Provenance Provenance
	Release    Release
	Budget     *Budget
	Now        time.Time // zero means the service's clock

	unread bool // the arguments are not to be had, and no rule near asks for them
}

// Effect is what a decision comes to. The zero value denies.
type Effect int

// The effects of a decision.
const (
	Deny Effect = iota
	Hold
	Allow
)

// String returns "allow", "deny" or "hold".
func (e Effect) String() string {
	switch e {
	case Allow:
		return "allow"
	case Hold:
		return "hold"
	default:
		return "deny"
	}
}

// MarshalText implements encoding.TextMarshaler.
func (e Effect) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// Decision is the answer, with what determined it. Its texts are for the agent
// too: they name policies, grants, groups and arguments, never values.
type Decision struct {
	Effect   Effect   `json:"effect"`
	Policies []string `json:"policies,omitzero"` // ids, sorted; on a hold those that hold and those that would then allow
	Grants   []string `json:"grants,omitzero"`   // names, sorted
	Holds    []Needed `json:"holds,omitzero"`    // every one must be lifted
	Reason   string   `json:"reason"`
	Advice   []string `json:"advice,omitzero"` // @advice of the policies that deny or hold
	Version  string   `json:"version"`         // first 16 hex digits of the SHA-256 of policies and grants
	Errors   []string `json:"errors,omitzero"` // "policy: error", for the log and people, not for agents
	// Shadow names the grants that the decision rests on and that are tried
	// otherwise (ShadowTx): as they are tried, the call would be refused.
	Shadow []string `json:"-"`
	// Rules are what Policies and Grants name, each with what it says: whoever
	// keeps a decision can tell whether it still rests on the same (Service.Rule).
	Rules []Rule `json:"-"`
	// Unmatched says that a denial is the default one: the request was
	// understood, no forbid matched or failed, and nothing allowed it.
	Unmatched bool `json:"-"`
}

// Rule is a policy, by its id, or a grant, as grant:NAME.
type Rule struct {
	Name   string `json:"name"`
	Digest string `json:"digest"` // hex SHA-256 of what it says; comments and layout do not count
}

// Needed is one approval that a held call needs (Hold in the design's words;
// the name Hold is the effect's).
type Needed struct {
	Policy        string        `json:"policy"`
	Groups        []string      `json:"groups"`         // any of their members may answer
	Quorum        int           `json:"quorum"`         // distinct people, 1 to 20
	DecideWithin  time.Duration `json:"decide_within"`  // a text such as "4h0m0s" in JSON
	ExecuteWithin time.Duration `json:"execute_within"` // likewise
	Advice        string        `json:"advice,omitzero"`
	Escalate      []Tier        `json:"escalate,omitzero"`      // who may answer too, later
	ExcludeOwner  bool          `json:"exclude_owner,omitzero"` // the agent's owner may not
	Server        bool          `json:"server,omitzero"`        // the call is made when it is approved
	Passkey       bool          `json:"passkey,omitzero"`       // whoever approves signs with their passkey
}

// Tier is a group that may answer a hold too after it has waited.
type Tier struct {
	Group string
	After time.Duration
}

// MarshalJSON writes the tier as policies do.
func (t Tier) MarshalJSON() ([]byte, error) { return json.Marshal(t.Group + ":" + t.After.String()) }

// MarshalJSON writes the durations as people do.
func (h Needed) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Policy        string   `json:"policy"`
		Groups        []string `json:"groups"`
		Quorum        int      `json:"quorum"`
		DecideWithin  string   `json:"decide_within"`
		ExecuteWithin string   `json:"execute_within"`
		Advice        string   `json:"advice,omitzero"`
		Escalate      []Tier   `json:"escalate,omitzero"`
		ExcludeOwner  bool     `json:"exclude_owner,omitzero"`
		Server        bool     `json:"server,omitzero"`
		Passkey       bool     `json:"passkey,omitzero"`
	}{h.Policy, h.Groups, h.Quorum, h.DecideWithin.String(), h.ExecuteWithin.String(), h.Advice, h.Escalate, h.ExcludeOwner, h.Server, h.Passkey})
}

// Defaults of a hold without @decide_within and @execute_within.
const (
	DefaultDecideWithin  = 4 * time.Hour
	DefaultExecuteWithin = 15 * time.Minute
)

// ToolType is a registered tool as the schema generator needs it.
type ToolType struct {
	Connection  string         // name: lower case letters, digits, hyphens
	Kind        string         // llm, mcp, http, retrieval
	Tool        string         // name, any non-empty text
	Effect      string         // read, write, irreversible
	InputSchema jsontext.Value // JSON Schema of the arguments; empty means no typed arguments
}

// Tools names every registered tool. It must be safe for concurrent use.
type Tools interface{ ToolTypes() []ToolType }
