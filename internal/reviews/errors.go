package reviews

import "github.com/countersign/countersign/internal/fault"

// Errors of this package.
var (
	ErrNotFound = fault.New(fault.NotFound, "review_not_found", "there is no such review; countersign review list shows what there is")
	ErrNoItem   = fault.New(fault.NotFound, "review_item_not_found", "the review has no such item; countersign review show REVIEW lists them")
	ErrInvalid  = fault.New(fault.Invalid, "bad_review", "the review is not valid")
	ErrReason   = fault.New(fault.Invalid, "reason_required", "say why: give a reason of at most 1000 characters (--reason)")
	ErrEmpty    = fault.New(fault.Invalid, "nothing_to_review", "nothing that is there is in the scope of this review; widen it, or ask about everything (--all)")
	ErrExists   = fault.New(fault.Conflict, "review_exists", "there is a review of this name already")
	ErrDecided  = fault.New(fault.Conflict, "already_decided", "it was decided already; look again")
	ErrClosed   = fault.New(fault.Conflict, "review_closed", "the review is closed")
	ErrDue      = fault.New(fault.Conflict, "review_overdue", "the review's time is over; what was left open is decided as was said at its start")
	ErrChanged  = fault.New(fault.Conflict, "changed_meanwhile", "it has changed since the review asked about it; look at what it is now and decide again")
	ErrRaced    = fault.New(fault.Conflict, "raced", "someone else changed it at the same moment; look again")
	ErrSelf     = fault.New(fault.Denied, "self_review", "you have a part in it yourself; another person has to review it")
	ErrNotYours = fault.New(fault.Denied, "not_a_reviewer", "you are not a reviewer of this; countersign review mine shows what waits for you")
	ErrDelegate = fault.New(fault.Invalid, "bad_delegate", "it is handed to another active person who may decide, has no part in it and did not have it already")
	ErrNobody   = fault.New(fault.Conflict, "nobody_left", "nobody is left who could decide about some of it; name other reviewers (countersign review delegate) before it is closed")
	ErrStored   = fault.New(fault.Internal, "review_unreadable", "a kept review cannot be read")

	// errByHand says that a person has to end what was revoked.
	errByHand = fault.New(fault.Conflict, "by_hand", "a person has to do it")
)
