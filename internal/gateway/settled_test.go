package gateway_test

import (
	"testing"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/policy"
)

// What an agent is told of a request that it attached to: never to make the
// call, and to come back only where that is of use.
func TestWhatBecameOfAHeldCallIsTold(t *testing.T) {
	for state, want := range map[approvals.State]struct {
		code   string
		effect policy.Effect
		again  bool
	}{
		approvals.Pending: {gateway.CodePending, policy.Hold, true}, approvals.Approved: {gateway.CodePending, policy.Hold, true}, approvals.Executing: {gateway.CodePending, policy.Hold, true},
		approvals.Denied: {gateway.CodeRefused, policy.Deny, false}, approvals.Expired: {gateway.CodeLapsed, policy.Deny, false}, approvals.Void: {gateway.CodeVoid, policy.Deny, false},
		approvals.Executed: {gateway.CodeOutcome, policy.Deny, false},
	} {
		code, effect, retry, reason := gateway.Settled(approvals.Request{State: state, Why: "because", ExecCall: "call_1"})
		if code != want.code || effect != want.effect || (retry > 0) != want.again || reason == "" {
			t.Errorf("%s: %s %s %s %q", state, code, effect, retry, reason)
		}
	}
}
