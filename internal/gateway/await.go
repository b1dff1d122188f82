package gateway

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/policy"
)

// Waiting is what a front says of a call that waits for people: the Approval
// of a Refusal, or the answer to Ask.
type Waiting struct {
	ID       string // apr_…
	URL      string // where a person reads about it and decides
	State    approvals.State
	Why      string // it is in its state, for people and models
	Created  time.Time
	Changed  time.Time
	DecideBy time.Time
	Until    time.Time     // how long Ask knows something about it
	SendAt   time.Time     // when it is sent, if it waits for that alone; zero: it does not
	Retry    time.Duration // when asking again makes sense; 0: never
	Server   bool          // the server makes the call when it is approved
	Self     bool          // the person at the agent's client may decide, so it is of use to show them the URL

	Connection, Tool string
	Executed         string // call_… of the call that was made
}

func (g *Gateway) waiting(r *approvals.Request, self bool) *Waiting {
	if r == nil || r.ID == "" || r.DecideBy.IsZero() {
		return nil
	}
	w := &Waiting{
		ID: r.ID, URL: g.o.Approvals.Link(r.ID), State: r.State, Why: r.Why, Created: r.Created, Changed: r.Changed(), DecideBy: r.DecideBy, Until: r.Until(),
		Server: r.Server, Self: self, Connection: r.Binding.Connection, Tool: r.Binding.Tool, Executed: r.ExecCall,
	}
	switch r.State {
	case approvals.Pending:
		w.Retry = pendingRetry
	case approvals.Approved, approvals.Executing:
		w.Retry = time.Second
	}
	if left := r.SendAt.Sub(g.o.Now()); r.State == approvals.Approved && left > 0 {
		w.SendAt, w.Retry = r.SendAt, left+time.Second
	}
	return w
}

// Await waits for people's decision about a held call, at most for most. It
// returns whether the call had better be made again now.
func (g *Gateway) Await(ctx context.Context, w *Waiting, most time.Duration) bool {
	if g.o.Approvals == nil || w == nil || most <= 0 {
		return false
	}
	// A call that is just being made for an identical one is worth waiting for.
	while := []approvals.State{approvals.Pending, approvals.Executing}
	if !w.SendAt.IsZero() { // the server sends it when its time has come
		while = append(while, approvals.Approved)
	}
	r, err := g.o.Approvals.Wait(ctx, w.ID, most, while...)
	return err == nil && !slices.Contains(while, r.State)
}

// AwaitPreferred does so for as long as a client of HTTP asks to be kept
// (Prefer: wait=SECONDS), if r says that its call is held.
func (g *Gateway) AwaitPreferred(ctx context.Context, r *Refusal, h http.Header) bool {
	return r.Held() && g.Await(ctx, r.Approval, PreferWait(h))
}

// ErrUnknownRequest answers an agent that asks about a request which is not its own,
// or is not there: which of the two it does not learn.
var ErrUnknownRequest = fault.New(fault.NotFound, "approval_not_found", "there is no such request of this agent")

// Ask returns how a request stands, for the agent whose call it holds, after
// waiting at most for most for something to happen. The error is always a *Refusal.
func (g *Gateway) Ask(ctx context.Context, who identity.Caller, request string, most time.Duration) (*Waiting, error) {
	switch {
	case g.o.Approvals == nil:
		return nil, Refuse(ErrUnknownRequest)
	case id.Is(id.Task, request):
		return g.askTask(ctx, who, request)
	case !id.Is(id.Approval, request):
		return nil, Refuse(ErrUnknownRequest)
	}
	r, err := g.o.Approvals.Wait(ctx, request, 0)
	if fault.KindOf(err) == fault.NotFound || (err == nil && !r.Of(who.Agent.ID, who.OnBehalfOf)) {
		return nil, Refuse(ErrUnknownRequest)
	}
	if err == nil && most > 0 {
		while := []approvals.State{approvals.Pending, approvals.Executing}
		if r.Server {
			while = append(while, approvals.Approved)
		}
		r, err = g.o.Approvals.Wait(ctx, request, min(most, MostWait), while...)
		if ctx.Err() != nil {
			err = nil // how it stands is said all the same
		}
	}
	if err != nil {
		return nil, Refuse(err)
	}
	return g.waiting(&r, false), nil
}

// Collect returns the kept answer to an executed call that the agent asks for
// by its request's id, nil if it is not kept. It is refused like the call: a
// lock, a withdrawn grant or a narrower token keep what was answered, too.
// That it was handed out is recorded. The error is always a *Refusal.
func (g *Gateway) Collect(ctx context.Context, in Incoming, who identity.Caller, w *Waiting, call *Call) (*approvals.Kept, error) {
	call.Who, call.remote = who, in.Remote
	g.prepare(call)
	call.Run = g.runs.look(who, "", call.Started).id
	v := verdict{effect: policy.Allow}
	switch err := g.locked(call); {
	case err != nil:
		return nil, Refuse(err)
	case !g.Visible(who, call.Connection, call.Tool):
		return nil, Refuse(ErrUnknownRequest)
	default:
		if v = inScope(call, v); v.effect == policy.Deny {
			return nil, &Refusal{Kind: deniedKind, Code: v.code, Reason: v.reason, Scope: v.needs}
		}
	}
	kept, err := g.kept(ctx, w.ID)
	if err != nil || kept == nil {
		return nil, asRefusal(err)
	}
	ev := callEvent(call)
	ev.Type, ev.Remote, ev.Client = callReplayed, host(in.Remote), clip(in.Client, 200)
	ev.Detail = detail(replayedDetail{Approval: w.ID, Made: kept.Call})
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ledgerWait)
	defer cancel()
	if _, err := g.o.Ledger.Append(ctx, ev); err != nil {
		return nil, g.unrecorded(call, err)
	}
	return kept, nil
}

type replayedDetail struct {
	Approval string `json:"approval"`
	Made     string `json:"made_as"`
}

func asRefusal(err error) error {
	if err == nil {
		return nil
	}
	return Refuse(err)
}

// Withdraw ends a request because the agent whose call it holds does not want
// it any more. What is being made already is not stopped. The error is always a
// *Refusal.
func (g *Gateway) Withdraw(ctx context.Context, who identity.Caller, w *Waiting) error {
	if w.State != approvals.Pending && w.State != approvals.Approved {
		return nil
	}
	by := audit.Actor{Kind: audit.KindAgent, ID: who.Agent.ID, Name: who.Agent.Name}
	_, err := g.o.Approvals.Withdraw(ctx, by, w.ID, "the agent's client cancelled it")
	if fault.KindOf(err) == fault.Conflict { // it was decided or made meanwhile
		return nil
	}
	return asRefusal(err)
}

// MostWait is how long a client may wait for people in one request: less than
// what common clients wait for an answer.
const MostWait = 50 * time.Second

// PreferWait returns how long a client asks to wait (Prefer: wait=SECONDS, RFC
// 7240), at most MostWait; 0 if it does not.
func PreferWait(h http.Header) time.Duration {
	for _, v := range h.Values("Prefer") {
		for p := range strings.SplitSeq(v, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
			n, err := strconv.Atoi(strings.Trim(strings.TrimSpace(value), `"`))
			if strings.EqualFold(strings.TrimSpace(name), "wait") && err == nil && n > 0 {
				return min(time.Duration(min(n, 3600))*time.Second, MostWait)
			}
		}
	}
	return 0
}
