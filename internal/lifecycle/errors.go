package lifecycle

import "github.com/countersign/countersign/internal/fault"

// Errors of this package.
var (
	ErrNotFound = fault.New(fault.NotFound, "not_found", "no such thing")
	ErrNothing  = fault.New(fault.Denied, "nothing_to_accept", "there is nothing for you to accept: you are not the backup of an agent whose owner left, and nobody offers it to you")
	ErrReason   = fault.New(fault.Invalid, "reason_required", "say why: give a reason of at most 1000 characters (--reason)")
	ErrOffer    = fault.New(fault.Invalid, "bad_offer", "an agent is offered to another active user whose role may own agents: owner, operator or admin")
	ErrOwnerOff = fault.New(fault.Conflict, "owner_left", "the agent's owner has left; it works again when its backup accepts it (countersign agent accept) or it gets another owner (countersign agent owner)")
	ErrGone     = fault.New(fault.Conflict, "changed_meanwhile", "it was changed by someone else in the meantime; look again and repeat")
	ErrStored   = fault.New(fault.Internal, "probes_unreadable", "the kept probes of a decommission cannot be opened: the row was altered or the key is another one")

	// errNothing aborts a step of the clock that somebody else has done.
	errNothing = fault.New(fault.Conflict, "nothing_to_do", "nothing is due any more")
)
