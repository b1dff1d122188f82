package fault_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/fault"
)

var errGone = fault.New(fault.NotFound, "gone", "it is gone")

func TestDerivedErrorsAreTheirSentinel(t *testing.T) {
	err := fmt.Errorf("outer: %w", errGone.Say("agent %q is gone", "a").With(errors.New("row 7")))
	if !errors.Is(err, errGone) {
		t.Error("a derived error is not its sentinel")
	}
	if errors.Is(err, fault.New(fault.NotFound, "other", "x")) {
		t.Error("a derived error is another sentinel")
	}
}

func TestPublicHidesCausesAndForeignErrors(t *testing.T) {
	if got := fault.Public(errGone.With(errors.New("password=hunter2"))).Error(); got != "it is gone" {
		t.Errorf("Public shows %q", got)
	}
	got := fault.Public(errors.New("password=hunter2"))
	if got.Kind != fault.Internal || strings.Contains(got.Error(), "hunter2") {
		t.Errorf("Public shows %q (%v)", got, got.Kind)
	}
}
