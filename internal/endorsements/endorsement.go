package endorsements

import (
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/flow"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
)

// Kinds of endorsements.
const (
	Counterparty = "counterparty"
	RunScope     = "scope"
	// Stated is a scope that was stated before the run's calls and that people
	// approved: calls inside it are not held, as often as it says.
	Stated = "stated"
	// held is the scope of one held call. It endorses nothing; whoever approved the
	// call may make it one of its run.
	held = "held"
)

const kind id.Kind = "end"

// Errors of the room.
var (
	ErrNotFound = fault.New(fault.NotFound, "endorsement_not_found", "there is no such endorsement")
	ErrScope    = fault.New(fault.Invalid, "bad_scope", "the scope is not valid")
	ErrReason   = fault.New(fault.Invalid, "reason_required", "say why, in 1 to 1000 characters")
	ErrRun      = fault.New(fault.Conflict, "run_over", "the run is over")
	ErrApproval = fault.New(fault.Denied, "not_approved_by_you", "only who approved the held call can extend that to its run")
	ErrAsked    = fault.New(fault.NotFound, "scope_request_not_found", "nobody asked for such a scope")
	ErrNotHeld  = fault.New(fault.Conflict, "nothing_to_approve", "nothing of that waits for people")
	ErrStored   = fault.New(fault.Unavailable, "endorsements_unavailable", "what people endorsed beforehand cannot be looked up; try again")
)

// Limits.
const (
	mostScopes = 32 // of one run
	mostMet    = 64 // counterparties that one approved call makes known
	keepEnded  = 90 * 24 * time.Hour
	keepHeld   = 7 * 24 * time.Hour // how long people may take to approve
)

// Endorsement is what people endorsed beforehand.
type Endorsement struct {
	ID         string      `json:"id"`
	Kind       string      `json:"kind" enum:"counterparty,scope,stated"`
	Agent      string      `json:"agent"`
	Run        string      `json:"run,omitempty" doc:"of a scope; of a counterparty, the run of the approved call"`
	Connection string      `json:"connection"`
	Tool       string      `json:"tool"`
	Arg        string      `json:"arg,omitempty" doc:"the argument that names the counterparty"`
	Value      string      `json:"value,omitempty" doc:"the counterparty"`
	Scope      *flow.Scope `json:"scope,omitempty"`
	Calls      int64       `json:"calls,omitempty" doc:"of a stated scope, how many calls it is for"`
	Used       int64       `json:"used,omitempty" doc:"of those, how many were made"`
	Approval   string      `json:"approval,omitempty" doc:"the held call, or the stated scope, that was approved"`
	People     []string    `json:"people" doc:"who endorsed it"`
	Reason     string      `json:"reason,omitempty"`
	Created    time.Time   `json:"created"`
	Expires    time.Time   `json:"expires"`
	Ended      time.Time   `json:"ended,omitzero" doc:"when it was revoked"`
	EndedBy    string      `json:"ended_by,omitempty"`

	agentID string
	digest  string
	bound   bound
}

// content is what is sealed of one.
type content struct {
	Arg   string      `json:"arg,omitzero"`
	Value string      `json:"value,omitzero"`
	Scope *flow.Scope `json:"scope,omitzero"`
	Bound bound       `json:"bound,omitzero"`
}

// bound is what people approved a stated scope for. It is sealed with it: whoever
// changes the row beside it makes it worth nothing.
type bound struct {
	Approval   string `json:"approval,omitzero"`
	AgentID    string `json:"agent_id,omitzero"`
	Run        string `json:"run,omitzero"`
	Target     string `json:"target,omitzero"`     // how the connection is reached
	Definition string `json:"definition,omitzero"` // of the tool
	Calls      int64  `json:"calls,omitzero"`
	Expires    int64  `json:"expires,omitzero"` // microseconds
}

// boundOf is what the row of a stated scope says of the same.
func (e Endorsement) boundOf(target, definition string) bound {
	return bound{Approval: e.Approval, AgentID: e.agentID, Run: e.Run, Target: target, Definition: definition, Calls: e.Calls, Expires: storage.Micros(e.Expires)}
}

// Tool is the tool of a call, and whose call it is.
type Tool struct {
	AgentID, Agent, Run string
	Connection, Name    string
	Target              string // digest of how the connection is reached
}
