package lease

import (
	"context"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/secrets"
)

// Errors of this package.
var (
	ErrNotFound = fault.New(fault.NotFound, "lease_not_found", "there is no such lease; it may have ended")
	ErrAlive    = fault.New(fault.Conflict, "secret_has_leases", "the secret has leases that have not ended")
	ErrSettings = fault.New(fault.Invalid, "bad_lease_settings", "the settings of the lease are not valid")
)

// Maker makes and ends credentials at a provider. Errors never hold a value.
type Maker interface {
	// Check says what is wrong with the settings of a secret of its kind, of
	// which those of the lease (ttl) are left out.
	Check(settings map[string]string) error
	// Plan chooses a credential and what the provider will call it. The provider
	// does not hear of it.
	Plan(l Lease, root secrets.Value) (credential secrets.Value, name string, err error)
	// Make makes the planned credential, good until l.Expires.
	Make(ctx context.Context, l Lease, root, credential secrets.Value, settings map[string]string) error
	// End ends it and what uses it, and returns nil only after the provider was
	// seen to refuse it. That it is gone already, or never was, is fine.
	End(ctx context.Context, l Lease, root, credential secrets.Value) error
}

// The states of a lease.
const (
	Live   = "live"
	Ending = "ending" // its time is over
	Zombie = "zombie" // its time is over, and it could not be ended yet
)

// Lease is one credential.
type Lease struct {
	ID         string    `json:"id"`
	Secret     string    `json:"secret"`
	Kind       string    `json:"kind"`
	Agent      string    `json:"agent,omitempty"`
	Connection string    `json:"connection"`
	Owner      string    `json:"owner" doc:"of the secret"`
	Call       string    `json:"call" doc:"for which it was made"`
	Name       string    `json:"name" doc:"what the provider calls it"`
	State      string    `json:"state" enum:"live,ending,zombie"`
	Issued     time.Time `json:"issued"`
	Expires    time.Time `json:"expires"`
	Why        string    `json:"why,omitempty" doc:"why it was ended before its time"`
	Attempts   int       `json:"attempts,omitempty" doc:"to end it"`
	Error      string    `json:"error,omitempty" doc:"of the last attempt"`

	secretID string
	holder   string
	due      time.Time
	sealed   []byte
}

func (l *Lease) settle(now time.Time) {
	switch {
	case l.Attempts > 0:
		l.State = Zombie
	case l.due.After(now):
		l.State = Live
	default:
		l.State = Ending
	}
}

// label is what its credential is sealed under.
func (l *Lease) label() string { return "lease/" + l.ID }

const (
	defaultTTL = time.Hour
	minTTL     = time.Minute
	maxTTL     = 24 * time.Hour
)

// settings splits those of a lease from those of its Maker.
func settings(all map[string]string) (ttl time.Duration, rest map[string]string, err error) {
	ttl, rest = defaultTTL, map[string]string{}
	for k, v := range all {
		if k != "ttl" {
			rest[k] = v
			continue
		}
		if ttl, err = time.ParseDuration(v); err != nil || ttl < minTTL || ttl > maxTTL {
			return 0, nil, ErrSettings.Say("settings: ttl: %.20q must be a time from 1m to 24h", v)
		}
	}
	return ttl, rest, nil
}
