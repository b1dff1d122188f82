package identity

import "github.com/countersign/countersign/internal/fault"

// Refusals of a credential. None says more than its presenter already knows.
var (
	ErrCredential = fault.New(fault.Unauthenticated, "credential_unknown", "the credential is missing, malformed or unknown; present an agent key (csk_…) or start the program with countersign run")
	ErrExpired    = fault.New(fault.Unauthenticated, "credential_expired", "the credential has expired; issue a new one")
	ErrRevoked    = fault.New(fault.Unauthenticated, "credential_revoked", "the credential was revoked; issue a new one")
	ErrNoOwner    = fault.New(fault.Denied, "no_owner", "the agent has no active owner; an administrator must give it one")
	ErrSuspended  = fault.New(fault.Denied, "agent_suspended", "the agent is suspended; an administrator or operator can resume it (countersign resume)")
	ErrRetired    = fault.New(fault.Conflict, "decommissioned", "the agent was decommissioned, for good; register another one")
	ErrStale      = fault.New(fault.Unavailable, "identity_stale", "identities cannot be checked at the moment, so the call is refused; try again")
)

// Refusals of a person.
var (
	ErrLogin       = fault.New(fault.Unauthenticated, "login_refused", "the name or the password is wrong, or the user is disabled")
	ErrLoginLimit  = fault.New(fault.Limited, "login_limited", "too many attempts to sign in; wait a minute")
	ErrToken       = fault.New(fault.Unauthenticated, "token_refused", "the user token is unknown, expired or revoked; sign in again")
	ErrAdminOnly   = fault.New(fault.Denied, "admin_required", "only an administrator may change users; ask one")
	ErrNotYours    = fault.New(fault.Denied, "not_yours", "people make tokens for themselves only; sign in as the user that the token is for")
	ErrLastAdmin   = fault.New(fault.Conflict, "last_admin", "this is the last active administrator; make another one first")
	ErrNewPassword = fault.New(fault.Invalid, "bad_password", "a password has 12 to 1024 bytes of UTF-8 and is not the user's name")
)

// Errors of the verbs.
var (
	ErrNotFound = fault.New(fault.NotFound, "not_found", "no such thing")
	ErrConflict = fault.New(fault.Conflict, "changed_meanwhile", "it was changed by someone else in the meantime; look again and repeat")
	ErrInUse    = fault.New(fault.Conflict, "in_use", "it is still in use")
	ErrInvalid  = fault.New(fault.Invalid, "invalid", "a value is not allowed")
	ErrReason   = fault.New(fault.Invalid, "reason_required", "say why: give a reason of at most 1000 characters (--reason)")
	ErrInactive = fault.New(fault.Conflict, "credential_inactive", "the credential has expired, was revoked or was rotated already; issue a new one")
)
