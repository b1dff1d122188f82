package approvals

import "github.com/countersign/countersign/internal/fault"

// Errors of this package.
var (
	ErrNotFound     = fault.New(fault.NotFound, "approval_not_found", "there is no such approval request")
	ErrSettled      = fault.New(fault.Conflict, "approval_settled", "the request is not waiting for a decision any more")
	ErrDecided      = fault.New(fault.Conflict, "already_decided", "you have decided about this request already; one person counts once")
	ErrExpired      = fault.New(fault.Conflict, "approval_expired", "the time to decide about this request is over")
	ErrVoid         = fault.New(fault.Conflict, "approval_void", "something that the request was bound to has changed, so it cannot be approved any more")
	ErrNotEntitled  = fault.New(fault.Denied, "not_an_approver", "you are not in a group that may decide about this request")
	ErrSelf         = fault.New(fault.Denied, "own_request", "nobody approves their own: you are part of this request")
	ErrReason       = fault.New(fault.Invalid, "reason_required", "say why: give a reason of at most 1000 characters (--reason)")
	ErrVerdict      = fault.New(fault.Invalid, "bad_verdict", "a decision is approve or deny")
	ErrImpossible   = fault.New(fault.Denied, "approval_impossible", "nobody could approve this call")
	ErrTooMany      = fault.New(fault.Limited, "approval_limit", "this agent has too many requests waiting for people; settle some of them first")
	ErrFlood        = fault.New(fault.Limited, "approval_flood", "the same held call is repeated too often; wait before asking again")
	ErrUsed         = fault.New(fault.Conflict, "approval_used", "the approval has been used already")
	ErrRaced        = fault.New(fault.Conflict, "changed_meanwhile", "the request was changed by someone else in the meantime; look again and repeat")
	ErrPerson       = fault.New(fault.Denied, "person_required", "only a signed-in person can decide")
	ErrProgram      = fault.New(fault.Denied, "sign_in_required", "decisions are made by people who are signed in, not with a token for programs: sign in with countersign login, or in the console")
	ErrBreakGlass   = fault.New(fault.Denied, "break_glass_refused", "only an administrator who is no part of the request may break the glass")
	ErrNoOwner      = fault.New(fault.Conflict, "no_owner", "the agent has no active owner who could be asked")
	ErrNoNotice     = fault.New(fault.NotFound, "notice_not_found", "there is no such notice for you, or you have seen it")
	ErrNoDelegation = fault.New(fault.NotFound, "delegation_not_found", "there is no such delegation, or it has ended")
	ErrDelegation   = fault.New(fault.Invalid, "bad_delegation", "a delegation needs another active user, and a beginning before its end of at most 90 days")
	ErrPasskey      = fault.New(fault.Denied, "passkey_required", "a policy demands that whoever approves this signs with their passkey: open its page in the console and approve it there")
	ErrNoPasskey    = fault.New(fault.Denied, "no_passkey", "a policy demands that whoever approves this signs with their passkey, and you have none: register one in your profile in the console")
	ErrBadPasskey   = fault.New(fault.Denied, "passkey_refused", "this is no signature of a passkey of yours over this decision")
	ErrNeed         = fault.New(fault.Invalid, "bad_need", "a request needs at least one group and a quorum of at least one")
	ErrStored       = fault.New(fault.Internal, "approval_unreadable", "a stored request cannot be read")
)
