package tokens

import "github.com/countersign/countersign/internal/fault"

// Refusals of a request for a token. The codes are those of RFC 6749 section
// 5.2, RFC 8628 section 3.5 and RFC 8707 section 2.
var (
	ErrClient      = fault.New(fault.Unauthenticated, "invalid_client", "the client is unknown or did not prove itself; register its public key with countersign agent client-key add, or trust its issuer with countersign agent trust add")
	ErrGrant       = fault.New(fault.Invalid, "invalid_grant", "what was presented is unknown, expired, used or revoked; begin again")
	ErrRequest     = fault.New(fault.Invalid, "invalid_request", "the request lacks a parameter or has one that is not allowed")
	ErrScope       = fault.New(fault.Invalid, "invalid_scope", "the scope is unknown or more than what it is asked from")
	ErrTarget      = fault.New(fault.Invalid, "invalid_target", "name the resource the token is for: the URL of /mcp, or of one connection such as /mcp/ledger")
	ErrGrantType   = fault.New(fault.Invalid, "unsupported_grant_type", "this grant type is not supported")
	ErrUnallowed   = fault.New(fault.Denied, "unauthorized_client", "this client may not do that")
	ErrPending     = fault.New(fault.Invalid, "authorization_pending", "nobody has approved the code yet; ask again in a few seconds")
	ErrSlowDown    = fault.New(fault.Invalid, "slow_down", "you ask too often; wait five seconds between two questions")
	ErrDenied      = fault.New(fault.Invalid, "access_denied", "a person refused this")
	ErrCodeExpired = fault.New(fault.Invalid, "expired_token", "the code has expired; begin again")
	ErrTooMany     = fault.New(fault.Limited, "slow_down", "too many requests of this kind are open; try again in a minute")
	ErrMetadata    = fault.New(fault.Invalid, "invalid_client_metadata", "the client's metadata are not allowed")
	ErrNotIssuing  = fault.New(fault.Unavailable, "temporarily_unavailable", "tokens cannot be issued at the moment; try again")
)

// Errors of what comes from an issuer outside. They are causes: whoever
// presents a token learns only that it was refused, and the log says why.
var (
	ErrProof      = fault.New(fault.Invalid, "invalid_grant", "the token presented as proof was refused; the log of Countersign says why")
	ErrUnknownKey = fault.New(fault.Invalid, "unknown_key", "the issuer has no key with this id")
	ErrKeys       = fault.New(fault.Unavailable, "issuer_unreachable", "the issuer's keys could not be fetched")
	ErrAddress    = fault.New(fault.Invalid, "address_refused", "the address is private or that of a metadata service")
)

// Errors of the verbs.
var (
	ErrInvalid  = fault.New(fault.Invalid, "invalid", "a value is not allowed")
	ErrNotFound = fault.New(fault.NotFound, "not_found", "no such thing")
	ErrConflict = fault.New(fault.Conflict, "changed_meanwhile", "it was changed by someone else in the meantime; look again and repeat")
	ErrReason   = fault.New(fault.Invalid, "reason_required", "say why: give a reason of at most 1000 characters (--reason)")
	ErrNotOwner = fault.New(fault.Denied, "not_owner", "only the agent's owner or backup owner, an operator or an administrator may do this")
	ErrCode     = fault.New(fault.NotFound, "unknown_code", "there is no open enrolment with this code; it may have expired: run the program again for another")
)
