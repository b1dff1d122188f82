package approvals

import (
	"cmp"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/audit"
)

// Request is a held call that waits, or waited, for people.
type Request struct {
	ID       string
	Digest   string // of the Binding
	State    State
	Binding  Binding
	Call     string // call_… that was held first
	Run      string
	Event    string // evt_… that recorded the request; its payload "arguments" is what people see
	Effect   string // of the tool
	Needs    []Need
	Excluded []Person // who may not decide, whatever groups they are in
	Labels   []string // of the run when it was held
	Reason   string   // why it is held, as policy says it
	Origin   Origin
	Server   bool // executed by the server when approved

	Created   time.Time
	DecideBy  time.Time
	Decided   time.Time
	ExecuteBy time.Time // zero until approved
	// Window is how long the call waits after it was allowed, and can be cancelled;
	// SendAt is when that is over, zero until it is allowed or without a window.
	Window    time.Duration
	SendAt    time.Time
	Settled   time.Time
	Why       string // why it is in its state, for people
	Outcome   string // of an executed request: audit.Succeeded, audit.Failed, …
	ExecCall  string // call_… that used it
	Escalated int    // how many tiers have been told
	Override  bool   // approved by breaking the glass

	Decisions []Decision

	open     bool // an identical call attaches to it
	same     string
	holder   string
	revision int64
	updated  time.Time
	kept     []byte // sealed
	wire     []byte // sealed
}

// Origin is where a held call came from: policy saw it, and a call that is
// executed later must look the same to it.
type Origin struct {
	Credential string   `json:"credential"`
	Kind       string   `json:"kind"`
	Lineage    []string `json:"lineage,omitzero"` // of an access token
	Remote     string   `json:"remote"`
	Client     string   `json:"client,omitzero"`
	Front      string   `json:"front,omitzero"`
}

// Person is a user, by identifier and by the name they had.
type Person struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// Verdict is a person's answer.
type Verdict string

// The verdicts.
const (
	Approve Verdict = "approve"
	Deny    Verdict = "deny"
)

// Decision is one person's answer.
type Decision struct {
	Person
	Verdict    Verdict
	Reason     string
	At         time.Time
	For        Person // whom they stood in for; zero: themselves
	Channel    string // api, slack, …
	Credential string // identifier of the token presented
	Statement  string // what is signed: canonical JSON
	Signature  string // base64 Ed25519 of Statement by the server's key
}

// prepared reports whether the request only waits for its time to be sent: nobody
// has to approve it.
func (r *Request) prepared() bool { return len(r.Needs) == 0 }

// allow sets the times of a request that may be executed from now on, and after
// its window.
func (r *Request) allow(now time.Time, execute time.Duration) {
	r.Decided, r.ExecuteBy = now, now.Add(r.Window+execute)
	if r.Window > 0 {
		r.SendAt = now.Add(r.Window)
	}
}

// expiresIn is how long people have to decide, and the agent to execute: the
// shortest that a policy allows.
func clocks(needs []Need) (decide, execute time.Duration) {
	for i, n := range needs {
		if i == 0 || n.DecideWithin < decide {
			decide = n.DecideWithin
		}
		if i == 0 || n.ExecuteWithin < execute {
			execute = n.ExecuteWithin
		}
	}
	return decide, execute
}

// event returns the event of a transition.
func (r *Request) event(t audit.Type, by audit.Actor, reason string, detail map[string]any) audit.Event {
	if detail == nil {
		detail = map[string]any{}
	}
	detail["approval"], detail["state"], detail["digest"] = r.ID, string(r.State), r.Digest
	return audit.Event{
		Type: t, Actor: by, Reason: reason, Object: "approval/" + r.ID, Detail: marshal(detail),
		Agent: r.Binding.Agent, Run: r.Run, Call: r.Call, Connection: r.Binding.Connection, Tool: r.Binding.Tool, Effect: r.Effect,
		OnBehalfOf: r.Binding.Chain,
	}
}

// How long a settled request keeps its answer for the call it is about.
const (
	keepResult = 24 * time.Hour // of an executed request, until an identical call asks
	keepLapsed = time.Hour      // of one that expired or became void
)

// due is when the clock has to look at the request again; zero: never.
func (r *Request) due() time.Time {
	switch {
	case r.State == Pending:
		next := r.DecideBy
		if at, ok := r.nextTier(); ok && at.Before(next) {
			next = at
		}
		return next
	case r.State == Approved:
		return r.ExecuteBy
	case !r.open || r.State == Executing:
		return time.Time{}
	case r.State == Executed:
		return r.Settled.Add(keepResult)
	case r.State == Denied && r.DecideBy.After(r.Settled):
		return r.DecideBy
	}
	return r.Settled.Add(keepLapsed)
}

// nextTier returns when the next tier comes in that has not been told.
func (r *Request) nextTier() (time.Time, bool) {
	tiers := r.tiers()
	if r.Escalated >= len(tiers) {
		return time.Time{}, false
	}
	return r.Created.Add(tiers[r.Escalated].After), true
}

// tiers returns every tier of every need, in the order of their times.
func (r *Request) tiers() []Tier {
	var all []Tier
	for _, n := range r.Needs {
		all = append(all, n.Tiers...)
	}
	slices.SortStableFunc(all, func(a, b Tier) int { return cmp.Compare(a.After, b.After) })
	return all
}
