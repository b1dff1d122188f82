package passkeys

import "github.com/countersign/countersign/internal/fault"

// Errors of this package.
var (
	ErrNotFound  = fault.New(fault.NotFound, "passkey_not_found", "there is no such passkey")
	ErrOff       = fault.New(fault.Conflict, "passkeys_need_a_name", "browsers have passkeys for names alone, not for network addresses: set url to how browsers reach this server, such as https://countersign.example")
	ErrSession   = fault.New(fault.Denied, "session_required", "a passkey is registered in a session: sign in with your password or at your identity provider, not with a token for programs")
	ErrStale     = fault.New(fault.Denied, "sign_in_again", "a passkey is registered within 15 minutes of signing in: sign out, sign in again, and register it then")
	ErrChallenge = fault.New(fault.Denied, "challenge_over", "this answers no question that this session was asked, or it is too late, or it was used already: try again")
	ErrRefused   = fault.New(fault.Invalid, "passkey_refused", "this is no registration of a passkey with its person verified, for this server")
	ErrTaken     = fault.New(fault.Conflict, "passkey_taken", "this passkey is registered already")
	ErrCopied    = fault.New(fault.Denied, "passkey_copied", "the passkey's count of signatures did not grow: it may have been copied; remove it, and register another one")
	ErrMany      = fault.New(fault.Conflict, "too_many_passkeys", "you have as many passkeys as one person may; remove one first")
	ErrName      = fault.New(fault.Invalid, "bad_passkey_name", "a passkey needs a name of at most 60 characters that says where it is")
	ErrReason    = fault.New(fault.Invalid, "bad_reason", "a reason is at most 1000 characters of text")
)
