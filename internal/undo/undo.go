package undo

import (
	"encoding/json/jsontext"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/id"
)

// ID is the prefix of an undo's identifier.
const ID id.Kind = "und"

// The states of an undo.
const (
	Running   = "running"   // it goes on by itself, or waits for people to approve a step
	Done      = "done"      // everything that could be undone was
	Attention = "attention" // a step failed or is in doubt: a person has to look
)

// The states of a step.
const (
	Planned = "planned" // not made yet
	Making  = "making"  // under way, or its process died
	Held    = "held"    // waits for people to approve the compensating call
	Undone  = "done"
	Failed  = "failed"  // refused, or the upstream answered that it failed
	Doubt   = "unknown" // nobody knows whether it was done
	Cannot  = "cannot"  // cannot be undone: see why
)

// Errors of this package.
var (
	ErrNotFound = fault.New(fault.NotFound, "undo_not_found", "there is no such undo")
	ErrNothing  = fault.New(fault.NotFound, "nothing_to_undo", "there is no call with an effect to undo")
	ErrReason   = fault.New(fault.Invalid, "reason_required", "say why: give a reason of at most 1000 characters (--reason)")
	ErrWhat     = fault.New(fault.Invalid, "bad_undo", "say what to undo: a call or a run, one of them")
	ErrChanged  = fault.New(fault.Conflict, "plan_changed", "the plan is not the one that you looked at any more; look again")
	ErrTaken    = fault.New(fault.Conflict, "already_undone", "some of it was undone meanwhile; look again")
	ErrNoStep   = fault.New(fault.Conflict, "no_such_step", "only steps that failed or are unknown can be settled by a person")
	ErrLong     = fault.New(fault.TooLarge, "run_too_long", "the run has more than 10,000 events; undo its calls one by one")
)

// Step is how one call is undone.
type Step struct {
	ID       string         `json:"id"`
	N        int            `json:"n"`
	Call     string         `json:"call" doc:"that is undone"`
	At       time.Time      `json:"at,omitzero" doc:"when it was made"`
	Tool     string         `json:"tool"`
	Agent    string         `json:"agent" doc:"in whose name it is undone"`
	ByTool   string         `json:"by_tool,omitempty" doc:"that undoes it"`
	Args     jsontext.Value `json:"args,omitempty" doc:"of the compensating call; not shown any more when it is settled"`
	State    string         `json:"state" enum:"planned,making,held,done,failed,unknown,cannot"`
	Made     string         `json:"made,omitempty" doc:"the compensating call"`
	Attempts int            `json:"attempts,omitempty"`
	Approval string         `json:"approval,omitempty"`
	Why      string         `json:"why,omitempty"`
	SendAt   time.Time      `json:"send_at,omitzero" doc:"the call was not sent yet, and is cancelled: it would be sent then"`

	check *check
}

// check is a read that shows whether the call was undone.
type check struct {
	Tool string            `json:"tool"`
	Args jsontext.Value    `json:"args"`
	Done map[string]string `json:"done"`
}

// Undo is a plan that is carried out.
type Undo struct {
	ID      string    `json:"id"`
	Object  string    `json:"object" doc:"call/… or run/…"`
	State   string    `json:"state" enum:"running,done,attention"`
	By      string    `json:"by"`
	Reason  string    `json:"reason"`
	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
	Steps   []Step    `json:"steps,omitempty"`

	byID string
}

// Plan is what would be done, in this order.
type Plan struct {
	Object string `json:"object"`
	Digest string `json:"digest" doc:"of the plan: send it to carry out exactly this"`
	Steps  []Step `json:"steps"`
}

// cancels reports whether the step cancels a call that was not sent yet.
func (s Step) cancels() bool { return s.ByTool == "" && s.Approval != "" }

func (s Step) settled() bool { return s.State == Undone || s.State == Cannot }
