package gateway

import (
	"context"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/policy"
)

const (
	// ledgerWait bounds how long a call waits for its intent to be durable.
	ledgerWait  = 30 * time.Second
	retryLedger = time.Second
)

// record makes the verdict durable. Only an allowed call yields a receipt; a
// denied or held one is refused after it was written. If the log cannot be
// written nothing goes out.
func (g *Gateway) record(ctx context.Context, in Incoming, call *Call, v verdict) (audit.Receipt, error) {
	ev := callEvent(call)
	ev.Remote, ev.Client = host(in.Remote), clip(in.Client, 200)
	ev.Decision = v.recorded()
	ev.Detail = placedDetail(call, v)
	payloads := g.intentPayloads(call)
	// A client that leaves now must not leave us in doubt whether the intent
	// was written, so the write does not end with the request.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ledgerWait)
	defer cancel()
	if v.effect == policy.Allow {
		ev.Type = audit.CallIntent
		receipt, err := g.o.Ledger.Intent(ctx, ev, payloads...)
		if err != nil {
			return audit.Receipt{}, g.unrecorded(call, err)
		}
		return receipt, nil
	}
	ev.Type = audit.CallDenied
	switch {
	case v.kept != nil:
		ev.Type = callReplayed
	case v.effect == policy.Hold:
		ev.Type = audit.CallHeld
	}
	ref, err := g.o.Ledger.Append(ctx, ev, payloads...)
	if err != nil {
		return audit.Receipt{}, g.unrecorded(call, err)
	}
	return audit.Receipt{}, &Refusal{
		Kind: kindOr(v.kind), Code: v.code, Reason: v.reason, Advice: v.advice,
		Call: call.ID, Event: ref.ID, Run: call.Run, RetryAfter: v.retry, Approval: g.waiting(v.approval, v.self), Scope: v.needs,
	}
}

// recordReach records that Countersign itself reaches out, and why, and then
// the intent of the one request that it makes for it.
func (g *Gateway) recordReach(ctx context.Context, by audit.Actor, reason string, call *Call) (audit.Receipt, error) {
	ev := callEvent(call)
	ev.Type, ev.Actor, ev.Reason = audit.UpstreamUsed, by, reason
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ledgerWait)
	defer cancel()
	if _, err := g.o.Ledger.Append(ctx, ev); err != nil {
		return audit.Receipt{}, g.unrecorded(call, err)
	}
	ev.Type = audit.CallIntent
	receipt, err := g.o.Ledger.Intent(ctx, ev, g.intentPayloads(call)...)
	if err != nil {
		return audit.Receipt{}, g.unrecorded(call, err)
	}
	return receipt, nil
}

func (g *Gateway) unrecorded(call *Call, err error) *Refusal {
	g.o.Logger.Error("the log cannot be written; the call is refused", "call", call.ID, "error", err)
	return &Refusal{Kind: ErrLedger.Kind, Code: ErrLedger.Code, Reason: ErrLedger.Message, Call: call.ID, RetryAfter: retryLedger, cause: err}
}

// callEvent returns what every event of a call says.
func callEvent(call *Call) audit.Event {
	ev := audit.Event{
		Run: call.Run, Call: call.ID, Connection: call.Connection.Name, Tool: call.Tool.Name,
		Effect: call.Tool.Effect, Digest: call.Digest, Objects: call.objects, Labels: append(call.foundKinds().Labels(), call.guardLabels()...),
	}
	caller(&ev, call.Who)
	return ev
}

var noArgs = jsontext.Value("{}")

// detail returns v, a plain struct of ours, as an event's detail.
func detail(v any) jsontext.Value {
	b, err := json.Marshal(v, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
	if err != nil {
		return nil
	}
	return b
}
