package signin

import "github.com/countersign/countersign/internal/fault"

// Errors of a sign-in. None repeats what the provider or the browser sent.
var (
	ErrOff      = fault.New(fault.NotFound, "oidc_off", "this server has no identity provider; sign in with a name and a password")
	ErrRequest  = fault.New(fault.Invalid, "bad_login", "the sign-in request is not valid")
	ErrRedirect = fault.New(fault.Invalid, "bad_redirect", "a sign-in ends at a path of this server or at http://127.0.0.1:PORT/PATH, nowhere else")
	ErrState    = fault.New(fault.Denied, "bad_state", "this sign-in is unknown, was used already or took more than ten minutes; begin again")
	ErrProvider = fault.New(fault.Unavailable, "provider_unavailable", "the identity provider cannot be asked at the moment; try again")
	ErrVouch    = fault.New(fault.Denied, "not_vouched", "the identity provider's answer was refused")
	ErrDeclined = fault.New(fault.Denied, "login_declined", "the identity provider did not sign you in")
	ErrTicket   = fault.New(fault.Unauthenticated, "bad_ticket", "this sign-in is unknown, was used already, expired, or was begun by another program; begin again")
	ErrPending  = fault.New(fault.Conflict, "authorization_pending", "nobody has approved this sign-in yet; ask again")
	ErrNoDevice = fault.New(fault.Unsupported, "no_device_flow", "the identity provider has no device flow; sign in with a browser on this machine")
	ErrStored   = fault.New(fault.Internal, "standing_unreadable", "a kept refresh token cannot be opened: its row was altered or the key is another one")

	// errGone is what the provider says of people who are not there any more.
	errGone = fault.New(fault.Denied, "gone", "the identity provider no longer vouches for this person")
)
