package incident

import (
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/incident/account"
	"github.com/countersign/countersign/internal/inventory"
	"github.com/countersign/countersign/internal/undo"
)

// The prefixes of identifiers.
const (
	ID   id.Kind = "inc"
	Note id.Kind = "nte"
)

// The states of an incident.
const (
	Open   = "open"
	Closed = "closed"
)

// Errors of this package.
var (
	ErrNotFound = fault.New(fault.NotFound, "incident_not_found", "there is no such incident; see countersign incident list")
	ErrWhat     = fault.New(fault.Invalid, "bad_incident", "say where it begins: a finding, an agent or a run, one of them")
	ErrNothing  = fault.New(fault.NotFound, "nothing_known", "the log knows nothing of it in this time; widen it (--since)")
	ErrTime     = fault.New(fault.Invalid, "bad_time", "an incident begins before it ends, and not in the future")
	ErrClosed   = fault.New(fault.Conflict, "incident_closed", "the incident is closed; open another to go on")
	ErrReason   = fault.New(fault.Invalid, "reason_required", "say why: give a reason of at most 1000 characters (--reason)")
	ErrNote     = fault.New(fault.Invalid, "bad_note", "a note has 1 to 4000 characters")
)

// Bounds of an incident.
const (
	mostEvents = 5000 // gathered, the oldest first
	mostAgents = 20
	mostRuns   = 100
)

// Scope says which events belong to an incident: those of its runs, whenever they
// were; those of its agents in its time; and those about its objects in its time.
type Scope struct {
	Agents  []string  `json:"agents"`
	Runs    []string  `json:"runs"`
	Objects []string  `json:"objects" doc:"such as tool/ledger/pay_invoice"`
	Since   time.Time `json:"since"`
	Until   time.Time `json:"until,omitzero" doc:"absent: as long as it is open"`
}

// Incident is one, without what is computed.
type Incident struct {
	ID         string    `json:"id"`
	Title      string    `json:"title"`
	Severity   string    `json:"severity" enum:"info,low,medium,high,critical"`
	State      string    `json:"state" enum:"open,closed"`
	Finding    string    `json:"finding,omitempty" doc:"from which it was opened"`
	Scope      Scope     `json:"scope"`
	Opened     time.Time `json:"opened"`
	OpenedBy   string    `json:"opened_by"`
	Reason     string    `json:"reason"`
	Closed     time.Time `json:"closed,omitzero"`
	ClosedBy   string    `json:"closed_by,omitempty"`
	Conclusion string    `json:"conclusion,omitempty"`

	reach []inventory.Tree
}

// Remark is a note that a person made.
type Remark struct {
	ID   string    `json:"id"`
	At   time.Time `json:"at"`
	By   string    `json:"by"`
	Text string    `json:"text"`
}

// View is an incident with all that belongs to it.
type View struct {
	Incident
	Notes        []Remark         `json:"notes"`
	Account      account.Account  `json:"account" doc:"what the log says"`
	More         bool             `json:"more,omitempty" doc:"more than 5000 events belong to it; the account ends with the last of these"`
	Undo         []Undo           `json:"undo" doc:"how what its runs did would be undone now; arguments are shown to who may see contents"`
	ReachThen    []inventory.Tree `json:"reach_then" doc:"what its agents could touch when it was opened"`
	ReachNow     []inventory.Tree `json:"reach_now" doc:"what they can touch now"`
	Contents     []Content        `json:"contents,omitempty"`
	ContentsMore bool             `json:"contents_more,omitempty" doc:"not all contents are shown: export them"`
}

// Undo is the plan for one run.
type Undo struct {
	Run  string     `json:"run"`
	Plan *undo.Plan `json:"plan,omitempty"`
	Why  string     `json:"why,omitempty" doc:"there is no plan"`
}

// Content is what stands beside an event.
type Content struct {
	Event  string `json:"event"`
	Name   string `json:"name"`
	Text   string `json:"text,omitempty" doc:"what is stored, when it is text"`
	Base64 string `json:"base64,omitempty" doc:"what is stored, when it is not"`
	Erased bool   `json:"erased,omitempty"`
}

// Start says where an incident begins.
type Start struct {
	Finding, Agent, Run string // one of them
	Title, Severity     string // of the finding, or what it is about and high, if empty
	Since, Until        time.Time
}
