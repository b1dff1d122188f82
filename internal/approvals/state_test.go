package approvals_test

import (
	"slices"
	"testing"

	"github.com/countersign/countersign/internal/approvals"
)

// What may follow what, all of it: a state that is added is in this test.
func TestOnlyTheseTransitionsAreThere(t *testing.T) {
	want := map[approvals.State][]approvals.State{
		approvals.Pending:   {approvals.Approved, approvals.Denied, approvals.Expired, approvals.Void},
		approvals.Approved:  {approvals.Executing, approvals.Expired, approvals.Void},
		approvals.Executing: {approvals.Executed},
	}
	for _, from := range approvals.States {
		for _, to := range approvals.States {
			if got := approvals.May(from, to); got != slices.Contains(want[from], to) {
				t.Errorf("%s to %s: %v", from, to, got)
			}
		}
		if from.Settled() != (len(want[from]) == 0) {
			t.Errorf("%s is settled: %v", from, from.Settled())
		}
	}
}
