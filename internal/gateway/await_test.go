package gateway_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/policy"
)

// desk is all that a line asks about one held call.
type desk struct {
	gateway.Approvals
	gateway.Decider
	gateway.Ledger
	gateway.Authenticator
	gateway.Injector
	audit.Redactor

	request   approvals.Request
	err       error // of whatever is asked of approvals
	most      time.Duration
	while     []approvals.State
	asked     int
	withdrawn int
	kept      approvals.Task

	lock, unrecorded error
	hidden           bool
	log              []audit.Event
}

func (d *desk) Wait(_ context.Context, _ string, most time.Duration, while ...approvals.State) (approvals.Request, error) {
	d.asked++
	d.most, d.while = most, while
	return d.request, d.err
}

func (d *desk) Task(context.Context, string) (approvals.Task, *approvals.Kept, error) {
	return d.kept, nil, d.err
}

func (d *desk) Keep(ctx context.Context, a approvals.Task, _ *approvals.Kept) (approvals.Task, error) {
	d.kept = a
	return a, ctx.Err()
}

func (d *desk) Collect(context.Context, string) (*approvals.Kept, error) {
	return &approvals.Kept{Status: 200, Call: "call_1"}, d.err
}

func (d *desk) Withdraw(context.Context, audit.Actor, string, string) (approvals.Request, error) {
	d.withdrawn++
	return d.request, d.err
}

func (d *desk) Link(id string) string { return "http://countersign.example/approvals/" + id }

func (d *desk) Check(locks.Subject) error { return d.lock }

func (d *desk) Visible(policy.Agent, policy.Action) bool { return !d.hidden }

func (d *desk) Append(ctx context.Context, ev audit.Event, _ ...audit.Payload) (audit.Ref, error) {
	d.log = append(d.log, ev)
	return audit.Ref{}, errors.Join(d.unrecorded, ctx.Err())
}

func (d *desk) Later(audit.Event) {}

// atDesk is a line on which the agent a has a request, whose time to be sent is not yet.
func atDesk(t *testing.T, s approvals.State) (*gateway.Gateway, *desk, identity.Caller) {
	who := agent("a")
	now := time.Now()
	d := &desk{request: approvals.Request{ID: id.New(id.Approval), State: s, DecideBy: now.Add(time.Hour), Binding: approvals.Binding{AgentID: who.Agent.ID, Connection: "srv", Tool: "pay"}}}
	g := gateway.New(gateway.Options{Authenticator: d, Decider: d, Ledger: d, Injector: d, Redactor: d, Locks: d, Approvals: d})
	t.Cleanup(func() {
		if err := g.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return g, d, who
}

func codeOf(err error) string {
	if err == nil {
		return ""
	}
	return gateway.Refuse(err).Code
}

// An agent that asks waits for as long as a client does and no longer, and only
// while something may happen by itself.
func TestAskingWaitsWithinBounds(t *testing.T) {
	g, d, who := atDesk(t, approvals.Pending)
	for _, server := range []bool{false, true} {
		d.request.Server = server
		w, err := g.Ask(t.Context(), who, d.request.ID, time.Hour)
		if err != nil || w.State != approvals.Pending || d.most != gateway.MostWait || slices.Contains(d.while, approvals.Approved) != server || !slices.Contains(d.while, approvals.Executing) {
			t.Errorf("%+v %v, waits %s while %v", w, err, d.most, d.while)
		}
	}
	if _, err := g.Ask(t.Context(), who, d.request.ID, time.Second); err != nil || d.most != time.Second {
		t.Errorf("%v, waits %s", err, d.most)
	}
	for state, again := range map[approvals.State]bool{approvals.Pending: false, approvals.Executing: false, approvals.Approved: true, approvals.Denied: true} {
		d.request.State = state
		if got := g.Await(t.Context(), &gateway.Waiting{ID: d.request.ID}, time.Second); got != again {
			t.Errorf("%s: to be made again: %t", state, got)
		}
	}
	d.request.State = approvals.Approved
	if g.Await(t.Context(), &gateway.Waiting{ID: d.request.ID, SendAt: time.Now().Add(time.Hour)}, time.Second) {
		t.Error("what the server sends later is made again now")
	}
	if got := gateway.PreferWait(http.Header{"Prefer": {"wait=9300000000"}}); got != gateway.MostWait {
		t.Errorf("a wait without end is %s", got)
	}
}

// When a call is sent is told only while it will be.
func TestWhatIsNotSentHasNoTime(t *testing.T) {
	for state, told := range map[approvals.State]bool{approvals.Approved: true, approvals.Denied: false, approvals.Void: false} {
		g, d, who := atDesk(t, state)
		d.request.SendAt = time.Now().Add(time.Hour)
		if w, err := g.Ask(t.Context(), who, d.request.ID, 0); err != nil || w.SendAt.IsZero() == told || (w.Retry > 0) != told {
			t.Errorf("%s: %+v %v", state, w, err)
		}
	}
}

// What is another's, what is not there and what is no identifier are the same to
// who asks; that it cannot be looked up is not.
func TestWhoMayAskAboutARequest(t *testing.T) {
	g, d, who := atDesk(t, approvals.Executed)
	d.kept = approvals.Task{ID: id.New(id.Task), AgentID: who.Agent.ID}
	behalf := who
	behalf.OnBehalfOf = []audit.Actor{audit.Person("usr_1", "sam")}
	for _, request := range []string{d.request.ID, d.kept.ID} {
		if _, err := g.Ask(t.Context(), who, request, 0); err != nil {
			t.Errorf("%s: its own: %v", request, err)
		}
		for _, c := range []identity.Caller{agent("b"), behalf, {}} {
			if w, err := g.Ask(t.Context(), c, request, 0); err == nil || err.Error() != gateway.ErrUnknownRequest.Message {
				t.Errorf("%s: %+v learns %+v %v", request, c, w, err)
			}
		}
		d.err = approvals.ErrNotFound
		if _, err := g.Ask(t.Context(), who, request, 0); err == nil || err.Error() != gateway.ErrUnknownRequest.Message {
			t.Errorf("%s: not there: %v", request, err)
		}
		d.err = fault.New(fault.Unavailable, "storage_unavailable", "no database")
		if _, err := g.Ask(t.Context(), who, request, 0); codeOf(err) != "storage_unavailable" {
			t.Errorf("%s: not to be looked up: %v", request, err)
		}
		d.err = nil
	}
	d.asked = 0
	for _, bad := range []string{"", "x", "apr_", d.request.ID + "'", id.New(id.Call)} {
		if _, err := g.Ask(t.Context(), who, bad, 0); codeOf(err) != gateway.ErrUnknownRequest.Code || d.asked != 0 {
			t.Errorf("%q: %v, looked up %d times", bad, err, d.asked)
		}
	}
}

// A kept answer is kept from whom the call would be refused, and handed out only
// when that is recorded.
func TestAKeptAnswerIsRefusedLikeItsCall(t *testing.T) {
	narrow := identity.Scope{Effects: []string{"read"}, Tools: []string{"other/tool"}}
	for name, c := range map[string]struct {
		change func(d *desk, who *identity.Caller)
		code   string
		events int
	}{
		"its agent":        {func(*desk, *identity.Caller) {}, "", 1},
		"a lock":           {func(d *desk, _ *identity.Caller) { d.lock = locks.ErrLocked }, locks.ErrLocked.Code, 0},
		"no grant":         {func(d *desk, _ *identity.Caller) { d.hidden = true }, gateway.ErrUnknownRequest.Code, 0},
		"a narrower token": {func(_ *desk, who *identity.Caller) { who.Scope = &narrow }, gateway.CodeScope, 0},
		"no log": {func(d *desk, _ *identity.Caller) {
			d.unrecorded = fault.New(fault.Unavailable, "ledger_unavailable", "the log is full")
		}, gateway.ErrLedger.Code, 1},
	} {
		g, d, who := atDesk(t, approvals.Executed)
		c.change(d, &who)
		call := &gateway.Call{Connection: connections.Connection{Name: "srv"}, Tool: connections.Tool{Name: "pay", Effect: connections.Write}}
		ctx, leave := context.WithCancel(t.Context())
		leave() // what is handed out is recorded, whoever leaves
		kept, err := g.Collect(ctx, gateway.Incoming{}, who, &gateway.Waiting{ID: d.request.ID}, call)
		if codeOf(err) != c.code || (kept != nil) != (c.code == "") || len(d.log) != c.events {
			t.Errorf("%s: %+v, %v, %d events", name, kept, err, len(d.log))
		}
	}
}

// A client cancels what waits, and nothing else; that people or the server were
// faster is no fault.
func TestWithdrawing(t *testing.T) {
	g, d, who := atDesk(t, approvals.Pending)
	for state, n := range map[approvals.State]int{approvals.Pending: 1, approvals.Approved: 1, approvals.Executing: 0, approvals.Executed: 0, approvals.Denied: 0, approvals.Void: 0} {
		d.withdrawn = 0
		if err := g.Withdraw(t.Context(), who, &gateway.Waiting{ID: d.request.ID, State: state}); err != nil || d.withdrawn != n {
			t.Errorf("%s: %v, withdrawn %d times", state, err, d.withdrawn)
		}
	}
	for _, d.err = range []error{approvals.ErrSettled, approvals.ErrNotFound} {
		if err := g.Withdraw(t.Context(), who, &gateway.Waiting{ID: d.request.ID, State: approvals.Pending}); (err == nil) != (fault.KindOf(d.err) == fault.Conflict) {
			t.Errorf("%v: %v", d.err, err)
		}
	}
}

// The answer of a task is kept for its agent and for whom it acted, also if the
// client left.
func TestATaskIsKeptForWhomItWasMade(t *testing.T) {
	g, d, who := atDesk(t, approvals.Pending)
	who.OnBehalfOf = []audit.Actor{audit.Person("usr_1", "sam")}
	ctx, leave := context.WithCancel(t.Context())
	leave()
	w, err := g.Keep(ctx, who, "srv", "pay", &approvals.Kept{Call: "call_1"})
	if err != nil || w.Executed != "call_1" || w.State != approvals.Executed || !d.kept.Of(who.Agent.ID, who.OnBehalfOf) || d.kept.Of(who.Agent.ID, nil) {
		t.Errorf("%+v %v for %+v", w, err, d.kept)
	}
}
