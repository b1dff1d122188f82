package gateway

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/policy"
)

var (
	CleanRequest = cleanRequest
	CleanAnswer  = func(h http.Header) http.Header { cleanAnswer(h); return h }
)

// Dial connects as a transport does.
func Dial(ctx context.Context, private bool, addr string) (net.Conn, error) {
	return guarded(private)(ctx, "tcp", addr)
}

// Book tells to which run a call belongs.
type Book struct{ r *book }

func NewBook(gap time.Duration) Book { return Book{newBook(gap)} }

func (r Book) Of(who identity.Caller, now time.Time) (id string, calls int64) {
	u := r.r.of(who, now)
	return u.id, u.calls
}

// Question is what policy is asked about a call by who.
func Question(who identity.Caller) policy.Request {
	g := &Gateway{runs: newBook(time.Minute)}
	return g.question(&Call{Who: who}, time.Now())
}

// Coalescer is fed refusals.
type Coalescer struct{ c *coalescer }

func NewCoalescer(now func() time.Time, emit func(audit.Event)) Coalescer {
	return Coalescer{newCoalescer(now, emit)}
}

func (c Coalescer) Add(ev audit.Event, code string) { c.c.add(ev, code) }
func (c Coalescer) Flush(now time.Time, all bool)   { c.c.flush(now, all) }
func (c Coalescer) Close()                          { c.c.close() }

// Hide is hide.
var Hide = hide

// Settled is what is said of a held call whose request is r.
func Settled(r approvals.Request) (code string, effect policy.Effect, retry time.Duration, reason string) {
	v := settledOr(pending(verdict{effect: policy.Hold}), &r)
	return v.code, v.effect, v.retry, v.reason
}

// Poses is poses.
var Poses = poses

// Held is what people are asked about a call in which found was found.
func Held(in Incoming, call *Call, rules []policy.Rule, holds []policy.Needed, found inspection.Kinds) approvals.Held {
	call.inspected.kinds.Store(uint32(found))
	return (&Gateway{}).held(in, call, verdict{rules: rules, holds: holds})
}

// NotHeld is the code that an agent gets where people cannot be asked because of err.
func NotHeld(err error) (string, policy.Effect) {
	v := (&Gateway{o: Options{Logger: slog.New(slog.DiscardHandler)}}).notHeld(&Call{}, verdict{effect: policy.Hold}, err)
	return v.code, v.effect
}

// Outlive sets how long an approved call may go on without its client, and returns
// what sets it back.
func Outlive(most time.Duration) (back func()) {
	was := outliveMost
	outliveMost = most
	return func() { outliveMost = was }
}
