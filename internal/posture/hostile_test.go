package posture_test

import (
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/posture"
	"github.com/countersign/countersign/internal/storage"
)

// One thing that could not be looked at is enough: what is known of the others is
// no PASS.
func TestWhatCannotBeReachedIsNoData(t *testing.T) {
	w := build(t)
	w.business()
	if e := w.evaluate("E6"); e.Result != posture.Pass {
		t.Fatalf("%s (%s)", e.Result, e.Reason)
	}
	_, err := w.log.Append(ctx, audit.Event{Type: "token.exchanged", Actor: audit.System, Agent: "payer",
		Detail: []byte(`{"token":"atk_one","scope":"read","subject_credential":"atk_of_before","expires":"2026-01-01T00:00:00Z"}`)})
	w.must(err)
	e := w.evaluate("E6")
	if e.Result != posture.NoData || !strings.Contains(e.Reason, "not in the log that was read") || e.Evaluated != e.Population-1 {
		t.Errorf("%s (%s): %d of %d", e.Result, e.Reason, e.Evaluated, e.Population)
	}
}

// A token that is more than the one it was had for is found.
func TestATokenThatGrewIsFound(t *testing.T) {
	for name, child := range map[string]string{
		"scope":    `{"token":"atk_child","scope":"read write","audience":["http://x/mcp/a"],"expires":"2026-01-01T00:00:00Z","subject_credential":"atk_parent"}`,
		"audience": `{"token":"atk_child","scope":"read","audience":["http://x/llm/b"],"expires":"2026-01-01T00:00:00Z","subject_credential":"atk_parent"}`,
		"life":     `{"token":"atk_child","scope":"read","audience":["http://x/mcp/a"],"expires":"2027-01-01T00:00:00Z","subject_credential":"atk_parent"}`,
	} {
		w := build(t)
		w.business()
		for kind, detail := range map[audit.Type]string{"token.exchanged": child,
			"token.issued": `{"token":"atk_parent","scope":"read","audience":["http://x/mcp"],"expires":"2026-01-01T00:00:00Z"}`} {
			_, err := w.log.Append(ctx, audit.Event{Type: kind, Actor: audit.System, Agent: "payer", Detail: []byte(detail)})
			w.must(err)
		}
		if e := w.evaluate("E6"); e.Result != posture.Fail || !names(e, "token/atk_child") {
			t.Errorf("%s: %s (%s)", name, e.Result, e.Reason)
		}
	}
}

// A decision that nobody signed is found.
func TestAForgedDecisionIsFound(t *testing.T) {
	w := build(t)
	tool := w.business()
	held := w.approved(tool, tool)
	if e := w.evaluate("E12"); e.Result != posture.Pass {
		t.Fatalf("%s (%s)", e.Result, e.Reason)
	}
	_, err := w.log.Append(ctx, audit.Event{Type: "approval.granted", Actor: audit.Person("usr_nobody", "fiona"), Call: held.Call, Object: "approval/" + held.ID, Detail: []byte(`{}`)})
	w.must(err)
	if e := w.evaluate("E12"); e.Result != posture.Fail || !names(e, "approval/"+held.ID) {
		t.Errorf("%s (%s): %+v", e.Result, e.Reason, e.Checks)
	}
}

// The throwaway agent's own calls are nobody's.
func TestProbesAreNotCounted(t *testing.T) {
	w := build(t)
	w.business()
	w.evaluate("E7")
	e := w.evaluate("E1")
	if e.Result != posture.Pass || e.Checks[0].Population != 1 {
		t.Errorf("%s: %+v", e.Result, e.Checks[0])
	}
}

// Evidence that somebody changed in the store counts as none.
func TestAlteredEvidenceIsNone(t *testing.T) {
	w := build(t)
	w.business()
	w.doors = "open"
	if e := w.evaluate("E7"); e.Result != posture.Fail {
		t.Fatalf("%+v", e)
	}
	w.must(w.db.Tx(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE posture_evidence SET body = replace(body, '"FAIL"', '"PASS"'), result = 'PASS'`)
		return err
	}))
	d, err := w.Detail(ctx, "E7")
	if err != nil || d.Result != posture.NoData || !strings.Contains(d.Reason, "not what was computed") {
		t.Errorf("%s (%s), %v", d.Result, d.Reason, err)
	}
}

// Two runs at a time would drill each other's agents.
func TestRunsComeOneAfterTheOther(t *testing.T) {
	w := build(t)
	w.business()
	w.slow = make(chan struct{})
	done := make(chan error, 1)
	go func() { _, err := w.Evaluate(ctx, audit.System, "test", "E7"); done <- err }()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		if w.waiting.Load() {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the first run does not come to a door")
		}
	}
	if _, err := w.Evaluate(ctx, audit.System, "test", "E2"); err == nil || !strings.Contains(err.Error(), "another run is under way") {
		t.Errorf("a second run: %v", err)
	}
	close(w.slow)
	w.must(<-done)
	if e := w.evaluate("E2"); e.Result != posture.Pass {
		t.Errorf("afterwards: %s", e.Result)
	}
}
