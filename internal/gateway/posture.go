package gateway

import (
	"context"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/policy"
)

// Posture is what detection asks for an agent's calls, beside locks.
type Posture struct {
	Held      string        // under what every call waits for people; empty: none does
	Approvers string        // the group that decides
	Why       string        // what was detected
	Wait      time.Duration // until a throttled agent may call again; 0: now
}

// postured throttles or holds a call that policy would let pass, of an agent that
// does, or stands behind, what detection has found. What is only the plumbing of a
// protocol goes on.
func (g *Gateway) postured(ctx context.Context, call *Call, v verdict) verdict {
	if v.effect == policy.Deny || g.o.Posture == nil || call.Implied != nil {
		return v
	}
	for _, a := range append([]identity.Agent{call.Who.Agent}, call.Who.Behind...) {
		s, err := g.o.Posture(ctx, a.Name)
		if err != nil {
			r := Refuse(err)
			return slowed(v, r.Code, r.Reason, r.Kind, retryLedger)
		}
		if s.Wait > 0 {
			return slowed(v, CodeLimited, "detection slowed this agent down; try again later, or ask its owner", fault.Limited, s.Wait)
		}
		if s.Held == "" {
			continue
		}
		v.effect = policy.Hold
		v.holds = append(slices.Clone(v.holds), policy.Needed{Policy: "detection: " + s.Held, Groups: []string{s.Approvers}, Quorum: 1, DecideWithin: policy.DefaultDecideWithin, ExecuteWithin: policy.DefaultExecuteWithin})
		v.reason = "detection holds every call of " + a.Name + " (" + s.Held + ")"
		v.record.Effect, v.record.Reason = policy.Hold.String(), v.reason+": "+s.Why
		return v
	}
	return v
}

// slowed refuses a call that may be made later: after retry, if nothing else is wrong.
func slowed(v verdict, code, reason string, kind fault.Kind, retry time.Duration) verdict {
	v.effect, v.code, v.reason, v.kind, v.retry, v.holds, v.advice = policy.Deny, code, reason, kind, retry, nil, nil
	v.record.Effect, v.record.Reason = policy.Deny.String(), reason
	return v
}
