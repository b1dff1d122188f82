package rotation

import (
	"context"
	"crypto/rand"
	"hash/fnv"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/secrets"
)

// The steps, and what a rotation ends as.
const (
	Create = "create"
	Set    = "set"
	Test   = "test"
	Finish = "finish"
	Done   = "done"
	Failed = "failed"
)

// Why a rotation began.
const (
	OnSchedule = "schedule"
	OnDemand   = "demand"
	OnLeak     = "leak"
)

// Errors of this package.
var (
	ErrNoRotator  = fault.New(fault.Invalid, "secret_not_rotated", "the secret has no rotator: countersign secret put NAME --rotate by=...")
	ErrNotFound   = fault.New(fault.NotFound, "rotation_not_found", "there is no such rotation")
	ErrSuperseded = fault.New(fault.Conflict, "rotation_superseded", "somebody put another value, or changed or deleted the secret, while it was rotated")
	ErrSettings   = fault.New(fault.Invalid, "bad_rotation", "the settings of the rotation are not valid")
	// ErrUnnamed is what Retire returns for a credential that the provider cannot
	// tell from others: people are told of it, and it is not tried again.
	ErrUnnamed  = fault.New(fault.Unsupported, "credential_unnamed", "the provider does not say which credential this was; end it there by hand")
	ErrProvider = fault.New(fault.Upstream, "rotation_provider", "the provider did not do what the rotation asked for")
)

// Rotator changes a credential at its provider. Every method may be called
// again for the same token, after a crash or when its answer was lost, and must
// then end in the same state. Errors never hold a value.
type Rotator interface {
	// Check says what is wrong with a secret's settings of its rotation.
	Check(spec secrets.Spec, settings map[string]string) error
	// Create returns a new value and what the provider calls it. A provider that
	// makes values itself may have made one for this token already that nobody
	// holds: Create ends it first.
	Create(ctx context.Context, w Work) (v secrets.Value, ref string, err error)
	// Set makes the provider accept w.Pending.
	Set(ctx context.Context, w Work) error
	// Test tries w.Pending.
	Test(ctx context.Context, w Work) error
	// Retire ends what ref names, which is neither current nor pending; if it
	// is gone already that is fine. w.Previous is its value if it is still
	// known.
	Retire(ctx context.Context, w Work, ref string) error
}

// Work is what a step works on.
type Work struct {
	Token                      string // of the rotation; the same in each of its steps
	Secret                     secrets.Secret
	Settings                   map[string]string // of the rotator, without those of the engine
	Current, Pending, Previous secrets.Held
	Admin                      secrets.Value // of the secret that settings name as admin
	Urgent                     bool          // what is retired has leaked: end what uses it, too
}

func (w Work) wipe() {
	for _, v := range []secrets.Value{w.Current.Value, w.Pending.Value, w.Previous.Value, w.Admin} {
		v.Wipe()
	}
}

// Rotation is one replacement of a value.
type Rotation struct {
	ID       string      `json:"id"`
	Secret   string      `json:"secret"`
	Step     string      `json:"step" enum:"create,set,test,finish,done,failed" doc:"the next to do, or how it ended"`
	Cause    string      `json:"cause" enum:"schedule,demand,leak"`
	Reason   string      `json:"reason,omitempty"`
	By       audit.Actor `json:"by"`
	Urgent   bool        `json:"urgent,omitempty" doc:"the value leaked: it is retired without overlap"`
	Ref      string      `json:"ref,omitempty" doc:"what the provider calls the new value"`
	Version  int64       `json:"version,omitempty"`
	Attempts int         `json:"attempts" doc:"that failed"`
	NextTry  time.Time   `json:"next_try,omitzero"`
	Error    string      `json:"error,omitempty" doc:"of the last attempt"`
	Started  time.Time   `json:"started"`
	Updated  time.Time   `json:"updated"`

	secretID string
}

// Open reports whether the rotation is not at its end.
func (r Rotation) Open() bool { return r.Step != Done && r.Step != Failed }

// Leftover is what is still alive at a provider and must not be.
type Leftover struct {
	Secret   string
	Version  int64
	Rotation string
	Ref      string
	Urgent   bool
	Due      time.Time
	Attempts int
	Error    string
	Created  time.Time

	secretID string
}

// plan is what the engine's own settings say.
type plan struct {
	every   time.Duration // 0: only on demand
	overlap time.Duration
	admin   string
	rest    map[string]string // the rotator's
}

const (
	defaultOverlap = time.Hour
	minEvery       = time.Minute
	maxEvery       = 5 * 365 * 24 * time.Hour
)

// planOf reads a secret's rotation.
func planOf(rotation map[string]string) (plan, error) {
	p := plan{overlap: defaultOverlap, rest: map[string]string{}}
	for k, v := range rotation {
		var err error
		switch k {
		case "by":
		case "every":
			if p.every, err = parseSpan(v); err != nil || p.every < minEvery || p.every > maxEvery {
				return p, ErrSettings.Say("rotation: every: %.20q must be a time from 1m to 1825d, such as 30d", v)
			}
		case "overlap":
			if p.overlap, err = parseSpan(v); err != nil || p.overlap < 0 || p.overlap > maxEvery {
				return p, ErrSettings.Say("rotation: overlap: %.20q must be a time such as 0s, 10m or 1h", v)
			}
		case "admin":
			p.admin = v
		default:
			p.rest[k] = v
		}
	}
	if p.every > 0 && p.overlap >= p.every {
		return p, ErrSettings.Say("rotation: overlap: must be shorter than every, or three versions would be alive")
	}
	return p, nil
}

// parseSpan reads a duration, days as well ("30d").
func parseSpan(s string) (time.Duration, error) {
	if n, ok := strings.CutSuffix(s, "d"); ok {
		d, err := time.ParseDuration(n + "h")
		return 24 * d, err
	}
	return time.ParseDuration(s)
}

// due says when the present value of a secret is to be replaced: up to a tenth
// of the period early, so that what was put together does not rotate together.
// It is the same on every replica and after every start.
func due(sec secrets.Secret, every time.Duration) time.Time {
	h := fnv.New32a()
	h.Write([]byte(sec.ID + sec.Rotated.String()))
	early := time.Duration(float64(every) / 10 * float64(h.Sum32()) / (1 << 32))
	return sec.Rotated.Add(every - early)
}

// Random returns a value of more than 192 random bits, in letters and digits,
// for rotators that choose values themselves.
func Random() string { return rand.Text() + rand.Text()[:13] }
