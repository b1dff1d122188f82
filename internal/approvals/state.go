package approvals

import "slices"

// State is where a request stands.
type State string

// The states of a request.
const (
	Pending   State = "pending"   // waits for people, until its decide-by
	Approved  State = "approved"  // may be executed once, until its execute-by
	Executing State = "executing" // used up: its one call is under way
	Executed  State = "executed"  // its call ended; Request.Outcome says how
	Denied    State = "denied"    // an entitled person said no
	Expired   State = "expired"   // nobody decided, or nobody executed, in time
	Void      State = "void"      // what it was bound to changed, or it was withdrawn
)

// States lists every state, in the order of a request's life.
var States = []State{Pending, Approved, Executing, Executed, Denied, Expired, Void}

// transitions is what may follow what. Everything else is refused, by store
// and verbs alike: advance is the only way to change a state.
var transitions = map[State][]State{
	Pending:   {Approved, Denied, Expired, Void},
	Approved:  {Executing, Expired, Void},
	Executing: {Executed},
}

// may reports whether a request may go from s to next.
func (s State) may(next State) bool { return slices.Contains(transitions[s], next) }

// Settled reports whether nothing can happen to the request any more.
func (s State) Settled() bool { return len(transitions[s]) == 0 }
