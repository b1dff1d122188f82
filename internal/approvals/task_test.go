package approvals_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

// The answer to a call that nobody held is kept for an hour, sealed, for its
// agent and for whom it acted; not without bounds.
func TestAnswersForTasks(t *testing.T) {
	each(t, func(w *world) {
		chain := []audit.Actor{audit.Person("usr_1", "sam")}
		kept := &approvals.Kept{Status: 200, Body: []byte("the answer is a secret"), Call: "call_1"}
		a, err := w.Keep(ctx, approvals.Task{AgentID: "agt_1", Chain: chain, Connection: "ledger", Tool: "pay", Call: "call_1"}, kept)
		w.must(err)
		got, k, err := w.Task(ctx, a.ID)
		if err != nil || string(k.Body) != string(kept.Body) || got.Tool != "pay" || got.Call != "call_1" || !got.Until.Equal(w.clock().Add(time.Hour)) {
			t.Errorf("%v %+v %+v", err, got, k)
		}
		if !got.Of("agt_1", chain) || got.Of("agt_2", chain) || got.Of("agt_1", nil) || got.Of("", chain) {
			t.Errorf("it is another agent's too: %+v", got)
		}
		var stored []byte
		w.must(w.db.QueryRow(ctx, `SELECT kept FROM approval_answers WHERE id = $1`, a.ID).Scan(&stored))
		if strings.Contains(string(stored), "secret") {
			t.Error("the answer is stored open")
		}
		w.must(w.db.Tx(ctx, func(tx *storage.Tx) error {
			_, err := tx.Exec(ctx, `UPDATE approval_answers SET id = $1 WHERE id = $2`, "tsk_other", a.ID)
			return err
		}))
		if _, _, err := w.Task(ctx, "tsk_other"); err == nil {
			t.Error("the answer to one call passes for that to another")
		}
		if _, err := w.Keep(ctx, approvals.Task{AgentID: "agt_1"}, &approvals.Kept{Body: make([]byte, approvals.KeepMost+1)}); !errors.Is(err, approvals.ErrAnswerSize) {
			t.Errorf("%v", err)
		}

		var first, last, foreign approvals.Task
		foreign, err = w.Keep(ctx, approvals.Task{AgentID: "agt_2"}, kept)
		w.must(err)
		for i := range 201 {
			w.pass(time.Millisecond)
			last, err = w.Keep(ctx, approvals.Task{AgentID: "agt_1", Call: fmt.Sprint(i)}, kept)
			w.must(err)
			if i == 0 {
				first = last
			}
		}
		if _, _, err := w.Task(ctx, first.ID); !errors.Is(err, approvals.ErrNotFound) {
			t.Errorf("one agent keeps more than its share: %v", err)
		}
		for _, id := range []string{last.ID, foreign.ID} {
			if _, _, err := w.Task(ctx, id); err != nil {
				t.Errorf("%v", err)
			}
		}
		w.pass(time.Hour)
		if _, _, err := w.Task(ctx, last.ID); !errors.Is(err, approvals.ErrNotFound) {
			t.Errorf("after its time: %v", err)
		}
		_, err = w.Keep(ctx, approvals.Task{AgentID: "agt_3"}, kept)
		w.must(err)
		var n int
		w.must(w.db.QueryRow(ctx, `SELECT count(*) FROM approval_answers`).Scan(&n))
		if n != 1 {
			t.Errorf("%d answers stay", n)
		}
	})
}
