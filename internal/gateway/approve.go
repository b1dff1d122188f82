package gateway

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/budget"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/policy"
)

// Approvals asks people about held calls; approvals.Service is one.
type Approvals interface {
	Hold(ctx context.Context, h approvals.Held) (approvals.Answer, error)
	Wait(ctx context.Context, id string, most time.Duration, while ...approvals.State) (approvals.Request, error)
	Link(id string) string
	Collect(ctx context.Context, id string) (*approvals.Kept, error)
	Withdraw(ctx context.Context, by audit.Actor, id, reason string) (approvals.Request, error)
	Tasks
}

// Tasks keeps the answers to calls that nobody held, for clients that ask for
// them as tasks.
type Tasks interface {
	Keep(ctx context.Context, a approvals.Task, k *approvals.Kept) (approvals.Task, error)
	Task(ctx context.Context, id string) (approvals.Task, *approvals.Kept, error)
}

// Resumed is a call that the server makes because people approved it, or because
// a person has something undone.
type Resumed struct {
	identity.Resumed
	Approval string    // apr_…; empty: nobody approved it yet, and it may be held
	Call     string    // call_…, if it is known before
	Before   time.Time // after which it does not go out any more; zero: whenever
	later    bool      // it was not made, but may be later
}

// call returns the identifier that was given to a call, "" for one to be made: what
// a front does to prepare it (a session, a list) is not the call itself.
func (r *Resumed) call(c *Call) string {
	if r == nil || c.Tool.Protocol() {
		return ""
	}
	return r.Call
}

// callReplayed is recorded when a call gets the answer that the same call got
// when it was made.
const callReplayed audit.Type = "call.replayed"

// pendingRetry is when an agent that was told "pending" had better ask again.
const pendingRetry = 15 * time.Second

// approve lets people answer a held call. The first call makes a request and
// is refused as pending; so is an identical one until people decided. Then the
// first to come is allowed, once, with everything looked at again: it began
// again at authenticate like any other call. The right to make the call is used
// up, durably, before it goes on.
func (g *Gateway) approve(ctx context.Context, in Incoming, call *Call, v verdict) verdict {
	resumed := in.Resume != nil && in.Resume.Approval != ""
	if v.effect == policy.Deny || (v.effect == policy.Allow && (!resumed || call.Tool.Builtin)) {
		return v
	}
	if g.o.Approvals == nil {
		return pending(v)
	}
	if call.Unbound != "" {
		return g.notHeld(call, v, approvals.ErrImpossible.Say("this call needs an approval, and none can be for it: %s", call.Unbound))
	}
	if lifted, ok := g.lift(ctx, call, v, resumed); ok {
		return lifted
	}
	held := g.held(in, call, v)
	held.Ready = func(ctx context.Context) error { // before the approval is used up
		if !v.free { // what only waited was counted when it was prepared
			if err := g.granted(ctx, call); err != nil {
				return err
			}
		}
		return g.reserve(ctx, call)
	}
	// Whoever leaves now must not leave us in doubt about what was used up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ledgerWait)
	defer cancel()
	answer, err := g.o.Approvals.Hold(ctx, held)
	if errors.Is(err, budget.ErrExceeded) || errors.Is(err, budget.ErrUnavailable) {
		return g.overBudget(in, call, v, err)
	}
	if err != nil {
		return g.notHeld(call, v, err)
	}
	v.approval, v.self = &answer.Request, answer.Self
	if left := answer.Request.SendAt.Sub(g.o.Now()); answer.Request.State == approvals.Approved && left > 0 {
		return waitingToBeSent(v, &answer.Request, left)
	}
	if answer.New && g.o.Endorsements != nil && call.judged != nil {
		if err := g.o.Endorsements.Held(ctx, toolOf(call), answer.Request.ID, call.judged.Values); err != nil {
			g.o.Logger.Warn("what a held call would do could not be kept; it cannot be approved for its run", "call", call.ID, "error", err)
		}
	}
	switch {
	case answer.Permit != nil:
		r := answer.Permit.Request()
		call.permit = answer.Permit
		v.effect = policy.Allow
		v.record.Effect = policy.Allow.String()
		v.record.Reason = approvedBy(&r) + " (" + r.ID + "); " + v.record.Reason
	case answer.Kept != nil:
		v.kept = answer.Kept
		v.record.Reason = "made before under " + answer.Request.ID + "; its answer is repeated"
	default:
		return settledOr(pending(v), &answer.Request)
	}
	return v
}

// delayed makes an effect wait, if its tool declares that it can be cancelled for a
// while before it is sent. What undoes something does not wait.
func (g *Gateway) delayed(in Incoming, call *Call, v verdict) verdict {
	if v.effect == policy.Deny || call.Tool.Effect == connections.Read || call.Tool.Builtin || in.Resume != nil && in.Resume.Approval == "" {
		return v
	}
	if v.window = call.Tool.References.Delay(); v.window > 0 && v.effect == policy.Allow {
		v.effect, v.record.Effect, v.free = policy.Hold, policy.Hold.String(), true
	}
	return v
}

// waitingToBeSent refuses a call that is sent, by the server, when its time has come.
func waitingToBeSent(v verdict, r *approvals.Request, left time.Duration) verdict {
	v.effect, v.record.Effect = policy.Hold, policy.Hold.String()
	v.code, v.retry = CodePending, left+time.Second
	v.reason = "this call is prepared and is sent at " + r.SendAt.UTC().Format(time.RFC3339) + ", unless somebody cancels it; it was not made yet. Do not make it again: make exactly this call after that time to get its answer"
	v.record.Reason = "prepared (" + r.ID + "), sent at " + r.SendAt.UTC().Format(time.RFC3339)
	return v
}

func approvedBy(r *approvals.Request) string {
	if names := r.Approvers(); len(names) > 0 {
		return "approved by " + strings.Join(names, " and ")
	}
	return "nobody cancelled it in time"
}

// pending refuses a held call until people have decided.
func pending(v verdict) verdict {
	if v.effect != policy.Hold {
		return v
	}
	v.code, v.retry = CodePending, pendingRetry
	if groups := approvers(v.holds); groups != "" {
		v.reason = "this call needs the approval of " + groups + "; it was recorded and not made"
	} else {
		v.reason = "this call needs an approval; it was recorded and not made"
	}
	if v.record.Reason == "" {
		v.record.Reason = v.reason
	}
	return v
}

// settledOr says what became of a request, where it is not waiting any more.
func settledOr(v verdict, r *approvals.Request) verdict {
	switch r.State {
	case approvals.Pending, approvals.Approved:
		return v
	case approvals.Executing:
		v.reason, v.retry = "this call was approved and is being made now", time.Second
		return v
	case approvals.Denied:
		v.code, v.reason = CodeRefused, r.Why
	case approvals.Expired:
		v.code, v.reason = CodeLapsed, r.Why+"; the call was not made. Making it again asks again"
	case approvals.Executed:
		v.code, v.reason = CodeOutcome, r.Why+" ("+r.ExecCall+"); its answer is not kept. Look at what it did before asking for it again"
	default:
		v.code, v.reason = CodeVoid, r.Why+"; the call was not made. Making it again asks again"
	}
	v.effect, v.retry, v.advice = policy.Deny, 0, nil
	v.record.Effect, v.record.Reason = policy.Deny.String(), v.reason
	return v
}

// notHeld refuses a call about which nobody can be asked.
func (g *Gateway) notHeld(call *Call, v verdict, err error) verdict {
	public := fault.Public(err)
	if public.Kind == fault.Internal {
		g.o.Logger.Error("people could not be asked about a held call", "call", call.ID, "error", err)
	}
	v.effect, v.code, v.reason, v.kind, v.advice = policy.Deny, public.Code, public.Message, public.Kind, nil
	switch {
	case errors.Is(err, approvals.ErrImpossible):
		v.code = CodeImpossible
	case public.Kind == fault.Limited:
		v.retry = time.Minute
	case public.Kind == fault.Unavailable, public.Kind == fault.Conflict:
		v.kind, v.retry = fault.Unavailable, retryLedger
	}
	v.record.Effect, v.record.Reason = policy.Deny.String(), v.reason
	return v
}

func (g *Gateway) held(in Incoming, call *Call, v verdict) approvals.Held {
	h := approvals.Held{
		Binding: binding(call, v.rules), Version: v.record.Version, Call: call.ID, Run: call.Run, Effect: call.Tool.Effect, Needs: Needs(v.holds), Reason: v.reason,
		Origin: approvals.Origin{Credential: call.Who.Credential.ID, Kind: call.Who.Credential.Kind, Lineage: call.Who.Lineage, Remote: host(in.Remote), Client: clip(in.Client, 200), Front: in.Front},
		Args:   call.Args, Values: call.valued(), Server: call.Server || v.window > 0, Window: v.window, Allowed: v.free || v.effect == policy.Allow,
	}
	_, h.Labels = call.provenance()
	h.Labels = append(h.Labels, call.foundKinds().Labels()...)
	if in.Wire != nil && (in.Resume == nil || in.Resume.Approval != "") { // what is undone is made by who undoes it
		h.Wire = in.Wire()
	}
	if in.Resume != nil {
		h.Only = in.Resume.Approval
	}
	return h
}

// binding is what an approval of the call is for.
func binding(call *Call, decided []policy.Rule) approvals.Binding {
	rules := make([]approvals.Rule, len(decided))
	for i, r := range decided {
		rules[i] = approvals.Rule(r)
	}
	slices.SortFunc(rules, func(a, b approvals.Rule) int { return strings.Compare(a.Name, b.Name) })
	rules = slices.Compact(rules) // agents in a chain are decided on by the same ones
	content := [][]byte{call.Request.Body}
	if call.Bound != nil {
		content = [][]byte{call.Bound}
	}
	for _, name := range []string{"Anthropic-Beta", "Anthropic-Version", "Openai-Beta", "Openai-Organization", "Openai-Project"} {
		for _, value := range call.Request.Header[name] {
			content = append(content, []byte(name+": "+value))
		}
	}
	return approvals.Binding{
		Agent: call.Who.Agent.Name, AgentID: call.Who.Agent.ID, Chain: call.Who.OnBehalfOf, Connection: call.Connection.Name, Target: Target(call.Connection),
		Tool: call.Tool.Name, Definition: call.Tool.Digest, Rules: rules, Method: call.Request.Method, Path: call.Request.Path, Query: call.Request.Query,
		Content: approvals.Digest(content...),
	}
}

// Target returns the digest of how a connection is reached and of what is done
// about what is found in its calls: an approval is not for another server under
// the same name, nor for what others would have to decide by now.
func Target(c connections.Connection) string {
	parts := [][]byte{[]byte(c.ID), []byte(c.Kind), []byte(c.Dialect), []byte(c.URL), []byte(c.Secret), []byte(c.Auth)}
	for _, a := range c.Command {
		parts = append(parts, []byte(a))
	}
	for _, k := range sortedKeys(c.Env) {
		parts = append(parts, []byte(k+"="+c.Env[k]))
	}
	for _, k := range sortedKeys(c.Inspect) {
		parts = append(parts, []byte("inspect "+k+"="+c.Inspect[k]))
	}
	return approvals.Digest(parts...)
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Needs are the approvals that policy asks for, as approvals knows them.
func Needs(holds []policy.Needed) []approvals.Need {
	out := make([]approvals.Need, len(holds))
	for i, h := range holds {
		n := approvals.Need{Policy: h.Policy, Quorum: h.Quorum, DecideWithin: h.DecideWithin, ExecuteWithin: h.ExecuteWithin, Advice: h.Advice, ExcludeOwner: h.ExcludeOwner, Server: h.Server, Passkey: h.Passkey}
		for _, t := range h.Escalate {
			n.Tiers = append(n.Tiers, approvals.Tier{Group: approvals.Group{Name: t.Group}, After: t.After})
		}
		for _, group := range h.Groups {
			n.Groups = append(n.Groups, approvals.Group{Name: group})
		}
		out[i] = n
	}
	return out
}

func approvers(holds []policy.Needed) string {
	var names []string
	seen := map[string]bool{}
	for _, h := range holds {
		for _, group := range h.Groups {
			if !seen[group] {
				seen[group] = true
				names = append(names, group)
			}
		}
	}
	return strings.Join(names, " and ")
}

// approvalDetail links an event of the call to the request it attached to.
func approvalDetail(call *Call, v verdict) (d intentDetail) {
	if v.approval == nil || v.approval.ID == "" {
		return d
	}
	d.Approval = v.approval.ID
	if call.permit != nil || v.effect == policy.Allow { // approved itself, or inside a scope that was
		d.Approvers = v.approval.Approvers()
	}
	if v.kept != nil {
		d.Made = v.kept.Call
	}
	return d
}

func kindOr(k fault.Kind) fault.Kind {
	if k == fault.Internal {
		return deniedKind
	}
	return k
}
