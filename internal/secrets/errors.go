package secrets

import "github.com/countersign/countersign/internal/fault"

// Errors of this package. None of them ever holds a value.
var (
	ErrNotFound   = fault.New(fault.NotFound, "secret_not_found", "there is no such secret; see countersign secret list")
	ErrInvalid    = fault.New(fault.Invalid, "secret_invalid", "the secret is not valid")
	ErrNoValue    = fault.New(fault.Invalid, "secret_value_missing", "a new secret needs a value")
	ErrOwner      = fault.New(fault.Invalid, "secret_owner_unknown", "the secret's owner is no user; create the user first")
	ErrReason     = fault.New(fault.Invalid, "reason_required", "say why (--reason), in at most 1000 bytes of text")
	ErrInUse      = fault.New(fault.Conflict, "secret_in_use", "a secret depends on it")
	ErrRaced      = fault.New(fault.Conflict, "changed_meanwhile", "somebody changed this secret in the meantime; look again")
	ErrNoReceipt  = fault.New(fault.Denied, "secret_without_receipt", "a secret is given only for a call whose intent is in the log")
	ErrConnection = fault.New(fault.Denied, "secret_other_connection", "the secret belongs to another connection")
	ErrHost       = fault.New(fault.Denied, "secret_host_not_allowed", "the secret may not be sent to this host")
	ErrStale      = fault.New(fault.Unavailable, "secrets_stale", "the present state of secrets cannot be seen; nothing is sent until the database answers")
	ErrSealed     = fault.New(fault.Unavailable, "secret_cannot_be_opened", "the stored secret cannot be opened: it was sealed under another key or its row was altered; put it again")

	ErrKeeper   = fault.New(fault.Invalid, "bad_keeper", "the key must be a file path or a gocloud.dev/secrets URL that this build knows (base64key://KEY)")
	ErrKeyFile  = fault.New(fault.Invalid, "bad_key_file", "the key file cannot be used")
	ErrWrongKey = fault.New(fault.Invalid, "wrong_key", "the key does not open this database's keyset: give the key that was in use when the database was made, or restore the keyset")
)
